//! Self-attention of one head over one sequence: queries, keys and values in floats -> context, through exact products of 16-bit integers.
//! Scaled dot-product attention (Vaswani et al. 2017, equation 1). Queries and keys get 12 bits and a sign, a scale for each row; values 15 bits
//! and a sign, one scale; probabilities 15 bits. A context is a weighted mean, so its sums fit 32 bits at any length that a model reads.

use super::elementary::{exp, round_to_low_bits};
use super::product::{Halves, Tile, tile, tile_rows};
use super::vector::{FloatLine, IntLine, LANES, Line, Operation, Vector, lines};

/// Largest magnitude of queries and keys.
const LARGEST_QUERY: i32 = 4095;
/// Largest magnitude of values, and a probability of 1.
const LARGEST_VALUE: i32 = 32_767;
/// Widest head whose scores fit 32 bits.
pub const WIDEST_HEAD: usize = 128;
/// Longest sequence whose contexts fit: rounded probabilities add up to 32,767 and a half for each piece at most.
pub const LONGEST_SEQUENCE: usize = 65_000;
/// The score of what is no key.
const NO_KEY: f32 = -1e30;
/// Magnitudes below this count as zero: their inverse could be infinite.
const LEAST_MAGNITUDE: f32 = 1e-30;

const _: () = assert!((LARGEST_QUERY as i64 * LARGEST_QUERY as i64) * WIDEST_HEAD as i64 <= i32::MAX as i64);
const _: () =
    assert!((LARGEST_VALUE as i64 + 1 + LONGEST_SEQUENCE as i64 / 2) * LARGEST_VALUE as i64 <= i32::MAX as i64);

/// Memory for one head over one sequence, used again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Pieces of the sequence, panels of 16 keys for them, and lines of the head's width.
    pieces: usize,
    panels: usize,
    lines: usize,
    /// `[pieces, width / 2]`, two values to a group.
    queries: Vec<[u8; 4]>,
    /// `[pieces]`: what 1 stands for in a query, over the root of the head's width.
    query_scales: Vec<f32>,
    /// `[panels of 16 keys, width / 2]`, two values of each key.
    keys: Vec<IntLine>,
    /// `[panels of 16 keys]`.
    key_scales: Vec<FloatLine>,
    /// `[lines of the width, pieces / 2]`, 16 values of two pieces.
    values: Vec<IntLine>,
    /// `[rows of a tile, panels of 16 keys]`.
    scores: Vec<FloatLine>,
    /// `[rows of a tile, pieces / 2]`, two probabilities to a group.
    probabilities: Vec<[u8; 4]>,
}

/// One head over one sequence.
pub struct Attention<'a> {
    /// `[pieces, query, key and value, lines]`.
    pub projected: &'a [FloatLine],
    /// Lines of the head's width.
    pub lines: usize,
    /// The head's width.
    pub width: usize,
    /// `[pieces, lines]`: the context.
    pub context: &'a mut [FloatLine],
    /// Memory.
    pub scratch: &'a mut Scratch,
}

/// The largest magnitude of some lines.
#[inline(always)]
fn magnitude<'a, V: Vector>(v: V, values: impl Iterator<Item = &'a FloatLine>) -> f32 {
    let mut largest = v.splat(0.);
    for line in values {
        let x = v.load(&line.0);
        largest = v.max(v.max(x, v.sub(v.splat(0.), x)), largest);
    }
    v.highest(largest)
}

/// What multiplies a value, and what an integer stands for, so that `magnitude` becomes `largest`.
#[inline(always)]
fn scales(magnitude: f32, largest: i32) -> (f32, f32) {
    let largest = largest as f32;
    if magnitude > LEAST_MAGNITUDE && magnitude < f32::INFINITY {
        (largest / magnitude, magnitude / largest)
    } else {
        (0., 0.)
    }
}

/// The nearest integers of a line times `inverse` in the low halves of the lanes; 0 where there is no line.
#[inline(always)]
fn integers<V: Vector>(v: V, line: Option<&FloatLine>, inverse: f32) -> V::Int {
    match line {
        Some(line) => round_to_low_bits(v, v.mul(v.load(&line.0), v.splat(inverse))),
        None => v.splat_int(0),
    }
}

impl Operation for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { projected, lines, width, context, scratch } = self;
        let pieces = projected.len() / (3 * lines);
        scratch.resize(pieces, lines);
        scratch.pack_queries_and_keys(v, projected, width);
        let value_scale = scratch.pack_values(v, projected);
        let mut sums = Tile::default();
        let mut row = 0;
        while row < pieces {
            let high = tile_rows::<V>(pieces - row);
            scratch.score(v, row, high, &mut sums);
            scratch.softmax(v, high);
            scratch.mix(v, high, value_scale, &mut context[row * lines..], &mut sums);
            row += high;
        }
    }
}

impl Scratch {
    fn resize(&mut self, pieces: usize, wide: usize) {
        let (panels, steps) = (lines(pieces), wide * LANES / 2);
        (self.pieces, self.panels, self.lines) = (pieces, panels, wide);
        self.queries.resize(pieces * steps, [0; 4]);
        self.query_scales.resize(pieces, 0.);
        self.keys.clear();
        self.keys.resize(panels * steps, Line::default());
        self.key_scales.clear();
        self.key_scales.resize(panels, Line::default());
        self.values.resize(wide * panels * LANES / 2, Line::default());
        self.scores.resize(8 * panels, Line::default());
        self.probabilities.resize(8 * panels * LANES / 2, [0; 4]);
    }

