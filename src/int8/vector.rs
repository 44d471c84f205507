//! Sixteen lanes of 32 bits on whatever registers a CPU has: the arithmetic that every operation of the integer engine is written in, once.
//! In: lanes. Out: lanes, the same bits on every instruction set, for each operation here is exact or rounded once as IEEE 754 says.
//! Fused multiply-add, approximate reciprocals and sums in another order are left out, because they would differ.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(not(all(feature = "wasm", target_arch = "wasm32", target_feature = "simd128")))]
pub mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub mod simd128;

use super::groups::{Groups, LARGE, SMALL};

/// Lanes of a vector, columns of a weight panel, and the virtual lanes of a reduction.
pub const LANES: usize = 16;

/// Sixteen 32-bit values, or as many bytes, that begin at a cache line: none of them is ever loaded in two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// Sixteen floats.
pub type FloatLine = Line<[f32; LANES]>;
/// Sixteen integers.
pub type IntLine = Line<[i32; LANES]>;

/// How many lines hold `width` values.
pub fn lines(width: usize) -> usize {
    width.div_ceil(LANES)
}

/// The lanes' operations. A value of the implementing type is the proof that the CPU has its instructions.
pub trait Vector: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type Float: Copy;
    /// Sixteen `i32`, or the bits of anything else of 64 bytes.
    type Int: Copy;
    /// Rows of a product's tile (8, 6, 4, 2 or 1) and its panels of 16 columns (3, 2 or 1): as many accumulators as the registers hold.
    const TILE: (usize, usize);
    /// Whether sums over a panel in [`Groups`] are faster here than those over its steps in their order.
    const GROUPS: bool = false;

    fn splat(self, x: f32) -> Self::Float;
    fn load(self, from: &[f32; LANES]) -> Self::Float;
    fn store(self, x: Self::Float, to: &mut [f32; LANES]);
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float;
    fn div(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a > b ? a : b`: the second one if either is NaN.
    fn max(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a < b ? a : b`: the second one if either is NaN.
    fn min(self, a: Self::Float, b: Self::Float) -> Self::Float;

    fn splat_int(self, x: i32) -> Self::Int;
    fn load_int(self, from: &[i32; LANES]) -> Self::Int;
    fn store_int(self, x: Self::Int, to: &mut [i32; LANES]);
    /// Sum modulo 2^32, as the two that follow.
    fn add_int(self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn sub_int(self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn mul_int(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Each lane times 2^23, modulo 2^32: an integer into the place of a float's exponent.
    fn into_exponent(self, x: Self::Int) -> Self::Int;

    /// The nearest float, ties to even.
    fn to_float(self, x: Self::Int) -> Self::Float;
    /// The floats' bits.
    fn bits(self, x: Self::Float) -> Self::Int;
    /// Floats of these bits.
    fn float_of_bits(self, x: Self::Int) -> Self::Float;
    /// Signed bytes as integers.
    fn widen(self, from: &[i8; LANES]) -> Self::Int;
    /// The low byte of each lane, four lanes to a group.
    fn store_bytes(self, x: Self::Int, to: &mut [[u8; 4]; LANES / 4]);
    /// The low half of each lane, two lanes to a group, the lower byte first.
    fn store_halves(self, x: Self::Int, to: &mut [[u8; 4]; LANES / 2]);
    /// The low halves of two vectors, lane by lane: `low` in the low half, `high` in the high one.
    fn pair(self, low: Self::Int, high: Self::Int) -> Self::Int;

    /// `sum + a0 b0 + a1 b1 + a2 b2 + a3 b3` in each lane: `a` four bytes of 0 to 127, `b` four of -127 to 127.
    fn dot_bytes(self, sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// `sum + a0 b0 + a1 b1` in each lane: two signed halves each, none of them -32,768.
    fn dot_halves(self, sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;

    /// Sums of 1, 2 or 3 rows with a panel in groups; a row has [`Groups::steps`] steps. As exact as [`Vector::dot_bytes`], step by step.
    #[inline(always)]
    fn dot_groups<const R: usize>(self, rows: [&[[u8; 4]]; R], groups: Groups) -> [Self::Int; R] {
        step_by_step(self, rows, groups)
    }

    /// Sum of the lanes: each with the one 8 further, then 4, 2, 1.
    #[inline(always)]
    fn sum(self, x: Self::Float) -> f32 {
        self.reduce(x, |a, b| a + b)
    }

    /// The largest lane.
    #[inline(always)]
    fn highest(self, x: Self::Float) -> f32 {
        self.reduce(x, |a, b| if a > b { a } else { b })
    }

    /// The smallest lane.
    #[inline(always)]
    fn lowest(self, x: Self::Float) -> f32 {
        self.reduce(x, |a, b| if a < b { a } else { b })
    }

    /// Halves the lanes four times, each with the one 8, 4, 2, 1 further.
    #[inline(always)]
    fn reduce(self, x: Self::Float, join: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = Line([0f32; LANES]);
        self.store(x, &mut lanes.0);
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes.0[lane] = join(lanes.0[lane], lanes.0[lane + half]);
            }
        }
        lanes.0[0]
    }
}

/// [`Vector::dot_groups`] without any gain by the groups.
#[inline(always)]
pub fn step_by_step<V: Vector, const R: usize>(v: V, rows: [&[[u8; 4]]; R], groups: Groups) -> [V::Int; R] {
    debug_assert_eq!(groups.order().len(), LARGE * groups.large() + SMALL * groups.small());
    let mut sums = [v.splat_int(0); R];
    for (&step, weights) in groups.order().iter().zip(groups.weights()) {
        let weights = v.load_int(&weights.0);
        for (sum, row) in sums.iter_mut().zip(rows) {
            let activation = v.splat_int(i32::from_le_bytes(row[usize::from(step)]));
            *sum = v.dot_bytes(*sum, activation, weights);
        }
    }
    sums
}

/// Something to compute with the lanes of any instruction set. Implementations are `#[inline(always)]`, as all that they call: only so does
/// their code get the instructions that [`Kernel::run`](super::kernel::Kernel::run) turns on.
pub trait Operation {
    /// What comes out.
    type Output;

    /// Computes it.
    fn run<V: Vector>(self, vector: V) -> Self::Output;
}
