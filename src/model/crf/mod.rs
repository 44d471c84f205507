//! In: three emission scores (O, B, I) for each word of a sequence. Out: the best tags, exact probabilities of tags and
//! spans, or the loss and its gradient.
//! Method: Lafferty, McCallum and Pereira (2001), "Conditional random fields"; recursions as in Rabiner (1989), section III.

mod backward;
mod cross_entropy;
mod decode;
mod elementary;
mod error;
mod gradient;
mod marginals;
#[cfg(test)]
mod oracle;
mod posteriors;

use std::fmt;
use std::iter;
use std::ops::Range;

use backward::Scores;
pub use error::CrfError;
pub use gradient::{BatchLoss, CrfGradient};
pub use marginals::{PairMarginals, path_entropy, restore_marginals, tag_marginals};
pub use posteriors::{LOWEST_THRESHOLD, Posteriors, ScoredSpan};

/// How many tags there are: O, B and I.
pub const TAGS: usize = 3;

/// The largest magnitude of a score, in nats.
///
/// Emissions and parameters are clamped to `-SCORE_LIMIT..=SCORE_LIMIT`, and NaN counts as `-SCORE_LIMIT`. No path can
/// then become infinite, and a score next to a clamped one is still exact to 1e-7 in f64.
pub const SCORE_LIMIT: f64 = 1e9;

/// The tag of one word: outside a mention, its first word, or a later word of it (the BIO2 scheme).
///
/// Its number (`tag as usize`) is its column in emissions, transitions and posteriors.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tag {
    /// Outside every mention.
    O = 0,
    /// The first word of a mention.
    B = 1,
    /// A later word of a mention.
    I = 2,
}

impl Tag {
    /// All tags, each at its own number.
    pub const ALL: [Tag; TAGS] = [Tag::O, Tag::B, Tag::I];

    /// Whether this tag may stand after `previous`, where `None` is the start of the sequence: I needs B or I before it.
    pub fn may_follow(self, previous: Option<Tag>) -> bool {
        self != Tag::I || matches!(previous, Some(Tag::B | Tag::I))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tag::O => "O",
            Tag::B => "B",
            Tag::I => "I",
        })
    }
}

/// The parameters of a linear-chain conditional random field over the tags O, B and I.
///
/// The score of a path `t` over `n` words with emissions `e` is, in nats,
///
/// ```text
/// start[t_0] + e_0[t_0] + sum over i >= 1 of (transitions[t_(i-1)][t_i] + e_i[t_i]) + end[t_(n-1)]
/// ```
///
/// and its probability is proportional to `exp(score)` among the **valid** paths. A path in which I stands first or after O
/// has probability 0 in the partition function, in decoding, in posteriors and in the gradient alike; the parameters of
/// these two steps (`start[I]`, `transitions[O][I]`) are never read.
///
/// Everything is computed in f64. No input makes these functions panic: see [`SCORE_LIMIT`] for NaN, infinite and
/// very large scores. An empty sequence has one path, the empty one, with score 0 and probability 1.
///
/// ```
/// use chemtag::model::crf::{Crf, Tag, spans};
///
/// let crf = Crf {
///     start: [0.0, 0.0, 0.0],
///     end: [0.0, 0.0, 0.0],
///     transitions: [[0.5, 0.0, 0.0], [0.0, -1.0, 1.0], [0.0, -1.0, 0.5]], // [from][to]
/// };
/// // "dissolved in acetic acid": one row for each word, one column for each of O, B, I.
/// let emissions = [[3.0, -2.0, -2.0], [4.0, -3.0, -3.0], [-1.0, 2.0, 0.0], [-1.0, 1.0, 2.0]];
///
/// let tags = crf.viterbi(&emissions);
/// assert_eq!(tags, [Tag::O, Tag::O, Tag::B, Tag::I]);
/// assert_eq!(spans(&tags).collect::<Vec<_>>(), [2..4]);
///
/// let posteriors = crf.posteriors(&emissions);
/// assert!(posteriors.span(2, 4) > 0.9); // the mention is "acetic acid"
/// assert!(posteriors.span(2, 3) < 0.1); // the mention is "acetic"
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Crf {
    /// Score of each tag at the first word: `[O, B, I]`.
    pub start: [f32; TAGS],
    /// Score of each tag at the last word: `[O, B, I]`.
    pub end: [f32; TAGS],
    /// Score of each pair of neighbouring tags: `transitions[from][to]`.
    pub transitions: [[f32; TAGS]; TAGS],
}

