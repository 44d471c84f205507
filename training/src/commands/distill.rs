//! `chemtag-train distill`.

use std::path::PathBuf;

use chemtag::Device;
use chemtag_training::distill::{Run, Settings, Student, distill};
use chemtag_training::error::Result;
use chemtag_training::loss::Losses;
use chemtag_training::structural::Targets;
use chemtag_training::teacher::Ensemble;
use indicatif::{ProgressBar, ProgressStyle};

use super::distillation::{StudentArguments, TextArguments};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    student: StudentArguments,
    /// Folders of trained models; several form an ensemble.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    teacher: Vec<PathBuf>,
    #[command(flatten)]
    text: TextArguments,
    /// Folder for the stages' folders and the model. A run that stopped there goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where to compute: auto, cpu, cuda, cuda:NUMBER.
    #[arg(long, default_value = "auto")]
    device: Device,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let device = arguments.device.open()?;
    candle_core::cuda::set_gemm_reduced_precision_f32(true);
    let mut ensemble = Ensemble::load(&arguments.teacher, arguments.device)?;
    let student = arguments.student.read(ensemble.classes()?)?;
    let text = arguments.text.read(&student, &ensemble)?;
    ensemble.read_from(&text)?;
    let (weights, file) = arguments.student.file("model.safetensors")?;

    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{prefix} {bar:30} step {pos}/{len}  {msg}  {per_sec}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
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
            targets: Targets::Live(&ensemble),
            out: arguments.out.clone(),
            on_metrics: &mut on_metrics,
            stop_before: None,
        },
        &Student {
            config: student.config,
            weights: &weights,
            file: &file,
            tokenizer: &student.tokenizer,
            mask: student.pieces.id("[MASK]"),
        },
        &device,
    )?;
    bar.finish_and_clear();
    println!("{}: done; metrics.jsonl in each stage's folder tells the losses", arguments.out.display());
    Ok(())
}
