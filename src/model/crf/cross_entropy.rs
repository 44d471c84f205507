//! In: CRF parameters, emissions of packed sequences, a distribution over their tag paths by its pair marginals. Out: the cross-entropy of
//! the CRF against that distribution, and its gradient.
//! Method: Wang et al. (2021), "Structural knowledge distillation" (arXiv 2010.05010), section 3.2: the score of a path is a sum over pairs of
//! neighbouring tags, so the pair marginals are all that the expectation needs. A CRF is a Markov chain, and the cross-entropy the sum of its
//! words' terms; the gradient is the CRF's own marginals less the target's, from one forward-backward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::backward::{self, Scores};
use super::marginals::{PairMarginals, check_marginals, tag_marginals};
use super::posteriors::Posteriors;
use super::{BatchLoss, Crf, CrfError, CrfGradient, TAGS, Tag};

impl Crf {
    /// The cross-entropy `E[-log P(path | emissions)]`, where the path is drawn from the target, summed over packed sequences, and its gradient.
    ///
    /// `emissions`: `[words, 3]` and `target`: `[words, 3, 3]`, of all sequences one after another; `cu_words`: `[sequences + 1]`. The target may
    /// be another CRF's distribution ([`Crf::batch_pair_marginals`]) or the mean of several: the mean of pair marginals is exact for a mixture.
    /// Less the target's entropy ([`super::path_entropy`]) it is the Kullback-Leibler divergence. Parallel and equal to the last bit for any
    /// number of threads, as [`Crf::batch_nll_and_gradient`] is, of which it is the general case.
    ///
    /// ```
    /// use chemtag::model::crf::{Crf, path_entropy};
    ///
    /// let teacher = Crf { transitions: [[0.0, 0.0, 0.0], [0.0, -1.0, 1.0], [0.0, -1.0, 0.5]], ..Crf::default() };
    /// let emissions = [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]];
    /// let target = teacher.batch_pair_marginals(&emissions, &[0, 2, 3])?;
    /// let own = teacher.batch_cross_entropy_and_gradient(&emissions, &[0, 2, 3], &target)?;
    /// assert!((own.loss - path_entropy(&target)).abs() < 1e-9); // no divergence from itself
    /// let other = Crf::default().batch_cross_entropy_and_gradient(&emissions, &[0, 2, 3], &target)?;
    /// assert!(other.loss > own.loss);
    /// # Ok::<(), chemtag::model::crf::CrfError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is not one target for each word, if `cu_words` does not cover the words, if a target is no distribution over valid paths, or
    /// if an emission or a parameter is not finite: see [`CrfError`].
    pub fn batch_cross_entropy_and_gradient(
        &self,
        emissions: &[[f32; TAGS]],
        cu_words: &[u32],
        target: &[PairMarginals],
    ) -> Result<BatchLoss, CrfError> {
        let sequences = sequences(cu_words, emissions.len())?;
        if emissions.len() != target.len() {
            return Err(CrfError::Lengths { words: emissions.len(), tags: target.len() });
        }
        check_marginals(&sequences, target)?;
        self.cross_entropy_over(emissions, &sequences, target)
    }

    /// `sequences` follow one another and cover all words; `target` is valid.
    pub(super) fn cross_entropy_over(
        &self,
        emissions: &[[f32; TAGS]],
        sequences: &[Range<usize>],
        target: &[PairMarginals],
    ) -> Result<BatchLoss, CrfError> {
        self.check_finite(emissions)?;
        let scores = Scores::new(self);
        let mut gradient = vec![[0.0; TAGS]; emissions.len()];
        let mut rest = gradient.as_mut_slice();
        let mut work = Vec::with_capacity(sequences.len());
        for words in sequences {
            let (head, tail) = rest.split_at_mut(words.len());
            rest = tail;
            work.push((&emissions[words.clone()], &target[words.clone()], head));
        }
        let parts: Vec<(f64, CrfGradient)> = work
            .into_par_iter()
            .map(|(emissions, target, gradient)| one_sequence(&scores, emissions, target, gradient))
            .collect();
        let mut loss = 0.0;
        let mut crf = CrfGradient::default();
        for (part, part_gradient) in &parts {
            loss += part;
            crf.add(part_gradient);
        }
        Ok(BatchLoss { loss, emissions: gradient, crf })
    }