impl Crf {
    /// The logarithm of the sum of `exp(score)` over all valid paths, in nats; 0 for no words.
    ///
    /// `emissions`: `[words, 3]`.
    pub fn log_partition(&self, emissions: &[[f32; TAGS]]) -> f64 {
        backward::backward(&Scores::new(self), emissions, |_, _| {}).map_or(0.0, |start| start.log_partition)
    }

    /// The score of one path, in nats: negative infinity if it is invalid or if there is not one tag for each word.
    ///
    /// `emissions`: `[words, 3]`; `tags`: `[words]`. `exp(path_score - log_partition)` is the path's probability.
    pub fn path_score(&self, emissions: &[[f32; TAGS]], tags: &[Tag]) -> f64 {
        if emissions.len() != tags.len() {
            return f64::NEG_INFINITY;
        }
        let scores = Scores::new(self);
        let mut total = 0.0;
        let mut previous = None;
        for (emission, &tag) in emissions.iter().zip(tags) {
            total += match previous {
                None => scores.start[tag as usize],
                Some(before) => scores.transitions[before as usize][tag as usize],
            };
            total += backward::score(emission[tag as usize]);
            previous = Some(tag);
        }
        total + previous.map_or(0.0, |last| scores.end[last as usize])
    }
}

/// The mentions in a sequence of tags, as ranges of words, from left to right.
///
/// A mention is a B and every I that follows it. As in the CoNLL evaluation script `conlleval`, an I at the start or after
/// O begins a mention as B does; [`Crf::viterbi`] never gives one, other taggers' output may.
///
/// ```
/// use chemtag::model::crf::{Tag::{B, I, O}, spans};
///
/// assert_eq!(spans(&[B, I, B, O, I, I]).collect::<Vec<_>>(), [0..2, 2..3, 4..6]);
/// ```
pub fn spans(tags: &[Tag]) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    iter::from_fn(move || {
        let start = from + tags[from..].iter().position(|&tag| tag != Tag::O)?;
        let later = tags[start + 1..].iter().take_while(|&&tag| tag == Tag::I);
        from = start + 1 + later.count();
        Some(start..from)
    })
}

#[cfg(test)]
mod tests {
    use super::Tag::{B, I, O};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_words_have_one_empty_path() {
        let crf = Crf { start: [1.0; 3], end: [2.0; 3], transitions: [[3.0; 3]; 3] };
        assert_eq!(crf.log_partition(&[]), 0.0);
        assert_eq!(crf.path_score(&[], &[]), 0.0);
    }

    #[test]
    fn one_word_is_o_or_b() {
        let crf = Crf { start: [1.0, 2.0, 30.0], end: [0.5, 0.25, 40.0], transitions: [[7.0; 3]; 3] };
        let emissions = [[2.0, 3.0, 50.0]];
        assert_eq!(crf.path_score(&emissions, &[O]), 3.5);
        assert_eq!(crf.path_score(&emissions, &[B]), 5.25);
        assert_eq!(crf.path_score(&emissions, &[I]), f64::NEG_INFINITY);
        let expected = (3.5_f64.exp() + 5.25_f64.exp()).ln();
        assert!((crf.log_partition(&emissions) - expected).abs() < 1e-12);
    }

    #[test]
    fn a_path_of_another_length_is_no_path() {
        let crf = Crf::default();
        assert_eq!(crf.path_score(&[[0.0; 3]], &[]), f64::NEG_INFINITY);
        assert_eq!(crf.path_score(&[[0.0; 3]], &[O, O]), f64::NEG_INFINITY);
    }

    #[test]
    fn i_opens_a_span_where_nothing_precedes_it() {
        let of = |tags: &[Tag]| spans(tags).collect::<Vec<_>>();
        assert!(of(&[]).is_empty());
        assert!(of(&[O, O]).is_empty());
        assert_eq!(of(&[I, I, O, I]), [0..2, 3..4]);
        assert_eq!(of(&[B, B, I, I]), [0..1, 1..4]);
        assert_eq!(of(&[O, B, O, B]), [1..2, 3..4]);
    }

    proptest! {
        #[test]
        fn path_scores_equal_the_formula(case in oracle::cases(0..=6)) {
            for path in oracle::all_paths(case.emissions.len()) {
                let found = case.crf.path_score(&case.emissions, &path);
                if oracle::is_valid(&path) {
                    prop_assert!((found - oracle::score(&case, &path)).abs() < 1e-6);
                } else {
                    prop_assert_eq!(found, f64::NEG_INFINITY);
                }
            }
        }
    }
}
