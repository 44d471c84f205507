//! Width of a row -> the kernels of `layer_norm.cuh` for it, and what LayerNorm (Ba, Kiros, Hinton 2016) takes and gives: weight, bias,
//! statistics of each row, gradients. [`residual_norm`](super::residual_norm) and [`embedding`](super::embedding) share it.
//! A row lies in the registers of 16 or 32 lanes of a warp, up to three or four times eight numbers in each.

#[cfg(test)]
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaView, CudaViewMut};

use super::dropout::Dropout;
use super::launch::Checks;
use super::{Half, Kernels};
use crate::error::Result;

/// Widest row.
pub const MAX_WIDTH: usize = 1024;

/// (lanes, eights in a lane) of the kernels, by rising width.
const LAYOUTS: [(u32, u32); 4] = [(16, 3), (16, 4), (32, 3), (32, 4)];

/// Threads of a block of the forward and of the backward pass.
pub(crate) const FORWARD_THREADS: u32 = 256;
pub(crate) const BACKWARD_THREADS: u32 = 128;

/// Multiprocessors of an H100, for which grids are made. A constant, so that no result depends on the GPU.
const MULTIPROCESSORS: u32 = 132;

/// A LayerNorm's parameters.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// `[width]`.
    pub weight: &'a CudaView<'a, f32>,
    /// `[width]`.
    pub bias: &'a CudaView<'a, f32>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// What the backward pass of a LayerNorm needs of the forward pass.
#[derive(Clone, Copy)]
pub struct SavedNorm<'a> {
    /// Mean and 1 / standard deviation of each row: `[rows, 2]`.
    pub statistics: &'a CudaView<'a, f32>,
    /// `[width]`.
    pub weight: &'a CudaView<'a, f32>,
    /// The same as in the forward pass.
    pub dropout: Dropout,
}

/// Gradients of parameters, which the backward pass writes (it does not add to them).
pub struct NormGradients<'a> {
    /// Of the weight: `[width]`.
    pub weight: CudaViewMut<'a, f32>,
    /// Of the bias: `[width]`.
    pub bias: CudaViewMut<'a, f32>,
    /// Of a vector `[width]` that is part of every row of the input, if there is one.
    pub input: Option<CudaViewMut<'a, f32>>,
}

#[cfg(test)]
impl<'a> NormGradients<'a> {
    /// Of weight, bias and, if there is room, input, end to end in `sums`.
    pub(crate) fn split(sums: &'a mut CudaSlice<f32>, width: usize) -> Self {
        let mut parts = sums.as_view_mut().chunks_exact_mut(width);
        let mut next = || parts.next();
        let (weight, bias) = next().zip(next()).expect("room for two");
        Self { weight, bias, input: next() }
    }
}

/// 32-bit floats that the backward pass over `[rows, width]` takes as scratch.
pub fn scratch_len(rows: usize, width: usize) -> usize {
    let (_, layout) = layout(width);
    3 * width * backward_blocks(u32::try_from(rows).unwrap_or(u32::MAX), layout) as usize
}

/// As many blocks as run at a time: registers let three on a multiprocessor, or two where a lane has four eights.
fn backward_blocks(rows: u32, (lanes, eights): (u32, u32)) -> u32 {
    let resident = if eights == 3 { 3 } else { 2 };
    rows.div_ceil(BACKWARD_THREADS / lanes).clamp(1, MULTIPROCESSORS * resident)
}

/// The kernel for rows of `width`, and its (lanes, eights); a width that is too large has the last.
fn layout(width: usize) -> (usize, (u32, u32)) {
    let mut chosen = (0, (0, 0));
    for (kernel, (lanes, eights)) in LAYOUTS.into_iter().enumerate() {
        chosen = (kernel, (lanes, eights));
        if width <= (8 * lanes * eights) as usize {
            break;
        }
    }
    chosen
}

/// One pass of an operation, for rows of every width.
pub(crate) struct RowKernels {
    functions: Vec<CudaFunction>,
}

impl RowKernels {
    /// The kernels `NAME_LANESxEIGHTS_TYPE`.
    pub fn load<T: Half>(kernels: &Kernels, name: &str) -> Result<Self> {
        let names = LAYOUTS.iter().map(|(lanes, eights)| format!("{name}_{lanes}x{eights}"));
        Ok(Self { functions: names.map(|name| kernels.function::<T>(&name)).collect::<Result<_>>()? })
    }

