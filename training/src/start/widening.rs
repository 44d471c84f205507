//! An encoder -> a wider one that computes the same: hidden units, heads and units of the feed-forward network are copied, and what reads the copies shares its weight among
//! them (Chen et al. 2016, "Net2Net", section 2.3; Chen et al. 2022, "bert2BERT", section 3.3). LayerNorms keep their statistics, as every hidden unit is copied equally often.

use candle_core::{Device, Tensor};
use chemtag::model::layout::{EncoderLayout, LayerLayout, Place};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{StartingEncoder, WIDENING_STREAM, stream};
use crate::error::{Error, Result};
use crate::parameters::{masked_lm_names, prefix};

/// The sizes of a wider encoder; what is not given follows from the hidden states' width.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Width {
    /// Width of the hidden states: a whole multiple of what it was.
    pub hidden: Option<usize>,
    /// Attention heads, which stay as wide as they were.
    pub heads: Option<usize>,
    /// Width of the feed-forward network, at least what it was.
    pub ffn: Option<usize>,
}

/// Which old unit each new one is a copy of: unit `i` of `old`, `i + old`, `i + 2 old` and so on. Heads are runs of hidden units, so that they are copied as wholes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Units {
    old: usize,
    new: usize,
}

impl Units {
    /// Copies that the old unit of a new one has.
    fn copies(self, unit: usize) -> usize {
        self.new / self.old + usize::from(unit % self.old < self.new % self.old)
    }

    fn origins(self) -> Result<Tensor> {
        Ok(Tensor::from_iter((0..self.new).map(|unit| (unit % self.old) as u32), &Device::Cpu)?)
    }
}

/// What the axes of one tensor count.
enum Axes {
    /// A matrix `[outputs, inputs]`.
    Linear { outputs: Units, inputs: Units },
    /// A table `[rows, units]` or a vector `[units]` of what is added or multiplied unit by unit.
    PerUnit(Units),
}

impl StartingEncoder {
    /// Makes the encoder, and its masked-language-model head, wider without changing what they compute.
    ///
    /// Weights from copies of a unit differ, so that the copies can become different in training: by a normal deviation of `noise` times the weights' own, drawn from `seed`, whose
    /// sum over the copies is zero. The result does not depend on it.
    ///
    /// # Errors
    /// If the widths do not fit the encoder's; the message says which do. If `noise` is no number or negative.
    pub fn widen(&mut self, width: Width, noise: f64, seed: u64) -> Result<()> {
        if !(noise.is_finite() && noise >= 0.) {
            return Err(Error::Setting(format!("the noise is {noise}, but must be a number that is not below 0")));
        }
        let old = EncoderLayout::new(&self.config.encoder);
        let (hidden, ffn) = self.units(width)?;
        let mut widening = Widening { noise, random: stream(seed, WIDENING_STREAM) };
        let prefix = prefix(&self.config);
        for place in old.places() {
            let name = format!("{prefix}{}", place.name);
            let wide = widening.apply(self.tensor(&name)?, &axes(place, &old, hidden, ffn))?;
            self.tensors.insert(name, wide);
        }
        let head = masked_lm_names(self.config.encoder.architecture);
        let [weight, bias] = ["weight", "bias"].map(|kind| format!("{}.{kind}", head.transform));
        if let Some(matrix) = self.tensors.get(&weight) {
            let wide = widening.apply(matrix, &Axes::Linear { outputs: hidden, inputs: hidden })?;
            self.tensors.insert(weight, wide);
            let wide = widening.apply(self.tensor(&bias)?, &Axes::PerUnit(hidden))?;
            self.tensors.insert(bias, wide);
            for kind in ["weight", "bias"] {
                // Each score is a product with the word embeddings, whose copies all count.
                let name = format!("{}.{kind}", head.norm);
                let wide = widening.apply(self.tensor(&name)?, &Axes::PerUnit(hidden))?;
                self.tensors.insert(name, (wide / (hidden.new / hidden.old) as f64)?);
            }
        }
        let sizes = &mut self.config.encoder;
        sizes.heads *= hidden.new / hidden.old;
        (sizes.hidden, sizes.ffn) = (hidden.new, ffn.new);
        Ok(())
    }

