//! A packed batch -> hidden states, and gradients of them -> gradients of all weights: the encoder on fused operations, by hand.
//! The same arithmetic as [`TensorEncoder`](crate::model::encoder::TensorEncoder), which is the reference; activations are 16-bit, sums and weights f32.
//! What the backward pass needs is kept by the forward pass; nothing is computed twice but dropout's masks.

use std::ops::Range;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};

use super::attention::Attention;
use super::column_sums::ColumnSums;
use super::dropout::Dropout;
use super::embedding::{Embedding, Tables};
use super::gather_rows::GatherRows;
use super::gelu::Gelu;
use super::inputs::Inputs;
use super::layer_norm::{Norm, NormGradients, SavedNorm};
use super::products::Products;
use super::residual_norm::ResidualNorm;
use super::{Half, column_sums, layer_norm, refused};
use crate::error::{Error, Result};
use crate::model::config::EncoderConfig;
use crate::model::layout::{EncoderLayout, LayerLayout};

/// An encoder's operations for one type of activations on one stream; the weights are given with each pass.
pub struct EncoderOperations<T> {
    stream: Arc<CudaStream>,
    config: EncoderConfig,
    layout: EncoderLayout,
    products: Products<T>,
    attention: Attention<T>,
    norm: ResidualNorm<T>,
    embedding: Embedding<T>,
    gelu: Gelu<T>,
    sums: ColumnSums<T>,
    gather: GatherRows<T>,
}

/// All weights, laid out as [`EncoderLayout`] says: in 16 bits for matrix products, in 32 for LayerNorm.
#[derive(Clone, Copy)]
pub struct FlatWeights<'w, T> {
    /// The weights rounded to `T`.
    pub narrow: &'w CudaView<'w, T>,
    /// The weights.
    pub wide: &'w CudaView<'w, f32>,
}

/// Which dropout masks a training pass uses; the passes' masks differ by `step`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassDropout {
    /// Share of values set to 0.
    pub probability: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the pass under this seed.
    pub step: u32,
}

impl PassDropout {
    /// Of the attention's and the feed-forward network's output in a layer.
    fn sites(&self, layer: usize) -> [Dropout; 2] {
        [self.site(2 * layer + 1), self.site(2 * layer + 2)]
    }

    fn site(&self, site: usize) -> Dropout {
        Dropout { probability: self.probability, seed: self.seed, step: self.step, site: site as u32 }
    }
}

/// What a training pass keeps for its backward pass.
pub struct SavedPass<T> {
    dropout: PassDropout,
    embedding_statistics: CudaSlice<f32>,
    layers: Vec<SavedLayer<T>>,
}

/// One layer's share of it; n pieces.
struct SavedLayer<T> {
    /// What the layer read [n, hidden].
    input: CudaSlice<T>,
    /// [n, 3 hidden].
    qkv: CudaSlice<T>,
    /// [n, hidden].
    context: CudaSlice<T>,
    /// [heads, n].
    log_sum_exp: CudaSlice<f32>,
    attention_norm: SavedSum<T>,
    /// What the feed-forward network read [n, hidden].
    middle: CudaSlice<T>,
    /// Before and after GELU [n, ffn].
    wide: CudaSlice<T>,
    activated: CudaSlice<T>,
    ffn_norm: SavedSum<T>,
}

/// What a LayerNorm read [n, hidden] and its statistics [n, 2].
struct SavedSum<T> {
    sum: CudaSlice<T>,
    statistics: CudaSlice<f32>,
}

impl<T: Half> EncoderOperations<T> {
    /// Loads all kernels.
    ///
    /// # Errors
    /// If the driver refuses them, or the encoder's sizes are not ones that they are for.
    pub fn load(stream: &Arc<CudaStream>, config: &EncoderConfig) -> Result<Self> {
        Ok(Self {
            stream: stream.clone(),
            config: config.clone(),
            layout: EncoderLayout::new(config),
            products: Products::new(stream)?,
            attention: Attention::load(stream, config.heads, config.hidden / config.heads)?,
            norm: ResidualNorm::load(stream)?,
            embedding: Embedding::load(stream)?,
            gelu: Gelu::load(stream)?,
            sums: ColumnSums::load(stream)?,
            gather: GatherRows::load(stream)?,
        })
    }

