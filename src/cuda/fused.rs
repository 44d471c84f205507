//! The fused encoder as candle sees it: a packed batch -> a tensor of hidden states, in training a differentiable function of one tensor that
//! holds all weights. 16-bit activations; the weights stay f32 and are rounded at each pass, which costs less than one layer's LayerNorm.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, CudaView};
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Device, Storage, Tensor};
use half::{bf16, f16};

use super::encoder::{EncoderOperations, FlatWeights, SavedPass};
use super::inputs::{HostInputs, Inputs};
use super::{Half, refused};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::config::EncoderConfig;
use crate::model::encoder::Pass;
use crate::model::gradient::known;
use crate::model::layout::EncoderLayout;
use crate::model::weights::Weights;

/// The encoder's weights and operations on one GPU.
pub struct FusedEncoder {
    config: EncoderConfig,
    device: Device,
    /// f32, laid out as [`EncoderLayout`] says.
    weights: Tensor,
    /// The same in 16 bits, where they never change.
    narrow: Option<Tensor>,
    operations: Operations,
}

enum Operations {
    F16(Arc<EncoderOperations<f16>>),
    Bf16(Arc<EncoderOperations<bf16>>),
}

impl FusedEncoder {
    /// Takes the weights out of a checkpoint that is on a GPU in 16 bits; `None` if it is not, or if the encoder's sizes are not ones that the
    /// kernels are for (heads 32 or 64 wide, up to 1024 wide in all).
    ///
    /// # Errors
    /// If a tensor is missing or its shape does not fit `config`.
    pub fn load(weights: &Weights, config: &EncoderConfig) -> Result<Option<Self>> {
        let layout = EncoderLayout::new(config);
        let mut parts = Vec::new();
        let mut end = 0;
        let mut kind = None;
        for place in layout.places() {
            let tensor = weights.encoder_tensor(&place.name, &place.shape)?;
            kind = Some((tensor.dtype(), tensor.device().clone()));
            if place.range.start > end {
                parts.push(Tensor::zeros(place.range.start - end, DType::F32, tensor.device())?);
            }
            parts.push(tensor.flatten_all()?.to_dtype(DType::F32)?);
            end = place.range.end;
        }
        let Some((dtype, device)) = kind else { return Ok(None) };
        if !device.is_cuda() || !matches!(dtype, DType::F16 | DType::BF16) || !fits(config) {
            return Ok(None);
        }
        if end < layout.elements() {
            parts.push(Tensor::zeros(layout.elements() - end, DType::F32, &device)?);
        }
        let mut fused = Self::new(&Tensor::cat(&parts, 0)?, config, dtype)?;
        fused.narrow = Some(fused.weights.to_dtype(dtype)?);
        Ok(Some(fused))
    }

    /// On one f32 tensor of all weights, laid out as [`EncoderLayout`] says, with bf16 activations.
    ///
    /// # Errors
    /// If the tensor is not on a GPU or of another length, or the encoder's sizes are not ones that the kernels are for.
    pub fn on_flat(weights: &Tensor, config: &EncoderConfig) -> Result<Self> {
        if !fits(config) {
            return Err(Error::Option(format!(
                "training on a GPU needs heads that are 32 or 64 wide and a width that is a multiple of 32 up to 1024, not {} heads of {}",
                config.heads,
                config.hidden / config.heads
            )));
        }
        Self::new(weights, config, DType::BF16)
    }

    fn new(weights: &Tensor, config: &EncoderConfig, dtype: DType) -> Result<Self> {
        let (device, elements) = (weights.device().clone(), EncoderLayout::new(config).elements());
        let Device::Cuda(cuda) = &device else {
            return Err(Error::Device("the fused encoder needs its weights on a GPU".into()));
        };
        if weights.dims() != [elements] || weights.dtype() != DType::F32 {
            return Err(Error::Option(format!("all weights of the encoder are {elements} numbers of 32 bits")));
        }
        let stream = cuda.cuda_stream();
        let operations = match dtype {
            DType::F16 => Operations::F16(Arc::new(EncoderOperations::load(&stream, config)?)),
            _ => Operations::Bf16(Arc::new(EncoderOperations::load(&stream, config)?)),
        };
        Ok(Self { config: config.clone(), weights: weights.clone(), narrow: None, operations, device })
    }

    /// The sizes it was loaded with.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Where its weights lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number format of its hidden states.
    pub fn dtype(&self) -> DType {
        match self.operations {
            Operations::F16(_) => DType::F16,
            Operations::Bf16(_) => DType::BF16,
        }
    }

    /// The operations, if activations are bf16: what trains without candle's graph goes on from here.
    pub fn bf16_operations(&self) -> Option<&Arc<EncoderOperations<bf16>>> {
        match &self.operations {
            Operations::Bf16(operations) => Some(operations),
            Operations::F16(_) => None,
        }
    }

