//! In: CRF parameters, emissions of packed sequences, their gold tags. Out: the negative log-likelihood and its gradient.
//! Method: for each score the gradient is its expected count under the CRF less its count in the gold path (Lafferty et al.
//! 2001, section 4; Sutton and McCallum 2012, equation 5.4). A gold path is the distribution that is certain of it, so the
//! computation is that of [`super::cross_entropy`].

use super::cross_entropy::sequences;
use super::marginals::one_hot;
use super::{Crf, CrfError, TAGS, Tag};

/// The gradient of a loss with respect to the parameters of a [`Crf`]; 0 at the invalid steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrfGradient {
    /// With respect to [`Crf::start`].
    pub start: [f64; TAGS],
    /// With respect to [`Crf::end`].
    pub end: [f64; TAGS],
    /// With respect to [`Crf::transitions`], `[from][to]`.
    pub transitions: [[f64; TAGS]; TAGS],
}

impl CrfGradient {
    pub(super) fn add(&mut self, other: &CrfGradient) {
        let rows = self.transitions.iter_mut().zip(&other.transitions);
        let rows = rows.chain([(&mut self.start, &other.start), (&mut self.end, &other.end)]);
        for (sums, terms) in rows {
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum += term;
            }
        }
    }
}

/// A loss and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLoss {
    /// The negative log-likelihood or cross-entropy in nats, at least 0: the sum over all sequences, not their mean.
    pub loss: f64,
    /// Gradient with respect to the emissions, `[words, 3]`.
    pub emissions: Vec<[f32; TAGS]>,
    /// Gradient with respect to the parameters of the CRF.
    pub crf: CrfGradient,
}

impl Crf {
    /// The loss `-log P(tags | emissions)` of one sequence, and its gradient.
    ///
    /// `emissions`: `[words, 3]`; `tags`: `[words]`.
    ///
    /// # Errors
    ///
    /// As for [`Crf::batch_nll_and_gradient`].
    pub fn nll_and_gradient(&self, emissions: &[[f32; TAGS]], tags: &[Tag]) -> Result<BatchLoss, CrfError> {
        let whole = 0..emissions.len();
        let sequences = std::slice::from_ref(&whole);
        self.cross_entropy_over(emissions, sequences, &one_hot(emissions.len(), sequences, tags)?)
    }

    /// The loss `-log P(tags | emissions)`, summed over packed sequences, and its gradient.
    ///
    /// `emissions`: `[words, 3]` and `tags`: `[words]`, of all sequences one after another; `cu_words`: `[sequences + 1]`, the
    /// cumulative numbers of words, so that sequence `s` has the words `cu_words[s]..cu_words[s + 1]`.
    ///
    /// Sequences are computed in parallel and added up in their order: the result has the same bits for any number of threads.
    /// Unlike decoding, which makes the best of NaN, a loss refuses emissions and parameters that are not finite, so that a
    /// diverged training run does not go on unseen. A score beyond [`super::SCORE_LIMIT`] gets the gradient that it has at the
    /// limit.
    ///
    /// ```
    /// use chemtag::model::crf::{Crf, Tag::{B, I, O}};
    ///
    /// // Two sequences, of two words and of one.
    /// let emissions = [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]];
    /// let batch = Crf::default().batch_nll_and_gradient(&emissions, &[0, 2, 3], &[B, I, O])?;
    /// assert!(batch.loss > 0.0);
    /// assert!(batch.emissions[0][B as usize] < 0.0); // a higher score for the gold tag lowers the loss
    /// # Ok::<(), chemtag::model::crf::CrfError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is not one tag for each word, if `cu_words` does not cover the words, if a gold path is invalid (its loss
    /// would be infinite), or if an emission or a parameter is not finite: see [`CrfError`].
    pub fn batch_nll_and_gradient(
        &self,
        emissions: &[[f32; TAGS]],
        cu_words: &[u32],
        tags: &[Tag],
    ) -> Result<BatchLoss, CrfError> {
        let sequences = sequences(cu_words, emissions.len())?;
        self.cross_entropy_over(emissions, &sequences, &one_hot(emissions.len(), &sequences, tags)?)
    }
}

#[cfg(test)]
mod tests {
    use super::Tag::{B, I, O};
    use super::*;
    use crate::model::crf::oracle::{self, Case};
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// A valid path over the words of a case.
    fn pick(case: &Case, index: Index) -> Vec<Tag> {
        index.get(&oracle::valid_paths(case.emissions.len())).clone()
    }

