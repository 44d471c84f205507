//! In: CRF parameters and the emissions of a short sequence. Out: what the CRF must answer, by listing every path.
//! Method: the definition. Only for tests: the number of paths is 3 to the power of the number of words.

use std::ops::RangeInclusive;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Crf, TAGS, Tag};

/// Parameters and emissions `[words, 3]`.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) crf: Crf,
    pub(super) emissions: Vec<[f32; TAGS]>,
}

fn cases_of(
    parameters: impl Strategy<Value = f32> + Clone + 'static,
    emissions: impl Strategy<Value = f32> + Clone + 'static,
    words: RangeInclusive<usize>,
) -> impl Strategy<Value = Case> {
    let three = |values: BoxedStrategy<f32>| [values.clone(), values.clone(), values];
    let parameters = || three(parameters.clone().boxed());
    ((parameters(), parameters()), [parameters(), parameters(), parameters()], vec(three(emissions.boxed()), words))
        .prop_map(|((start, end), transitions, emissions)| Case { crf: Crf { start, end, transitions }, emissions })
}

/// Scores of a usual size: a few nats.
pub(super) fn usual_cases(words: RangeInclusive<usize>) -> impl Strategy<Value = Case> {
    cases_of(-3.0..3.0_f32, -5.0..5.0_f32, words)
}

/// Scores of a usual size, or emissions of up to 10,000 either way.
pub(super) fn cases(words: RangeInclusive<usize>) -> impl Strategy<Value = Case> {
    prop_oneof![
        3 => usual_cases(words.clone()),
        1 => cases_of(-3.0..3.0_f32, -1e4..1e4_f32, words),
    ]
}

/// Scores in -2, -1, 0, 1, 2.
pub(super) fn small_whole_cases(words: RangeInclusive<usize>) -> impl Strategy<Value = Case> {
    let whole = (-2..=2_i8).prop_map(f32::from).boxed();
    cases_of(whole.clone(), whole, words)
}

/// Every path over so many words, valid or not, in lexicographic order.
pub(super) fn all_paths(words: usize) -> Vec<Vec<Tag>> {
    let mut paths = vec![Vec::new()];
    for _ in 0..words {
        paths = paths
            .into_iter()
            .flat_map(|path| {
                Tag::ALL.map(|tag| {
                    let mut longer = path.clone();
                    longer.push(tag);
                    longer
                })
            })
            .collect();
    }
    paths
}

pub(super) fn is_valid(path: &[Tag]) -> bool {
    path.first() != Some(&Tag::I) && !path.windows(2).any(|pair| pair == [Tag::O, Tag::I])
}

pub(super) fn valid_paths(words: usize) -> Vec<Vec<Tag>> {
    let mut paths = all_paths(words);
    paths.retain(|path| is_valid(path));
    paths
}

/// The score of a path by the formula in the documentation of [`Crf`], validity aside.
pub(super) fn score(case: &Case, path: &[Tag]) -> f64 {
    let index: Vec<usize> = path.iter().map(|&tag| tag as usize).collect();
    let (Some(&first), Some(&last)) = (index.first(), index.last()) else {
        return 0.0;
    };
    let emissions = index.iter().zip(&case.emissions);
    let emissions: f64 = emissions.map(|(&tag, row)| f64::from(row[tag])).sum();
    let steps = index.windows(2);
    let steps: f64 = steps.map(|pair| f64::from(case.crf.transitions[pair[0]][pair[1]])).sum();
    f64::from(case.crf.start[first]) + f64::from(case.crf.end[last]) + emissions + steps
}

/// The first of the valid paths with the highest score.
pub(super) fn best_path(case: &Case) -> Vec<Tag> {
    let mut best = (f64::NEG_INFINITY, Vec::new());
    for path in valid_paths(case.emissions.len()) {
        let score = score(case, &path);
        if score > best.0 {
            best = (score, path);
        }
    }
    best.1
}

pub(super) fn log_partition(case: &Case) -> f64 {
    let peak = score(case, &best_path(case));
    let paths = valid_paths(case.emissions.len());
    let sum: f64 = paths.iter().map(|path| (score(case, path) - peak).exp()).sum();
    peak + sum.ln()
}

/// The probability that `event` holds, for every valid path and its probability.
pub(super) fn probability(paths: &[(Vec<Tag>, f64)], event: impl Fn(&[Tag]) -> bool) -> f64 {
    let hits = paths.iter().filter(|(path, _)| event(path));
    hits.map(|(_, probability)| probability).sum()
}

/// Every valid path with its probability.
pub(super) fn distribution(case: &Case) -> Vec<(Vec<Tag>, f64)> {
    let log_partition = log_partition(case);
    valid_paths(case.emissions.len())
        .into_iter()
        .map(|path| {
            let probability = (score(case, &path) - log_partition).exp();
            (path, probability)
        })
        .collect()
}
