//! Figures of a run -> `metrics.jsonl`, one object a line.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The lines of a run's file.
///
/// # Errors
/// If it cannot be read, or a line is no JSON; the message names the line.
pub fn read(path: &Path) -> Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::Json {
            path: path.into(),
            line: index + 1,
            column: e.column(),
            message: e.to_string(),
        })
    };
    text.lines().enumerate().map(parse).collect()
}

/// `metrics.jsonl`, cut back to what a checkpoint knows of when a run is resumed.
pub struct Metrics {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Metrics {
    /// Opens the file, cuts it back to `bytes` and reads the lines that it has then.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(path: &Path, bytes: u64) -> Result<(Self, Vec<serde_json::Value>)> {
        let open = || -> std::io::Result<(File, Vec<u8>)> {
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            file.set_len(bytes)?;
            let mut content = Vec::new();
            // Ends where the next line is to stand.
            file.read_to_end(&mut content)?;
            Ok((file, content))
        };
        let (file, content) = open().map_err(|e| Error::io("write", path, e))?;
        // Of a file that somebody has spoilt the good lines serve: nothing but curves comes of them.
        let lines = content.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok((Self { path: path.into(), file, bytes }, lines))
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
