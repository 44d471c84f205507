//! In: a document's gold mentions and the spans that a tagger predicted for it.
//! Out: strict [`Scores`]: a prediction is right only where both borders are (and the class, per class).
//! From: exact matching as in CoNLL-2002 (Tjong Kim Sang 2002); IOB2 as in seqeval's strict mode (Nakayama 2018).

mod border_errors;
mod listing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{AddAssign, Range};

pub use listing::write_errors;

use crate::corpus::{Mention, NO_CLASS};

/// A predicted span in bytes and its class, `None` where the tagger says none.
pub type Predicted<'a> = (Range<usize>, Option<&'a str>);

/// How many mentions there are, how many were predicted, and how many of these are right.
///
/// ```
/// use chemtag_training::score::Counts;
///
/// let counts = Counts { gold: 4, predicted: 5, correct: 3 };
/// assert_eq!((counts.precision(), counts.recall()), (60.0, 75.0));
/// assert!((counts.f1() - 66.667).abs() < 1e-3);
/// assert_eq!(Counts::default().f1(), 0.0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub gold: u64,
    pub predicted: u64,
    pub correct: u64,
}

impl Counts {
    /// Right ones among the predicted, in percent; 0 where nothing is predicted.
    pub fn precision(&self) -> f64 {
        percent(self.correct, self.predicted)
    }

    /// Right ones among the gold, in percent; 0 where there is no gold.
    pub fn recall(&self) -> f64 {
        percent(self.correct, self.gold)
    }

    /// The harmonic mean of precision and recall, in percent; 0 where nothing is right.
    pub fn f1(&self) -> f64 {
        // 2PR / (P + R) with P = c/p and R = c/g is 2c / (p + g).
        percent(2 * self.correct, self.predicted + self.gold)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    100.0 * part as f64 / whole as f64
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.gold += other.gold;
        self.predicted += other.predicted;
        self.correct += other.correct;
    }
}

/// Strict scores over documents, by borders alone and by class.
///
/// Overall, a prediction is right if a gold mention has its borders. Each gold mention is matched at most once and so is
/// each prediction: of a span predicted twice and marked once, one is wrong. An empty gold span (start = end) counts
/// as gold and can never be found.
///
/// By class, a gold mention counts for its class, one of [`NO_CLASS`] for none; a prediction counts for the class it
/// was given, whether its borders are right or not, except on a span whose gold is [`NO_CLASS`], where no class is
/// wrong; it is right if a gold mention has its borders and its class.
///
/// ```
/// use chemtag_training::corpus::Mention;
/// use chemtag_training::score::Scores;
///
/// let gold = [
///     Mention { start: 0, end: 9, label: "TRIVIAL".into() },
///     Mention { start: 13, end: 16, label: "FORMULA".into() },
/// ];
/// let mut scores = Scores::default();
/// scores.add_document(&gold, &[(0..9, Some("FAMILY")), (13..16, Some("FORMULA"))]);
/// assert_eq!(scores.overall.f1(), 100.0);
/// assert_eq!(scores.by_class["FORMULA"].f1(), 100.0);
/// assert_eq!(scores.by_class["FAMILY"].precision(), 0.0);
/// assert_eq!(scores.by_class["TRIVIAL"].recall(), 0.0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scores {
    pub overall: Counts,
    pub by_class: BTreeMap<String, Counts>,
}

impl Scores {
    /// Adds one document: its gold mentions and predictions, in any order, with offsets of the same unit. Returns its overall counts.
    pub fn add_document(&mut self, gold: &[Mention], predicted: &[Predicted<'_>]) -> Counts {
        let missed = unmatched(gold, predicted).missed.len();
        let overall = Counts {
            gold: gold.len() as u64,
            predicted: predicted.len() as u64,
            correct: (gold.len() - missed) as u64,
        };
        self.overall += overall;

        let mut without_class = HashSet::new();
        let mut with_class = HashSet::new();
        let mut open: HashMap<(usize, usize, &str), u64> = HashMap::new();
        for mention in gold {
            let span = (mention.start, mention.end);
            if mention.label == NO_CLASS {
                without_class.insert(span);
                continue;
            }
            with_class.insert(span);
            self.class(&mention.label).gold += 1;
            if mention.start < mention.end {
                *open.entry((span.0, span.1, &mention.label)).or_default() += 1;
            }
        }
        for (range, class) in predicted {
            let span = (range.start, range.end);
            let Some(class) = class.filter(|&class| class != NO_CLASS) else {
                continue;
            };
            if without_class.contains(&span) && !with_class.contains(&span) {
                continue;
            }
            let counts = self.class(class);
            counts.predicted += 1;
            if let Some(left) = open.get_mut(&(span.0, span.1, class)).filter(|left| **left > 0) {
                *left -= 1;
                counts.correct += 1;
            }
        }
        overall
    }

    fn class(&mut self, name: &str) -> &mut Counts {
        self.by_class.entry(name.to_owned()).or_default()
    }
}

/// Whether each prediction is right by its borders, under the rules of [`Scores`].
pub fn are_right(gold: &[Mention], predicted: &[Predicted<'_>]) -> Vec<bool> {
    let mut open: HashMap<(usize, usize), u64> = HashMap::new();
    for mention in gold.iter().filter(|mention| mention.start < mention.end) {
        *open.entry((mention.start, mention.end)).or_default() += 1;
    }
    let mut take = |range: &Range<usize>| match open.get_mut(&(range.start, range.end)).filter(|left| **left > 0) {
        Some(left) => {
            *left -= 1;
            true
        }
        None => false,
    };
    predicted.iter().map(|(range, _)| take(range)).collect()
}

/// What strict matching by borders leaves over.
struct Unmatched<'a> {
    missed: Vec<&'a Mention>,
    spurious: Vec<&'a Range<usize>>,
}

/// Pairs predictions with gold mentions of the same borders, one to one; empty spans pair with nothing.
fn unmatched<'a>(gold: &'a [Mention], predicted: &'a [Predicted<'_>]) -> Unmatched<'a> {
    let mut open: HashMap<(usize, usize), u64> = HashMap::new();
    for (range, _) in predicted.iter().filter(|(range, _)| range.start < range.end) {
        *open.entry((range.start, range.end)).or_default() += 1;
    }
    let mut take = |start: usize, end: usize| match open.get_mut(&(start, end)) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    };
    let missed = gold.iter().filter(|m| !take(m.start, m.end)).collect();
    // What gold did not take of a span's predictions is spurious.
    let spurious = predicted
        .iter()
        .map(|(range, _)| range)
        .filter(|range| range.is_empty() || take(range.start, range.end))
        .collect();
    Unmatched { missed, spurious }
}

