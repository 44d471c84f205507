//! `--text`: files or standard input, a document on each line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chemtag_training::error::{Error, Result};

/// Texts of one collection.
#[derive(clap::Args)]
pub struct TextFiles {
    /// Texts, a document on each line, in UTF-8; `-` for standard input (as in `zstd -dc text.zst | chemtag-train ... --text -`).
    #[arg(long = "text", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
}

impl TextFiles {
    /// Calls `read` with each text's name and content.
    pub(super) fn for_each(&self, mut read: impl FnMut(&Path, &mut dyn BufRead) -> Result<()>) -> Result<()> {
        for path in &self.files {
            if path == Path::new("-") {
                read(path, &mut std::io::stdin().lock())?;
            } else {
                let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
                read(path, &mut BufReader::new(file))?;
            }
        }
        Ok(())
    }
}
