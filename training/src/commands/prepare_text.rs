//! `chemtag-train prepare-text`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use chemtag_training::error::{Error, Result};
use chemtag_training::text::TextSet;

use super::EncoderFolder;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    encoder: EncoderFolder,
    /// Texts, a document on each line, in UTF-8; `-` for standard input (as in `zstd -dc text.zst | chemtag-train prepare-text --text -`).
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let start = arguments.encoder.read()?;
    let mut set = TextSet::of_tokenizer(&start.tokenizer);
    for path in &arguments.text {
        if path == Path::new("-") {
            set.read(path, std::io::stdin().lock(), &start.pieces)?;
        } else {
            let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
            set.read(path, BufReader::new(file), &start.pieces)?;
        }
    }
    set.save(&arguments.out)?;
    let (documents, sentences, pieces) = (set.documents(), set.sentences(), set.piece_ids().len());
    println!("{}: {documents} documents, {sentences} sentences, {pieces} pieces", arguments.out.display());
    Ok(())
}