    /// The forward pass for rows of `width`, and its blocks.
    pub fn forward(&self, checks: &Checks<'_>, rows: u32, width: usize) -> Result<(&CudaFunction, u32)> {
        let (function, (lanes, _)) = self.of(checks, width)?;
        Ok((function, rows.div_ceil(FORWARD_THREADS / lanes)))
    }

    /// The backward pass for rows of `width`, and its blocks.
    pub fn backward(&self, checks: &Checks<'_>, rows: u32, width: usize) -> Result<(&CudaFunction, u32)> {
        let (function, layout) = self.of(checks, width)?;
        Ok((function, backward_blocks(rows, layout)))
    }

    fn of(&self, checks: &Checks<'_>, width: usize) -> Result<(&CudaFunction, (u32, u32))> {
        let (kernel, layout) = layout(width);
        match self.functions.get(kernel) {
            Some(function) if width <= MAX_WIDTH => Ok((function, layout)),
            _ => Err(checks.error(&format!("rows of {width} are wider than {MAX_WIDTH}"))),
        }
    }
}

/// The slow, obvious LayerNorm in 64-bit floats that kernels are compared with.
#[cfg(test)]
pub(crate) mod reference {
    /// One row of width n: (mean, 1 / standard deviation).
    pub fn statistics(row: &[f64], epsilon: f64) -> (f64, f64) {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        (mean, 1. / (variance + epsilon).sqrt())
    }

    pub fn forward(row: &[f64], weight: &[f64], bias: &[f64], epsilon: f64) -> Vec<f64> {
        let (mean, rstd) = statistics(row, epsilon);
        row.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) * rstd * w + b).collect()
    }

    /// Gradient on the row, given that on the output; adds to the gradients of weight and bias.
    pub fn backward(
        grad: &[f64],
        row: &[f64],
        weight: &[f64],
        epsilon: f64,
        sums: (&mut [f64], &mut [f64]),
    ) -> Vec<f64> {
        let (mean, rstd) = statistics(row, epsilon);
        let normalised: Vec<f64> = row.iter().map(|x| (x - mean) * rstd).collect();
        for (i, g) in grad.iter().enumerate() {
            sums.0[i] += g * normalised[i];
            sums.1[i] += g;
        }
        let scaled: Vec<f64> = grad.iter().zip(weight).map(|(g, w)| g * w).collect();
        let mean_scaled = scaled.iter().sum::<f64>() / row.len() as f64;
        let mean_product = scaled.iter().zip(&normalised).map(|(s, n)| s * n).sum::<f64>() / row.len() as f64;
        scaled.iter().zip(&normalised).map(|(s, n)| rstd * (s - mean_scaled - n * mean_product)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, compare};
    use super::*;
    use half::f16;

    #[test]
    fn every_width_has_kernels_that_hold_it() {
        for width in (32..=MAX_WIDTH).step_by(32) {
            let (kernel, (lanes, eights)) = layout(width);
            assert!(LAYOUTS[kernel] == (lanes, eights) && width <= (8 * lanes * eights) as usize, "{width}");
            // The block's sums of `write_column_sums` have room.
            assert!((BACKWARD_THREADS / lanes) as usize * width <= 4096, "{width}");
        }
    }

    /// The reference's gradients are the slopes of its forward pass.
    #[test]
    fn the_reference_agrees_with_central_differences() {
        let (width, epsilon, step) = (8, 1e-5, 1e-5);
        let mut random = Random(1);
        let mut draw = |mean| random.normals::<f16>(width, mean, 1.);
        let (row, weight, bias, grad) = (draw(2.), draw(1.), draw(0.), draw(0.));
        let loss = |row: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
            reference::forward(row, weight, bias, epsilon).iter().zip(&grad).map(|(y, g)| y * g).sum()
        };
        let mut sums = (vec![0.; width], vec![0.; width]);
        let found = reference::backward(&grad, &row, &weight, epsilon, (&mut sums.0, &mut sums.1));
        let slope = |which: usize| -> Vec<f64> {
            let shifted = |i: usize, by: f64| {
                let mut all = [row.clone(), weight.clone(), bias.clone()];
                all[which][i] += by;
                loss(&all[0], &all[1], &all[2])
            };
            (0..width).map(|i| (shifted(i, step) - shifted(i, -step)) / (2. * step)).collect()
        };
        compare("LayerNorm's gradient of the row", &found, &slope(0), 1e-7);
        compare("LayerNorm's gradient of the weight", &sums.0, &slope(1), 1e-7);
        compare("LayerNorm's gradient of the bias", &sums.1, &slope(2), 1e-7);
    }
}