/// The spans of a sequence of IOB2 tags, as ranges of tags with their types: `B-type` and the `I-type` of the same type
/// right after it, exactly as `seqeval` finds them with `mode='strict', scheme=IOB2`. An `I` that continues no span of
/// its type is outside of any and ends the span before it. As there, hyphens around a type are dropped and a tag
/// without a type has the type `_`. A tag that is neither B nor I is taken as O (seqeval refuses it unless it is one).
///
/// ```
/// use chemtag_training::score::iob2_spans;
///
/// let spans = iob2_spans(&["B-MAT", "I-MAT", "I-PRO", "I-MAT", "B-PRO", "B-PRO"]);
/// assert_eq!(spans, [(0..2, "MAT".into()), (4..5, "PRO".into()), (5..6, "PRO".into())]);
/// ```
pub fn iob2_spans(tags: &[&str]) -> Vec<(Range<usize>, String)> {
    let mut spans: Vec<(Range<usize>, String)> = Vec::new();
    for (index, tag) in tags.iter().enumerate() {
        if let Some(label) = tag.strip_prefix('B') {
            spans.push((index..index + 1, type_name(label).to_owned()));
        } else if let Some(label) = tag.strip_prefix('I')
            && let Some((span, open)) = spans.last_mut()
            && span.end == index
            && open == type_name(label)
        {
            span.end += 1;
        }
    }
    spans
}

