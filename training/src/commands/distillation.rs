//! What `distill` and `label` share: the student's folder, and the text as its tokenizer and its teachers' have cut it.

use std::path::PathBuf;

use chemtag_training::aligned_text::{AlignedText, CutText};
use chemtag_training::columns::fingerprint;
use chemtag_training::error::{Error, Result};
use chemtag_training::teacher::Ensemble;
use chemtag_training::text::TextSet;

use super::{ModelArguments, Start, file};

/// A student's folder and what it shall be.
#[derive(clap::Args)]
pub struct StudentArguments {
    /// Folder of the encoder or model that learns: config.json, tokenizer.json, model.safetensors.
    #[arg(long, value_name = "DIR")]
    student: PathBuf,
    #[command(flatten)]
    model: ModelArguments,
}

impl StudentArguments {
    /// Its configuration, with the teachers' classes, and its tokenizer.
    pub(super) fn read(&self, classes: &[String]) -> Result<Start> {
        self.model.apply(Start::read(&self.student)?, classes.to_vec())
    }

    /// One of its files, and the file's name in messages.
    pub(super) fn file(&self, name: &str) -> Result<(Vec<u8>, String)> {
        file(&self.student, name)
    }
}

/// The unlabelled text.
#[derive(clap::Args)]
pub struct TextArguments {
    /// Texts made by `prepare-text`. For teachers with other tokenizers name the same text as prepared with theirs, too.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
}

impl TextArguments {
    /// Loads the files and puts those of one tokenizer together, in the order in which they are named.
    pub(super) fn read(&self, student: &Start, ensemble: &Ensemble) -> Result<AlignedText> {
        let own = fingerprint(&[&student.tokenizer]);
        let mut kinds = vec![(own.clone(), &student.pieces, student.config.tagger.sequence_pieces)];
        for (tokenizer, pieces, room) in ensemble.tokenizers() {
            if tokenizer == own {
                kinds[0].2 = room.min(kinds[0].2);
            } else {
                kinds.push((tokenizer.into(), pieces, room));
            }
        }
        let mut sets: Vec<TextSet> = kinds.iter().map(|_| TextSet::default()).collect();
        for path in &self.text {
            let set = TextSet::load(path)?;
            // Files that do not say their tokenizer are taken for the student's; pieces that it does not have betray others.
            let kind = match set.tokenizer() {
                "" => Some(0),
                known => kinds.iter().position(|(tokenizer, ..)| tokenizer == known),
            };
            let kind = kind.ok_or_else(|| Error::Dataset {
                path: path.clone(),
                reason: "was prepared with a tokenizer that neither the student nor a teacher has".into(),
            })?;
            sets[kind].append(&set.with_tokenizer(&kinds[kind].0));
        }
        let texts = sets.into_iter().zip(kinds).filter(|(set, _)| set.documents() > 0);
        let text = AlignedText::new(
            texts.map(|(set, (_, pieces, room))| CutText::new(set, pieces, room)).collect::<Result<_>>()?,
        )?;
        if text.left_out() > 0 {
            eprintln!(
                "chemtag-train: {} sentences are left out, as the tokenizers see other words in them",
                text.left_out()
            );
        }
        match text.of_tokenizer(&own) {
            Some(0) => Ok(text),
            _ => Err(Error::Setting("none of the texts was prepared with the student's tokenizer".into())),
        }
    }
}
