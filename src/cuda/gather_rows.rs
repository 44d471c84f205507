//! Rows `x` `[rows, width]` and an index `[n]` -> `out[i] = x[index[i]]` `[n, width]`; backward, gradient `[n, width]` -> gradient `[rows, width]`.
//! For what only some pieces need: the first piece of each word, the masked ones of a masked language model.
//! Backward it needs no sums, because no row is taken twice.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::launch::{Checks, grid};
use super::{Half, Kernels, refused};
use crate::error::Result;

/// The operation.
pub struct GatherRows<T> {
    stream: Arc<CudaStream>,
    gather: CudaFunction,
    scatter: CudaFunction,
    number: PhantomData<T>,
}

impl<T: Half> GatherRows<T> {
    /// Loads the kernels.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver refuses them.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let text = include_bytes!(concat!(env!("OUT_DIR"), "/gather_rows.fatbin"));
        let kernels = Kernels::load(stream, "gather_rows.cu", text)?;
        let (gather, scatter) = (kernels.plain_function("gather_rows")?, kernels.plain_function("scatter_rows")?);
        Ok(Self { stream: stream.clone(), gather, scatter, number: PhantomData })
    }

    /// `out[i] = x[index[i]]`: `x` `[rows, width]`, `index` `[n]`, `out` `[n, width]`. A row that does not exist reads as NaN.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward(
        &self,
        x: &CudaView<'_, T>,
        index: &CudaView<'_, u32>,
        width: usize,
        out: &mut CudaViewMut<'_, T>,
    ) -> Result<()> {
        let checks = Checks { operation: "gather_rows", stream: &self.stream };
        let rows = checks.rows(x.len(), width)?;
        checks.view("x", x, x.len())?;
        checks.view("out", out, index.len() * width)?;
        self.launch(&self.gather, x, index, out, (rows, width))
    }

    /// `out[index[i]] = grad[i]`: `grad` `[n, width]`, `index` `[n]` without repetitions, `out` `[rows, width]`, zeroed by the caller.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn backward(
        &self,
        grad: &CudaView<'_, T>,
        index: &CudaView<'_, u32>,
        width: usize,
        out: &mut CudaViewMut<'_, T>,
    ) -> Result<()> {
        let checks = Checks { operation: "gather_rows", stream: &self.stream };
        let rows = checks.rows(out.len(), width)?;
        checks.view("grad", grad, index.len() * width)?;
        checks.view("out", out, out.len())?;
        self.launch(&self.scatter, grad, index, out, (rows, width))
    }

    /// Moves a row for each number of `index` from or to its place in (rows, width); the other side has just these rows, in order.
    fn launch(
        &self,
        function: &CudaFunction,
        from: &CudaView<'_, T>,
        index: &CudaView<'_, u32>,
        to: &mut CudaViewMut<'_, T>,
        (rows, width): (u32, usize),
    ) -> Result<()> {
        let checks = Checks { operation: "gather_rows", stream: &self.stream };
        let moves = checks.count(index.len() * width / 8)?;
        let (count, pieces) = (checks.count(index.len())?, checks.count(width / 8)?);
        if moves == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(function);
        launch.arg(from).arg(index).arg(to).arg(&count).arg(&rows).arg(&pieces);
        // Safety: one side holds `count` rows of 16-byte pieces and the other `rows`, as the callers checked; the kernels skip what is outside.
        unsafe { launch.launch(grid((moves.div_ceil(256), 1), 256, 0)) }.map_err(refused("gather_rows"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::testing::{Number, Random, download, same, speed, unset_half, upload, upload_half};
    use super::*;
    use half::{bf16, f16};

    fn check<T: Number>(stream: &Arc<CudaStream>, rows: usize, count: usize, width: usize) -> Result<()> {
        let mut random = Random(count as u64);
        let x = random.normals::<T>(rows * width, 0., 1.);
        // Distinct rows in no order.
        let mut order: Vec<u32> = (0..rows as u32).collect();
        for i in 0..rows {
            order.swap(i, i + random.below(rows - i));
        }
        let index = &order[..count];
        let gathered: Vec<f64> =
            index.iter().flat_map(|&row| x[row as usize * width..][..width].iter().copied()).collect();
        let mut scattered = vec![0.; rows * width];
        for (&row, values) in index.iter().zip(gathered.chunks(width)) {
            scattered[row as usize * width..][..width].copy_from_slice(values);
        }

        let operation = GatherRows::<T>::load(stream)?;
        let (x, index) = (upload_half::<T>(stream, &x)?, upload(stream, index)?);
        let mut out = unset_half::<T>(stream, count * width)?;
        operation.forward(&x.as_view(), &index.as_view(), width, &mut out.as_view_mut())?;
        let mut back = upload_half::<T>(stream, &vec![0.; rows * width])?;
        operation.backward(&out.as_view(), &index.as_view(), width, &mut back.as_view_mut())?;
        let values = |x: Vec<T>| x.into_iter().map(T::to_f64).collect::<Vec<_>>();
        let name = format!("gather_rows {} [{rows}, {width}] {count}", T::SUFFIX);
        same(&name, &values(download(stream, &out.as_view())?), &gathered);
        same(&format!("{name} backward"), &values(download(stream, &back.as_view())?), &scattered);
        Ok(())
    }

    #[test]
    fn rows_go_there_and_back() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        for (rows, count, width) in [(1, 1, 32), (65, 17, 384), (513, 513, 768), (2000, 301, 160)] {
            check::<bf16>(&stream, rows, count, width)?;
            check::<f16>(&stream, rows, count, width)?;
        }
        Ok(())
    }

    #[test]
    fn a_row_that_does_not_exist_is_nan() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = GatherRows::<bf16>::load(&stream)?;
        let (x, index) = (upload_half::<bf16>(&stream, &[1.; 64])?, upload(&stream, &[1u32, 2])?);
        let mut out = upload_half::<bf16>(&stream, &[0.; 64])?;
        operation.forward(&x.as_view(), &index.as_view(), 32, &mut out.as_view_mut())?;
        let found = download(&stream, &out.as_view())?;
        assert!(found[..32].iter().all(|x| x.to_f32() == 1.) && found[32..].iter().all(|x| x.is_nan()));
        Ok(())
    }

    #[test]
    #[ignore = "measures time"]
    fn speed_of_gather_rows() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = GatherRows::<bf16>::load(&stream)?;
        let (rows, width) = (32_768, 384);
        let x = upload_half::<bf16>(&stream, &vec![1.; rows * width])?;
        let index = upload(&stream, &(0..rows as u32).rev().collect::<Vec<u32>>())?;
        let mut out = unset_half::<bf16>(&stream, rows * width)?;
        speed(&stream, "gather_rows [32768, 384]", 4 * x.len(), || {
            operation.forward(&x.as_view(), &index.as_view(), width, &mut out.as_view_mut())
        })?;
        speed(&stream, "scatter_rows [32768, 384]", 4 * x.len(), || {
            operation.backward(&x.as_view(), &index.as_view(), width, &mut out.as_view_mut())
        })
    }
}
