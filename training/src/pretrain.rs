//! An encoder and unlabelled text -> the encoder, further trained as a masked language model. One loop, top to bottom: sequences of a pass in
//! random order, packed by a budget of pieces; masks; loss; backward pass; AdamW. The last share of the run reads longer sequences.
//! A step may be computed in parts, by one rank or several.
//! Resumable at any checkpoint with the same curve; writes the encoder and the files of a run's folder.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use chemtag::batch::packs;
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Encoder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::accumulation::{GradientMean, Part, dropout_seed};
use crate::error::{Error, Result};
use crate::masked_lm::{self, MaskedLmLoss};
use crate::masking::{MaskedBatch, Masking};
use crate::optimizer::{AdamW, Optimizer, Schedule};
use crate::parameters::Parameters;
use crate::provenance::Provenance;
use crate::ranks::Rank;
use crate::run_folder::{Opening, RunFolder};
use crate::text::TextSet;

/// Batches that are masked ahead of the one in training.
const AHEAD: usize = 4;

/// Settings of a run, as the command line takes them.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Pieces to read, over all passes.
    #[arg(long, default_value_t = 1_000_000_000)]
    pub pieces: u64,
    /// Most pieces of a step.
    #[arg(long, default_value_t = 131_072)]
    pub batch_pieces: usize,
    /// Parts that a step is computed in, one after another, on each GPU: more parts need less memory and give the same gradient.
    #[arg(long, value_name = "K", default_value_t = 1)]
    #[serde(skip)]
    pub accumulate: usize,
    /// Most pieces of a sequence, `[CLS]` and `[SEP]` included.
    #[arg(long, default_value_t = 128)]
    pub sequence_pieces: usize,
    /// The same for the end of the run, so that all positions are learnt.
    #[arg(long, default_value_t = 512)]
    pub long_sequence_pieces: usize,
    /// Share of the run, at its end, that reads long sequences.
    #[arg(long, default_value_t = 0.15)]
    pub long_share: f64,
    /// Share of the pieces that are masked and predicted, in whole words.
    #[arg(long, default_value_t = 0.3)]
    pub mask_share: f64,
    /// Peak learning rate.
    #[arg(long, default_value_t = 8e-4)]
    pub learning_rate: f64,
    /// Share of the steps that warm up.
    #[arg(long, default_value_t = 0.02)]
    pub warmup: f64,
    /// Share of the steps before the rate falls.
    #[arg(long, default_value_t = 0.1)]
    pub flat: f64,
    /// Decay of the mean of the squared gradients.
    #[arg(long, default_value_t = 0.98)]
    pub beta2: f64,
    /// Share of a matrix taken off it per unit of rate.
    #[arg(long, default_value_t = 0.01)]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    #[arg(long, default_value_t = 1.)]
    pub clip_norm: f64,
    /// Dropout probability.
    #[arg(long, default_value_t = 0.1)]
    pub dropout: f64,
    /// Seed of all that is random: the head's first weights, the order of the text, masks, dropout.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Steps between lines of metrics.
    #[arg(long, default_value_t = 100)]
    pub metrics_steps: usize,
    /// Steps between checkpoints, a multiple of the steps between lines of metrics.
    #[arg(long, default_value_t = 1000)]
    pub checkpoint_steps: usize,
}

impl Default for Settings {
    /// What an empty command line gives.
    fn default() -> Self {
        crate::defaults()
    }
}

/// What a run reads and where it writes.
pub struct Run<'a> {
    /// Settings of the loop.
    pub settings: Settings,
    /// The text.
    pub text: &'a TextSet,
    /// How it is masked.
    pub masking: &'a Masking,
    /// The encoder's folder is written here, with the files of [`RunFolder`] beside it.
    pub out: PathBuf,
    /// Where the run comes from; its sources must be those of the checkpoint.
    pub provenance: &'a Provenance,
    /// Bytes of `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// Which of the run's ranks this is; all have the same settings and text. The first writes the files.
    pub rank: &'a Rank<'a>,
    /// Told by the first rank after each line of metrics: steps done, steps of the run, mean loss since the last line.
    pub on_metrics: &'a mut dyn FnMut(usize, usize, f64),
    /// The run ends, with a checkpoint, before this step, a multiple of [`Settings::metrics_steps`]; `None`: at its end.
    pub stop_before: Option<usize>,
}

/// One step's sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    pass: u64,
    sequences: Vec<Range<usize>>,
}

