//! Logits `[rows, vocabulary]` and the right piece of each row -> cross-entropy of each row `[rows]`, whether the right piece scored highest `[rows]`,
//! and in place of the logits their gradient, `(softmax(logits) - one at the target) * scale`: forward and backward pass of a
//! masked-language-model head (Devlin et al. 2019) in one pass over memory. Large batches go through it in chunks of rows.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute as DeviceLimit, CUfunction_attribute as Limit,
};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::launch::{Checks, grid};
use super::{Half, Kernels, refused};
use crate::error::Result;

/// Shared memory that the kernel takes besides the row, and a little more, in bytes.
const OTHER_SHARED: u32 = 1024;

/// The operation.
pub struct CrossEntropy<T> {
    stream: Arc<CudaStream>,
    function: CudaFunction,
    /// Eights of a row that a block can keep in shared memory.
    cached: u32,
    number: PhantomData<T>,
}

impl<T: Half> CrossEntropy<T> {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver refuses it.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let text = include_bytes!(concat!(env!("OUT_DIR"), "/cross_entropy.fatbin"));
        let function = Kernels::load(stream, "cross_entropy.cu", text)?.function::<T>("cross_entropy")?;
        let limit = DeviceLimit::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared = stream.context().attribute(limit).map_err(refused("asking for the size of shared memory"))?;
        let shared = u32::try_from(shared).unwrap_or(0).saturating_sub(OTHER_SHARED);
        function
            .set_attribute(Limit::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32)
            .map_err(refused("setting the size of shared memory"))?;
        Ok(Self { stream: stream.clone(), function, cached: shared / 16, number: PhantomData })
    }

    /// `logits` `[rows, stride]`, of which the first `vocabulary` columns count, become their gradient times `scale`; the columns behind
    /// become 0. The stride, a multiple of 8, follows from the number of rows, that of `targets` `[rows]`. `losses` `[rows]` gets the
    /// cross-entropy, NaN where the target is not in the vocabulary; `correct` `[rows]` 1 where the target is the first with the highest logit, or 0.
    ///
    /// # Errors
    /// If sizes do not fit or the launch fails.
    pub fn forward_backward(
        &self,
        logits: &mut CudaViewMut<'_, T>,
        targets: &CudaView<'_, u32>,
        vocabulary: usize,
        scale: f32,
        losses: &mut CudaViewMut<'_, f32>,
        correct: &mut CudaViewMut<'_, u32>,
    ) -> Result<()> {
        let checks = Checks { operation: "cross_entropy", stream: &self.stream };
        let rows = targets.len();
        checks.numbers("losses", losses, rows)?;
        checks.numbers("correct", correct, rows)?;
        if rows == 0 {
            return checks.numbers("logits", logits, 0);
        }
        let stride = logits.len() / rows;
        checks.view("logits", logits, rows * stride)?;
        if vocabulary == 0 || stride < vocabulary || !stride.is_multiple_of(8) {
            let reason =
                format!("{stride} logits a row, which is to be a multiple of 8, for a vocabulary of {vocabulary}");
            return Err(checks.error(&reason));
        }
        let (rows, columns, stride) = (checks.count(rows)?, checks.count(vocabulary)?, checks.count(stride)?);
        let cached = self.cached.min(stride / 8);
        let mut launch = self.stream.launch_builder(&self.function);
        launch.arg(logits).arg(targets).arg(&scale).arg(losses).arg(correct).arg(&columns).arg(&stride).arg(&cached);
        // Safety: `logits` holds rows * stride numbers, the others one for each row, as checked above; the kernel has `cached` times 16 bytes
        // of shared memory, no more than `load` allowed, and looks at no target outside of the vocabulary.
        unsafe { launch.launch(grid((rows, 1), 512, 16 * cached)) }.map_err(refused("cross_entropy"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::testing::{
        Number, Random, compare, download, download_floats, download_half, same, speed, unset_floats, upload,
        upload_half,
    };
    use super::*;
    use half::{bf16, f16};

    /// (loss, gradient, whether the target comes first) of one row.
    fn reference(logits: &[f64], target: usize, scale: f64) -> (f64, Vec<f64>, u32) {
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|x| (x - highest).exp()).sum();
        let mut grad: Vec<f64> = logits.iter().map(|x| scale * (x - highest).exp() / sum).collect();
        grad[target] -= scale;
        let first = logits.iter().position(|&x| x == highest);
        (highest + sum.ln() - logits[target], grad, u32::from(first == Some(target)))
    }

    #[test]
    fn the_reference_agrees_with_central_differences() {
        let logits = [0.3, -1., 2., 0.5, 1.9];
        let (_, grad, correct) = reference(&logits, 2, 1.);
        let slopes = (0..logits.len()).map(|i| {
            let at = |by: f64| {
                let mut shifted = logits;
                shifted[i] += by;
                reference(&shifted, 2, 1.).0
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        });
        compare("cross-entropy's gradient", &grad, &slopes.collect::<Vec<_>>(), 1e-8);
        assert_eq!(correct, 1);
    }

    fn check<T: Number>(
        stream: &Arc<CudaStream>,
        rows: usize,
        vocabulary: usize,
        stride: usize,
        spread: f64,
    ) -> Result<()> {
        let name = format!("cross_entropy {} [{rows}, {vocabulary}]", T::SUFFIX);
        let mut random = Random(vocabulary as u64);
        // What lies behind the vocabulary must not count, however large it is.
        let mut logits = random.normals::<T>(rows * stride, 0.5, spread);
        let mut targets = random.numbers(rows, vocabulary);
        for (row, target) in logits.chunks_mut(stride).zip(&mut targets) {
            row[vocabulary..].fill(1000.);
            // Every other row is a right guess, some of them by a tie.
            if target.is_multiple_of(2) {
                let highest = row[..vocabulary].iter().copied().fold(f64::NEG_INFINITY, f64::max);
                row[*target as usize] = highest;
            }
        }
        let scale = 0.25;
        let (mut losses, mut grads, mut correct) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &target) in logits.chunks(stride).zip(&targets) {
            let (loss, grad, right) = reference(&row[..vocabulary], target as usize, scale);
            losses.push(loss);
            grads.extend(grad);
            grads.resize(grads.len() + stride - vocabulary, 0.);
            correct.push(right);
        }
        let operation = CrossEntropy::<T>::load(stream)?;
        let mut logits = upload_half::<T>(stream, &logits)?;
        let right_pieces = targets;
        let targets = upload(stream, &right_pieces)?;
        let mut losses_gpu = unset_floats(stream, rows)?;
        let mut correct_gpu = upload(stream, &vec![7u32; rows])?;
        operation.forward_backward(
            &mut logits.as_view_mut(),
            &targets.as_view(),
            vocabulary,
            scale as f32,
            &mut losses_gpu.as_view_mut(),
            &mut correct_gpu.as_view_mut(),
        )?;
        // exp2 by the GPU's own instruction and f32 sums over a vocabulary: an error of 1e-5 near 0, where a loss is the difference of
        // numbers of order 1, and relative to itself elsewhere.
        let above: Vec<f64> = losses.iter().map(|x| x + 1.).collect();
        let found: Vec<f64> = download_floats(stream, &losses_gpu.as_view())?.iter().map(|x| x + 1.).collect();
        compare(&format!("{name} losses + 1"), &found, &above, 1e-5);
        // One rounding, and a third of one for exp2; probabilities that f16 keeps below its normal range are off by up to half of its smallest
        // step, 3e-8; at the target the gradient is the difference of two numbers of order `scale`, each good to six digits.
        let found = download_half(stream, &logits.as_view())?;
        let mut largest: f64 = 0.;
        for (row, (found, expected)) in found.chunks(stride).zip(grads.chunks(stride)).enumerate() {
            for (i, (f, e)) in found.iter().zip(expected).enumerate() {
                let at_target = if i as u32 == right_pieces[row] { 2e-6 * scale } else { 0. };
                let share = (f - e).abs() / (1.3 * T::ROUNDING * e.abs() + 4e-8 + at_target);
                assert!(share <= 1., "{name}: {i} of row {row} is {f}, expected {e}");
                largest = largest.max(share);
            }
        }
        println!("{name} gradients: largest error {largest:.2} of what is allowed");
        same(&format!("{name} correct"), &download(stream, &correct_gpu.as_view())?, &correct);
        Ok(())
    }

    fn check_all<T: Number>() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        for (rows, vocabulary, stride) in [
            (1, 2, 8),
            (3, 7, 8),
            (2, 100, 104),
            (5, 4095, 4096),
            (4, 4097, 4160),
            (9, 24_000, 24_000),
            (6, 31_090, 31_104),
            (2, 119_547, 119_552),
            (2, 250_002, 250_112),
        ] {
            check::<T>(&stream, rows, vocabulary, stride, 1.)?;
            check::<T>(&stream, rows, vocabulary, stride, 5.)?;
        }
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
    fn a_target_outside_of_the_vocabulary_shows_in_the_loss() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = CrossEntropy::<bf16>::load(&stream)?;
        let mut logits = upload_half::<bf16>(&stream, &[0.; 16])?;
        let (targets, mut losses) = (upload(&stream, &[3u32, 5])?, unset_floats(&stream, 2)?);
        let mut correct = upload(&stream, &[0u32; 2])?;
        operation.forward_backward(
            &mut logits.as_view_mut(),
            &targets.as_view(),
            5,
            1.,
            &mut losses.as_view_mut(),
            &mut correct.as_view_mut(),
        )?;
        let found = download(&stream, &losses.as_view())?;
        assert!((found[0] - 5f32.ln()).abs() < 1e-5 && found[1].is_nan());
        Ok(())
    }

    #[test]
    #[ignore = "measures time"]
    fn speed_of_cross_entropy() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = CrossEntropy::<bf16>::load(&stream)?;
        for (rows, vocabulary, stride) in [(2048, 24_000, 24_000), (2048, 31_090, 31_104)] {
            let mut logits = upload_half::<bf16>(&stream, &vec![0.5; rows * stride])?;
            let targets = upload(&stream, &Random(1).numbers(rows, vocabulary))?;
            let mut losses = unset_floats(&stream, rows)?;
            let mut correct = upload(&stream, &vec![0u32; rows])?;
            speed(&stream, &format!("cross_entropy [{rows}, {vocabulary}]"), 4 * logits.len(), || {
                let (mut losses, mut correct) = (losses.as_view_mut(), correct.as_view_mut());
                let logits = &mut logits.as_view_mut();
                operation.forward_backward(logits, &targets.as_view(), vocabulary, 1e-3, &mut losses, &mut correct)
            })?;
        }
        Ok(())
    }
}
