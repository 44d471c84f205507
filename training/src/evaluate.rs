//! A model and an annotated corpus -> strict scores: a mention counts where its borders (and for a class, its class) are exactly gold's; with
//! them confidence intervals, the calibration of posteriors and speed.
//! Text goes through the product's own path; a corpus that comes with words keeps them, as in published practice, unless told otherwise.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use chemtag::reading::repeated;
use chemtag::text::{sentences, words};
use chemtag::{Entity, TagOptions, Tagger};
use rayon::prelude::*;
use serde::Serialize;

use crate::bootstrap::{Intervals, intervals};
use crate::calibration::Calibration;
use crate::corpus::Document;
use crate::error::Result;
use crate::score::{Counts, Predicted, Scores, are_right, write_errors};

/// How the corpus is read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Every sentence alone, without its neighbours.
    pub lone_sentences: bool,
    /// Split a corpus' text into words as the product does, even where it comes with words.
    pub retokenise: bool,
    /// Find names again elsewhere in a document that were found with at least this probability ([`repeated`]).
    pub repeat: Option<f32>,
}

/// Scores of a corpus and the time they took.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Overall by borders; by class where gold has classes.
    pub scores: Scores,
    /// Overall counts of each document; in a corpus of lone sentences each is one.
    pub documents: Vec<Counts>,
    /// Posteriors of the predictions and whether their borders are right.
    pub calibration: Calibration,
    /// Seconds of tagging, without loading.
    pub seconds: f64,
    /// Word pieces read, `[CLS]` and `[SEP]` included.
    pub tokens: usize,
    /// Words read.
    pub words: usize,
    /// What computed: engine, device and number format.
    pub engine: String,
}

/// Precision, recall and F1 in percent, and the numbers behind them.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    precision: f64,
    recall: f64,
    f1: f64,
    gold: u64,
    predicted: u64,
    correct: u64,
}

impl From<&Counts> for Figures {
    fn from(counts: &Counts) -> Self {
        let Counts { gold, predicted, correct } = *counts;
        Self { precision: counts.precision(), recall: counts.recall(), f1: counts.f1(), gold, predicted, correct }
    }
}

/// How a model compares with others on the same corpus.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The others' folders; several are mixed.
    pub models: Vec<String>,
    /// Their F1 in percent.
    pub f1: f64,
    /// The model's F1 as a share of theirs, in percent.
    pub retention: f64,
}

/// The last line of `chemtag-train evaluate --json`. Scores, intervals and the calibration error in percent.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    overall: Figures,
    /// 95 % confidence intervals.
    intervals: Option<Intervals>,
    documents: usize,
    classes: BTreeMap<String, Figures>,
    calibration_error: Option<f64>,
    seconds: f64,
    tokens_per_second: f64,
    words_per_second: f64,
    /// What the speed was read on.
    machine: String,
    engine: String,
    against: Option<Comparison>,
}

impl Evaluation {
    /// The figures in one object: those of `classes` by class, the speed as that of `machine`.
    pub fn summary(&self, classes: &[String], machine: &str, against: Option<Comparison>) -> Summary {
        let known = self.of_classes(classes).map(|(name, counts)| (name.to_string(), counts.into()));
        Summary {
            overall: (&self.scores.overall).into(),
            intervals: self.intervals(),
            documents: self.documents.len(),
            classes: known.collect(),
            calibration_error: self.calibration.error(),
            seconds: self.seconds,
            tokens_per_second: self.per_second(self.tokens),
            words_per_second: self.per_second(self.words),
            machine: machine.into(),
            engine: self.engine.clone(),
            against,
        }
    }

    /// Confidence intervals over documents.
    pub fn intervals(&self) -> Option<Intervals> {
        intervals(&self.documents)
    }

    /// Counts of each of these classes that the corpus marks. A corpus' own types, such as `CHEMICAL`, are no classes: a model that cannot give
    /// them would score 0.
    pub fn of_classes<'a>(&'a self, classes: &'a [String]) -> impl Iterator<Item = (&'a str, &'a Counts)> {
        let known = self.scores.by_class.iter().filter(|(name, counts)| counts.gold > 0 && classes.contains(name));
        known.map(|(name, counts)| (name.as_str(), counts))
    }

    /// So much of something in the time of tagging, each second.
    pub fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.seconds.max(f64::EPSILON)
    }

    /// Beside other models' counts on the same corpus.
    pub fn against(&self, models: Vec<String>, counts: &Counts) -> Comparison {
        let f1 = counts.f1();
        let retention = if f1 > 0. { 100. * self.scores.overall.f1() / f1 } else { 0. };
        Comparison { models, f1, retention }
    }
}

