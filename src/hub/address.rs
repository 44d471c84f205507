//! The name of a model elsewhere -> where it is fetched from and where it is kept: `hf://OWNER/NAME[@REVISION][/FILE]` on Hugging Face's hub, or an `https://` URL of a file;
//! behind either may stand `#sha256=HEX`, which the file must have.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

const REVISION: &str = "main";
const SHA256: &str = "#sha256=";

/// A model elsewhere.
///
/// ```
/// use chemtag::hub::Address;
///
/// let address: Address = "hf://allenai/scibert_scivocab_cased@main".parse()?;
/// assert_eq!(address.to_string(), "hf://allenai/scibert_scivocab_cased@main");
/// assert!("http://example.org/model.safetensors".parse::<Address>().is_err());
/// # Ok::<(), chemtag::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub(super) place: Place,
    /// SHA-256 that the one file must have, in hexadecimal.
    pub(super) sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Hub {
        /// `OWNER/NAME`.
        model: String,
        revision: String,
        /// A file of the model, or the whole of it.
        file: Option<String>,
    },
    /// Of a file whose name is its last part.
    Url { url: String, file: String },
}

impl Address {
    /// Whether a name is meant as an address, rather than as that of a file or folder.
    pub fn is_meant(name: &str) -> bool {
        ["hf://", "https://", "http://"].iter().any(|scheme| name.starts_with(scheme))
    }

    /// The one file that is meant; `None`: a folder of several.
    pub fn file(&self) -> Option<&str> {
        match &self.place {
            Place::Hub { file, .. } => file.as_deref(),
            Place::Url { file, .. } => Some(file),
        }
    }

    /// Its folder in the cache.
    pub(super) fn folder(&self) -> PathBuf {
        match &self.place {
            Place::Hub { model, revision, .. } => PathBuf::from("hub").join(model).join(revision),
            Place::Url { url, .. } => {
                let hash = crate::source::sha256(&[url.as_bytes()]);
                PathBuf::from("url").join(hash.get(..16).unwrap_or(&hash))
            }
        }
    }

    /// Where a file of it is, on the hub at `endpoint` if it is on a hub.
    pub(super) fn url(&self, endpoint: &str, file: &str) -> String {
        match &self.place {
            Place::Hub { model, revision, .. } => format!("{endpoint}/{model}/resolve/{revision}/{file}"),
            Place::Url { url, .. } => url.clone(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.place {
            Place::Hub { model, revision, file } => {
                write!(f, "hf://{model}@{revision}")?;
                file.iter().try_for_each(|file| write!(f, "/{file}"))?;
            }
            Place::Url { url, .. } => f.write_str(url)?,
        }
        self.sha256.iter().try_for_each(|sha256| write!(f, "{SHA256}{sha256}"))
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::Option(format!("\"{text}\" {what}"));
        let (rest, sha256) = match text.split_once(SHA256) {
            Some((rest, sha256)) if sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                (rest, Some(sha256.to_ascii_lowercase()))
            }
            Some(_) => return Err(wrong("does not end with the 64 hexadecimal digits of a SHA-256")),
            None => (text, None),
        };
        let place = match rest.strip_prefix("hf://") {
            Some(name) => hub(name).ok_or_else(|| {
                wrong("is not hf://OWNER/NAME, hf://OWNER/NAME@REVISION or one of these with /FILE behind it")
            })?,
            None => url(rest).map_err(|what| wrong(&what))?,
        };
        let address = Self { place, sha256 };
        if address.sha256.is_some() && address.file().is_none() {
            return Err(wrong("has a SHA-256, but names no file: put /FILE behind the model's name"));
        }
        Ok(address)
    }
}

fn hub(name: &str) -> Option<Place> {
    let mut parts = name.splitn(3, '/');
    let (owner, name, file) = (parts.next()?, parts.next()?, parts.next());
    let (name, revision) = name.split_once('@').unwrap_or((name, REVISION));
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let file_is_plain = file.is_none_or(&plain);
    (plain(owner) && plain(name) && plain(revision) && file_is_plain).then(|| Place::Hub {
        model: format!("{owner}/{name}"),
        revision: revision.into(),
        file: file.map(str::to_string),
    })
}

fn url(url: &str) -> Result<Place, String> {
    let uri: ureq::http::Uri = url.parse().map_err(|e| format!("is no URL: {e}"))?;
    if !is_safe(&uri) {
        return Err("is not encrypted: name an https:// address".into());
    }
    let file = uri.path().rsplit('/').next().unwrap_or_default();
    let plain = file.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !file.starts_with('.');
    if !(plain && file.ends_with(".safetensors")) {
        return Err("names no file that ends with .safetensors".into());
    }
    Ok(Place::Url { url: url.into(), file: file.into() })
}

/// Encrypted, or of this machine.
pub(super) fn is_safe(uri: &ureq::http::Uri) -> bool {
    let local = || matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => local(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let sha256 = "ab".repeat(32);
        for (text, written, folder, file) in [
            ("hf://o/n", "hf://o/n@main", "hub/o/n/main", None),
            ("hf://o/n@v1.0", "hf://o/n@v1.0", "hub/o/n/v1.0", None),
            ("hf://o/n@v1/a.safetensors", "hf://o/n@v1/a.safetensors", "hub/o/n/v1", Some("a.safetensors")),
            (
                "https://example.org/x/a.safetensors?y=1",
                "https://example.org/x/a.safetensors?y=1",
                "",
                Some("a.safetensors"),
            ),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.file()), (written, file));
            assert!(folder.is_empty() || address.folder() == std::path::Path::new(folder));
        }
        let text = format!("hf://o/n@main/a.safetensors#sha256={sha256}");
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "hf://",
            "hf://scibert",
            "hf://../x",
            "hf://a/..",
            "hf://a/b@",
            "hf://a/b@../c",
            "hf://a b/c",
            "hf://a/b/c/d",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("is not hf://OWNER/NAME"), "{error}");
        }
        for (text, part) in [
            ("http://example.org/a.safetensors", "is not encrypted"),
            ("ftp://example.org/a.safetensors", "is not encrypted"),
            ("https://example.org/a.zip", "names no file that ends with .safetensors"),
            ("https://example.org/..safetensors", "names no file"),
            ("hf://a/b/c.safetensors#sha256=12", "64 hexadecimal digits"),
            (&format!("hf://a/b#sha256={}", "0".repeat(64)), "names no file"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!("http://127.0.0.1:80/a.safetensors".parse::<Address>().is_ok());
    }
}
