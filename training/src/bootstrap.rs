//! Counts of each document -> 95 % confidence intervals of precision, recall and F1: documents are drawn with replacement, as many as there are,
//! a thousand times, and the middle 95 % of the scores are the interval (percentile bootstrap: Efron and Tibshirani 1993, chapter 13).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::score::Counts;

const RESAMPLES: usize = 1000;
/// Fixed, so that the same scores have the same interval.
const SEED: u64 = 0;
/// Share of the resamples on each side of the interval.
const TAIL: f64 = 0.025;

/// From where to where, in percent.
pub type Interval = [f64; 2];

/// Confidence intervals of a corpus' scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervals {
    pub precision: Interval,
    pub recall: Interval,
    pub f1: Interval,
}

/// The intervals of the sum of these counts; `None` for fewer than two documents, which say nothing about others.
///
/// ```
/// use chemtag_training::bootstrap::intervals;
/// use chemtag_training::score::Counts;
///
/// let documents: Vec<Counts> = (0..100).map(|i| Counts { gold: 10, predicted: 10, correct: 8 + i % 3 }).collect();
/// let f1 = intervals(&documents).unwrap().f1;
/// assert!(88. < f1[0] && f1[0] < 90. && 90. < f1[1] && f1[1] < 92.);
/// ```
pub fn intervals(documents: &[Counts]) -> Option<Intervals> {
    if documents.len() < 2 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let resamples: Vec<Counts> = (0..RESAMPLES)
        .map(|_| {
            let mut sum = Counts::default();
            for _ in documents {
                sum += documents[random.random_range(0..documents.len())];
            }
            sum
        })
        .collect();
    let interval = |score: fn(&Counts) -> f64| {
        let mut scores: Vec<f64> = resamples.iter().map(score).collect();
        scores.sort_by(f64::total_cmp);
        [quantile(&scores, TAIL), quantile(&scores, 1. - TAIL)]
    };
    Some(Intervals {
        precision: interval(Counts::precision),
        recall: interval(Counts::recall),
        f1: interval(Counts::f1),
    })
}

/// The value below which this share of sorted values lies, between neighbours in proportion (Hyndman and Fan 1996, definition 7).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_definition_7() {
        // numpy.quantile([1, 2, 4, 8, 16], [0, 0.025, 0.5, 0.9, 1])
        for (share, expected) in [(0., 1.), (0.025, 1.1), (0.5, 4.), (0.9, 12.8), (1., 16.)] {
            assert!((quantile(&[1., 2., 4., 8., 16.], share) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_same_scores_have_the_same_interval() {
        let documents: Vec<Counts> =
            (0..50).map(|i| Counts { gold: 1 + i % 7, predicted: 4, correct: i % 2 }).collect();
        assert_eq!(intervals(&documents), intervals(&documents));
        assert_eq!(intervals(&documents[..1]), None);
        let equal = [Counts { gold: 4, predicted: 2, correct: 1 }; 9];
        let found = intervals(&equal).unwrap();
        assert_eq!((found.precision, found.recall), ([50.; 2], [25.; 2]));
        assert!((found.f1[0] - 100. / 3.).abs() < 1e-9 && found.f1[0] == found.f1[1]);
    }

    /// Precision of documents with one prediction each, right with probability 0.8, is a binomial share: its standard error is
    /// sqrt(0.8 · 0.2 / 400) = 0.02, and 95 % of a normal distribution lie within 1.96 of them.
    #[test]
    fn the_interval_of_a_binomial_share_is_the_normal_one() {
        let documents: Vec<Counts> =
            (0..400).map(|i| Counts { gold: 1, predicted: 1, correct: u64::from(i % 5 != 0) }).collect();
        let [low, high] = intervals(&documents).unwrap().precision;
        assert!((low - (80. - 1.96 * 2.)).abs() < 0.5 && (high - (80. + 1.96 * 2.)).abs() < 0.5, "{low} to {high}");
    }
}
