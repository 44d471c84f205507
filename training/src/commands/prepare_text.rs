//! `chemtag-train prepare-text`.

use std::path::PathBuf;

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
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let start = arguments.encoder.read()?;
    let mut set = TextSet::of_tokenizer(&start.tokenizer);
    arguments.text.for_each(|path, text| set.read(path, text, &start.pieces))?;
    set.save(&arguments.out)?;
    let (documents, sentences, pieces) = (set.documents(), set.sentences(), set.piece_ids().len());
    println!("{}: {documents} documents, {sentences} sentences, {pieces} pieces", arguments.out.display());
    Ok(())
}
