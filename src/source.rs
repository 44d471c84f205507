//! Where a model comes from -> its three files in memory: `config.json`, `tokenizer.json`, `model.safetensors` (Hugging Face layout).

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// A folder that holds `config.json`, `tokenizer.json` and `model.safetensors`.
    Folder(PathBuf),
    /// The default model inside this program (feature `embedded-model`).
    Embedded,
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelSource {
    fn from(path: &P) -> Self {
        ModelSource::Folder(path.as_ref().into())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        ModelSource::Folder(path)
    }
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSource::Folder(path) => write!(f, "{}", path.display()),
            ModelSource::Embedded => f.write_str("embedded model"),
        }
    }
}

/// Names of a model folder's files.
pub const FILE_NAMES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// A model's files in memory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// How messages name each file, in the order of the fields below.
    pub names: [String; 3],
    /// `config.json`.
    pub config: Cow<'static, [u8]>,
    /// `tokenizer.json`.
    pub tokenizer: Cow<'static, [u8]>,
    /// `model.safetensors`.
    pub weights: Cow<'static, [u8]>,
}

impl ModelFiles {
    /// Reads the files once.
    ///
    /// # Errors
    /// [`Error::Read`] with the file's path, [`Error::NoEmbeddedModel`] if this build has none.
    pub fn read(source: &ModelSource) -> Result<Self> {
        match source {
            ModelSource::Folder(folder) => Self::read_folder(folder),
            ModelSource::Embedded => embedded().ok_or(Error::NoEmbeddedModel),
        }
    }

    fn read_folder(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            return Err(Error::Model {
                file: folder.display().to_string(),
                reason: format!("is a file; name the folder that holds {}", FILE_NAMES.join(", ")),
            });
        }
        let paths = FILE_NAMES.map(|name| folder.join(name));
        let read = |path: &PathBuf| -> Result<Cow<'static, [u8]>> {
            match std::fs::read(path) {
                Ok(bytes) => Ok(bytes.into()),
                Err(source) => Err(Error::Read { path: path.clone(), source }),
            }
        };
        Ok(Self {
            config: read(&paths[0])?,
            tokenizer: read(&paths[1])?,
            weights: read(&paths[2])?,
            names: paths.map(|path| path.display().to_string()),
        })
    }

    /// SHA-256 of the three files' lengths and contents, in hexadecimal: what the model is, wherever it lies.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for file in [&self.config, &self.tokenizer, &self.weights] {
            hash.update((file.len() as u64).to_le_bytes());
            hash.update(file);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(feature = "embedded-model")]
fn embedded() -> Option<ModelFiles> {
    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/chemtag-small/", $name)).as_slice().into()
        };
    }
    Some(ModelFiles {
        names: FILE_NAMES.map(|name| format!("embedded {name}")),
        config: file!("config.json"),
        tokenizer: file!("tokenizer.json"),
        weights: file!("model.safetensors"),
    })
}

#[cfg(not(feature = "embedded-model"))]
fn embedded() -> Option<ModelFiles> {
    None
}