    /// Queries as rows of groups, keys as columns of panels.
    #[inline(always)]
    fn pack_queries_and_keys<V: Vector>(&mut self, v: V, projected: &[FloatLine], width: usize) {
        let (wide, steps) = (self.lines, self.lines * LANES / 2);
        let root = (width as f32).sqrt();
        for (piece, parts) in projected.chunks_exact(3 * wide).enumerate() {
            let (query, key) = (&parts[..wide], &parts[wide..2 * wide]);
            let (inverse, scale) = scales(magnitude(v, query.iter()), LARGEST_QUERY);
            self.query_scales[piece] = scale / root;
            let groups = self.queries[piece * steps..][..steps].as_chunks_mut().0;
            for (line, groups) in query.iter().zip(groups) {
                v.store_halves(integers(v, Some(line), inverse), groups);
            }
            let (inverse, scale) = scales(magnitude(v, key.iter()), LARGEST_QUERY);
            let (panel, lane) = (piece / LANES, piece % LANES);
            self.key_scales[panel].0[lane] = scale;
            let columns = self.keys[panel * steps..][..steps].as_chunks_mut::<{ LANES / 2 }>().0;
            for (line, columns) in key.iter().zip(columns) {
                let mut groups = [[0; 4]; LANES / 2];
                v.store_halves(integers(v, Some(line), inverse), &mut groups);
                for (column, group) in columns.iter_mut().zip(groups) {
                    column.0[lane] = i32::from_le_bytes(group);
                }
            }
        }
    }

    /// Values of two pieces side by side in each lane; returns what 1 stands for.
    #[inline(always)]
    fn pack_values<V: Vector>(&mut self, v: V, projected: &[FloatLine]) -> f32 {
        let wide = self.lines;
        let values = projected.chunks_exact(3 * wide).flat_map(|parts| &parts[2 * wide..]);
        let (inverse, scale) = scales(magnitude(v, values), LARGEST_VALUE);
        let pairs = self.panels * LANES / 2;
        for line in 0..wide {
            for (pair, to) in self.values[line * pairs..][..pairs].iter_mut().enumerate() {
                let (even, odd) = (6 * pair * wide + 2 * wide + line, 6 * pair * wide + 5 * wide + line);
                let even = integers(v, projected.get(even), inverse);
                v.store_int(v.pair(even, integers(v, projected.get(odd), inverse)), &mut to.0);
            }
        }
        scale
    }

    /// Scores of a tile's queries with all keys.
    #[inline(always)]
    fn score<V: Vector>(&mut self, v: V, row: usize, high: usize, sums: &mut Tile) {
        let (panels, steps) = (self.panels, self.lines * LANES / 2);
        let mut panel = 0;
        while panel < panels {
            let count = V::TILE.1.min(panels - panel);
            let queries = &self.queries[row * steps..];
            tile::<V, Halves>(v, (high, count), queries, steps, &self.keys[panel * steps..], sums);
            for r in 0..high {
                let scale = v.splat(self.query_scales[row + r]);
                for p in 0..count {
                    let scale = v.mul(scale, v.load(&self.key_scales[panel + p].0));
                    let score = v.mul(v.to_float(v.load_int(&sums.0[r][p].0)), scale);
                    v.store(score, &mut self.scores[r * panels + panel + p].0);
                }
            }
            panel += count;
        }
    }

    /// Scores -> probabilities.
    #[inline(always)]
    fn softmax<V: Vector>(&mut self, v: V, high: usize) {
        let Self { pieces, panels, .. } = *self;
        let pairs = panels * LANES / 2;
        for r in 0..high {
            let scores = &mut self.scores[r * panels..][..panels];
            if let Some(last) = scores.last_mut() {
                last.0[pieces - (panels - 1) * LANES..].fill(NO_KEY);
            }
            let mut highest = v.splat(NO_KEY);
            for line in scores.iter() {
                highest = v.max(v.load(&line.0), highest);
            }
            let highest = v.splat(v.highest(highest));
            let mut sum = v.splat(0.);
            for line in scores.iter_mut() {
                let weight = exp(v, v.sub(v.load(&line.0), highest));
                sum = v.add(sum, weight);
                v.store(weight, &mut line.0);
            }
            let inverse = v.splat(LARGEST_VALUE as f32 / v.sum(sum));
            let groups = self.probabilities[r * pairs..][..pairs].as_chunks_mut().0;
            for (line, groups) in scores.iter().zip(groups) {
                v.store_halves(round_to_low_bits(v, v.mul(v.load(&line.0), inverse)), groups);
            }
        }
    }

    /// Contexts of a tile's queries: means of the values, weighted by the probabilities.
    #[inline(always)]
    fn mix<V: Vector>(&self, v: V, high: usize, value_scale: f32, context: &mut [FloatLine], sums: &mut Tile) {
        let (wide, pairs) = (self.lines, self.panels * LANES / 2);
        let scale = v.splat(value_scale / LARGEST_VALUE as f32);
        let mut line = 0;
        while line < wide {
            let count = V::TILE.1.min(wide - line);
            tile::<V, Halves>(v, (high, count), &self.probabilities, pairs, &self.values[line * pairs..], sums);
            for r in 0..high {
                for p in 0..count {
                    let mean = v.mul(v.to_float(v.load_int(&sums.0[r][p].0)), scale);
                    v.store(mean, &mut context[r * wide + line + p].0);
                }
            }
            line += count;
        }
    }
}

#[cfg(test)]
mod tests;
