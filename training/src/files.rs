//! Bytes -> a file that is there whole or not at all: written beside its place, then renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file; an earlier one of that name stays until the new one is whole.
///
/// # Errors
/// If the disk is full or the folder cannot be written; the earlier file is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// As [`write_atomically`], for content that `write` makes piece by piece.
///
/// # Errors
/// As [`write_atomically`], and the errors of `write`.
pub fn write_atomically_with(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let failed = |e| Error::io("write", path, e);
    let write_beside = || -> Result<()> {
        let mut file = BufWriter::new(File::create(&beside).map_err(failed)?);
        write(&mut file)?;
        file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
    };
    let written =
        write_beside().and_then(|()| std::fs::rename(&beside, path).map_err(|e| Error::io("rename", path, e)));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Removes what [`write_atomically`] had not finished when its program was killed. No other program may be writing to the folder.
///
/// # Errors
/// If the folder cannot be read or written.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))? {
        let path = entry.map_err(|e| Error::io("read", folder, e))?.path();
        if is_leftover(&path) {
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Whether a file is called `NAME.NUMBER.tmp`.
fn is_leftover(path: &Path) -> bool {
    let number = path.file_stem().map(Path::new).and_then(Path::extension).and_then(|number| number.to_str());
    path.extension().is_some_and(|extension| extension == "tmp")
        && number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
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
        let error = write_atomically_with(&path, |file| {
            file.write_all(b"three").unwrap();
            Err(Error::Setting("changed its mind".into()))
        });
        assert_eq!(error.unwrap_err().to_string(), "changed its mind");
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(write_atomically(&folder.path().join("missing/a"), b"x").is_err());
        let directory = folder.path().join("d");
        std::fs::create_dir(&directory).unwrap();
        assert!(write_atomically(&directory, b"x").is_err());
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no temporary file stays: {names:?}");
        for name in ["a.12.tmp", "model.safetensors.3.tmp", "a.tmp", "12.tmp", "a.12.tmp.x", "a.b2.tmp"] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["12.tmp", "a", "a.12.tmp.x", "a.b2.tmp", "a.tmp", "d"]);
    }
}
