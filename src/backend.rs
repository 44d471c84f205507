//! What runs the network: a packed batch -> emission scores and class logits of its words.

use std::sync::OnceLock;

use candle_core::{DType, Device as CandleDevice};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::Network;
use crate::model::config::ModelConfig;
use crate::model::crf::TAGS;
use crate::model::encoder::Pass;
use crate::model::weights::Weights;

/// What the heads say of each word of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Emissions {
    /// Scores of O, B and I for each word.
    pub tags: Vec<[f32; TAGS]>,
    /// [words, classes] logits, row by row; empty without a class head.
    pub class_logits: Vec<f32>,
    /// Number of classes.
    pub classes: usize,
}

/// An engine that holds a model's weights.
pub trait Backend: Send + Sync {
    /// Reads a batch; an empty one gives empty emissions.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    fn emissions(&self, batch: &Batch) -> Result<Emissions>;

    /// Name for messages: engine, device and number format.
    fn describe(&self) -> String;
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The first GPU if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number, from 0.
    Cuda(usize),
}

impl Device {
    /// The device that `Auto` stands for on this machine. A GPU that worked once is not tried again.
    pub(crate) fn resolved(self) -> Self {
        static GPU_WORKED: OnceLock<()> = OnceLock::new();
        match self {
            Device::Auto if !candle_core::utils::cuda_is_available() => Device::Cpu,
            Device::Auto if GPU_WORKED.get().is_some() => Device::Cuda(0),
            Device::Auto if CandleDevice::new_cuda(0).is_ok() => {
                GPU_WORKED.get_or_init(|| ());
                Device::Cuda(0)
            }
            Device::Auto => Device::Cpu,
            named => named,
        }
    }

    /// The device of the tensor library.
    ///
    /// # Errors
    /// [`Error::Device`] if the build or the machine has no such device.
    pub fn open(self) -> Result<CandleDevice> {
        match self {
            Device::Cpu => Ok(CandleDevice::Cpu),
            Device::Auto if !candle_core::utils::cuda_is_available() => Ok(CandleDevice::Cpu),
            Device::Auto => Device::Cuda(0).open().or(Ok(CandleDevice::Cpu)),
            Device::Cuda(_) if !candle_core::utils::cuda_is_available() => Err(Error::Device(
                "this build has no CUDA: build with `--features cuda` and a CUDA toolkit, or use the device cpu".into(),
            )),
            Device::Cuda(number) => {
                let device = CandleDevice::new_cuda(number).map_err(|e| {
                    Error::Device(format!(
                        "CUDA device {number} cannot be used ({e}): check the driver with nvidia-smi"
                    ))
                })?;
                #[cfg(feature = "cuda")]
                if let CandleDevice::Cuda(cuda) = &device {
                    crate::cuda::memory::keep_freed_memory(cuda)?;
                }
                Ok(device)
            }
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` or `cuda:NUMBER`.
    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::Option(format!("no device is called \"{name}\": use auto, cpu, cuda or cuda:NUMBER"));
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Device::Cuda).ok_or_else(unknown),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Number format of weights and hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// f32 on the CPU, f16 on a GPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats (GPU).
    F16,
    /// 16-bit brain floats (GPU).
    Bf16,
}

impl Precision {
    /// The format that `Auto` stands for on a resolved device.
    pub(crate) fn resolved(self, device: Device) -> Self {
        match (self, device) {
            (Precision::Auto, Device::Cpu) => Precision::F32,
            (Precision::Auto, _) => Precision::F16,
            (named, _) => named,
        }
    }

    fn dtype(self, device: &CandleDevice) -> Result<DType> {
        match (self, device.is_cpu()) {
            (Precision::Auto | Precision::F32, true) | (Precision::F32, false) => Ok(DType::F32),
            (Precision::Auto | Precision::F16, false) => Ok(DType::F16),
            (Precision::Bf16, false) => Ok(DType::BF16),
            (Precision::F16 | Precision::Bf16, true) => {
                Err(Error::Option("16-bit floats need a GPU: use f32 on the CPU".into()))
            }
        }
    }
}

/// The network on candle's tensors.
pub struct CandleBackend {
    network: Network,
}

impl CandleBackend {
    /// Loads the weights of a safetensors file onto a device; `file` names it in messages. Returns the CPU's copy of the weights too,
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
        let weights = Weights::from_safetensors(bytes, file, precision.dtype(&device)?, &device)?;
        Ok((Self { network: Network::load(&weights, config)? }, weights))
    }

    /// Runs a network that is there already, such as one in training.
    pub fn from_network(network: Network) -> Self {
        Self { network }
    }
}

impl Backend for CandleBackend {
    fn emissions(&self, batch: &Batch) -> Result<Emissions> {
        if batch.words() == 0 {
            return Ok(Emissions::default());
        }
        read_emissions(&self.network, batch)
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

fn read_emissions(network: &Network, batch: &Batch) -> Result<Emissions> {
    let output = network.forward(batch, &mut Pass::Inference)?;
    let host = |tensor: &candle_core::Tensor| -> Result<Vec<f32>> {
        Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    let tags = host(&output.emissions)?.as_chunks().0.to_vec();
    let (class_logits, classes) = match &output.class_logits {
        Some(logits) => (host(logits)?, logits.dim(1)?),
        None => (Vec::new(), 0),
    };
    Ok(Emissions { tags, class_logits, classes })
}
