//! In: a corpus, files of any format in folders of any depth. Out: a file of results for each of them, and a summary.
//! Method: one thread reads, `workers` tag, one writes, in order and with a bounded amount between them; what is finished is noted, so that a run
//! that was ended from outside goes on where it was and comes to the same files byte for byte.
//!
//! ```
//! use chemtag::corpus::{CorpusFiles, RunOptions, run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (corpus, out) = (folder.path().join("corpus"), folder.path().join("out"));
//! # std::fs::create_dir(&corpus)?;
//! std::fs::write(corpus.join("a.txt"), "Aspirin in THF")?;
//! std::fs::write(corpus.join("b.jsonl"), "{\"text\": \"LiCl\"}\n{\"text\": \"no chemicals\"}\n")?;
//! let tagger = chemtag::get("models/chemtag-small")?;
//! let files = CorpusFiles::find(&[corpus], None, &out)?;
//! let summary = run(&tagger, &files.files, &out, &RunOptions::default(), &|_| ())?;
//! assert_eq!((summary.files, summary.documents, summary.mentions), (2, 3, 3));
//! assert!(std::fs::read_to_string(out.join("b.jsonl.jsonl"))?.contains("LiCl"));
//! # Ok(())
//! # }
//! ```

mod flow;
mod inputs;
mod journal;
mod names;
mod report;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

pub use inputs::{CorpusFile, CorpusFiles};
pub use names::{NameCount, Statistics};

use crate::error::{Error, Result};
use crate::format::{self, Format, ReadOptions, WriteOptions};
use crate::reading::Reading;
use crate::tagger::Tagger;
use journal::{Journal, cannot_write};

/// Names of the files that a run writes beside the outputs.
const SUMMARY: &str = "summary.json";
const NAMES: &str = "names.tsv";
const REPORT: &str = "report.html";

/// How a corpus is read and what is written of it.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Format of all files; `None`: what each file's name says, else plain text.
    pub from: Option<Format>,
    /// How documents are read.
    pub read: ReadOptions,
    /// Pass over malformed records and count them; without it a file that holds one fails.
    pub keep_going: bool,
    /// What is read of each document beyond its mentions.
    pub reading: Reading,
    /// Format of the outputs.
    pub to: Format,
    /// How they are written.
    pub write: WriteOptions,
    /// Compress outputs by gzip.
    pub gzip: bool,
    /// Documents tagged at the same time; 0: as many as suit the device.
    pub workers: usize,
    /// Count names, and write `names.tsv` and `report.html`.
    pub statistics: bool,
    /// Forget what an earlier run into the same folder has finished.
    pub restart: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            from: None,
            read: ReadOptions::default(),
            keep_going: false,
            reading: Reading::default(),
            to: Format::JsonLines,
            write: WriteOptions::default(),
            gzip: false,
            workers: 0,
            statistics: false,
            restart: false,
        }
    }
}

impl RunOptions {
    /// The name of the output of a file: its own name and the format's extension behind it.
    fn output_name(&self, file: &str) -> String {
        let extension = match self.to {
            Format::BioCXml => "bioc.xml".into(),
            Format::BioCJson => "bioc.json".into(),
            other => other.to_string(),
        };
        // A folder, which brat's output is, has no compression.
        let gzip = if self.gzip && self.to != Format::Brat { ".gz" } else { "" };
        format!("{file}.{extension}{gzip}")
    }

    /// All that outputs depend on, by the names that a user knows.
    fn settings(&self, tagger: &Tagger) -> serde_json::Value {
        let Self { read, reading, .. } = self;
        let engine = tagger.model().backend().describe();
        // Integers give the same bits by every kernel.
        let engine = if engine.starts_with("int8") { "int8" } else { &engine };
        json!({
            "chemtag version": env!("CARGO_PKG_VERSION"),
            "model": tagger.model().hash(),
            "engine": engine,
            "--threshold": tagger.options().threshold,
            "--sentences": tagger.options().lone_sentences,
            "--from": self.from.map(|format| format.to_string()),
            "--field": read.field,
            "--id-field": read.id_field,
            "--lossy": read.lossy,
            "--keep-going": self.keep_going,
            "--abbreviations": reading.abbreviations,
            "--repeat": reading.repetition,
            "--groups": reading.groups,
            "--formulas": reading.formulas,
            "--lexicon": reading.lexicon.as_ref().map(|lexicon| lexicon.hash()),
            "--to": self.to.to_string(),
            "--gzip": self.gzip,
            "--offsets": self.write.offsets,
            "--stats": self.statistics,
        })
    }
}

