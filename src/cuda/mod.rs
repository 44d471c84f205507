//! Training and tagging on NVIDIA GPUs: fused operations over packed sequences, each with its backward pass, as kernels of our own,
//! matrix products by cuBLASLt. One file per operation, the kernel's source (`.cu`) beside it; activations are 16-bit, sums 32-bit floats.

pub mod adamw;
pub mod attention;
pub mod column_sums;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod encoder;
pub mod fused;
pub mod gather_rows;
pub mod gelu;
pub mod inputs;
mod launch;
pub mod layer_norm;
pub mod memory;
pub mod occurrences;
pub mod products;
pub mod residual_norm;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, CudaStream, DeviceRepr, ValidAsZeroBits};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use half::{bf16, f16};

use crate::error::{Error, Result};

/// A 16-bit float that activations have.
pub trait Half: DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + Unpin + 'static {
    /// End of the names of the kernels for it.
    const SUFFIX: &'static str;
}

impl Half for f16 {
    const SUFFIX: &'static str = "f16";
}

impl Half for bf16 {
    const SUFFIX: &'static str = "bf16";
}

/// The kernels of one `.cu` file, on one device.
pub struct Kernels {
    file: &'static str,
    module: Arc<CudaModule>,
}

/// Modules by the context that they were loaded into and their file: every copy of an operation shares them.
static MODULES: Mutex<BTreeMap<(usize, &str), Arc<CudaModule>>> = Mutex::new(BTreeMap::new());

impl Kernels {
    /// Loads `image`, the machine code of `file` for the GPUs that the build knows; a newer one gets its own from the driver's compiler.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver is too old for it.
    pub fn load(stream: &CudaStream, file: &'static str, image: &[u8]) -> Result<Self> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.entry((stream.context().cu_ctx() as usize, file)) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => {
                let module = stream.context().load_module(Ptx::from_binary(image.to_vec())).map_err(|e| {
                    Error::Device(format!("the driver refuses the kernels of {file} ({e}): update the NVIDIA driver"))
                })?;
                place.insert(module).clone()
            }
        };
        Ok(Self { file, module })
    }

    /// The kernel `NAME_TYPE`.
    ///
    /// # Errors
    /// If there is none.
    pub fn function<T: Half>(&self, name: &str) -> Result<CudaFunction> {
        self.plain_function(&format!("{name}_{}", T::SUFFIX))
    }

    /// The kernel of this whole name.
    ///
    /// # Errors
    /// If there is none.
    pub fn plain_function(&self, name: &str) -> Result<CudaFunction> {
        self.module.load_function(name).map_err(|e| Error::Device(format!("no kernel {name} in {}: {e}", self.file)))
    }
}

/// A failed launch or copy as the crate's error.
pub(crate) fn refused(what: &str) -> impl Fn(candle_core::cuda_backend::cudarc::driver::DriverError) -> Error + '_ {
    move |e| Error::Device(format!("{what} failed on the GPU: {e:?}"))
}

/// The stream of the first GPU; where there is none, tests that need one say so and pass.
/// The GPU to test on.
#[cfg(test)]
pub(crate) fn gpu_device() -> Option<candle_core::Device> {
    let device = candle_core::Device::new_cuda(0).ok();
    if device.is_none() {
        println!("no GPU: not run");
    }
    device
}

/// Its stream.
#[cfg(test)]
pub(crate) fn gpu() -> Option<Arc<CudaStream>> {
    Some(gpu_device()?.as_cuda_device().ok()?.cuda_stream())
}
