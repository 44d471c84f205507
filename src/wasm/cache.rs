//! Models' hashes -> their files in the browser's Cache Storage, which survives the tab and works offline. A page without a secure origin, and
//! Node, have none: then nothing is found and nothing is stored.

use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{Blob, Cache, CacheStorage, Headers, Request, Response, ResponseInit};

use super::error::Failure;
use crate::contents::hexadecimal;

/// Name of the cache; its number rises with the way in which models are kept in it.
const CACHE: &str = "chemtag-models-1";
/// Before the hash: an address that cannot exist (RFC 2606), for a cache's keys must be addresses.
const KEY: &str = "https://chemtag.invalid/sha256/";

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    fn console_warn(message: &str);
}

/// A file in the cache.
#[derive(Serialize)]
pub struct Cached {
    sha256: String,
    url: Option<String>,
    bytes: f64,
}

/// The page's caches, if it has any.
fn caches() -> Option<CacheStorage> {
    let caches = Reflect::get(&js_sys::global(), &"caches".into()).ok()?;
    caches.dyn_into().ok()
}

async fn open() -> Option<Cache> {
    let opened = JsFuture::from(caches()?.open(CACHE)).await.ok()?;
    opened.dyn_into().ok()
}

/// The file of this hash.
pub async fn find(sha256: &str) -> Option<Blob> {
    let found = JsFuture::from(open().await?.match_with_str(&format!("{KEY}{sha256}"))).await.ok()?;
    let response: Response = found.dyn_into().ok()?;
    JsFuture::from(response.blob().ok()?).await.ok()?.dyn_into().ok()
}

/// Stores a file; the promise is one of `{stored, reason}`, and is kept even if there is no room.
pub fn store(sha256: String, url: String, file: Blob) -> Promise {
    future_to_promise(async move {
        let stored = match put(&sha256, &url, &file).await {
            Ok(true) => outcome(true, ""),
            Ok(false) => outcome(false, "there is no cache here: the page has no secure origin, or this is no browser"),
            Err(exception) => {
                let reason = format!("the browser refuses to store it ({})", Failure::from_js(exception).message);
                console_warn(&format!("chemtag: the model will be fetched again next time: {reason}"));
                outcome(false, &reason)
            }
        };
        Ok(stored)
    })
}

async fn put(sha256: &str, url: &str, file: &Blob) -> Result<bool, JsValue> {
    let Some(storage) = caches() else { return Ok(false) };
    let cache: Cache = JsFuture::from(storage.open(CACHE)).await?.dyn_into()?;
    let headers = Headers::new()?;
    headers.set("content-length", &file.size().to_string())?;
    headers.set("x-chemtag-url", url)?;
    let init = ResponseInit::new();
    init.set_headers(&headers);
    let response = Response::new_with_opt_blob_and_init(Some(file), &init)?;
    JsFuture::from(cache.put_with_str(&format!("{KEY}{sha256}"), &response)).await?;
    Ok(true)
}

/// A promise of an outcome that is certain already.
pub fn settled(stored: bool, reason: &str) -> Promise {
    Promise::resolve(&outcome(stored, reason))
}

fn outcome(stored: bool, reason: &str) -> JsValue {
    let outcome = Object::new();
    // A plain object takes every key.
    let _ = Reflect::set(&outcome, &"stored".into(), &stored.into());
    let _ = Reflect::set(&outcome, &"reason".into(), &reason.into());
    outcome.into()
}

/// All files in the cache.
///
/// # Errors
/// If the browser does not let it read.
pub async fn list() -> Result<Vec<Cached>, Failure> {
    let Some(cache) = open().await else { return Ok(Vec::new()) };
    let keys: Array = JsFuture::from(cache.keys()).await.map_err(Failure::from_js)?.unchecked_into();
    let mut files = Vec::new();
    for key in keys {
        let request: Request = key.unchecked_into();
        let url = request.url();
        let Some(sha256) = url.strip_prefix(KEY) else { continue };
        let found = JsFuture::from(cache.match_with_request(&request)).await.map_err(Failure::from_js)?;
        let Ok(response) = found.dyn_into::<Response>() else { continue };
        let header = |name: &str| response.headers().get(name).ok().flatten();
        let bytes = header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
        files.push(Cached { sha256: sha256.into(), url: header("x-chemtag-url"), bytes });
    }
    Ok(files)
}

/// Removes the cache; whether there was one.
///
/// # Errors
/// If the browser does not let it.
pub async fn clear() -> Result<bool, Failure> {
    let Some(storage) = caches() else { return Ok(false) };
    let removed = JsFuture::from(storage.delete(CACHE)).await.map_err(Failure::from_js)?;
    Ok(removed.is_truthy())
}

/// SHA-256 in hexadecimal by the browser itself, which takes a fifth of our own code's time; `None` where it has none.
pub async fn sha256(bytes: &Uint8Array) -> Option<String> {
    let crypto = Reflect::get(&js_sys::global(), &"crypto".into()).ok()?;
    let subtle = Reflect::get(&crypto, &"subtle".into()).ok()?;
    let digest: js_sys::Function = Reflect::get(&subtle, &"digest".into()).ok()?.dyn_into().ok()?;
    let promise: Promise = digest.call2(&subtle, &"SHA-256".into(), bytes).ok()?.dyn_into().ok()?;
    let digest = JsFuture::from(promise).await.ok()?;
    Some(hexadecimal(&Uint8Array::new(&digest).to_vec()))
}
