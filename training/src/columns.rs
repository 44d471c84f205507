//! Columns of small numbers <-> one safetensors file: the form of prepared corpora, prepared text and kept posteriors.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, View};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::write_atomically;

/// SHA-256 of the parts' lengths and contents, in hexadecimal: what a file keeps of the things that it was made from.
pub fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One column, ready to be written.
pub struct Column {
    dtype: Dtype,
    length: usize,
    bytes: Vec<u8>,
}

impl Column {
    /// 8-bit numbers.
    pub fn bytes(numbers: impl IntoIterator<Item = u8>) -> Self {
        let bytes: Vec<u8> = numbers.into_iter().collect();
        Self { dtype: Dtype::U8, length: bytes.len(), bytes }
    }

    /// 16-bit numbers.
    pub fn shorts(numbers: impl IntoIterator<Item = u16>) -> Self {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u16::to_le_bytes).collect();
        Self { dtype: Dtype::U16, length: bytes.len() / 2, bytes }
    }

    /// 16-bit floats.
    pub fn halves(numbers: impl IntoIterator<Item = f16>) -> Self {
        Self { dtype: Dtype::F16, ..Self::shorts(numbers.into_iter().map(f16::to_bits)) }
    }

    /// 32-bit numbers.
    pub fn words(numbers: impl IntoIterator<Item = u32>) -> Self {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        Self { dtype: Dtype::U32, length: bytes.len() / 4, bytes }
    }
}

impl View for Column {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        std::slice::from_ref(&self.length)
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes named columns to one file.
///
/// # Errors
/// If the file cannot be written; an earlier one stays then.
pub fn save(path: &Path, columns: Vec<(&str, Column)>, metadata: Option<HashMap<String, String>>) -> Result<()> {
    let file = safetensors::serialize(columns, metadata)
        .map_err(|e| Error::Dataset { path: path.into(), reason: e.to_string() })?;
    write_atomically(path, &file)
}

/// Reads a file of columns.
///
/// # Errors
/// If the file cannot be read or is no safetensors file.
pub fn load(path: &Path) -> Result<Columns> {
    let file = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let columns = Columns { path: path.into(), file };
    SafeTensors::deserialize(&columns.file).map_err(|e| columns.damaged(&e.to_string()))?;
    Ok(columns)
}

/// A file of columns.
pub struct Columns {
    path: PathBuf,
    file: Vec<u8>,
}

impl Columns {
    /// The error that the file cannot be used.
    pub fn damaged(&self, reason: &str) -> Error {
        Error::Dataset { path: self.path.clone(), reason: reason.into() }
    }

    /// A string that was written beside the columns.
    ///
    /// # Errors
    /// If it is missing.
    pub fn metadata(&self, name: &str) -> Result<String> {
        let (_, metadata) = SafeTensors::read_metadata(&self.file).map_err(|e| self.damaged(&e.to_string()))?;
        let found = metadata.metadata().as_ref().and_then(|m| m.get(name)).cloned();
        found.ok_or_else(|| self.damaged(&format!("{name} is missing")))
    }

    fn read(&self, name: &str, dtype: Dtype) -> Result<Vec<u8>> {
        let tensors = SafeTensors::deserialize(&self.file).map_err(|e| self.damaged(&e.to_string()))?;
        match tensors.tensor(name) {
            Ok(tensor) if tensor.dtype() == dtype => Ok(tensor.data().to_vec()),
            Ok(tensor) => Err(self.damaged(&format!("column {name} is {:?}, expected {dtype:?}", tensor.dtype()))),
            Err(e) => Err(self.damaged(&e.to_string())),
        }
    }

    /// A column of 8-bit numbers.
    ///
    /// # Errors
    /// If it is missing or of another width.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.read(name, Dtype::U8)
    }

    /// A column of 16-bit numbers.
    ///
    /// # Errors
    /// As [`Columns::bytes`].
    pub fn shorts(&self, name: &str) -> Result<Vec<u16>> {
        Ok(self.read(name, Dtype::U16)?.as_chunks().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect())
    }

    /// A column of 16-bit floats.
    ///
    /// # Errors
    /// As [`Columns::bytes`].
    pub fn halves(&self, name: &str) -> Result<Vec<f16>> {
        Ok(self.read(name, Dtype::F16)?.as_chunks().0.iter().map(|&pair| f16::from_le_bytes(pair)).collect())
    }

    /// A column of 32-bit numbers.
    ///
    /// # Errors
    /// As [`Columns::bytes`].
    pub fn words(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.read(name, Dtype::U32)?.as_chunks().0.iter().map(|&four| u32::from_le_bytes(four)).collect())
    }
}
