//! Sixteen lanes in four 128-bit vectors of WebAssembly: plain simd128, and relaxed SIMD where the module is built with it.
//! In: lanes. Out: lanes, as [`super::Vector`] says. A module's instructions are checked when it is loaded, so the choice is made when it is built:
//! `-C target-feature=+simd128` or `+simd128,+relaxed-simd`. Method: relaxed SIMD's dot products take one side as 7 bits, for which all their
//! implementations agree; without them two products are added in 32 bits (`i32x4.dot_i16x8_s`) after widening.

use std::arch::wasm32::*;

use super::{LANES, Operation, Vector};

/// Proof that the module was built for SIMD.
#[derive(Debug, Clone, Copy)]
pub struct Simd128(());

impl Simd128 {
    /// Always there in a module that was built with this file.
    #[cfg(feature = "wasm")]
    pub const PRESENT: Self = Self(());

    /// The same, as other instruction sets are asked for.
    #[cfg(not(feature = "wasm"))]
    pub fn new() -> Option<Self> {
        Some(Self(()))
    }

    /// Computes an operation with these instructions.
    #[cfg(target_feature = "relaxed-simd")]
    pub fn run<O: Operation>(self, operation: O) -> O::Output {
        if has_dot_instruction() { run_with(operation, Lanes(Whole)) } else { run_with(operation, Lanes(Halved)) }
    }

    /// Computes an operation with these instructions.
    #[cfg(not(target_feature = "relaxed-simd"))]
    pub fn run<O: Operation>(self, operation: O) -> O::Output {
        operation.run(Lanes(Widened))
    }

    /// Its name: which dot products the module has.
    pub fn name(self) -> &'static str {
        if cfg!(target_feature = "relaxed-simd") { "relaxed-simd" } else { "simd128" }
    }
}

/// A function of its own, so that those that are the same with both dot products are merged.
#[cfg(target_feature = "relaxed-simd")]
#[inline(never)]
fn run_with<O: Operation, D: Dot>(operation: O, lanes: Lanes<D>) -> O::Output {
    operation.run(lanes)
}

/// Whether the machine adds four products in one instruction, as VNNI and SDOT do. Others build it from `pmaddubsw`, whose 16-bit sums saturate, and that shows
/// where the 7-bit side has 8 bits; there the engine's five instructions are more than the three of [`Halved`].
#[cfg(target_feature = "relaxed-simd")]
fn has_dot_instruction() -> bool {
    let (a, b) = std::hint::black_box((i8x16_splat(127), i8x16_splat(-1)));
    let saturated = 2 * i32::from(i16::MAX);
    i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(a, b, i32x4_splat(0))) != saturated
}

/// How four products of bytes are added in each 32-bit lane: `a` of 0 to 127, `b` of -127 to 127.
pub trait Dot: Copy + Send + Sync + 'static {
    fn bytes(self, sum: v128, a: v128, b: v128) -> v128;
}

/// By one instruction.
#[cfg(target_feature = "relaxed-simd")]
#[derive(Debug, Clone, Copy)]
pub struct Whole;

#[cfg(target_feature = "relaxed-simd")]
impl Dot for Whole {
    #[inline(always)]
    fn bytes(self, sum: v128, a: v128, b: v128) -> v128 {
        i32x4_relaxed_dot_i8x16_i7x16_add(b, a, sum)
    }
}

/// Two and two in 16 bits, which hold 2 x 127 x 127, then both.
#[cfg(target_feature = "relaxed-simd")]
#[derive(Debug, Clone, Copy)]
pub struct Halved;

#[cfg(target_feature = "relaxed-simd")]
impl Dot for Halved {
    #[inline(always)]
    fn bytes(self, sum: v128, a: v128, b: v128) -> v128 {
        let pairs = i16x8_relaxed_dot_i8x16_i7x16(b, a);
        // As `i32x4_extadd_pairwise_i16x8` the compiler would make `Whole` of it.
        i32x4_add(sum, i32x4_dot_i16x8(pairs, i16x8_splat(1)))
    }
}

/// Two by the instruction for 16 bits, whose pairs of even and odd lanes are then added.
#[cfg(not(target_feature = "relaxed-simd"))]
#[derive(Debug, Clone, Copy)]
pub struct Widened;

#[cfg(not(target_feature = "relaxed-simd"))]
impl Dot for Widened {
    #[inline(always)]
    fn bytes(self, sum: v128, a: v128, b: v128) -> v128 {
        let low = i32x4_dot_i16x8(i16x8_extend_low_i8x16(a), i16x8_extend_low_i8x16(b));
        let high = i32x4_dot_i16x8(i16x8_extend_high_i8x16(a), i16x8_extend_high_i8x16(b));
        let (even, odd) = (i32x4_shuffle::<0, 2, 4, 6>(low, high), i32x4_shuffle::<1, 3, 5, 7>(low, high));
        i32x4_add(sum, i32x4_add(even, odd))
    }
}

/// The lanes, with one of the dot products.
#[derive(Debug, Clone, Copy)]
pub struct Lanes<D>(D);

/// Each quarter of one or two vectors through one instruction.
#[inline(always)]
fn quarters(a: [v128; 4], b: [v128; 4], instruction: impl Fn(v128, v128) -> v128) -> [v128; 4] {
    [instruction(a[0], b[0]), instruction(a[1], b[1]), instruction(a[2], b[2]), instruction(a[3], b[3])]
}

/// # Safety
/// 64 bytes may be read.
#[inline(always)]
unsafe fn load_all(from: *const v128) -> [v128; 4] {
    // SAFETY: the caller's; WebAssembly asks no alignment.
    unsafe { [v128_load(from), v128_load(from.add(1)), v128_load(from.add(2)), v128_load(from.add(3))] }
}

