//! Sixteen lanes in two 256-bit registers: AVX2, with three ways to a dot product of bytes.
//! In: lanes. Out: lanes, as [`super::Vector`] says. Method: `vpmaddubsw`, which adds two products in 16 bits, cannot saturate here, for
//! 2 x 127 x 127 = 32,258 is below 32,767; `vpdpbusd` adds four in 32 bits, encoded for AVX-512 VL (EVEX) or without it (VEX, AVX-VNNI).

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{LANES, Operation, Vector, step_by_step};
use crate::int8::groups::Groups;

mod groups;

/// How eight lanes get their dot products, and what the CPU must have for it.
pub trait Dot: Copy + Send + Sync + 'static {
    /// Rows and panels of a tile.
    const TILE: (usize, usize);
    /// As [`Vector::GROUPS`].
    const GROUPS: bool = false;

    /// Whether the CPU and the operating system have what the instructions need.
    fn is_there() -> bool;

    /// Computes an operation with the features turned on.
    ///
    /// # Safety
    /// [`Dot::is_there`].
    unsafe fn run<O: Operation>(operation: O, vector: Wide<Self>) -> O::Output;

    /// As [`Vector::dot_bytes`].
    ///
    /// # Safety
    /// [`Dot::is_there`].
    unsafe fn bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i;

    /// As [`Vector::dot_halves`].
    ///
    /// # Safety
    /// [`Dot::is_there`].
    unsafe fn halves(sum: __m256i, a: __m256i, b: __m256i) -> __m256i;

    /// As [`Vector::dot_groups`].
    ///
    /// # Safety
    /// [`Dot::is_there`].
    #[inline(always)]
    unsafe fn groups<const R: usize>(vector: Wide<Self>, rows: [&[[u8; 4]]; R], groups: Groups) -> [[__m256i; 2]; R] {
        step_by_step(vector, rows, groups)
    }
}

/// AVX2 alone (Intel from Haswell, AMD from Zen on).
#[derive(Debug, Clone, Copy)]
pub struct Maddubs;

/// AVX-VNNI (Intel from Alder Lake, AMD from Zen 5 on).
#[derive(Debug, Clone, Copy)]
pub struct VexVnni;

/// AVX-512 VNNI on 256-bit registers, of which it has 32; for CPUs that lower their clock for wider ones.
#[derive(Debug, Clone, Copy)]
pub struct EvexVnni;

impl Dot for Maddubs {
    /// Eight sums; weights, an activation, a product and a vector of ones take the rest.
    const TILE: (usize, usize) = (4, 1);
    const GROUPS: bool = true;

    fn is_there() -> bool {
        is_x86_feature_detected!("avx2")
    }

    #[target_feature(enable = "avx2")]
    unsafe fn run<O: Operation>(operation: O, vector: Wide<Self>) -> O::Output {
        operation.run(vector)
    }

    #[inline(always)]
    unsafe fn bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))) }
    }

    #[inline(always)]
    unsafe fn halves(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn groups<const R: usize>(_: Wide<Self>, rows: [&[[u8; 4]]; R], groups: Groups) -> [[__m256i; 2]; R] {
        // SAFETY: the caller's.
        unsafe { groups::sums(rows, groups) }
    }
}

impl Dot for VexVnni {
    /// Twelve sums; weights and an activation take the rest.
    const TILE: (usize, usize) = (6, 1);

    fn is_there() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni")
    }

    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn run<O: Operation>(operation: O, vector: Wide<Self>) -> O::Output {
        operation.run(vector)
    }

    #[inline(always)]
    unsafe fn bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_dpbusd_avx_epi32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn halves(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_dpwssd_avx_epi32(sum, a, b) }
    }
}

impl Dot for EvexVnni {
    /// 24 of 32 registers for sums.
    const TILE: (usize, usize) = (6, 2);

    fn is_there() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    }

    #[target_feature(enable = "avx2,avx512f,avx512vl,avx512vnni")]
    unsafe fn run<O: Operation>(operation: O, vector: Wide<Self>) -> O::Output {
        operation.run(vector)
    }

    #[inline(always)]
    unsafe fn bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_dpbusd_epi32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn halves(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_dpwssd_epi32(sum, a, b) }
    }
}

/// Proof that the CPU has AVX2 and what `D` needs.
#[derive(Debug, Clone, Copy)]
pub struct Wide<D>(PhantomData<D>);

