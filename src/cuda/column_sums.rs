//! Rows of 16-bit floats `[rows, width]` -> the sum of each column, 32-bit `[width]`: the gradient of a bias.
//! Two stages, without atomics: `column_sums.cu` adds up bands of rows, then the bands, so that equal input gives equal output to the last bit.
//! The second stage also serves the other operations that leave partial sums.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::launch::{Checks, grid, write_or_null};
use super::{Half, Kernels, refused};
use crate::error::Result;

/// Columns of a block of the first stage: 16 threads with eight each.
const TILE: u32 = 128;

/// Blocks of the first stage, about: six on each of an H100's 132 multiprocessors. A constant, so that no result depends on the GPU.
const BLOCKS: u32 = 792;

/// Grid of the first stage: (tiles of columns, bands of rows); a band has 64 rows or more.
pub(crate) fn bands(rows: u32, width: usize) -> (u32, u32) {
    let tiles = width.div_ceil(TILE as usize).max(1) as u32;
    (tiles, BLOCKS.div_ceil(tiles).min(rows.div_ceil(64)).max(1))
}

/// 32-bit floats that the partial sums of `[rows, width]` take.
pub fn scratch_len(rows: usize, width: usize) -> usize {
    bands(u32::try_from(rows).unwrap_or(u32::MAX), width).1 as usize * width
}

/// Adds up partial sums.
pub(crate) struct Finish {
    stream: Arc<CudaStream>,
    function: CudaFunction,
}

impl Finish {
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self { stream: stream.clone(), function: kernels(stream)?.plain_function("finish_columns")? })
    }

    /// `partials` `[parts, outputs * width]` -> the sums of its columns, `width` to each output; one that is `None` is passed over.
    pub fn run<const OUTPUTS: usize>(
        &self,
        partials: &CudaView<'_, f32>,
        parts: u32,
        width: usize,
        outputs: [Option<&mut CudaViewMut<'_, f32>>; OUTPUTS],
    ) -> Result<()> {
        const { assert!(OUTPUTS <= 3) };
        let checks = Checks { operation: "finish_columns", stream: &self.stream };
        checks.room("partials", partials, parts as usize * OUTPUTS * width)?;
        for output in outputs.iter().flatten() {
            checks.numbers("sums", &**output, width)?;
        }
        let (count, width) = (OUTPUTS as u32, checks.count(width)?);
        let mut outputs = outputs.into_iter();
        let mut launch = self.stream.launch_builder(&self.function);
        launch.arg(partials);
        for _ in 0..3 {
            write_or_null(&mut launch, outputs.next().flatten());
        }
        launch.arg(&parts).arg(&count).arg(&width);
        let mut config = grid((width.div_ceil(32), count), 32, 0);
        config.block_dim.1 = 8;
        // Safety: `partials` holds parts * count * width floats and each output `width` of them or is null; the kernel keeps to that.
        unsafe { launch.launch(config) }.map_err(refused("finish_columns"))?;
        Ok(())
    }
}

fn kernels(stream: &CudaStream) -> Result<Kernels> {
    Kernels::load(stream, "column_sums.cu", include_bytes!(concat!(env!("OUT_DIR"), "/column_sums.fatbin")))
}

/// The operation.
pub struct ColumnSums<T> {
    stream: Arc<CudaStream>,
    function: CudaFunction,
    finish: Finish,
    number: PhantomData<T>,
}

impl<T: Half> ColumnSums<T> {
    /// Loads the kernels.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver refuses them.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let function = kernels(stream)?.function::<T>("column_sums")?;
        Ok(Self { stream: stream.clone(), function, finish: Finish::load(stream)?, number: PhantomData })
    }

    /// `x` `[rows, width]` -> `sums` `[width]`; `scratch` has room for [`scratch_len`] numbers.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward(
        &self,
        x: &CudaView<'_, T>,
        sums: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let checks = Checks { operation: "column_sums", stream: &self.stream };
        let width = sums.len();
        let rows = checks.rows(x.len(), width)?;
        checks.view("x", x, x.len())?;
        checks.room("scratch", scratch, scratch_len(rows as usize, width))?;
        let blocks = bands(rows, width);
        let columns = checks.count(width)?;
        let mut launch = self.stream.launch_builder(&self.function);
        launch.arg(x).arg(&mut *scratch).arg(&rows).arg(&columns);
        // Safety: `x` holds rows * width numbers and `scratch` a row of sums for each band, as checked above.
        unsafe { launch.launch(grid(blocks, 256, 0)) }.map_err(refused("column_sums"))?;
        self.finish.run(&scratch.as_view(), blocks.1, width, [Some(sums)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::testing::{Number, Random, compare, download_floats, speed, unset_floats, upload_half};
    use super::*;
    use half::{bf16, f16};

    fn check<T: Number>(stream: &Arc<CudaStream>) -> Result<()> {
        let operation = ColumnSums::<T>::load(stream)?;
        for (rows, width) in [(1, 32), (2, 384), (15, 96), (17, 128), (65, 160), (513, 768), (5000, 384), (1001, 3072)]
        {
            let x = Random(rows as u64).normals::<T>(rows * width, 0.3, 1.);
            let expected: Vec<f64> = (0..width).map(|c| x.iter().skip(c).step_by(width).sum()).collect();
            let on_gpu = upload_half::<T>(stream, &x)?;
            let mut sums = unset_floats(stream, width)?;
            let mut scratch = unset_floats(stream, scratch_len(rows, width))?;
            operation.forward(&on_gpu.as_view(), &mut sums.as_view_mut(), &mut scratch.as_view_mut())?;
            let found = download_floats(stream, &sums.as_view())?;
            // The numbers are exact; adding up thousands of them in f32, in several parts, loses a few of its 24 bits.
            compare(&format!("column_sums {} [{rows}, {width}]", T::SUFFIX), &found, &expected, 1e-5);
        }
        Ok(())
    }

    #[test]
    fn sums_equal_the_reference() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        check::<bf16>(&stream)?;
        check::<f16>(&stream)
    }

    #[test]
    #[ignore = "measures time"]
    fn speed_of_column_sums() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = ColumnSums::<bf16>::load(&stream)?;
        for width in [384, 1152] {
            let x = upload_half::<bf16>(&stream, &vec![1.; 32_768 * width])?;
            let mut sums = unset_floats(&stream, width)?;
            let mut scratch = unset_floats(&stream, scratch_len(32_768, width))?;
            speed(&stream, &format!("column_sums [32768, {width}]"), 2 * x.len(), || {
                operation.forward(&x.as_view(), &mut sums.as_view_mut(), &mut scratch.as_view_mut())
            })?;
        }
        Ok(())
    }
}
