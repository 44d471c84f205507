//! In: CRF parameters and emissions. Out: log partition and, for each word, the probability of the next word's tag given its own.
//! Method: the backward variable of Rabiner (1989), equation 25, in the log domain. Given the emissions a CRF is a Markov
//! chain, and each backward step yields that chain's transition probabilities as its normalised terms.

use std::array;

use super::elementary::{exp, ln};
use super::{Crf, SCORE_LIMIT, TAGS, Tag};

/// An emission or parameter as every computation reads it: NaN is the lowest score, the rest is clamped.
pub(super) fn score(x: f32) -> f64 {
    if x.is_nan() { -SCORE_LIMIT } else { f64::from(x).clamp(-SCORE_LIMIT, SCORE_LIMIT) }
}

/// The parameters of a [`Crf`] in f64, with negative infinity at the invalid steps.
pub(super) struct Scores {
    pub(super) start: [f64; TAGS],
    pub(super) end: [f64; TAGS],
    pub(super) transitions: [[f64; TAGS]; TAGS],
}

impl Scores {
    pub(super) fn new(crf: &Crf) -> Self {
        let steps = |previous: Option<Tag>, parameters: [f32; TAGS]| {
            Tag::ALL.map(
                |tag| {
                    if tag.may_follow(previous) { score(parameters[tag as usize]) } else { f64::NEG_INFINITY }
                },
            )
        };
        Scores {
            start: steps(None, crf.start),
            end: crf.end.map(score),
            transitions: Tag::ALL.map(|from| steps(Some(from), crf.transitions[from as usize])),
        }
    }
}

/// The distribution of one word's tag, given the tag before it and all emissions.
pub(super) struct Conditional {
    /// The highest log weight, the distances of all three from it, and the logarithm of the sum of `exp(distance)`: kept
    /// apart, as next to a weight of 10,000 a distance or logarithm would lose four digits.
    peak: f64,
    distances: [f64; TAGS],
    ln_sum: f64,
    pub(super) probabilities: [f64; TAGS],
}

impl Conditional {
    /// Normalises log weights, of which at least one is finite.
    fn new(weights: [f64; TAGS]) -> Self {
        let peak = highest(weights);
        let distances = weights.map(|weight| weight - peak);
        let terms = distances.map(exp);
        let sum: f64 = terms.iter().sum();
        Conditional { peak, distances, ln_sum: ln(sum), probabilities: terms.map(|term| term / sum) }
    }

    fn log_sum(&self) -> f64 {
        self.peak + self.ln_sum
    }

    /// The negative log probability of a tag, at least 0; finite where the probability itself underflows.
    pub(super) fn surprise(&self, tag: Tag) -> f64 {
        self.ln_sum - self.distances[tag as usize]
    }
}

/// Where the backward recursion ends: at the first word.
pub(super) struct Start {
    /// The distribution of the first word's tag.
    pub(super) first: Conditional,
    pub(super) log_partition: f64,
}

/// Runs the backward recursion and calls `visit(i, rows)` for each `i` from the last word but one down to the first, where
/// `rows[from]` is the distribution of the tag of word `i + 1` given the tag `from` at word `i`. `None` for no words.
pub(super) fn backward(
    scores: &Scores,
    emissions: &[[f32; TAGS]],
    mut visit: impl FnMut(usize, &[Conditional; TAGS]),
) -> Option<Start> {
    let (last, before) = emissions.split_last()?;
    // For each tag of the current word: its emission and the backward variable, less `shift`.
    let mut ahead: [f64; TAGS] = array::from_fn(|tag| score(last[tag]) + scores.end[tag]);
    // Taken out at every word, so that the numbers in `ahead` stay small, and exact, however long the text.
    let mut shift = 0.0;
    for (word, emission) in before.iter().enumerate().rev() {
        let rows = scores.transitions.map(|row| Conditional::new(array::from_fn(|to| row[to] + ahead[to])));
        let log_sums: [f64; TAGS] = array::from_fn(|from| rows[from].log_sum());
        let peak = highest(log_sums);
        shift += peak;
        ahead = array::from_fn(|tag| score(emission[tag]) + (log_sums[tag] - peak));
        visit(word, &rows);
    }
    let first = Conditional::new(array::from_fn(|tag| scores.start[tag] + ahead[tag]));
    let log_partition = shift + first.log_sum();
    Some(Start { first, log_partition })
}

pub(super) fn highest(values: [f64; TAGS]) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::crf::oracle;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn log_partition_equals_brute_force(case in oracle::cases(0..=6)) {
            let found = case.crf.log_partition(&case.emissions);
            prop_assert!((found - oracle::log_partition(&case)).abs() < 1e-6);
        }
    }

    #[test]
    fn a_hundred_thousand_words_equal_the_closed_form() {
        // With all scores equal to s, every path has the score n s, and the number of valid paths is 2, 5, 13, ...: the
        // Fibonacci number 2n + 1, which is golden^(2n + 1) / sqrt(5) to within less than one.
        let golden = (1.0 + 5.0_f64.sqrt()) / 2.0;
        let words = 100_000;
        for s in [0.0_f32, -100.0, 10_000.0] {
            let paths = (2 * words + 1) as f64 * golden.ln() - 0.5 * 5.0_f64.ln();
            let expected = paths + words as f64 * f64::from(s);
            let found = Crf::default().log_partition(&vec![[s; 3]; words]);
            // A sum of n equal terms may be off by n times 1.1e-16 of itself.
            assert!(
                (found - expected).abs() <= 1.1e-11 * expected.abs(),
                "score {s}: found {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn invalid_steps_are_never_read() {
        let emissions = [[0.5, 0.25, 2.0], [1.0, -1.0, 3.0], [0.0, 0.5, 1.5]];
        let plain = Crf::default();
        let mut odd = Crf::default();
        odd.start[Tag::I as usize] = 1e6;
        odd.transitions[Tag::O as usize][Tag::I as usize] = f32::INFINITY;
        assert_eq!(odd.log_partition(&emissions), plain.log_partition(&emissions));
        assert_eq!(odd.viterbi(&emissions), plain.viterbi(&emissions));
        assert_eq!(odd.posteriors(&emissions), plain.posteriors(&emissions));
    }

    #[test]
    fn scores_are_clamped_and_nan_is_the_lowest() {
        assert_eq!(score(f32::NAN), -SCORE_LIMIT);
        assert_eq!(score(f32::NEG_INFINITY), -SCORE_LIMIT);
        assert_eq!(score(f32::INFINITY), SCORE_LIMIT);
        assert_eq!(score(f32::MAX), SCORE_LIMIT);
        assert_eq!(score(-12.5), -12.5);
    }
}
