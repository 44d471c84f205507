//! A flat buffer on each rank's GPU -> its sum over ranks by NVIDIA's NCCL (ncclAllReduce, in place), over NVLink where there is one.
//! NCCL's kernels wait on the GPU for those of all other ranks, and whoever waits for such a kernel waits with it. So a rank enqueues its own only
//! when all ranks have finished what comes before, and then waits by asking, for its end and for other ranks' failures alike.

use std::cell::Cell;
use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtrMut, DriverError, result::stream, sys};
use candle_core::cuda_backend::cudarc::nccl::{Id, result, sys as nccl};
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};

use crate::all_reduce::AllReduce;
use crate::error::{Error, Result};
use crate::meeting::Meeting;

/// Time between two looks at the GPU: little beside a step, which takes tens of milliseconds.
const GLANCE: Duration = Duration::from_micros(50);

/// What the ranks of a run need to find each other.
pub struct Session {
    id: Id,
    ranks: usize,
}

impl Session {
    /// For so many ranks.
    ///
    /// # Errors
    /// If NCCL cannot begin.
    pub fn new(ranks: usize) -> Result<Self> {
        Ok(Self { id: Id::new().map_err(|e| refused(e.0))?, ranks })
    }

    /// Joins as a rank, on the thread that has opened `device`; waits for the others.
    ///
    /// # Errors
    /// If `device` is no GPU or NCCL refuses.
    pub fn join<'a>(&self, meeting: &'a Meeting, rank: usize, device: &Device) -> Result<Nccl<'a>> {
        let compute = device.as_cuda_device()?.cuda_stream();
        compute.context().bind_to_thread().map_err(failed)?;
        let (count, number) = (self.ranks.try_into(), rank.try_into());
        let (Ok(count), Ok(number)) = (count, number) else {
            return Err(Error::Setting(format!("{} ranks are too many", self.ranks)));
        };
        let id = nccl::ncclUniqueId { internal: *self.id.internal() };
        let mut communicator = ptr::null_mut();
        // Safety: NCCL writes the handle to `communicator`; this thread's context is the rank's own.
        unsafe { result::comm_init_rank(&mut communicator, count, id, number) }.map_err(|e| refused(e.0))?;
        let mut joined =
            Nccl { meeting, rank, compute, stream: ptr::null_mut(), communicator: Cell::new(communicator) };
        // candle's own stream has a handle that means another one on each thread, and NCCL has threads.
        joined.stream = stream::create(stream::StreamKind::NonBlocking).map_err(failed)?;
        Ok(joined)
    }
}

/// A rank's communicator.
pub struct Nccl<'a> {
    meeting: &'a Meeting,
    rank: usize,
    /// Where the rank's gradients are computed.
    compute: Arc<CudaStream>,
    /// Where they are summed; null until it is made.
    stream: sys::CUstream,
    /// Null once it is aborted.
    communicator: Cell<nccl::ncclComm_t>,
}

fn failed(e: DriverError) -> Error {
    chemtag::Error::Device(format!("summing gradients failed on the GPU: {e:?}")).into()
}

fn refused(code: nccl::ncclResult_t) -> Error {
    // Safety: NCCL answers with a string of its own for any code.
    let text = unsafe { CStr::from_ptr(nccl::ncclGetErrorString(code)) }.to_string_lossy();
    chemtag::Error::Device(format!("NCCL failed: {text} ({code:?}); with NCCL_DEBUG=WARN it tells more")).into()
}

impl Nccl<'_> {
    /// Waits until `done`, unless a rank fails.
    fn until(&self, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        while !done()? {
            self.meeting.check()?;
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Whether the sum is complete.
    fn summed(&self) -> Result<bool> {
        let mut state = nccl::ncclResult_t::ncclSuccess;
        // Safety: the communicator is not aborted as long as this rank waits; NCCL writes one code.
        unsafe { nccl::ncclCommGetAsyncError(self.communicator.get(), &mut state) }
            .result()
            .map_err(|e| refused(e.0))?;
        state.result().map_err(|e| refused(e.0))?;
        // Safety: the stream lives as long as this rank.
        match unsafe { sys::cuStreamQuery(self.stream) }.result() {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    /// Ends a kernel that waits for other ranks. They need not take part, as they would have to in a proper end.
    fn abort(&self) {
        let communicator = self.communicator.replace(ptr::null_mut());
        if !communicator.is_null() {
            // Safety: the handle is valid and is not used any more. An error would have nobody to go to and nothing to change.
            let _ = unsafe { result::comm_abort(communicator) };
        }
    }
}

impl AllReduce for Nccl<'_> {
    fn sum(&self, buffer: Tensor) -> Result<Tensor> {
        // An error of the device shows here, before others have begun to wait for it.
        let computed = self.compute.record_event(None).map_err(failed)?;
        self.until(|| computed.try_is_complete().map_err(failed))?;
        self.meeting.wait(self.rank)?;
        if self.communicator.get().is_null() {
            return Err(Error::Setting("a rank goes on after its run has ended".into()));
        }
        let summed =
            buffer.inplace_op1(&Enqueue(self)).map_err(Error::from).and_then(|()| self.until(|| self.summed()));
        if let Err(error) = summed {
            self.abort();
            return Err(error);
        }
        Ok(buffer)
    }
}

impl Drop for Nccl<'_> {
    fn drop(&mut self) {
        self.abort();
        if !self.stream.is_null() {
            // Safety: nothing uses the stream any more.
            let _ = unsafe { stream::destroy(self.stream) };
        }
    }
}

/// Begins to sum a buffer.
struct Enqueue<'n>(&'n Nccl<'n>);

impl InplaceOp1 for Enqueue<'_> {
    fn name(&self) -> &'static str {
        "all-reduce"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("the buffer is not on the GPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the buffer is not contiguous");
        };
        let Nccl { compute, stream, communicator, .. } = self.0;
        compute.context().bind_to_thread().w()?;
        let mut place = storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        let (memory, _guard) = place.device_ptr_mut(compute);
        // Safety: the memory holds as many floats, whoever wrote them has finished, and the caller keeps them until the sum is complete.
        let enqueued = unsafe {
            result::all_reduce(
                memory as *const _,
                memory as *mut _,
                end - start,
                nccl::ncclDataType_t::ncclFloat32,
                nccl::ncclRedOp_t::ncclSum,
                communicator.get(),
                *stream as nccl::cudaStream_t,
            )
        };
        enqueued.map(drop).map_err(|e| candle_core::Error::wrap(refused(e.0)))
    }
}