    /// Refuses what is not finite: decoding makes the best of it, a loss does not.
    pub(super) fn check_finite(&self, emissions: &[[f32; TAGS]]) -> Result<(), CrfError> {
        let transitions = self.transitions.map(|row| ("transitions", row));
        let parameters = [("start", self.start), ("end", self.end)];
        for (parameter, row) in parameters.into_iter().chain(transitions) {
            if let Some(found) = row.into_iter().find(|score| !score.is_finite()) {
                return Err(CrfError::Parameter { parameter, found });
            }
        }
        for (word, emission) in emissions.iter().enumerate() {
            for (tag, &found) in Tag::ALL.into_iter().zip(emission) {
                if !found.is_finite() {
                    return Err(CrfError::Emission { word, tag, found });
                }
            }
        }
        Ok(())
    }
}

/// The words of each sequence, from cumulative lengths that must cover `words` words.
pub(super) fn sequences(cu_words: &[u32], words: usize) -> Result<Vec<Range<usize>>, CrfError> {
    let wrong =
        |position: usize| CrfError::CumulativeLengths { words, position, found: cu_words.get(position).copied() };
    if cu_words.first() != Some(&0) {
        return Err(wrong(0));
    }
    let mut sequences = Vec::with_capacity(cu_words.len() - 1);
    let mut start = 0;
    for (position, &end) in cu_words.iter().enumerate().skip(1) {
        let end = end as usize;
        if end < start || end > words {
            return Err(wrong(position));
        }
        sequences.push(start..end);
        start = end;
    }
    if start != words {
        return Err(wrong(cu_words.len() - 1));
    }
    Ok(sequences)
}

/// The loss of one sequence; writes the gradient of its emissions to `gradient`, `[words, 3]`.
fn one_sequence(
    scores: &Scores,
    emissions: &[[f32; TAGS]],
    target: &[PairMarginals],
    gradient: &mut [[f32; TAGS]],
) -> (f64, CrfGradient) {
    let (Some(first), Some(last)) = (target.first(), target.last()) else {
        return (0.0, CrfGradient::default());
    };
    // A sum of small terms, one for each word: the difference of path score and log partition would cancel.
    let mut loss = 0.0;
    let mut next = vec![[[0.0; TAGS]; TAGS]; target.len() - 1];
    let start = backward::backward(scores, emissions, |word, rows| {
        for (row, weights) in rows.iter().zip(&target[word + 1]) {
            loss += expected_surprise(row, weights);
        }
        next[word] = rows.each_ref().map(|row| row.probabilities);
    });
    loss += start.as_ref().map_or(0.0, |start| expected_surprise(&start.first, &first[Tag::O as usize]));

    let posteriors = Posteriors::forward(start.as_ref(), next);
    for (word, (row, target)) in gradient.iter_mut().zip(target).enumerate() {
        *row = less(posteriors.tag(word), tag_marginals(target)).map(|difference| difference as f32);
    }
    let mut crf = CrfGradient {
        start: less(posteriors.tag(0), tag_marginals(first)),
        end: less(posteriors.tag(target.len() - 1), tag_marginals(last)),
        transitions: [[0.0; TAGS]; TAGS],
    };
    for (word, target) in target[1..].iter().enumerate() {
        for ((sums, expected), observed) in crf.transitions.iter_mut().zip(posteriors.pair(word)).zip(target) {
            for (sum, term) in sums.iter_mut().zip(less(expected, *observed)) {
                *sum += term;
            }
        }
    }
    (loss, crf)
}

/// `weights[tag]` times the surprise at each tag. A tag without weight does not count, however impossible it is.
fn expected_surprise(conditional: &backward::Conditional, weights: &[f64; TAGS]) -> f64 {
    let likely = Tag::ALL.into_iter().zip(weights).filter(|&(_, &weight)| weight > 0.0);
    likely.map(|(tag, weight)| weight * conditional.surprise(tag)).sum()
}

