//! Sequences of word pieces -> one packed batch, the only input the encoder knows.
//! Sequences lie one after another without padding; cumulative lengths say where each begins.

use crate::sequence::Sequence;

/// Packed sequences. `[CLS]` and `[SEP]` are in it; offsets count pieces or words of the whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Vocabulary ids of all pieces.
    pub piece_ids: Vec<u32>,
    /// Place of each piece in its own sequence, from 0.
    pub positions: Vec<u32>,
    /// First piece of each sequence, and the number of pieces at the end: sequences + 1 numbers.
    pub cu_seqlens: Vec<u32>,
    /// First piece of each word.
    pub word_starts: Vec<u32>,
    /// First word of each sequence, and the number of words at the end: sequences + 1 numbers.
    pub cu_words: Vec<u32>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            piece_ids: Vec::new(),
            positions: Vec::new(),
            cu_seqlens: vec![0],
            word_starts: Vec::new(),
            cu_words: vec![0],
        }
    }
}

impl Batch {
    /// Packs sequences in the order given.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            batch.push(&sequence.piece_ids, &sequence.word_starts);
        }
        batch
    }

    /// Appends one sequence: its pieces and, counted within it, the first piece of each word.
    pub fn push(&mut self, piece_ids: &[u32], word_starts: &[u32]) {
        let start = self.pieces() as u32;
        self.piece_ids.extend_from_slice(piece_ids);
        self.positions.extend(0..piece_ids.len() as u32);
        self.word_starts.extend(word_starts.iter().map(|&word| start + word));
        self.cu_seqlens.push(self.piece_ids.len() as u32);
        self.cu_words.push(self.word_starts.len() as u32);
    }

    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        self.piece_ids.len()
    }

    /// Number of words.
    pub fn words(&self) -> usize {
        self.word_starts.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }
}

/// Cuts sequences into runs of neighbours, each for one batch: as many as keep within `budget` pieces together, at least one.
///
/// ```
/// use chemtag::batch::packs;
///
/// let lengths = [30, 40, 30, 5, 120, 7];
/// assert_eq!(packs(&lengths, |&length| length, 100), [&[30, 40, 30][..], &[5], &[120], &[7]]);
/// ```
pub fn packs<S>(sequences: &[S], pieces: impl Fn(&S) -> usize, budget: usize) -> Vec<&[S]> {
    let mut packs = Vec::new();
    let (mut first, mut sum) = (0, 0);
    for (i, sequence) in sequences.iter().enumerate() {
        let pieces = pieces(sequence);
        if i > first && sum + pieces > budget {
            packs.push(&sequences[first..i]);
            (first, sum) = (i, 0);
        }
        sum += pieces;
    }
    if first < sequences.len() {
        packs.push(&sequences[first..]);
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_lie_one_after_another() {
        let mut batch = Batch::default();
        batch.push(&[2, 10, 11, 12, 3], &[1, 3]);
        batch.push(&[2, 13, 3], &[1]);
        assert_eq!(batch.piece_ids, [2, 10, 11, 12, 3, 2, 13, 3]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 0, 1, 2]);
        assert_eq!(batch.cu_seqlens, [0, 5, 8]);
        assert_eq!(batch.word_starts, [1, 3, 6]);
        assert_eq!(batch.cu_words, [0, 2, 3]);
        assert_eq!((batch.pieces(), batch.words(), batch.sequences()), (8, 3, 2));
    }
}
