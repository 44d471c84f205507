//! Unlabelled text and something to learn from it -> the parameters, trained. One loop for all stages of distillation, top to bottom: sequences of a
//! pass in random order, packed ahead in a thread; loss; backward pass; AdamW; lines of metrics.
//! Resumable at any checkpoint with the same curve; writes the files of a run's folder.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use candle_core::backprop::GradStore;
use chemtag::model::dropout::Dropout;

use crate::accumulation::{GradientMean, Part};
use crate::aligned_text::{AlignedText, TextReading, TextSequence};
use crate::error::{Error, Result};
use crate::finetune::reseed;
use crate::loss::Losses;
use crate::optimizer::{AdamW, Optimizer, Schedule};
use crate::parameters::Parameters;
use crate::provenance::Provenance;
use crate::ranks::Rank;
use crate::run_folder::{Opening, RunFolder};
use crate::unfreezing::Unfreezing;

/// Batches that are packed ahead of the one in training.
const AHEAD: usize = 3;

/// What a stage learns from a text.
pub trait Objective: Sync {
    /// A batch on its way to the model.
    type Prepared: Send;

    /// Names of the two parts of the loss in metrics; one that is empty is not written.
    fn names(&self) -> [&'static str; 2];

    /// Packs a part of a step, on a thread ahead of the loop. `step` counts from 0.
    ///
    /// # Errors
    /// If something that was kept for these sequences cannot be read.
    fn prepare(&self, part: &Part<TextSequence>, step: usize) -> Result<Self::Prepared>;

    /// Words of a batch.
    fn words(&self, batch: &Self::Prepared) -> usize;

    /// Mean losses per word and the gradients of their sum.
    ///
    /// # Errors
    /// If the run has diverged or the device fails.
    fn gradients(
        &self,
        parameters: &Parameters,
        batch: Self::Prepared,
        dropout: &mut Dropout,
    ) -> Result<(Losses, GradStore)>;
}

/// One stage's settings, as its loop wants them.
pub struct Stage<'a> {
    /// Its text.
    pub text: &'a AlignedText,
    /// How the text is read.
    pub reading: TextReading,
    /// Which of the run's ranks this is; the first writes the files.
    pub rank: &'a Rank<'a>,
    /// Parts that a rank computes of each step, one after another.
    pub accumulate: usize,
    /// Number of steps.
    pub steps: usize,
    /// Peak learning rate of the encoder.
    pub learning_rate: f64,
    /// Factor on the learning rate for what stands on the encoder.
    pub head_factor: f64,
    /// Share of the steps that warm up.
    pub warmup: f64,
    /// Share of the steps during which layers thaw one after another.
    pub unfreeze_share: f64,
    /// AdamW's constants.
    pub adamw: AdamW,
    /// Dropout probability.
    pub dropout: f64,
    /// Steps between lines of metrics.
    pub metrics_steps: usize,
    /// Steps between checkpoints, a multiple of the steps between lines of metrics.
    pub checkpoint_steps: usize,
    /// All that determines the stage but the number of parts: a checkpoint of another one is refused.
    pub record: serde_json::Value,
    /// Where the run comes from; its sources must be those of the checkpoint.
    pub provenance: &'a Provenance,
    /// Folder of the settings, the metrics and the checkpoint.
    pub folder: PathBuf,
    /// Told by the first rank after each line of metrics: steps done, steps of the stage, mean losses since the last line.
    pub on_metrics: &'a mut dyn FnMut(usize, usize, Losses),
    /// The run ends, with a checkpoint, before this step; `None`: at its end.
    pub stop_before: Option<usize>,
}

