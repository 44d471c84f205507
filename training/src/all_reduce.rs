//! A flat buffer of each rank -> its sum over ranks, on all of them. On CPUs by way of the process' memory; on GPUs by NCCL (`nccl.rs`).

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::meeting::Meeting;

/// Adds buffers over the ranks of a run.
pub trait AllReduce {
    /// The sum over ranks of `buffer` `[n]`, contiguous, f32, on the rank's device; the same on all ranks to the last bit.
    ///
    /// # Errors
    /// If the device fails or another rank has failed.
    fn sum(&self, buffer: Tensor) -> Result<Tensor>;
}

/// Through the memory of the process that all ranks are threads of.
pub struct SharedMemory<'a> {
    /// Where they meet.
    pub meeting: &'a Meeting,
    /// Which one this is.
    pub rank: usize,
}

impl AllReduce for SharedMemory<'_> {
    fn sum(&self, buffer: Tensor) -> Result<Tensor> {
        let numbers: Vec<f64> = buffer.to_dtype(DType::F64)?.to_vec1()?;
        let sums = self.meeting.sum(self.rank, numbers)?;
        Ok(Tensor::from_slice(&sums, buffer.shape(), buffer.device())?.to_dtype(DType::F32)?)
    }
}
