//! In: a CRF's posteriors, or numbers that were rounded to be kept. Out: the pair marginals of each word with the word before it, which say all
//! that a cross-entropy needs of a distribution over paths: nine numbers a word.
//! Method: see Wang et al. (2021), arXiv 2010.05010, section 3.2. Marginals that fit each other are those of a Markov chain, so rounded ones are
//! made exact again by reading them as that chain's transition probabilities.

use std::ops::Range;

use rayon::prelude::*;

use super::cross_entropy::sequences;
use super::posteriors::Posteriors;
use super::{Crf, CrfError, TAGS, Tag};

/// The probability of each pair of tags, `[tag of the word before][tag of this word]`; the sum of all nine is 1.
///
/// The first word of a sequence stands in row O, as if an O stood before it: what may follow O may stand first.
pub type PairMarginals = [[f64; TAGS]; TAGS];

/// How far the sums of computed marginals may be off.
const EXACT: f64 = 1e-6;
/// The same for marginals that were kept as f16: nine numbers, each off by up to 1/4096.
const ROUNDED: f64 = 3e-3;
/// Words whose entropy is computed by one thread at a time.
const PORTION: usize = 4096;

impl Posteriors {
    /// The pair marginals of each word with the word before it, `[words, 3, 3]`.
    pub fn pair_marginals(&self) -> Vec<PairMarginals> {
        let first = (!self.is_empty()).then(|| first_word(self.tag(0)));
        first.into_iter().chain((1..self.len()).map(|word| self.pair(word - 1))).collect()
    }
}

impl Crf {
    /// The pair marginals of each word with the word before it in its sequence, `[words, 3, 3]`, of packed sequences, in parallel.
    ///
    /// `emissions`: `[words, 3]`; `cu_words`: `[sequences + 1]`, as in [`Crf::batch_nll_and_gradient`].
    ///
    /// # Errors
    ///
    /// If `cu_words` does not cover the words, or an emission or a parameter is not finite.
    pub fn batch_pair_marginals(
        &self,
        emissions: &[[f32; TAGS]],
        cu_words: &[u32],
    ) -> Result<Vec<PairMarginals>, CrfError> {
        let sequences = sequences(cu_words, emissions.len())?;
        self.check_finite(emissions)?;
        Ok(sequences
            .into_par_iter()
            .flat_map_iter(|words| self.posteriors(&emissions[words]).pair_marginals())
            .collect())
    }
}

/// The entropy in nats of the Markov chains with these marginals, `[words, 3, 3]`, summed over all sequences.
///
/// Of the distributions with these marginals theirs is the largest entropy; a single CRF is such a chain, a mixture of several is not.
pub fn path_entropy(marginals: &[PairMarginals]) -> f64 {
    let of_row = |row: &[f64; TAGS]| -> f64 {
        let sum: f64 = row.iter().sum();
        row.iter().filter(|&&p| p > 0.0).map(|p| -p * (p / sum).ln()).sum()
    };
    let portions = marginals.par_chunks(PORTION).map(|words| words.iter().flatten().map(of_row).sum::<f64>());
    // In order: floats add up to the same bits for any number of threads.
    portions.collect::<Vec<f64>>().iter().sum()
}

/// The probability of each tag of a word: O, B, I.
pub fn tag_marginals(pair: &PairMarginals) -> [f64; TAGS] {
    std::array::from_fn(|to| pair.iter().map(|row| row[to]).sum())
}

/// Marginals of one sequence, `[words, 3, 3]`, that were rounded to f16 -> marginals that fit each other exactly.
///
/// Each word's rows are read as transition probabilities and the marginals computed from them, from the first word on.
///
/// # Errors
///
/// [`CrfError::Marginals`] if they are not those of a distribution over valid paths, by more than the rounding.
pub fn restore_marginals(marginals: &mut [PairMarginals]) -> Result<(), CrfError> {
    check_sequence(0, marginals, ROUNDED)?;
    let mut here = [1.0, 0.0, 0.0];
    for pair in marginals {
        for (row, probability) in pair.iter_mut().zip(here) {
            let sum: f64 = row.iter().sum();
            // What was too unlikely to be kept goes on with O, which may follow every tag.
            *row = if sum > 0.0 { row.map(|p| probability * (p / sum)) } else { [probability, 0.0, 0.0] };
        }
        let tags = tag_marginals(pair);
        let sum: f64 = tags.iter().sum();
        here = tags.map(|probability| probability / sum);
    }
    Ok(())
}

fn first_word(tags: [f64; TAGS]) -> PairMarginals {
    let mut pair = [[0.0; TAGS]; TAGS];
    pair[Tag::O as usize] = tags;
    pair
}