impl<D: Dot> Wide<D> {
    /// `None` where the CPU or the operating system lacks them.
    pub fn new() -> Option<Self> {
        D::is_there().then_some(Self(PhantomData))
    }

    /// Computes an operation with these instructions.
    pub fn run<O: Operation>(self, operation: O) -> O::Output {
        // SAFETY: `self` exists only where `new` found what `D` needs.
        unsafe { D::run(operation, self) }
    }
}

// SAFETY of every block below: `self` exists only where `new` found AVX2 and what `D` needs, and loads and stores stay within the arrays that
// they are given, for which they ask no alignment.
impl<D: Dot> Vector for Wide<D> {
    type Float = [__m256; 2];
    type Int = [__m256i; 2];
    const TILE: (usize, usize) = D::TILE;
    const GROUPS: bool = D::GROUPS;

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> [__m256; 2] {
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, x: [__m256; 2], to: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }

    #[inline(always)]
    fn load_int(self, from: &[i32; LANES]) -> [__m256i; 2] {
        unsafe { load_both(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_int(self, x: [__m256i; 2], to: &mut [i32; LANES]) {
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), x[1]);
        }
    }

    #[inline(always)]
    fn add_int(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub_int(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_int(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn into_exponent(self, x: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_slli_epi32::<23>(x[0]), _mm256_slli_epi32::<23>(x[1])] }
    }

    #[inline(always)]
    fn to_float(self, x: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
    }

    #[inline(always)]
    fn bits(self, x: [__m256; 2]) -> [__m256i; 2] {
        unsafe { [_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1])] }
    }

    #[inline(always)]
    fn float_of_bits(self, x: [__m256i; 2]) -> [__m256; 2] {
        unsafe { [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])] }
    }

    #[inline(always)]
    fn widen(self, from: &[i8; LANES]) -> [__m256i; 2] {
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }

    #[inline(always)]
    fn store_bytes(self, x: [__m256i; 2], to: &mut [[u8; 4]; LANES / 4]) {
        unsafe {
            let mask = _mm256_set1_epi32(0xff);
            let halves = in_order(_mm256_packus_epi32(_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask)));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn store_halves(self, x: [__m256i; 2], to: &mut [[u8; 4]; LANES / 2]) {
        unsafe {
            let mask = _mm256_set1_epi32(0xffff);
            let halves = in_order(_mm256_packus_epi32(_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask)));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    fn pair(self, low: [__m256i; 2], high: [__m256i; 2]) -> [__m256i; 2] {
        unsafe {
            [
                _mm256_blend_epi16::<0xaa>(low[0], _mm256_slli_epi32::<16>(high[0])),
                _mm256_blend_epi16::<0xaa>(low[1], _mm256_slli_epi32::<16>(high[1])),
            ]
        }
    }

    #[inline(always)]
    fn dot_bytes(self, sum: [__m256i; 2], a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [D::bytes(sum[0], a[0], b[0]), D::bytes(sum[1], a[1], b[1])] }
    }

    #[inline(always)]
    fn dot_halves(self, sum: [__m256i; 2], a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [D::halves(sum[0], a[0], b[0]), D::halves(sum[1], a[1], b[1])] }
    }

    #[inline(always)]
    fn dot_groups<const R: usize>(self, rows: [&[[u8; 4]]; R], groups: Groups) -> [[__m256i; 2]; R] {
        unsafe { D::groups(self, rows, groups) }
    }

    #[inline(always)]
    fn sum(self, x: [__m256; 2]) -> f32 {
        unsafe { sum8(_mm256_add_ps(x[0], x[1])) }
    }

    #[inline(always)]
    fn highest(self, x: [__m256; 2]) -> f32 {
        unsafe { highest8(_mm256_max_ps(x[0], x[1])) }
    }
}

/// # Safety
/// The CPU has AVX2, and 64 bytes may be read.
#[inline(always)]
unsafe fn load_both(from: *const __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's.
    unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
}

/// Packing takes the two vectors' lower halves first; this puts the quarters in order.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn in_order(packed: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_permute4x64_epi64::<0b11_01_10_00>(packed) }
}

/// Each lane with the one 4 further, then 2, 1.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum8(x: __m256) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// The largest of eight lanes.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn highest8(x: __m256) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}
