//! In: sixteen floats. Out: their exponential, their GELU, their nearest integers; the same bits on every instruction set.
//! Method: Cody and Waite's reduction with a polynomial for exp; for the error function a rational function of x², both with coefficients of
//! least largest error by Lawson's iteration (Lawson 1961), evaluated by Horner's rule without fused multiply-add.

use super::vector::Vector;

/// 1.5 x 2^23. Added to a float of less than 2^22, it leaves the nearest integer, ties to even, in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// The bits of [`ROUNDER`]; those of the sum are larger by the integer.
const ROUNDER_BITS: i32 = 0x4b40_0000;

/// exp of less than this would be a denormal number.
const LEAST_EXPONENT: f32 = -87.0;
/// The first bits of ln 2: their product with a whole number of up to 2^8 is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
/// ln 2 less [`LN2_HIGH`].
const LN2_LOW: f32 = -2.121_944_4e-4;
/// exp(r) = 1 + r + r² (…): relative error below 4e-9 for |r| <= ln 2 / 2 before rounding.
const EXP: [f32; 5] = [4.999_999_4e-1, 1.666_652_1e-1, 4.166_839e-2, 8.368_716e-3, 1.381_460_2e-3];

/// erf(x / √2) / 2 = x P(x²) / Q(x²) up to this |x|, where it is 1/2 but for 2e-8; error of x times it below 3e-8 before rounding.
const LARGEST_ERF: f32 = 5.5;
const ERF_P: [f32; 6] = [3.989_421_4e-1, 3.488_399_5e-2, 4.744_452_4e-3, 1.798_994_6e-4, 6.478_272_6e-6, 2.224_042e-8];
const ERF_Q: [f32; 6] = [1.0, 2.541_059_6e-1, 2.924_672_3e-2, 1.946_520_2e-3, 7.747_249e-5, 1.192_073_2e-6];

/// The nearest integers in the low 22 bits of each lane, ties to even; for |x| below 2^21.
#[inline(always)]
pub fn round_to_low_bits<V: Vector>(v: V, x: V::Float) -> V::Int {
    v.bits(v.add(x, v.splat(ROUNDER)))
}

/// c0 + c1 x + c2 x² + …
#[inline(always)]
fn horner<V: Vector, const N: usize>(v: V, x: V::Float, coefficients: [f32; N]) -> V::Float {
    let mut value = v.splat(coefficients[N - 1]);
    for i in (0..N - 1).rev() {
        value = v.add(v.mul(value, x), v.splat(coefficients[i]));
    }
    value
}

/// exp(x) for x <= 88; below -87 that of -87, which is 2e-38.
#[inline(always)]
pub fn exp<V: Vector>(v: V, x: V::Float) -> V::Float {
    let x = v.max(x, v.splat(LEAST_EXPONENT));
    let shifted = v.add(v.mul(x, v.splat(std::f32::consts::LOG2_E)), v.splat(ROUNDER));
    let n = v.sub(shifted, v.splat(ROUNDER));
    let r = v.sub(x, v.mul(n, v.splat(LN2_HIGH)));
    let r = v.sub(r, v.mul(n, v.splat(LN2_LOW)));
    let tail = v.mul(v.mul(r, r), horner(v, r, EXP));
    let of_r = v.add(v.add(tail, r), v.splat(1.0));
    let two_to_n = v.into_exponent(v.add_int(v.bits(shifted), v.splat_int(127_i32.wrapping_sub(ROUNDER_BITS))));
    v.mul(of_r, v.float_of_bits(two_to_n))
}

/// x Φ(x), Φ the normal distribution function: the exact GELU (Hendrycks and Gimpel 2016), not its form with tanh.
#[inline(always)]
pub fn gelu<V: Vector>(v: V, x: V::Float) -> V::Float {
    let bounded = v.min(v.max(x, v.splat(-LARGEST_ERF)), v.splat(LARGEST_ERF));
    let square = v.mul(bounded, bounded);
    let half_erf = v.div(v.mul(bounded, horner(v, square, ERF_P)), horner(v, square, ERF_Q));
    v.mul(x, v.add(v.splat(0.5), half_erf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::kernel::Kernel;
    use crate::int8::vector::{LANES, Operation};

    struct Each {
        x: [f32; LANES],
        gelu: bool,
    }

    impl Operation for Each {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<V: Vector>(self, v: V) -> [f32; LANES] {
            let x = v.load(&self.x);
            let mut y = [0.; LANES];
            v.store(if self.gelu { gelu(v, x) } else { exp(v, x) }, &mut y);
            y
        }
    }

    /// erf by its series (Abramowitz and Stegun 7.1.6) where it converges fast, else by its continued fraction (7.1.14), in f64.
    fn erf(x: f64) -> f64 {
        let z = x.abs();
        let value = if z < 3. {
            let (mut term, mut sum) = (z, z);
            for n in 1..100 {
                term *= 2. * z * z / f64::from(2 * n + 1);
                sum += term;
            }
            sum * (-z * z).exp() * 2. / std::f64::consts::PI.sqrt()
        } else {
            let fraction = (1..60).rev().fold(z, |below, k| z + f64::from(k) / 2. / below);
            1. - (-z * z).exp() / fraction / std::f64::consts::PI.sqrt()
        };
        value.copysign(x)
    }

    fn compare(
        gelu: bool,
        points: impl Iterator<Item = f32>,
        exact: impl Fn(f64) -> f64,
        close: impl Fn(f64, f64) -> bool,
    ) {
        let points: Vec<f32> = points.collect();
        for chunk in points.as_chunks::<LANES>().0 {
            let scalar = Kernel::named("scalar").unwrap().run(Each { x: *chunk, gelu });
            for (&x, y) in chunk.iter().zip(scalar) {
                assert!(close(f64::from(y), exact(f64::from(x))), "{x}: {y}, but exactly {}", exact(f64::from(x)));
            }
            for kernel in Kernel::available() {
                let same = kernel.run(Each { x: *chunk, gelu });
                assert_eq!(same.map(f32::to_bits), scalar.map(f32::to_bits), "{} at {chunk:?}", kernel.name());
            }
        }
    }

    #[test]
    fn exp_is_exact_to_a_few_units_of_the_last_place() {
        let points = (0..160_000).map(|i| i as f32 * 0.001 - 87.0);
        compare(false, points, f64::exp, |y, exact| (y / exact - 1.).abs() < 2.5e-7);
        let low = [f32::NEG_INFINITY, -1e30, -88., -87.];
        let found = Kernel::best().run(Each { x: std::array::from_fn(|i| low[i % 4]), gelu: false });
        assert!(found.iter().all(|&y| y == found[3] && y > 0. && y < 2e-38));
    }

    #[test]
    fn gelu_is_exact_to_single_precision() {
        let exact = |x: f64| x * (1. + erf(x / 2f64.sqrt())) / 2.;
        // Where the negative side goes to zero, it is x times the rounding of one half.
        let close = |y: f64, exact: f64| (y - exact).abs() < 3e-7 * exact.abs().max(3.);
        compare(true, (0..320_000).map(|i| i as f32 * 1e-4 - 16.), exact, close);
        compare(true, (0..64).map(|i| 10f32.powi(i / 2 - 12) * if i % 2 == 0 { 1. } else { -1. }), exact, close);
    }
}
