//! Residual and output of a layer `[rows, width]` -> `LayerNorm(residual + dropout(x)) * weight + bias` `[rows, width]`, and the gradients of all.
//! One pass over memory in each direction (`residual_norm.cu`); gradients of parameters by column sums in two stages.
//! LayerNorm: Ba, Kiros, Hinton 2016; dropout: Srivastava et al. 2014.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::column_sums::Finish;
use super::dropout::Dropout;
use super::launch::{Checks, grid, read_or_null, write_or_null};
use super::layer_norm::{BACKWARD_THREADS, FORWARD_THREADS, Norm, NormGradients, RowKernels, SavedNorm, scratch_len};
use super::{Half, Kernels, refused};
use crate::error::{Error, Result};

/// The operation.
pub struct ResidualNorm<T> {
    stream: Arc<CudaStream>,
    forward: RowKernels,
    backward: RowKernels,
    finish: Finish,
    number: PhantomData<T>,
}

impl<T: Half> ResidualNorm<T> {
    /// Loads the kernels.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses them.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let kernels = Kernels::load(
            stream,
            "residual_norm.cu",
            include_bytes!(concat!(env!("OUT_DIR"), "/residual_norm.fatbin")),
        )?;
        Ok(Self {
            stream: stream.clone(),
            forward: RowKernels::load::<T>(&kernels, "residual_norm_forward")?,
            backward: RowKernels::load::<T>(&kernels, "residual_norm_backward")?,
            finish: Finish::load(stream)?,
            number: PhantomData,
        })
    }

    /// `residual` and `x` `[rows, width]` -> `out` `[rows, width]`; without a residual it is dropout and LayerNorm alone.
    /// With `statistics` `[rows, 2]`, for a backward pass, they are written, and `x` becomes the sum; without, `x` stays as it is.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward(
        &self,
        residual: Option<&CudaView<'_, T>>,
        x: &mut CudaViewMut<'_, T>,
        norm: Norm<'_>,
        dropout: Dropout,
        statistics: Option<&mut CudaViewMut<'_, f32>>,
        out: &mut CudaViewMut<'_, T>,
    ) -> Result<()> {
        let checks = Checks { operation: "residual_norm", stream: &self.stream };
        let width = norm.weight.len();
        let rows = checks.rows(out.len(), width)?;
        if let Some(residual) = residual {
            checks.view("residual", residual, out.len())?;
        }
        checks.view("x", x, out.len())?;
        checks.view("weight", norm.weight, width)?;
        checks.view("bias", norm.bias, width)?;
        if let Some(statistics) = &statistics {
            checks.view("statistics", &**statistics, 2 * rows as usize)?;
        }
        checks.view("out", out, out.len())?;
        let (function, blocks) = self.forward.forward(&checks, rows, width)?;
        let (dropout, columns) = (dropout.arguments()?, checks.count(width)?);
        if rows == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(function);
        read_or_null(&mut launch, residual);
        launch.arg(x).arg(norm.weight).arg(norm.bias).arg(&norm.epsilon).arg(&dropout);
        write_or_null(&mut launch, statistics);
        launch.arg(out).arg(&rows).arg(&columns);
        // Safety: the tensors hold rows * width numbers, the parameters width, the statistics 2 * rows, as checked above.
        unsafe { launch.launch(grid((blocks, 1), FORWARD_THREADS, 0)) }.map_err(refused("residual_norm"))?;
        Ok(())
    }

    /// `grad` `[rows, width]`, the gradient on the output, becomes that on the residual. `sum` `[rows, width]` is what `forward` left in `x`.
    /// With an active dropout `grad_x` `[rows, width]` gets the gradient on `x`; without, both are the same, and it is to be `None`.
    /// `gradients.input` is that of the bias that `x` came with: the column sums of the gradient on `x`. `scratch` has room for
    /// [`scratch_len`] numbers.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn backward(
        &self,
        grad: &mut CudaViewMut<'_, T>,
        sum: &CudaView<'_, T>,
        saved: SavedNorm<'_>,
        grad_x: Option<&mut CudaViewMut<'_, T>>,
        mut gradients: NormGradients<'_>,
        scratch: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let checks = Checks { operation: "residual_norm", stream: &self.stream };
        let width = saved.weight.len();
        let rows = checks.rows(grad.len(), width)?;
        checks.view("grad", grad, grad.len())?;
        checks.view("sum", sum, grad.len())?;
        checks.view("statistics", saved.statistics, 2 * rows as usize)?;
        checks.view("weight", saved.weight, width)?;
        if let Some(grad_x) = &grad_x {
            checks.view("grad_x", &**grad_x, grad.len())?;
        }
        checks.room("scratch", scratch, scratch_len(rows as usize, width))?;
        if grad_x.is_some() != saved.dropout.is_active() {
            let reason = "residual_norm: grad_x is needed where dropout is active, and there alone";
            return Err(Error::Option(reason.into()));
        }
        let (function, blocks) = self.backward.backward(&checks, rows, width)?;
        let (dropout, columns) = (saved.dropout.arguments()?, checks.count(width)?);
        let mut launch = self.stream.launch_builder(function);
        launch.arg(grad).arg(sum).arg(saved.statistics).arg(saved.weight).arg(&dropout);
        write_or_null(&mut launch, grad_x);
        launch.arg(&mut *scratch).arg(&rows).arg(&columns);
        // Safety: the tensors hold rows * width numbers, the weight width, the statistics 2 * rows, the scratch three rows for each block, as
        // checked above; the kernel writes grad_x only where dropout is active, and then it is there.
        unsafe { launch.launch(grid((blocks, 1), BACKWARD_THREADS, 0)) }.map_err(refused("residual_norm"))?;
        let outputs = [Some(&mut gradients.weight), Some(&mut gradients.bias), gradients.input.as_mut()];
        self.finish.run(&scratch.as_view(), blocks, width, outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::layer_norm::reference;
    use super::super::testing::{
        Number, Random, compare, download_floats, download_half, same, speed, unset_floats, unset_half, upload_floats,
        upload_half,
    };
    use super::*;
    use half::{bf16, f16};

    const EPSILON: f64 = 1e-12;

    fn check<T: Number>(
        stream: &Arc<CudaStream>,
        rows: usize,
        width: usize,
        probability: f32,
        bare: bool,
    ) -> Result<()> {
        let name = format!("residual_norm {} [{rows}, {width}] p {probability}", T::SUFFIX);
        let dropout = Dropout { probability, seed: 0x1234_5678_9abc, step: 5, site: 3 };
        let mut random = Random((rows * width) as u64);
        let size = rows * width;
        let residual = if bare { vec![0.; size] } else { random.normals::<T>(size, 0.2, 1.) };
        let (x, grad) = (random.normals::<T>(size, -0.1, 0.7), random.normals::<T>(size, 0.01, 1.));
        let (weight, bias) = (random.normals::<T>(width, 1., 0.2), random.normals::<T>(width, 0., 0.2));

        let factors: Vec<f64> = (0..size).map(|i| dropout.factor(i)).collect();
        let sum: Vec<f64> = (0..size).map(|i| T::from_f64(residual[i] + x[i] * factors[i]).to_f64()).collect();
        let out: Vec<f64> =
            sum.chunks(width).flat_map(|row| reference::forward(row, &weight, &bias, EPSILON)).collect();

        let operation = ResidualNorm::<T>::load(stream)?;
        let on_gpu = (upload_half::<T>(stream, &residual)?, upload_half::<T>(stream, &grad)?);
        let (mut x_gpu, mut grad_gpu) = (upload_half::<T>(stream, &x)?, on_gpu.1);
        let parameters = (upload_floats(stream, &weight)?, upload_floats(stream, &bias)?);
        let (weight_view, bias_view) = (parameters.0.as_view(), parameters.1.as_view());
        let norm = Norm { weight: &weight_view, bias: &bias_view, epsilon: EPSILON as f32 };
        let residual_view = on_gpu.0.as_view();
        let residual_view = if bare { None } else { Some(&residual_view) };
        let mut out_gpu = unset_half::<T>(stream, size)?;
        let mut statistics = unset_floats(stream, 2 * rows)?;

        // Inference first: it leaves x alone.
        operation.forward(residual_view, &mut x_gpu.as_view_mut(), norm, dropout, None, &mut out_gpu.as_view_mut())?;
        let inference = download_half(stream, &out_gpu.as_view())?;
        let mut statistics_view = statistics.as_view_mut();
        operation.forward(
            residual_view,
            &mut x_gpu.as_view_mut(),
            norm,
            dropout,
            Some(&mut statistics_view),
            &mut out_gpu.as_view_mut(),
        )?;
        let found = download_half(stream, &out_gpu.as_view())?;
        same(&format!("{name} inference"), &inference, &found);
        let found_sum = download_half(stream, &x_gpu.as_view())?;
        // The sum is rounded once; f32 in between may make the other choice at a tie. The output is rounded once more, and the sum's
        // other choice goes through the statistics and a weight below 2.
        compare(&format!("{name} sum"), &found_sum, &sum, 2. * T::ROUNDING);
        compare(&format!("{name} out"), &found, &out, 4. * T::ROUNDING);

        // Backward from the sum as it was found, so that its rounding does not count twice.
        let mut sums = (vec![0.; width], vec![0.; width]);
        let mut grad_sum = Vec::new();
        for (g, row) in grad.chunks(width).zip(found_sum.chunks(width)) {
            grad_sum.extend(reference::backward(g, row, &weight, EPSILON, (&mut sums.0, &mut sums.1)));
        }
        let grad_x: Vec<f64> = grad_sum.iter().zip(&factors).map(|(g, f)| g * f).collect();
        let grad_x_bias: Vec<f64> = (0..width).map(|c| grad_x.iter().skip(c).step_by(width).sum()).collect();

        let mut found_sums = unset_floats(stream, 3 * width)?;
        let gradients = NormGradients::split(&mut found_sums, width);
        let mut grad_x_gpu = unset_half::<T>(stream, size)?;
        let mut grad_x_view = grad_x_gpu.as_view_mut();
        let mut scratch = unset_floats(stream, scratch_len(rows, width))?;
        let statistics_view = statistics.as_view();
        operation.backward(
            &mut grad_gpu.as_view_mut(),
            &x_gpu.as_view(),
            SavedNorm { statistics: &statistics_view, weight: &weight_view, dropout },
            dropout.is_active().then_some(&mut grad_x_view),
            gradients,
            &mut scratch.as_view_mut(),
        )?;
        // Statistics and sums are f32, so a gradient has the one rounding of its store; the row's two means cancel a part of it.
        compare(&format!("{name} grad_sum"), &download_half(stream, &grad_gpu.as_view())?, &grad_sum, 2. * T::ROUNDING);
        if dropout.is_active() {
            let found = download_half(stream, &grad_x_gpu.as_view())?;
            compare(&format!("{name} grad_x"), &found, &grad_x, 2. * T::ROUNDING);
        }
        let found = download_floats(stream, &found_sums.as_view())?;
        let expected = [sums.0, sums.1, grad_x_bias].concat();
        // f32 throughout, from numbers that are exact: what thousands of additions lose of 24 bits.
        for (part, what) in ["weight", "bias", "x_bias"].into_iter().enumerate() {
            let range = part * width..(part + 1) * width;
            compare(&format!("{name} grad_{what}"), &found[range.clone()], &expected[range], 1e-4);
        }
        Ok(())
    }

    fn check_all<T: Number>() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        for rows in [1, 2, 15, 16, 17, 63, 129, 513, 4001] {
            for width in [384, 768] {
                check::<T>(&stream, rows, width, 0., false)?;
                check::<T>(&stream, rows, width, 0.1, false)?;
            }
        }
        for width in [32, 160, 416, 512, 544, 800, 1024] {
            check::<T>(&stream, 37, width, 0.3, false)?;
        }
        check::<T>(&stream, 37, 384, 0., true)
    }

    #[test]
    fn bf16_equals_the_reference() -> Result<()> {
        check_all::<bf16>()
    }

    #[test]
    fn f16_equals_the_reference() -> Result<()> {
        check_all::<f16>()
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = ResidualNorm::<bf16>::load(&stream)?;
        let parameters = unset_floats(&stream, 1056)?;
        let mut x = unset_half::<bf16>(&stream, 4 * 1056)?;
        let mut out = unset_half::<bf16>(&stream, 4 * 1056)?;
        // Widths that are no multiple of 32 or too large, an address that is no multiple of 16 bytes, a short input.
        for (width, start, rows_of_x) in [(40, 0, 2), (1056, 0, 2), (384, 1, 2), (384, 0, 1)] {
            let view = parameters.slice(..width);
            let norm = Norm { weight: &view, bias: &view, epsilon: 1e-12 };
            let mut x = x.slice_mut(start..start + rows_of_x * width);
            let mut out = out.slice_mut(..2 * width);
            assert!(operation.forward(None, &mut x, norm, Dropout::NONE, None, &mut out).is_err(), "{width}");
        }
        Ok(())
    }

    #[test]
    #[ignore = "measures time"]
    fn speed_of_residual_norm() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = ResidualNorm::<bf16>::load(&stream)?;
        let (rows, width) = (32_768, 384);
        let size = rows * width;
        let residual = upload_half::<bf16>(&stream, &Random(1).normals::<bf16>(size, 0., 1.))?;
        let mut x = upload_half::<bf16>(&stream, &Random(2).normals::<bf16>(size, 0., 1.))?;
        let (mut out, mut grad_x) = (unset_half::<bf16>(&stream, size)?, unset_half::<bf16>(&stream, size)?);
        let parameters = upload_floats(&stream, &vec![1.; width])?;
        let view = parameters.as_view();
        let norm = Norm { weight: &view, bias: &view, epsilon: 1e-12 };
        let mut statistics = unset_floats(&stream, 2 * rows)?;
        let mut sums = unset_floats(&stream, 3 * width)?;
        let mut scratch = unset_floats(&stream, scratch_len(rows, width))?;
        let residual_view = residual.as_view();
        for probability in [0., 0.1] {
            let dropout = Dropout { probability, ..Dropout::NONE };
            let active = dropout.is_active();
            speed(&stream, &format!("residual_norm forward p {probability}, inference"), 6 * size, || {
                let mut x = x.as_view_mut();
                operation.forward(Some(&residual_view), &mut x, norm, dropout, None, &mut out.as_view_mut())
            })?;
            speed(&stream, &format!("residual_norm forward p {probability}"), 8 * size, || {
                let (mut x, mut statistics) = (x.as_view_mut(), statistics.as_view_mut());
                let out = &mut out.as_view_mut();
                operation.forward(Some(&residual_view), &mut x, norm, dropout, Some(&mut statistics), out)
            })?;
            let statistics_view = statistics.as_view();
            let bytes = if active { 8 } else { 6 } * size;
            speed(&stream, &format!("residual_norm backward p {probability}"), bytes, || {
                let gradients = NormGradients::split(&mut sums, width);
                let saved = SavedNorm { statistics: &statistics_view, weight: &view, dropout };
                let mut grad_x = grad_x.as_view_mut();
                let grad_x = active.then_some(&mut grad_x);
                operation.backward(
                    &mut out.as_view_mut(),
                    &residual_view,
                    saved,
                    grad_x,
                    gradients,
                    &mut scratch.as_view_mut(),
                )
            })?;
        }
        Ok(())
    }
}
