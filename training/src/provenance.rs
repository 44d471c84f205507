//! What a run is made from -> its record: every file that it reads with its SHA-256, the options that shape what is read, the recipe.
//! A checkpoint keeps the files' hashes and the options, so that a run goes on only from what it began with, wherever the files lie now.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// A file that a run reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// The option that names it, without its hyphens.
    pub option: String,
    /// Where it lay.
    pub path: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// All that determines what a run reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// In the order in which the options name them.
    pub files: Vec<SourceFile>,
    /// Options that say how they are read, such as `reading`, with their values; for one that names files, the types that each file's name has after it.
    pub options: BTreeMap<String, String>,
}

impl Sources {
    /// Adds a file, reading it once.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn add_file(&mut self, option: &str, path: &Path) -> Result<()> {
        let file = SourceFile { option: option.into(), path: path.display().to_string(), sha256: sha256(path)? };
        self.files.push(file);
        Ok(())
    }

    /// Adds the files of a model's folder.
    ///
    /// # Errors
    /// As [`Sources::add_file`].
    pub fn add_model(&mut self, option: &str, folder: &Path) -> Result<()> {
        ["config.json", "tokenizer.json", "model.safetensors"]
            .into_iter()
            .try_for_each(|name| self.add_file(option, &folder.join(name)))
    }

    /// Adds an option's value.
    pub fn add_option(&mut self, option: &str, value: impl Into<String>) {
        self.options.insert(option.into(), value.into());
    }

    /// The first thing in which a run that began with `self` differs from one with `other`, in words; `None` if they read the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        for option in self.files.iter().chain(&other.files).map(|file| &file.option) {
            let of = |sources: &'_ Self| -> Vec<SourceFile> {
                sources.files.iter().filter(|file| file.option == *option).cloned().collect()
            };
            let (before, now) = (of(self), of(other));
            if let Some((before, now)) = before.iter().zip(&now).find(|(before, now)| before.sha256 != now.sha256) {
                let moved = if before.path == now.path { String::new() } else { format!(" {}", before.path) };
                return Some(format!(
                    "--{option} {} has the SHA-256 {:.12}…, but when the run began{moved} {:.12}…",
                    now.path, now.sha256, before.sha256
                ));
            }
            let more = now.get(before.len()).map(|file| format!("--{option} {} is new", file.path));
            let fewer = before.get(now.len()).map(|file| format!("--{option} {} is missing", file.path));
            if let Some(changed) = more.or(fewer) {
                return Some(format!("{changed}: the run began with {} such files, not {}", before.len(), now.len()));
            }
        }
        let value =
            |sources: &Self, option: &str| sources.options.get(option).cloned().unwrap_or_else(|| "nothing".into());
        let mut options = self.options.keys().chain(other.options.keys());
        let changed = options.find(|option| self.options.get(*option) != other.options.get(*option))?;
        let of_files = self.files.iter().chain(&other.files).any(|file| file.option == *changed);
        let what = if of_files { format!("the types of --{changed} are") } else { format!("--{changed} is") };
        Some(format!("{what} {}, when the run began {}", value(other, changed), value(self, changed)))
    }

    /// The same without these options and the files that they name.
    pub fn without(&self, options: &[&str]) -> Self {
        let mut rest = self.clone();
        rest.files.retain(|file| !options.contains(&file.option.as_str()));
        rest.options.retain(|option, _| !options.contains(&option.as_str()));
        rest
    }
}

/// SHA-256 of a file in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let failed = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => break,
            read => hash.update(&block[..read]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where a run comes from.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// The command, such as `finetune`.
    pub command: String,
    /// All its options as a recipe.
    pub recipe: String,
    /// What it reads.
    pub sources: Sources,
}

/// One start of a run, from the beginning or a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// When, in UTC (RFC 3339).
    pub started: String,
    /// When it was done; nothing if it was stopped or still goes on.
    pub finished: Option<String>,
    /// Steps that were done before.
    pub from_step: usize,
    /// Version of this crate.
    pub version: String,
    /// `git describe` of the source; nothing if it was built outside the repository.
    pub revision: Option<String>,
    /// What computes.
    pub device: String,
    /// Devices that share the run.
    pub ranks: usize,
    /// Parts that a step is computed in, over all ranks.
    pub parts: usize,
}

/// `run.json`: where a run's results come from. Its times are here alone, so that the other files depend on nothing but sources and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The command.
    pub command: String,
    /// Seed of all that is random.
    pub seed: u64,
    /// What it reads.
    #[serde(flatten)]
    pub sources: Sources,
    /// Each time that it was started.
    pub starts: Vec<Start>,
    #[serde(skip)]
    path: PathBuf,
}

impl RunRecord {
    /// The record in this folder with one more start, not yet written; the earlier ones stay if the run goes on.
    pub fn begin(folder: &Path, provenance: &Provenance, seed: u64, start: Start) -> Self {
        let path = folder.join("run.json");
        // A record that is missing or damaged is no reason not to go on: the checkpoint knows what the run began with.
        let earlier = std::fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        let mut starts = earlier.filter(|_| start.from_step > 0).map_or(Vec::new(), |record| record.starts);
        starts.push(start);
        Self { command: provenance.command.clone(), seed, sources: provenance.sources.clone(), starts, path }
    }

