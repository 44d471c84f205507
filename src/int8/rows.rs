//! What happens to each row (each word piece) alone: LayerNorm, quantisation to 7 bits, embedding, the small layers on top in floats.
//! In and out: rows of lines of 16 floats; what a row has beyond its width is zero and stays so.
//! Method: LayerNorm by two passes (Ba et al. 2016, equation 3); asymmetric dynamic quantisation (Jacob et al. 2018, section 2.1).

use super::elementary::round_to_low_bits;
use super::matrix::LARGEST_ACTIVATION;
use super::product::ActivationRowsMut;
use super::vector::{FloatLine, LANES, Line, Operation, Vector, lines};
use crate::contents::Contents;

/// Ranges below this count as zero: the inverse of their scale could be infinite.
pub const LEAST_RANGE: f32 = 1e-30;

/// A LayerNorm's weights.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Vec<FloatLine>,
    bias: Vec<FloatLine>,
    /// 1 where the last line has values, 0 behind them.
    last: FloatLine,
    width: f32,
    eps: f32,
}

impl Norm {
    /// From weight and bias of one width.
    pub fn new(weight: &[f32], bias: &[f32], eps: f32) -> Self {
        let in_last = weight.len() - (lines(weight.len()).max(1) - 1) * LANES;
        Self {
            weight: to_lines(weight),
            bias: to_lines(bias),
            last: Line(std::array::from_fn(|lane| if lane < in_last { 1. } else { 0. })),
            width: weight.len() as f32,
            eps,
        }
    }

    #[inline(always)]
    fn apply<V: Vector>(&self, v: V, row: &mut [FloatLine]) {
        let mut total = v.splat(0.);
        for line in row.iter() {
            total = v.add(total, v.load(&line.0));
        }
        let mean = v.splat(v.sum(total) / self.width);
        let mut squares = v.splat(0.);
        let last = row.len() - 1;
        for (i, line) in row.iter_mut().enumerate() {
            let mut distance = v.sub(v.load(&line.0), mean);
            if i == last {
                distance = v.mul(distance, v.load(&self.last.0));
            }
            squares = v.add(squares, v.mul(distance, distance));
            v.store(distance, &mut line.0);
        }
        let inverse = v.splat(1. / (v.sum(squares) / self.width + self.eps).sqrt());
        for ((line, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
            let scaled = v.mul(v.mul(v.load(&line.0), inverse), v.load(&weight.0));
            v.store(v.add(scaled, v.load(&bias.0)), &mut line.0);
        }
    }
}

/// Values in lines, the last one filled up with zeros.
pub fn to_lines(values: &[f32]) -> Vec<FloatLine> {
    let line = |values: &[f32]| Line(std::array::from_fn(|lane| values.get(lane).copied().unwrap_or(0.)));
    values.chunks(LANES).map(line).collect()
}

/// Quantises row `row` of some activations; line `i` of it is `line(i)`, `count` are there.
#[inline(always)]
fn quantise<'a, V: Vector>(
    v: V,
    row: usize,
    count: usize,
    line: impl Fn(usize) -> &'a FloatLine,
    to: &mut ActivationRowsMut,
) {
    let (mut low, mut high) = (v.splat(0.), v.splat(0.));
    for i in 0..count {
        let values = v.load(&line(i).0);
        low = v.min(values, low);
        high = v.max(values, high);
    }
    let (low, high) = (v.lowest(low), v.highest(high));
    let range = high - low;
    let groups = &mut to.values[row * to.steps..][..to.steps];
    if !(range > LEAST_RANGE && range < f32::INFINITY) {
        groups.fill([0; 4]);
        (to.scales[row], to.zeros[row]) = (0., 0);
        return;
    }
    let largest = LARGEST_ACTIVATION as f32;
    let scale = range / largest;
    let zero = (-low / scale).round_ties_even();
    let (inverse, zeros, top) = (v.splat(largest / range), v.splat(zero), v.splat(largest));
    for (i, groups) in groups.as_chunks_mut().0.iter_mut().enumerate() {
        let value = v.add(v.mul(v.load(&line(i).0), inverse), zeros);
        let value = v.min(v.max(value, v.splat(0.)), top);
        v.store_bytes(round_to_low_bits(v, value), groups);
    }
    (to.scales[row], to.zeros[row]) = (scale, zero as i32);
}

/// Rows -> activations.
pub struct Quantise<'a> {
    /// `[rows, lines]`.
    pub rows: &'a [FloatLine],
    /// Of the same rows, four groups for each line.
    pub to: ActivationRowsMut<'a>,
}

