//! What of a corpus is done, kept in the hidden folder `.chemtag` of the output: settings, a line for each finished file, outputs not yet whole.
//! An output gets its name first and its line after that: a run that was killed between the two makes the file again, and the same.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::inputs::CorpusFile;
use super::names::Statistics;
use crate::error::{Error, Result};

const FOLDER: &str = ".chemtag";

/// A file that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Finished {
    /// Its name in the corpus.
    pub file: String,
    /// What the file was, so that one that has changed is read again.
    pub stamp: Stamp,
    /// Bytes of the output; of no meaning for a folder.
    pub written: u64,
    pub documents: u64,
    pub mentions: u64,
    /// Records that were passed over.
    pub malformed: u64,
    pub statistics: Option<Statistics>,
}

/// Size and time of a file's last change in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    modified: u64,
}

impl Stamp {
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = path.metadata();
        let metadata = metadata.map_err(|source| Error::Read { path: path.into(), source })?;
        // A file system without times has the same one for all.
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self { bytes: metadata.len(), modified: modified.map_or(0, |time| time.as_nanos() as u64) })
    }
}

/// The state of a run in its output folder, which is locked as long as this lives.
pub(super) struct Journal {
    out: PathBuf,
    lines: File,
    /// Names of the files that need not be read again.
    finished: HashSet<String>,
    /// Where the line of each of them begins.
    places: HashMap<String, u64>,
    _lock: File,
}

impl Journal {
    /// Takes the state up, or begins; `settings` say what outputs depend on. `afresh`: forgets what was done.
    ///
    /// # Errors
    /// [`Error::Option`] if another run is at work in the folder, or was with other settings; [`Error::Input`] if it cannot be written.
    pub fn open(
        out: &Path,
        settings: &serde_json::Value,
        files: &[CorpusFile],
        output_of: impl Fn(&str) -> PathBuf,
        afresh: bool,
    ) -> Result<Self> {
        let folder = out.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|e| cannot_write(&folder, &e))?;
        let lock = lock(&folder.join("lock"), out)?;
        let part = folder.join("part");
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(&part, &error)),
            _ => fs::create_dir(&part).map_err(|e| cannot_write(&part, &e))?,
        }
        let path = folder.join("finished.jsonl");
        let settings_path = folder.join("settings.json");
        if afresh {
            File::create(&path).map_err(|e| cannot_write(&path, &e))?;
        } else {
            compare_settings(&settings_path, settings, out)?;
        }
        fs::write(&settings_path, format!("{settings:#}\n")).map_err(|e| cannot_write(&settings_path, &e))?;
        let lines = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let lines = lines.map_err(|e| cannot_write(&path, &e))?;
        let mut journal =
            Self { out: out.into(), lines, finished: HashSet::new(), places: HashMap::new(), _lock: lock };
        journal.read(files, output_of).map_err(|e| Error::Read { path, source: e })?;
        Ok(journal)
    }

    /// Reads which files are done and have not changed since, and cuts off a line that was not written whole.
    fn read(&mut self, files: &[CorpusFile], output_of: impl Fn(&str) -> PathBuf) -> std::io::Result<()> {
        let stamps: HashMap<&str, Stamp> =
            files.iter().filter_map(|file| Some((file.name.as_str(), Stamp::of(&file.path).ok()?))).collect();
        let mut whole = 0;
        let mut lines = BufReader::new(&self.lines);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line)? as u64;
            let Some(done) = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Finished>(line).ok())
            else {
                break;
            };
            let output = output_of(&done.file).metadata().ok();
            let is_there = output.is_some_and(|output| output.is_dir() || output.len() == done.written);
            if is_there && stamps.get(done.file.as_str()) == Some(&done.stamp) {
                self.finished.insert(done.file.clone());
                self.places.insert(done.file, whole);
            } else {
                self.finished.remove(&done.file);
                self.places.remove(&done.file);
            }
            whole += read;
        }
        self.lines.set_len(whole)
    }

    /// Whether a file's output is there and right.
    pub fn has(&self, file: &str) -> bool {
        self.finished.contains(file)
    }

    /// Where outputs lie until they are whole.
    pub fn part(&self, number: usize) -> PathBuf {
        self.out.join(FOLDER).join("part").join(number.to_string())
    }

    /// Gives an output its name and notes that its file is done.
    pub fn finish(&mut self, part: &Path, output: &Path, mut done: Finished) -> Result<()> {
        let failed = |error: std::io::Error| cannot_write(output, &error);
        if let Some(parent) = output.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        // A folder is not replaced by renaming another one.
        if output.is_dir() {
            fs::remove_dir_all(output).map_err(failed)?;
        }
        done.written = part.metadata().map_err(failed)?.len();
        fs::rename(part, output).map_err(failed)?;
        let place = self.lines.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut line = serde_json::to_vec(&done).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        self.lines.write_all(&line).map_err(failed)?;
        self.places.insert(done.file.clone(), place);
        self.finished.insert(done.file);
        Ok(())
    }

    /// Removes what an earlier run made of a file that cannot be read any more.
    pub fn forget(&self, part: &Path, output: &Path) -> Result<()> {
        for path in [part, output] {
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(path, &error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is noted of a file that is done.
    pub fn noted(&mut self, file: &str) -> Result<Option<Finished>> {
        let Some(&place) = self.places.get(file) else { return Ok(None) };
        let failed = |source: std::io::Error| Error::Read { path: self.out.join(FOLDER), source };
        self.lines.seek(SeekFrom::Start(place)).map_err(failed)?;
        let mut line = Vec::new();
        BufReader::new(&self.lines).read_until(b'\n', &mut line).map_err(failed)?;
        serde_json::from_slice(&line).map(Some).map_err(|e| failed(e.into()))
    }
}

pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::Input { file: path.display().to_string(), problem: format!("cannot be written: {error}") }
}

fn lock(path: &Path, out: &Path) -> Result<File> {
    let file = File::create(path).map_err(|e| cannot_write(path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Option(format!(
            "another run writes to {}: wait for its end, or name another output folder",
            out.display()
        ))),
        Err(TryLockError::Error(error)) => Err(cannot_write(path, &error)),
    }
}

fn compare_settings(path: &Path, settings: &serde_json::Value, out: &Path) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|source| Error::Read { path: path.into(), source })?,
    };
    let before: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let keys = settings.as_object().into_iter().flatten();
    let other: Vec<&str> =
        keys.filter(|(key, value)| before.get(key) != Some(value)).map(|(key, _)| key.as_str()).collect();
    if other.is_empty() {
        return Ok(());
    }
    Err(Error::Option(format!(
        "{} holds a run with another {}: name another output folder, or begin again with --restart",
        out.display(),
        other.join(", ")
    )))
}
