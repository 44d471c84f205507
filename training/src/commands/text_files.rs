//! `--text` and `--corpus`: unlabelled text, a document on each line of files or of standard input, and the documents of annotated corpora.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chemtag_training::corpus::{self, Document, TypeFilter};
use chemtag_training::error::{Error, Result};

/// Texts of one collection.
#[derive(clap::Args)]
pub struct TextFiles {
    /// Texts, a document on each line, in UTF-8; `-` for standard input (as in `zstd -dc text.zst | chemtag-train prepare-text --text -`).
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Annotated corpora (.jsonl or .conll) whose documents are read as text, too; one named twice is read twice.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    corpus: Vec<PathBuf>,
}

impl TextFiles {
    /// Calls `read` with each text's name and content.
    pub(super) fn for_each(&self, mut read: impl FnMut(&Path, &mut dyn BufRead) -> Result<()>) -> Result<()> {
        if self.text.is_empty() && self.corpus.is_empty() {
            return Err(Error::Setting("there is nothing to read: name texts (--text) or corpora (--corpus)".into()));
        }
        for path in &self.text {
            if path == Path::new("-") {
                read(path, &mut std::io::stdin().lock())?;
            } else {
                let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
                read(path, &mut BufReader::new(file))?;
            }
        }
        Ok(())
    }

    /// Calls `read` with each corpus' documents.
    pub(super) fn for_each_corpus(&self, mut read: impl FnMut(Vec<Document>) -> Result<()>) -> Result<()> {
        self.corpus.iter().try_for_each(|path| read(corpus::read(path, &TypeFilter::all())?))
    }
}
