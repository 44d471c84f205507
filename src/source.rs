//! Where a model comes from -> its three files in memory: `config.json`, `tokenizer.json`, `model.safetensors` (Hugging Face layout).
//! A self-contained file holds the first two in the metadata of the third ([`crate::int8::to_file`]).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::contents::{Contents, hexadecimal};
use crate::error::{Error, Result};
use crate::int8::{Checkpoint, configuration_and_tokenizer};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// A folder that holds `config.json`, `tokenizer.json` and `model.safetensors`.
    Folder(PathBuf),
    /// A self-contained file, whose name ends with `.safetensors` ([`int8::to_file`](crate::int8::to_file) makes it).
    File(PathBuf),
    /// The default model inside this program (feature `embedded-model`).
    Embedded,
    /// A model elsewhere, `hf://OWNER/NAME[@REVISION][/FILE]` or an `https://` URL of a self-contained file, which is fetched once and kept (feature `hub`).
    Remote(String),
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelSource {
    fn from(path: &P) -> Self {
        path.as_ref().to_path_buf().into()
    }
}

/// A model elsewhere, if the name begins with `hf://` or `https://`; a file, if it ends with `.safetensors`; else a folder.
impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        let remote = |name: &&str| ["hf://", "https://", "http://"].iter().any(|scheme| name.starts_with(scheme));
        if let Some(address) = path.to_str().filter(remote) {
            ModelSource::Remote(address.into())
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            ModelSource::File(path)
        } else {
            ModelSource::Folder(path)
        }
    }
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSource::Folder(path) | ModelSource::File(path) => write!(f, "{}", path.display()),
            ModelSource::Embedded => f.write_str("embedded model"),
            ModelSource::Remote(address) => f.write_str(address),
        }
    }
}

/// Names of a model folder's files.
pub const FILE_NAMES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// Bytes read between two looks at whether they are still wanted: a hundredth of a second of a slow disk.
const PORTION: u64 = 1024 * 1024;

/// Called with the bytes read so far and, where it is known, their whole number. An error ends the reading and is its result.
pub type OnPortion<'a> = &'a mut dyn FnMut(u64, Option<u64>) -> Result<()>;

/// A model's files in memory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// How messages name each file, in the order of the fields below.
    pub names: [String; 3],
    /// `config.json`.
    pub config: Contents,
    /// `tokenizer.json`.
    pub tokenizer: Contents,
    /// `model.safetensors`.
    pub weights: Contents,
    /// Whether the first two stand in the metadata of the third.
    pub self_contained: bool,
}

impl ModelFiles {
    /// Reads the files once.
    ///
    /// # Errors
    /// [`Error::Read`] with the file's path, [`Error::NoEmbeddedModel`] if this build has none.
    pub fn read(source: &ModelSource) -> Result<Self> {
        Self::read_in_portions(source, &mut |_, _| Ok(()))
    }