/// Tags the documents and compares. `errors` names a file for the list of what was missed, spurious or cut wrongly.
///
/// # Errors
/// If the device fails or the list cannot be written.
pub fn evaluate(
    tagger: &Tagger,
    documents: &[Document],
    options: &Options,
    errors: Option<&Path>,
) -> Result<Evaluation> {
    let tagger =
        tagger.with_options(TagOptions { lone_sentences: options.lone_sentences, ..tagger.options().clone() })?;
    let read_before = tagger.model().activity().pieces;
    let started = Instant::now();
    let entities = tag(&tagger, documents, options.retokenise)?;
    let seconds = started.elapsed().as_secs_f64();
    let entities: Vec<_> =
        entities.into_iter().zip(documents).map(|(found, document)| with_repeated(found, document, options)).collect();

    let predicted: Vec<Vec<Predicted>> = entities
        .iter()
        .map(|found| found.iter().map(|entity| (entity.start..entity.end, entity.class.as_deref())).collect())
        .collect();
    let mut scores = Scores::default();
    let mut of_documents = Vec::with_capacity(documents.len());
    let mut calibration = Calibration::default();
    for ((document, predicted), entities) in documents.iter().zip(&predicted).zip(&entities) {
        of_documents.push(scores.add_document(&document.mentions, predicted));
        for (entity, right) in entities.iter().zip(are_right(&document.mentions, predicted)) {
            calibration.add(f64::from(entity.score), right);
        }
    }
    if let Some(path) = errors {
        write_errors(path, documents.iter().zip(predicted.iter().map(Vec::as_slice)))?;
    }
    Ok(Evaluation {
        scores,
        documents: of_documents,
        calibration,
        seconds,
        tokens: (tagger.model().activity().pieces - read_before) as usize,
        words: documents.par_iter().map(|document| cut(document, options).iter().map(Vec::len).sum::<usize>()).sum(),
        engine: tagger.model().backend().describe(),
    })
}

fn tag<'d>(tagger: &Tagger, documents: &'d [Document], retokenise: bool) -> Result<Vec<Vec<Entity<'d>>>> {
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    let words: Option<Vec<_>> = documents.iter().map(|document| document.words.as_deref()).collect();
    Ok(match words {
        Some(words) if !retokenise => tagger.tag_words(&texts, &words)?,
        _ => tagger.tag_batch(&texts)?,
    })
}

/// The mentions with those found again, if they are wanted.
fn with_repeated<'d>(mut found: Vec<Entity<'d>>, document: &Document, options: &Options) -> Vec<Entity<'d>> {
    if let Some(least) = options.repeat {
        let whole = chemtag::format::Document::from_text("", document.text.clone());
        let again: Vec<_> = repeated(&whole, &found, least).into_iter().map(Entity::into_owned).collect();
        found.extend(again);
        found.sort_by_key(|entity| entity.start);
    }
    found
}

/// A document's sentences as byte ranges of words, as the tagger cuts them.
pub(crate) fn cut(document: &Document, options: &Options) -> Vec<Vec<Range<usize>>> {
    let text = document.text.as_str();
    if let Some(words) = document.words.as_ref().filter(|_| !options.retokenise) {
        return vec![words.clone()];
    }
    let mut cut: Vec<Vec<Range<usize>>> = Vec::new();
    let mut continues = false;
    for sentence in sentences(text) {
        let start = sentence.range.start;
        let words = words(&text[sentence.range]).map(|word| start + word.start..start + word.end);
        match cut.last_mut().filter(|_| continues) {
            Some(begun) => begun.extend(words),
            None => cut.push(words.collect()),
        }
        continues = sentence.continues;
    }
    cut
}

/// Overall counts of spans that other models found in the documents.
pub fn count_spans(documents: &[Document], found: &[Vec<Range<usize>>]) -> Counts {
    let mut scores = Scores::default();
    for (document, spans) in documents.iter().zip(found) {
        let predicted: Vec<Predicted> = spans.iter().map(|span| (span.clone(), None)).collect();
        scores.add_document(&document.mentions, &predicted);
    }
    scores.overall
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(scores: Scores) -> Evaluation {
        Evaluation {
            scores,
            documents: Vec::new(),
            calibration: Calibration::default(),
            seconds: 2.,
            tokens: 10,
            words: 5,
            engine: "none".into(),
        }
    }

    #[test]
    fn only_the_models_classes_count() {
        let counts = |gold| Counts { gold, predicted: 1, correct: 0 };
        let by_class = [("CHEMICAL", 3), ("FAMILY", 0), ("FORMULA", 2)];
        let by_class = by_class.map(|(name, gold)| (name.to_string(), counts(gold))).into();
        let evaluation = evaluation(Scores { overall: counts(5), by_class });
        let names = |classes: &[&str]| {
            let classes: Vec<String> = classes.iter().map(|class| class.to_string()).collect();
            evaluation.of_classes(&classes).map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["FORMULA", "FAMILY"]), ["FORMULA"]);
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn retention_is_a_share_of_the_others_f1() {
        let counts = |correct| Counts { gold: 10, predicted: 10, correct };
        let evaluation = evaluation(Scores { overall: counts(6), ..Scores::default() });
        let comparison = evaluation.against(vec!["t".into()], &counts(8));
        assert!((comparison.f1 - 80.).abs() < 1e-9 && (comparison.retention - 75.).abs() < 1e-9, "{comparison:?}");
        assert_eq!(evaluation.against(Vec::new(), &counts(0)).retention, 0.);
        assert_eq!(evaluation.per_second(evaluation.words), 2.5);
    }
}
