//! What goes wrong -> an exception of the class `ChemtagError`, whose `code` programs can tell apart; the class is the package's (`www/src/errors.ts`).

use js_sys::Reflect;
use wasm_bindgen::prelude::*;

use crate::Error;

#[wasm_bindgen(raw_module = "../../errors.js")]
extern "C" {
    /// The package's class of errors.
    type ChemtagError;

    #[wasm_bindgen(constructor)]
    fn new(code: &str, message: &str) -> ChemtagError;
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The caller's signal ended it.
    Aborted,
    /// No connection, or one that breaks off again and again.
    Network,
    /// The server answers with an error.
    Http,
    /// The file is not the one that was asked for.
    HashMismatch,
    /// The file is no model, or one that this version does not read.
    Model,
    /// An option that makes no sense.
    BadOption,
    /// There is no memory left.
    OutOfMemory,
    /// Anything else: a mistake of this library.
    Internal,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::Aborted => "aborted",
            Code::Network => "network",
            Code::Http => "http",
            Code::HashMismatch => "hash-mismatch",
            Code::Model => "model",
            Code::BadOption => "bad-option",
            Code::OutOfMemory => "out-of-memory",
            Code::Internal => "internal",
        }
    }
}

/// An error on its way to JavaScript.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    /// A failure of some kind.
    pub fn new(code: Code, message: String) -> Self {
        Self { code, message }
    }

    /// An option is wrong.
    pub fn option(message: String) -> Self {
        Self::new(Code::BadOption, message)
    }

    /// The caller's signal ended it.
    pub fn aborted() -> Self {
        Self::new(Code::Aborted, "the load was aborted by its signal".into())
    }

    /// An exception that the browser has thrown.
    pub fn from_js(exception: JsValue) -> Self {
        let part = |name: &str| Reflect::get(&exception, &name.into()).ok().and_then(|value| value.as_string());
        match part("name").as_deref() {
            Some("AbortError" | "TimeoutError") => Self::aborted(),
            _ => Self::new(Code::Network, part("message").unwrap_or_else(|| format!("{exception:?}"))),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.root() {
            Error::Model { .. } | Error::Shape { .. } => Code::Model,
            Error::Option(_) => Code::BadOption,
            Error::OutOfMemory(_) => Code::OutOfMemory,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        ChemtagError::new(failure.code.name(), &failure.message).into()
    }
}
