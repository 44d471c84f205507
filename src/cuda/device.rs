//! The number of a GPU -> the tensor library's device on it, ready for the operations of this module, or what is in the way.

use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};
use candle_core::{CudaDevice, Device};

use super::memory::{is_out_of_memory, keep_freed_memory};
use crate::device::{Obstacle, explain};
use crate::error::{Error, Result};

/// Opens a GPU, by its number from 0. All work on the device goes to one stream, in the order in which it is given, from whichever thread.
///
/// # Errors
/// [`Error::Device`] with what to do: no driver, one that is older than the CUDA of this build, no such GPU.
pub fn open(number: usize) -> Result<Device> {
    let refused = |e: DriverError| explain(number, Obstacle::Driver(e.0 as u32));
    result::init().map_err(refused)?;
    let mut driver = 0;
    // Safety: the call writes the one number that it is given.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(refused)?;
    // The kernels are PTX of the toolkit's version, which older drivers cannot read.
    let built_with = sys::CUDA_VERSION as i32;
    if driver < built_with {
        return Err(explain(number, Obstacle::TooOld { driver, built_with }));
    }
    let gpus = usize::try_from(CudaContext::device_count().map_err(refused)?).unwrap_or(0);
    if number >= gpus {
        return Err(explain(number, Obstacle::Missing { gpus }));
    }
    // Not candle's own choice, a stream for each thread: what one thread has uploaded could be read by another before it is there.
    let device = CudaDevice::new_with_stream(number).map_err(|e| match is_out_of_memory(&e) {
        true => explain(number, Obstacle::Driver(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32)),
        false => Error::Device(format!("cuda:{number} cannot be used ({e}): check the driver with nvidia-smi")),
    })?;
    // Safety: the events that this turns off order streams among each other, and this device has one. Without, each tensor would cost two events.
    unsafe { device.disable_event_tracking() };
    keep_freed_memory(&device)?;
    Ok(Device::Cuda(device))
}
