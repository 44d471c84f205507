//! Strict IOB2 scores against what seqeval gives for the same tags, recorded by record_seqeval.py.

use chemtag_training::corpus::Mention;
use chemtag_training::score::{Counts, Predicted, Scores, iob2_spans};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<Case>,
}

/// One call of seqeval: some sentences, tags separated by spaces.
#[derive(Deserialize)]
struct Case {
    gold: Vec<String>,
    predicted: Vec<String>,
    gold_spans: Vec<Vec<(usize, usize, String)>>,
    precision: f64,
    recall: f64,
    f1: f64,
}

fn recorded() -> Vec<Case> {
    let recorded: Recorded = serde_json::from_str(include_str!("data/seqeval.json")).unwrap();
    assert!(recorded.cases.len() > 100);
    recorded.cases
}

fn tags(sentence: &str) -> Vec<&str> {
    sentence.split(' ').collect()
}

/// The scores of a case, a tag's index taken as its offset.
fn score(case: &Case) -> Scores {
    let mut scores = Scores::default();
    for (gold, predicted) in case.gold.iter().zip(&case.predicted) {
        let gold: Vec<Mention> = iob2_spans(&tags(gold))
            .into_iter()
            .map(|(span, label)| Mention { start: span.start, end: span.end, label })
            .collect();
        let predicted = iob2_spans(&tags(predicted));
        let predicted: Vec<Predicted<'_>> =
            predicted.iter().map(|(span, label)| (span.clone(), Some(label.as_str()))).collect();
        scores.add_document(&gold, &predicted);
    }
    scores
}

fn assert_equal(counts: &Counts, case: &Case) {
    for (name, ours, seqevals) in [
        ("precision", counts.precision(), case.precision),
        ("recall", counts.recall(), case.recall),
        ("F1", counts.f1(), case.f1),
    ] {
        // seqeval gives fractions, and F1 from rounded precision and recall.
        assert!(
            (ours - 100.0 * seqevals).abs() < 1e-9,
            "{name}: {ours} here, {seqevals} in seqeval\ngold {:?}\npredicted {:?}",
            case.gold,
            case.predicted
        );
    }
}

#[test]
fn spans_are_those_of_seqeval() {
    for case in recorded() {
        for (sentence, expected) in case.gold.iter().zip(&case.gold_spans) {
            let found: Vec<_> =
                iob2_spans(&tags(sentence)).into_iter().map(|(span, label)| (span.start, span.end, label)).collect();
            assert_eq!(&found, expected, "{sentence}");
        }
    }
}

#[test]
fn classes_together_score_as_seqeval_micro() {
    for case in recorded() {
        let mut micro = Counts::default();
        for counts in score(&case).by_class.values() {
            micro += *counts;
        }
        assert_equal(&micro, &case);
    }
}

#[test]
fn borders_alone_score_as_seqeval_where_there_is_one_type() {
    let mut seen = 0;
    for case in recorded() {
        let scores = score(&case);
        if scores.by_class.len() == 1 {
            assert_equal(&scores.overall, &case);
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} of the recorded cases have one type");
}
