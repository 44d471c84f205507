//! Gradients `[n]` -> the next values `[n]`, their moments and running average, and a 16-bit copy for the kernels, in one pass over memory.
//! AdamW (Loshchilov and Hutter 2019, algorithm 2) with clipping by global norm and a running average (Polyak and Juditsky 1992).
//! The norm stays on the device: the step needs no answer from the host, and a norm that is not finite leaves everything as it was.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, CudaView, CudaViewMut, PushKernelArg};

use super::launch::{Checks, grid, write_or_null};
use super::{Half, Kernels, refused};
use crate::error::{Error, Result};

/// AdamW's constants, as in `chemtag-training`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean of the squares.
    pub epsilon: f64,
    /// Share of a value taken off it per unit of rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub clip_norm: f64,
    /// Decay of the running average of the values; it is shorter during the first steps.
    pub average_decay: f64,
}

/// Values from `start` on, up to the next segment's, have these factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// First of the values.
    pub start: usize,
    /// Factor on the learning rate.
    pub rate: f32,
    /// Factor on the weight decay.
    pub decay: f32,
}

/// Segments as the device has them.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    /// `[segments]`, rising from 0.
    pub starts: &'a CudaView<'a, u32>,
    /// (rate, decay) `[segments, 2]`.
    pub factors: &'a CudaView<'a, f32>,
}

/// What to copy to the device as [`Segments`]: starts `[segments]` and factors `[segments, 2]`.
///
/// # Errors
/// [`Error::Option`] if the first does not begin at 0 or one does not begin after the one before.
pub fn segments(list: &[Segment]) -> Result<(Vec<u32>, Vec<f32>)> {
    let rising = list.iter().zip(list.iter().skip(1)).all(|(a, b)| a.start < b.start);
    let starts: Option<Vec<u32>> = list.iter().map(|segment| u32::try_from(segment.start).ok()).collect();
    match starts {
        Some(starts) if rising && starts.first() == Some(&0) => {
            Ok((starts, list.iter().flat_map(|segment| [segment.rate, segment.decay]).collect()))
        }
        _ => Err(Error::Option("the optimiser's segments are to begin at 0 and rise from there".into())),
    }
}

/// Words of [`Buffers::state`].
pub const STATE_WORDS: usize = 8;

/// Blocks of the sum of squares, and so the numbers that a step takes as scratch.
pub const SCRATCH_LEN: usize = 1056;

/// What the state says, whenever the host reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Global norm of the last gradients, before clipping.
    pub norm: f32,
    /// Steps that changed nothing, because the norm was not finite.
    pub bad_steps: u32,
    /// Steps that were made.
    pub steps: u32,
}

impl Report {
    /// State to begin with, after so many steps.
    pub fn initial_state(steps: u32) -> [u32; STATE_WORDS] {
        [0, 0, steps, 0, 0, 0, 0, 0]
    }

    /// Reads a copy of the state.
    pub fn read(state: &[u32; STATE_WORDS]) -> Self {
        let [norm, bad_steps, steps, ..] = *state;
        Self { norm: f32::from_bits(norm), bad_steps, steps }
    }
}

/// What a step reads and writes: all variables laid end to end `[n]`.
pub struct Buffers<'a, T> {
    /// The values themselves.
    pub values: CudaViewMut<'a, f32>,
    /// Mean of the gradients.
    pub means: CudaViewMut<'a, f32>,
    /// Mean of their squares.
    pub squares: CudaViewMut<'a, f32>,
    /// Running average of the values, if there is to be one.
    pub averages: Option<CudaViewMut<'a, f32>>,
    /// Rounded copy of the values.
    pub copies: CudaViewMut<'a, T>,
    /// [`STATE_WORDS`] words, at first [`Report::initial_state`].
    pub state: CudaViewMut<'a, u32>,
}

/// The operation.
pub struct AdamW<T> {
    stream: Arc<CudaStream>,
    sum_squares: CudaFunction,
    begin_step: CudaFunction,
    update: CudaFunction,
    number: PhantomData<T>,
}

/// Values that a block of the update has.
const BLOCK: usize = 4096;