    /// Where the weights lie in their buffer.
    pub fn layout(&self) -> &EncoderLayout {
        &self.layout
    }

    /// Matrix products on the same stream.
    pub fn products(&self) -> &Products<T> {
        &self.products
    }

    /// Memory whose content nobody reads before it is written.
    fn room<U: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<U>> {
        // Safety: every operation below writes all of its output before another one reads it.
        unsafe { self.stream.alloc(count) }.map_err(refused("allocating memory"))
    }

    /// Hidden states [n, hidden] of a batch of n pieces. With `dropout` it is a training pass and keeps what [`EncoderOperations::backward`] needs.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn forward(
        &self,
        weights: FlatWeights<'_, T>,
        inputs: &Inputs,
        dropout: Option<PassDropout>,
    ) -> Result<(CudaSlice<T>, Option<SavedPass<T>>)> {
        let mut x = self.room::<T>(inputs.rows() * self.config.hidden)?;
        let mut statistics = dropout.map(|_| self.room::<f32>(2 * inputs.rows())).transpose()?;
        weights.with_tables(&self.layout, |tables| {
            weights.with_norm(&self.layout.embedding_norm, self.config.layer_norm_eps, |norm| {
                inputs.with_pieces(|pieces| {
                    let site = dropout.map_or(Dropout::NONE, |dropout| dropout.site(0));
                    let mut statistics = statistics.as_mut().map(CudaSlice::as_view_mut);
                    self.embedding.forward(pieces, tables, norm, site, statistics.as_mut(), &mut x.as_view_mut())
                })
            })
        })?;
        let mut layers = Vec::new();
        for (index, layer) in self.layout.layers.iter().enumerate() {
            let (out, saved) = self.layer(weights, layer, inputs, x, dropout.map(|dropout| dropout.sites(index)))?;
            layers.extend(saved);
            x = out;
        }
        let saved = match (dropout, statistics) {
            (Some(dropout), Some(embedding_statistics)) => Some(SavedPass { dropout, embedding_statistics, layers }),
            _ => None,
        };
        Ok((x, saved))
    }

    /// Hidden states [words, hidden] of the words' first pieces, without dropout: what heads read.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn forward_words(&self, weights: FlatWeights<'_, T>, inputs: &Inputs) -> Result<CudaSlice<T>> {
        let (hidden, _) = self.forward(weights, inputs, None)?;
        let width = self.config.hidden;
        let mut words = self.room::<T>(inputs.words() * width)?;
        self.gather.forward(&hidden.as_view(), &inputs.word_starts(), width, &mut words.as_view_mut())?;
        Ok(words)
    }

    /// One layer [n, hidden] -> [n, hidden].
    fn layer(
        &self,
        weights: FlatWeights<'_, T>,
        layer: &LayerLayout,
        inputs: &Inputs,
        input: CudaSlice<T>,
        dropout: Option<[Dropout; 2]>,
    ) -> Result<(CudaSlice<T>, Option<SavedLayer<T>>)> {
        let (n, hidden, ffn) = (inputs.rows(), self.config.hidden, self.config.ffn);
        let linear = |x: &CudaSlice<T>, weight: &Range<usize>, bias: &Range<usize>, [from, to]: [usize; 2]| {
            let mut y = self.room::<T>(n * to)?;
            let (weight, bias) = (weights.narrow.slice(weight.clone()), weights.narrow.slice(bias.clone()));
            self.products.forward(&x.as_view(), &weight, Some(&bias), &mut y.as_view_mut(), [n, from, to])?;
            Ok::<_, Error>(y)
        };
        let add_and_norm =
            |residual: &CudaSlice<T>, mut sum: CudaSlice<T>, norm: &[Range<usize>; 2], site: Option<Dropout>| {
                let mut out = self.room::<T>(n * hidden)?;
                let mut statistics = site.map(|_| self.room::<f32>(2 * n)).transpose()?;
                weights.with_norm(norm, self.config.layer_norm_eps, |norm| {
                    let site = site.unwrap_or(Dropout::NONE);
                    let mut statistics = statistics.as_mut().map(CudaSlice::as_view_mut);
                    let (residual, sum) = (residual.as_view(), &mut sum.as_view_mut());
                    self.norm.forward(Some(&residual), sum, norm, site, statistics.as_mut(), &mut out.as_view_mut())
                })?;
                Ok::<_, Error>((out, statistics.map(|statistics| SavedSum { sum, statistics })))
            };
        let [attention_site, ffn_site] = dropout.map_or([None; 2], |sites| sites.map(Some));

        let qkv = linear(&input, &layer.qkv_weight, &layer.qkv_bias, [hidden, 3 * hidden])?;
        let mut context = self.room::<T>(n * hidden)?;
        let mut log_sum_exp = dropout.map(|_| self.room::<f32>(n * self.config.heads)).transpose()?;
        {
            let mut log_sum_exp = log_sum_exp.as_mut().map(CudaSlice::as_view_mut);
            let (qkv, context) = (qkv.as_view(), &mut context.as_view_mut());
            self.attention.forward(&qkv, &inputs.tiles(), context, log_sum_exp.as_mut())?;
        }
        let attended = linear(&context, &layer.output_weight, &layer.output_bias, [hidden, hidden])?;
        let (middle, attention_norm) = add_and_norm(&input, attended, &layer.attention_norm, attention_site)?;
        let wide = linear(&middle, &layer.ffn_in_weight, &layer.ffn_in_bias, [hidden, ffn])?;
        let mut activated = self.room::<T>(n * ffn)?;
        self.gelu.forward(&wide.as_view(), &mut activated.as_view_mut())?;
        let narrow = linear(&activated, &layer.ffn_out_weight, &layer.ffn_out_bias, [ffn, hidden])?;
        let (out, ffn_norm) = add_and_norm(&middle, narrow, &layer.ffn_norm, ffn_site)?;
        let saved = match (log_sum_exp, attention_norm, ffn_norm) {
            (Some(log_sum_exp), Some(attention_norm), Some(ffn_norm)) => {
                Some(SavedLayer { input, qkv, context, log_sum_exp, attention_norm, middle, wide, activated, ffn_norm })
            }
            _ => None,
        };
        Ok((out, saved))
    }

    /// The gradient on the hidden states [n, hidden] -> the gradients of all weights, written to `gradients`, laid out as the weights are.
    /// Those of the word embeddings are added to what stands there, so that an output layer that shares them can go first; the rest need not be set.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn backward(
        &self,
        weights: FlatWeights<'_, T>,
        inputs: &Inputs,
        saved: SavedPass<T>,
        mut gradient: CudaSlice<T>,
        gradients: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let (n, hidden, ffn) = (inputs.rows(), self.config.hidden, self.config.ffn);
        let words = inputs.tables()?;
        let partials = words.iter().map(|table| table.occurrences.partials() * hidden).max().unwrap_or(0);
        let sums = |width| column_sums::scratch_len(n, width);
        let scratch = layer_norm::scratch_len(n, hidden).max(sums(ffn)).max(sums(3 * hidden)).max(partials);
        let mut scratch = self.room::<f32>(scratch)?;
        let SavedPass { dropout, embedding_statistics, mut layers } = saved;
        for (index, layer) in self.layout.layers.iter().enumerate().rev() {
            let Some(saved) = layers.pop() else {
                return Err(Error::Option("the pass was not made by this encoder".into()));
            };
            let sites = dropout.sites(index);
            gradient = self.layer_backward(weights, layer, inputs, saved, sites, gradient, gradients, &mut scratch)?;
        }
        let positions = &mut gradients.slice_mut(self.layout.positions.clone());
        self.stream.memset_zeros(positions).map_err(refused("setting gradients to zero"))?;
        if let Some(types) = &self.layout.token_types {
            let types = &mut gradients.slice_mut(types.clone());
            self.stream.memset_zeros(types).map_err(refused("setting gradients to zero"))?;
        }
        weights.with_tables(&self.layout, |tables| {
            let weight = weights.wide.slice(self.layout.embedding_norm[0].clone());
            let statistics = embedding_statistics.as_view();
            let norm = SavedNorm { statistics: &statistics, weight: &weight, dropout: dropout.site(0) };
            let input = self.layout.token_types.as_ref().map(|types| types.start..types.start + hidden);
            inputs.with_pieces(|pieces| {
                with_norm_gradients(gradients, input, &self.layout.embedding_norm, |norm_gradients| {
                    let (gradient, scratch) = (&mut gradient.as_view_mut(), &mut scratch.as_view_mut());
                    self.embedding.backward(gradient, pieces, tables, norm, norm_gradients, scratch)
                })
            })
        })?;
        for (table, place) in words.iter().zip([&self.layout.words, &self.layout.positions]) {
            let (gradient, scratch) = (gradient.as_view(), &mut scratch.as_view_mut());
            let table_gradient = &mut gradients.slice_mut(place.clone());
            self.embedding.add_rows(&gradient, table.occurrences, &table.words, hidden, table_gradient, scratch)?;
        }
        Ok(())
    }

    /// The gradient on a layer's output becomes that on its input.
    #[allow(clippy::too_many_arguments)]
    fn layer_backward(
        &self,
        weights: FlatWeights<'_, T>,
        layer: &LayerLayout,
        inputs: &Inputs,
        saved: SavedLayer<T>,
        [attention_site, ffn_site]: [Dropout; 2],
        gradient: CudaSlice<T>,
        gradients: &mut CudaSlice<f32>,
        scratch: &mut CudaSlice<f32>,
    ) -> Result<CudaSlice<T>> {
        let (n, hidden, ffn) = (inputs.rows(), self.config.hidden, self.config.ffn);
        // Gradient on a LayerNorm's output -> on the residual, and on what was added to it if dropout makes that another one.
        let norm_backward = |mut gradient: CudaSlice<T>,
                             saved: SavedSum<T>,
                             norm: &[Range<usize>; 2],
                             bias: &Range<usize>,
                             site: Dropout,
                             gradients: &mut CudaSlice<f32>,
                             scratch: &mut CudaSlice<f32>| {
            let mut dropped = site.is_active().then(|| self.room::<T>(n * hidden)).transpose()?;
            let weight = weights.wide.slice(norm[0].clone());
            let statistics = saved.statistics.as_view();
            let saved_norm = SavedNorm { statistics: &statistics, weight: &weight, dropout: site };
            with_norm_gradients(gradients, Some(bias.clone()), norm, |norm_gradients| {
                let mut dropped = dropped.as_mut().map(CudaSlice::as_view_mut);
                let (gradient, sum) = (&mut gradient.as_view_mut(), &saved.sum.as_view());
                self.norm.backward(
                    gradient,
                    sum,
                    saved_norm,
                    dropped.as_mut(),
                    norm_gradients,
                    &mut scratch.as_view_mut(),
                )
            })?;
            Ok::<_, Error>((gradient, dropped))
        };
        // Gradients of a linear layer's weight, and on its input: added to `onto` or new.
        let linear_backward = |gradient: &CudaSlice<T>,
                               x: &CudaSlice<T>,
                               weight: &Range<usize>,
                               [from, to]: [usize; 2],
                               onto: Option<CudaSlice<T>>,
                               gradients: &mut CudaSlice<f32>| {
            let (gradient, x) = (gradient.as_view(), x.as_view());
            let size = [n, from, to];
            self.products.weight_gradient(&gradient, &x, &mut gradients.slice_mut(weight.clone()), size, false)?;
            let accumulate = onto.is_some();
            let mut to_input = match onto {
                Some(onto) => onto,
                None => self.room::<T>(n * from)?,
            };
            let weight = weights.narrow.slice(weight.clone());
            self.products.input_gradient(&gradient, &weight, &mut to_input.as_view_mut(), size, accumulate)?;
            Ok::<_, Error>(to_input)
        };

        let SavedLayer { input, qkv, context, log_sum_exp, attention_norm, middle, wide, activated, ffn_norm } = saved;
        let (residual, dropped) =
            norm_backward(gradient, ffn_norm, &layer.ffn_norm, &layer.ffn_out_bias, ffn_site, gradients, scratch)?;
        let added = dropped.as_ref().unwrap_or(&residual);
        let mut to_wide = linear_backward(added, &activated, &layer.ffn_out_weight, [ffn, hidden], None, gradients)?;
        self.gelu.backward(
            &mut to_wide.as_view_mut(),
            &wide.as_view(),
            &mut gradients.slice_mut(layer.ffn_in_bias.clone()),
            &mut scratch.as_view_mut(),
        )?;
        let gradient =
            linear_backward(&to_wide, &middle, &layer.ffn_in_weight, [hidden, ffn], Some(residual), gradients)?;

        let (residual, dropped) = norm_backward(
            gradient,
            attention_norm,
            &layer.attention_norm,
            &layer.output_bias,
            attention_site,
            gradients,
            scratch,
        )?;
        let added = dropped.as_ref().unwrap_or(&residual);
        let to_context = linear_backward(added, &context, &layer.output_weight, [hidden, hidden], None, gradients)?;
        let mut to_qkv = self.room::<T>(n * 3 * hidden)?;
        self.attention.backward(
            &to_context.as_view(),
            &qkv.as_view(),
            &inputs.tiles(),
            &context.as_view(),
            &log_sum_exp.as_view(),
            &mut to_qkv.as_view_mut(),
        )?;
        self.sums.forward(
            &to_qkv.as_view(),
            &mut gradients.slice_mut(layer.qkv_bias.clone()),
            &mut scratch.as_view_mut(),
        )?;
        linear_backward(&to_qkv, &input, &layer.qkv_weight, [hidden, 3 * hidden], Some(residual), gradients)
    }
}

