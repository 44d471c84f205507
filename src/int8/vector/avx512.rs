//! Sixteen lanes in one 512-bit register: AVX-512 with VNNI (`vpdpbusd`, `vpdpwssd`), Intel from Ice Lake, AMD from Zen 4 on.
//! In: lanes. Out: lanes, as [`super::Vector`] says. Method: one instruction for each operation.

use std::arch::x86_64::*;

use super::{LANES, Operation, Vector};

/// Proof that the CPU has AVX-512 F, BW, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// `None` where the CPU or the operating system lacks them.
    pub fn new() -> Option<Self> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        there.then_some(Self(()))
    }

    /// Computes an operation with these instructions.
    pub fn run<O: Operation>(self, operation: O) -> O::Output {
        // SAFETY: `self` exists only where `new` found the features of `with_features`.
        unsafe { with_features(operation, self) }
    }
}

/// # Safety
/// The CPU has the features named here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn with_features<O: Operation>(operation: O, vector: Avx512) -> O::Output {
    operation.run(vector)
}

// SAFETY of every block below: `self` exists only where `new` found AVX-512 F, BW, VL and VNNI, and loads and stores stay within the arrays
// that they are given, for which they ask no alignment.
impl Vector for Avx512 {
    type Float = __m512;
    type Int = __m512i;
    /// 24 of 32 registers for sums, three for weights, one for an activation.
    const TILE: (usize, usize) = (8, 3);

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn load_int(self, from: &[i32; LANES]) -> __m512i {
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_int(self, x: __m512i, to: &mut [i32; LANES]) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub_int(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn mul_int(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn into_exponent(self, x: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<23>(x) }
    }

    #[inline(always)]
    fn to_float(self, x: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn bits(self, x: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(x) }
    }

    #[inline(always)]
    fn float_of_bits(self, x: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(x) }
    }

    #[inline(always)]
    fn widen(self, from: &[i8; LANES]) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_bytes(self, x: __m512i, to: &mut [[u8; 4]; LANES / 4]) {
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) }
    }

    #[inline(always)]
    fn store_halves(self, x: __m512i, to: &mut [[u8; 4]; LANES / 2]) {
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(x)) }
    }

    #[inline(always)]
    fn pair(self, low: __m512i, high: __m512i) -> __m512i {
        unsafe { _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    fn dot_bytes(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, a, b) }
    }

    #[inline(always)]
    fn dot_halves(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        unsafe {
            let (low, high) = (_mm512_castps512_ps256(x), upper(x));
            super::avx2::sum8(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    fn highest(self, x: __m512) -> f32 {
        unsafe { super::avx2::highest8(_mm256_max_ps(_mm512_castps512_ps256(x), upper(x))) }
    }
}

/// The upper eight lanes. `vextractf32x8` would need AVX-512 DQ.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn upper(x: __m512) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x))) }
}
