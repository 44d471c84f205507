//! `chemtag-train finetune`.

use std::path::PathBuf;

use chemtag_training::augment::Augmentation;
use chemtag_training::dataset::Reading;
use chemtag_training::error::Result;
use chemtag_training::finetune::{Run, Settings, finetune};
use chemtag_training::loss::Losses;
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::provenance::{Provenance, Sources};
use clap::ValueEnum;

use super::{
    CorpusArgument, DeviceArguments, EncoderArguments, STEPS, add_corpora, progress_bar, read_dataset, read_devel,
};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    encoder: EncoderArguments,
    /// Corpora to learn from: FILE or FILE:TYPE,TYPE=CLASS,... (.jsonl or .conll), or one file made by `prepare`.
    #[arg(long, value_name = "CORPUS", required = true, num_args = 1..)]
    train: Vec<CorpusArgument>,
    /// Corpora that choose the best epoch: annotated ones, read in documents and sentence by sentence, or files made by `prepare`.
    /// The mean F1 over the corpora of the first reading decides. Without devel sets the last epoch is kept.
    #[arg(long, value_name = "CORPUS", num_args = 1..)]
    devel: Vec<CorpusArgument>,
    /// Add variants of a share of the documents: KIND=SHARE,... with the kinds upper, title (case, as in headings), greek (letters spelled or not), marks
    /// (other hyphens and primes), subscripts (in formulas), swap (names for names of the same class), normalised (formulas in alphabetical order,
    /// numbers as `<nUm>`, small letters, as in a collection of materials abstracts).
    #[arg(long, value_name = "KIND=SHARE,...")]
    augment: Option<Augmentation>,
    /// How documents are cut into training sequences.
    #[arg(long, value_enum, default_value = "mixed")]
    reading: Reading,
    /// Folder for the model, the record, curves and the checkpoint of the run. A run that stopped there goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    settings: Settings,
}

impl Arguments {
    /// What the run reads.
    fn sources(&self) -> Result<Sources> {
        let mut sources = Sources::default();
        self.encoder.add_to(&mut sources)?;
        add_corpora(&mut sources, "train", &self.train)?;
        add_corpora(&mut sources, "devel", &self.devel)?;
        if let Some(reading) = self.reading.to_possible_value() {
            sources.add_option("reading", reading.get_name());
        }
        if let Some(augment) = &self.augment {
            sources.add_option("augment", augment.to_string());
        }
        Ok(sources)
    }
}

pub fn run(arguments: &Arguments, recipe: String) -> Result<()> {
    let start = arguments.encoder.read()?;
    let train = read_dataset(
        &arguments.train,
        arguments.reading,
        &arguments.augment.clone().unwrap_or_default(),
        &start.pieces,
        &start.config,
    )?;
    let devel = read_devel(&arguments.devel, arguments.reading, &start)?;
    let provenance = Provenance { command: "finetune".into(), recipe, sources: arguments.sources()? };
    candle_core::cuda::set_gemm_reduced_precision_f32(true);
    let (weights, name) = arguments.encoder.weights()?;

    let bar = progress_bar(STEPS);
    arguments.device.train(|rank, _, device| {
        let (settings, config) = (arguments.settings.clone(), start.config.clone());
        let task = match settings.corpus_heads {
            true => Task::TaggingByCorpus { corpora: train.corpora.len() },
            false => Task::Tagging,
        };
        let parameters = Parameters::from_checkpoint(&weights, &name, config, task, settings.seed, device)?;
        let mut on_step = |step: usize, steps: usize, losses: Losses| {
            bar.set_length(steps as u64);
            bar.set_position(step as u64);
            bar.set_message(format!("loss {:.4} + {:.4}", losses.spans, losses.classes));
        };
        finetune(
            Run {
                settings,
                train: &train,
                devel: &devel,
                out: arguments.out.clone(),
                provenance: &provenance,
                tokenizer: &start.tokenizer,
                mask: start.pieces.id("[MASK]"),
                rank,
                on_step: &mut on_step,
                stop_before: None,
            },
            &parameters,
        )
    })?;
    bar.finish_and_clear();
    println!(
        "{}: done; metrics.jsonl, loss.svg and f1.svg beside the model tell each epoch's losses and scores",
        arguments.out.display()
    );
    Ok(())
}
