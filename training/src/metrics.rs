//! Figures of a run -> `metrics.jsonl`, one object a line.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `metrics.jsonl`, cut back to what a checkpoint knows of when a run is resumed.
pub struct Metrics {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Metrics {
    /// Opens the file and cuts it back to `bytes`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let open = || -> std::io::Result<File> {
            let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        Ok(Self { path: path.into(), file: open().map_err(|e| Error::io("write", path, e))?, bytes })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, e))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
