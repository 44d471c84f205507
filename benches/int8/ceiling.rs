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
        "avx2" => Some(fastest(STEPS * x86::GROUPED_SUMS * 4 * 64, || unsafe { x86::maddubs_in_groups(STEPS) })),
        "avx-vnni" => Some(fastest(STEPS * x86::SUMS_16 * 64, || unsafe { x86::vex_vnni(STEPS) })),
        "avx512-vnni-256" => Some(fastest(STEPS * x86::SUMS_32 * 64, || unsafe { x86::evex_vnni(STEPS) })),
        "avx512-vnni" => Some(fastest(STEPS * x86::SUMS_32 * 128, || unsafe { x86::avx512_vnni(STEPS) })),
        _ => None,
    }
}

/// The ceiling of AVX2 where every product is widened to 32 bits by itself (`vpmaddubsw`, `vpmaddwd`, `vpaddd`), which chemtag's groups of steps
/// go beyond.
#[cfg(target_arch = "x86_64")]
pub fn step_by_step(kernel: &Kernel) -> Option<f64> {
    // SAFETY: a kernel is there only where the CPU has its instructions.
    (kernel.name() == "avx2").then(|| fastest(STEPS * x86::SUMS_16 * 64, || unsafe { x86::maddubs(STEPS) }))
}

/// No ceiling is known here.
#[cfg(not(target_arch = "x86_64"))]
pub fn of(_: &Kernel) -> Option<f64> {
    None
}

/// No ceiling is known here.
#[cfg(not(target_arch = "x86_64"))]
pub fn step_by_step(_: &Kernel) -> Option<f64> {
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

    /// Sums of three rows with sixteen channels, as the kernel has them.
    pub const GROUPED_SUMS: usize = 6;

    /// One sum's group: four products, added up in 16 bits, then once in 32.
    macro_rules! group {
        ($($gathered:literal $sum:literal),+) => {
            concat!($(
                "vpmaddubsw ", $gathered, ", ymm12, ymm13\n",
                "vpmaddubsw ymm14, ymm12, ymm13\n", "vpaddw ", $gathered, ", ", $gathered, ", ymm14\n",
                "vpmaddubsw ymm14, ymm12, ymm13\n", "vpaddw ", $gathered, ", ", $gathered, ", ymm14\n",
                "vpmaddubsw ymm14, ymm12, ymm13\n", "vpaddw ", $gathered, ", ", $gathered, ", ymm14\n",
                "vpmaddwd ", $gathered, ", ", $gathered, ", ymm15\n",
                "vpaddd ", $sum, ", ", $sum, ", ", $gathered, "\n",
            )+)
        };
    }

    #[target_feature(enable = "avx2")]
    pub fn maddubs_in_groups(steps: usize) -> i32 {
        let sum: __m256i;
        // SAFETY: registers alone are read and written. Assembly, for a compiler would see that all products are the same.
        unsafe {
            std::arch::asm!(
                "2:",
                group!("ymm6" "ymm0", "ymm7" "ymm1", "ymm8" "ymm2", "ymm9" "ymm3", "ymm10" "ymm4", "ymm11" "ymm5"),
                "dec {steps}",
                "jnz 2b",
                steps = inout(reg) steps => _,
                inout("ymm0") _mm256_setzero_si256() => sum,
                inout("ymm12") _mm256_set1_epi8(3) => _, inout("ymm13") _mm256_set1_epi8(-5) => _,
                inout("ymm15") _mm256_set1_epi16(1) => _,
                out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm14") _,
                options(nomem, nostack)
            );
        }
        _mm256_extract_epi32::<0>(sum)
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
