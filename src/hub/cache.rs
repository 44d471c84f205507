//! The folder in which fetched models are kept: for each a folder with its files and `fetched.json`, which says what they are.
//! A file counts as kept when it stands there; who fetches holds the folder's lock, so that other processes wait for the same files instead of fetching them too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::contents::hexadecimal;
use crate::error::{Error, Result};
use crate::replacement::Replacement;

const RECORD: &str = "fetched.json";
const LOCK: &str = "lock";

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// A fetched model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptModel {
    /// Where it was fetched from; of a model on a hub without the file.
    pub address: String,
    /// Its files by their names.
    pub files: BTreeMap<String, Kept>,
    /// Files that it does not have.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Its folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl KeptModel {
    /// What is kept in a folder; nothing if it is not there.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { folder: folder.into(), ..Self::default() });
            }
            text => text.map_err(|source| Error::Read { path: path.clone(), source })?,
        };
        let kept: Self = serde_json::from_slice(&text).map_err(|e| Error::Input {
            file: path.display().to_string(),
            problem: format!("is damaged ({e}): remove the folder that it is in"),
        })?;
        Ok(Self { folder: folder.into(), ..kept })
    }

    /// Notes what is kept.
    pub(super) fn write(&self) -> Result<()> {
        let path = self.folder.join(RECORD);
        let write = || {
            let mut file = Replacement::new(&path)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.finish()
        };
        write().map_err(|e| cannot_write(&path, &e))
    }

    /// Whether a file is there, as long as it was when it was fetched.
    pub(super) fn has(&self, file: &str) -> bool {
        let length = || self.folder.join(file).metadata().ok().map(|metadata| metadata.len());
        self.files.get(file).is_some_and(|kept| length() == Some(kept.bytes))
    }

    /// Reads every file; gives the names of those that are not what was fetched.
    ///
    /// # Errors
    /// [`Error::Read`] if one cannot be read; that it is missing is no error.
    pub fn verify(&self) -> Result<Vec<String>> {
        let mut damaged = Vec::new();
        for (name, kept) in &self.files {
            let path = self.folder.join(name);
            let found = match sha256_of(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                found => Some(found.map_err(|source| Error::Read { path, source })?),
            };
            if found.as_ref() != Some(&kept.sha256) {
                damaged.push(name.clone());
            }
        }
        Ok(damaged)
    }
}

fn sha256_of(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 18]);
    loop {
        let read = file.read(&mut buffer)?;
        match buffer.get(..read) {
            Some(portion) if !portion.is_empty() => hash.update(portion),
            _ => return Ok(hexadecimal(&hash.finalize())),
        }
    }
}

pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::Input { file: path.display().to_string(), problem: format!("cannot be written: {error}") }
}

/// Makes a folder and waits until nobody else fetches into it; others wait as long as what is returned lives.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let lock = || {
        fs::create_dir_all(folder)?;
        let file = File::create(&path)?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|e| cannot_write(&path, &e))
}

/// All models kept below a folder, by their folders' names.
pub(super) fn list(cache: &Path) -> Result<Vec<KeptModel>> {
    let mut models = Vec::new();
    collect(cache, 0, &mut models)?;
    models.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(models)
}

/// Deepest are `hub/OWNER/NAME/REVISION`.
const DEPTH: usize = 4;

fn collect(folder: &Path, depth: usize, models: &mut Vec<KeptModel>) -> Result<()> {
    if folder.join(RECORD).is_file() {
        models.push(KeptModel::read(folder)?);
        return Ok(());
    }
    if depth == DEPTH {
        return Ok(());
    }
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| Error::Read { path: folder.into(), source })?,
    };
    for entry in entries {
        let entry = entry.map_err(|source| Error::Read { path: folder.into(), source })?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth + 1, models)?;
        }
    }
    Ok(())
}

/// Removes a model, once nobody fetches it; whether it was there.
pub(super) fn remove(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Ok(false);
    }
    let held = lock(folder)?;
    let removed = fs::remove_dir_all(folder).map_err(|e| cannot_write(folder, &e));
    drop(held);
    removed.map(|()| true)
}
