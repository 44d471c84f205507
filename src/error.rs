//! The library's one error type: what went wrong, where, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What can go wrong in loading a model or tagging a text.
///
/// Every message names the place (file, tensor, byte) and what was expected and found there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A stream of text broke off.
    #[error("cannot read the text: {0}")]
    Stream(#[source] io::Error),
    /// A text is not UTF-8.
    #[error("the text is not UTF-8 at byte {position}: convert it first, or read it with replacement characters")]
    NotUtf8 {
        /// Offset of the first byte that is not part of a UTF-8 sequence.
        position: usize,
    },
    /// A file of documents cannot be read further.
    #[error("{file} {problem}")]
    Input {
        /// The file, as the user named it.
        file: String,
        /// What is wrong with it and what to do; goes on where the file's name ends.
        problem: String,
    },
    /// One record of a file is not what its format says; those after it may be read.
    #[error("{file}, line {line}: {problem}")]
    Malformed {
        /// The file, as the user named it.
        file: String,
        /// Line at which the record begins, or where it goes wrong, from 1.
        line: usize,
        /// What was expected and found, and what to do.
        problem: String,
    },
    /// A model's file is missing, damaged or does not fit its configuration.
    #[error("{file}: {reason}")]
    Model {
        /// The file of the model, as the user named it.
        file: String,
        /// What was expected, what was found, and what to do.
        reason: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("{file}: tensor {tensor} has shape {found:?}, but config.json asks for {expected:?}")]
    Shape {
        /// The weights' file.
        file: String,
        /// The tensor's name in the file.
        tensor: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The computing device cannot be used.
    #[error("{0}")]
    Device(String),
    /// The computing device has too little memory free.
    #[error("{0}")]
    OutOfMemory(String),
    /// An option has a value that makes no sense.
    #[error("{0}")]
    Option(String),
    /// A model cannot be fetched.
    #[error("{url} cannot be fetched: {reason}")]
    Download {
        /// Where it should be.
        url: String,
        /// What went wrong, and what to do.
        reason: String,
    },
    /// This build does not carry the default model.
    #[error(
        "this build does not carry the default model: build with `--features embedded-model`, or name a model folder"
    )]
    NoEmbeddedModel,
    /// The tensor library reported an error.
    #[cfg(feature = "candle")]
    #[error("tensor computation failed: {0}")]
    Tensor(#[source] candle_core::Error),
    /// A load in the background was cancelled ([`Preload::cancel`](crate::Preload::cancel)).
    #[error("the load of {model} was cancelled before it ended: ask for the model again")]
    Cancelled {
        /// The model, as the user named it.
        model: String,
    },
    /// The code that loads a model panicked: a bug of it, not of the model's user.
    #[error("loading {model} panicked ({message}): please report it; the next call tries again")]
    LoaderPanicked {
        /// The model, as the user named it.
        model: String,
        /// The panic's message.
        message: String,
    },
    /// One error that several callers got, because they waited for the same load; [`Error::root`] looks inside.
    #[error(transparent)]
    Shared(Arc<Error>),
}

impl Error {
    /// The error itself, where several callers [share](Error::Shared) it.
    ///
    /// ```
    /// use chemtag::{Error, LoadOptions, Registry};
    ///
    /// let Err(error) = Registry::new().get("no/such/folder", LoadOptions::default()) else { unreachable!() };
    /// assert!(matches!(error.root(), Error::Read { .. }));
    /// ```
    pub fn root(&self) -> &Error {
        match self {
            Error::Shared(error) => error.root(),
            error => error,
        }
    }

    /// Whether the computing device had too little memory, so that less at once may work.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.root(), Error::OutOfMemory(_))
    }
}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        #[cfg(feature = "cuda")]
        if crate::cuda::memory::is_out_of_memory(&error) {
            return Error::OutOfMemory(format!("the GPU has too little memory free ({error})"));
        }
        Error::Tensor(error)
    }
}

/// Result of the library's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
