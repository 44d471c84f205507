//! A device's name -> the tensor library's device, or why it cannot be used and what to do about it.

#[cfg(feature = "candle")]
use std::sync::{Once, OnceLock};

#[cfg(feature = "candle")]
use candle_core::Device as CandleDevice;

use crate::error::{Error, Result};
#[cfg(feature = "candle")]
use crate::warnings::warn;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The first GPU if this build and this machine have one, else the CPU. Where the build has CUDA, but the machine's GPU cannot be used, a
    /// [warning](crate::on_warning) says so and why, once.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number, from 0.
    Cuda(usize),
}

impl Device {
    /// The device that `Auto` stands for on this machine. A GPU that worked once is not tried again.
    #[cfg(feature = "candle")]
    pub(crate) fn resolved(self) -> Self {
        static GPU_WORKED: OnceLock<()> = OnceLock::new();
        match self {
            Device::Auto if !candle_core::utils::cuda_is_available() => Device::Cpu,
            Device::Auto if GPU_WORKED.get().is_some() => Device::Cuda(0),
            Device::Auto => match gpu_unless(open_gpu(0)) {
                Some(_) => {
                    GPU_WORKED.get_or_init(|| ());
                    Device::Cuda(0)
                }
                None => Device::Cpu,
            },
            named => named,
        }
    }

    /// The device that `Auto` stands for: the integer engine computes on the CPU.
    #[cfg(not(feature = "candle"))]
    pub(crate) fn resolved(self) -> Self {
        if self == Device::Auto { Device::Cpu } else { self }
    }

    /// The device of the tensor library.
    ///
    /// # Errors
    /// [`Error::Device`] if the build or the machine has no such device, or its driver does not fit.
    #[cfg(feature = "candle")]
    pub fn open(self) -> Result<CandleDevice> {
        match self {
            Device::Cpu => Ok(CandleDevice::Cpu),
            Device::Auto if !candle_core::utils::cuda_is_available() => Ok(CandleDevice::Cpu),
            Device::Auto => Ok(gpu_unless(open_gpu(0)).unwrap_or(CandleDevice::Cpu)),
            Device::Cuda(number) => open_gpu(number),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_gpu(number: usize) -> Result<CandleDevice> {
    crate::cuda::device::open(number)
}

#[cfg(all(feature = "candle", not(feature = "cuda")))]
fn open_gpu(number: usize) -> Result<CandleDevice> {
    Err(Error::Device(format!(
        "cuda:{number} cannot be used: this program was built without CUDA; build it with `--features cuda` and a CUDA toolkit, or use the device cpu"
    )))
}

/// The GPU, or nothing and, once in a process, a warning.
#[cfg(feature = "candle")]
fn gpu_unless(opened: Result<CandleDevice>) -> Option<CandleDevice> {
    static SAID: Once = Once::new();
    opened.inspect_err(|error| SAID.call_once(|| warn(&format!("computing on the CPU, because {error}")))).ok()
}

/// Why a GPU cannot be used.
#[cfg(any(feature = "cuda", all(feature = "candle", test)))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The driver's error, by its number (`CUresult`).
    Driver(u32),
    /// The newest CUDA that the driver can do, and the CUDA that this program was built with; 1000 x major + 10 x minor.
    TooOld { driver: i32, built_with: i32 },
    /// This many GPUs are there.
    Missing { gpus: usize },
}

/// What to tell somebody who wanted the GPU of this number.
#[cfg(any(feature = "cuda", all(feature = "candle", test)))]
pub(crate) fn explain(number: usize, obstacle: Obstacle) -> Error {
    let version = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    let reason = match obstacle {
        Obstacle::TooOld { driver, built_with } => format!(
            "the NVIDIA driver is made for CUDA {} at most, but this program for {}: update the driver",
            version(driver),
            version(built_with)
        ),
        Obstacle::Missing { gpus: 0 } | Obstacle::Driver(100) => {
            "the driver finds no NVIDIA GPU: check nvidia-smi and the environment variable CUDA_VISIBLE_DEVICES".into()
        }
        Obstacle::Missing { gpus: 1 } => "there is one GPU: use cuda or cuda:0".into(),
        Obstacle::Missing { gpus } => format!("there are {gpus} GPUs: use cuda:0 to cuda:{}", gpus - 1),
        Obstacle::Driver(2) => {
            return Error::OutOfMemory(format!(
                "cuda:{number} has no memory free: nvidia-smi shows which programs hold it"
            ));
        }
        // The library that is there to link with, where the driver's own should be; no kernel module of the driver.
        Obstacle::Driver(34) => "there is no NVIDIA driver, only its stub library: install the driver".into(),
        Obstacle::Driver(3 | 999) => {
            "the NVIDIA driver does not start: check with nvidia-smi that it is installed and its kernel module loaded"
                .into()
        }
        Obstacle::Driver(46) => {
            "another program has the GPU to itself: nvidia-smi shows which, and the compute mode".into()
        }
        Obstacle::Driver(209 | 222) => "the NVIDIA driver is too old for this program's kernels: update it".into(),
        Obstacle::Driver(802) => "the system is not ready: check that NVIDIA's fabric manager runs".into(),
        Obstacle::Driver(803) => {
            "the driver's library and kernel module are of different versions: restart after an update".into()
        }
        Obstacle::Driver(804) => {
            "the driver is too old, and its forward compatibility does not cover this GPU: update the driver".into()
        }
        Obstacle::Driver(code) => format!("the NVIDIA driver reports error {code}: check it with nvidia-smi"),
    };
    Error::Device(format!("cuda:{number} cannot be used: {reason}"))
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

#[cfg(all(test, feature = "candle"))]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn every_obstacle_is_explained() {
        let said = |number, obstacle| explain(number, obstacle).to_string();
        assert_eq!(
            said(2, Obstacle::TooOld { driver: 12_080, built_with: 13_000 }),
            "cuda:2 cannot be used: the NVIDIA driver is made for CUDA 12.8 at most, but this program for 13.0: update the driver"
        );
        assert!(said(0, Obstacle::Missing { gpus: 0 }).contains("finds no NVIDIA GPU"));
        assert!(said(1, Obstacle::Missing { gpus: 1 }).contains("there is one GPU: use cuda or cuda:0"));
        assert!(said(8, Obstacle::Missing { gpus: 8 }).contains("there are 8 GPUs: use cuda:0 to cuda:7"));
        assert!(said(0, Obstacle::Driver(803)).contains("restart"));
        assert!(said(0, Obstacle::Driver(7777)).contains("error 7777"));
        assert!(explain(0, Obstacle::Driver(2)).is_out_of_memory());
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_says_so() {
        assert!(matches!(Device::Auto.open(), Ok(CandleDevice::Cpu)));
        assert_eq!(Device::Auto.resolved(), Device::Cpu);
        let error = Device::Cuda(1).open().unwrap_err();
        assert!(error.to_string().starts_with("cuda:1 cannot be used: this program was built without CUDA"), "{error}");
    }

    #[test]
    fn auto_says_once_that_it_takes_the_cpu() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        crate::on_warning(move |message| ears.lock().unwrap().push(message.to_string()));
        for _ in 0..3 {
            assert!(gpu_unless(Err(explain(0, Obstacle::Missing { gpus: 0 }))).is_none());
        }
        let heard = heard.lock().unwrap();
        let about_cpu: Vec<_> = heard.iter().filter(|message| message.contains("computing on the CPU")).collect();
        assert_eq!(about_cpu.len(), 1, "{heard:?}");
        assert!(about_cpu[0].contains("finds no NVIDIA GPU"));
    }
}
