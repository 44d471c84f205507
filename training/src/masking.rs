//! Sequences of text -> what a masked language model reads and what it shall predict (Devlin et al. 2019, section 3.1; whole words).
//! The draw of a sequence depends on the seed, the pass over the text and the sequence alone: threads and batches change nothing.

use std::ops::Range;

use chemtag::batch::Batch;
use chemtag::tokenizer::WordPieces;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Of the pieces to predict, this share is read as `[MASK]`, as much as [`RANDOM_SHARE`] as another piece, the rest as they are.
const MASK_SHARE: f64 = 0.8;
const RANDOM_SHARE: f64 = 0.1;

/// What masking has to know of a vocabulary.
pub struct Masking {
    share: f64,
    cls: u32,
    sep: u32,
    mask: u32,
    /// Whether a piece goes on with the word before it.
    continues: Vec<bool>,
    /// Pieces that stand for text: all but `[CLS]` and its like.
    ordinary: Vec<u32>,
}

/// A batch to read and the pieces to predict in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaskedBatch {
    /// What the network reads; it has no words, only pieces.
    pub batch: Batch,
    /// Rows of the batch whose pieces shall be predicted, ascending.
    pub rows: Vec<u32>,
    /// What stood there.
    pub targets: Vec<u32>,
}

impl Masking {
    /// `share` of each sequence's pieces shall be predicted, in whole words.
    ///
    /// # Errors
    /// If the share is not between 0 and 1 or the vocabulary has no `[MASK]`.
    pub fn new(share: f64, pieces: &WordPieces) -> Result<Self> {
        if !(share > 0. && share < 1.) {
            return Err(Error::Setting(format!("the share of masked pieces is {share}, but must lie between 0 and 1")));
        }
        let mask = pieces.id("[MASK]").ok_or_else(|| Error::Setting("the tokenizer has no piece [MASK]".into()))?;
        let vocabulary = pieces.vocabulary();
        let special = |piece: &str| piece.len() > 2 && piece.starts_with('[') && piece.ends_with(']');
        let ordinary = vocabulary.iter().enumerate().filter(|(_, piece)| !piece.is_empty() && !special(piece));
        Ok(Self {
            share,
            cls: pieces.cls(),
            sep: pieces.sep(),
            mask,
            ordinary: ordinary.map(|(id, _)| id as u32).collect(),
            continues: vocabulary.iter().map(|piece| piece.starts_with("##")).collect(),
        })
    }

