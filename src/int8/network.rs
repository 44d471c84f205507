//! A checkpoint and its configuration -> the network in 8 bits, packed for the kernels: embeddings, layers, heads.
//! DistilBERT and BERT by one code. Query, key and value of an attention head are one product, so that a head's work stays in the cache.
//! Widths that are no multiple of 16 are filled up with zeros, a head's width too.

use super::attention::{LONGEST_SEQUENCE, WIDEST_HEAD};
use super::checkpoint::{Checkpoint, Rows};
use super::matrix::{Channel, MOST_INPUTS, Matrix};
use super::rows::{Embeddings, Linear, Norm, to_lines};
use super::vector::{LANES, lines};
use crate::contents::Contents;
use crate::error::Result;
use crate::model::config::{Architecture, EncoderConfig, ModelConfig};
use crate::model::crf::{Crf, TAGS};
use crate::model::names::{self, LayerNames};
use crate::side_by_side::all;

/// One transformer layer.
pub struct Layer {
    /// For each head the projections to query, key and value, one after another.
    pub heads: Vec<Matrix>,
    /// From the heads' contexts to the hidden state.
    pub attention_output: Matrix,
    pub attention_norm: Norm,
    pub ffn_in: Matrix,
    pub ffn_out: Matrix,
    pub ffn_norm: Norm,
}

/// All that is computed with.
pub struct Network {
    pub embeddings: Embeddings,
    pub embedding_norm: Norm,
    pub layers: Vec<Layer>,
    pub span_head: Linear,
    pub class_head: Option<Linear>,
    /// Lines of a hidden state.
    pub hidden_lines: usize,
    /// Width of an attention head.
    pub head_width: usize,
    /// Number of word pieces and of positions: ids and positions stay below.
    pub vocab_size: usize,
    pub max_positions: usize,
}

impl Network {
    /// Packs a checkpoint's weights, layers side by side. `contents` are the bytes that it was read from; `in_groups` says how to pack
    /// ([`Matrix::in_groups`]).
    ///
    /// # Errors
    /// If a tensor is missing or does not fit `config`, or the sizes exceed what 32 bits hold.
    pub fn load(checkpoint: &Checkpoint, contents: &Contents, config: &ModelConfig, in_groups: bool) -> Result<Self> {
        let encoder = &config.encoder;
        let (hidden, head_width) = (encoder.hidden, encoder.hidden / encoder.heads);
        for (what, size, most) in [
            ("attention heads have a width", head_width, WIDEST_HEAD),
            ("layers have a width", hidden.max(encoder.ffn), MOST_INPUTS),
            ("sequences have a number of positions", encoder.max_positions, LONGEST_SEQUENCE),
        ] {
            if size > most {
                let reason = format!("its {what} of {size}, but the integer engine takes at most {most}: use f32");
                return Err(checkpoint.fail(reason));
            }
        }
        let classes = config.tagger.classes.len();
        let head = |name: &str, outputs: usize| -> Result<Linear> {
            let weights = checkpoint.floats(&format!("{name}.weight"), &[outputs, hidden])?;
            Ok(Linear::new(&weights, &checkpoint.floats(&format!("{name}.bias"), &[outputs])?))
        };
        Ok(Self {
            embeddings: embeddings(checkpoint, contents, encoder)?,
            embedding_norm: norm(checkpoint, "embeddings.LayerNorm", encoder)?,
            layers: all(encoder.layers, |index| layer(checkpoint, index, encoder, in_groups))
                .into_iter()
                .collect::<Result<_>>()?,
            span_head: head(names::SPAN_HEAD, TAGS)?,
            class_head: (classes > 0).then(|| head(names::CLASS_HEAD, classes)).transpose()?,
            hidden_lines: lines(hidden),
            head_width,
            vocab_size: encoder.vocab_size,
            max_positions: encoder.max_positions,
        })
    }

    /// Lines of an attention head's width.
    pub fn head_lines(&self) -> usize {
        lines(self.head_width)
    }
}

/// The CRF's scores.
///
/// # Errors
/// If one is missing or of another shape.
pub fn crf(checkpoint: &Checkpoint) -> Result<Crf> {
    let three = |name| -> Result<[f32; TAGS]> {
        let values = checkpoint.floats(name, &[TAGS])?;
        Ok(std::array::from_fn(|tag| values[tag]))
    };
    let transitions = checkpoint.floats(names::CRF_TRANSITIONS, &[TAGS, TAGS])?;
    Ok(Crf {
        start: three(names::CRF_START)?,
        end: three(names::CRF_END)?,
        transitions: std::array::from_fn(|from| std::array::from_fn(|to| transitions[from * TAGS + to])),
    })
}

