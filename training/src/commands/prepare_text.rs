//! `chemtag-train prepare-text`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use chemtag_training::augment::Augmentation;
use chemtag_training::corpus::{self, TypeFilter};
use chemtag_training::error::{Error, Result};
use chemtag_training::text::TextSet;

use super::EncoderFolder;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    encoder: EncoderFolder,
    /// Texts, a document on each line, in UTF-8; `-` for standard input (as in `zstd -dc text.zst | chemtag-train prepare-text --text -`).
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "corpus")]
    text: Vec<PathBuf>,
    /// Annotated corpora (.jsonl or .conll) whose documents are read as text, too; one named twice is read twice.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    corpus: Vec<PathBuf>,
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
    for path in &arguments.text {
        if path == Path::new("-") {
            set.read_with_variants(path, std::io::stdin().lock(), &augmentation, &start.pieces)?;
        } else {
            let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
            set.read_with_variants(path, BufReader::new(file), &augmentation, &start.pieces)?;
        }
    }
    for path in &arguments.corpus {
        let mut documents = corpus::read(path, &TypeFilter::all())?;
        documents.extend(augmentation.variants(&documents, 0));
        set.add(&documents, &start.pieces)?;
    }
    set.save(&arguments.out)?;
    let (documents, sentences, pieces) = (set.documents(), set.sentences(), set.piece_ids().len());
    println!("{}: {documents} documents, {sentences} sentences, {pieces} pieces", arguments.out.display());
    Ok(())
}