impl Operation for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let lines = self.to.steps / 4;
        for (row, values) in self.rows.chunks_exact(lines).enumerate() {
            quantise(v, row, lines, |i| &values[i], &mut self.to);
        }
    }
}

/// Rows that lie in parts, one part for each attention head -> activations.
pub struct QuantiseHeads<'a> {
    /// `[heads, rows of all, lines of a head]`.
    pub heads: &'a [FloatLine],
    /// Lines of a head in one row.
    pub head_lines: usize,
    /// Rows of each head.
    pub of_all: usize,
    /// The first row to quantise.
    pub first: usize,
    /// Room for the rows.
    pub to: ActivationRowsMut<'a>,
}

impl Operation for QuantiseHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { heads, head_lines, of_all, first, mut to } = self;
        for row in 0..to.scales.len() {
            let start = (first + row) * head_lines;
            let line = |i: usize| &heads[i / head_lines * of_all * head_lines + start + i % head_lines];
            quantise(v, row, to.steps / 4, line, &mut to);
        }
    }
}

/// LayerNorm in place, and the result's activations.
pub struct Normalise<'a> {
    /// The weights.
    pub norm: &'a Norm,
    /// `[rows, lines]`.
    pub rows: &'a mut [FloatLine],
    /// Of the same rows.
    pub to: ActivationRowsMut<'a>,
}

impl Operation for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let lines = self.norm.weight.len();
        for (row, values) in self.rows.chunks_exact_mut(lines).enumerate() {
            self.norm.apply(v, values);
            let values = &*values;
            quantise(v, row, lines, |i| &values[i], &mut self.to);
        }
    }
}

/// Embeddings of word pieces in 8 bits, with a scale for each piece.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// `[pieces, lines]`: the weights' own file where it stays in memory.
    pub words: Contents,
    /// `[pieces]`.
    pub scales: Vec<f32>,
    /// `[positions, lines]`, the embedding of the one token type included.
    pub positions: Vec<FloatLine>,
}

/// Word pieces -> the sums of their embeddings.
pub struct Embed<'a> {
    /// The tables.
    pub tables: &'a Embeddings,
    /// Each piece's id, which the tables have.
    pub ids: &'a [u32],
    /// Each piece's position, which the tables have.
    pub positions: &'a [u32],
    /// `[rows, lines]`.
    pub rows: &'a mut [FloatLine],
}

impl Operation for Embed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let lines = self.rows.len() / self.ids.len().max(1);
        let all_words = bytemuck::cast_slice::<u8, i8>(&self.tables.words).as_chunks::<LANES>().0;
        let rows = self.rows.chunks_exact_mut(lines.max(1));
        for ((row, &id), &position) in rows.zip(self.ids).zip(self.positions) {
            let (id, position) = (id as usize, position as usize);
            let scale = v.splat(self.tables.scales[id]);
            let words = &all_words[id * lines..][..lines];
            let positions = &self.tables.positions[position * lines..][..lines];
            for ((line, word), position) in row.iter_mut().zip(words).zip(positions) {
                let word = v.mul(v.to_float(v.widen(word)), scale);
                v.store(v.add(word, v.load(&position.0)), &mut line.0);
            }
        }
    }
}

/// A linear layer in floats: the heads, which are small.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[outputs, lines]`.
    weights: Vec<FloatLine>,
    biases: Vec<f32>,
}

impl Linear {
    /// From weights `[outputs, inputs]` and biases `[outputs]`.
    pub fn new(weights: &[f32], biases: &[f32]) -> Self {
        let inputs = (weights.len() / biases.len().max(1)).max(1);
        Self { weights: weights.chunks_exact(inputs).flat_map(to_lines).collect(), biases: biases.to_vec() }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.biases.len()
    }
}

/// A row through a small linear layer.
pub struct Apply<'a> {
    /// The layer.
    pub layer: &'a Linear,
    /// `[lines]`.
    pub row: &'a [FloatLine],
    /// `[outputs]`.
    pub out: &'a mut [f32],
}

impl Operation for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let rows = self.layer.weights.chunks_exact(self.row.len());
        for ((out, weights), bias) in self.out.iter_mut().zip(rows).zip(&self.layer.biases) {
            let mut sum = v.splat(0.);
            for (x, weight) in self.row.iter().zip(weights) {
                sum = v.add(sum, v.mul(v.load(&x.0), v.load(&weight.0)));
            }
            *out = v.sum(sum) + bias;
        }
    }
}

#[cfg(test)]
mod tests;
