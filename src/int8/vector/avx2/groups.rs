//! Rows of activations times a panel in groups, with AVX2: `vpmaddubsw` for every step, added up in 16 bits, `vpmaddwd` once for each group.
//! In: 1 to 3 rows. Out: their exact sums. Written in assembly, because compilers reorder the additions and then lack registers, which costs a
//! seventh of the speed: six sums in 32 bits and six in 16, two registers of weights, an activation and a product are all that AVX2 has.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::int8::groups::Groups;
use crate::int8::vector::{LANES, Line};

/// Pairs of 16-bit ones: `vpmaddwd` by them adds neighbours.
static ONES: Line<[i32; LANES]> = Line([0x0001_0001; LANES]);

/// A step of a group, at a place in it. In the `first` step products become the sums of 16 bits, in a `next` one they are added to them.
macro_rules! step {
    (load $place:literal) => {
        concat!(
            "movzx {step:e}, word ptr [{order} + 2*", $place, "]\n",
            "vmovdqa ymm12, ymmword ptr [{weights} + 64*", $place, "]\n",
            "vmovdqa ymm13, ymmword ptr [{weights} + 64*", $place, " + 32]\n",
        )
    };
    (first: $($row:ident $low:tt $high:tt),+) => {
        concat!(step!(load 0), $(
            "vpbroadcastd ymm14, dword ptr [{", stringify!($row), "} + 4*{step}]\n",
            "vpmaddubsw ", $low, ", ymm14, ymm12\n",
            "vpmaddubsw ", $high, ", ymm14, ymm13\n",
        )+)
    };
    (next $place:literal: $($row:ident $low:tt $high:tt),+) => {
        concat!(step!(load $place), $(
            "vpbroadcastd ymm14, dword ptr [{", stringify!($row), "} + 4*{step}]\n",
            "vpmaddubsw ymm15, ymm14, ymm12\n",
            "vpmaddubsw ymm14, ymm14, ymm13\n",
            "vpaddw ", $low, ", ", $low, ", ymm15\n",
            "vpaddw ", $high, ", ", $high, ", ymm14\n",
        )+)
    };
    // The end of a group: sums of 16 bits into those of 32.
    (widen: $($gathered:tt $sum:tt),+) => {
        concat!($(
            "vpmaddwd ", $gathered, ", ", $gathered, ", ymmword ptr [{ones}]\n",
            "vpaddd ", $sum, ", ", $sum, ", ", $gathered, "\n",
        )+)
    };
}

/// A function for as many rows as it names: each with its two sums of 16 bits and of 32.
macro_rules! rows {
    ($name:ident $count:literal: $($row:ident $index:literal $low:tt $high:tt $sum_low:tt $sum_high:tt),+) => {
        /// The sums of the rows with the panel.
        ///
        /// # Safety
        /// The CPU has AVX2, and each row has [`Groups::steps`] steps.
        #[target_feature(enable = "avx2")]
        pub unsafe fn $name(rows: [&[[u8; 4]]; $count], groups: Groups) -> [[__m256i; 2]; $count] {
            let mut sums = [[_mm256_setzero_si256(); 2]; $count];
            // SAFETY: both loops read `order` and `weights` from their first to their last place, which are four for each large and three for each
            // small group (as `Groups` says), lines of `weights` lie at multiples of 64 bytes, and of the rows they read steps that `order` names,
            // all below `Groups::steps`. Nothing is written but registers.
            unsafe {
                asm!(
                    "test {large}, {large}",
                    "jz 3f",
                    ".p2align 4",
                    "2:",
                    step!(first: $($row $low $high),+),
                    step!(next 1: $($row $low $high),+),
                    step!(next 2: $($row $low $high),+),
                    step!(next 3: $($row $low $high),+),
                    step!(widen: $($low $sum_low, $high $sum_high),+),
                    "add {order}, 8",
                    "add {weights}, 256",
                    "dec {large}",
                    "jnz 2b",
                    "3:",
                    "test {small}, {small}",
                    "jz 5f",
                    ".p2align 4",
                    "4:",
                    step!(first: $($row $low $high),+),
                    step!(next 1: $($row $low $high),+),
                    step!(next 2: $($row $low $high),+),
                    step!(widen: $($low $sum_low, $high $sum_high),+),
                    "add {order}, 6",
                    "add {weights}, 192",
                    "dec {small}",
                    "jnz 4b",
                    "5:",
                    $($row = in(reg) rows[$index].as_ptr(),)+
                    order = inout(reg) groups.order().as_ptr() => _,
                    weights = inout(reg) groups.weights().as_ptr() => _,
                    large = inout(reg) groups.large() => _,
                    small = inout(reg) groups.small() => _,
                    ones = in(reg) ONES.0.as_ptr(),
                    step = out(reg) _,
                    $(inout($sum_low) sums[$index][0], inout($sum_high) sums[$index][1], out($low) _, out($high) _,)+
                    out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(pure, readonly, nostack)
                );
            }
            sums
        }
    };
}

rows!(one 1: row0 0 "ymm6" "ymm7" "ymm0" "ymm1");
rows!(two 2: row0 0 "ymm6" "ymm7" "ymm0" "ymm1", row1 1 "ymm8" "ymm9" "ymm2" "ymm3");
rows!(three 3: row0 0 "ymm6" "ymm7" "ymm0" "ymm1", row1 1 "ymm8" "ymm9" "ymm2" "ymm3", row2 2 "ymm10" "ymm11" "ymm4" "ymm5");

/// The sums of 1, 2 or 3 rows with a panel in groups.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub unsafe fn sums<const R: usize>(rows: [&[[u8; 4]]; R], groups: Groups) -> [[__m256i; 2]; R] {
    const { assert!(R >= 1 && R <= 3, "a tile of groups has 1 to 3 rows") };
    assert!(rows.iter().all(|row| row.len() >= groups.steps()), "rows shorter than the weights that multiply them");
    // SAFETY: the caller's; the rows' length was looked at.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        match R {
            1 => sums[..1].copy_from_slice(&one([rows[0]], groups)),
            2 => sums[..2].copy_from_slice(&two([rows[0], rows[1]], groups)),
            _ => sums[..3].copy_from_slice(&three([rows[0], rows[1], rows[2]], groups)),
        }
        sums
    }
}
