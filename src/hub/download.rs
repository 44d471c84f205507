//! A URL -> a file, hashed while it streams, which has its name only when it is whole and what it should be.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::Uri;
use ureq::{Agent, Body, http::Response};

use super::address::is_safe;
use super::cache::Kept;
use crate::contents::hexadecimal;
use crate::error::{Error, Result};
use crate::replacement::Replacement;
use crate::source::OnPortion;

/// A server that says nothing for so long is taken for dead. Bodies may take as long as they need.
const PATIENCE: Duration = Duration::from_secs(60);
/// From one address to another, and so on.
const MOST_REDIRECTIONS: usize = 10;
/// Bytes between two reports.
const PORTION: usize = 1 << 18;
/// In which a hub tells the SHA-256 of a file that it keeps elsewhere.
const LINKED_ETAG: &str = "x-linked-etag";

/// Fetches files.
pub(super) struct Downloads {
    agent: Agent,
    /// A host and the token that it, and nobody else, gets.
    token: Option<(String, String)>,
}

impl Downloads {
    pub fn new(token: Option<(String, String)>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here: what the first answer says of the file would be lost, and the token must not go to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build()
            .into();
        Self { agent, token }
    }

    /// Fetches a file to a path; `None` if the server does not have it. It must have the `sha256` that is given, or else that the server tells.
    pub fn fetch(&self, url: &str, path: &Path, sha256: Option<&str>, on_portion: OnPortion) -> Result<Option<Kept>> {
        let failed = |reason: String| Error::Download { url: url.into(), reason };
        let Some((response, told)) = self.answer(url)? else { return Ok(None) };
        let length: Option<u64> =
            response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let cannot_write = |e: std::io::Error| Error::Input {
            file: path.display().to_string(),
            problem: format!("cannot be written: {e}"),
        };
        let mut out = Replacement::new(path).map_err(cannot_write)?;
        let mut body = response.into_body().into_reader();
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0; PORTION]);
        loop {
            let read = body.read(&mut buffer).map_err(|e| failed(e.to_string()))?;
            let Some(portion) = buffer.get(..read).filter(|portion| !portion.is_empty()) else { break };
            hash.update(portion);
            out.write_all(portion).map_err(cannot_write)?;
            bytes += read as u64;
            on_portion(bytes, length)?;
        }
        if let Some(length) = length.filter(|&length| length != bytes) {
            return Err(failed(format!("it ended after {bytes} of {length} bytes: try again")));
        }
        let found = hexadecimal(&hash.finalize());
        if let Some(expected) = sha256.or(told.as_deref()).filter(|expected| *expected != found) {
            return Err(failed(format!(
                "its SHA-256 is {found}, but should be {expected}: it is damaged, or another file"
            )));
        }
        out.finish().map_err(cannot_write)?;
        Ok(Some(Kept { bytes, sha256: found }))
    }

    /// The answer that holds the file, and the SHA-256 that the server tells, if it does.
    fn answer(&self, url: &str) -> Result<Option<(Response<Body>, Option<String>)>> {
        let failed = |reason: String| Error::Download { url: url.into(), reason };
        let mut here: Uri = url.parse().map_err(|e| failed(format!("it is no URL ({e})")))?;
        let mut told = None;
        for _ in 0..=MOST_REDIRECTIONS {
            if !is_safe(&here) {
                return Err(failed(format!("it leads to {here}, which is not encrypted")));
            }
            let mut request = self.agent.get(&here);
            if let Some((host, token)) = &self.token
                && here.authority().is_some_and(|authority| authority.as_str() == host)
            {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| failed(e.to_string()))?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let etag = header(LINKED_ETAG).map(|etag| etag.trim_matches('"').to_ascii_lowercase());
            told = told.or(etag.filter(|etag| etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())));
            match response.status().as_u16() {
                200 => return Ok(Some((response, told))),
                404 => return Ok(None),
                301 | 302 | 303 | 307 | 308 => {
                    let to = header("location").ok_or_else(|| failed("it leads nowhere".into()))?;
                    here = joined(&here, to).ok_or_else(|| failed(format!("it leads to \"{to}\", which is no URL")))?;
                }
                401 | 403 => {
                    return Err(failed(
                        "no such model, or one that is not public: set HF_TOKEN to a token that may read it".into(),
                    ));
                }
                status => return Err(failed(format!("the server answers with status {status}"))),
            }
        }
        Err(failed(format!("it leads from one address to another more than {MOST_REDIRECTIONS} times")))
    }
}

/// Where an answer leads: a whole URL, or a path on the same server.
fn joined(from: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with('/') && !to.starts_with("//") {
        return format!("{}://{}{to}", from.scheme_str()?, from.authority()?).parse().ok();
    }
    to.parse().ok().filter(|uri: &Uri| uri.host().is_some())
}
