//! Rows and weights in floats -> their integers, scales and products by the scalar reference: what tests hold other code to that claims to compute in this format.

use super::kernel::Kernel;
use super::matrix::{Channel, Matrix, quantise_weights};
use super::product::{Activations, Keep, Product};
use super::rows::{Quantise, to_lines};
use super::vector::scalar::Scalar;
use super::vector::{LANES, Line, lines};

const SCALAR: Kernel = Kernel::Scalar(Scalar);

/// A linear layer on some rows.
pub struct Reference {
    inputs: usize,
    activations: Activations,
    /// Weights and scale of each output channel.
    pub channels: Vec<(Vec<i8>, f32)>,
}

impl Reference {
    /// Quantises rows and output channels of one width.
    pub fn new(rows: &[Vec<f32>], channels: &[Vec<f32>]) -> Self {
        let inputs = rows[0].len();
        let mut activations = Activations::default();
        activations.resize(rows.len(), lines(inputs) * LANES / 4);
        let in_lines: Vec<_> = rows.iter().flat_map(|row| to_lines(row)).collect();
        SCALAR.run(Quantise { rows: &in_lines, to: activations.all_mut() });
        Self { inputs, activations, channels: channels.iter().map(|channel| quantise_weights(channel)).collect() }
    }

    /// A row's activations, scale and zero point.
    pub fn row(&self, row: usize) -> (&[u8], f32, i32) {
        let Activations { values, steps, scales, zeros } = &self.activations;
        let values = values[row * steps..][..*steps].as_flattened();
        (&values[..self.inputs], scales[row], zeros[row])
    }

    /// Products with bias, `[rows, channels]`.
    pub fn products(&self, bias: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
        let scaled = self.channels.iter().map(|(_, scale)| *scale);
        self.multiply(&self.activations, scaled.enumerate().map(|(channel, scale)| (scale, bias(channel))))
    }

    /// Sums of products, corrected by the zero points, `[rows, channels]`: whole numbers, exact below 2^24.
    pub fn sums(&self) -> Vec<Vec<f32>> {
        let scales = vec![1.; self.activations.scales.len()];
        let activations = Activations { scales, ..self.activations.clone() };
        self.multiply(&activations, self.channels.iter().map(|_| (1., 0.)))
    }

    fn multiply(&self, rows: &Activations, of_channels: impl Iterator<Item = (f32, f32)>) -> Vec<Vec<f32>> {
        let channels = self.channels.iter().zip(of_channels);
        let channels = channels.map(|((weights, _), (scale, bias))| Some(Channel { weights, scale, bias }));
        let weights = Matrix::pack(channels, self.inputs);
        let count = rows.scales.len();
        let mut out = vec![Line::default(); count * weights.panels()];
        SCALAR.run(Product { activations: rows.rows(0..count), weights: &weights, out: &mut out, epilogue: Keep });
        let floats =
            |lines: &[Line<[f32; LANES]>]| lines.iter().flat_map(|line| line.0).take(self.channels.len()).collect();
        out.chunks(weights.panels()).map(floats).collect()
    }
}
