//! The network on candle's tensors as a backend: f32 on the CPU, and the way to a GPU. A packed batch -> emissions and class logits of its words.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device as CandleDevice, Tensor};

use crate::backend::{Backend, CPU_TOKEN_BUDGET, Emissions, Precision, Prepared};
use crate::batch::Batch;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::int8::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::crf::TAGS;
use crate::model::encoder::Pass;
use crate::model::weights::Weights;
use crate::model::{HeadOutput, Network};

/// A GPU's kernels start and end: they want as much at once as fits the memory of a small card, about 1 GB.
const GPU_TOKEN_BUDGET: usize = 64 * 1024;

impl Precision {
    fn dtype(self, device: &CandleDevice) -> Result<DType> {
        match (self, device.is_cpu()) {
            (Precision::Auto | Precision::F32, true) | (Precision::F32, false) => Ok(DType::F32),
            (Precision::Auto | Precision::F16, false) => Ok(DType::F16),
            (Precision::Bf16, false) => Ok(DType::BF16),
            (Precision::F16 | Precision::Bf16, true) => {
                Err(Error::Option("16-bit floats need a GPU: use f32 on the CPU".into()))
            }
            (Precision::Int8, _) => Err(Error::Option("8-bit integers need the integer engine: use floats".into())),
        }
    }
}

/// The network on candle's tensors.
pub struct CandleBackend {
    network: Network,
    /// Held while a GPU computes: neither its libraries' handles nor its memory are for several threads at once.
    turn: Mutex<()>,
}

impl CandleBackend {
    /// Loads the weights of a safetensors file onto a device, 8-bit integers as the floats that they stand for; `file` names it in messages. Returns the CPU's copy of the weights too,
    /// which holds the CRF.
    ///
    /// # Errors
    /// As [`Weights::from_safetensors`] and [`Network::load`].
    pub fn load(
        bytes: &[u8],
        file: &str,
        config: &ModelConfig,
        device: Device,
        precision: Precision,
    ) -> Result<(Self, Weights)> {
        let device = device.open()?;
        let dtype = precision.dtype(&device)?;
        let weights = match Checkpoint::read(bytes, file)? {
            checkpoint if checkpoint.is_int8() => dequantised(&checkpoint, file, dtype, &device)?,
            _ => Weights::from_safetensors(bytes, file, dtype, &device)?,
        };
        Ok((Self::from_network(Network::load(&weights, config)?), weights))
    }

    /// Runs a network that is there already, such as one in training.
    pub fn from_network(network: Network) -> Self {
        Self { network, turn: Mutex::new(()) }
    }

    fn read(&self, prepared: Prepared) -> Result<Emissions> {
        #[cfg(feature = "cuda")]
        if let Some(inputs) = prepared.inputs {
            return on_host(&self.network.forward_prepared(inputs)?);
        }
        on_host(&self.network.forward(&prepared.batch, &mut Pass::Inference)?)
    }
}

impl Backend for CandleBackend {
    fn emissions(&self, batch: &Batch) -> Result<Emissions> {
        self.compute(self.prepare(batch.clone())?)
    }

    #[cfg(feature = "cuda")]
    fn prepare(&self, batch: Batch) -> Result<Prepared> {
        use crate::model::encoder::Encoder;
        let inputs = match self.network.encoder() {
            Encoder::Fused(encoder) if batch.words() > 0 => {
                Some(crate::cuda::inputs::HostInputs::new(&batch, encoder.config(), false)?)
            }
            _ => None,
        };
        Ok(Prepared { batch, inputs })
    }

    fn compute(&self, prepared: Prepared) -> Result<Emissions> {
        if prepared.batch.words() == 0 {
            return Ok(Emissions::default());
        }
        let _turn = self.takes_turns().then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        let read = self.read(prepared);
        #[cfg(feature = "cuda")]
        if let (Err(Error::OutOfMemory(_)), CandleDevice::Cuda(device)) = (&read, self.network.encoder().device()) {
            crate::cuda::memory::give_back_freed_memory(device)?;
        }
        read
    }

    fn token_budget(&self) -> usize {
        if self.takes_turns() { GPU_TOKEN_BUDGET } else { CPU_TOKEN_BUDGET }
    }

    fn takes_turns(&self) -> bool {
        !self.network.encoder().device().is_cpu()
    }

    fn describe(&self) -> String {
        let encoder = self.network.encoder();
        let device = match encoder.device().location() {
            candle_core::DeviceLocation::Cpu => "cpu".to_string(),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        };
        format!("candle, {device}, {}", encoder.dtype().as_str())
    }
}

/// The floats that a checkpoint's 8-bit integers stand for, and the floats that it holds.
fn dequantised(checkpoint: &Checkpoint, file: &str, dtype: DType, device: &CandleDevice) -> Result<Weights> {
    let mut tensors = HashMap::new();
    for name in checkpoint.names() {
        let (_, shape, _) = checkpoint.raw(name)?;
        let values = checkpoint.floats(name, &shape)?;
        tensors.insert(name.to_string(), Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?);
    }
    Ok(Weights::from_tensors(tensors, file))
}

/// Copies what the heads say to the CPU. From a GPU all at once, for each copy waits for it.
fn on_host(output: &HeadOutput) -> Result<Emissions> {
    let host = |tensor: &Tensor| -> Result<Vec<f32>> { Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?) };
    let Some(logits) = &output.class_logits else {
        return Ok(Emissions { tags: host(&output.emissions)?.as_chunks().0.to_vec(), ..Emissions::default() });
    };
    let classes = logits.dim(1)?;
    let rows = host(&Tensor::cat(&[&output.emissions, logits], 1)?)?;
    let (mut tags, mut class_logits) = (Vec::new(), Vec::with_capacity(rows.len()));
    for row in rows.chunks_exact(TAGS + classes) {
        if let Some((of_tags, of_classes)) = row.split_first_chunk() {
            tags.push(*of_tags);
            class_logits.extend_from_slice(of_classes);
        }
    }
    Ok(Emissions { tags, class_logits, classes })
}
