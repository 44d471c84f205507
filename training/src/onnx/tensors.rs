//! A model's safetensors file -> its tensors as f32, or as 8-bit integers with a scale for each row where the file has those.

use chemtag::Error as ModelError;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::error::Result;

pub(super) struct Tensors<'w> {
    tensors: SafeTensors<'w>,
    file: String,
}

/// A matrix `[outputs, inputs]`.
pub(super) enum Matrix {
    Floats(Vec<f32>),
    /// Integers, and for each row what 1 stands for.
    Integers(Vec<i8>, Vec<f32>),
}

impl<'w> Tensors<'w> {
    pub fn read(bytes: &'w [u8], file: &str) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| ModelError::Model {
            file: file.into(),
            reason: format!("not a whole safetensors file: {e}"),
        })?;
        Ok(Self { tensors, file: file.into() })
    }

    fn fail<T>(&self, reason: String) -> Result<T> {
        Err(ModelError::Model { file: self.file.clone(), reason }.into())
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<safetensors::tensor::TensorView<'_>> {
        match self.tensors.tensor(name) {
            Ok(view) if view.shape() == shape => Ok(view),
            Ok(view) => Err(ModelError::Shape {
                file: self.file.clone(),
                tensor: name.into(),
                expected: shape.into(),
                found: view.shape().into(),
            }
            .into()),
            Err(_) => self.fail(format!("tensor {name} is missing; expected one of shape {shape:?}")),
        }
    }

    /// A tensor of floats.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let view = self.view(name, shape)?;
        let data = view.data();
        let halves = || data.as_chunks::<2>().0.iter();
        Ok(match view.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F16 => halves().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Dtype::BF16 => halves().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            other => return self.fail(format!("tensor {name} holds {other:?}, expected F32, F16 or BF16")),
        })
    }

    /// A matrix, as the file has it.
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        let view = self.view(name, &shape)?;
        if view.dtype() != Dtype::I8 {
            return Ok(Matrix::Floats(self.floats(name, &shape)?));
        }
        let values = view.data().iter().map(|value| value.cast_signed()).collect();
        Ok(Matrix::Integers(values, self.floats(&format!("{name}_scale"), &shape[..1])?))
    }
}

/// `[rows, columns]` as `[columns, rows]`.
pub(super) fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns.max(1)).copied()).collect()
}
