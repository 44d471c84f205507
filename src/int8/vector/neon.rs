//! Sixteen lanes in four 128-bit registers: AArch64's NEON, with two ways to a dot product of bytes.
//! In: lanes. Out: lanes, as [`super::Vector`] says. Method: `SDOT` (Armv8.2's dot product) adds four products in 32 bits, and takes activations as
//! signed bytes, which 0 to 127 are too; without it two products are added in 16 bits, where they fit: 2 x 127 x 127 = 32,258 is below 32,767.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;
use std::marker::PhantomData;

use super::{LANES, Operation, Vector};

/// How four lanes get their dot products, and what the CPU must have for it.
pub trait Dot: Copy + Send + Sync + 'static {
    /// Whether the CPU has what the instructions need.
    fn is_there() -> bool;

    /// Computes an operation with the features turned on.
    ///
    /// # Safety
    /// [`Dot::is_there`].
    unsafe fn run<O: Operation>(operation: O, vector: Neon<Self>) -> O::Output;

    /// As [`Vector::dot_bytes`].
    ///
    /// # Safety
    /// [`Dot::is_there`].
    unsafe fn bytes(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// NEON alone, which every AArch64 CPU has.
#[derive(Debug, Clone, Copy)]
pub struct Pairwise;

/// `SDOT` (Arm from Cortex-A55 and A75 on, Apple from A11 and M1 on).
#[derive(Debug, Clone, Copy)]
pub struct Sdot;

impl Dot for Pairwise {
    fn is_there() -> bool {
        is_aarch64_feature_detected!("neon")
    }

    #[target_feature(enable = "neon")]
    unsafe fn run<O: Operation>(operation: O, vector: Neon<Self>) -> O::Output {
        operation.run(vector)
    }

    #[inline(always)]
    unsafe fn bytes(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(a, b)))
        }
    }
}

impl Dot for Sdot {
    fn is_there() -> bool {
        is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")
    }

    #[target_feature(enable = "neon,dotprod")]
    unsafe fn run<O: Operation>(operation: O, vector: Neon<Self>) -> O::Output {
        operation.run(vector)
    }