    /// Packs sequences, given as ranges of `text`, and masks each; `pass` counts the passes over the text.
    pub fn batch(&self, text: &[u16], sequences: &[Range<usize>], seed: u64, pass: u64) -> MaskedBatch {
        let masked: Vec<_> = sequences
            .par_iter()
            .map(|sequence| {
                let mut random =
                    ChaCha8Rng::seed_from_u64(seed ^ (sequence.start as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                random.set_stream(pass);
                self.mask(&text[sequence.clone()], &mut random)
            })
            .collect();
        let mut packed = MaskedBatch::default();
        for (piece_ids, rows, targets) in masked {
            let start = packed.batch.pieces() as u32;
            packed.batch.push(&piece_ids, &[]);
            packed.rows.extend(rows.into_iter().map(|row| start + row));
            packed.targets.extend(targets);
        }
        packed
    }

    /// One sequence: what is read, `[CLS]` and `[SEP]` included, the rows to predict, and what stood there.
    fn mask(&self, pieces: &[u16], random: &mut ChaCha8Rng) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let mut read = Vec::with_capacity(pieces.len() + 2);
        read.push(self.cls);
        read.extend(pieces.iter().map(|&id| u32::from(id)));
        read.push(self.sep);
        let mut words: Vec<Range<usize>> = Vec::new();
        for (row, &piece) in (1..).zip(pieces) {
            let continues = self.continues.get(usize::from(piece)).copied().unwrap_or(false);
            match words.last_mut() {
                Some(word) if continues => word.end = row + 1,
                _ => words.push(row..row + 1),
            }
        }
        let wanted = ((pieces.len() as f64 * self.share).round() as usize).max(1);
        words.shuffle(random);
        let mut chosen: Vec<usize> = Vec::with_capacity(wanted);
        for word in words {
            if chosen.is_empty() || chosen.len() + word.len() <= wanted {
                chosen.extend(word);
            }
        }
        chosen.sort_unstable();
        let targets = chosen.iter().map(|&row| read[row]).collect();
        for &row in &chosen {
            let draw = random.random::<f64>();
            if draw < MASK_SHARE {
                read[row] = self.mask;
            } else if draw < MASK_SHARE + RANDOM_SHARE && !self.ordinary.is_empty() {
                read[row] = self.ordinary[random.random_range(0..self.ordinary.len())];
            }
        }
        (read, chosen.into_iter().map(|row| row as u32).collect(), targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces: 5 specials, 45 that begin a word, 50 that go on with it.
    fn masking(share: f64) -> Masking {
        Masking {
            share,
            cls: 2,
            sep: 3,
            mask: 4,
            continues: (0..100).map(|id| id >= 50).collect(),
            ordinary: (5..100).collect(),
        }
    }

    fn text(pieces: usize) -> Vec<u16> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        (0..pieces).map(|i| if i % 3 == 0 { random.random_range(5..50) } else { random.random_range(5..100) }).collect()
    }

    #[test]
    fn whole_words_are_masked_at_the_share_and_in_the_proportions_asked_for() {
        let (masking, text) = (masking(0.3), text(60_000));
        let sequences: Vec<_> = (0..600).map(|i| i * 100..(i + 1) * 100).collect();
        let masked = masking.batch(&text, &sequences, 1, 0);
        assert_eq!(masked.batch.pieces(), 600 * 102);
        assert!(masked.rows.is_sorted_by(|a, b| a < b));
        let share = masked.rows.len() as f64 / text.len() as f64;
        assert!((0.28..=0.3).contains(&share), "{share}");
        let (mut as_mask, mut as_was) = (0, 0);
        for (&row, &target) in masked.rows.iter().zip(&masked.targets) {
            let (sequence, within) = (row as usize / 102, row as usize % 102);
            assert_eq!(target, u32::from(text[sequence * 100 + within - 1]));
            let read = masked.batch.piece_ids[row as usize];
            as_mask += usize::from(read == 4);
            as_was += usize::from(read == target);
            // The pieces of a word stand or fall together.
            let next = text.get(sequence * 100 + within).filter(|_| within < 100);
            if let Some(&next) = next {
                let next_chosen = masked.rows.binary_search(&(row + 1)).is_ok();
                assert!(next < 50 || next_chosen, "row {row} is masked, but its word goes on");
            }
        }
        let n = masked.rows.len() as f64;
        assert!((as_mask as f64 / n - 0.8).abs() < 0.02 && (as_was as f64 / n - 0.1).abs() < 0.02);
    }

    #[test]
    fn a_draw_depends_on_seed_pass_and_sequence_alone() {
        let (masking, text) = (masking(0.3), text(500));
        let all = masking.batch(&text, &[0..100, 100..180], 1, 0);
        let alone = masking.batch(&text, std::slice::from_ref(&(100..180)), 1, 0);
        assert_eq!(all.batch.piece_ids[102..], alone.batch.piece_ids);
        assert_ne!(masking.batch(&text, std::slice::from_ref(&(100..180)), 2, 0), alone);
        assert_ne!(masking.batch(&text, std::slice::from_ref(&(100..180)), 1, 1), alone);
    }

    #[test]
    fn short_sequences_predict_something() {
        let masking = masking(0.15);
        for sequence in [0..1, 0..2, 4..7] {
            assert!(!masking.batch(&text(10), &[sequence], 1, 0).rows.is_empty());
        }
        assert_eq!(masking.batch(&[], &[], 1, 0), MaskedBatch::default());
    }
}
