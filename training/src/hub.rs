//! A model's name on Hugging Face's hub -> a folder with its files, each fetched once and kept.
//! Addresses: `ENDPOINT/OWNER/NAME/resolve/REVISION/FILE`; files of old and new layout as [`crate::encoder_folder`] reads them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use crate::error::{Error, Result};
use crate::files::write_atomically_with;

const ENDPOINT: &str = "https://huggingface.co";
const REVISION: &str = "main";
/// A server that says nothing for so long is taken for dead. Bodies may take as long as they need.
const PATIENCE: Duration = Duration::from_secs(60);

/// A hub and the folder where its files are kept.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
}

impl Hub {
    /// The hub at `endpoint`; `token` opens models that are not public. Files are kept below `cache`.
    pub fn new(endpoint: &str, token: Option<String>, cache: PathBuf) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .build()
            .into();
        Self { agent, endpoint: endpoint.trim_end_matches('/').into(), token, cache }
    }

    /// As Hugging Face's own tools: the environment variables HF_ENDPOINT and HF_TOKEN. Files are kept in the user's folder for caches.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = variable("XDG_CACHE_HOME")
            .or_else(|| variable("LOCALAPPDATA"))
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")));
        let cache = cache.ok_or_else(|| {
            Error::Setting("there is no folder for the hub's files: set HOME or XDG_CACHE_HOME".into())
        })?;
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Ok(Self::new(&endpoint, variable("HF_TOKEN"), cache.join("chemtag").join("hub")))
    }

    /// The folder of `OWNER/NAME` or `OWNER/NAME@REVISION`; what is missing in it is fetched. A branch is fetched as it is at the first time: only a commit's
    /// hash names the same files everywhere.
    ///
    /// # Errors
    /// If this is no model's name, the hub lacks one of its files or cannot be reached, or a file cannot be written.
    pub fn fetch(&self, model: &str) -> Result<PathBuf> {
        let (name, revision) = model.split_once('@').unwrap_or((model, REVISION));
        let parts: Vec<&str> = name.split('/').chain([revision]).collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && *part != "."
                && *part != ".."
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if !(parts.len() == 3 && parts.iter().all(plain)) {
            return Err(Error::Setting(format!("\"{model}\" is not OWNER/NAME or OWNER/NAME@REVISION")));
        }
        let folder: PathBuf = parts.iter().fold(self.cache.clone(), |folder, part| folder.join(part));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("write", &folder, e))?;
        let address = format!("{}/{name}/resolve/{revision}", self.endpoint);
        // What may be missing comes before what stands for the whole, so that a fetch that broke off is taken up again.
        for (optional, alternatives) in [
            (None, ["config.json"].as_slice()),
            (Some("tokenizer_config.json"), &["tokenizer.json", "vocab.txt"]),
            (None, &["model.safetensors", "pytorch_model.bin"]),
        ] {
            if alternatives.iter().any(|file| folder.join(file).is_file()) {
                continue;
            }
            if let Some(file) = optional {
                self.fetch_file(&address, file, &folder)?;
            }
            let mut found = false;
            for file in alternatives {
                found = found || self.fetch_file(&address, file, &folder)?;
            }
            if !found {
                return Err(Error::Setting(format!("{address} has no {}", alternatives.join(" and no "))));
            }
        }
        Ok(folder)
    }

    /// Fetches a file; returns whether the hub has it.
    fn fetch_file(&self, address: &str, file: &str, folder: &Path) -> Result<bool> {
        let address = format!("{address}/{file}");
        let failed = |reason: String| Error::Setting(format!("{address} cannot be fetched: {reason}"));
        let mut request = self.agent.get(&address);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|e| failed(e.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(false),
            401 | 403 => {
                return Err(failed(
                    "no such model, or one that is not public: set HF_TOKEN to a token that may read it".into(),
                ));
            }
            status => return Err(failed(format!("the server answers with status {status}"))),
        }
        let length =
            response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let mut body = response.into_body().into_reader();
        let path = folder.join(file);
        write_atomically_with(&path, |out| {
            let mut buffer = vec![0; 1 << 16];
            let mut written = 0;
            loop {
                let read = body.read(&mut buffer).map_err(|e| failed(e.to_string()))?;
                if read == 0 {
                    break;
                }
                out.write_all(&buffer[..read]).map_err(|e| Error::io("write", &path, e))?;
                written += read as u64;
            }
            match length.filter(|&length| length != written) {
                Some(length) => Err(failed(format!("it ended after {written} of {length} bytes"))),
                None => Ok(()),
            }
        })?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    type Requests = Arc<Mutex<Vec<String>>>;

    /// A hub on this machine: paths and what is answered, status and body. Runs until the tests end.
    fn serve(answers: HashMap<&'static str, (&'static str, &'static str)>) -> (String, Requests) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Requests::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &answers, &seen);
            }
        });
        (endpoint, requests)
    }

    fn answer(mut stream: TcpStream, answers: &HashMap<&str, (&str, &str)>, seen: &Requests) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
        let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_string();
        let token = lines
            .take_while(|line| !line.is_empty())
            .any(|line| line.eq_ignore_ascii_case("authorization: Bearer secret"));
        seen.lock().unwrap().push(path.clone());
        let (status, body) = match path.strip_prefix("/private/") {
            Some(_) if !token => ("401 Unauthorized", ""),
            _ => answers.get(path.as_str()).copied().unwrap_or(("404 Not Found", "")),
        };
        let (extra, length) = match status.split(' ').next() {
            Some("302") => (format!("Location: {body}\r\n"), 0),
            Some("299") => (String::new(), body.len() + 5),
            _ => (String::new(), body.len()),
        };
        let status = if status.starts_with("299") { "200 OK" } else { status };
        let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        if extra.is_empty() {
            stream.write_all(body.as_bytes()).unwrap();
        }
    }

    #[test]
    fn files_of_either_layout_are_fetched_once() {
        let (endpoint, requests) = serve(HashMap::from([
            ("/allenai/old/resolve/main/config.json", ("200 OK", "{}")),
            ("/allenai/old/resolve/main/vocab.txt", ("200 OK", "[PAD]\n")),
            ("/allenai/old/resolve/main/pytorch_model.bin", ("302 Found", "/storage/abc")),
            ("/storage/abc", ("200 OK", "weights")),
            ("/o/new/resolve/v1/config.json", ("200 OK", "{}")),
            ("/o/new/resolve/v1/tokenizer.json", ("200 OK", "{}")),
            ("/o/new/resolve/v1/model.safetensors", ("200 OK", "w")),
        ]));
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::new(&endpoint, None, cache.path().into());
        let files = |folder: &Path| {
            let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort_unstable();
            names
        };
        let folder = hub.fetch("allenai/old").unwrap();
        assert_eq!(files(&folder), ["config.json", "pytorch_model.bin", "vocab.txt"]);
        assert_eq!(std::fs::read_to_string(folder.join("pytorch_model.bin")).unwrap(), "weights");
        let asked = requests.lock().unwrap().len();
        assert_eq!(hub.fetch("allenai/old").unwrap(), folder);
        assert_eq!(requests.lock().unwrap().len(), asked, "nothing is fetched twice");
        let folder = hub.fetch("o/new@v1").unwrap();
        assert_eq!(files(&folder), ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn what_cannot_be_fetched_is_named_and_leaves_no_file() {
        let (endpoint, _) = serve(HashMap::from([
            ("/o/short/resolve/main/config.json", ("299 Short", "{}")),
            ("/o/half/resolve/main/config.json", ("200 OK", "{}")),
            ("/private/m/resolve/main/config.json", ("200 OK", "{}")),
            ("/o/broken/resolve/main/config.json", ("500 Internal Server Error", "")),
        ]));
        let cache = tempfile::tempdir().unwrap();
        let hub = |token: Option<&str>| Hub::new(&endpoint, token.map(String::from), cache.path().into());
        let error = |model: &str| hub(None).fetch(model).unwrap_err().to_string();
        assert!(error("o/none").contains("o/none/resolve/main has no config.json"));
        let half = error("o/half");
        assert!(half.contains("has no tokenizer.json and no vocab.txt"), "{half}");
        assert!(error("o/broken").contains("status 500"));
        assert!(error("o/short").contains("cannot be fetched"));
        assert!(!cache.path().join("o/short/main/config.json").exists());
        assert!(error("private/m").contains("HF_TOKEN"));
        let allowed = hub(Some("secret")).fetch("private/m").unwrap_err().to_string();
        assert!(allowed.contains("has no tokenizer.json"), "{allowed}");
        for name in ["", "scibert", "a/b/c", "../x", "a/..", "a/b@", "a/b@../c", "a b/c"] {
            assert!(error(name).contains("is not OWNER/NAME"), "{name}");
        }
        let nobody = Hub::new("http://127.0.0.1:1", None, cache.path().into());
        assert!(nobody.fetch("a/b").unwrap_err().to_string().contains("cannot be fetched"));
    }
}
