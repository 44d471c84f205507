//! In: whatever goes wrong while corpora are read and scores are written.
//! Out: one [`Error`] that names the file, the line and the field, what was expected and what was found.
//! From: nothing but the standard library and `thiserror`.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Lines and columns count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// `"read"`, `"write"` or `"rename"`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// A file that must be UTF-8 holds a byte sequence that is not.
    #[error("{}:{line}: expected UTF-8, found the byte 0x{byte:02X} at column {column} (in bytes); convert the file to UTF-8", path.display())]
    NotUtf8 {
        path: PathBuf,
        line: usize,
        /// In bytes from the start of the line.
        column: usize,
        byte: u8,
    },

    /// A line of a .jsonl file that is not a JSON value.
    #[error("{}:{line}: expected a JSON object on one line, found invalid JSON at column {column}: {message}", path.display())]
    Json {
        path: PathBuf,
        line: usize,
        /// In bytes from the start of the line.
        column: usize,
        message: String,
    },

    /// A line whose parts are not what the format asks for.
    #[error("{}:{line}: {field}: expected {expected}, found {found}", path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        /// The part of the line, such as `spans[3]` or `tag`.
        field: String,
        expected: String,
        found: String,
    },

    /// A disk is full, or a quota or a limit of the file's size is reached.
    #[error(
        "{}: there is no room to write it ({source}): free some space and start the command again; a run goes on from its last checkpoint",
        path.display()
    )]
    NoRoom { path: PathBuf, source: io::Error },

    /// A corpus file with an extension that says nothing about its format.
    #[error("{}: expected a corpus named *.jsonl or *.conll", path.display())]
    CorpusFormat { path: PathBuf },

    /// Types were asked for that no mention of the file has.
    #[error(
        "{}: no mention has the type {}; the types in this file are: {}",
        path.display(),
        missing.join(", "),
        if present.is_empty() { "none, it has no mentions".to_owned() } else { present.join(", ") }
    )]
    UnknownTypes { path: PathBuf, missing: Vec<String>, present: Vec<String> },

    /// A list of types with an empty name in it.
    #[error("expected mention types separated by commas, such as CHEMICAL or MAT,PRO; found {found:?}")]
    TypeList { found: String },

    /// A span that cannot be cut out of its document.
    #[error(
        "document {document}: the {kind} span {start}..{end} (bytes) is outside the text of {length} bytes or cuts a character"
    )]
    Span {
        document: String,
        /// `"gold"` or `"predicted"`.
        kind: &'static str,
        start: usize,
        end: usize,
        length: usize,
    },

    /// A data set's file is damaged or cannot hold the data.
    #[error("{}: {reason}", path.display())]
    Dataset { path: PathBuf, reason: String },

    /// A checkpoint is damaged or belongs to another run.
    #[error("checkpoint {} {reason}", path.display())]
    Checkpoint { path: PathBuf, reason: String },

    /// A drawing cannot be made.
    #[error("cannot draw: {0}")]
    Plot(String),

    /// A setting or a set of tensors that makes no sense.
    #[error("{0}")]
    Setting(String),

    /// A recipe says something that its command does not take.
    #[error("{}:{line}: {reason}", path.display())]
    Recipe { path: PathBuf, line: usize, reason: String },

    /// The command line says something that its command does not take, or asks for help.
    #[error("{0}")]
    CommandLine(#[from] clap::Error),

    /// The gradients are not finite.
    #[error("the run diverged: the gradients of step {step} are not finite; lower the learning rate")]
    Diverged { step: usize },

    /// A step does not fit into the GPU's memory.
    #[error(
        "the GPU's memory is too small for a step: take fewer pieces (--batch-pieces, on gold data of distillation --gold-batch-pieces) or compute \
         a step in more parts (--accumulate), which changes the result only by rounding and other dropout masks\n  {source}"
    )]
    OutOfMemory { source: Box<Error> },

    /// A rank of a run on several devices failed, and with it the run.
    #[error("rank {rank} ({device}) failed, which ends the run: {source}")]
    Rank { rank: usize, device: chemtag::Device, source: Box<Error> },

    /// Another rank has failed, so that this one cannot go on; [`Error::Rank`] tells why.
    #[error("rank {rank} has ended")]
    OtherRank { rank: usize },

    /// A thread of a run panicked.
    #[error("internal error: {0}")]
    Panic(String),

    /// The CRF refused a batch.
    #[error("the CRF's loss failed: {0}")]
    Crf(#[from] chemtag::model::crf::CrfError),

    /// The tagger reported an error.
    #[error(transparent)]
    Tagger(#[from] chemtag::Error),

    /// The tensor library reported an error.
    #[error("tensor computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Names the settings that help, if the device ran out of memory. Driver and libraries tell that only in words.
    pub fn explain_memory(self) -> Self {
        let text = self.to_string();
        match ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|code| text.contains(code)) {
            true => Self::OutOfMemory { source: Box::new(self) },
            false => self,
        }
    }

    /// Wraps an operating system's error with the file it is about.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::NoRoom { path: path.to_owned(), source },
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_for_want_of_memory_names_the_settings() {
        let driver = "a step of training failed on the GPU: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let text = Error::from(chemtag::Error::Device(driver.into())).explain_memory().to_string();
        for part in ["--batch-pieces", "--accumulate", driver] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let other = || Error::Diverged { step: 3 };
        assert_eq!(other().explain_memory().to_string(), other().to_string());
    }
}
