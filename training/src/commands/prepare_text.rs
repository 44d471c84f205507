//! `chemtag-train prepare-text`.

use std::path::PathBuf;

use chemtag_training::augment::Augmentation;
use chemtag_training::error::Result;
use chemtag_training::text::TextSet;

use super::EncoderArgument;
use super::text_files::TextFiles;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    encoder: EncoderArgument,
    #[command(flatten)]
    text: TextFiles,
    /// Add variants of a share of the documents: KIND=SHARE,... with the kinds upper, title (case, as in headings), marks (other hyphens and
    /// primes), normalised (formulas in alphabetical order, numbers as `<nUm>`, small letters, as in a collection of materials abstracts).
    #[arg(long, value_name = "KIND=SHARE,...")]
    augment: Option<Augmentation>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let start = arguments.encoder.read()?;
    let mut set = TextSet::of_tokenizer(&start.tokenizer);
    let augmentation = arguments.augment.clone().unwrap_or_default();
    arguments.text.for_each(|path, text| set.read_with_variants(path, text, &augmentation, &start.pieces))?;
    arguments.text.for_each_corpus(|mut documents| {
        documents.extend(augmentation.variants(&documents, 0));
        set.add(&documents, &start.pieces)
    })?;
    set.save(&arguments.out)?;
    let (documents, sentences, pieces) = (set.documents(), set.sentences(), set.piece_ids().len());
    println!("{}: {documents} documents, {sentences} sentences, {pieces} pieces", arguments.out.display());
    Ok(())
}