impl<T: Half> AdamW<T> {
    /// Loads the kernels.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver refuses them.
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self> {
        let kernels = Kernels::load(stream, "adamw.cu", include_bytes!(concat!(env!("OUT_DIR"), "/adamw.fatbin")))?;
        Ok(Self {
            stream: stream.clone(),
            sum_squares: kernels.plain_function("sum_squares")?,
            begin_step: kernels.plain_function("begin_step")?,
            update: kernels.function::<T>("adamw")?,
            number: PhantomData,
        })
    }

    /// One step with `gradients` `[n]` at learning rate `rate`; `scratch` has room for [`SCRATCH_LEN`] numbers.
    ///
    /// # Errors
    /// If sizes do not fit or a launch fails.
    pub fn step(
        &self,
        gradients: &CudaView<'_, f32>,
        mut buffers: Buffers<'_, T>,
        segments: Segments<'_>,
        constants: Constants,
        rate: f64,
        scratch: &mut CudaViewMut<'_, f64>,
    ) -> Result<()> {
        let checks = Checks { operation: "adamw", stream: &self.stream };
        let length = gradients.len();
        checks.view("gradients", gradients, length)?;
        checks.view("values", &buffers.values, length)?;
        checks.view("means", &buffers.means, length)?;
        checks.view("squares", &buffers.squares, length)?;
        if let Some(averages) = &buffers.averages {
            checks.view("averages", averages, length)?;
        }
        checks.view("copies", &buffers.copies, length)?;
        checks.view("state", &buffers.state, STATE_WORDS)?;
        checks.numbers("factors", segments.factors, 2 * segments.starts.len())?;
        checks.room("scratch", scratch, SCRATCH_LEN)?;
        // The last block counts beyond the end.
        checks.count(length + BLOCK)?;
        if length == 0 || segments.starts.is_empty() {
            return Err(checks.error("there is nothing to update"));
        }
        let (count, blocks, segment_count) =
            (checks.count(length)?, checks.count(length.div_ceil(BLOCK))?, checks.count(segments.starts.len())?);
        let parts = SCRATCH_LEN as u32;
        let Constants { beta1, beta2, epsilon, weight_decay, clip_norm, average_decay } = constants;
        let constants =
            [beta1, beta2, 1. - beta1, 1. - beta2, epsilon, weight_decay, average_decay, clip_norm].map(|x| x as f32);
        let rate = rate as f32;

        let mut launch = self.stream.launch_builder(&self.sum_squares);
        launch.arg(gradients).arg(&mut *scratch).arg(&count);
        // Safety: the kernel reads `length` gradients and writes one sum for each block, for which the scratch has room, as checked above.
        unsafe { launch.launch(grid((parts, 1), 256, 0)) }.map_err(refused("adamw"))?;

        let sums = scratch.as_view();
        let mut launch = self.stream.launch_builder(&self.begin_step);
        launch.arg(&sums).arg(&parts).arg(&constants).arg(&mut buffers.state);
        // Safety: one block reads the sums that the kernel before has written, and writes the state's eight words.
        unsafe { launch.launch(grid((1, 1), 256, 0)) }.map_err(refused("adamw"))?;

        let state = buffers.state.as_view();
        let mut launch = self.stream.launch_builder(&self.update);
        launch.arg(gradients).arg(&mut buffers.values).arg(&mut buffers.means).arg(&mut buffers.squares);
        write_or_null(&mut launch, buffers.averages.as_mut());
        launch.arg(&mut buffers.copies).arg(segments.starts).arg(segments.factors).arg(&state);
        launch.arg(&constants).arg(&rate).arg(&count).arg(&segment_count);
        // Safety: all buffers hold `length` numbers, the segments two factors for each start, as checked above.
        unsafe { launch.launch(grid((blocks, 1), 256, 0)) }.map_err(refused("adamw"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpu;
    use super::super::testing::{
        Number, Random, compare, download, download_floats, download_half, same, speed, unset_half, upload,
        upload_floats,
    };
    use super::*;
    use half::{bf16, f16};

    const CONSTANTS: Constants =
        Constants { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 1., average_decay: 0.99 };

    /// Values, moments and average of a reference in 64-bit floats.
    struct Reference {
        values: Vec<f64>,
        means: Vec<f64>,
        squares: Vec<f64>,
        averages: Vec<f64>,
        steps: i32,
    }

    impl Reference {
        fn step(&mut self, gradients: &[f64], list: &[Segment], c: Constants, rate: f64) -> f64 {
            let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
            if !norm.is_finite() {
                return norm;
            }
            self.steps += 1;
            let clip = (c.clip_norm / (norm + 1e-6)).min(1.);
            let steps = f64::from(self.steps);
            let decay = c.average_decay.min((1. + steps) / (10. + steps));
            for (i, gradient) in gradients.iter().enumerate() {
                let Some(segment) = list.iter().rev().find(|segment| segment.start <= i) else { continue };
                let (g, rate) = (gradient * clip, rate * f64::from(segment.rate));
                self.means[i] = c.beta1 * self.means[i] + (1. - c.beta1) * g;
                self.squares[i] = c.beta2 * self.squares[i] + (1. - c.beta2) * g * g;
                let mean = self.means[i] / (1. - c.beta1.powi(self.steps));
                let square = self.squares[i] / (1. - c.beta2.powi(self.steps));
                let decayed = self.values[i] * (1. - rate * c.weight_decay * f64::from(segment.decay));
                self.values[i] = decayed - rate * mean / (square.sqrt() + c.epsilon);
                self.averages[i] = decay * self.averages[i] + (1. - decay) * self.values[i];
            }
            norm
        }
    }

    fn check<T: Number>(stream: &Arc<CudaStream>, length: usize, starts: &[usize], scale: f64) -> Result<()> {
        let name = format!("adamw {} [{length}]", T::SUFFIX);
        let mut random = Random(length as u64);
        let list: Vec<Segment> = starts
            .iter()
            .enumerate()
            .map(|(i, &start)| Segment { start, rate: [1., 0.5, 0.][i % 3], decay: [1., 0.][i % 2] })
            .collect();
        let start = random.normals::<T>(length, 0., 1.);
        let zeros = vec![0.; length];
        let mut expected = Reference {
            values: start.clone(),
            means: zeros.clone(),
            squares: zeros.clone(),
            averages: start.clone(),
            steps: 0,
        };
        let operation = AdamW::<T>::load(stream)?;
        let (mut values, mut averages) = (upload_floats(stream, &start)?, upload_floats(stream, &start)?);
        let (mut means, mut squares) = (upload_floats(stream, &zeros)?, upload_floats(stream, &zeros)?);
        let mut copies = unset_half::<T>(stream, length)?;
        let mut state = upload(stream, &Report::initial_state(0))?;
        let mut scratch = upload(stream, &vec![f64::NAN; SCRATCH_LEN])?;
        let (starts, factors) = segments(&list)?;
        let on_gpu = (upload(stream, &starts)?, upload(stream, &factors)?);
        let (starts, factors) = (on_gpu.0.as_view(), on_gpu.1.as_view());
        // The fourth gradient is not finite: nothing may change, nor may the step count.
        for step in 0..6 {
            let mut gradients = random.normals::<f16>(length, 0.1, scale);
            if step == 3 {
                gradients[length / 2] = if length.is_multiple_of(2) { f64::NAN } else { f64::INFINITY };
            }
            let norm = expected.step(&gradients, &list, CONSTANTS, 0.01);
            let gradients = upload_floats(stream, &gradients)?;
            let buffers = Buffers {
                values: values.as_view_mut(),
                means: means.as_view_mut(),
                squares: squares.as_view_mut(),
                averages: Some(averages.as_view_mut()),
                copies: copies.as_view_mut(),
                state: state.as_view_mut(),
            };
            let segments = Segments { starts: &starts, factors: &factors };
            operation.step(&gradients.as_view(), buffers, segments, CONSTANTS, 0.01, &mut scratch.as_view_mut())?;
            let words = download(stream, &state.as_view())?;
            let report = Report::read(words.as_slice().try_into().expect("eight words"));
            assert_eq!((report.steps as i32, report.bad_steps), (expected.steps, u32::from(step >= 3)), "{name}");
            assert_eq!(report.norm.is_finite(), norm.is_finite(), "{name}");
            if norm.is_finite() {
                assert!((f64::from(report.norm) / norm - 1.).abs() < 1e-5, "{name}: {report:?}, expected {norm}");
            }
        }
        // f32 arithmetic of a few operations a step.
        for (what, found, expected) in [
            ("values", &values, &expected.values),
            ("means", &means, &expected.means),
            ("squares", &squares, &expected.squares),
            ("averages", &averages, &expected.averages),
        ] {
            compare(&format!("{name} {what}"), &download_floats(stream, &found.as_view())?, expected, 1e-5);
        }
        let rounded: Vec<f64> =
            download_floats(stream, &values.as_view())?.iter().map(|&x| T::from_f64(x).to_f64()).collect();
        same(&format!("{name} copies"), &download_half(stream, &copies.as_view())?, &rounded);
        Ok(())
    }

    fn check_all<T: Number>() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let many: Vec<usize> = (0..300).map(|i| i * 37).collect();
        for (length, starts) in [
            (1, &[0][..]),
            (3, &[0, 1, 2]),
            (7, &[0, 5]),
            (4095, &[0, 3, 4000, 4094]),
            (4097, &[0, 4096]),
            (50_003, &many),
            (1_300_001, &[0, 2, 1_000_003]),
        ] {
            // Gradients that are clipped, and some that are not.
            check::<T>(&stream, length, starts, 1.)?;
            check::<T>(&stream, length, starts, 1e-4)?;
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
    fn segments_begin_at_zero_and_rise() {
        let at = |start| Segment { start, rate: 1., decay: 0. };
        assert_eq!(segments(&[at(0), at(3)]).ok(), Some((vec![0, 3], vec![1., 0., 1., 0.])));
        for list in [&[][..], &[at(1)], &[at(0), at(3), at(3)], &[at(0), at(4), at(3)], &[at(0), at(1 << 32)]] {
            assert!(segments(list).is_err(), "{list:?}");
        }
    }

    #[test]
    #[ignore = "measures time"]
    fn speed_of_adamw() -> Result<()> {
        let Some(stream) = gpu() else { return Ok(()) };
        let operation = AdamW::<bf16>::load(&stream)?;
        let length = 20_000_000;
        let gradients = upload_floats(&stream, &vec![1e-3; length])?;
        let mut buffers = Vec::new();
        for _ in 0..4 {
            buffers.push(upload_floats(&stream, &vec![0.; length])?);
        }
        let mut copies = unset_half::<bf16>(&stream, length)?;
        let mut state = upload(&stream, &Report::initial_state(0))?;
        let mut scratch = upload(&stream, &vec![0f64; SCRATCH_LEN])?;
        let list: Vec<Segment> = (0..100).map(|i| Segment { start: i * 200_000, rate: 1., decay: 1. }).collect();
        let (starts, factors) = segments(&list)?;
        let on_gpu = (upload(&stream, &starts)?, upload(&stream, &factors)?);
        let (starts, factors) = (on_gpu.0.as_view(), on_gpu.1.as_view());
        for averaged in [false, true] {
            // The norm's pass, and that of the update: five or four numbers read, four or three written, and the copy.
            let bytes = if averaged { 4 + 38 } else { 4 + 30 } * length;
            speed(&stream, &format!("adamw of 20 M, average {averaged}"), bytes, || {
                let mut views = buffers.iter_mut().map(|buffer| buffer.as_view_mut());
                let (Some(values), Some(means), Some(squares)) = (views.next(), views.next(), views.next()) else {
                    return Ok(());
                };
                let buffers = Buffers {
                    values,
                    means,
                    squares,
                    averages: views.next().filter(|_| averaged),
                    copies: copies.as_view_mut(),
                    state: state.as_view_mut(),
                };
                let segments = Segments { starts: &starts, factors: &factors };
                let scratch = &mut scratch.as_view_mut();
                operation.step(&gradients.as_view(), buffers, segments, CONSTANTS, 1e-3, scratch)
            })?;
        }
        Ok(())
    }
}