/// Trains `parameters`. Goes on from the checkpoint in the run's folder, if there is one.
///
/// # Errors
/// If there is no text, the run diverges, the device fails or a file cannot be written; the last checkpoint stays good.
pub fn pretrain(run: Run, parameters: &Parameters) -> Result<()> {
    let Run { settings, text, masking, out, provenance, tokenizer, rank, on_metrics, stop_before } = run;
    let settings = &settings;
    check(settings, text, parameters)?;
    let share = rank.share(settings.accumulate)?;
    let json = share.record(settings)?;
    let plan = plan(settings, text);
    let schedule =
        Schedule { peak: settings.learning_rate, steps: plan.len(), warmup: settings.warmup, flat: settings.flat };
    let adamw = AdamW {
        beta2: settings.beta2,
        epsilon: 1e-6,
        weight_decay: settings.weight_decay,
        clip_norm: settings.clip_norm,
        ..AdamW::default()
    };
    let mut optimizer = Optimizer::of(adamw, parameters, |_| 1.)?;
    let mut dropout = Dropout::new(settings.dropout);

    let opening = Opening {
        folder: &out,
        settings: &json,
        seed: settings.seed,
        provenance,
        rank,
        share,
        steps: plan.len(),
        losses: &["loss"],
    };
    let (mut progress, mut folder) = RunFolder::open(opening, parameters, &mut optimizer)?;
    let mut model = MaskedLmModel::new(parameters)?;

    let started = Instant::now();
    let first = progress.step;
    let mut pieces = 0;
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel::<Result<Work>>(AHEAD);
        let todo = &plan[first..];
        // Ends with the last batch, or when the loop has ended and dropped the receiver.
        scope.spawn(move || {
            let work = |step: &Step| {
                let prepare = |part: Part<Range<usize>>| {
                    let masked = masking.batch(text.piece_ids(), part.sequences, settings.seed, step.pass);
                    Ok((part.number, Prepared::new(masked, parameters)?))
                };
                let parts = share.cut(&step.sequences, length).into_iter().map(prepare).collect::<Result<_>>()?;
                Ok(Work { pieces: step.sequences.iter().map(length).sum(), parts })
            };
            todo.iter().all(|step| sender.send(work(step)).is_ok())
        });
        for work in batches {
            if stop_before == Some(progress.step) {
                break;
            }
            let work = work?;
            pieces += work.pieces;
            let mut mean = GradientMean::new(parameters);
            for (part, batch) in work.parts {
                dropout.reseed(dropout_seed(settings.seed, progress.step, part));
                model.add_gradients(parameters, batch, &mut dropout, &mut mean).map_err(Error::explain_memory)?;
            }
            let gradients = mean.finish(rank).map_err(Error::explain_memory)?;
            let rate = schedule.rate(progress.step);
            optimizer.step(|variable| gradients.get(variable), rate).map_err(Error::explain_memory)?;
            progress.step += 1;
            let last = progress.step == plan.len();
            if progress.step % settings.metrics_steps == 0 || last {
                let losses = model.take_losses()?;
                optimizer.check_finite()?;
                let [loss, correct, predicted] = rank.sum([losses.loss, losses.correct, losses.predicted])?;
                let seconds = started.elapsed().as_secs_f64();
                if let Some(folder) = &mut folder {
                    folder.add_metrics(serde_json::json!({
                        "step": progress.step,
                        "loss": loss / predicted,
                        "accuracy": correct / predicted,
                        "rate": rate,
                        "seconds": seconds,
                        "pieces_per_second": pieces as f64 / seconds,
                    }))?;
                    on_metrics(progress.step, plan.len(), loss / predicted);
                }
            }
            if let Some(folder) = &folder
                && progress.step % settings.checkpoint_steps == 0
                && !last
            {
                folder.save(&mut progress, parameters, &optimizer)?;
            }
        }
        Ok::<_, Error>(())
    })?;
    let Some(mut folder) = folder else { return Ok(()) };
    let done = progress.step == plan.len();
    if done {
        parameters.save_model(&out, tokenizer)?;
    }
    folder.save(&mut progress, parameters, &optimizer)?;
    if done { folder.finish() } else { Ok(()) }
}

fn check(settings: &Settings, text: &TextSet, parameters: &Parameters) -> Result<()> {
    let longest = settings.sequence_pieces.max(settings.long_sequence_pieces);
    let positions = parameters.config().encoder.max_positions;
    let reason = if text.piece_ids().is_empty() || settings.pieces == 0 {
        "there is nothing to read: no text or no pieces".to_string()
    } else if settings.sequence_pieces < 3 || settings.long_sequence_pieces < 3 || longest > positions {
        format!("sequences must have between 3 and {positions} pieces, the encoder's positions")
    } else if settings.batch_pieces < longest {
        format!("a step of {} pieces is shorter than a sequence of {longest}", settings.batch_pieces)
    } else if settings.metrics_steps == 0
        || settings.checkpoint_steps == 0
        || !settings.checkpoint_steps.is_multiple_of(settings.metrics_steps)
    {
        "the steps between checkpoints must be a multiple of the steps between lines of metrics".to_string()
    } else {
        return Ok(());
    };
    Err(Error::Setting(reason))
}