    /// Notes that the run is done.
    pub fn finish(&mut self) {
        if let Some(start) = self.starts.last_mut() {
            start.finished = Some(now());
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If the disk is full or the folder cannot be written.
    pub fn write(&self) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Setting(e.to_string()))?;
        crate::files::write_atomically(&self.path, format!("{json}\n").as_bytes())
    }
}

impl Start {
    /// A start now.
    pub fn now(from_step: usize, device: String, ranks: usize, parts: usize) -> Self {
        Self {
            started: now(),
            finished: None,
            from_step,
            version: env!("CARGO_PKG_VERSION").into(),
            revision: option_env!("CHEMTAG_REVISION").map(Into::into),
            device,
            ranks,
            parts,
        }
    }
}

/// This second in UTC.
fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of FIPS 180-2, appendix B, and the empty file.
    #[test]
    fn hashes_are_sha256() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for (bytes, expected) in [
            (Vec::new(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc".to_vec(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (vec![b'a'; 1_000_000], "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
            (vec![0; 3 * BLOCK + 1], &*sha256_whole(&vec![0; 3 * BLOCK + 1])),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(sha256(&path).unwrap(), expected);
        }
        assert!(sha256(&folder.path().join("b")).unwrap_err().to_string().contains("cannot read"));
    }

    fn sha256_whole(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn sources(files: &[(&str, &str, &str)], options: &[(&str, &str)]) -> Sources {
        let file = |&(option, path, hash): &(&str, &str, &str)| SourceFile {
            option: option.into(),
            path: path.into(),
            sha256: hash.repeat(32),
        };
        let options = options.iter().map(|(option, value)| (option.to_string(), value.to_string())).collect();
        Sources { files: files.iter().map(file).collect(), options }
    }

    #[test]
    fn differences_are_named() {
        let before =
            sources(&[("train", "a", "0a"), ("train", "b", "0b"), ("devel", "c", "0c")], &[("reading", "mixed")]);
        // Files may lie elsewhere.
        let moved =
            sources(&[("train", "x/a", "0a"), ("train", "x/b", "0b"), ("devel", "c", "0c")], &[("reading", "mixed")]);
        assert_eq!(before.difference(&moved), None);
        for (files, options, expected) in [
            (
                vec![("train", "a", "0a"), ("train", "b", "1b"), ("devel", "c", "0c")],
                "mixed",
                "--train b has the SHA-256 1b1b1b1b1b1b…, but when the run began 0b0b0b0b0b0b…",
            ),
            (
                vec![("train", "a", "0a"), ("train", "d", "0d"), ("devel", "c", "0c")],
                "mixed",
                "--train d has the SHA-256 0d0d0d0d0d0d…, but when the run began b 0b0b0b0b0b0b…",
            ),
            (
                vec![("train", "a", "0a"), ("devel", "c", "0c")],
                "mixed",
                "--train b is missing: the run began with 2 such files, not 1",
            ),
            (
                vec![("train", "a", "0a"), ("train", "b", "0b"), ("devel", "c", "0c"), ("devel", "d", "0d")],
                "mixed",
                "--devel d is new: the run began with 1 such files, not 2",
            ),
            (
                vec![("train", "a", "0a"), ("train", "b", "0b"), ("devel", "c", "0c")],
                "documents",
                "--reading is documents, when the run began mixed",
            ),
        ] {
            assert_eq!(before.difference(&sources(&files, &[("reading", options)])).as_deref(), Some(expected));
        }
        let none = sources(&[], &[]);
        assert!(none.difference(&before).unwrap().contains("--train a is new"));
        let without = Sources { options: BTreeMap::new(), ..before.clone() };
        assert_eq!(before.difference(&without).unwrap(), "--reading is nothing, when the run began mixed");
        let [all, some] =
            [[("train", "all")], [("train", "CHEMICAL")]].map(|types| sources(&[("train", "a", "0a")], &types));
        assert_eq!(all.difference(&some).unwrap(), "the types of --train are CHEMICAL, when the run began all");
        assert_eq!(before.without(&["train", "reading"]), sources(&[("devel", "c", "0c")], &[]));
    }

    #[test]
    fn a_run_that_goes_on_keeps_its_earlier_starts() {
        let folder = tempfile::tempdir().unwrap();
        let provenance = Provenance { command: "finetune".into(), ..Provenance::default() };
        let begin = |step| RunRecord::begin(folder.path(), &provenance, 3, Start::now(step, "cpu".into(), 1, 1));
        begin(0).write().unwrap();
        let mut second = begin(5);
        second.finish();
        second.write().unwrap();
        let steps = |record: &RunRecord| record.starts.iter().map(|start| start.from_step).collect::<Vec<_>>();
        assert_eq!(steps(&second), [0, 5]);
        assert!(second.starts[0].finished.is_none() && second.starts[1].finished.is_some());
        assert_eq!(steps(&begin(7)), [0, 5, 7]);
        assert_eq!(steps(&begin(0)), [0], "a new run in the folder of an old one");
        std::fs::write(folder.path().join("run.json"), "{").unwrap();
        assert_eq!(steps(&begin(7)), [7]);
    }
}
