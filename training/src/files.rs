//! Bytes -> a file that is there whole or not at all: written beside its place, then renamed.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file; an earlier one of that name stays until the new one is whole.
///
/// # Errors
/// If the disk is full or the folder cannot be written; the earlier file is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    let written = write()
        .map_err(|e| Error::io("write", path, e))
        .and_then(|()| std::fs::rename(&beside, path).map_err(|e| Error::io("rename", path, e)));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_earlier_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(write_atomically(&folder.path().join("missing/a"), b"x").is_err());
        let directory = folder.path().join("d");
        std::fs::create_dir(&directory).unwrap();
        assert!(write_atomically(&directory, b"x").is_err());
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no temporary file stays: {names:?}");
    }
}
