//! In: an f64 in the range that the recursions need. Out: its exponential or logarithm, the same bits on every machine and in WebAssembly,
//! whose own functions come from other libraries. Method: for exp Cody and Waite's reduction and Taylor's series; for ln the series of the area
//! hyperbolic tangent, ln x = 2 artanh((x - 1) / (x + 1)). Both leave out fewer than 1e-16 of the value.

use std::f64::consts::{LN_2, LOG2_E};

/// ln 2 without its last 32 bits, so that a product with a whole number below 2^20 is exact, and the rest.
const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// exp of less than this is 0 in f64.
const LEAST_EXPONENT: f64 = -746.0;

/// `exp(x)` for `x <= 0`; `exp(-inf)` is 0.
pub(super) fn exp(x: f64) -> f64 {
    if x < LEAST_EXPONENT {
        return 0.0;
    }
    let twos = (x * LOG2_E).round_ties_even();
    let r = (x - twos * LN2_HIGH) - twos * LN2_LOW;
    // |r| <= ln 2 / 2: what follows the 13th term is below 5e-18.
    let series = (1..=13).rev().fold(1.0, |sum, n| 1.0 + sum * r / f64::from(n));
    // In two steps, for 2^-1074 is no normal number.
    let half = (twos / 2.0).round_ties_even();
    series * power_of_two(half) * power_of_two(twos - half)
}

/// 2^n for a whole number of -1022 to 1023.
fn power_of_two(n: f64) -> f64 {
    f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// Natural logarithm for `1 <= x <= 3`.
pub(super) fn ln(x: f64) -> f64 {
    let (x, twos) = if x > 1.5 { (x / 2.0, 1.0) } else { (x, 0.0) };
    let s = (x - 1.0) / (x + 1.0);
    let square = s * s;
    // |s| <= 1/5: what follows the eleventh term is below 2e-17 of the first.
    let series = (0..11).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    twos * LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_equals_the_standard_library_to_the_last_digits() {
        for i in 0..=740_000 {
            let x = -f64::from(i) * 1e-3;
            let (found, expected) = (exp(x), x.exp());
            // Below 2^-1022 the spacing of f64 itself is the limit.
            assert!((found - expected).abs() <= 1e-15 * expected + 5e-324, "exp({x}) = {found}, expected {expected}");
        }
        assert_eq!((exp(0.0), exp(-0.0), exp(-1e9), exp(f64::NEG_INFINITY)), (1.0, 1.0, 0.0, 0.0));
        assert_eq!(exp(-1e-300), 1.0);
    }

    #[test]
    fn ln_equals_the_standard_library_to_the_last_digits() {
        for i in 0..=200_000 {
            let x = 1.0 + f64::from(i) * 1e-5;
            let (found, expected) = (ln(x), x.ln());
            assert!((found - expected).abs() <= 4e-16 * expected.max(0.3), "ln({x}) = {found}, expected {expected}");
        }
        assert_eq!(ln(1.0), 0.0);
    }
}