/// The marginals of the distribution that is certain of the gold paths.
pub(super) fn one_hot(words: usize, sequences: &[Range<usize>], tags: &[Tag]) -> Result<Vec<PairMarginals>, CrfError> {
    if words != tags.len() {
        return Err(CrfError::Lengths { words, tags: tags.len() });
    }
    let mut marginals = vec![[[0.0; TAGS]; TAGS]; tags.len()];
    for sequence in sequences {
        let mut previous = None;
        for word in sequence.clone() {
            if !tags[word].may_follow(previous) {
                return Err(CrfError::InvalidPath { word });
            }
            marginals[word][previous.unwrap_or(Tag::O) as usize][tags[word] as usize] = 1.0;
            previous = Some(tags[word]);
        }
    }
    Ok(marginals)
}

/// Checks that the target of each sequence is a distribution over valid paths.
pub(super) fn check_marginals(sequences: &[Range<usize>], marginals: &[PairMarginals]) -> Result<(), CrfError> {
    sequences.par_iter().try_for_each(|words| check_sequence(words.start, &marginals[words.clone()], EXACT))
}

fn check_sequence(start: usize, marginals: &[PairMarginals], tolerance: f64) -> Result<(), CrfError> {
    let mut before = [1.0, 0.0, 0.0];
    for (i, pair) in marginals.iter().enumerate() {
        let wrong = |reason, found| Err(CrfError::Marginals { word: start + i, reason, found });
        let sum: f64 = pair.iter().flatten().sum();
        if let Some(&found) = pair.iter().flatten().find(|p| !(0.0..=1.0 + tolerance).contains(*p)) {
            return wrong("a probability does not lie between 0 and 1", found);
        }
        let invalid = pair[Tag::O as usize][Tag::I as usize];
        let beside = if i == 0 { sum - pair[Tag::O as usize].iter().sum::<f64>() } else { 0.0 };
        if invalid > 0.0 || beside > 0.0 {
            return wrong("tags that may not stand here have a probability", invalid.max(beside));
        }
        if (sum - 1.0).abs() > tolerance {
            return wrong("the sum is not 1", sum);
        }
        for (row, tag) in pair.iter().zip(before) {
            let own: f64 = row.iter().sum();
            if (own - tag).abs() > tolerance {
                return wrong("they do not fit those of the word before", own - tag);
            }
        }
        before = tag_marginals(pair);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::crf::oracle;
    use proptest::prelude::*;

    /// Rounds as f16 does: 11 bits, and nothing below 6e-8.
    fn rounded(p: f64) -> f64 {
        let unit = 2_f64.powi((p.log2().floor().max(-14.0)) as i32 - 10);
        if p == 0.0 { 0.0 } else { (p / unit).round() * unit }
    }

    proptest! {
        #[test]
        fn rounded_marginals_come_back_close_and_exact(case in oracle::cases(1..=40)) {
            let words = case.emissions.len();
            let exact = case.crf.posteriors(&case.emissions).pair_marginals();
            let mut restored: Vec<PairMarginals> = exact.iter().map(|pair| pair.map(|row| row.map(rounded))).collect();
            restore_marginals(&mut restored)?;
            check_marginals(std::slice::from_ref(&(0..words)), &restored)?;
            for (exact, restored) in exact.iter().flatten().flatten().zip(restored.iter().flatten().flatten()) {
                prop_assert!((exact - restored).abs() < 5e-3, "{} {}", exact, restored);
            }
        }

        #[test]
        fn marginals_of_a_batch_are_those_of_its_sequences(cases in proptest::collection::vec(oracle::cases(0..=5), 0..9)) {
            let crf = Crf { end: [0.5, 0.0, -1.0], ..Crf::default() };
            let emissions: Vec<_> = cases.iter().flat_map(|case| case.emissions.clone()).collect();
            let ends = cases.iter().scan(0, |end, case| { *end += case.emissions.len() as u32; Some(*end) });
            let cu_words: Vec<u32> = std::iter::once(0).chain(ends).collect();
            let alone: Vec<_> = cases.iter().flat_map(|case| crf.posteriors(&case.emissions).pair_marginals()).collect();
            prop_assert_eq!(crf.batch_pair_marginals(&emissions, &cu_words)?, alone);
        }

        #[test]
        fn the_entropy_of_a_crf_equals_brute_force(case in oracle::usual_cases(0..=6)) {
            let expected: f64 = oracle::distribution(&case).iter().map(|(_, p)| -p * p.ln()).sum();
            let found = path_entropy(&case.crf.posteriors(&case.emissions).pair_marginals());
            prop_assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn more_than_rounding_is_refused() {
        let pairs = Crf::default().posteriors(&[[0.0; TAGS]; 4]).pair_marginals();
        let mut wrong = pairs.clone();
        wrong[2][0][0] += 0.01;
        assert!(matches!(restore_marginals(&mut wrong), Err(CrfError::Marginals { word: 2, .. })));
        assert!(restore_marginals(&mut pairs[1..].to_vec()).is_err(), "a sequence without its first word");
    }
}