    /// Reads the files once and calls `on_portion` after each mebibyte, so that progress shows and an unwanted model is not read to its end.
    ///
    /// # Errors
    /// As [`ModelFiles::read`], and those of `on_portion`.
    pub fn read_in_portions(source: &ModelSource, on_portion: OnPortion) -> Result<Self> {
        match source {
            ModelSource::Folder(folder) => Self::read_folder(folder, on_portion),
            ModelSource::File(path) => {
                let weights = Contents::map(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                Self::from_file(weights, path.display().to_string(), on_portion)
            }
            ModelSource::Embedded => {
                Self::from_file(embedded().ok_or(Error::NoEmbeddedModel)?, source.to_string(), on_portion)
            }
            ModelSource::Remote(address) => Self::read_in_portions(&fetched(address, on_portion)?, on_portion),
        }
    }

    /// The files of a self-contained one in memory; `name` names it in messages.
    ///
    /// # Errors
    /// [`Error::Model`] if it is none.
    pub fn from_bytes(file: Vec<u8>, name: String) -> Result<Self> {
        Self::from_file(file.into(), name, &mut |_, _| Ok(()))
    }

    /// The files of a self-contained one; `name` names it in messages.
    pub(crate) fn from_file(weights: Contents, name: String, on_portion: OnPortion) -> Result<Self> {
        let bytes = weights.len() as u64;
        on_portion(bytes, Some(bytes))?;
        let [config, tokenizer] = configuration_and_tokenizer(&weights, &name)?.map(Contents::from);
        let names = [format!("{name} (config)"), format!("{name} (tokenizer)"), name];
        Ok(Self { config, tokenizer, weights, names, self_contained: true })
    }

    fn read_folder(folder: &Path, on_portion: OnPortion) -> Result<Self> {
        if folder.is_file() {
            return Err(Error::Model {
                file: folder.display().to_string(),
                reason: format!("is a file; name the folder that holds {}", FILE_NAMES.join(", ")),
            });
        }
        let paths = FILE_NAMES.map(|name| folder.join(name));
        let names = paths.each_ref().map(|path| path.display().to_string());
        let [config, tokenizer, weights] = read_whole(paths, on_portion)?.map(Contents::from);
        Ok(Self { config, tokenizer, weights, names, self_contained: false })
    }

    /// Whether the weights are 8-bit integers.
    ///
    /// # Errors
    /// [`Error::Model`] if they are no safetensors file.
    pub fn is_int8(&self) -> Result<bool> {
        Ok(Checkpoint::read(&self.weights, &self.names[2])?.is_int8())
    }

    /// Bytes of the three files together, or of the one that holds all.
    pub fn bytes(&self) -> u64 {
        let beside: &[_] = if self.self_contained { &[] } else { &[&self.config, &self.tokenizer] };
        beside.iter().chain([&&self.weights]).map(|file| file.len() as u64).sum()
    }

    /// What the model is, wherever it lies: SHA-256 of a self-contained file, in hexadecimal, or of three files' lengths and contents.
    pub fn hash(&self) -> String {
        if self.self_contained {
            return self.weights.sha256();
        }
        sha256(&[&self.config, &self.tokenizer, &self.weights])
    }
}

/// A model elsewhere as one of this machine.
#[cfg(feature = "hub")]
fn fetched(address: &str, on_portion: OnPortion) -> Result<ModelSource> {
    crate::hub::Hub::from_environment()?.fetch(&address.parse()?, on_portion)
}

#[cfg(not(feature = "hub"))]
fn fetched(address: &str, _: OnPortion) -> Result<ModelSource> {
    let reason =
        "this build fetches no models: build with `--features hub`, or fetch it yourself and name the file or folder";
    Err(Error::Download { url: address.into(), reason: reason.into() })
}

/// The same model on this machine, if it is kept here.
pub(crate) fn kept(address: &str) -> Option<ModelSource> {
    #[cfg(feature = "hub")]
    return crate::hub::Hub::from_environment().ok()?.kept(&address.parse().ok()?);
    #[cfg(not(feature = "hub"))]
    return Some(ModelSource::Remote(address.into()));
}

/// The contents of files, each read once.
fn read_whole<const N: usize>(paths: [PathBuf; N], on_portion: OnPortion) -> Result<[Vec<u8>; N]> {
    let mut files = Vec::with_capacity(N);
    for path in &paths {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        files.push(opened.map_err(|source| Error::Read { path: path.clone(), source })?);
    }
    let total = files.iter().map(|(bytes, _)| bytes).sum();
    let mut done = 0;
    let mut contents = [const { Vec::new() }; N];
    for (((bytes, file), path), content) in files.iter().zip(&paths).zip(&mut contents) {
        let failed = |source| Error::Read { path: path.clone(), source };
        // Exactly, so that the whole file never lies in memory twice; fallibly, so that a huge one is an error.
        let room = usize::try_from(*bytes).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        content.try_reserve_exact(room).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        loop {
            let read = file.take(PORTION).read_to_end(content).map_err(failed)?;
            if read == 0 {
                break;
            }
            done += read as u64;
            on_portion(done, Some(total))?;
        }
    }
    Ok(contents)
}

/// SHA-256 of the files' lengths and contents, in hexadecimal.
pub(crate) fn sha256(files: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.len() as u64).to_le_bytes());
        hash.update(file);
    }
    hexadecimal(&hash.finalize())
}

/// The default model, if this program carries it.
fn embedded() -> Option<Contents> {
    #[cfg(feature = "embedded-model")]
    const MODEL: Option<Contents> = Some(Contents::known(
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/chemtag-small.int8.safetensors")),
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/chemtag-small.int8.safetensors.sha256"))
            .split_at(64)
            .0,
    ));
    #[cfg(not(feature = "embedded-model"))]
    const MODEL: Option<Contents> = None;
    MODEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_in_portions_gives_the_files_and_an_error_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let contents = [b"{}".to_vec(), b"tokens".to_vec(), (0..3 * PORTION + 5).map(|i| (i % 251) as u8).collect()];
        for (name, content) in FILE_NAMES.iter().zip(&contents) {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let source = ModelSource::from(folder.path());
        let total = contents.iter().map(|content| content.len() as u64).sum::<u64>();
        let mut seen = Vec::new();
        let files = ModelFiles::read_in_portions(&source, &mut |done, of| {
            assert_eq!(of, Some(total));
            seen.push(done);
            Ok(())
        })
        .unwrap();
        assert_eq!([&files.config, &files.tokenizer, &files.weights].map(|file| file.to_vec()), contents);
        assert_eq!(seen, [2, 8, 8 + PORTION, 8 + 2 * PORTION, 8 + 3 * PORTION, total]);
        assert_eq!(files.bytes(), total);
        assert_eq!(files.hash(), ModelFiles::read(&source).unwrap().hash());

        let mut calls = 0;
        let stopped = ModelFiles::read_in_portions(&source, &mut |done, _| {
            calls += 1;
            if done > PORTION { Err(Error::Cancelled { model: "m".into() }) } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(Error::Cancelled { .. })));
        assert_eq!(calls, 3);
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAMES[0]), "{}").unwrap();
        let error = ModelFiles::read(&folder.path().into()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
        let file = folder.path().join(FILE_NAMES[0]);
        assert!(ModelFiles::read(&file.into()).unwrap_err().to_string().contains("name the folder"));
    }
}
