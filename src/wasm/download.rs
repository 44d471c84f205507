//! An address -> the file's bytes and their SHA-256, computed while they come. What breaks off is asked for again from where it broke off
//! (RFC 9110, section 14: `Range`, `If-Range`), unless the server gives the whole file again.

use js_sys::{Array, Promise, Reflect, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, ReadableStreamDefaultReader, RequestInit, Response};

use super::error::{Code, Failure};
use super::options::LoadSettings;
use crate::contents::hexadecimal;

/// Milliseconds before the second attempt; each further one waits twice as long.
const FIRST_WAIT: i32 = 250;

#[wasm_bindgen]
extern "C" {
    /// The global function, which pages, workers and Node have.
    #[wasm_bindgen(js_name = fetch, catch)]
    fn fetch(url: &str, init: &RequestInit) -> Result<Promise, JsValue>;

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(then: &js_sys::Function, milliseconds: i32) -> JsValue;
}

/// A file.
pub struct Download {
    pub bytes: Vec<u8>,
    /// In hexadecimal.
    pub sha256: String,
    /// The same bytes as they came, as JavaScript's arrays; empty if nobody wants them.
    pub chunks: Array,
}

/// A file that is partly there.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    hash: Sha256,
    chunks: Array,
    /// What the server calls this version of the file.
    version: Option<String>,
    total: Option<f64>,
}

/// Why an attempt ended, and whether another one may do better.
struct Ended {
    failure: Failure,
    again: bool,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self { again: failure.code == Code::Network, failure }
    }
}

/// Fetches a file.
///
/// # Errors
/// `aborted`, `http` if the server refuses, `network` if the last attempt breaks off, `out-of-memory`.
pub async fn download(url: &str, settings: &LoadSettings, wants_chunks: bool) -> Result<Download, Failure> {
    let mut part = Part::default();
    let mut attempt = 0;
    loop {
        settings.check_abort()?;
        match part.attempt(url, settings, wants_chunks).await {
            Ok(()) => break,
            Err(Ended { failure, again }) if !again || attempt >= settings.retries => return Err(failure),
            Err(_) => wait(FIRST_WAIT << attempt.min(6)).await,
        }
        attempt += 1;
    }
    let Part { bytes, hash, chunks, .. } = part;
    Ok(Download { bytes, sha256: hexadecimal(&hash.finalize()), chunks })
}

impl Part {
    async fn attempt(&mut self, url: &str, settings: &LoadSettings, wants_chunks: bool) -> Result<(), Ended> {
        let network = |exception| {
            let failure = Failure::from_js(exception);
            Failure { message: format!("{url} cannot be fetched: {}", failure.message), ..failure }
        };
        let init = RequestInit::new();
        init.set_signal(settings.signal.as_ref());
        if !self.bytes.is_empty() {
            let headers = Headers::new().map_err(network)?;
            headers.set("range", &format!("bytes={}-", self.bytes.len())).map_err(network)?;
            // The hash tells whether parts of two versions were joined; without it the server has to. Another site's server may refuse the question.
            if let (Some(version), None) = (&self.version, &settings.sha256) {
                headers.set("if-range", version).map_err(network)?;
            }
            init.set_headers(&headers);
        }
        let response = JsFuture::from(fetch(url, &init).map_err(network)?).await.map_err(network)?;
        let response: Response = response.dyn_into().map_err(network)?;
        self.begin(url, &response, settings)?;
        let total = self.total;
        settings.report(self.bytes.len() as f64, total);
        let body = response.body().ok_or_else(|| broken(url, self.bytes.len(), total))?;
        let reader: ReadableStreamDefaultReader = body.get_reader().dyn_into().map_err(|e| network(e.into()))?;
        loop {
            let next = JsFuture::from(reader.read()).await.map_err(network)?;
            let chunk = Reflect::get(&next, &"value".into()).map_err(network)?;
            if chunk.is_undefined() {
                break;
            }
            self.push(Uint8Array::new(&chunk), wants_chunks)?;
            settings.report(self.bytes.len() as f64, total);
        }
        match total {
            Some(total) if (self.bytes.len() as f64) < total => Err(broken(url, self.bytes.len(), Some(total)).into()),
            _ => Ok(()),
        }
    }

    /// Looks at the answer: whether it goes on where the last one broke off, begins anew, or refuses.
    fn begin(&mut self, url: &str, response: &Response, settings: &LoadSettings) -> Result<(), Ended> {
        let header = |name: &str| response.headers().get(name).ok().flatten();
        let status = response.status();
        if !response.ok() {
            // The server is busy, or the range is beyond a file that has changed meanwhile.
            let again = matches!(status, 408 | 416 | 425 | 429) || status >= 500;
            if status == 416 {
                self.forget();
            }
            let failure =
                Failure::new(Code::Http, format!("{url}: the server answers {status} {}", response.status_text()));
            return Err(Ended { failure, again });
        }
        if status == 206 {
            let first = format!("bytes {}-", self.bytes.len());
            // Another site's server may hide which part it is; then the hash has to tell.
            let goes_on = header("content-range").map_or(settings.sha256.is_some(), |range| range.starts_with(&first));
            if !goes_on {
                self.forget();
                let message = format!("{url}: the server sends another part than the one that is missing");
                return Err(Failure::new(Code::Network, message).into());
            }
        } else {
            self.forget();
        }
        // The length of a compressed answer is not that of the file, and a part of it would be a part of something else.
        let plain = header("content-encoding").is_none_or(|encoding| encoding == "identity");
        let length = header("content-length").filter(|_| plain).and_then(|length| length.parse::<f64>().ok());
        self.total = length.map(|length| length + self.bytes.len() as f64);
        self.version = header("etag").filter(|tag| plain && !tag.starts_with("W/")).or_else(|| header("last-modified"));
        if let Some(total) = self.total {
            let room = (total as usize).saturating_sub(self.bytes.len());
            self.bytes.try_reserve_exact(room).map_err(|_| no_memory(url, total))?;
        }
        Ok(())
    }

    fn push(&mut self, chunk: Uint8Array, wants_chunks: bool) -> Result<(), Failure> {
        let held = self.bytes.len();
        let length = chunk.length() as usize;
        self.bytes.try_reserve(length).map_err(|_| no_memory("the model", (held + length) as f64))?;
        self.bytes.resize(held + length, 0);
        chunk.copy_to(&mut self.bytes[held..]);
        self.hash.update(&self.bytes[held..]);
        if wants_chunks {
            self.chunks.push(&chunk);
        }
        Ok(())
    }

    fn forget(&mut self) {
        *self = Self { bytes: std::mem::take(&mut self.bytes), ..Self::default() };
        self.bytes.clear();
    }
}

fn broken(url: &str, found: usize, total: Option<f64>) -> Failure {
    let of = total.map_or(String::new(), |total| format!(" of {total}"));
    Failure::new(Code::Network, format!("{url}: the download broke off after {found}{of} bytes"))
}

fn no_memory(name: &str, bytes: f64) -> Failure {
    Failure::new(Code::OutOfMemory, format!("{name}: there is no memory left for its {bytes} bytes"))
}

async fn wait(milliseconds: i32) {
    let timer = Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, milliseconds);
    });
    // A timer that could not be set does not wait.
    let _ = JsFuture::from(timer).await;
}