impl<T: Half> FlatWeights<'_, T> {
    fn with_tables<R>(&self, layout: &EncoderLayout, operation: impl FnOnce(Tables<'_, T>) -> R) -> R {
        let (words, positions) = (self.narrow.slice(layout.words.clone()), self.narrow.slice(layout.positions.clone()));
        let width = layout.embedding_norm[0].len();
        // chemtag reads one segment: row 0 of the token types.
        let token_type = layout.token_types.as_ref().map(|types| self.narrow.slice(types.start..types.start + width));
        operation(Tables { words: &words, positions: &positions, token_type: token_type.as_ref() })
    }

    fn with_norm<R>(
        &self,
        [weight, bias]: &[Range<usize>; 2],
        epsilon: f64,
        operation: impl FnOnce(Norm<'_>) -> R,
    ) -> R {
        let (weight, bias) = (self.wide.slice(weight.clone()), self.wide.slice(bias.clone()));
        operation(Norm { weight: &weight, bias: &bias, epsilon: epsilon as f32 })
    }
}

/// Calls `operation` with the parts of `gradients` that belong to a LayerNorm and to the bias `input` before it, which lies before both.
fn with_norm_gradients<R>(
    gradients: &mut CudaSlice<f32>,
    input: Option<Range<usize>>,
    [weight, bias]: &[Range<usize>; 2],
    operation: impl FnOnce(NormGradients<'_>) -> R,
) -> R {
    let (mut before, mut rest) = gradients.split_at_mut(weight.start);
    let (mut of_weight, mut of_bias) = rest.split_at_mut(bias.start - weight.start);
    operation(NormGradients {
        weight: of_weight.slice_mut(..weight.len()),
        bias: of_bias.slice_mut(..bias.len()),
        input: input.map(|input| before.slice_mut(input)),
    })
}
