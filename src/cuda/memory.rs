//! What candle leaves to its caller on an NVIDIA GPU.

use candle_core::CudaDevice;
use candle_core::cuda_backend::CudaError;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t as BlasStatus;
use candle_core::cuda_backend::cudarc::curand::sys::curandStatus_t as RandomStatus;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DriverError, sys};

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

/// Gives the memory that is freed, but kept, back to the driver: for what does not come from the pool, such as cuBLAS' own, and for other programs.
///
/// # Errors
/// [`Error::Device`] if the driver refuses.
pub fn give_back_freed_memory(device: &CudaDevice) -> Result<()> {
    let stream: std::sync::Arc<CudaStream> = device.cuda_stream();
    let refused = |e| Error::Device(format!("the CUDA driver refuses to take memory back: {e:?}"));
    // What is freed is free only when the stream has come to that point.
    stream.synchronize().map_err(refused)?;
    let mut pool = std::ptr::null_mut();
    // Safety: the context of `stream` is alive, so its device is valid, and a device's default pool lives as long as it.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, stream.context().cu_device()).result().map_err(refused)?;
        sys::cuMemPoolTrimTo(pool, 0).result().map_err(refused)
    }
}

/// Whether a call of the driver failed for want of memory.
pub(super) fn is_full(error: DriverError) -> bool {
    error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// Whether an error of the tensor library comes from too little memory on the GPU.
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    use candle_core::Error as Candle;
    match error {
        Candle::Cuda(inner) => match (inner.downcast_ref::<CudaError>(), inner.downcast_ref::<DriverError>()) {
            (Some(CudaError::Cuda(e) | CudaError::Load { cuda: e, .. }), _) | (None, Some(e)) => is_full(*e),
            (Some(CudaError::Cublas(e)), _) => e.0 == BlasStatus::CUBLAS_STATUS_ALLOC_FAILED,
            (Some(CudaError::Curand(e)), _) => e.0 == RandomStatus::CURAND_STATUS_ALLOCATION_FAILED,
            _ => false,
        },
        Candle::Context { inner, .. } | Candle::WithPath { inner, .. } | Candle::WithBacktrace { inner, .. } => {
            is_out_of_memory(inner)
        }
        // Wrapped errors have lost their type; the driver's and the library's names of this one stand in their text.
        Candle::Wrapped(_) | Candle::WrappedContext { .. } | Candle::Msg(_) => {
            let text = error.to_string();
            text.contains("CUDA_ERROR_OUT_OF_MEMORY") || text.contains("CUBLAS_STATUS_ALLOC_FAILED")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_other_failures_through_all_wrappings() {
        let full = || candle_core::Error::from(CudaError::Cuda(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)));
        let other = || candle_core::Error::from(CudaError::Cuda(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)));
        let wrap =
            |inner: candle_core::Error| candle_core::Error::WithPath { inner: Box::new(inner), path: "a".into() };
        assert!(is_out_of_memory(&full()) && is_out_of_memory(&wrap(full())) && is_out_of_memory(&wrap(wrap(full()))));
        assert!(!is_out_of_memory(&other()) && !is_out_of_memory(&wrap(other())));
        assert!(crate::Error::from(full()).is_out_of_memory());
        assert!(
            super::super::refused("allocating")(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY))
                .is_out_of_memory()
        );
        let wrapped = candle_core::Error::wrap("launch: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(is_out_of_memory(&wrapped));
    }
}