    /// All weights.
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    /// Hidden states [pieces, hidden] of a packed batch with at least one piece.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn forward(&self, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
        match &self.operations {
            Operations::F16(operations) => self.forward_with(operations, batch, pass),
            Operations::Bf16(operations) => self.forward_with(operations, batch, pass),
        }
    }

    /// Hidden states [words, hidden] of the words' first pieces, of a batch with at least one word, without dropout. Nothing but the batch is
    /// copied to the GPU, before all else, and nothing waits for it.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn forward_words(&self, inputs: HostInputs) -> Result<Tensor> {
        match &self.operations {
            Operations::F16(operations) => self.forward_words_with(operations, inputs),
            Operations::Bf16(operations) => self.forward_words_with(operations, inputs),
        }
    }

    fn forward_words_with<T: Half + CudaDType + candle_core::WithDType>(
        &self,
        operations: &EncoderOperations<T>,
        inputs: HostInputs,
    ) -> Result<Tensor> {
        let Device::Cuda(cuda) = &self.device else {
            return Err(Error::Device("the fused encoder needs a GPU".into()));
        };
        let inputs = inputs.upload(&cuda.cuda_stream())?;
        let words =
            with_weights::<T, _>(&self.narrow::<T>()?, &self.weights, |w| operations.forward_words(w, &inputs))?;
        Ok(tensor(words, cuda, (inputs.words(), self.config.hidden)))
    }

    /// The weights in 16 bits.
    fn narrow<T: candle_core::WithDType>(&self) -> Result<Tensor> {
        match &self.narrow {
            Some(narrow) => Ok(narrow.clone()),
            None => Ok(self.weights.detach().to_dtype(T::DTYPE)?),
        }
    }

    fn forward_with<T: Half + CudaDType + candle_core::WithDType>(
        &self,
        operations: &Arc<EncoderOperations<T>>,
        batch: &Batch,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let Device::Cuda(cuda) = &self.device else {
            return Err(Error::Device("the fused encoder needs a GPU".into()));
        };
        let dropout = match pass {
            Pass::Inference => None,
            Pass::Training(dropout) => Some(dropout.next_pass()),
        };
        let inputs = HostInputs::new(batch, &self.config, dropout.is_some())?.upload(&cuda.cuda_stream())?;
        let narrow = self.narrow::<T>()?;
        let (hidden, saved) =
            with_weights::<T, _>(&narrow, &self.weights, |w| operations.forward(w, &inputs, dropout))?;
        let hidden = tensor(hidden, cuda, (batch.pieces(), self.config.hidden));
        let Some(saved) = saved else { return Ok(hidden) };
        let backward = Backward {
            operations: operations.clone(),
            cuda: cuda.clone(),
            weights: self.weights.detach(),
            narrow,
            inputs,
            saved: Mutex::new(Some(saved)),
        };
        Ok(known(&self.weights, hidden, Box::new(move |gradient| backward.run(gradient)))?)
    }
}

/// Whether there are kernels for an encoder of these sizes.
fn fits(config: &EncoderConfig) -> bool {
    matches!(config.hidden / config.heads, 32 | 64)
        && config.hidden <= super::layer_norm::MAX_WIDTH
        && config.ffn.is_multiple_of(32)
}

/// Gradient on the hidden states -> gradient on all weights.
struct Backward<T> {
    operations: Arc<EncoderOperations<T>>,
    cuda: CudaDevice,
    weights: Tensor,
    narrow: Tensor,
    inputs: Inputs,
    saved: Mutex<Option<SavedPass<T>>>,
}

impl<T: Half + CudaDType + candle_core::WithDType> Backward<T> {
    fn run(&self, gradient: &Tensor) -> candle_core::Result<Tensor> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(saved) = saved else {
            candle_core::bail!("the backward pass of an encoder runs once");
        };
        let stream = self.cuda.cuda_stream();
        let gradient = copy::<T>(&stream, &gradient.contiguous()?)?;
        let elements = self.operations.layout().elements();
        let mut gradients = stream
            .alloc_zeros::<f32>(elements)
            .map_err(refused("allocating gradients"))
            .map_err(candle_core::Error::wrap)?;
        with_weights::<T, _>(&self.narrow, &self.weights, |weights| {
            self.operations.backward(weights, &self.inputs, saved, gradient, &mut gradients)
        })
        .map_err(candle_core::Error::wrap)?;
        Ok(tensor(gradients, &self.cuda, elements))
    }
}

/// A tensor that owns memory of the GPU.
pub fn tensor<T: CudaDType>(memory: CudaSlice<T>, device: &CudaDevice, shape: impl Into<candle_core::Shape>) -> Tensor {
    let storage = CudaStorage::wrap_cuda_slice(memory, device.clone());
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// Calls `operation` with the memory of a contiguous tensor.
///
/// # Errors
/// If the tensor is not contiguous or not on a GPU, or holds another type.
pub fn with_memory<T: CudaDType, R>(
    tensor: &Tensor,
    operation: impl FnOnce(CudaView<'_, T>) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(Error::Device("a contiguous tensor on a GPU is needed".into()));
    };
    operation(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// Calls `operation` with the weights of two flat tensors.
///
/// # Errors
/// As [`with_memory`].
pub fn with_weights<T: Half + CudaDType, R>(
    narrow: &Tensor,
    wide: &Tensor,
    operation: impl FnOnce(FlatWeights<'_, T>) -> Result<R>,
) -> Result<R> {
    with_memory::<T, _>(narrow, |narrow| {
        with_memory::<f32, _>(wide, |wide| operation(FlatWeights { narrow: &narrow, wide: &wide }))
    })
}

fn copy<T: Half + CudaDType>(stream: &Arc<CudaStream>, tensor: &Tensor) -> candle_core::Result<CudaSlice<T>> {
    with_memory::<T, _>(tensor, |memory| stream.clone_dtod(&memory).map_err(refused("copying a gradient")))
        .map_err(candle_core::Error::wrap)
}

#[cfg(test)]
mod tests;