fn type_name(label: &str) -> &str {
    match label.trim_matches('-') {
        "" => "_",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mention(start: usize, end: usize, label: &str) -> Mention {
        Mention { start, end, label: label.into() }
    }

    fn counts(gold: u64, predicted: u64, correct: u64) -> Counts {
        Counts { gold, predicted, correct }
    }

    fn score(gold: &[Mention], predicted: &[Predicted<'_>]) -> Scores {
        let mut scores = Scores::default();
        scores.add_document(gold, predicted);
        scores
    }

    #[test]
    fn percentages_are_zero_where_undefined() {
        for (counts, expected) in [
            (counts(0, 0, 0), (0.0, 0.0, 0.0)),
            (counts(3, 0, 0), (0.0, 0.0, 0.0)),
            (counts(0, 3, 0), (0.0, 0.0, 0.0)),
            (counts(2, 2, 0), (0.0, 0.0, 0.0)),
            (counts(2, 2, 2), (100.0, 100.0, 100.0)),
            (counts(4, 1, 1), (100.0, 25.0, 40.0)),
        ] {
            assert_eq!((counts.precision(), counts.recall(), counts.f1()), expected, "{counts:?}");
        }
    }

    #[test]
    fn both_borders_must_be_right() {
        let gold = [mention(3, 8, "A")];
        for (span, correct) in [(3..8, 1), (2..8, 0), (3..7, 0), (3..9, 0), (4..8, 0), (8..12, 0)] {
            let scores = score(&gold, &[(span.clone(), Some("A"))]);
            assert_eq!(scores.overall, counts(1, 1, correct), "{span:?}");
            assert_eq!(scores.by_class["A"], counts(1, 1, correct), "{span:?}");
        }
    }

    #[test]
    fn empty_gold_counts_and_is_never_found() {
        let scores = score(&[mention(4, 4, "A"), mention(0, 2, "A")], &[(4..4, Some("A")), (0..2, Some("A"))]);
        assert_eq!(scores.overall, counts(2, 2, 1));
        assert_eq!(scores.by_class["A"], counts(2, 2, 1));
    }

    #[test]
    fn each_gold_mention_and_each_prediction_match_once() {
        let once = [mention(0, 2, "A")];
        let twice = [mention(0, 2, "A"), mention(0, 2, "A")];
        assert_eq!(score(&once, &[(0..2, None), (0..2, None)]).overall, counts(1, 2, 1));
        assert_eq!(score(&twice, &[(0..2, None)]).overall, counts(2, 1, 1));
        assert_eq!(score(&twice, &[(0..2, None), (0..2, None)]).overall, counts(2, 2, 2));
        let nested = [mention(0, 9, "A"), mention(0, 2, "B")];
        assert_eq!(score(&nested, &[(0..2, None)]).overall, counts(2, 1, 1));
    }

    #[test]
    fn no_class_counts_overall_only() {
        let gold = [mention(0, 2, NO_CLASS), mention(4, 6, "A")];
        let scores = score(&gold, &[(0..2, Some("A")), (4..6, Some("A")), (8..9, Some("B"))]);
        assert_eq!(scores.overall, counts(2, 3, 2));
        assert_eq!(scores.by_class, BTreeMap::from([("A".into(), counts(1, 1, 1)), ("B".into(), counts(0, 1, 0))]));
        // A span that was marked twice, once with a class, has a class to be right or wrong about.
        let both = [mention(0, 2, NO_CLASS), mention(0, 2, "A")];
        assert_eq!(score(&both, &[(0..2, Some("B"))]).by_class["B"], counts(0, 1, 0));
    }

    #[test]
    fn predictions_without_a_class_count_overall_only() {
        for class in [None, Some(NO_CLASS)] {
            let scores = score(&[mention(0, 2, "A")], &[(0..2, class)]);
            assert_eq!(scores.overall, counts(1, 1, 1));
            assert_eq!(scores.by_class, BTreeMap::from([("A".into(), counts(1, 0, 0))]));
        }
    }

    #[test]
    fn documents_add_up() {
        let mut scores = score(&[mention(0, 2, "A")], &[(0..2, Some("A"))]);
        scores.add_document(&[mention(0, 3, "A")], &[(0..2, Some("A"))]);
        scores.add_document(&[], &[]);
        assert_eq!(scores.overall, counts(2, 2, 1));
        assert_eq!(scores.by_class["A"], counts(2, 2, 1));
    }

    #[test]
    fn tags_of_no_scheme_are_outside() {
        assert_eq!(iob2_spans(&["B-X", "", "I-X", "é", "B-X", "E-X", "I-X"]), [(0..1, "X".into()), (4..5, "X".into())]);
        assert!(iob2_spans(&[]).is_empty());
    }

    /// One prediction after another takes the first free gold mention that it equals.
    fn matches_slow(gold: &[Mention], predicted: &[Predicted<'_>], class_too: bool) -> u64 {
        let mut taken = vec![false; gold.len()];
        let mut correct = 0;
        for (range, class) in predicted {
            for (index, m) in gold.iter().enumerate() {
                let equal = m.start < m.end && (m.start, m.end) == (range.start, range.end);
                let same_class = m.label != NO_CLASS && Some(m.label.as_str()) == *class;
                if !taken[index] && equal && (same_class || !class_too) {
                    taken[index] = true;
                    correct += 1;
                    break;
                }
            }
        }
        correct
    }

    fn spans() -> impl Strategy<Value = Vec<(usize, usize, &'static str)>> {
        prop::collection::vec((0usize..4, 0usize..3, prop::sample::select(vec!["A", "B", NO_CLASS])), 0..10)
    }

    proptest! {
        #[test]
        fn counts_equal_one_by_one_matching(gold in spans(), predicted in spans()) {
            let gold: Vec<Mention> = gold.iter().map(|&(s, l, c)| mention(s, s + l, c)).collect();
            let predicted: Vec<Predicted<'_>> = predicted.iter()
                .map(|&(s, l, c)| (s..s + l, Some(c).filter(|&c| c != NO_CLASS))).collect();
            let scores = score(&gold, &predicted);
            prop_assert_eq!(scores.overall, counts(
                gold.len() as u64, predicted.len() as u64, matches_slow(&gold, &predicted, false)));
            let total = |part: fn(&Counts) -> u64| scores.by_class.values().map(part).sum::<u64>();
            prop_assert_eq!(total(|c| c.correct), matches_slow(&gold, &predicted, true));
            prop_assert_eq!(total(|c| c.gold), gold.iter().filter(|m| m.label != NO_CLASS).count() as u64);
            let right = are_right(&gold, &predicted);
            prop_assert_eq!(right.iter().filter(|right| **right).count() as u64, scores.overall.correct);
            for (right, (range, _)) in right.iter().zip(&predicted) {
                let known = gold.iter().any(|m| (m.start, m.end) == (range.start, range.end) && m.start < m.end);
                prop_assert!(known || !right);
            }
            let left = unmatched(&gold, &predicted);
            prop_assert_eq!(left.missed.len() as u64, scores.overall.gold - scores.overall.correct);
            prop_assert_eq!(left.spurious.len() as u64, scores.overall.predicted - scores.overall.correct);
        }
    }
}
