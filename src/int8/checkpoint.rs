//! A safetensors file (floats of 16 or 32 bits, or 8-bit integers with scales) -> rows of 8-bit weights, and floats where those stay.
//! A matrix in 8 bits is two tensors: `NAME` (I8 `[outputs, inputs]`) and `NAME_scale` (F32 `[outputs]`), one scale for each output channel.
//! Names are Hugging Face's; a `distilbert.` or `bert.` prefix may be there or not.

use std::borrow::Cow;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::matrix::quantise_weights;
use crate::error::{Error, Result};
use crate::model::names::{PREFIXES, WORD_EMBEDDINGS};

/// What the name of a matrix in 8 bits gets for its scales.
pub const SCALE: &str = "_scale";

/// Rows of 8-bit weights, one scale for each.
pub struct Rows<'d> {
    /// `[rows, columns]`.
    pub values: Cow<'d, [i8]>,
    /// `[rows]`.
    pub scales: Vec<f32>,
}

/// The tensors of a file.
pub struct Checkpoint<'d> {
    tensors: SafeTensors<'d>,
    file: String,
    prefix: &'static str,
}

impl<'d> Checkpoint<'d> {
    /// Reads the names and shapes; `file` names the file in messages.
    ///
    /// # Errors
    /// [`Error::Model`] if the bytes are no safetensors file.
    pub fn read(bytes: &'d [u8], file: &str) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::Model {
            file: file.into(),
            reason: format!("not a whole safetensors file of {} bytes ({e}): get the file again", bytes.len()),
        })?;
        let holds = |prefix: &&str| tensors.tensor(&format!("{prefix}{WORD_EMBEDDINGS}")).is_ok();
        let prefix = PREFIXES.into_iter().find(holds).unwrap_or_default();
        Ok(Self { tensors, file: file.into(), prefix })
    }

    /// Whether the encoder's weights are 8-bit integers.
    pub fn is_int8(&self) -> bool {
        let words = self.tensors.tensor(&format!("{}{WORD_EMBEDDINGS}", self.prefix));
        words.is_ok_and(|words| words.dtype() == Dtype::I8)
    }

    /// A tensor of the encoder, as the file names it.
    pub fn of_encoder(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.names()
    }

    /// Type, shape and bytes of a tensor as it stands in the file.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing.
    pub fn raw(&self, name: &str) -> Result<(Dtype, Vec<usize>, &'d [u8])> {
        let missing = |_| self.fail(format!("tensor {name} is missing"));
        let tensor = self.tensors.tensor(name).map_err(missing)?;
        Ok((tensor.dtype(), tensor.shape().to_vec(), tensor.data()))
    }

    /// A tensor in floats, dequantised if it is in 8 bits.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing, of another type, or holds infinite values; [`Error::Shape`] if its shape is not `shape`.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, shape)?;
        if tensor.dtype() == Dtype::I8 {
            let rows = self.rows(name, shape)?;
            let columns = (rows.values.len() / rows.scales.len().max(1)).max(1);
            let scaled = rows.values.chunks(columns).zip(&rows.scales);
            return Ok(scaled
                .flat_map(|(row, scale)| row.iter().map(move |&value| f32::from(value) * scale))
                .collect());
        }
        let values = self.read_floats(name, &tensor)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(place) => Err(self.fail(format!("tensor {name} holds {} at {place}: no weight is so", values[place]))),
            None => Ok(values),
        }
    }

    /// A matrix `[rows, columns]` in 8 bits: as it is, or quantised now.
    ///
    /// # Errors
    /// As [`Checkpoint::floats`], and if a weight is -128, which the format leaves out.
    pub fn rows(&self, name: &str, shape: &[usize]) -> Result<Rows<'d>> {
        let tensor = self.tensor(name, shape)?;
        if tensor.dtype() == Dtype::I8 {
            let values: &[i8] = bytemuck::cast_slice(tensor.data());
            if values.contains(&i8::MIN) {
                return Err(self.fail(format!("tensor {name} holds -128, but its weights lie between -127 and 127")));
            }
            let scales = self.floats(&format!("{name}{SCALE}"), &shape[..1])?;
            return Ok(Rows { values: values.into(), scales });
        }
        let floats = self.floats(name, shape)?;
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let (mut values, mut scales) = (Vec::with_capacity(floats.len()), Vec::new());
        for row in floats.chunks(columns) {
            let (quantised, scale) = quantise_weights(row);
            values.extend(quantised);
            scales.push(scale);
        }
        Ok(Rows { values: values.into(), scales })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'d>> {
        let missing = |_| self.fail(format!("tensor {name} is missing; expected one of shape {shape:?}"));
        let tensor = self.tensors.tensor(name).map_err(missing)?;
        if tensor.shape() == shape {
            return Ok(tensor);
        }
        let (expected, found) = (shape.into(), tensor.shape().into());
        Err(Error::Shape { file: self.file.clone(), tensor: name.into(), expected, found })
    }

    fn read_floats(&self, name: &str, tensor: &TensorView) -> Result<Vec<f32>> {
        let (data, dtype) = (tensor.data(), tensor.dtype());
        let halves = || data.as_chunks::<2>().0.iter();
        Ok(match dtype {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Dtype::F16 => halves().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
            Dtype::BF16 => halves().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
            other => {
                return Err(self.fail(format!("tensor {name} is of type {other}, but must be F32, F16, BF16 or I8")));
            }
        })
    }

    /// An error about this file.
    pub fn fail(&self, reason: String) -> Error {
        Error::Model { file: self.file.clone(), reason }
    }
}
