//! `chemtag-train pretrain`.

use std::path::PathBuf;

use chemtag_training::error::Result;
use chemtag_training::masking::Masking;
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::pretrain::{Run, Settings, pretrain};
use chemtag_training::provenance::{Provenance, Sources};
use chemtag_training::text::TextSet;

use super::{DeviceArguments, EncoderArgument, STEPS, progress_bar};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    encoder: EncoderArgument,
    /// Texts made by `prepare-text`; one that is named twice counts twice.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Folder for the encoder, the record, curves and the checkpoint of the run. A run that stopped there goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

pub fn run(arguments: &Arguments, recipe: String) -> Result<()> {
    let start = arguments.encoder.read()?;
    let mut text = TextSet::default();
    for path in &arguments.text {
        text.append(&TextSet::load(path)?);
    }
    let mut sources = Sources::default();
    arguments.encoder.add_to(&mut sources)?;
    arguments.text.iter().try_for_each(|path| sources.add_file("text", path))?;
    let provenance = Provenance { command: "pretrain".into(), recipe, sources };
    let masking = Masking::new(arguments.settings.mask_share, &start.pieces)?;
    let (weights, name) = arguments.encoder.weights()?;
    let bar = progress_bar(STEPS);
    arguments.device.train(|rank, _, device| {
        let settings = arguments.settings.clone();
        let config = start.config.clone();
        let parameters = Parameters::from_checkpoint(&weights, &name, config, Task::MaskedLm, settings.seed, device)?;
        let mut on_metrics = |step: usize, steps: usize, loss: f64| {
            bar.set_length(steps as u64);
            bar.set_position(step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        };
        pretrain(
            Run {
                settings,
                text: &text,
                masking: &masking,
                out: arguments.out.clone(),
                provenance: &provenance,
                tokenizer: &start.tokenizer,
                rank,
                on_metrics: &mut on_metrics,
                stop_before: None,
            },
            &parameters,
        )
    })?;
    bar.finish_and_clear();
    println!("{}: done; metrics.jsonl and loss.svg beside the encoder tell the loss", arguments.out.display());
    Ok(())
}