/// # Safety
/// 64 bytes may be written.
#[inline(always)]
unsafe fn store_all(x: [v128; 4], to: *mut v128) {
    for (quarter, x) in x.into_iter().enumerate() {
        // SAFETY: the caller's; WebAssembly asks no alignment.
        unsafe { v128_store(to.add(quarter), x) }
    }
}

impl<D: Dot> Vector for Lanes<D> {
    type Float = [v128; 4];
    type Int = [v128; 4];
    /// Engines map these onto 16 or 32 registers: eight sums, four weights, an activation.
    const TILE: (usize, usize) = (2, 1);

    #[inline(always)]
    fn splat(self, x: f32) -> [v128; 4] {
        [f32x4_splat(x); 4]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> [v128; 4] {
        // SAFETY: an array of 64 bytes.
        unsafe { load_all(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, x: [v128; 4], to: &mut [f32; LANES]) {
        // SAFETY: an array of 64 bytes.
        unsafe { store_all(x, to.as_mut_ptr().cast()) }
    }

    #[inline(always)]
    fn add(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| f32x4_add(a, b))
    }

    #[inline(always)]
    fn sub(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| f32x4_sub(a, b))
    }

    #[inline(always)]
    fn mul(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| f32x4_mul(a, b))
    }

    #[inline(always)]
    fn div(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| f32x4_div(a, b))
    }

    #[inline(always)]
    fn max(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        // pmax(x, y) is x < y ? y : x.
        quarters(a, b, |a, b| f32x4_pmax(b, a))
    }

    #[inline(always)]
    fn min(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        // pmin(x, y) is y < x ? y : x.
        quarters(a, b, |a, b| f32x4_pmin(b, a))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> [v128; 4] {
        [i32x4_splat(x); 4]
    }

    #[inline(always)]
    fn load_int(self, from: &[i32; LANES]) -> [v128; 4] {
        // SAFETY: an array of 64 bytes.
        unsafe { load_all(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_int(self, x: [v128; 4], to: &mut [i32; LANES]) {
        // SAFETY: an array of 64 bytes.
        unsafe { store_all(x, to.as_mut_ptr().cast()) }
    }

    #[inline(always)]
    fn add_int(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| i32x4_add(a, b))
    }

    #[inline(always)]
    fn sub_int(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| i32x4_sub(a, b))
    }

    #[inline(always)]
    fn mul_int(self, a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        quarters(a, b, |a, b| i32x4_mul(a, b))
    }

    #[inline(always)]
    fn into_exponent(self, x: [v128; 4]) -> [v128; 4] {
        quarters(x, x, |x, _| i32x4_shl(x, 23))
    }

    #[inline(always)]
    fn to_float(self, x: [v128; 4]) -> [v128; 4] {
        quarters(x, x, |x, _| f32x4_convert_i32x4(x))
    }

    #[inline(always)]
    fn bits(self, x: [v128; 4]) -> [v128; 4] {
        x
    }

    #[inline(always)]
    fn float_of_bits(self, x: [v128; 4]) -> [v128; 4] {
        x
    }

    #[inline(always)]
    fn widen(self, from: &[i8; LANES]) -> [v128; 4] {
        // SAFETY: an array of 16 bytes.
        let bytes = unsafe { v128_load(from.as_ptr().cast()) };
        let (low, high) = (i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes));
        [
            i32x4_extend_low_i16x8(low),
            i32x4_extend_high_i16x8(low),
            i32x4_extend_low_i16x8(high),
            i32x4_extend_high_i16x8(high),
        ]
    }

    #[inline(always)]
    fn store_bytes(self, x: [v128; 4], to: &mut [[u8; 4]; LANES / 4]) {
        let low = quarters(x, x, |x, _| v128_and(x, i32x4_splat(0xff)));
        let halves = [i16x8_narrow_i32x4(low[0], low[1]), i16x8_narrow_i32x4(low[2], low[3])];
        // SAFETY: an array of 16 bytes.
        unsafe { v128_store(to.as_mut_ptr().cast(), u8x16_narrow_i16x8(halves[0], halves[1])) }
    }

    #[inline(always)]
    fn store_halves(self, x: [v128; 4], to: &mut [[u8; 4]; LANES / 2]) {
        let to: *mut v128 = to.as_mut_ptr().cast();
        // SAFETY: an array of 32 bytes.
        unsafe {
            v128_store(to, i16x8_shuffle::<0, 2, 4, 6, 8, 10, 12, 14>(x[0], x[1]));
            v128_store(to.add(1), i16x8_shuffle::<0, 2, 4, 6, 8, 10, 12, 14>(x[2], x[3]));
        }
    }

    #[inline(always)]
    fn pair(self, low: [v128; 4], high: [v128; 4]) -> [v128; 4] {
        quarters(low, high, |low, high| v128_or(v128_and(low, i32x4_splat(0xffff)), i32x4_shl(high, 16)))
    }

    #[inline(always)]
    fn dot_bytes(self, sum: [v128; 4], a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        let dot = self.0;
        [
            dot.bytes(sum[0], a[0], b[0]),
            dot.bytes(sum[1], a[1], b[1]),
            dot.bytes(sum[2], a[2], b[2]),
            dot.bytes(sum[3], a[3], b[3]),
        ]
    }

    #[inline(always)]
    fn dot_halves(self, sum: [v128; 4], a: [v128; 4], b: [v128; 4]) -> [v128; 4] {
        let products = quarters(a, b, |a, b| i32x4_dot_i16x8(a, b));
        quarters(sum, products, |a, b| i32x4_add(a, b))
    }
}
