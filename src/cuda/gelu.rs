//! `x` `[rows, width]` -> `gelu(x) = x Phi(x)`, exact, not the tanh form (Hendrycks and Gimpel 2016); gradient on it -> gradient on `x` and the
//! sum of each of its columns `[width]`, which is the gradient of the bias that `x` came with.
//! The kernels' Phi has a relative error of 5e-6 (`gelu.cu`), a hundredth of what f16 keeps.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::column_sums::{Finish, bands, scratch_len};
use super::launch::{Checks, grid};
use super::{Half, Kernels, refused};
use crate::error::Result;

/// Numbers that a block of the forward pass has: 256 threads with two eights each.
const BLOCK: usize = 256 * 2 * 8;

/// The operation.
pub struct Gelu<T> {
    stream: Arc<CudaStream>,
    forward: CudaFunction,
    backward: CudaFunction,
    finish: Finish,
    number: PhantomData<T>,
}

impl<T: Half> Gelu<T> {
    /// Loads the kernels.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver refuses them.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let kernels = Kernels::load(stream, "gelu.cu", include_bytes!(concat!(env!("OUT_DIR"), "/gelu.fatbin")))?;
        Ok(Self {
            stream: stream.clone(),
            forward: kernels.function::<T>("gelu_forward")?,
            backward: kernels.function::<T>("gelu_backward")?,
            finish: Finish::load(stream)?,
            number: PhantomData,
        })
    }

    /// `x` `[n]` -> `out` `[n]`, n a multiple of 32.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward(&self, x: &CudaView<'_, T>, out: &mut CudaViewMut<'_, T>) -> Result<()> {
        let checks = Checks { operation: "gelu", stream: &self.stream };
        checks.rows(x.len(), 32)?;
        checks.view("x", x, x.len())?;
        checks.view("out", out, x.len())?;
        let (eights, blocks) = ((x.len() / 8) as u64, checks.count(x.len().div_ceil(BLOCK))?);
        if blocks == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(&self.forward);
        launch.arg(x).arg(out).arg(&eights);
        // Safety: both hold 8 * eights numbers, as checked above.
        unsafe { launch.launch(grid((blocks, 1), 256, 0)) }.map_err(refused("gelu"))?;
        Ok(())
    }

    /// `grad` `[rows, width]`, the gradient on the output, becomes that on `x` `[rows, width]`; `sums` `[width]` gets its column sums.
    /// `scratch` has room for [`column_sums::scratch_len`](scratch_len) numbers.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn backward(
        &self,
        grad: &mut CudaViewMut<'_, T>,
        x: &CudaView<'_, T>,
        sums: &mut CudaViewMut<'_, f32>,
        scratch: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let checks = Checks { operation: "gelu", stream: &self.stream };
        let width = sums.len();
        let rows = checks.rows(x.len(), width)?;
        checks.view("x", x, x.len())?;
        checks.view("grad", grad, x.len())?;
        checks.room("scratch", scratch, scratch_len(rows as usize, width))?;
        let blocks = bands(rows, width);
        let columns = checks.count(width)?;
        let mut launch = self.stream.launch_builder(&self.backward);
        launch.arg(grad).arg(x).arg(&mut *scratch).arg(&rows).arg(&columns);
        // Safety: `grad` and `x` hold rows * width numbers and `scratch` a row of sums for each band, as checked above.
        unsafe { launch.launch(grid(blocks, 256, 0)) }.map_err(refused("gelu"))?;
        self.finish.run(&scratch.as_view(), blocks.1, width, [Some(sums)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::testing::{
        Number, Random, compare, download_floats, download_half, speed, unset_floats, unset_half, upload_half,
    };
    use super::*;
    use half::{bf16, f16};

    /// Density of the normal distribution.
    fn density(x: f64) -> f64 {
        (-x * x / 2.).exp() / (2. * std::f64::consts::PI).sqrt()
    }

    /// Its distribution function, to ten digits relative to itself: near zero the Taylor series of the integral from 0, in the tail the
    /// continued fraction (Abramowitz and Stegun 26.2.11 and 26.2.14).
    fn distribution(x: f64) -> f64 {
        let a = x.abs();
        let tail = if a < 3. {
            let (mut term, mut sum) = (a, a);
            for i in 1..100 {
                term *= a * a / f64::from(2 * i + 1);
                sum += term;
            }
            0.5 - density(a) * sum
        } else {
            density(a) / (1..200).rev().fold(a, |rest, i| a + f64::from(i) / rest)
        };
        if x < 0. { tail } else { 1. - tail }
    }

    /// Known values of Phi, and the derivative against central differences.
    #[test]
    fn the_reference_is_right() {
        let known = [(0., 0.5), (1., 0.841_344_746_068_543), (-2., 0.022_750_131_948_179), (-4., 3.167_124_183_312e-5)];
        for (x, expected) in known {
            assert!((distribution(x) / expected - 1.).abs() < 1e-9, "{x}");
        }
        for x in [-5., -2.9, -1., 0., 0.3, 3.1] {
            let slope = ((x + 1e-5) * distribution(x + 1e-5) - (x - 1e-5) * distribution(x - 1e-5)) / 2e-5;
            assert!((slope - distribution(x) - x * density(x)).abs() < 1e-8, "{x}");
        }
    }

    fn check<T: Number>(stream: &Arc<CudaStream>, rows: usize, width: usize) -> Result<()> {
        let name = format!("gelu {} [{rows}, {width}]", T::SUFFIX);
        let mut random = Random(rows as u64);
        let x = random.normals::<T>(rows * width, 0., 2.);
        let grad = random.normals::<T>(rows * width, 0.1, 1.);
        let out: Vec<f64> = x.iter().map(|&x| x * distribution(x)).collect();
        let grad_x: Vec<f64> = x.iter().zip(&grad).map(|(&x, g)| g * (distribution(x) + x * density(x))).collect();
        let sums: Vec<f64> = (0..width).map(|c| grad_x.iter().skip(c).step_by(width).sum()).collect();

        let operation = Gelu::<T>::load(stream)?;
        let x_gpu = upload_half::<T>(stream, &x)?;
        let mut out_gpu = unset_half::<T>(stream, x.len())?;
        operation.forward(&x_gpu.as_view(), &mut out_gpu.as_view_mut())?;
        // One rounding, and next to nothing for Phi.
        compare(&format!("{name} out"), &download_half(stream, &out_gpu.as_view())?, &out, 1.05 * T::ROUNDING);

        let mut grad_gpu = upload_half::<T>(stream, &grad)?;
        let mut sums_gpu = unset_floats(stream, width)?;
        let mut scratch = unset_floats(stream, scratch_len(rows, width))?;
        operation.backward(
            &mut grad_gpu.as_view_mut(),
            &x_gpu.as_view(),
            &mut sums_gpu.as_view_mut(),
            &mut scratch.as_view_mut(),
        )?;
        compare(&format!("{name} grad"), &download_half(stream, &grad_gpu.as_view())?, &grad_x, 1.05 * T::ROUNDING);
        // Before their rounding the terms have Phi's error of 5e-6, all of it possibly with one sign.
        compare(&format!("{name} sums"), &download_floats(stream, &sums_gpu.as_view())?, &sums, 5e-5);
        Ok(())
    }

    fn check_all<T: Number>() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        for (rows, width) in [(1, 32), (3, 1536), (17, 416), (63, 3072), (129, 384), (2001, 1536)] {
            check::<T>(&stream, rows, width)?;
        }
        // Every number of the type between the points where the output is x or vanishes, relative to itself.
        let operation = Gelu::<T>::load(&stream)?;
        let x: Vec<f64> = (0..32_768).map(|i| T::from_f64(-5.5 + 11. * f64::from(i) / 32_768.).to_f64()).collect();
        let x_gpu = upload_half::<T>(&stream, &x)?;
        let mut out = unset_half::<T>(&stream, x.len())?;
        operation.forward(&x_gpu.as_view(), &mut out.as_view_mut())?;
        let found = download_half(&stream, &out.as_view())?;
        let smallest_normal_f16 = 6.2e-5;
        let error = |(&x, &y): (&f64, &f64)| {
            let expected = x * distribution(x);
            if expected.abs() < smallest_normal_f16 { 0. } else { (y / expected - 1.).abs() }
        };
        let largest = x.iter().zip(&found).map(error).fold(0., f64::max);
        println!("gelu {}: largest relative error over the line {largest:.2e}", T::SUFFIX);
        assert!(largest < 1.05 * T::ROUNDING);
        Ok(())
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
    #[ignore = "measures time"]
    fn speed_of_gelu() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = Gelu::<bf16>::load(&stream)?;
        let (rows, width) = (32_768, 1536);
        let row = Random(1).normals::<bf16>(width, 0., 1.);
        let x = upload_half::<bf16>(&stream, &row.repeat(rows))?;
        let mut out = upload_half::<bf16>(&stream, &row.repeat(rows))?;
        let mut sums = unset_floats(&stream, width)?;
        let mut scratch = unset_floats(&stream, scratch_len(rows, width))?;
        speed(&stream, "gelu forward [32768, 1536]", 4 * x.len(), || {
            operation.forward(&x.as_view(), &mut out.as_view_mut())
        })?;
        speed(&stream, "gelu backward [32768, 1536]", 6 * x.len(), || {
            let (mut sums, mut scratch) = (sums.as_view_mut(), scratch.as_view_mut());
            operation.backward(&mut out.as_view_mut(), &x.as_view(), &mut sums, &mut scratch)
        })
    }
}