/// Pieces of a sequence as it is read, `[CLS]` and `[SEP]` included.
fn length(sequence: &Range<usize>) -> usize {
    sequence.len() + 2
}

/// The steps of the whole run: passes over the text, each in an order of its own, until the pieces are read.
fn plan(settings: &Settings, text: &TextSet) -> Vec<Step> {
    let long = (settings.pieces as f64 * settings.long_share.clamp(0., 1.)) as u64;
    let mut steps = Vec::new();
    let mut pass = 0;
    for (longest, pieces) in [(settings.sequence_pieces, settings.pieces - long), (settings.long_sequence_pieces, long)]
    {
        let sequences = text.sequences(longest - 2);
        let mut read = 0;
        while read < pieces {
            let mut order = sequences.clone();
            let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
            random.set_stream(pass);
            order.shuffle(&mut random);
            let packs = packs(&order, length, settings.batch_pieces);
            let only = packs.len() == 1;
            for pack in packs {
                let pieces_of_pack: usize = pack.iter().map(length).sum();
                if read >= pieces {
                    break;
                }
                // The last one of a pass may be so short that its gradient is mostly noise.
                if only || 2 * pieces_of_pack > settings.batch_pieces {
                    read += pieces_of_pack as u64;
                    steps.push(Step { pass, sequences: pack.to_vec() });
                }
            }
            pass += 1;
        }
    }
    steps
}

/// A rank's work of one step.
struct Work {
    /// Pieces of the whole step, over all ranks.
    pieces: usize,
    /// This rank's parts with their numbers.
    parts: Vec<(usize, Prepared)>,
}

/// A part of a batch on its way to the model.
enum Prepared {
    Masked(MaskedBatch),
    #[cfg(feature = "cuda")]
    Fused(crate::fused_masked_lm::Prepared),
}

impl Prepared {
    fn new(masked: MaskedBatch, parameters: &Parameters) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if parameters.layout().is_some() {
            return Ok(Self::Fused(crate::fused_masked_lm::Prepared::new(&masked, parameters)?));
        }
        let _ = parameters;
        Ok(Self::Masked(masked))
    }
}

/// The model in training.
enum MaskedLmModel {
    /// On candle's operations.
    Tensors { encoder: Box<Encoder>, losses: MaskedLmLoss },
    #[cfg(feature = "cuda")]
    Fused(Box<crate::fused_masked_lm::FusedMaskedLm>),
}

impl MaskedLmModel {
    fn new(parameters: &Parameters) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(fused) = crate::fused_masked_lm::FusedMaskedLm::new(parameters)? {
            return Ok(Self::Fused(Box::new(fused)));
        }
        Ok(Self::Tensors { encoder: Box::new(parameters.encoder()?), losses: MaskedLmLoss::default() })
    }

    fn add_gradients(
        &mut self,
        parameters: &Parameters,
        batch: Prepared,
        dropout: &mut Dropout,
        mean: &mut GradientMean,
    ) -> Result<()> {
        match (self, batch) {
            (Self::Tensors { encoder, losses }, Prepared::Masked(masked)) => {
                let (loss, gradients) = masked_lm::loss_and_gradients(parameters, encoder, &masked, dropout)?;
                *losses += loss;
                mean.add(|variable| gradients.get(variable).cloned(), masked.rows.len())
            }
            #[cfg(feature = "cuda")]
            (Self::Fused(model), Prepared::Fused(batch)) => {
                let predicted = batch.predicted();
                let gradients = model.gradients(parameters, batch, dropout.next_pass())?;
                mean.add(|variable| gradients.get(&variable.as_tensor().id()).cloned(), predicted)
            }
            #[cfg(feature = "cuda")]
            _ => Err(Error::Setting("the batch was prepared for another device".into())),
        }
    }

    fn take_losses(&mut self) -> Result<MaskedLmLoss> {
        match self {
            Self::Tensors { losses, .. } => Ok(std::mem::take(losses)),
            #[cfg(feature = "cuda")]
            Self::Fused(model) => model.take_losses(),
        }
    }
}
