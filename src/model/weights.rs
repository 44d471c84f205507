//! A checkpoint's bytes (safetensors, any float type) -> named tensors of the wanted type on the wanted device, shapes checked.
//! Names are Hugging Face's, those of its first checkpoints too; a `distilbert.` or `bert.` prefix may be there or not.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::names::{PREFIXES, WORD_EMBEDDINGS};
use crate::error::{Error, Result};

/// Named tensors of one model.
#[derive(Clone)]
pub struct Weights {
    file: String,
    prefix: &'static str,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    /// Reads safetensors `bytes`; `file` names them in messages. Every float tensor is converted to `dtype` on `device`.
    ///
    /// # Errors
    /// [`Error::Model`] if the bytes are no safetensors file (truncated ones included).
    pub fn from_safetensors(bytes: &[u8], file: &str, dtype: DType, device: &Device) -> Result<Self> {
        let damaged = |e: candle_core::Error| Error::Model {
            file: file.into(),
            reason: format!("not a whole safetensors file of {} bytes ({e}): get the file again", bytes.len()),
        };
        let loaded = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(damaged)?;
        let mut tensors = HashMap::with_capacity(loaded.len());
        for (name, tensor) in loaded {
            if tensor.dtype().is_float() {
                tensors.insert(todays_name(name), tensor.to_dtype(dtype)?.to_device(device)?);
            }
        }
        Ok(Self::from_tensors(tensors, file))
    }

    /// Takes tensors as they are: variables stay variables, so that what is built from them can be trained.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, file: &str) -> Self {
        let prefix =
            PREFIXES.into_iter().find(|p| tensors.contains_key(&format!("{p}{WORD_EMBEDDINGS}"))).unwrap_or_default();
        Self { file: file.into(), prefix, tensors }
    }

    /// A tensor of the encoder, by its name without prefix.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing, [`Error::Shape`] if its shape is not `shape`.
    pub fn encoder_tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.tensor(&format!("{}{name}", self.prefix), shape)
    }

    /// A tensor by its whole name.
    ///
    /// # Errors
    /// As [`Weights::encoder_tensor`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.tensors.get(name).ok_or_else(|| Error::Model {
            file: self.file.clone(),
            reason: format!("tensor {name} is missing; expected one of shape {shape:?}"),
        })?;
        if tensor.dims() != shape {
            return Err(Error::Shape {
                file: self.file.clone(),
                tensor: name.into(),
                expected: shape.into(),
                found: tensor.dims().into(),
            });
        }
        Ok(tensor.clone())
    }

    /// Whether a tensor of this whole name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All tensors by their whole names.
    pub fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.tensors
    }

    /// The encoder's prefix in this checkpoint: empty, `distilbert.` or `bert.`.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }
}

/// LayerNorm's parameters were called gamma and beta in BERT's own code, and still are in checkpoints converted from it.
fn todays_name(name: String) -> String {
    for (old, new) in [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")] {
        if let Some(layer) = name.strip_suffix(old) {
            return format!("{layer}{new}");
        }
    }
    name
}
