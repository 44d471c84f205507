//! `chemtag-train vocab`.

use std::path::PathBuf;

use chemtag_training::error::Result;
use chemtag_training::files::write_atomically;
use chemtag_training::vocabulary::{Settings, WordCounts, learn};

use super::text_files::TextFiles;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    text: TextFiles,
    /// The file to write, as encoders' folders have it.
    #[arg(long, value_name = "tokenizer.json")]
    out: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut counts = WordCounts::default();
    arguments.text.for_each(|path, text| counts.read(path, text))?;
    arguments.text.for_each_corpus(|documents| {
        counts.add(&documents.iter().map(|document| document.text.as_str()).collect::<Vec<_>>());
        Ok(())
    })?;
    let (json, pieces) = learn(&counts, &arguments.settings)?;
    write_atomically(&arguments.out, &json)?;
    let (words, distinct) = (counts.total(), counts.distinct());
    println!("{}: {pieces} pieces, from {words} words of which {distinct} are distinct", arguments.out.display());
    Ok(())
}