fn embeddings(checkpoint: &Checkpoint, contents: &Contents, config: &EncoderConfig) -> Result<Embeddings> {
    let name = |table: &str| checkpoint.of_encoder(&format!("embeddings.{table}_embeddings.weight"));
    let hidden = config.hidden;
    let words = checkpoint.rows(&name("word"), &[config.vocab_size, hidden])?;
    let mut positions = checkpoint.floats(&name("position"), &[config.max_positions, hidden])?;
    if config.architecture == Architecture::Bert {
        // chemtag reads one segment, so the first token type is the same for every piece.
        let types = checkpoint.floats(&name("token_type"), &[config.token_types, hidden])?;
        for row in positions.chunks_mut(hidden) {
            for (position, of_type) in row.iter_mut().zip(&types) {
                *position += of_type;
            }
        }
    }
    let values: &[u8] = bytemuck::cast_slice(&words.values);
    let in_lines = if hidden.is_multiple_of(LANES) {
        contents.part(values)
    } else {
        let mut in_lines = vec![0; config.vocab_size * lines(hidden) * LANES];
        for (row, filled) in values.chunks(hidden).zip(in_lines.chunks_mut(lines(hidden) * LANES)) {
            filled[..hidden].copy_from_slice(row);
        }
        in_lines.into()
    };
    Ok(Embeddings {
        words: in_lines,
        scales: words.scales,
        positions: positions.chunks(hidden).flat_map(to_lines).collect(),
    })
}

fn norm(checkpoint: &Checkpoint, name: &str, config: &EncoderConfig) -> Result<Norm> {
    let part = |kind: &str| checkpoint.floats(&checkpoint.of_encoder(&format!("{name}.{kind}")), &[config.hidden]);
    Ok(Norm::new(&part("weight")?, &part("bias")?, config.layer_norm_eps as f32))
}

/// A linear layer as it stands in the checkpoint.
struct Unpacked<'d> {
    rows: Rows<'d>,
    biases: Vec<f32>,
    inputs: usize,
}

impl<'d> Unpacked<'d> {
    fn read(checkpoint: &Checkpoint<'d>, name: &str, outputs: usize, inputs: usize) -> Result<Self> {
        let name = checkpoint.of_encoder(name);
        let rows = checkpoint.rows(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Self { rows, biases: checkpoint.floats(&format!("{name}.bias"), &[outputs])?, inputs })
    }

    /// Output channel `index`; `None` beyond the last one.
    fn channel(&self, index: usize) -> Option<Channel<'_>> {
        let weights = self.rows.values.get(index * self.inputs..(index + 1) * self.inputs)?;
        Some(Channel { weights, scale: *self.rows.scales.get(index)?, bias: *self.biases.get(index)? })
    }

    /// The same with zeros behind every `width` inputs, so that they are `filled`.
    fn with_spread_inputs(self, width: usize, filled: usize) -> Self {
        let inputs = self.inputs / width * filled;
        let mut values = vec![0; self.rows.scales.len() * inputs];
        for (from, to) in self.rows.values.chunks(width).zip(values.chunks_mut(filled)) {
            to[..from.len()].copy_from_slice(from);
        }
        Self { rows: Rows { values: values.into(), scales: self.rows.scales }, inputs, ..self }
    }

    fn pack(&self) -> Matrix {
        let outputs = lines(self.biases.len()) * LANES;
        Matrix::pack((0..outputs).map(|index| self.channel(index)), self.inputs)
    }
}

/// Names of the matrices that are read in 8 bits: the word embeddings and the layers' weights.
pub fn quantised_names(checkpoint: &Checkpoint, config: &EncoderConfig) -> Vec<String> {
    let names = LayerNames::of(config.architecture);
    let of_layers = (0..config.layers)
        .flat_map(|index| names.linear.iter().map(move |part| format!("{}.{index}.{part}.weight", names.layer)));
    let words = std::iter::once("embeddings.word_embeddings.weight".into());
    words.chain(of_layers).map(|name: String| checkpoint.of_encoder(&name)).collect()
}

fn layer(checkpoint: &Checkpoint, index: usize, config: &EncoderConfig, in_groups: bool) -> Result<Layer> {
    let names = LayerNames::of(config.architecture);
    let name = |part: &str| format!("{}.{index}.{part}", names.layer);
    let (hidden, ffn, width) = (config.hidden, config.ffn, config.hidden / config.heads);
    let read = |part: usize, outputs, inputs| Unpacked::read(checkpoint, &name(names.linear[part]), outputs, inputs);
    let parts = [read(0, hidden, hidden)?, read(1, hidden, hidden)?, read(2, hidden, hidden)?];
    let filled = lines(width) * LANES;
    let packed = |matrix: Matrix| if in_groups { matrix.in_groups() } else { matrix };
    let heads = (0..config.heads).map(|head| {
        let channels = parts
            .iter()
            .flat_map(|part| (0..filled).map(move |i| if i < width { part.channel(head * width + i) } else { None }));
        packed(Matrix::pack(channels, hidden))
    });
    let attention_output = read(3, hidden, hidden)?.with_spread_inputs(width, filled);
    Ok(Layer {
        heads: heads.collect(),
        attention_output: packed(attention_output.pack()),
        attention_norm: norm(checkpoint, &name(names.norm[0]), config)?,
        ffn_in: packed(read(4, ffn, hidden)?.pack()),
        ffn_out: packed(read(5, hidden, ffn)?.pack()),
        ffn_norm: norm(checkpoint, &name(names.norm[1]), config)?,
    })
}
