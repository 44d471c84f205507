//! An encoder or a tagger, its teachers and unlabelled text -> a tagger that gives nearly the teachers' answers at a fraction of their cost.
//! Stages one after another, each on what the one before it left (XtremeDistil, ACL 2020: that beats one weighted sum); every stage has a folder
//! of its own, is resumable, and leaves a model that can be used.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use chemtag::model::config::ModelConfig;
use chemtag::model::crf::{Crf, TAGS};
use chemtag::model::names;
use clap::Parser;
use serde::Serialize;

use crate::aligned_text::{AlignedText, TextReading};
use crate::error::{Error, Result};
use crate::loss::Losses;
use crate::optimizer::AdamW;
use crate::parameters::{Parameters, Task};
use crate::stage::{Stage, train};
use crate::structural::{PieceMasking, Structural, Targets};

/// Settings of a run, as the command line takes them. They, the text and the teachers determine the result on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Pieces of text that the student reads with its teachers' posteriors, over all passes.
    #[arg(long, default_value_t = 120_000_000)]
    pub pieces: u64,
    /// Most pieces of a step.
    #[arg(long, default_value_t = 163_840)]
    pub batch_pieces: usize,
    /// Share of the documents that are read sentence by sentence, the others in runs of neighbouring sentences.
    #[arg(long, default_value_t = 0.5)]
    pub sentence_share: f64,
    /// Peak learning rate of the encoder.
    #[arg(long, default_value_t = 4e-4)]
    pub learning_rate: f64,
    /// Factor on the learning rate for the heads and the CRF.
    #[arg(long, default_value_t = 5.)]
    pub head_factor: f64,
    /// Share of the steps that warm up.
    #[arg(long, default_value_t = 0.06)]
    pub warmup: f64,
    /// Share of a matrix taken off it per unit of rate.
    #[arg(long, default_value_t = 0.01)]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    #[arg(long, default_value_t = 1.)]
    pub clip_norm: f64,
    /// Dropout probability.
    #[arg(long, default_value_t = 0.1)]
    pub dropout: f64,
    /// Weight of the classes' divergence beside the spans'.
    #[arg(long, default_value_t = 0.3)]
    pub class_weight: f64,
    /// Share of the pieces that the student reads as `[MASK]`; its teachers read the whole text.
    #[arg(long, default_value_t = 0.)]
    pub mask_pieces: f64,
    /// Decay of the running average of the weights that is kept; 0 to keep the weights themselves.
    #[arg(long, default_value_t = 0.)]
    pub average_decay: f64,
    /// Seed of all that is random: the heads' first weights, the order and reading of the text, dropout, masked pieces.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Steps between lines of metrics.
    #[arg(long, default_value_t = 20)]
    pub metrics_steps: usize,
    /// Steps between checkpoints, a multiple of the steps between lines of metrics.
    #[arg(long, default_value_t = 500)]
    pub checkpoint_steps: usize,
}

impl Default for Settings {
    /// What an empty command line gives.
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct CommandLine {
            #[command(flatten)]
            settings: Settings,
        }
        CommandLine::parse_from([""]).settings
    }
}

/// The model that learns.
pub struct Student<'a> {
    /// Its sizes and classes, which must be the teachers'.
    pub config: ModelConfig,
    /// Bytes of its `model.safetensors`; heads and CRF may be in it.
    pub weights: &'a [u8],
    /// The weights' name in messages.
    pub file: &'a str,
    /// Bytes of `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// Id of `[MASK]`; needed if pieces are masked.
    pub mask: Option<u32>,
}

/// What a run reads and where it writes.
pub struct Run<'a> {
    /// Settings of the stages.
    pub settings: Settings,
    /// The text, the student's first.
    pub text: &'a AlignedText,
    /// The teachers' posteriors of it.
    pub targets: Targets<'a>,
    /// A folder for each stage is written here, and the last stage's model.
    pub out: PathBuf,
    /// Told after each line of metrics: the stage, steps done, steps of the stage, mean losses since the last line.
    pub on_metrics: &'a mut dyn FnMut(&str, usize, usize, Losses),
    /// The structural stage ends, with a checkpoint, before this step; `None`: at its end.
    pub stop_before: Option<usize>,
}

/// Trains the student stage by stage. Goes on from the checkpoints in the run's folder, if there are any.
///
/// # Errors
/// If student, teachers and text do not belong together, the run diverges, the device fails or a file cannot be written; the last checkpoint
/// stays good.
pub fn distill(mut run: Run, student: &Student, device: &Device) -> Result<()> {
    check(&run, student)?;
    let parameters = tagger(&run, student, device)?;
    if structural(&mut run, student, &parameters)? {
        parameters.save_model(&run.out, student.tokenizer)?;
    }
    Ok(())
}