    #[inline(always)]
    unsafe fn bytes(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller's; registers alone are read and written.
        unsafe {
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                sum = inout(vreg) sum,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}

/// Proof that the CPU has NEON and what `D` needs.
#[derive(Debug, Clone, Copy)]
pub struct Neon<D>(PhantomData<D>);

impl<D: Dot> Neon<D> {
    /// `None` where the CPU lacks them.
    pub fn new() -> Option<Self> {
        D::is_there().then_some(Self(PhantomData))
    }

    /// Computes an operation with these instructions.
    pub fn run<O: Operation>(self, operation: O) -> O::Output {
        // SAFETY: `self` exists only where `new` found what `D` needs.
        unsafe { D::run(operation, self) }
    }
}

type Floats = [float32x4_t; 4];
type Ints = [int32x4_t; 4];

/// Each quarter of two vectors through one instruction.
macro_rules! quarters {
    ($instruction:ident, $a:ident, $b:ident) => {
        // SAFETY: as of every block of this file's `Vector`.
        unsafe {
            [
                $instruction($a[0], $b[0]),
                $instruction($a[1], $b[1]),
                $instruction($a[2], $b[2]),
                $instruction($a[3], $b[3]),
            ]
        }
    };
    ($instruction:path, $a:ident) => {
        // SAFETY: as of every block of this file's `Vector`.
        unsafe { [$instruction($a[0]), $instruction($a[1]), $instruction($a[2]), $instruction($a[3])] }
    };
}

// SAFETY of every block below: `self` exists only where `new` found NEON and what `D` needs, and loads and stores stay within the arrays that
// they are given, for which they ask no alignment.
impl<D: Dot> Vector for Neon<D> {
    type Float = Floats;
    type Int = Ints;
    /// 24 of 32 registers for sums, four for weights, one for an activation.
    const TILE: (usize, usize) = (6, 1);

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Floats {
        let quarter = from.as_ptr();
        unsafe {
            [vld1q_f32(quarter), vld1q_f32(quarter.add(4)), vld1q_f32(quarter.add(8)), vld1q_f32(quarter.add(12))]
        }
    }

    #[inline(always)]
    fn store(self, x: Floats, to: &mut [f32; LANES]) {
        for quarter in 0..4 {
            unsafe { vst1q_f32(to.as_mut_ptr().add(4 * quarter), x[quarter]) }
        }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        quarters!(vaddq_f32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        quarters!(vsubq_f32, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        quarters!(vmulq_f32, a, b)
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        quarters!(vdivq_f32, a, b)
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        quarters!(greater, a, b)
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        quarters!(less, a, b)
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Ints {
        unsafe { [vdupq_n_s32(x); 4] }
    }

    #[inline(always)]
    fn load_int(self, from: &[i32; LANES]) -> Ints {
        let quarter = from.as_ptr();
        unsafe {
            [vld1q_s32(quarter), vld1q_s32(quarter.add(4)), vld1q_s32(quarter.add(8)), vld1q_s32(quarter.add(12))]
        }
    }

    #[inline(always)]
    fn store_int(self, x: Ints, to: &mut [i32; LANES]) {
        for quarter in 0..4 {
            unsafe { vst1q_s32(to.as_mut_ptr().add(4 * quarter), x[quarter]) }
        }
    }

    #[inline(always)]
    fn add_int(self, a: Ints, b: Ints) -> Ints {
        quarters!(vaddq_s32, a, b)
    }

    #[inline(always)]
    fn sub_int(self, a: Ints, b: Ints) -> Ints {
        quarters!(vsubq_s32, a, b)
    }

    #[inline(always)]
    fn mul_int(self, a: Ints, b: Ints) -> Ints {
        quarters!(vmulq_s32, a, b)
    }

    #[inline(always)]
    fn into_exponent(self, x: Ints) -> Ints {
        quarters!(vshlq_n_s32::<23>, x)
    }

    #[inline(always)]
    fn to_float(self, x: Ints) -> Floats {
        quarters!(vcvtq_f32_s32, x)
    }

    #[inline(always)]
    fn bits(self, x: Floats) -> Ints {
        quarters!(vreinterpretq_s32_f32, x)
    }

    #[inline(always)]
    fn float_of_bits(self, x: Ints) -> Floats {
        quarters!(vreinterpretq_f32_s32, x)
    }

    #[inline(always)]
    fn widen(self, from: &[i8; LANES]) -> Ints {
        unsafe {
            let bytes = vld1q_s8(from.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        }
    }

    #[inline(always)]
    fn store_bytes(self, x: Ints, to: &mut [[u8; 4]; LANES / 4]) {
        unsafe {
            let low = vmovn_high_s32(vmovn_s32(x[0]), x[1]);
            let high = vmovn_high_s32(vmovn_s32(x[2]), x[3]);
            vst1q_s8(to.as_mut_ptr().cast(), vmovn_high_s16(vmovn_s16(low), high));
        }
    }

    #[inline(always)]
    fn store_halves(self, x: Ints, to: &mut [[u8; 4]; LANES / 2]) {
        unsafe {
            vst1q_s16(to.as_mut_ptr().cast(), vmovn_high_s32(vmovn_s32(x[0]), x[1]));
            vst1q_s16(to.as_mut_ptr().cast::<i16>().add(8), vmovn_high_s32(vmovn_s32(x[2]), x[3]));
        }
    }

    #[inline(always)]
    fn pair(self, low: Ints, high: Ints) -> Ints {
        quarters!(insert_high, low, high)
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Ints, a: Ints, b: Ints) -> Ints {
        let mut sums = sum;
        for quarter in 0..4 {
            unsafe {
                let (a, b) = (vreinterpretq_s8_s32(a[quarter]), vreinterpretq_s8_s32(b[quarter]));
                sums[quarter] = D::bytes(sum[quarter], a, b);
            }
        }
        sums
    }

    #[inline(always)]
    fn dot_halves(self, sum: Ints, a: Ints, b: Ints) -> Ints {
        let mut sums = sum;
        for quarter in 0..4 {
            unsafe {
                let (a, b) = (vreinterpretq_s16_s32(a[quarter]), vreinterpretq_s16_s32(b[quarter]));
                let products = vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
                sums[quarter] = vaddq_s32(sum[quarter], products);
            }
        }
        sums
    }
}

/// NEON's own maximum of a number and NaN is NaN.
///
/// # Safety
/// The CPU has NEON, as of the two that follow.
#[inline(always)]
unsafe fn greater(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn less(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn insert_high(low: int32x4_t, high: int32x4_t) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe { vsliq_n_s32::<16>(low, high) }
}
