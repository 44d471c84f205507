//! A few neighbouring sequences of a packed batch -> what the heads say of their words, in memory that is used again and again.
//! Each layer is two passes: over attention heads (projection and attention, whose rows of one head stay in the cache), then over blocks of rows
//! (all the rest, whose wide rows stay in the cache). The work of a pass may be shared among threads; no result depends on how.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::attention::{self, Attention};
use super::kernel::Kernel;
use super::matrix::Matrix;
use super::network::{Layer, Network};
use super::product::{ActivationRowsMut, Activations, Add, Gelu, Keep, Product};
use super::rows::{Apply, Embed, Normalise, Quantise, QuantiseHeads};
use super::vector::{FloatLine, LANES, Line};
use crate::model::crf::TAGS;

/// Rows that go through the feed-forward network together: their wide rows (6 kB each at 1,536) fit a second-level cache.
const BLOCK: usize = 64;
/// Rows of a tile, so that threads share rows without breaking tiles.
const TILE: usize = 8;

/// Sequences that are read together.
#[derive(Debug, Clone, Copy)]
pub struct Group<'b> {
    /// Each piece's id and its position in its own sequence.
    pub ids: &'b [u32],
    pub positions: &'b [u32],
    /// First piece of each sequence, and the number of pieces behind the last one, plus `first`.
    pub cu_seqlens: &'b [u32],
    /// First piece of each word, plus `first`.
    pub word_starts: &'b [u32],
    /// Pieces of the batch before the group.
    pub first: u32,
}

/// Memory for one group.
#[derive(Default)]
pub struct Workspace {
    /// `[rows, lines]`: hidden states.
    hidden: Vec<FloatLine>,
    /// `[rows]`: the same as activations.
    inputs: Activations,
    /// `[heads, rows, lines of a head]`.
    contexts: Vec<FloatLine>,
    /// The rows of `hidden` and `contexts` that begin words.
    word_hidden: Vec<FloatLine>,
    word_contexts: Vec<FloatLine>,
}

/// Memory for one thread's part of a pass.
#[derive(Default)]
struct Desk {
    /// `[rows, query, key and value, lines of a head]`.
    projected: Vec<FloatLine>,
    attention: attention::Scratch,
    context: Activations,
    attended: Activations,
    /// `[rows of a block, lines of the feed-forward network]`.
    wide: Vec<FloatLine>,
    wide_inputs: Activations,
}

/// Memory that waits for its next use.
#[derive(Default)]
pub struct Pool<T>(Mutex<Vec<T>>);

impl<T: Default> Pool<T> {
    /// Lends memory to `work`.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let waiting = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lent = waiting().pop().unwrap_or_default();
        let result = work(&mut lent);
        waiting().push(lent);
        result
    }
}

/// The network and what computes it.
pub struct Engine {
    pub network: Network,
    pub kernel: Kernel,
    workspaces: Pool<Workspace>,
    desks: Pool<Desk>,
}

impl Engine {
    /// An engine without any memory yet.
    pub fn new(network: Network, kernel: Kernel) -> Self {
        Self { network, kernel, workspaces: Pool::default(), desks: Pool::default() }
    }

    /// What the heads say of a group's words: tags, then class logits `[words, classes]`. `threads` is the number of threads that share the work.
    pub fn read(&self, group: Group, threads: usize) -> (Vec<[f32; TAGS]>, Vec<f32>) {
        if group.word_starts.is_empty() {
            return (Vec::new(), Vec::new());
        }
        self.workspaces.with(|workspace| {
            self.embed(group, workspace);
            for (index, layer) in self.network.layers.iter().enumerate() {
                let last = index + 1 == self.network.layers.len();
                self.attend(layer, group, workspace, threads);
                if last {
                    self.pick_words(group, workspace);
                }
                self.feed_forward(layer, workspace, threads, last);
            }
            self.heads(group, workspace)
        })
    }

    fn embed(&self, group: Group, workspace: &mut Workspace) {
        let (kernel, network) = (self.kernel, &self.network);
        let (rows, lines) = (group.ids.len(), network.hidden_lines);
        workspace.hidden.resize(rows * lines, Line::default());
        workspace.inputs.resize(rows, lines * LANES / 4);
        let Workspace { hidden, inputs, .. } = workspace;
        kernel.run(Embed { tables: &network.embeddings, ids: group.ids, positions: group.positions, rows: hidden });
        kernel.run(Normalise { norm: &network.embedding_norm, rows: hidden, to: inputs.all_mut() });
    }

    /// The first pass: every head's context of every row.
    fn attend(&self, layer: &Layer, group: Group, workspace: &mut Workspace, threads: usize) {
        let rows = group.ids.len();
        let part = rows * self.network.head_lines();
        let Workspace { inputs, contexts, .. } = workspace;
        contexts.resize(layer.heads.len() * part, Line::default());
        let attend = |(context, head): (&mut [FloatLine], &Matrix)| {
            self.desks.with(|desk| self.attend_head(head, group, inputs, context, desk));
        };
        if threads > 1 {
            contexts.par_chunks_mut(part).zip(&layer.heads).for_each(attend);
        } else {
            contexts.chunks_mut(part).zip(&layer.heads).for_each(attend);
        }
    }

