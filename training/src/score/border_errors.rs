//! In: a document's gold mentions and predictions.
//! Out: its [`BorderError`]s in the order of the text, each wrong mention and each wrong prediction in one of them.
//! From: error analysis by kind of span error (missed, spurious, wrong border), after MUC-5 (Chinchor and Sundheim 1993).

use std::ops::Range;

use super::{Predicted, unmatched};
use crate::corpus::Mention;

/// A wrong pair: at least one of both is there, and where both are they overlap. In bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BorderError {
    pub gold: Option<Range<usize>>,
    pub predicted: Option<Range<usize>>,
}

impl BorderError {
    pub fn kind(&self) -> &'static str {
        match (&self.gold, &self.predicted) {
            (Some(_), Some(_)) => "border",
            (Some(_), None) => "missed",
            _ => "spurious",
        }
    }

    /// From the first byte of either to the last.
    pub fn extent(&self) -> Range<usize> {
        let spans = || self.gold.iter().chain(&self.predicted);
        let start = spans().map(|span| span.start).min().unwrap_or(0);
        start..spans().map(|span| span.end).max().unwrap_or(0)
    }
}

/// The errors of a document in the order of the text: every missed mention goes with the first free spurious
/// prediction that it overlaps.
pub(super) fn border_errors(gold: &[Mention], predicted: &[Predicted<'_>]) -> Vec<BorderError> {
    let left = unmatched(gold, predicted);
    let mut missed: Vec<Range<usize>> = left.missed.iter().map(|m| m.start..m.end).collect();
    let mut spurious: Vec<Option<Range<usize>>> = left.spurious.iter().map(|&span| Some(span.clone())).collect();
    missed.sort_by_key(|span| (span.start, span.end));
    spurious.sort_by_key(|span| span.as_ref().map(|span| (span.start, span.end)));

    let mut errors = Vec::with_capacity(missed.len() + spurious.len());
    let mut first = 0;
    for gold in missed {
        // What ends before this mention or is taken meets no later mention: without this, long documents take quadratic time.
        while spurious.get(first).is_some_and(|span| span.as_ref().is_none_or(|span| span.end <= gold.start)) {
            errors.extend(spurious[first].take().map(|span| BorderError { gold: None, predicted: Some(span) }));
            first += 1;
        }
        let partner = spurious[first..]
            .iter_mut()
            .take_while(|slot| slot.as_ref().is_none_or(|span| span.start < gold.end))
            .find(|slot| slot.as_ref().is_some_and(|span| overlap(span, &gold)));
        errors.push(BorderError { predicted: partner.and_then(Option::take), gold: Some(gold) });
    }
    errors.extend(spurious.into_iter().flatten().map(|span| BorderError { gold: None, predicted: Some(span) }));
    errors.sort_by_key(|error| {
        let extent = error.extent();
        (extent.start, extent.end)
    });
    errors
}

/// Whether both share a byte; an empty span shares none.
fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Scores;
    use proptest::prelude::*;

    /// The same pairing by trying every prediction for every mention.
    fn pairs_slow(gold: &[Mention], predicted: &[Predicted<'_>]) -> Vec<(Range<usize>, Range<usize>)> {
        let left = unmatched(gold, predicted);
        let mut missed: Vec<Range<usize>> = left.missed.iter().map(|m| m.start..m.end).collect();
        let mut spurious: Vec<Range<usize>> = left.spurious.into_iter().cloned().collect();
        missed.sort_by_key(|span| (span.start, span.end));
        spurious.sort_by_key(|span| (span.start, span.end));
        let mut pairs = Vec::new();
        for gold in missed {
            if let Some(at) = spurious.iter().position(|span| overlap(span, &gold)) {
                pairs.push((gold, spurious.remove(at)));
            }
        }
        pairs
    }

    proptest! {
        #[test]
        fn every_error_is_listed_once(
            gold in prop::collection::vec((0usize..25, 0usize..6), 0..12),
            predicted in prop::collection::vec((0usize..25, 0usize..6), 0..12),
        ) {
            let gold: Vec<Mention> = gold.iter()
                .map(|&(start, length)| Mention { start, end: start + length, label: "A".into() })
                .collect();
            let predicted: Vec<Predicted<'_>> = predicted.iter()
                .map(|&(start, length)| (start..start + length, None))
                .collect();
            let errors = border_errors(&gold, &predicted);
            let mut scores = Scores::default();
            scores.add_document(&gold, &predicted);
            let overall = scores.overall;
            prop_assert_eq!(errors.iter().filter(|e| e.gold.is_some()).count() as u64, overall.gold - overall.correct);
            prop_assert_eq!(errors.iter().filter(|e| e.predicted.is_some()).count() as u64, overall.predicted - overall.correct);
            prop_assert!(errors.is_sorted_by_key(|e| e.extent().start));
            let mut pairs: Vec<_> = errors.iter().filter_map(|e| e.gold.clone().zip(e.predicted.clone())).collect();
            let mut expected = pairs_slow(&gold, &predicted);
            let order = |(a, b): &(Range<usize>, Range<usize>)| (a.start, a.end, b.start, b.end);
            pairs.sort_by_key(order);
            expected.sort_by_key(order);
            prop_assert_eq!(pairs, expected);
        }
    }
}