/// Expected counts less those of the target.
fn less(expected: [f64; TAGS], target: [f64; TAGS]) -> [f64; TAGS] {
    std::array::from_fn(|tag| expected[tag] - target[tag])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::crf::oracle::{self, Case};
    use crate::model::crf::path_entropy;
    use proptest::prelude::*;

    /// Two teachers and a student over the same words.
    fn trios(most_words: usize) -> impl Strategy<Value = [Case; 3]> {
        (1..=most_words).prop_flat_map(|words| {
            [oracle::usual_cases(words..=words), oracle::usual_cases(words..=words), oracle::usual_cases(words..=words)]
        })
    }

    fn pairs(case: &Case) -> Vec<PairMarginals> {
        case.crf.posteriors(&case.emissions).pair_marginals()
    }

    fn mean(a: &[PairMarginals], b: &[PairMarginals]) -> Vec<PairMarginals> {
        let mean = |(a, b): (&PairMarginals, &PairMarginals)| {
            std::array::from_fn(|from| std::array::from_fn(|to| (a[from][to] + b[from][to]) / 2.0))
        };
        a.iter().zip(b).map(mean).collect()
    }

    /// `-E[log P]` over all paths, for paths that are drawn from the teachers by turns.
    fn brute_force(teachers: &[&Case], student: &Case) -> f64 {
        let log_partition = oracle::log_partition(student);
        let of = |teacher: &&Case| -> f64 {
            let paths = oracle::distribution(teacher);
            paths.iter().map(|(path, probability)| probability * (log_partition - oracle::score(student, path))).sum()
        };
        teachers.iter().map(of).sum::<f64>() / teachers.len() as f64
    }

    fn loss(student: &Case, target: &[PairMarginals]) -> BatchLoss {
        let words = target.len() as u32;
        student.crf.batch_cross_entropy_and_gradient(&student.emissions, &[0, words], target).expect("valid")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn cross_entropy_equals_brute_force([teacher, other, student] in trios(6)) {
            let target = pairs(&teacher);
            let one = brute_force(&[&teacher], &student);
            prop_assert!((loss(&student, &target).loss - one).abs() < 1e-6);
            let mixture = mean(&target, &pairs(&other));
            prop_assert!((loss(&student, &mixture).loss - brute_force(&[&teacher, &other], &student)).abs() < 1e-6);
            let divergence: f64 = {
                let log_partition = oracle::log_partition(&student);
                let term = |(path, p): &(Vec<Tag>, f64)| p * (p.ln() - oracle::score(&student, path) + log_partition);
                oracle::distribution(&teacher).iter().filter(|(_, p)| *p > 0.0).map(term).sum()
            };
            prop_assert!((one - path_entropy(&target) - divergence).abs() < 1e-6);
        }

        #[test]
        fn gradient_equals_central_differences([teacher, other, student] in trios(5)) {
            let target = mean(&pairs(&teacher), &pairs(&other));
            let found = loss(&student, &target);
            let slope = |at: &dyn Fn(&mut Case) -> &mut f32| {
                let [low, high] = [-1.0 / 256.0, 1.0 / 256.0].map(|step| {
                    let mut moved = student.clone();
                    let score = at(&mut moved);
                    *score += step;
                    (f64::from(*score), brute_force(&[&teacher, &other], &moved))
                });
                (high.1 - low.1) / (high.0 - low.0)
            };
            let close = |found: f64, expected: f64| (found - expected).abs() < 1e-4;
            for a in 0..TAGS {
                prop_assert!(close(found.crf.start[a], slope(&|case| &mut case.crf.start[a])));
                prop_assert!(close(found.crf.end[a], slope(&|case| &mut case.crf.end[a])));
                for b in 0..TAGS {
                    prop_assert!(close(found.crf.transitions[a][b], slope(&|case| &mut case.crf.transitions[a][b])));
                }
                for i in 0..target.len() {
                    let slope = slope(&|case| &mut case.emissions[i][a]);
                    prop_assert!(close(f64::from(found.emissions[i][a]), slope));
                }
            }
        }
    }

    #[test]
    fn what_is_no_distribution_is_named() {
        let crf = Crf::default();
        let emissions = [[0.0; TAGS]; 3];
        let good = crf.batch_pair_marginals(&emissions, &[0, 2, 3]).expect("valid");
        let of = |target: &[PairMarginals]| crf.batch_cross_entropy_and_gradient(&emissions, &[0, 2, 3], target);
        assert!(of(&good).is_ok());
        assert_eq!(of(&good[..2]), Err(CrfError::Lengths { words: 3, tags: 2 }));
        let changed = |word: usize, from: Tag, to: Tag, value: f64| {
            let mut target = good.clone();
            target[word][from as usize][to as usize] = value;
            match of(&target) {
                Err(CrfError::Marginals { word, reason, .. }) => (word, reason),
                other => panic!("{other:?}"),
            }
        };
        assert!(changed(1, Tag::O, Tag::I, 0.1).1.contains("tags that may not"));
        assert!(changed(2, Tag::B, Tag::O, 0.1).1.contains("tags that may not"), "a first word has no word before it");
        assert!(changed(1, Tag::B, Tag::I, f64::NAN).1.contains("between 0 and 1"));
        assert!(changed(1, Tag::B, Tag::I, 0.9).1.contains("sum"));
        let mut moved = good.clone();
        moved[1][0][0] += 0.05;
        moved[1][1][0] -= 0.05;
        assert!(
            matches!(of(&moved), Err(CrfError::Marginals { word: 1, reason, .. }) if reason.contains("word before"))
        );
    }
}
