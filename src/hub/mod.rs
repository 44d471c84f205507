//! In: the [`Address`] of a model on Hugging Face's hub or elsewhere. Out: its files on this machine, each fetched once, checked by its SHA-256 and kept.
//! Nothing is asked of the network unless such an address is named, and nothing at all where `CHEMTAG_OFFLINE` or `HF_HUB_OFFLINE` is set.
//!
//! ```no_run
//! // The file is fetched the first time, and taken from the cache from then on.
//! let tagger = chemtag::get("https://example.org/models/chemtag-small.int8.safetensors")?;
//! # Ok::<(), chemtag::Error>(())
//! ```

mod address;
mod cache;
mod download;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use address::Address;
pub use cache::{Kept, KeptModel};

use crate::error::{Error, Result};
use crate::source::{FILE_NAMES, ModelSource, OnPortion};
use download::Downloads;

const ENDPOINT: &str = "https://huggingface.co";

/// What is wanted of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'w> {
    /// The first of these files that the hub has.
    OneOf(&'w [&'w str]),
    /// This file, if the hub has it.
    IfThere(&'w str),
}

/// A hub, and the folder in which fetched models are kept.
pub struct Hub {
    downloads: Downloads,
    endpoint: String,
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    /// The hub at `endpoint`; `token` opens models that are not public, and goes to the endpoint alone. Models are kept below `cache`. Nothing is fetched if `offline`.
    pub fn new(endpoint: &str, token: Option<String>, cache: PathBuf, offline: bool) -> Self {
        let endpoint = endpoint.trim_end_matches('/');
        let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next().unwrap_or_default();
        let token = token.map(|token| (host.to_string(), token));
        Self { downloads: Downloads::new(token), endpoint: endpoint.into(), cache, offline }
    }

