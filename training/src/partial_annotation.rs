//! Emissions and annotations that may be incomplete -> the pair marginals of the CRF over the paths that the annotations allow. As a target of the cross-entropy they
//! give the gradient of the marginal likelihood, the probability of all allowed paths together (Tsuboi et al. 2008, "Training conditional random fields using
//! incomplete annotations", equation 3).

use chemtag::model::crf::{Crf, PairMarginals, TAGS, Tag};

use crate::error::Result;

/// Score of a tag that a word cannot have: its probability is 0 in f64, whatever the other scores of a sequence.
const EXCLUDED: f32 = -1e6;

/// Pair marginals `[words, 3, 3]` over the allowed paths.
///
/// `emissions`: `[words, 3]`, `tags`: `[words]`, `cu_words`: `[sequences + 1]`. In a sequence of which `partial` is true the marked mentions are as they stand, and words
/// outside of them may have any tag, but do not lengthen a marked mention. In another one the gold path alone is allowed.
///
/// # Errors
/// If the sequences do not cover the words or an emission is not finite.
pub fn allowed_marginals(
    crf: &Crf,
    emissions: &[[f32; TAGS]],
    cu_words: &[u32],
    tags: &[Tag],
    partial: &[bool],
) -> Result<Vec<PairMarginals>> {
    let mut allowed = emissions.to_vec();
    for (bounds, &partial) in cu_words.windows(2).zip(partial) {
        let words = bounds[0] as usize..bounds[1] as usize;
        let (Some(tags), Some(scores)) = (tags.get(words.clone()), allowed.get_mut(words)) else { continue };
        let mut before = Tag::O;
        for (&tag, scores) in tags.iter().zip(scores) {
            let may_be = |candidate: Tag| match (partial, tag) {
                (true, Tag::O) => candidate != Tag::I || before == Tag::O,
                _ => candidate == tag,
            };
            for candidate in Tag::ALL {
                if !may_be(candidate) {
                    scores[candidate as usize] = EXCLUDED;
                }
            }
            before = tag;
        }
    }
    Ok(crf.batch_pair_marginals(&allowed, cu_words)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chemtag::model::crf::path_entropy;
    use proptest::prelude::*;

    fn crf(numbers: &[f32]) -> Crf {
        let mut numbers = numbers.iter().copied();
        let mut row = || [(); TAGS].map(|()| numbers.next().unwrap());
        Crf { start: row(), end: row(), transitions: [row(), row(), row()] }
    }

    /// All valid paths of so many words.
    fn paths(words: usize) -> Vec<Vec<Tag>> {
        let all =
            (0..3usize.pow(words as u32)).map(|n| (0..words).map(|i| Tag::ALL[n / 3usize.pow(i as u32) % 3]).collect());
        let valid = |path: &Vec<Tag>| (0..words).all(|i| path[i].may_follow(i.checked_sub(1).map(|i| path[i])));
        all.filter(valid).collect()
    }

    /// Mentions as words' ranges.
    fn mentions(path: &[Tag]) -> Vec<std::ops::Range<usize>> {
        chemtag::model::crf::spans(path).collect()
    }

    /// Minus the logarithm of the probability of the paths that hold all of gold's mentions, all paths tried one by one.
    fn marginal_loss(crf: &Crf, emissions: &[[f32; TAGS]], gold: &[Tag], partial: bool) -> f64 {
        let gold_mentions = mentions(gold);
        let allowed = |path: &Vec<Tag>| match partial {
            true => gold_mentions.iter().all(|mention| mentions(path).contains(mention)),
            false => path == gold,
        };
        let score = |path: &Vec<Tag>| crf.path_score(emissions, path).exp();
        let all = paths(gold.len());
        all.iter().map(score).sum::<f64>().ln() - all.iter().filter(|path| allowed(path)).map(score).sum::<f64>().ln()
    }

    proptest! {
        #[test]
        fn loss_and_gradient_are_those_of_all_allowed_paths(
            scores in prop::collection::vec(-1f32..1., 15), emissions in prop::collection::vec([-2f32..2., -2f32..2., -2f32..2.], 7),
            first in 0usize..1000, second in 0usize..1000,
        ) {
            let crf = crf(&scores);
            // A sequence of which all is known, and one of which not.
            let gold = [paths(3), paths(4)].into_iter().zip([first, second]).flat_map(|(paths, n)| paths[n % paths.len()].clone()).collect::<Vec<_>>();
            let loss = |emissions: &[[f32; TAGS]]| {
                marginal_loss(&crf, &emissions[..3], &gold[..3], false) + marginal_loss(&crf, &emissions[3..], &gold[3..], true)
            };
            let cu_words = [0, 3, 7];
            let target = allowed_marginals(&crf, &emissions, &cu_words, &gold, &[false, true]).unwrap();
            let found = crf.batch_cross_entropy_and_gradient(&emissions, &cu_words, &target).unwrap();
            prop_assert!((found.loss - path_entropy(&target) - loss(&emissions)).abs() < 1e-6);
            for word in 0..7 {
                for tag in 0..TAGS {
                    let at = |change: f32| {
                        let mut moved = emissions.clone();
                        moved[word][tag] += change;
                        loss(&moved)
                    };
                    let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
                    prop_assert!((f64::from(found.emissions[word][tag]) - slope).abs() < 1e-3, "word {}, tag {}", word, tag);
                }
            }
        }
    }
}
