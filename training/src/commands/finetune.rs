//! `chemtag-train finetune`.

use std::path::PathBuf;

use chemtag::Device;
use chemtag_training::dataset::{Dataset, Reading};
use chemtag_training::error::Result;
use chemtag_training::finetune::{Run, Settings, finetune};
use chemtag_training::loss::Losses;
use chemtag_training::parameters::Parameters;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CorpusArgument, EncoderArguments, read_dataset};

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
    /// How documents are cut into training sequences.
    #[arg(long, value_enum, default_value = "mixed")]
    reading: Reading,
    /// Folder for the model, settings.json, metrics.jsonl and the checkpoint. A run that stopped there goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where to compute: auto, cpu, cuda, cuda:NUMBER.
    #[arg(long, default_value = "auto")]
    device: Device,
    #[command(flatten)]
    settings: SettingsArguments,
}

#[derive(clap::Args)]
struct SettingsArguments {
    /// Passes over the training data.
    #[arg(long, default_value_t = Settings::default().epochs)]
    epochs: usize,
    /// Most pieces of a step.
    #[arg(long, default_value_t = Settings::default().batch_pieces)]
    batch_pieces: usize,
    /// Peak learning rate of the encoder.
    #[arg(long, default_value_t = Settings::default().learning_rate)]
    learning_rate: f64,
    /// Factor on the learning rate for the heads and the CRF.
    #[arg(long, default_value_t = Settings::default().head_factor)]
    head_factor: f64,
    /// Share of the steps that warm up.
    #[arg(long, default_value_t = Settings::default().warmup)]
    warmup: f64,
    /// AdamW's weight decay.
    #[arg(long, default_value_t = Settings::default().weight_decay)]
    weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    #[arg(long, default_value_t = Settings::default().clip_norm)]
    clip_norm: f64,
    /// Dropout probability.
    #[arg(long, default_value_t = Settings::default().dropout)]
    dropout: f64,
    /// Weight of the classes' loss beside the spans'.
    #[arg(long, default_value_t = Settings::default().class_weight)]
    class_weight: f64,
    /// Share of the pieces that are read as `[MASK]`.
    #[arg(long, default_value_t = Settings::default().mask_pieces)]
    mask_pieces: f64,
    /// Decay of the running average of the weights that is kept; 0 keeps the weights themselves.
    #[arg(long, default_value_t = Settings::default().average_decay)]
    average_decay: f64,
    /// Seed of all that is random.
    #[arg(long, default_value_t = Settings::default().seed)]
    seed: u64,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = Settings::default().checkpoint_steps)]
    checkpoint_steps: usize,
}

impl SettingsArguments {
    fn settings(&self) -> Settings {
        Settings {
            epochs: self.epochs,
            batch_pieces: self.batch_pieces,
            learning_rate: self.learning_rate,
            head_factor: self.head_factor,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
            dropout: self.dropout,
            class_weight: self.class_weight,
            mask_pieces: self.mask_pieces,
            average_decay: self.average_decay,
            seed: self.seed,
            checkpoint_steps: self.checkpoint_steps.max(1),
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let start = arguments.encoder.read()?;
    let read = |corpora: &[CorpusArgument], reading| read_dataset(corpora, reading, &start.pieces, &start.config);
    let train = read(&arguments.train, arguments.reading)?;
    let mut devel: Vec<(String, Dataset)> = Vec::new();
    if arguments.devel.iter().all(CorpusArgument::is_prepared) {
        for file in &arguments.devel {
            devel.push((file.stem(), read(std::slice::from_ref(file), arguments.reading)?));
        }
    } else {
        devel.push(("documents".into(), read(&arguments.devel, Reading::Documents)?));
        devel.push(("sentences".into(), read(&arguments.devel, Reading::Sentences)?));
    }
    let device = arguments.device.open()?;
    candle_core::cuda::set_gemm_reduced_precision_f32(true);
    let settings = arguments.settings.settings();
    let (weights, name) = arguments.encoder.file("model.safetensors")?;
    let parameters = Parameters::from_checkpoint(&weights, &name, start.config, settings.seed, &device)?;

    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} step {pos}/{len}  {msg}  {per_sec}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
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
            tokenizer: &start.tokenizer,
            mask: start.pieces.id("[MASK]"),
            on_step: &mut on_step,
            stop_before: None,
        },
        &parameters,
    )?;
    bar.finish_and_clear();
    println!("{}: done; metrics.jsonl beside the model tells each epoch's scores", arguments.out.display());
    Ok(())
}
