//! `chemtag-train prepare`.

use std::path::PathBuf;

use chemtag_training::augment::Augmentation;
use chemtag_training::dataset::Reading;
use chemtag_training::error::Result;

use super::{CorpusArgument, EncoderArguments, read_dataset};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    encoder: EncoderArguments,
    /// Corpora: FILE or FILE:TYPE,TYPE=CLASS,... (.jsonl or .conll).
    #[arg(long, value_name = "CORPUS", required = true, num_args = 1..)]
    data: Vec<CorpusArgument>,
    /// Add variants of a share of the documents: KIND=SHARE,... with the kinds upper, title (case, as in headings), greek (letters spelled or not), marks
    /// (other hyphens and primes), subscripts (in formulas), swap (names for names of the same class), normalised (formulas in alphabetical order,
    /// numbers as `<nUm>`, small letters, as in a collection of materials abstracts).
    #[arg(long, value_name = "KIND=SHARE,...")]
    augment: Option<Augmentation>,
    /// How documents are cut into sequences.
    #[arg(long, value_enum, default_value = "mixed")]
    reading: Reading,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let start = arguments.encoder.read()?;
    let dataset = read_dataset(
        &arguments.data,
        arguments.reading,
        &arguments.augment.clone().unwrap_or_default(),
        &start.pieces,
        &start.config,
    )?;
    dataset.save(&arguments.out)?;
    println!(
        "{}: {} sequences, {} pieces of {}",
        arguments.out.display(),
        dataset.examples.len(),
        dataset.pieces(),
        dataset.corpora.join(", ")
    );
    Ok(())
}
