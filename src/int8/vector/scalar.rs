//! Sixteen lanes in plain Rust, one after another: the reference that every other instruction set must equal to the last bit.
//! In: lanes. Out: lanes. It is also what runs where nothing better is known.

use super::{LANES, Vector};

/// The lanes of plain Rust; every CPU has them.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn each<T: Copy, U: Copy, R: Copy + Default>(a: [T; LANES], b: [U; LANES], f: impl Fn(T, U) -> R) -> [R; LANES] {
    let mut result = [R::default(); LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane]);
    }
    result
}

impl Vector for Scalar {
    type Float = [f32; LANES];
    type Int = [i32; LANES];
    const TILE: (usize, usize) = (1, 1);

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Float {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Float {
        *from
    }

    #[inline(always)]
    fn store(self, x: Self::Float, to: &mut [f32; LANES]) {
        *to = x;
    }

    #[inline(always)]
    fn add(self, a: Self::Float, b: Self::Float) -> Self::Float {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Float, b: Self::Float) -> Self::Float {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Float, b: Self::Float) -> Self::Float {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Float, b: Self::Float) -> Self::Float {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::Float, b: Self::Float) -> Self::Float {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::Float, b: Self::Float) -> Self::Float {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::Int {
        [x; LANES]
    }

    #[inline(always)]
    fn load_int(self, from: &[i32; LANES]) -> Self::Int {
        *from
    }

    #[inline(always)]
    fn store_int(self, x: Self::Int, to: &mut [i32; LANES]) {
        *to = x;
    }

    #[inline(always)]
    fn add_int(self, a: Self::Int, b: Self::Int) -> Self::Int {
        each(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn sub_int(self, a: Self::Int, b: Self::Int) -> Self::Int {
        each(a, b, i32::wrapping_sub)
    }

    #[inline(always)]
    fn mul_int(self, a: Self::Int, b: Self::Int) -> Self::Int {
        each(a, b, i32::wrapping_mul)
    }

    #[inline(always)]
    fn into_exponent(self, x: Self::Int) -> Self::Int {
        each(x, x, |x, _| x << 23)
    }

    #[inline(always)]
    fn to_float(self, x: Self::Int) -> Self::Float {
        each(x, x, |x, _| x as f32)
    }

    #[inline(always)]
    fn bits(self, x: Self::Float) -> Self::Int {
        each(x, x, |x, _| x.to_bits().cast_signed())
    }

    #[inline(always)]
    fn float_of_bits(self, x: Self::Int) -> Self::Float {
        each(x, x, |x, _| f32::from_bits(x.cast_unsigned()))
    }

    #[inline(always)]
    fn widen(self, from: &[i8; LANES]) -> Self::Int {
        each(*from, *from, |x, _| i32::from(x))
    }

    #[inline(always)]
    fn store_bytes(self, x: Self::Int, to: &mut [[u8; 4]; LANES / 4]) {
        for (group, lanes) in to.iter_mut().zip(x.as_chunks().0) {
            *group = lanes.map(|lane: i32| lane as u8);
        }
    }

    #[inline(always)]
    fn store_halves(self, x: Self::Int, to: &mut [[u8; 4]; LANES / 2]) {
        for (group, &[low, high]) in to.iter_mut().zip(x.as_chunks().0) {
            *group = ((high << 16) | (low & 0xffff)).to_le_bytes();
        }
    }

    #[inline(always)]
    fn pair(self, low: Self::Int, high: Self::Int) -> Self::Int {
        each(low, high, |low, high| (high << 16) | (low & 0xffff))
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        let products = each(a, b, |a, b| {
            let (a, b) = (a.to_le_bytes().map(i32::from), b.to_le_bytes().map(|b| i32::from(b.cast_signed())));
            a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
        });
        self.add_int(sum, products)
    }

    #[inline(always)]
    fn dot_halves(self, sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        let halves = |x: i32| [x << 16 >> 16, x >> 16];
        let products = each(a, b, |a, b| {
            let (a, b) = (halves(a), halves(b));
            (a[0] * b[0]).wrapping_add(a[1] * b[1])
        });
        self.add_int(sum, products)
    }
}
