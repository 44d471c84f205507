//! An encoder or a tagger, its teachers and unlabelled text -> a tagger that gives nearly the teachers' answers at a fraction of their cost.
//! Stages one after another, each on what the one before it left (XtremeDistil, ACL 2020: that beats one weighted sum); each has a folder of its
//! own and is resumable, and the last one's model is the result.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use chemtag::model::config::ModelConfig;
use chemtag::model::crf::{Crf, TAGS};
use chemtag::model::names;
use serde::Serialize;

use crate::aligned_text::{AlignedText, TextReading};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::files::{remove_leftovers, write_atomically};
use crate::finetune;
use crate::loss::Losses;
use crate::optimizer::AdamW;
use crate::parameters::{MAP, Parameters, Task};
use crate::provenance::Provenance;
use crate::ranks::Rank;
use crate::representations::{Representations, TeacherEncoder};
use crate::stage::{Stage, train};
use crate::structural::{PieceMasking, Structural, Targets};

/// The stage that learns a teacher's hidden states, and its folder.
pub const REPRESENTATIONS: &str = "representations";
/// The stage that learns the teachers' posteriors, and its folder.
pub const STRUCTURAL: &str = "structural";
/// The stage that learns gold data, and its folder.
pub const GOLD: &str = "gold";

/// Settings of a run, as the command line takes them. They, the text and the teachers determine the result on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Pieces of text from which the student learns the first teacher's hidden states, over all passes; 0 to leave this stage out.
    #[arg(long, default_value_t = 0)]
    pub representation_pieces: u64,
    /// Peak learning rate of the encoder in that stage.
    #[arg(long, default_value_t = 4e-4)]
    pub representation_learning_rate: f64,
    /// Pieces of text from which the student learns its teachers' posteriors, over all passes; 0 to leave this stage out.
    #[arg(long, default_value_t = 120_000_000)]
    pub pieces: u64,
    /// Most pieces of a step on unlabelled text.
    #[arg(long, default_value_t = 163_840)]
    pub batch_pieces: usize,
    /// Parts that a step is computed in, one after another, on each GPU, in every stage: more parts need less memory and give the same gradient.
    #[arg(long, value_name = "K", default_value_t = 1)]
    #[serde(skip)]
    pub accumulate: usize,
    /// Share of the documents that are read sentence by sentence, the others in runs of neighbouring sentences.
    #[arg(long, default_value_t = 0.5)]
    pub sentence_share: f64,
    /// Peak learning rate of the encoder on posteriors.
    #[arg(long, default_value_t = 4e-4)]
    pub learning_rate: f64,
    /// Factor on the learning rate for what stands on the encoder, on unlabelled text.
    #[arg(long, default_value_t = 5.)]
    pub head_factor: f64,
    /// Passes over the gold data at the end, if there are any.
    #[arg(long, default_value_t = 2)]
    pub gold_epochs: usize,
    /// Last passes over the gold data that compute in the integer engine's 8-bit format, as in fine-tuning.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(skip_serializing_if = "finetune::is_zero")]
    pub quantise_epochs: usize,
    /// Most pieces of a step on gold data.
    #[arg(long, default_value_t = 12_000)]
    pub gold_batch_pieces: usize,
    /// Peak learning rate of the encoder on gold data.
    #[arg(long, default_value_t = 8e-5)]
    pub gold_learning_rate: f64,
    /// Factor on it for the heads and the CRF.
    #[arg(long, default_value_t = 10.)]
    pub gold_head_factor: f64,
    /// Share of the steps that warm up, in each stage.
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
    /// Weight of the classes' loss beside the spans'.
    #[arg(long, default_value_t = 0.3)]
    pub class_weight: f64,
    /// Share of the pieces that the student reads as `[MASK]`; its teachers read the whole text.
    #[arg(long, default_value_t = 0.)]
    pub mask_pieces: f64,
    /// Share of the steps on posteriors, and of those on gold data, during which layers thaw one after another, from the top down to the
    /// embeddings; 0 to train all from the start.
    #[arg(long, default_value_t = 0.)]
    pub unfreeze_share: f64,
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
        crate::defaults()
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
    /// Which of the run's ranks this is; all have the same settings, text and teachers. The first writes the files.
    pub rank: &'a Rank<'a>,
    /// A folder for each stage is written here, and the last stage's model and recipe.
    pub out: PathBuf,
    /// Where the run comes from; its sources must be those of the checkpoints.
    pub provenance: &'a Provenance,
    /// Gold data for the last stage; `None` to leave it out.
    pub gold: Option<Gold<'a>>,
    /// Told by the first rank after each line of metrics, on gold data after each step: the stage, steps done, steps of the stage, mean losses since the last time.
    pub on_metrics: &'a mut dyn FnMut(&str, usize, usize, Losses),
    /// The run ends, with a checkpoint, before this step of this stage; `None`: at its end.
    pub stop_before: Option<(&'static str, usize)>,
}

