//! `chemtag-train evaluate`.

use std::path::PathBuf;

use chemtag::{Device, LoadOptions, ModelSource, TagOptions, Tagger};
use chemtag_training::corpus::{self, Document, TypeFilter};
use chemtag_training::error::{Error, Result};
use chemtag_training::evaluate::{Evaluation, Options, evaluate, evaluate_ensemble};
use chemtag_training::score::{Counts, Scores};
use chemtag_training::teacher::Ensemble;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the model; several form an ensemble, as they teach: the mean of their posteriors decides.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// The corpus: .jsonl (compared by characters) or .conll (its tokens are the words).
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Mention types to score; all if not given.
    #[arg(long, value_name = "TYPE,...")]
    types: Option<TypeFilter>,
    /// Read every sentence alone.
    #[arg(long)]
    sentences: bool,
    /// Join a .conll corpus' tokens by spaces and split them as the product does.
    #[arg(long)]
    retokenise: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Write what was missed, spurious or cut wrongly to this file (tab-separated).
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:NUMBER.
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Threads; those of the machine if not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Smallest posterior of a mention; the model's best path if not given.
    #[arg(long, value_name = "P")]
    threshold: Option<f32>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let documents = corpus::read(&arguments.data, arguments.types.as_ref().unwrap_or(&TypeFilter::all()))?;
    let (evaluation, classes) = score(arguments, &documents)?;

    println!("engine: {}", evaluation.engine);
    println!(
        "{:<14} {:>9} {:>9} {:>9} {:>8} {:>9} {:>8}",
        "", "precision", "recall", "F1", "gold", "predicted", "correct"
    );
    for (name, counts) in rows(&evaluation.scores, &classes) {
        println!(
            "{name:<14} {:>9.2} {:>9.2} {:>9.2} {:>8} {:>9} {:>8}",
            counts.precision(),
            counts.recall(),
            counts.f1(),
            counts.gold,
            counts.predicted,
            counts.correct
        );
    }
    if arguments.json {
        let json = serde_json::to_string(&evaluation.summary()).map_err(|e| Error::Setting(e.to_string()))?;
        println!("{json}");
    }
    Ok(())
}

/// The scores, and the classes that the model knows.
fn score(arguments: &Arguments, documents: &[Document]) -> Result<(Evaluation, Vec<String>)> {
    let reading = Options { lone_sentences: arguments.sentences, retokenise: arguments.retokenise };
    let errors = arguments.errors.as_deref();
    let [model] = arguments.model.as_slice() else {
        if arguments.threshold.is_some() || arguments.threads.is_some() {
            return Err(Error::Setting("--threshold and --threads are for one model, not for several together".into()));
        }
        let ensemble = Ensemble::load(&arguments.model, arguments.device)?;
        return Ok((evaluate_ensemble(&ensemble, documents, &reading, errors)?, ensemble.classes()?.to_vec()));
    };
    let options = LoadOptions { device: arguments.device, ..LoadOptions::default() };
    let tagger = Tagger::load_with(ModelSource::from(model), options)?.with_options(TagOptions {
        threshold: arguments.threshold,
        threads: arguments.threads,
        ..TagOptions::default()
    })?;
    let classes = tagger.model().config().tagger.classes.clone();
    Ok((evaluate(&tagger, documents, &reading, errors)?, classes))
}

/// The rows of the table: overall, and each class that the corpus marks and the model knows. A corpus' own types, such as `CHEMICAL`, are
/// no classes: a model that cannot give them would score 0.
fn rows<'s>(scores: &'s Scores, classes: &[String]) -> Vec<(&'s str, &'s Counts)> {
    let known = scores.by_class.iter().filter(|(name, counts)| counts.gold > 0 && classes.contains(name));
    let known = known.map(|(name, counts)| (name.as_str(), counts));
    std::iter::once(("overall", &scores.overall)).chain(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_models_classes_have_rows() {
        let counts = |gold| Counts { gold, predicted: 1, correct: 0 };
        let by_class = [("CHEMICAL", 3), ("FAMILY", 0), ("FORMULA", 2)];
        let by_class = by_class.map(|(name, gold)| (name.to_string(), counts(gold))).into();
        let scores = Scores { overall: counts(5), by_class };
        let names = |classes: &[&str]| {
            let classes: Vec<String> = classes.iter().map(|class| class.to_string()).collect();
            rows(&scores, &classes).into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["FORMULA", "FAMILY"]), ["overall", "FORMULA"]);
        assert_eq!(names(&[]), ["overall"]);
    }
}
