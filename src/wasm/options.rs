//! JavaScript's option objects -> settings. A key that is missing, `undefined` or `null` has its default; one of another type is an error.

use js_sys::{Function, Reflect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::error::{Code, Failure};

/// Attempts after the first one, where a download breaks off.
const RETRIES: u32 = 3;

/// Options of one call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TagSettings {
    /// As [`TagOptions::threshold`](crate::TagOptions::threshold).
    pub threshold: Option<f32>,
    /// As [`TagOptions::lone_sentences`](crate::TagOptions::lone_sentences).
    pub lone_sentences: bool,
}

impl TagSettings {
    /// Reads them.
    ///
    /// # Errors
    /// `bad-option` if a value is of another type.
    pub fn from_js(options: JsValue) -> Result<Self, Failure> {
        read(options)
    }
}

/// The plain values among the options of a load.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PlainSettings {
    sha256: Option<String>,
    bytes: Option<f64>,
    cache: Option<bool>,
    keep_file: bool,
    retries: Option<u32>,
}

/// Options of a load.
pub struct LoadSettings {
    /// What the file must hash to, in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// How long the file is, for progress.
    pub bytes: Option<f64>,
    /// Whether to look into the browser's cache and to write to it.
    pub cache: bool,
    /// Whether to keep the file for other workers.
    pub keep_file: bool,
    /// Attempts after the first one.
    pub retries: u32,
    /// Ends the load.
    pub signal: Option<AbortSignal>,
    /// Called with the bytes received so far, and with the length of the whole if it is known.
    on_progress: Option<Function>,
}

impl LoadSettings {
    /// Reads them.
    ///
    /// # Errors
    /// `bad-option` if a value is of another type, or `sha256` is no such hash.
    pub fn from_js(options: &JsValue) -> Result<Self, Failure> {
        let PlainSettings { sha256, bytes, cache, keep_file, retries } = read(options.clone())?;
        let sha256 = sha256.map(|hash| hash.to_ascii_lowercase());
        if let Some(hash) = &sha256
            && (hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(Failure::option(format!("sha256 is \"{hash}\", but must be 64 hexadecimal digits")));
        }
        let key = |name: &str| match options.is_object() {
            true => Reflect::get(options, &name.into()).ok().filter(|value| !value.is_undefined() && !value.is_null()),
            false => None,
        };
        let wrong = |name: &str, kind: &str| Failure::option(format!("the option {name} must be {kind}"));
        let signal = key("signal").map(|value| value.dyn_into().map_err(|_| wrong("signal", "an AbortSignal")));
        let progress = key("onProgress").map(|value| value.dyn_into().map_err(|_| wrong("onProgress", "a function")));
        Ok(Self {
            sha256,
            bytes,
            cache: cache.unwrap_or(true),
            keep_file,
            retries: retries.unwrap_or(RETRIES),
            signal: signal.transpose()?,
            on_progress: progress.transpose()?,
        })
    }

    /// Tells of bytes received. An exception of the listener does not end the load.
    pub fn report(&self, loaded: f64, total: Option<f64>) {
        if let Some(listener) = &self.on_progress {
            // The server's length may be that of a compressed answer.
            let total = self.bytes.or(total).map_or(JsValue::UNDEFINED, JsValue::from);
            let _ = listener.call2(&JsValue::UNDEFINED, &loaded.into(), &total);
        }
    }

    /// # Errors
    /// `aborted` if the signal says so.
    pub fn check_abort(&self) -> Result<(), Failure> {
        match &self.signal {
            Some(signal) if signal.aborted() => Err(Failure::aborted()),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// `hash-mismatch` if another hash was expected.
    pub fn check_hash(&self, name: &str, found: &str) -> Result<(), Failure> {
        match &self.sha256 {
            Some(expected) if expected != found => Err(Failure::new(
                Code::HashMismatch,
                format!(
                    "{name}: its SHA-256 is {found}, but {expected} was expected: the file is damaged or another one"
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn read<T: DeserializeOwned + Default>(options: JsValue) -> Result<T, Failure> {
    if options.is_undefined() || options.is_null() {
        return Ok(T::default());
    }
    serde_wasm_bindgen::from_value(options).map_err(|e| Failure::option(format!("the options are not right: {e}")))
}