/// What the last stage reads.
#[derive(Clone, Copy)]
pub struct Gold<'a> {
    /// Training data.
    pub train: &'a Dataset,
    /// Devel data that choose the best epoch, as in fine-tuning.
    pub devel: &'a [(String, Dataset)],
}

/// Trains the student stage by stage. Goes on from the checkpoints in the run's folder, if there are any.
///
/// # Errors
/// If student, teachers and text do not belong together, the run diverges, the device fails or a file cannot be written; the last checkpoint
/// stays good.
pub fn distill(mut run: Run, student: &Student, device: &Device) -> Result<()> {
    check(&run, student)?;
    let parameters = tagger(&run, student, device)?;
    let mut stages = Vec::new();
    if run.settings.representation_pieces > 0 {
        let Some(values) = representations(&mut run, student, device)? else { return Ok(()) };
        let mut tensors = parameters.values(DType::F32)?;
        tensors.extend(values);
        parameters.set(&tensors)?;
        stages.push(REPRESENTATIONS);
    }
    if run.settings.pieces > 0 {
        if !structural(&mut run, student, &parameters)? {
            return Ok(());
        }
        stages.push(STRUCTURAL);
    }
    if let Some(gold) = run.gold {
        if !learn_gold(&mut run, gold, student, &parameters)? {
            return Ok(());
        }
        stages.push(GOLD);
    }
    if run.rank.is_first() { publish(&run.out, &stages) } else { Ok(()) }
}

/// Copies the last stage's model and recipe to the run's folder, with the records of all stages.
fn publish(out: &Path, stages: &[&str]) -> Result<()> {
    remove_leftovers(out)?;
    let read = |stage: &str, name: &str| {
        let path = out.join(stage).join(name);
        std::fs::read(&path).map_err(|e| Error::io("read", &path, e))
    };
    let mut records = serde_json::Map::new();
    for stage in stages {
        let record = serde_json::from_slice(&read(stage, "run.json")?).map_err(|e| Error::Dataset {
            path: out.join(stage).join("run.json"),
            reason: format!("is no record of a run ({e}): remove the stage's folder or restore the file"),
        })?;
        records.insert(stage.to_string(), record);
    }
    let records = serde_json::to_string_pretty(&serde_json::json!({ "stages": records }));
    let records = records.map_err(|e| Error::Setting(e.to_string()))?;
    write_atomically(&out.join("run.json"), format!("{records}\n").as_bytes())?;
    if let Some(last) = stages.last() {
        for name in ["recipe.toml", "model.safetensors", "tokenizer.json", "config.json"] {
            write_atomically(&out.join(name), &read(last, name)?)?;
        }
    }
    Ok(())
}