    /// By the environment variables of Hugging Face's own tools, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`, and `CHEMTAG_OFFLINE`. Models are kept in `CHEMTAG_CACHE`, else in
    /// the folder `chemtag` of the user's caches: `XDG_CACHE_HOME` or `~/.cache`, on macOS `~/Library/Caches`, on Windows `LOCALAPPDATA`.
    ///
    /// # Errors
    /// [`Error::Option`] if none of these is known.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let of_user = || if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
        let caches = || {
            folder("XDG_CACHE_HOME")
                .or_else(|| folder("LOCALAPPDATA"))
                .or_else(|| Some(folder("HOME")?.join(of_user())))
        };
        let cache = folder("CHEMTAG_CACHE").or_else(|| Some(caches()?.join("chemtag")));
        let cache = cache
            .ok_or_else(|| Error::Option("there is no folder for fetched models: set CHEMTAG_CACHE to one".into()))?;
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let offline =
            ["CHEMTAG_OFFLINE", "HF_HUB_OFFLINE"].iter().any(|name| variable(name).is_some_and(|value| value != "0"));
        Ok(Self::new(&endpoint, variable("HF_TOKEN"), cache, offline))
    }

    /// The folder below which models are kept.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A tagger's model as a source on this machine: the one file that the address names, or the folder with its three files. What is missing is fetched.
    ///
    /// # Errors
    /// As [`Hub::fetch_files`].
    pub fn fetch(&self, address: &Address, on_portion: OnPortion) -> Result<ModelSource> {
        let [config, tokenizer, weights] = FILE_NAMES.each_ref().map(std::slice::from_ref);
        let all = [Wanted::OneOf(config), Wanted::OneOf(tokenizer), Wanted::OneOf(weights)];
        let folder = match address.file() {
            Some(file) => self.fetch_files(address, &[Wanted::OneOf(&[file])], on_portion)?,
            None => self.fetch_files(address, &all, on_portion)?,
        };
        Ok(source_in(folder, address))
    }

    /// The same without asking anybody: `None` if a file is not kept.
    pub fn kept(&self, address: &Address) -> Option<ModelSource> {
        let model = KeptModel::read(&self.cache.join(address.folder())).ok()?;
        let all = match address.file() {
            Some(file) => model.has(file) && has_sha256(&model, address),
            None => FILE_NAMES.iter().all(|file| model.has(file)),
        };
        all.then(|| source_in(model.folder, address))
    }

    /// The folder of a model with the files that are wanted; those that are missing are fetched, and `on_portion` called with the bytes of each as they come.
    /// A branch is fetched as it is at the first time: only a commit's hash names the same files everywhere.
    ///
    /// # Errors
    /// [`Error::Download`] if the hub lacks a file, cannot be reached, or gives another file than it should; [`Error::Input`] if a file cannot be written.
    pub fn fetch_files(&self, address: &Address, wanted: &[Wanted], on_portion: OnPortion) -> Result<PathBuf> {
        let folder = self.cache.join(address.folder());
        let missing = |model: &KeptModel| wanted.iter().copied().find(|wanted| !model.is_settled(*wanted));
        let kept = KeptModel::read(&folder)?;
        let first = if has_sha256(&kept, address) { missing(&kept) } else { wanted.first().copied() };
        let Some(first) = first else { return Ok(folder) };
        if self.offline {
            let file = match first {
                Wanted::OneOf(files) => files.join(" or "),
                Wanted::IfThere(file) => file.into(),
            };
            return Err(Error::Download {
                url: address.to_string(),
                reason: format!(
                    "{file} is not kept in {}, and chemtag is to stay offline (CHEMTAG_OFFLINE, HF_HUB_OFFLINE)",
                    folder.display()
                ),
            });
        }
        let _lock = cache::lock(&folder)?;
        // Somebody else may have fetched it meanwhile.
        let mut model = KeptModel::read(&folder)?;
        model.address = address.model_only();
        if !has_sha256(&model, address) {
            model.files.retain(|name, _| Some(name.as_str()) != address.file());
        }
        while let Some(wanted) = missing(&model) {
            let files = match &wanted {
                Wanted::OneOf(files) => files,
                Wanted::IfThere(file) => std::slice::from_ref(file),
            };
            self.fetch_first(address, files, &mut model, on_portion)?;
            if !model.is_settled(wanted) {
                let reason = format!("there is no {}", files.join(" and no "));
                return Err(Error::Download { url: address.to_string(), reason });
            }
        }
        Ok(folder)
    }

    /// Fetches the first of several files that the server has, and notes which it has and which not.
    fn fetch_first(
        &self,
        address: &Address,
        files: &[&str],
        model: &mut KeptModel,
        on_portion: OnPortion,
    ) -> Result<()> {
        for file in files {
            let url = address.url(&self.endpoint, file);
            let sha256 = address.sha256.as_deref().filter(|_| address.file() == Some(*file));
            let fetched = self.downloads.fetch(&url, &model.folder.join(file), sha256, on_portion)?;
            match fetched {
                Some(kept) => {
                    model.absent.retain(|name| name != file);
                    model.files.insert((*file).into(), kept);
                    return model.write();
                }
                None if model.absent.iter().all(|name| name != file) => model.absent.push((*file).into()),
                None => {}
            }
        }
        model.write()
    }

    /// Models that are kept, by their addresses.
    ///
    /// # Errors
    /// [`Error::Read`] if the folder cannot be read, [`Error::Input`] if what stands in it is damaged.
    pub fn list(&self) -> Result<Vec<KeptModel>> {
        cache::list(&self.cache)
    }

    /// Removes what is kept of a model; of one on a hub all files of that revision. Whether there was anything.
    ///
    /// # Errors
    /// [`Error::Input`] if a file cannot be removed.
    pub fn remove(&self, address: &Address) -> Result<bool> {
        cache::remove(&self.cache.join(address.folder()))
    }
}

impl KeptModel {
    /// Whether a file that is wanted is there, or known not to be.
    fn is_settled(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::OneOf(files) => files.iter().any(|file| self.has(file)),
            Wanted::IfThere(file) => self.has(file) || self.absent.iter().any(|absent| absent == file),
        }
    }
}

impl Address {
    /// Without the file of a model on a hub, and without a SHA-256: all that shares a folder.
    fn model_only(&self) -> String {
        match &self.place {
            address::Place::Hub { model, revision, .. } => format!("hf://{model}@{revision}"),
            address::Place::Url { url, .. } => url.clone(),
        }
    }
}

/// Whether the file that is kept, if one is, has the SHA-256 that the address asks for.
fn has_sha256(model: &KeptModel, address: &Address) -> bool {
    let kept = address.file().and_then(|file| model.files.get(file));
    match (&address.sha256, kept) {
        (Some(expected), Some(kept)) => *expected == kept.sha256,
        _ => true,
    }
}

fn source_in(folder: PathBuf, address: &Address) -> ModelSource {
    match address.file() {
        Some(file) => ModelSource::File(folder.join(file)),
        None => ModelSource::Folder(folder),
    }
}
