//! Rows and a linear layer's weights -> their product as the integer engine computes it, on candle's tensors: for training that knows the 8-bit format.
//! In: `[rows, inputs]` and `[outputs, inputs]` in f32. Out: `[rows, outputs]`, whose gradients are those of the rounded numbers, as if nothing were rounded.
//! Simulated quantisation (Jacob et al. 2018, section 3) in the format of [`crate::int8`], straight-through gradients (Bengio et al. 2013, arXiv 1308.3432).

use candle_core::{D, DType, Result, Tensor};

use super::gradient::{known, known2};
use crate::int8::{LARGEST_ACTIVATION, LARGEST_WEIGHT, LEAST_RANGE};

/// 1.5 x 2^23: added to a float of less than 2^22 and taken off again, it leaves the nearest whole number, ties to even.
const ROUNDER: f64 = 12_582_912.;

/// Rows of a matrix as whole numbers in f32, and what 1 stands for in each row.
#[derive(Clone)]
struct Integers {
    /// `[rows, width]`: -127 to 127, of activations less their zero points.
    values: Tensor,
    /// `[rows, 1]`.
    scales: Tensor,
}

impl Integers {
    /// The floats that they stand for.
    fn floats(&self) -> Result<Tensor> {
        self.values.broadcast_mul(&self.scales)
    }
}

/// Rows on their way into products, 7 bits with a scale and a zero point for each.
pub struct QuantisedRows {
    rows: Tensor,
    integers: Integers,
}

impl QuantisedRows {
    /// Rounds `rows`, `[rows, inputs]`.
    ///
    /// # Errors
    /// If the tensor library fails.
    pub fn new(rows: &Tensor) -> Result<Self> {
        let (integers, _) = activations(&rows.detach())?;
        Ok(Self { rows: rows.clone(), integers })
    }

    /// Product with `weight`, `[outputs, inputs]`, which is rounded, too: `[rows, outputs]`.
    ///
    /// # Errors
    /// If the inputs differ or the tensor library fails.
    pub fn product(&self, weight: &Tensor) -> Result<Tensor> {
        let (of_rows, of_weight) = (self.integers.clone(), weights(&weight.detach())?);
        // Whole numbers of 7 bits and a sign are exact in TF32, too, and so are their sums in f32 below 2^24: what the engine's 32-bit integers hold.
        let sums = of_rows.values.matmul(&of_weight.values.t()?)?;
        let result = (sums * of_rows.scales.broadcast_mul(&of_weight.scales.t()?)?)?;
        let backward = move |gradient: &Tensor| {
            let gradient = gradient.contiguous()?;
            Ok((gradient.matmul(&of_weight.floats()?)?, gradient.t()?.matmul(&of_rows.floats()?)?))
        };
        known2(&self.rows, weight, result, Box::new(backward))
    }
}

/// Embeddings `[rows, width]` rounded to 8 bits with a scale for each row; their gradient goes straight through.
///
/// # Errors
/// If the tensor library fails.
pub fn embeddings(rows: &Tensor) -> Result<Tensor> {
    known(rows, weights(&rows.detach())?.floats()?, Box::new(|gradient| Ok(gradient.clone())))
}

/// The nearest whole numbers, ties to even, of magnitudes below 2^22.
fn round_ties_even(x: &Tensor) -> Result<Tensor> {
    (x + ROUNDER)? - ROUNDER
}

/// `number` in the shape of `like`. candle would turn a division by a number into a product with its inverse, which rounds otherwise.
fn full(number: i32, like: &Tensor) -> Result<Tensor> {
    Tensor::full(number as f32, like.shape(), like.device())
}

/// Weights of 8 bits, as `int8::quantise_weights` makes them of a model's file, which holds 16-bit floats.
fn weights(rows: &Tensor) -> Result<Integers> {
    let rows = rows.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
    let largest = rows.abs()?.max_keepdim(D::Minus1)?;
    let scales = largest.div(&full(LARGEST_WEIGHT, &largest)?)?;
    let divisors = scales.gt(0f32)?.where_cond(&scales, &scales.ones_like()?)?;
    let bound = LARGEST_WEIGHT as f32;
    let values = round_ties_even(&rows.broadcast_div(&divisors)?)?.clamp(-bound, bound)?;
    Ok(Integers { values, scales })
}

/// Activations of 7 bits less their zero points, and these `[rows, 1]`, as the engine makes them. A row that is not finite has no whole numbers and stays so,
/// that a diverged run be seen.
fn activations(rows: &Tensor) -> Result<(Integers, Tensor)> {
    let low = rows.min_keepdim(D::Minus1)?.minimum(0f32)?;
    let range = (rows.max_keepdim(D::Minus1)?.maximum(0f32)? - &low)?;
    let largest = full(LARGEST_ACTIVATION, &range)?;
    let there = range.gt(LEAST_RANGE)?;
    let range = there.where_cond(&range, &range.ones_like()?)?;
    let scales = range.div(&largest)?;
    let zeros = round_ties_even(&low.neg()?.div(&scales)?)?;
    let places = rows.broadcast_mul(&largest.div(&range)?)?.broadcast_add(&zeros)?;
    let values = round_ties_even(&places.clamp(0f32, LARGEST_ACTIVATION as f32)?)?.broadcast_sub(&zeros)?;
    let scales = there.where_cond(&scales, &scales.zeros_like()?)?;
    Ok((Integers { values, scales }, zeros))
}

#[cfg(test)]
mod tests;