fn check(run: &Run, student: &Student) -> Result<()> {
    let settings = &run.settings;
    let gold_epochs = if run.gold.is_some() { settings.gold_epochs } else { 0 };
    let teachers = run.targets.ensemble.classes()?;
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
    } else if (settings.pieces == 0 && run.gold.is_none()) || settings.batch_pieces == 0 {
        "there is nothing to learn for the heads: neither pieces nor gold, or no pieces in a batch".into()
    } else if settings.quantise_epochs > gold_epochs {
        format!(
            "the last {} passes over gold data shall be quantised, but there are {gold_epochs}",
            settings.quantise_epochs
        )
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
    if !tensors.contains_key(names::CRF_TRANSITIONS) {
        let mut values = parameters.values(DType::F32)?;
        values.extend(crf_tensors(&run.targets.ensemble.mean_crf())?);
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

/// Learns the first teacher's hidden states; returns the encoder's values when the stage is done.
fn representations(run: &mut Run, student: &Student, device: &Device) -> Result<Option<HashMap<String, Tensor>>> {
    let teacher = TeacherEncoder::load(run.targets.ensemble, device)?;
    let task = Task::Representations { width: teacher.width() };
    let (config, seed) = (student.config.clone(), run.settings.seed);
    let parameters = Parameters::from_checkpoint(student.weights, student.file, config, task, seed, device)?;
    let objective = Representations::new(&parameters, run.text, teacher)?;
    let (pieces, rate) = (run.settings.representation_pieces, run.settings.representation_learning_rate);
    let done = with_stage(run, REPRESENTATIONS, pieces, rate, |stage| train(stage, &parameters, &objective))?;
    let mut values = parameters.values(DType::F32)?;
    values.retain(|name, _| !MAP.contains(&name.as_str()));
    Ok(done.then_some(values))
}

/// Learns the teachers' posteriors; returns whether the stage is done.
fn structural(run: &mut Run, student: &Student, parameters: &Parameters) -> Result<bool> {
    let settings = &run.settings;
    let masking = |mask| PieceMasking { mask, share: settings.mask_pieces, seed: settings.seed };
    let objective = Structural {
        network: parameters.network()?,
        text: run.text,
        targets: run.targets,
        class_weight: settings.class_weight,
        masking: student.mask.map(masking),
    };
    let (pieces, rate) = (settings.pieces, settings.learning_rate);
    let done = with_stage(run, STRUCTURAL, pieces, rate, |stage| train(stage, parameters, &objective))?;
    if done && run.rank.is_first() {
        parameters.save_model(&run.out.join(STRUCTURAL), student.tokenizer)?;
    }
    Ok(done)
}

/// Learns gold tags and classes; returns whether the stage is done.
fn learn_gold(run: &mut Run, gold: Gold, student: &Student, parameters: &Parameters) -> Result<bool> {
    let own = &run.settings;
    let settings = finetune::Settings {
        epochs: own.gold_epochs,
        quantise_epochs: own.quantise_epochs,
        batch_pieces: own.gold_batch_pieces,
        accumulate: own.accumulate,
        learning_rate: own.gold_learning_rate,
        head_factor: own.gold_head_factor,
        warmup: own.warmup,
        weight_decay: own.weight_decay,
        clip_norm: own.clip_norm,
        dropout: own.dropout,
        class_weight: own.class_weight,
        mask_pieces: own.mask_pieces,
        average_decay: own.average_decay,
        unfreeze_share: own.unfreeze_share,
        partial: Vec::new(),
        corpus_heads: false,
        seed: own.seed,
        checkpoint_steps: own.checkpoint_steps,
    };
    let mut done = true;
    let stop_before = stop_of(run, GOLD);
    finetune::finetune(
        finetune::Run {
            settings,
            train: gold.train,
            devel: gold.devel,
            out: run.out.join(GOLD),
            provenance: run.provenance,
            tokenizer: student.tokenizer,
            mask: student.mask,
            rank: run.rank,
            on_step: &mut |step, steps, losses| {
                done = step == steps;
                (run.on_metrics)(GOLD, step, steps, losses);
            },
            stop_before,
        },
        parameters,
    )?;
    Ok(done && stop_before.is_none())
}

fn stop_of(run: &Run, stage: &str) -> Option<usize> {
    run.stop_before.filter(|(name, _)| *name == stage).map(|(_, step)| step)
}

/// Calls `train` with a stage that reads the text.
fn with_stage<R>(
    run: &mut Run,
    name: &'static str,
    pieces: u64,
    learning_rate: f64,
    train: impl FnOnce(Stage) -> Result<R>,
) -> Result<R> {
    let settings = &run.settings;
    let teachers = run.targets.ensemble.hashes();
    // The last stage may read other gold than when these stages began.
    let sources = run.provenance.sources.without(&["gold", "devel", "reading"]);
    let provenance = Provenance { sources, ..run.provenance.clone() };
    train(Stage {
        text: run.text,
        reading: TextReading {
            sentence_share: settings.sentence_share,
            batch_pieces: settings.batch_pieces,
            seed: settings.seed,
        },
        rank: run.rank,
        accumulate: settings.accumulate,
        steps: pieces.div_ceil(settings.batch_pieces as u64) as usize,
        learning_rate,
        head_factor: settings.head_factor,
        warmup: settings.warmup,
        // What stands on the encoder in the first stage is thrown away: it has nothing to thaw for.
        unfreeze_share: if name == REPRESENTATIONS { 0. } else { settings.unfreeze_share },
        adamw: AdamW {
            weight_decay: settings.weight_decay,
            clip_norm: settings.clip_norm,
            average_decay: settings.average_decay,
            ..AdamW::default()
        },
        dropout: settings.dropout,
        metrics_steps: settings.metrics_steps,
        checkpoint_steps: settings.checkpoint_steps,
        record: serde_json::json!({ "stage": name, "settings": settings, "teachers": teachers }),
        provenance: &provenance,
        folder: run.out.join(name),
        stop_before: stop_of(run, name),
        on_metrics: &mut |step, steps, losses| (run.on_metrics)(name, step, steps, losses),
    })
}
