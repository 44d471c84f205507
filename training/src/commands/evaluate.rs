//! `chemtag-train evaluate`.

use std::path::PathBuf;

use chemtag::{Device, LoadOptions, ModelSource, TagOptions, Tagger};
use chemtag_training::bootstrap::Interval;
use chemtag_training::corpus::{self, Document, TypeFilter};
use chemtag_training::error::{Error, Result};
use chemtag_training::evaluate::{Comparison, Evaluation, Options, count_spans, evaluate};
use chemtag_training::files::write_atomically;
use chemtag_training::machine::device_name;
use chemtag_training::mixture::Mixture;
use chemtag_training::score::Counts;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the model.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The corpus: .jsonl (compared by characters) or .conll (its tokens are the words).
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Mention types to score; all if not given.
    #[arg(long, value_name = "TYPE,...")]
    types: Option<TypeFilter>,
    /// Folders of other models, such as the model's teachers, to score on the same corpus; the spans of several have the mean of their posteriors.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Read every sentence alone.
    #[arg(long)]
    sentences: bool,
    /// Find names again elsewhere in a document that were found with a probability of at least P, as `chemtag tag --repeat` does.
    #[arg(long, value_name = "P", num_args = 0..=1, require_equals = true, default_missing_value = "0.9")]
    repeat: Option<f32>,
    /// Join a .conll corpus' tokens by spaces and split them as the product does.
    #[arg(long)]
    retokenise: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Write what was missed, spurious or cut wrongly to this file (tab-separated).
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// Draw to this file how often spans are right, by their posterior.
    #[arg(long, value_name = "FILE.svg")]
    reliability: Option<PathBuf>,
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
    let tagger = arguments.tagger(&arguments.model)?;
    let reading = arguments.reading();
    let evaluation = evaluate(&tagger, &documents, &reading, arguments.errors.as_deref())?;
    if let Some(path) = &arguments.reliability {
        write_atomically(path, evaluation.calibration.diagram().svg()?.as_bytes())?;
    }
    let against = match arguments.against.as_slice() {
        [] => None,
        folders => {
            let models = folders.iter().map(|folder| folder.display().to_string()).collect();
            Some(evaluation.against(models, &arguments.others(folders, &documents)?))
        }
    };
    let threads = arguments.threads.unwrap_or_else(rayon::current_num_threads);
    let machine = device_name(&arguments.device.open()?, threads);
    let classes = &tagger.model().config().tagger.classes;
    print(&evaluation, classes, &machine, against.as_ref());
    if arguments.json {
        let json = serde_json::to_string(&evaluation.summary(classes, &machine, against));
        println!("{}", json.map_err(|e| Error::Setting(e.to_string()))?);
    }
    Ok(())
}

impl Arguments {
    fn reading(&self) -> Options {
        Options { lone_sentences: self.sentences, retokenise: self.retokenise, repeat: self.repeat }
    }

    fn tagger(&self, folder: &PathBuf) -> Result<Tagger> {
        let options = LoadOptions { device: self.device, ..LoadOptions::default() };
        Ok(Tagger::load_with(ModelSource::from(folder), options)?.with_options(TagOptions {
            threshold: self.threshold,
            threads: self.threads,
            ..TagOptions::default()
        })?)
    }

    /// Counts of other models: of one as of the model itself, of several by the mean of their posteriors.
    fn others(&self, folders: &[PathBuf], documents: &[Document]) -> Result<Counts> {
        match folders {
            [folder] => Ok(evaluate(&self.tagger(folder)?, documents, &self.reading(), None)?.scores.overall),
            folders => {
                let mixture = Mixture::load(folders, self.device)?;
                Ok(count_spans(documents, &mixture.tag(documents, &self.reading())?))
            }
        }
    }
}

fn print(evaluation: &Evaluation, classes: &[String], machine: &str, against: Option<&Comparison>) {
    println!("engine: {}", evaluation.engine);
    println!(
        "{:<14} {:>9} {:>9} {:>9} {:>8} {:>9} {:>8}",
        "", "precision", "recall", "F1", "gold", "predicted", "correct"
    );
    for (name, counts) in std::iter::once(("overall", &evaluation.scores.overall)).chain(evaluation.of_classes(classes))
    {
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
    if let Some(intervals) = evaluation.intervals() {
        let text = |[low, high]: Interval| format!("{low:.2} to {high:.2}");
        println!(
            "95 % intervals over {} documents: precision {}, recall {}, F1 {}",
            evaluation.documents.len(),
            text(intervals.precision),
            text(intervals.recall),
            text(intervals.f1)
        );
    }
    if let Some(error) = evaluation.calibration.error() {
        println!("expected calibration error of span posteriors: {error:.2} %");
    }
    if let Some(Comparison { models, f1, retention }) = against {
        println!("F1 of {}: {f1:.2}, of which the model keeps {retention:.2} %", models.join(" + "));
    }
    println!(
        "speed on this machine, {machine}: {:.0} words/s, {:.0} pieces/s",
        evaluation.per_second(evaluation.words),
        evaluation.per_second(evaluation.tokens)
    );
}
