//! What a kernel needs of its arguments before it is launched: views on device memory -> an error that names the one that does not fit.
//! Kernels move 16 bytes at a time, so their arguments begin at multiples of that (what is allocated does; a slice may not).
//! A parameter that may be missing is a null pointer there.

use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, CudaView, CudaViewMut, DevicePtr, LaunchArgs, LaunchConfig, PushKernelArg,
};

use crate::error::{Error, Result};

/// One operation's checks.
pub(crate) struct Checks<'a> {
    pub operation: &'static str,
    pub stream: &'a CudaStream,
}

impl Checks<'_> {
    /// `view`, called `what`, has `expected` numbers and an address that kernels can take.
    pub fn view<T>(&self, what: &str, view: &impl DevicePtr<T>, expected: usize) -> Result<()> {
        self.numbers(what, view, expected)?;
        self.address(what, view)
    }

    /// `view`, called `what`, has `expected` numbers, which kernels take one by one.
    pub fn numbers<T>(&self, what: &str, view: &impl DevicePtr<T>, expected: usize) -> Result<()> {
        if view.len() != expected {
            return Err(self.error(&format!("{what} has {} numbers, but {expected} are expected", view.len())));
        }
        Ok(())
    }

    /// `view`, called `what`, has room for `needed` numbers.
    pub fn room<T>(&self, what: &str, view: &impl DevicePtr<T>, needed: usize) -> Result<()> {
        if view.len() < needed {
            return Err(self.error(&format!("{what} has room for {} numbers, but {needed} are needed", view.len())));
        }
        self.address(what, view)
    }

    fn address<T>(&self, what: &str, view: &impl DevicePtr<T>) -> Result<()> {
        let (address, _) = view.device_ptr(self.stream);
        if !address.is_multiple_of(16) {
            return Err(self.error(&format!("{what} does not begin at a multiple of 16 bytes")));
        }
        Ok(())
    }

    /// Rows of `width` numbers in `length`, as the kernels count them.
    pub fn rows(&self, length: usize, width: usize) -> Result<u32> {
        if width == 0 || !width.is_multiple_of(32) || !length.is_multiple_of(width) {
            return Err(self.error(&format!("{length} numbers are not rows of {width}, a multiple of 32")));
        }
        self.count(length / width)
    }

    /// `count` as the kernels take it.
    pub fn count(&self, count: usize) -> Result<u32> {
        u32::try_from(count).map_err(|_| self.error(&format!("{count} is too many")))
    }

    /// An error of this operation.
    pub fn error(&self, reason: &str) -> Error {
        Error::Device(format!("{}: {reason}", self.operation))
    }
}

/// A grid of `blocks` (columns, rows) with `threads` each.
pub(crate) fn grid(blocks: (u32, u32), threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks.0, blocks.1, 1), block_dim: (threads, 1, 1), shared_mem_bytes }
}

/// Adds `view` to the arguments, or a null pointer.
pub(crate) fn read_or_null<'a, 'b: 'a, 'c: 'b, T>(launch: &mut LaunchArgs<'a>, view: Option<&'b CudaView<'c, T>>) {
    match view {
        Some(view) => launch.arg(view),
        None => launch.arg(&0u64),
    };
}

/// Adds `view` to the arguments, or a null pointer.
pub(crate) fn write_or_null<'a, 'b: 'a, 'c: 'b, T>(
    launch: &mut LaunchArgs<'a>,
    view: Option<&'b mut CudaViewMut<'c, T>>,
) {
    match view {
        Some(view) => launch.arg(view),
        None => launch.arg(&0u64),
    };
}
