//! A linear layer's weights in 8 bits -> panels of 16 output channels in the order in which every kernel reads them.
//! One cache line holds four neighbouring inputs of 16 channels: what one `vpdpbusd` on 512 bits multiplies. Packed once, when a model is loaded.

use super::groups::{GroupedPanels, Groups};
use super::vector::{FloatLine, IntLine, LANES, Line, lines};

/// Weights lie between minus this and this; -128 is left out, so that a sum of two products fits 16 bits.
pub const LARGEST_WEIGHT: i32 = 127;
/// Activations lie between 0 and this.
pub const LARGEST_ACTIVATION: i32 = 127;
/// More inputs could overflow 32 bits: a sum of products and its correction by the zero point are each at most 127 x 127 for one input.
pub const MOST_INPUTS: usize = 65_536;

const _: () = assert!(2 * LARGEST_WEIGHT * LARGEST_ACTIVATION <= i16::MAX as i32);
const _: () = assert!(2 * LARGEST_WEIGHT as i64 * LARGEST_ACTIVATION as i64 * MOST_INPUTS as i64 <= i32::MAX as i64);

/// One output channel: `y = scale * sum of weight * x + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'w> {
    /// One weight for each input.
    pub weights: &'w [i8],
    /// What a weight of 1 stands for.
    pub scale: f32,
    /// Added last.
    pub bias: f32,
}

/// The weights' order, as suits a kernel.
#[derive(Debug, Clone)]
enum Panels {
    /// `[panels, steps]`, each four inputs of 16 channels.
    InOrder(Vec<IntLine>),
    /// The same steps in groups, for kernels that [gain by them](super::vector::Vector::GROUPS).
    InGroups(GroupedPanels),
}

/// A panel's weights.
pub(super) enum Panel<'a> {
    /// Those of this panel and all behind it, step by step.
    InOrder(&'a [IntLine]),
    /// Those of this panel.
    InGroups(Groups<'a>),
}

/// A packed linear layer.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Groups of four inputs.
    steps: usize,
    weights: Panels,
    /// `[panels]`: of each channel the scale, the bias and the sum of its weights.
    pub(super) scales: Vec<FloatLine>,
    pub(super) biases: Vec<FloatLine>,
    pub(super) sums: Vec<IntLine>,
}

impl Matrix {
    /// Packs output channels of `inputs` weights each; `None` is a channel that gives zero.
    pub fn pack<'w>(channels: impl IntoIterator<Item = Option<Channel<'w>>>, inputs: usize) -> Self {
        let steps = lines(inputs) * LANES / 4;
        let channels: Vec<_> = channels.into_iter().collect();
        let panels = lines(channels.len());
        let mut in_order: Vec<IntLine> = vec![Line::default(); panels * steps];
        let mut matrix = Self {
            steps,
            weights: Panels::InOrder(Vec::new()),
            scales: vec![Line::default(); panels],
            biases: vec![Line::default(); panels],
            sums: vec![Line::default(); panels],
        };
        for (index, channel) in channels.into_iter().enumerate() {
            let (panel, lane) = (index / LANES, index % LANES);
            if let Some(Channel { weights, scale, bias }) = channel {
                let (groups, rest) = weights.as_chunks::<4>();
                let mut last = [0; 4];
                last[..rest.len()].copy_from_slice(rest);
                let groups = groups.iter().chain(std::iter::once(&last));
                for (line, group) in in_order[panel * steps..].iter_mut().zip(groups) {
                    line.0[lane] = i32::from_le_bytes(group.map(i8::cast_unsigned));
                }
                matrix.scales[panel].0[lane] = scale;
                matrix.biases[panel].0[lane] = bias;
                matrix.sums[panel].0[lane] = weights.iter().map(|&weight| i32::from(weight)).sum();
            }
        }
        matrix.weights = Panels::InOrder(in_order);
        matrix
    }

    /// The same, its steps in groups.
    pub fn in_groups(self) -> Self {
        match &self.weights {
            Panels::InOrder(weights) => {
                Self { weights: Panels::InGroups(GroupedPanels::new(weights, self.steps)), ..self }
            }
            Panels::InGroups(_) => self,
        }
    }

    /// Panels of 16 output channels.
    pub fn panels(&self) -> usize {
        self.scales.len()
    }

    /// Groups of four inputs in a row of activations.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// A panel's weights.
    pub(super) fn panel(&self, index: usize) -> Panel<'_> {
        match &self.weights {
            Panels::InOrder(weights) => Panel::InOrder(&weights[index * self.steps..]),
            Panels::InGroups(panels) => Panel::InGroups(panels.panel(index)),
        }
    }
}

/// Floats -> bytes of -127 to 127 and what 1 stands for, so that the largest magnitude is 127. Zeros have the scale 0.
///
/// ```
/// use chemtag::int8::quantise_weights;
///
/// let (weights, scale) = quantise_weights(&[0.5, -1.0, 0.0]);
/// assert_eq!(weights, [64, -127, 0]);
/// assert!((scale - 1.0 / 127.0).abs() < 1e-9);
/// ```
pub fn quantise_weights(row: &[f32]) -> (Vec<i8>, f32) {
    let largest = row.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
    let scale = largest / LARGEST_WEIGHT as f32;
    if scale < f32::MIN_POSITIVE {
        return (vec![0; row.len()], 0.);
    }
    // Division rounds once; the result is within -127..=127 whatever it rounds to.
    (row.iter().map(|weight| (weight / scale).round_ties_even().clamp(-127., 127.) as i8).collect(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_lies_where_the_kernels_look_for_it() {
        let weight = |channel: usize, input: usize| (10 * channel + input) as i8;
        let weights: Vec<Vec<i8>> = (0..19).map(|c| (0..7).map(|i| weight(c, i)).collect()).collect();
        let channels = weights
            .iter()
            .enumerate()
            .map(|(c, weights)| (c != 2).then_some(Channel { weights, scale: c as f32, bias: -(c as f32) }));
        let matrix = Matrix::pack(channels, 7);
        assert_eq!((matrix.panels(), matrix.steps()), (2, 4));
        for c in 0..32 {
            let there = c < 19 && c != 2;
            for place in 0..16 {
                let Panel::InOrder(panel) = matrix.panel(c / 16) else { panic!("nobody asked for groups") };
                let lane = panel[place / 4].0[c % 16];
                let expected = if there && place < 7 { weight(c, place) } else { 0 };
                assert_eq!(lane.to_le_bytes()[place % 4].cast_signed(), expected, "channel {c}, place {place}");
            }
            let sum = if there { (0..7).map(|i| i32::from(weight(c, i))).sum() } else { 0 };
            let of_channel =
                (matrix.scales[c / 16].0[c % 16], matrix.biases[c / 16].0[c % 16], matrix.sums[c / 16].0[c % 16]);
            assert_eq!(of_channel, if there { (c as f32, -(c as f32), sum) } else { (0., 0., 0) });
        }
    }

    #[test]
    fn extreme_rows_stay_within_bounds() {
        for row in [&[0.; 3][..], &[1e-45, 0., 0.], &[f32::MAX, f32::MIN, 1.], &[1e-38, -1e-38, 0.], &[]] {
            let (weights, scale) = quantise_weights(row);
            assert!(weights.iter().all(|&w| w >= -127) && scale.is_finite(), "{row:?}: {weights:?} {scale}");
            for (weight, exact) in weights.iter().zip(row) {
                let (exact, scale) = (f64::from(*exact), f64::from(scale));
                assert!((f64::from(*weight) * scale - exact).abs() <= scale * 0.5001 + 1e-36, "{row:?}: {weights:?}");
            }
        }
    }
}