/// What a run does, as it does it; for progress and messages.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// Files that an earlier run has finished, and their bytes on disk: they are not read.
    Finished {
        /// Number of files.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// So many more bytes of files are read.
    Read(u64),
    /// So many more documents are tagged.
    Tagged(u64),
    /// A record was passed over.
    Malformed(&'e Error),
    /// A file has no output, for this reason; the run goes on.
    Failed(&'e Error),
}

/// What a run came to, files of earlier runs into the same folder included. The fields' order is that of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Summary {
    /// Files with an output.
    pub files: u64,
    /// Documents in them.
    pub documents: u64,
    /// Mentions in these.
    pub mentions: u64,
    /// Records that were passed over.
    pub malformed: u64,
    /// Files without an output, in order.
    pub failed: Vec<FailedFile>,
    /// What was counted, if it was asked for.
    #[serde(skip)]
    pub statistics: Option<Statistics>,
}

/// A file without an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedFile {
    /// Its name in the corpus.
    pub file: String,
    /// Why.
    pub error: String,
}

/// Tags a corpus into the folder `out`, which is made if it is not there. What an earlier run with the same settings has finished there, of files that have not
/// changed since, is kept. A file that cannot be read, or holds a malformed record, has no output and is named in the summary.
///
/// With a model in 8-bit integers the outputs do not depend on `workers`; with one in floats a score may differ in its last decimal where a single document
/// is longer than a megabyte.
///
/// # Errors
/// [`Error::Option`] if the folder is in use or holds a run with other settings; [`Error::Input`] if it cannot be written; those of the device.
/// The run can be taken up again after any of them.
pub fn run(
    tagger: &Tagger,
    files: &[CorpusFile],
    out: &Path,
    options: &RunOptions,
    observer: &(dyn Fn(Event) + Sync),
) -> Result<Summary> {
    // Refused before anything is made on disk.
    format::writer(options.to, std::io::sink(), options.write)?;
    let output_of = |file: &str| out.join(options.output_name(file));
    if let Some(file) = files.iter().find(|file| [SUMMARY, NAMES, REPORT].contains(&&*options.output_name(&file.name)))
    {
        return Err(Error::Option(format!(
            "the output of {} would have the name of a file of the run's own: rename it",
            file.path.display()
        )));
    }
    let mut journal = Journal::open(out, &options.settings(tagger), files, output_of, options.restart)?;
    let (done, left): (Vec<&CorpusFile>, Vec<&CorpusFile>) = files.iter().partition(|file| journal.has(&file.name));
    observer(Event::Finished { files: done.len(), bytes: done.iter().map(|file| file.bytes).sum() });
    let failed = flow::tag_files(tagger, &left, &mut journal, options, output_of, observer)?;
    let mut summary =
        Summary { failed, statistics: options.statistics.then(Statistics::default), ..Summary::default() };
    for file in files {
        let Some(done) = journal.noted(&file.name)? else { continue };
        summary.files += 1;
        summary.documents += done.documents;
        summary.mentions += done.mentions;
        summary.malformed += done.malformed;
        if let (Some(all), Some(statistics)) = (&mut summary.statistics, done.statistics) {
            all.add(statistics);
        }
    }
    summary.write(out)?;
    Ok(summary)
}

impl Summary {
    fn write(&self, out: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path: PathBuf = out.join(name);
            fs::write(&path, text).map_err(|e| cannot_write(&path, &e))
        };
        let json = serde_json::to_string_pretty(self).map_err(|e| cannot_write(&out.join(SUMMARY), &e.into()))?;
        write(SUMMARY, json + "\n")?;
        if let Some(statistics) = &self.statistics {
            let table = report::table(statistics).map_err(|e| cannot_write(&out.join(NAMES), &e))?;
            write(NAMES, table)?;
            write(REPORT, report::page(self, statistics))?;
        }
        Ok(())
    }
}