    fn attend_head(
        &self,
        head: &Matrix,
        group: Group,
        inputs: &Activations,
        context: &mut [FloatLine],
        desk: &mut Desk,
    ) {
        let (kernel, lines, rows) = (self.kernel, self.network.head_lines(), group.ids.len());
        let Desk { projected, attention, .. } = desk;
        projected.resize(rows * 3 * lines, Line::default());
        kernel.run(Product { activations: inputs.rows(0..rows), weights: head, out: projected, epilogue: Keep });
        for ends in group.cu_seqlens.windows(2) {
            let [start, end] = [ends[0], ends[1]].map(|piece| (piece - group.first) as usize);
            if start < end {
                kernel.run(Attention {
                    projected: &projected[start * 3 * lines..end * 3 * lines],
                    lines,
                    width: self.network.head_width,
                    context: &mut context[start * lines..end * lines],
                    scratch: attention,
                });
            }
        }
    }

    /// Rows that begin words: of the last layer nobody reads the others.
    fn pick_words(&self, group: Group, workspace: &mut Workspace) {
        let (lines, part) = (self.network.hidden_lines, self.network.head_lines());
        let Workspace { hidden, contexts, word_hidden, word_contexts, .. } = workspace;
        let starts = || group.word_starts.iter().map(|start| (start - group.first) as usize);
        word_hidden.clear();
        word_contexts.clear();
        for row in starts() {
            word_hidden.extend_from_slice(&hidden[row * lines..][..lines]);
        }
        for head in contexts.chunks(group.ids.len() * part) {
            for row in starts() {
                word_contexts.extend_from_slice(&head[row * part..][..part]);
            }
        }
    }

    /// The second pass, over the rows that begin words or all rows: the attention's output, the feed-forward network, and both LayerNorms.
    fn feed_forward(&self, layer: &Layer, workspace: &mut Workspace, threads: usize, words: bool) {
        let lines = self.network.hidden_lines;
        let Workspace { hidden, inputs, contexts, word_hidden, word_contexts } = workspace;
        let (hidden, contexts) = if words { (word_hidden, &*word_contexts) } else { (hidden, &*contexts) };
        let rows = hidden.len() / lines;
        if rows == 0 {
            return;
        }
        let block = BLOCK.min(rows.div_ceil(threads).next_multiple_of(TILE));
        let steps = lines * LANES / 4;
        inputs.resize(rows, steps);
        let Activations { values, scales, zeros, .. } = inputs;
        type Parts<'p> = (((&'p mut [FloatLine], &'p mut [[u8; 4]]), &'p mut [f32]), &'p mut [i32]);
        let forward = |(index, (((hidden, values), scales), zeros)): (usize, Parts)| {
            let next = ActivationRowsMut { values, steps, scales, zeros };
            self.desks.with(|desk| self.feed_forward_block(layer, (index * block, rows), contexts, hidden, next, desk));
        };
        if threads > 1 {
            let parts = hidden.par_chunks_mut(block * lines).zip(values.par_chunks_mut(block * steps));
            parts.zip(scales.par_chunks_mut(block)).zip(zeros.par_chunks_mut(block)).enumerate().for_each(forward);
        } else {
            let parts = hidden.chunks_mut(block * lines).zip(values.chunks_mut(block * steps));
            parts.zip(scales.chunks_mut(block)).zip(zeros.chunks_mut(block)).enumerate().for_each(forward);
        }
    }

    /// The rows from `first` on, of `of_all` rows; `next` takes the activations for the next layer.
    fn feed_forward_block(
        &self,
        layer: &Layer,
        (first, of_all): (usize, usize),
        contexts: &[FloatLine],
        hidden: &mut [FloatLine],
        next: ActivationRowsMut,
        desk: &mut Desk,
    ) {
        let (kernel, head_lines) = (self.kernel, self.network.head_lines());
        let rows = hidden.len() / self.network.hidden_lines;
        let Desk { context, attended, wide, wide_inputs, .. } = desk;
        context.resize(rows, layer.attention_output.steps());
        kernel.run(QuantiseHeads { heads: contexts, head_lines, of_all, first, to: context.all_mut() });
        let weights = &layer.attention_output;
        kernel.run(Product { activations: context.rows(0..rows), weights, out: hidden, epilogue: Add });
        attended.resize(rows, layer.ffn_in.steps());
        kernel.run(Normalise { norm: &layer.attention_norm, rows: hidden, to: attended.all_mut() });
        wide.resize(rows * layer.ffn_in.panels(), Line::default());
        let weights = &layer.ffn_in;
        kernel.run(Product { activations: attended.rows(0..rows), weights, out: wide, epilogue: Gelu });
        wide_inputs.resize(rows, layer.ffn_out.steps());
        kernel.run(Quantise { rows: wide, to: wide_inputs.all_mut() });
        let weights = &layer.ffn_out;
        kernel.run(Product { activations: wide_inputs.rows(0..rows), weights, out: hidden, epilogue: Add });
        kernel.run(Normalise { norm: &layer.ffn_norm, rows: hidden, to: next });
    }

    fn heads(&self, group: Group, workspace: &Workspace) -> (Vec<[f32; TAGS]>, Vec<f32>) {
        let Network { span_head, class_head, hidden_lines, .. } = &self.network;
        let classes = class_head.as_ref().map_or(0, |head| head.outputs());
        let mut tags = vec![[0.; TAGS]; group.word_starts.len()];
        let mut logits = vec![0.; group.word_starts.len() * classes];
        let rows = workspace.word_hidden.chunks_exact(*hidden_lines);
        for (word, (row, tags)) in rows.zip(&mut tags).enumerate() {
            self.kernel.run(Apply { layer: span_head, row, out: tags });
            if let Some(layer) = class_head {
                self.kernel.run(Apply { layer, row, out: &mut logits[word * classes..][..classes] });
            }
        }
        (tags, logits)
    }
}

#[cfg(test)]
mod speed;
