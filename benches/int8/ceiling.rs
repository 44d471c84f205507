//! What this core can do at most: dot products on registers alone, in billions of operations (a product and an addition are two) a second.
//! No memory is read, so no matrix product can be faster; the share that one reaches is its roofline figure.

#[cfg(target_arch = "x86_64")]
use std::time::Instant;

use chemtag::int8::Kernel;

/// Runs of each loop; the fastest counts.
#[cfg(target_arch = "x86_64")]
const RUNS: usize = 40;
/// Steps of a run: below a millisecond, so that some run is not interrupted.
#[cfg(target_arch = "x86_64")]
const STEPS: usize = 20_000;

/// The fastest of several runs.
#[cfg(target_arch = "x86_64")]
fn fastest(operations: usize, run: impl Fn() -> i32) -> f64 {
    let seconds = (0..RUNS).map(|_| {
        let started = Instant::now();
        std::hint::black_box(run());
        started.elapsed().as_secs_f64()
    });
    operations as f64 / seconds.fold(f64::INFINITY, f64::min) / 1e9
}

/// The ceiling of a kernel, where it is known.
#[cfg(target_arch = "x86_64")]
pub fn of(kernel: &Kernel) -> Option<f64> {
    // SAFETY: a kernel is there only where the CPU has its instructions.
    match kernel.name() {
        "avx2" => Some(fastest(STEPS * x86::SUMS_16 * 64, || unsafe { x86::maddubs(STEPS) })),
        "avx-vnni" => Some(fastest(STEPS * x86::SUMS_16 * 64, || unsafe { x86::vex_vnni(STEPS) })),
        "avx512-vnni-256" => Some(fastest(STEPS * x86::SUMS_32 * 64, || unsafe { x86::evex_vnni(STEPS) })),
        "avx512-vnni" => Some(fastest(STEPS * x86::SUMS_32 * 128, || unsafe { x86::avx512_vnni(STEPS) })),
        _ => None,
    }
}

/// No ceiling is known here.
#[cfg(not(target_arch = "x86_64"))]
pub fn of(_: &Kernel) -> Option<f64> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Sums that are under way at once, where there are 16 and 32 registers: more than latency times instructions a cycle.
    pub const SUMS_16: usize = 12;
    pub const SUMS_32: usize = 24;

    #[target_feature(enable = "avx2")]
    pub fn maddubs(steps: usize) -> i32 {
        let (b, ones) = (_mm256_set1_epi32(0x0102_0304), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); SUMS_16];
        for step in 0..steps {
            let a = _mm256_set1_epi32(step as i32);
            for sum in &mut sums {
                // The sum itself is multiplied, or the compiler would compute the product once for all.
                let products = _mm256_madd_epi16(_mm256_maddubs_epi16(*sum, b), ones);
                *sum = _mm256_add_epi32(a, products);
            }
        }
        sums.iter().fold(0, |all, &sum| all ^ _mm256_extract_epi32::<0>(sum))
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub fn vex_vnni(steps: usize) -> i32 {
        let b = _mm256_set1_epi32(0x0102_0304);
        let mut sums = [_mm256_setzero_si256(); SUMS_16];
        for step in 0..steps {
            let a = _mm256_set1_epi32(step as i32);
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        sums.iter().fold(0, |all, &sum| all ^ _mm256_extract_epi32::<0>(sum))
    }

    #[target_feature(enable = "avx2,avx512f,avx512vl,avx512vnni")]
    pub fn evex_vnni(steps: usize) -> i32 {
        let b = _mm256_set1_epi32(0x0102_0304);
        let mut sums = [_mm256_setzero_si256(); SUMS_32];
        for step in 0..steps {
            let a = _mm256_set1_epi32(step as i32);
            for sum in &mut sums {
                *sum = _mm256_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.iter().fold(0, |all, &sum| all ^ _mm256_extract_epi32::<0>(sum))
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512_vnni(steps: usize) -> i32 {
        let b = _mm512_set1_epi32(0x0102_0304);
        let mut sums = [_mm512_setzero_si512(); SUMS_32];
        for step in 0..steps {
            let a = _mm512_set1_epi32(step as i32);
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.iter().fold(0, |all, &sum| all ^ _mm512_reduce_add_epi32(sum))
    }
}
