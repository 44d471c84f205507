//! A model and an annotated corpus -> strict scores: a mention counts where its borders (and for a class, its class) are exactly gold's.
//! Text goes through the product's own path; a corpus that comes with words keeps them, as in published practice, unless told otherwise.

use std::path::Path;
use std::time::Instant;

use chemtag::{Entity, TagOptions, Tagger};
use serde::Serialize;

use crate::corpus::Document;
use crate::ensemble_tagging::{predicted, tag_together};
use crate::error::Result;
use crate::score::{Counts, Predicted, Scores, write_errors};
use crate::teacher::Ensemble;

/// How the corpus is read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Every sentence alone, without its neighbours.
    pub lone_sentences: bool,
    /// Split a corpus' text into words as the product does, even where it comes with words.
    pub retokenise: bool,
}

/// Scores of a corpus and the time they took.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Overall by borders; by class where gold has classes.
    pub scores: Scores,
    /// Seconds of tagging, without loading.
    pub seconds: f64,
    /// Word pieces read, `[CLS]` and `[SEP]` included.
    pub tokens: usize,
    /// What computed: engine, device and number format.
    pub engine: String,
}

/// The last line of `chemtag-train evaluate --json`. Precision, recall and F1 in percent.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    precision: f64,
    recall: f64,
    f1: f64,
    gold: u64,
    predicted: u64,
    correct: u64,
    seconds: f64,
    tokens_per_second: f64,
    engine: String,
}

impl Evaluation {
    /// The figures in one object.
    pub fn summary(&self) -> Summary {
        let Counts { gold, predicted, correct } = self.scores.overall;
        Summary {
            precision: self.scores.overall.precision(),
            recall: self.scores.overall.recall(),
            f1: self.scores.overall.f1(),
            gold,
            predicted,
            correct,
            seconds: self.seconds,
            tokens_per_second: self.tokens as f64 / self.seconds.max(f64::EPSILON),
            engine: self.engine.clone(),
        }
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
    let predicted: Vec<Vec<Predicted>> = entities
        .iter()
        .map(|found| found.iter().map(|entity| (entity.start..entity.end, entity.class.as_deref())).collect())
        .collect();
    let scores = score(documents, &predicted, errors)?;
    let tokens = (tagger.model().activity().pieces - read_before) as usize;
    Ok(Evaluation { scores, seconds, tokens, engine: tagger.model().backend().describe() })
}

/// The same for several models that speak with one voice ([`tag_together`]); they have the same classes.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_ensemble(
    ensemble: &Ensemble,
    documents: &[Document],
    options: &Options,
    errors: Option<&Path>,
) -> Result<Evaluation> {
    let models = ensemble.models();
    let without_words: Vec<Document>;
    let read = match options.retokenise {
        true => {
            without_words = documents.iter().map(|document| Document { words: None, ..document.clone() }).collect();
            &without_words
        }
        false => documents,
    };
    let started = Instant::now();
    let (found, tokens) = tag_together(&models, read, options.lone_sentences)?;
    let seconds = started.elapsed().as_secs_f64();
    let classes = ensemble.classes()?;
    let predicted: Vec<Vec<Predicted>> = found.iter().map(|found| predicted(found, classes)).collect();
    let engines = models.first().map(|model| model.backend().describe()).unwrap_or_default();
    Ok(Evaluation {
        scores: score(documents, &predicted, errors)?,
        seconds,
        tokens,
        engine: format!("{} models together, {engines}", models.len()),
    })
}

fn score(documents: &[Document], predicted: &[Vec<Predicted>], errors: Option<&Path>) -> Result<Scores> {
    let mut scores = Scores::default();
    for (document, predicted) in documents.iter().zip(predicted) {
        scores.add_document(&document.mentions, predicted);
    }
    if let Some(path) = errors {
        write_errors(path, documents.iter().zip(predicted.iter().map(Vec::as_slice)))?;
    }
    Ok(scores)
}

fn tag<'d>(tagger: &Tagger, documents: &'d [Document], retokenise: bool) -> Result<Vec<Vec<Entity<'d>>>> {
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    let words: Option<Vec<_>> = documents.iter().map(|document| document.words.as_deref()).collect();
    Ok(match words {
        Some(words) if !retokenise => tagger.tag_words(&texts, &words)?,
        _ => tagger.tag_batch(&texts)?,
    })
}
