//! In: what is wrong with the emissions, tags or lengths of a batch. Out: an error that names the place and the remedy.
//! Only a loss has errors; decoding and posteriors have an answer for every input.

use super::Tag;

/// Why a loss has no value. Words and sequences are counted from 0, words through the whole batch.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CrfError {
    /// Not one tag or target for each word.
    #[error("{words} words have emissions but {tags} have tags or targets: give one for each word")]
    Lengths {
        /// Rows of emissions.
        words: usize,
        /// Tags or targets.
        tags: usize,
    },
    /// The cumulative lengths do not describe sequences that cover the words.
    #[error(
        "cu_words must begin with 0, never fall and end with the number of words, {words}: found {found:?} at position {position}"
    )]
    CumulativeLengths {
        /// Rows of emissions.
        words: usize,
        /// The first position that is wrong.
        position: usize,
        /// What stands there; `None` if `cu_words` ends before it.
        found: Option<u32>,
    },
    /// The gold path has probability 0.
    #[error(
        "word {word} is tagged I, but no B or I stands before it in its sequence: write the gold tags in BIO2, where every mention begins with B"
    )]
    InvalidPath {
        /// The word.
        word: usize,
    },
    /// Pair marginals that no distribution over valid paths has.
    #[error(
        "the pair marginals of word {word} are those of no distribution over tag paths: {reason} ({found}); compute them again from the teacher"
    )]
    Marginals {
        /// The word.
        word: usize,
        /// What is wrong.
        reason: &'static str,
        /// The number that is wrong.
        found: f64,
    },
    /// NaN or an infinity among the emissions.
    #[error(
        "the emission of word {word} for tag {tag} is {found}, not a finite number: the encoder diverged or overflowed; skip this batch, lower the learning rate or compute in f32"
    )]
    Emission {
        /// The word.
        word: usize,
        /// The tag.
        tag: Tag,
        /// The emission.
        found: f32,
    },
    /// NaN or an infinity among the parameters.
    #[error(
        "CRF {parameter} has a score of {found}, not a finite number: go back to an earlier checkpoint and lower the learning rate"
    )]
    Parameter {
        /// `start`, `end` or `transitions`.
        parameter: &'static str,
        /// The score.
        found: f32,
    },
}