    /// Hidden units and those of the feed-forward network, if the encoder can become so wide.
    fn units(&self, width: Width) -> Result<(Units, Units)> {
        let sizes = &self.config.encoder;
        let hidden = Units { old: sizes.hidden, new: width.hidden.unwrap_or(sizes.hidden) };
        let factor = hidden.new / hidden.old;
        let heads = sizes.heads * factor;
        let ffn = Units { old: sizes.ffn, new: width.ffn.unwrap_or(sizes.ffn * factor) };
        let reason = if factor == 0 || !hidden.new.is_multiple_of(hidden.old) {
            let widths: Vec<String> = (1..=4).map(|factor| (factor * hidden.old).to_string()).collect();
            format!(
                "an encoder {} wide can become a whole multiple of it wide ({} and so on), as only then its LayerNorms compute the same; {} is none",
                hidden.old,
                widths.join(", "),
                hidden.new
            )
        } else if width.heads.is_some_and(|asked| asked != heads) {
            format!(
                "heads stay {} wide: a width of {} has {heads} heads, not {}",
                hidden.old / sizes.heads,
                hidden.new,
                width.heads.unwrap_or_default()
            )
        } else if ffn.new < ffn.old {
            format!("the feed-forward network is {} wide, more than the {} asked for", ffn.old, ffn.new)
        } else {
            return Ok((hidden, ffn));
        };
        Err(Error::Setting(reason))
    }
}

/// What the axes of one of the encoder's tensors count.
fn axes(place: &Place, layout: &EncoderLayout, hidden: Units, ffn: Units) -> Axes {
    let of = |block: fn(&LayerLayout) -> &std::ops::Range<usize>| {
        layout.layers.iter().any(|layer| block(layer).contains(&place.range.start))
    };
    if of(|layer| &layer.qkv_weight) || of(|layer| &layer.output_weight) {
        Axes::Linear { outputs: hidden, inputs: hidden }
    } else if of(|layer| &layer.ffn_in_weight) {
        Axes::Linear { outputs: ffn, inputs: hidden }
    } else if of(|layer| &layer.ffn_out_weight) {
        Axes::Linear { outputs: hidden, inputs: ffn }
    } else if of(|layer| &layer.ffn_in_bias) {
        Axes::PerUnit(ffn)
    } else {
        Axes::PerUnit(hidden)
    }
}

struct Widening {
    noise: f64,
    random: ChaCha8Rng,
}

impl Widening {
    fn apply(&mut self, tensor: &Tensor, axes: &Axes) -> Result<Tensor> {
        match *axes {
            Axes::PerUnit(units) => Ok(tensor.index_select(&units.origins()?, tensor.rank() - 1)?),
            Axes::Linear { outputs, inputs } => {
                let matrix = tensor.index_select(&outputs.origins()?, 0)?.index_select(&inputs.origins()?, 1)?;
                let shares = (0..inputs.new).map(|unit| 1. / inputs.copies(unit) as f32);
                let shared = matrix.broadcast_mul(&Tensor::from_iter(shares, &Device::Cpu)?)?;
                if self.noise == 0. || inputs.new == inputs.old {
                    return Ok(shared);
                }
                let deviation = f64::from(shared.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
                Ok((shared + (self.differences(outputs.new, inputs)? * (self.noise * deviation))?)?)
            }
        }
    }

    /// Random numbers `[rows, units]` whose sum over the copies of a unit is zero.
    fn differences(&mut self, rows: usize, units: Units) -> Result<Tensor> {
        let count = rows * units.new;
        let mut numbers: Vec<f32> = StandardNormal.sample_iter(&mut self.random).take(count).collect();
        let mut means = vec![0f32; units.old];
        for row in numbers.chunks_exact_mut(units.new) {
            means.fill(0.);
            for copies in row.chunks(units.old) {
                means.iter_mut().zip(copies).for_each(|(mean, number)| *mean += number);
            }
            means.iter_mut().enumerate().for_each(|(unit, mean)| *mean /= units.copies(unit) as f32);
            for copies in row.chunks_mut(units.old) {
                copies.iter_mut().zip(&means).for_each(|(number, mean)| *number -= mean);
            }
        }
        Ok(Tensor::from_vec(numbers, (rows, units.new), &Device::Cpu)?)
    }
}