    /// Central difference of the brute-force loss as the score that `at` points to moves by 1/256 either way.
    fn slope(case: &Case, path: &[Tag], at: impl Fn(&mut Case) -> &mut f32) -> f64 {
        let [low, high] = [-1.0 / 256.0, 1.0 / 256.0].map(|step| {
            let mut moved = case.clone();
            let score = at(&mut moved);
            *score += step;
            let score = f64::from(*score);
            (score, oracle::log_partition(&moved) - oracle::score(&moved, path))
        });
        (high.1 - low.1) / (high.0 - low.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn gradient_equals_central_differences(case in oracle::usual_cases(1..=5), index: Index) {
            let path = pick(&case, index);
            let found = case.crf.nll_and_gradient(&case.emissions, &path)?;
            let expected = oracle::log_partition(&case) - oracle::score(&case, &path);
            prop_assert!((found.loss - expected).abs() < 1e-6);
            let close = |found: f64, expected: f64| (found - expected).abs() < 1e-4;
            for a in 0..TAGS {
                prop_assert!(close(found.crf.start[a], slope(&case, &path, |case| &mut case.crf.start[a])));
                prop_assert!(close(found.crf.end[a], slope(&case, &path, |case| &mut case.crf.end[a])));
                for b in 0..TAGS {
                    let slope = slope(&case, &path, |case| &mut case.crf.transitions[a][b]);
                    prop_assert!(close(found.crf.transitions[a][b], slope));
                }
                for i in 0..path.len() {
                    let slope = slope(&case, &path, |case| &mut case.emissions[i][a]);
                    prop_assert!(close(f64::from(found.emissions[i][a]), slope));
                }
            }
        }

        #[test]
        fn batch_equals_its_sequences_for_any_number_of_threads(
            cases in proptest::collection::vec((oracle::cases(0..=5), any::<Index>()), 0..20),
            crf in oracle::cases(0..=0),
        ) {
            let crf = crf.crf;
            let (mut emissions, mut tags, mut cu_words) = (Vec::new(), Vec::new(), vec![0]);
            let mut expected = BatchLoss { loss: 0.0, emissions: Vec::new(), crf: CrfGradient::default() };
            for (case, index) in &cases {
                let path = pick(case, *index);
                let one = crf.nll_and_gradient(&case.emissions, &path)?;
                expected.loss += one.loss;
                expected.crf.add(&one.crf);
                expected.emissions.extend(one.emissions);
                emissions.extend_from_slice(&case.emissions);
                tags.extend(path);
                cu_words.push(u32::try_from(tags.len())?);
            }
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
                let found = pool.install(|| crf.batch_nll_and_gradient(&emissions, &cu_words, &tags))?;
                prop_assert_eq!(found.loss.to_bits(), expected.loss.to_bits());
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn a_loss_far_below_the_smallest_probability_is_exact() {
        let crf = Crf::default();
        // exp(-10,000) is 0 in f64.
        let found = crf.nll_and_gradient(&[[1e4, 0.0, 0.0], [0.0, 0.0, 0.0]], &[B, I]);
        let found = found.expect("a valid path");
        assert!((found.loss - (1e4 + 2.0_f64.ln())).abs() < 1e-9);
        assert_eq!(found.emissions[0], [1.0, -1.0, 0.0]);
    }

    #[test]
    fn a_long_certain_sequence_has_a_loss_without_cancellation() {
        // Path score and log partition are both near 1e9; the loss is 100,000 ln(1 + exp(-20)).
        let crf = Crf::default();
        let emissions = vec![[1e4, 1e4 - 20.0, 0.0]; 100_000];
        let found = crf.nll_and_gradient(&emissions, &vec![O; 100_000]);
        let expected = 1e5 * (-20.0_f64).exp().ln_1p();
        let loss = found.expect("a valid path").loss;
        assert!((loss - expected).abs() < 1e-6 * expected, "{loss} {expected}");
    }

    #[test]
    fn what_has_no_loss_is_named() {
        let crf = Crf::default();
        let zero = [[0.0; 3]; 3];
        let batch = |cu_words: &[u32], tags: &[Tag]| crf.batch_nll_and_gradient(&zero, cu_words, tags);
        assert_eq!(batch(&[0, 3], &[O]), Err(CrfError::Lengths { words: 3, tags: 1 }));
        let lengths = |position, found| Err(CrfError::CumulativeLengths { words: 3, position, found });
        assert_eq!(batch(&[], &[O; 3]), lengths(0, None));
        assert_eq!(batch(&[1, 3], &[O; 3]), lengths(0, Some(1)));
        assert_eq!(batch(&[0, 2, 1, 3], &[O; 3]), lengths(2, Some(1)));
        assert_eq!(batch(&[0, 4, 3], &[O; 3]), lengths(1, Some(4)));
        assert_eq!(batch(&[0, 2], &[O; 3]), lengths(1, Some(2)));
        assert_eq!(batch(&[0], &[O; 3]), lengths(0, Some(0)));
        assert_eq!(batch(&[0, 3], &[B, O, I]), Err(CrfError::InvalidPath { word: 2 }));
        // I may follow B, but not across the border of two sequences.
        assert!(batch(&[0, 3], &[O, B, I]).is_ok());
        assert_eq!(batch(&[0, 2, 3], &[O, B, I]), Err(CrfError::InvalidPath { word: 2 }));

        let odd = [[0.0; 3], [0.0, f32::INFINITY, 0.0]];
        assert_eq!(
            crf.nll_and_gradient(&odd, &[O, O]),
            Err(CrfError::Emission { word: 1, tag: B, found: f32::INFINITY })
        );
        let mut crf = crf.clone();
        crf.transitions[1][2] = f32::NEG_INFINITY;
        assert_eq!(
            crf.nll_and_gradient(&zero, &[O, O, O]),
            Err(CrfError::Parameter { parameter: "transitions", found: f32::NEG_INFINITY })
        );
    }

    #[test]
    fn no_words_have_no_loss() {
        let crf = Crf::default();
        let none = BatchLoss { loss: 0.0, emissions: Vec::new(), crf: CrfGradient::default() };
        assert_eq!(crf.nll_and_gradient(&[], &[]), Ok(none.clone()));
        assert_eq!(crf.batch_nll_and_gradient(&[], &[0], &[]), Ok(none.clone()));
        assert_eq!(crf.batch_nll_and_gradient(&[], &[0, 0, 0], &[]), Ok(none));
    }
}
