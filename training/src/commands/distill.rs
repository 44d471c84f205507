//! `chemtag-train distill`.

use std::path::PathBuf;

use chemtag_training::augment::Augmentation;
use chemtag_training::dataset::Reading;
use chemtag_training::distill::{Gold, Run, Settings, Student, distill};
use chemtag_training::error::Result;
use chemtag_training::loss::Losses;
use chemtag_training::posterior_shards::{self, PosteriorShards};
use chemtag_training::provenance::{Provenance, Sources};
use chemtag_training::structural::Targets;
use clap::ValueEnum;

use super::distillation::School;
use super::{CorpusArgument, DeviceArguments, add_corpora, progress_bar, read_dataset, read_devel};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    school: School,
    /// Folder of the teachers' posteriors of the text, made by `label` with the same student, teachers and text; without it the teachers read along.
    #[arg(long, value_name = "DIR")]
    labels: Option<PathBuf>,
    /// Corpora to learn from at last: FILE or FILE:TYPE,TYPE=CLASS,... (.jsonl or .conll), or one file made by `prepare` for the student.
    #[arg(long, value_name = "CORPUS", num_args = 1..)]
    gold: Vec<CorpusArgument>,
    /// Corpora that choose the best epoch on gold data, as in `finetune`.
    #[arg(long, value_name = "CORPUS", num_args = 1.., requires = "gold")]
    devel: Vec<CorpusArgument>,
    /// How gold documents are cut into training sequences.
    #[arg(long, value_enum, default_value = "mixed")]
    reading: Reading,
    /// Folder for the stages' folders and the model. A run that stopped there goes on.
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
        self.school.add_to(&mut sources)?;
        if let Some(folder) = &self.labels {
            posterior_shards::files(folder)?.iter().try_for_each(|path| sources.add_file("labels", path))?;
        }
        add_corpora(&mut sources, "gold", &self.gold)?;
        add_corpora(&mut sources, "devel", &self.devel)?;
        if let Some(reading) = self.reading.to_possible_value().filter(|_| !self.gold.is_empty()) {
            sources.add_option("reading", reading.get_name());
        }
        Ok(sources)
    }
}

pub fn run(arguments: &Arguments, recipe: String) -> Result<()> {
    candle_core::cuda::set_gemm_reduced_precision_f32(true);
    let (student, ensemble, text) = arguments.school.read(arguments.device.before_ranks())?;
    let kept = arguments.labels.as_ref().map(|folder| PosteriorShards::load(folder, &text, &ensemble)).transpose()?;
    let gold = match arguments.gold.as_slice() {
        [] => None,
        corpora => Some((
            read_dataset(corpora, arguments.reading, &Augmentation::default(), &student.pieces, &student.config)?,
            read_devel(&arguments.devel, arguments.reading, &student)?,
        )),
    };
    let provenance = Provenance { command: "distill".into(), recipe, sources: arguments.sources()? };
    let (weights, file) = arguments.school.weights()?;

    let bar = progress_bar("{prefix} {bar:30} step {pos}/{len}  {msg}  {per_sec}  {eta} left");
    arguments.device.train(|rank, name, device| {
        // Teachers read on the device of the student that they teach.
        let own = (!rank.is_alone()).then(|| arguments.school.teachers(name, &text)).transpose()?;
        let mut on_metrics = |stage: &str, step: usize, steps: usize, losses: Losses| {
            bar.set_prefix(stage.to_string());
            bar.set_length(steps as u64);
            bar.set_position(step as u64);
            bar.set_message(format!("loss {:.5} + {:.5}", losses.spans, losses.classes));
        };
        distill(
            Run {
                settings: arguments.settings.clone(),
                text: &text,
                targets: Targets { ensemble: own.as_ref().unwrap_or(&ensemble), kept: kept.as_ref() },
                rank,
                gold: gold.as_ref().map(|(train, devel)| Gold { train, devel }),
                out: arguments.out.clone(),
                provenance: &provenance,
                on_metrics: &mut on_metrics,
                stop_before: None,
            },
            &Student {
                config: student.config.clone(),
                weights: &weights,
                file: &file,
                tokenizer: &student.tokenizer,
                mask: student.pieces.id("[MASK]"),
            },
            device,
        )
    })?;
    bar.finish_and_clear();
    println!("{}: done; metrics.jsonl and loss.svg in each stage's folder tell the losses", arguments.out.display());
    Ok(())
}
