//! What candle leaves to its caller on an NVIDIA GPU.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, sys};

use crate::error::{Error, Result};

/// Lets the device's memory pool keep what is freed. By default it gives all back at every synchronisation, and the next step has to ask
/// the driver for each of its thousands of tensors anew, which takes longer than computing them.
///
/// # Errors
/// [`Error::Device`] if the driver refuses.
pub fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    let stream: std::sync::Arc<CudaStream> = device.cuda_stream();
    let refused = |e| Error::Device(format!("the CUDA driver refuses to set up its memory pool: {e:?}"));
    let mut threshold = u64::MAX;
    let mut pool = std::ptr::null_mut();
    // Safety: the context of `stream` is alive, so its device is valid; both calls read and write only the locals given, whose
    // types are those that the CUDA driver API's documentation asks for (the attribute's value is a cuuint64_t).
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, stream.context().cu_device()).result().map_err(refused)?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result().map_err(refused)
    }
}
