//! The integer engine as a backend: a packed batch -> emissions, on the CPU.
//! Sequences are read in groups that fit the caches; groups go to threads, and where there are fewer groups than threads, these share each.

use rayon::prelude::*;

use super::checkpoint::Checkpoint;
use super::forward::{Engine, Group};
use super::kernel::Kernel;
use super::network::{self, Network};
use crate::backend::{Backend, Emissions};
use crate::batch::Batch;
use crate::contents::Contents;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::crf::Crf;

/// Pieces of a group: what lies in the second-level cache beside the weights, and enough for each weight that is loaded.
const GROUP: usize = 256;

/// The integer engine.
pub struct IntegerBackend {
    engine: Engine,
}

impl IntegerBackend {
    /// Packs the weights of a safetensors file, 8-bit integers as they are, floats quantised; `file` names it in messages. Returns the CRF
    /// that the file holds, too.
    ///
    /// # Errors
    /// If the file is damaged or does not fit `config`.
    pub fn load(contents: &Contents, file: &str, config: &ModelConfig, kernel: Kernel) -> Result<(Self, Crf)> {
        let checkpoint = Checkpoint::read(contents, file)?;
        let crf = network::crf(&checkpoint)?;
        let network = Network::load(&checkpoint, contents, config, kernel.takes_groups())?;
        Ok((Self { engine: Engine::new(network, kernel) }, crf))
    }

    /// A batch's places in the tables, checked: the batch's fields are anybody's to fill.
    fn check(&self, batch: &Batch) -> Result<()> {
        let Network { vocab_size, max_positions, .. } = self.engine.network;
        let below = |numbers: &[u32], end: usize| numbers.iter().all(|&number| (number as usize) < end);
        let ascends = |ends: &[u32], last: usize| {
            ends.first() == Some(&0) && ends.is_sorted() && ends.last().is_some_and(|&end| end as usize == last)
        };
        let words_in_sequences = || {
            batch.cu_seqlens.windows(2).zip(batch.cu_words.windows(2)).all(|(pieces, words)| {
                batch.word_starts[words[0] as usize..words[1] as usize]
                    .iter()
                    .all(|start| (pieces[0]..pieces[1]).contains(start))
            })
        };
        let wrong = if !below(&batch.piece_ids, vocab_size) {
            format!("a piece's id is not below {vocab_size}")
        } else if batch.positions.len() != batch.pieces() || !below(&batch.positions, max_positions) {
            format!("there is not one position below {max_positions} for each piece")
        } else if !ascends(&batch.cu_seqlens, batch.pieces()) || !ascends(&batch.cu_words, batch.words()) {
            "cumulative lengths do not ascend from 0 to the number of pieces and words".into()
        } else if batch.cu_words.len() != batch.cu_seqlens.len() || !words_in_sequences() {
            "a word begins outside of its sequence".into()
        } else {
            return Ok(());
        };
        Err(Error::Option(format!("the batch does not fit the model: {wrong}")))
    }
}

/// Cuts a batch into groups of whole sequences.
fn groups(batch: &Batch) -> Vec<Group<'_>> {
    let mut groups = Vec::with_capacity(batch.pieces().div_ceil(GROUP));
    let mut first = 0;
    while first < batch.sequences() {
        let start = batch.cu_seqlens[first];
        let fits = |end: usize| (batch.cu_seqlens[end] - start) as usize <= GROUP;
        let end = (first + 1..=batch.sequences()).take_while(|&end| fits(end)).last().unwrap_or(first + 1);
        let pieces = start as usize..batch.cu_seqlens[end] as usize;
        groups.push(Group {
            ids: &batch.piece_ids[pieces.clone()],
            positions: &batch.positions[pieces],
            cu_seqlens: &batch.cu_seqlens[first..=end],
            word_starts: &batch.word_starts[batch.cu_words[first] as usize..batch.cu_words[end] as usize],
            first: start,
        });
        first = end;
    }
    groups
}

impl Backend for IntegerBackend {
    fn emissions(&self, batch: &Batch) -> Result<Emissions> {
        self.check(batch)?;
        let groups = groups(batch);
        let threads = rayon::current_num_threads();
        let read: Vec<_> = if threads == 1 || groups.len() == 1 {
            groups.into_iter().map(|group| self.engine.read(group, threads)).collect()
        } else {
            let inside = if groups.len() < threads { threads } else { 1 };
            groups.into_par_iter().map(|group| self.engine.read(group, inside)).collect()
        };
        let classes = self.engine.network.class_head.as_ref().map_or(0, |head| head.outputs());
        let mut emissions = Emissions { classes, ..Emissions::default() };
        for (tags, class_logits) in read {
            emissions.append(Emissions { tags, class_logits, classes });
        }
        Ok(emissions)
    }

    fn describe(&self) -> String {
        format!("int8, cpu, {}", self.engine.kernel.name())
    }
}
