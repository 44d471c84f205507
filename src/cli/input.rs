//! Arguments that commands which read documents have in common -> how documents are read, and how mentions are found in them.

use std::str::FromStr;

use chemtag::TagOptions;
use chemtag::format::{Format, ReadOptions};
use clap::Args;

/// How files are read.
#[derive(Args)]
pub struct InputArguments {
    /// Format of the files: text, jsonl, csv, tsv, conll, bioc-xml, bioc-json, pubtator, jats or pubmed [default: what the file's name says, else text].
    #[arg(long, value_name = "FORMAT", value_parser = read_format)]
    pub from: Option<Format>,
    /// Field of jsonl, or column of csv and tsv, that holds the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    field: String,
    /// Field or column that holds a record's name; without it the name is FILE:LINE.
    #[arg(long, value_name = "NAME", default_value = "id")]
    id_field: String,
    /// Pass over records that are not what their format says, and count them, instead of giving the file up.
    #[arg(long)]
    pub keep_going: bool,
    /// Replace what is not UTF-8 by U+FFFD instead of refusing it; offsets then count in the replaced text.
    #[arg(long)]
    lossy: bool,
}

impl InputArguments {
    /// What they ask for.
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions {
            field: self.field.clone(),
            id_field: self.id_field.clone(),
            lossy: self.lossy,
            ..ReadOptions::default()
        }
    }
}

/// How mentions are found.
#[derive(Args)]
pub struct MentionArguments {
    /// Find all mentions whose probability is at least P (above 0, at most 1): a low P finds more than the model's single best
    /// reading holds, a high one less [default: the best reading].
    #[arg(long, value_name = "P", value_parser = probability)]
    threshold: Option<f32>,
    /// Read every sentence alone instead of with its neighbours. Slightly less precise.
    #[arg(long)]
    sentences: bool,
}

impl MentionArguments {
    /// What they ask for, on so many threads.
    pub fn tag_options(&self, threads: Option<usize>) -> TagOptions {
        TagOptions { threshold: self.threshold, threads, lone_sentences: self.sentences, ..TagOptions::default() }
    }
}

/// Reads an argument that is a probability.
pub fn probability(argument: &str) -> Result<f32, String> {
    match argument.parse() {
        Ok(probability) if probability > 0.0 && probability <= 1.0 => Ok(probability),
        _ => Err("expected a number above 0 and at most 1".into()),
    }
}

fn read_format(name: &str) -> Result<Format, String> {
    let format = Format::from_str(name).ok().filter(|format| format.is_read());
    format.ok_or_else(|| expected(Format::read_names()))
}

/// Says which names an argument may have.
pub fn expected<'n>(names: impl Iterator<Item = &'n str>) -> String {
    format!("expected one of {}", names.collect::<Vec<_>>().join(", "))
}