/// Trains `parameters`, which have the running average of their values at the end if there is one. Goes on from the checkpoint in the stage's
/// folder, if there is one. Returns whether the stage is done.
///
/// # Errors
/// If the run diverges, the device fails or a file cannot be written; the last checkpoint stays good.
pub fn train<O: Objective>(stage: Stage, parameters: &Parameters, objective: &O) -> Result<bool> {
    let Stage { text, reading, rank, steps, metrics_steps, checkpoint_steps, folder, record, on_metrics, .. } = stage;
    if steps == 0 || metrics_steps == 0 || checkpoint_steps == 0 || !checkpoint_steps.is_multiple_of(metrics_steps) {
        return Err(Error::Setting(
            "a stage has at least one step, and the steps between checkpoints are a multiple of those between lines of metrics"
                .into(),
        ));
    }
    let share = rank.share(stage.accumulate)?;
    let record = share.record(&record)?;
    let schedule = Schedule { peak: stage.learning_rate, steps, warmup: stage.warmup, flat: 0. };
    let head = |name: &str| !["distilbert.", "bert."].iter().any(|prefix| name.starts_with(prefix));
    let scale = |name: &str| if head(name) { stage.head_factor } else { 1. };
    let mut optimizer = Optimizer::of(stage.adamw, parameters, scale)?;
    let mut unfreezing = Unfreezing::new(parameters, steps, stage.unfreeze_share)?;
    let mut dropout = Dropout::new(stage.dropout);

    let losses = objective.names().into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>();
    let opening = Opening {
        folder: &folder,
        settings: &record,
        seed: reading.seed,
        provenance: stage.provenance,
        rank,
        share,
        steps,
        losses: &losses,
    };
    let (mut progress, mut folder) = RunFolder::open(opening, parameters, &mut optimizer)?;
    let device = parameters.device();
    reseed(device, &mut dropout, reading.seed, progress.step, share.first())?;

    let started = Instant::now();
    let first = progress.step;
    let mut words_done = 0.;
    if first < steps {
        std::thread::scope(|scope| {
            let (sender, batches) = sync_channel::<Result<Vec<_>>>(AHEAD);
            // Ends with the last batch, or when the loop has ended and dropped the receiver.
            scope.spawn(move || {
                let mut step = first;
                let sent = text.for_each_step(&reading, first, |sequences| {
                    let length = |sequence: &TextSequence| sequence.pieces.len() + 2;
                    let prepare = |part: Part<_>| Ok((part.number, objective.prepare(&part, step)?));
                    let sent = sender.send(share.cut(sequences, length).into_iter().map(prepare).collect());
                    step += 1;
                    sent.is_ok() && step < steps
                });
                if let Err(error) = sent {
                    // Nobody listens any more if the loop has ended.
                    let _ = sender.send(Err(error));
                }
            });
            for batch in batches {
                if stage.stop_before == Some(progress.step) {
                    break;
                }
                let mut mean = GradientMean::new(parameters);
                let mut sums = [0.; 3];
                for (part, batch) in batch? {
                    if device.is_cpu() {
                        reseed(device, &mut dropout, reading.seed, progress.step, part)?;
                    }
                    let words = objective.words(&batch);
                    let (losses, gradients) =
                        objective.gradients(parameters, batch, &mut dropout).map_err(Error::explain_memory)?;
                    mean.add(|variable| gradients.get(variable).cloned(), words).map_err(Error::explain_memory)?;
                    losses.add_to(&mut sums, words);
                }
                let gradients = mean.finish(rank).map_err(Error::explain_memory)?;
                let sums = rank.sum(sums)?;
                unfreezing.before_step(&mut optimizer, progress.step)?;
                let rate = schedule.rate(progress.step);
                optimizer.step(|variable| gradients.get(variable), rate).map_err(Error::explain_memory)?;
                progress.step += 1;
                words_done += sums[2];
                for (sum, part) in progress.epoch_sums.iter_mut().zip(sums) {
                    sum.0 += part;
                }
                let last = progress.step == steps;
                if progress.step % metrics_steps == 0 || last {
                    optimizer.check_finite()?;
                    let losses = Losses::of_sums(std::mem::take(&mut progress.epoch_sums).map(|sum| sum.0));
                    if let Some(folder) = &mut folder {
                        let seconds = started.elapsed().as_secs_f64();
                        let mut line = serde_json::json!({ "step": progress.step });
                        for (name, loss) in objective.names().into_iter().zip([losses.spans, losses.classes]) {
                            if !name.is_empty() {
                                line[name] = loss.into();
                            }
                        }
                        line["rate"] = rate.into();
                        line["seconds"] = seconds.into();
                        line["words_per_second"] = (words_done / seconds).into();
                        folder.add_metrics(line)?;
                        on_metrics(progress.step, steps, losses);
                    }
                }
                if progress.step % checkpoint_steps == 0 && !last {
                    if let Some(folder) = &folder {
                        folder.save(&mut progress, parameters, &optimizer)?;
                    }
                    reseed(device, &mut dropout, reading.seed, progress.step, share.first())?;
                }
            }
            Ok::<_, Error>(())
        })?;
        if let Some(folder) = &folder {
            folder.save(&mut progress, parameters, &optimizer)?;
        }
    }
    let done = progress.step == steps;
    if let Some(folder) = folder.as_mut().filter(|_| done) {
        folder.finish()?;
    }
    if done && stage.adamw.average_decay > 0. {
        optimizer.show_average()?;
    }
    Ok(done)
}
