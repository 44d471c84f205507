//! `chemtag-train calibrate`.

use std::path::PathBuf;

use chemtag::{Device, LoadOptions, ModelSource, Tagger};
use chemtag_training::corpus::Document;
use chemtag_training::error::Result;
use chemtag_training::evaluate::Options;
use chemtag_training::temperature::{Reading, fit};

use super::CorpusArgument;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of the model, or of its twin that has not learnt from these corpora.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Devel corpora: FILE or FILE:TYPE,TYPE (.jsonl or .conll). Each is read in documents and sentence by sentence.
    #[arg(long, value_name = "CORPUS", required = true, num_args = 1..)]
    data: Vec<CorpusArgument>,
    /// Where to compute: auto, cpu, cuda, cuda:NUMBER.
    #[arg(long, default_value = "auto")]
    device: Device,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let options = LoadOptions { device: arguments.device, ..LoadOptions::default() };
    let tagger = Tagger::load_with(ModelSource::from(&arguments.model), options)?;
    let read = |corpus: &CorpusArgument| Ok((corpus.name(), corpus.documents()?));
    let corpora: Vec<(String, Vec<Document>)> = arguments.data.iter().map(read).collect::<Result<_>>()?;
    let mut readings = Vec::new();
    for (name, documents) in &corpora {
        for (way, lone_sentences) in [("documents", false), ("sentences", true)] {
            let options = Options { lone_sentences, ..Options::default() };
            readings.push(Reading { name: format!("{name}, {way}"), documents, options });
        }
    }
    let (temperature, fitted) = fit(&tagger, &readings)?;
    println!("{:<32} {:>10} {:>10} {:>10} {:>10}", "", "log loss", "then", "ECE, %", "then");
    for reading in &fitted {
        let [before, after] = [&reading.before, &reading.after].map(|c| (c.log_loss(), c.error()));
        let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        println!(
            "{:<32} {:>10} {:>10} {:>10} {:>10}",
            reading.name,
            number(before.0, 4),
            number(after.0, 4),
            number(before.1, 2),
            number(after.1, 2)
        );
    }
    println!(
        "temperature {temperature:.3}; chemtag-train export --temperature {temperature:.3} writes a model with it"
    );
    Ok(())
}
