//! Products on every kernel against the definition: integer sums one by one, floats in 64 bits.

use proptest::prelude::*;

use super::*;
use crate::int8::kernel::Kernel;
use crate::int8::matrix::Channel;
use crate::int8::vector::{LANES, Line, lines};

/// The exact sums alone.
struct Sums<'a> {
    activations: &'a Activations,
    weights: &'a Matrix,
}

impl Operation for Sums<'_> {
    /// `[rows, panels]`.
    type Output = Vec<IntLine>;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Vec<IntLine> {
        let (panels, steps, rows) = (self.weights.panels(), self.weights.steps(), self.activations.scales.len());
        let mut all = vec![Line::default(); rows * panels];
        let mut sums = Tile::default();
        let mut panel = 0;
        while panel < panels {
            let of_panel = self.weights.panel(panel);
            let wide = if let Panel::InOrder(_) = of_panel { V::TILE.1.min(panels - panel) } else { 1 };
            let mut row = 0;
            while row < rows {
                let values = &self.activations.values[row * steps..];
                let high = match of_panel {
                    Panel::InOrder(lines) => {
                        let high = tile_rows::<V>(rows - row);
                        tile::<V, Bytes>(v, (high, wide), values, steps, lines, &mut sums);
                        high
                    }
                    Panel::InGroups(groups) => tile_in_groups(v, rows - row, values, groups, &mut sums),
                };
                for r in 0..high {
                    all[(row + r) * panels + panel..][..wide].copy_from_slice(&sums.0[r][..wide]);
                }
                row += high;
            }
            panel += wide;
        }
        all
    }
}

/// Rows of activations and channels of weights as anybody would write them down.
#[derive(Debug, Clone)]
struct Case {
    inputs: usize,
    activations: Vec<Vec<u8>>,
    scales: Vec<(f32, i32)>,
    weights: Vec<Vec<i8>>,
}

impl Case {
    fn packed(&self) -> (Activations, Matrix) {
        let steps = lines(self.inputs) * LANES / 4;
        let mut activations = Activations::default();
        activations.resize(self.activations.len(), steps);
        for (row, values) in self.activations.iter().enumerate() {
            for (i, &value) in values.iter().enumerate() {
                activations.values[row * steps + i / 4][i % 4] = value;
            }
            (activations.scales[row], activations.zeros[row]) = self.scales[row];
        }
        let channels = self.weights.iter().enumerate();
        let channels = channels.map(|(c, weights)| Some(Channel { weights, scale: scale(c), bias: bias(c) }));
        (activations, Matrix::pack(channels, self.inputs))
    }

    fn sum(&self, row: usize, channel: usize) -> i64 {
        let products = self.activations[row].iter().zip(&self.weights[channel]);
        products.map(|(&a, &w)| i64::from(a) * i64::from(w)).sum()
    }

    fn check(&self) {
        let (activations, weights) = self.packed();
        let in_groups = weights.clone().in_groups();
        let mut floats: Option<Vec<FloatLine>> = None;
        let kernels = Kernel::available();
        for (kernel, weights) in kernels.iter().flat_map(|kernel| [(kernel, &weights), (kernel, &in_groups)]) {
            let sums = kernel.run(Sums { activations: &activations, weights });
            for row in 0..self.activations.len() {
                for channel in 0..self.weights.len() {
                    let sum = sums[row * weights.panels() + channel / LANES].0[channel % LANES];
                    let place = (kernel.name(), row, channel);
                    assert_eq!(i64::from(sum), self.sum(row, channel), "kernel, row, channel {place:?}");
                }
            }
            let mut out = vec![Line([0.25; LANES]); self.activations.len() * weights.panels()];
            let rows = activations.rows(0..self.activations.len());
            kernel.run(Product { activations: rows, weights, out: &mut out, epilogue: Add });
            self.check_floats(&out, weights.panels());
            kernel.run(Product { activations: rows, weights, out: &mut out, epilogue: Gelu });
            // Bits, for -0 and 0 are not the same answer.
            let bits = |lines: &[FloatLine]| lines.iter().flat_map(|line| line.0.map(f32::to_bits)).collect::<Vec<_>>();
            match &floats {
                None => floats = Some(out),
                Some(scalar) => assert_eq!(bits(&out), bits(scalar), "{} against scalar", kernel.name()),
            }
        }
    }

    fn check_floats(&self, out: &[FloatLine], panels: usize) {
        for (row, (values, &(row_scale, zero))) in self.activations.iter().zip(&self.scales).enumerate() {
            for (channel, weights) in self.weights.iter().enumerate() {
                let terms = || values.iter().zip(weights).map(|(&a, &w)| f64::from(i32::from(a) - zero) * f64::from(w));
                let unit = f64::from(row_scale) * f64::from(scale(channel));
                let exact = terms().sum::<f64>() * unit + f64::from(bias(channel)) + 0.25;
                let found = f64::from(out[row * panels + channel / LANES].0[channel % LANES]);
                let size = terms().map(f64::abs).sum::<f64>() * unit.abs() + 2.;
                assert!((found - exact).abs() <= 1e-6 * size, "row {row}, channel {channel}: {found}, exactly {exact}");
            }
        }
    }
}

fn scale(channel: usize) -> f32 {
    0.001 + channel as f32 * 0.0003
}

fn bias(channel: usize) -> f32 {
    channel as f32 * 0.1 - 1.
}

/// Sizes around the edges of tiles (8, 6, 4, 2 rows; 48, 32, 16 channels) and of groups (4 inputs) and lines (16).
fn cases() -> impl Strategy<Value = Case> {
    (1usize..=19, 1usize..=115, 1usize..=70).prop_flat_map(|(rows, channels, inputs)| {
        // Extreme values often, so that they stand side by side.
        let activation = prop_oneof![0u8..=127, Just(127), Just(0)];
        let weight = prop_oneof![-127i8..=127, Just(127), Just(-127)];
        let row = prop::collection::vec(activation, inputs);
        let channel = prop::collection::vec(weight, inputs);
        let scale = (1e-4f32..0.1, 0i32..=127);
        (prop::collection::vec(row, rows), prop::collection::vec(scale, rows), prop::collection::vec(channel, channels))
            .prop_map(move |(activations, scales, weights)| Case { inputs, activations, scales, weights })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 48 }))]

    #[test]
    fn every_kernel_gives_the_exact_sums(case in cases()) {
        case.check();
    }
}

#[test]
fn the_largest_sums_do_not_saturate() {
    // Miri needs a second for a thousand products.
    let inputs = if cfg!(miri) { 32 } else { 1536 };
    for weight in [127, -127] {
        Case {
            inputs,
            activations: vec![vec![127; inputs]; 9],
            scales: vec![(0.01, 0), (0.01, 127)].into_iter().cycle().take(9).collect(),
            weights: vec![vec![weight; inputs]; 49],
        }
        .check();
    }
}
