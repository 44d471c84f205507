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
/// Most pieces of a group of several sequences: whole ones seldom add up to [`GROUP`].
const MOST_OF_GROUP: usize = GROUP + GROUP / 4;
/// Pieces of the smallest group that is worth a thread of its own.
const LEAST_GROUP: usize = 32;

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

/// Cuts a batch into groups of whole sequences: about as many pieces in each, and as many groups for each thread, so that none waits for another.
fn groups(batch: &Batch, threads: usize) -> Vec<Group<'_>> {
    let pieces = batch.pieces();
    let parts = pieces.div_ceil(GROUP).next_multiple_of(threads).min(pieces.div_ceil(LEAST_GROUP)).max(1);
    let mut groups = Vec::with_capacity(parts);
    let mut first = 0;
    while first < batch.sequences() {
        let start = batch.cu_seqlens[first];
        // A sequence belongs to this group if its middle does. Long ones may make more groups than planned.
        let goal = (groups.len() + 1) * pieces / parts;
        let belongs = |next: usize| {
            let [begins, ends] = [batch.cu_seqlens[next], batch.cu_seqlens[next + 1]].map(|piece| piece as usize);
            begins + (ends - begins) / 2 <= goal && ends - start as usize <= MOST_OF_GROUP
        };
        let end = (first + 1..batch.sequences()).find(|&next| !belongs(next)).unwrap_or(batch.sequences());
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
        let threads = rayon::current_num_threads();
        let groups = groups(batch, threads);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_sequence_once_and_share_the_pieces() {
        let mut state = 3u32;
        let mut next = |most: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % most
        };
        for case in 0..300 {
            let (sequences, longest) = (1 + next(60), [8, 40, 300][case % 3]);
            let mut batch = Batch::default();
            for _ in 0..sequences {
                let length = 1 + next(longest);
                batch.push(&vec![1; length as usize], &[0]);
            }
            for threads in [1, 2, 3, 16] {
                let groups = groups(&batch, threads);
                let mut pieces = 0;
                let mut found = 0;
                for group in &groups {
                    assert_eq!(group.first, pieces);
                    pieces += group.ids.len() as u32;
                    found += group.cu_seqlens.len() - 1;
                    assert_eq!(group.cu_seqlens.last(), Some(&pieces));
                    assert_eq!(group.word_starts.len(), group.cu_seqlens.len() - 1);
                    assert!(group.ids.len() <= MOST_OF_GROUP || group.word_starts.len() == 1);
                }
                assert_eq!((found, pieces as usize), (batch.sequences(), batch.pieces()));
                let most = groups.iter().map(|group| group.ids.len()).max().unwrap_or(0);
                if longest == 8 && batch.pieces() >= threads * LEAST_GROUP {
                    assert_eq!(groups.len() % threads, 0);
                    assert!(most <= batch.pieces() / groups.len() + longest as usize);
                }
            }
        }
    }
}
