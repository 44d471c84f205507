//! For tests of kernels: random numbers, copies to and from the GPU, comparison with a reference in 64-bit floats, and timing.

use std::sync::Arc;
use std::time::Instant;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};
use half::{bf16, f16};

use super::{Half, refused};
use crate::error::Result;

/// A 16-bit float that tests can make and read.
pub(crate) trait Number: Half {
    /// Largest relative error of rounding to it: bf16 keeps 8 bits, f16 11.
    const ROUNDING: f64;
    /// By way of f32, as on the GPU: `half` looks at the upper 32 bits of an f64 alone, and takes numbers near a tie for one.
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

impl Number for bf16 {
    const ROUNDING: f64 = 1. / 256.;
    fn from_f64(x: f64) -> Self {
        bf16::from_f32(x as f32)
    }
    fn to_f64(self) -> f64 {
        self.to_f64()
    }
}

impl Number for f16 {
    const ROUNDING: f64 = 1. / 2048.;
    fn from_f64(x: f64) -> Self {
        f16::from_f32(x as f32)
    }
    fn to_f64(self) -> f64 {
        self.to_f64()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Normally distributed (the sum of twelve uniform numbers is near enough), rounded to `T`.
    pub fn normals<T: Number>(&mut self, count: usize, mean: f64, deviation: f64) -> Vec<f64> {
        let mut normal = || (0..12).map(|_| (self.bits() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.;
        (0..count).map(|_| T::from_f64(mean + deviation * normal()).to_f64()).collect()
    }

    /// Whole numbers below `end`.
    pub fn numbers(&mut self, count: usize, end: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(end) as u32).collect()
    }
}

pub(crate) fn upload<U: DeviceRepr>(stream: &Arc<CudaStream>, values: &[U]) -> Result<CudaSlice<U>> {
    stream.clone_htod(values).map_err(refused("a copy to the GPU"))
}

pub(crate) fn upload_half<T: Number>(stream: &Arc<CudaStream>, values: &[f64]) -> Result<CudaSlice<T>> {
    upload(stream, &values.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>())
}

pub(crate) fn upload_floats(stream: &Arc<CudaStream>, values: &[f64]) -> Result<CudaSlice<f32>> {
    upload(stream, &values.iter().map(|&x| x as f32).collect::<Vec<f32>>())
}

/// Room for `count` numbers, filled with NaN, so that what a kernel forgets is seen.
pub(crate) fn unset_half<T: Number>(stream: &Arc<CudaStream>, count: usize) -> Result<CudaSlice<T>> {
    upload(stream, &vec![T::from_f64(f64::NAN); count])
}

/// Room for `count` numbers, filled with NaN.
pub(crate) fn unset_floats(stream: &Arc<CudaStream>, count: usize) -> Result<CudaSlice<f32>> {
    upload(stream, &vec![f32::NAN; count])
}

pub(crate) fn download<U: DeviceRepr>(stream: &Arc<CudaStream>, view: &CudaView<'_, U>) -> Result<Vec<U>> {
    let values = stream.clone_dtoh(view).map_err(refused("a copy from the GPU"))?;
    stream.synchronize().map_err(refused("a copy from the GPU"))?;
    Ok(values)
}

pub(crate) fn download_half<T: Number>(stream: &Arc<CudaStream>, view: &CudaView<'_, T>) -> Result<Vec<f64>> {
    Ok(download(stream, view)?.into_iter().map(T::to_f64).collect())
}

pub(crate) fn download_floats(stream: &Arc<CudaStream>, view: &CudaView<'_, f32>) -> Result<Vec<f64>> {
    Ok(download(stream, view)?.into_iter().map(f64::from).collect())
}

/// Prints the largest error, relative to the expected number or to the root mean square of all expected ones where that is larger
/// (a sum's error follows its terms, not its own size), and fails above `tolerance`.
pub(crate) fn compare(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mean_square = expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64;
    let floor = mean_square.sqrt().max(f64::MIN_POSITIVE);
    let error = |(f, e): (&f64, &f64)| if f == e { 0. } else { (f - e).abs() / e.abs().max(floor) };
    let mut largest = (0, 0.);
    for (i, pair) in found.iter().zip(expected).enumerate() {
        let error = error(pair);
        if error.is_nan() || error > largest.1 {
            largest = (i, error);
        }
        if error.is_nan() {
            break;
        }
    }
    let (i, error) = largest;
    println!("{what}: largest error {error:.2e} of {tolerance:.2e} allowed");
    let (f, e) = (found.get(i), expected.get(i));
    assert!(error <= tolerance, "{what}: number {i} is {f:?}, expected {e:?}");
}

/// Fails at the first number that is not the expected one.
pub(crate) fn same<U: PartialEq + std::fmt::Debug>(what: &str, found: &[U], expected: &[U]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f == e, "{what}: number {i} is {f:?}, expected {e:?}");
    }
    println!("{what}: exact");
}

/// Prints the median time of an operation that moves `bytes`, of 20 samples of 20 launches after 5 to warm up.
pub(crate) fn speed(
    stream: &CudaStream,
    what: &str,
    bytes: usize,
    mut operation: impl FnMut() -> Result<()>,
) -> Result<()> {
    for _ in 0..5 {
        operation()?;
    }
    let mut samples = Vec::new();
    for _ in 0..20 {
        stream.synchronize().map_err(refused(what))?;
        let start = Instant::now();
        for _ in 0..20 {
            operation()?;
        }
        stream.synchronize().map_err(refused(what))?;
        samples.push(start.elapsed().as_secs_f64() / 20.);
    }
    samples.sort_by(f64::total_cmp);
    let median = samples[samples.len() / 2];
    println!("{what}: {:.1} us, {:.0} GB/s", median * 1e6, bytes as f64 / median / 1e9);
    Ok(())
}