fn check(run: &Run, student: &Student) -> Result<()> {
    let settings = &run.settings;
    let teachers = run.targets.classes()?;
    let classes = &student.config.tagger.classes;
    let reason = if teachers != classes {
        format!(
            "the student's classes are [{}], its teachers' [{}]: they must be the same",
            classes.join(", "),
            teachers.join(", ")
        )
    } else if !(0. ..=1.).contains(&settings.sentence_share) {
        format!("the share of documents read by sentences is {}, but must lie between 0 and 1", settings.sentence_share)
    } else if settings.mask_pieces > 0. && student.mask.is_none() {
        "pieces shall be masked, but the tokenizer has no piece [MASK]".into()
    } else if settings.pieces == 0 || settings.batch_pieces == 0 {
        "there is nothing to read: no pieces, or none in a batch".into()
    } else {
        return Ok(());
    };
    Err(Error::Setting(reason))
}

/// The student as a tagger. A CRF that it lacks begins as the mean of its teachers'.
fn tagger(run: &Run, student: &Student, device: &Device) -> Result<Parameters> {
    let parameters = Parameters::from_checkpoint(
        student.weights,
        student.file,
        student.config.clone(),
        Task::Tagging,
        run.settings.seed,
        device,
    )?;
    let tensors = candle_core::safetensors::load_buffer(student.weights, &Device::Cpu)?;
    if !tensors.contains_key(names::CRF_TRANSITIONS)
        && let Some(crf) = run.targets.mean_crf()
    {
        let mut values = parameters.values(DType::F32)?;
        values.extend(crf_tensors(&crf)?);
        parameters.set(&values)?;
    }
    Ok(parameters)
}

fn crf_tensors(crf: &Crf) -> Result<HashMap<String, Tensor>> {
    let tensor = |numbers: &[f32], shape: &[usize]| Tensor::from_slice(numbers, shape, &Device::Cpu);
    Ok(HashMap::from([
        (names::CRF_START.into(), tensor(&crf.start, &[TAGS])?),
        (names::CRF_END.into(), tensor(&crf.end, &[TAGS])?),
        (names::CRF_TRANSITIONS.into(), tensor(crf.transitions.as_flattened(), &[TAGS, TAGS])?),
    ]))
}

/// What determines a stage, as JSON.
fn record(run: &Run, stage: &str) -> String {
    serde_json::json!({ "stage": stage, "settings": run.settings, "teachers": run.targets.hashes() }).to_string()
}

/// Learns the teachers' posteriors; returns whether the stage is done.
fn structural(run: &mut Run, student: &Student, parameters: &Parameters) -> Result<bool> {
    const NAME: &str = "structural";
    let settings = run.settings.clone();
    let folder = run.out.join(NAME);
    let masking = |mask| PieceMasking { mask, share: settings.mask_pieces, seed: settings.seed };
    let objective = Structural {
        network: parameters.network()?,
        text: run.text,
        targets: run.targets,
        class_weight: settings.class_weight,
        masking: student.mask.map(masking),
    };
    let record = record(run, NAME);
    let stage = Stage {
        text: run.text,
        reading: reading(&settings),
        steps: steps(settings.pieces, &settings),
        learning_rate: settings.learning_rate,
        head_factor: settings.head_factor,
        warmup: settings.warmup,
        adamw: AdamW {
            weight_decay: settings.weight_decay,
            clip_norm: settings.clip_norm,
            average_decay: settings.average_decay,
            ..AdamW::default()
        },
        dropout: settings.dropout,
        metrics_steps: settings.metrics_steps,
        checkpoint_steps: settings.checkpoint_steps,
        record,
        folder: folder.clone(),
        on_metrics: &mut |step, steps, losses| (run.on_metrics)(NAME, step, steps, losses),
        stop_before: run.stop_before,
    };
    let done = train(stage, parameters, &objective)?;
    if done {
        parameters.save_model(&folder, student.tokenizer)?;
    }
    Ok(done)
}

fn reading(settings: &Settings) -> TextReading {
    TextReading { sentence_share: settings.sentence_share, batch_pieces: settings.batch_pieces, seed: settings.seed }
}

/// Steps that read so many pieces.
fn steps(pieces: u64, settings: &Settings) -> usize {
    pieces.div_ceil(settings.batch_pieces as u64) as usize
}
