//! An encoder and annotated corpora -> a tagger: fine-tuning with the CRF's likelihood, the class head beside it.
//! One loop, top to bottom: batches of an epoch, loss, backward pass, AdamW; after each epoch the devel sets; the best epoch is kept.
//! Resumable at any checkpoint with the same curve; writes the model and the files of a run's folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use chemtag::batch::{Batch, packs};
use chemtag::model::crf::{Crf, spans};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Arithmetic;
use chemtag::{Backend, CandleBackend};
use serde::Serialize;

use crate::accumulation::{GradientMean, dropout_seed};
use crate::batches::epoch_batches;
use crate::checkpoint::{Exact, Progress};
use crate::corpus_heads::CorpusHeads;
use crate::dataset::{Dataset, Example};
use crate::error::{Error, Result};
use crate::loss::{LabelledBatch, Losses, loss_and_gradients, mask_pieces};
use crate::optimizer::{AdamW, Optimizer, Schedule};
use crate::parameters::Parameters;
use crate::provenance::Provenance;
use crate::ranks::Rank;
use crate::run_folder::{Opening, RunFolder};
use crate::score::Counts;
use crate::unfreezing::Unfreezing;

/// Settings of a run, as the command line takes them. They and the data determine the result on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Passes over the training data.
    #[arg(long, default_value_t = 8)]
    pub epochs: usize,
    /// Most pieces of a step.
    #[arg(long, default_value_t = 12_000)]
    pub batch_pieces: usize,
    /// Parts that a step is computed in, one after another, on each GPU: more parts need less memory and give the same gradient.
    #[arg(long, value_name = "K", default_value_t = 1)]
    #[serde(skip)]
    pub accumulate: usize,
    /// Peak learning rate of the encoder.
    #[arg(long, default_value_t = 2e-4)]
    pub learning_rate: f64,
    /// Factor on the learning rate for the heads and the CRF.
    #[arg(long, default_value_t = 10.)]
    pub head_factor: f64,
    /// Share of the steps that warm up.
    #[arg(long, default_value_t = 0.06)]
    pub warmup: f64,
    /// Share of an encoder variable taken off it per unit of rate.
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
    /// Share of the pieces that the network reads as `[MASK]`, so that it learns to use their neighbours.
    #[arg(long, default_value_t = 0.)]
    pub mask_pieces: f64,
    /// Decay of the running average of the weights that is scored and kept; 0 to keep the weights themselves.
    #[arg(long, default_value_t = 0.)]
    pub average_decay: f64,
    /// Share of the steps during which layers thaw one after another, from the top down to the embeddings; 0 to train all from the start.
    #[arg(long, default_value_t = 0.)]
    pub unfreeze_share: f64,
    /// Last epochs that compute in the integer engine's 8-bit format (fake quantisation), so that the model does as well in it; among them alone the best is chosen then.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(skip_serializing_if = "is_zero")]
    pub quantise_epochs: usize,
    /// Corpora (names of their folders) that mark only a part of what they mention: words that they do not mark may be anything. Not all corpora can be such.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<String>,
    /// Learn what each corpus' annotators do otherwise in a span head of its own beside the common one, which is their mean and which alone is kept.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub corpus_heads: bool,
    /// Seed of all that is random: the heads' first weights, the order of the batches, dropout, masked pieces.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 500)]
    pub checkpoint_steps: usize,
}

impl Default for Settings {
    /// What an empty command line gives.
    fn default() -> Self {
        crate::defaults()
    }
}

/// Settings that came later are written where they are used: older runs go on.
pub(crate) fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Settings {
    /// What an epoch, counted from 0, computes with.
    fn arithmetic(&self, epoch: usize) -> Arithmetic {
        if epoch + self.quantise_epochs < self.epochs { Arithmetic::Floats } else { Arithmetic::FakeQuantised }
    }
}

/// What a run reads and where it writes.
pub struct Run<'a> {
    /// Settings of the loop.
    pub settings: Settings,
    /// Training data.
    pub train: &'a Dataset,
    /// Devel data, read in each of these forms; the best epoch has the highest mean F1 over the corpora of the first. Empty: the last epoch is kept.
    pub devel: &'a [(String, Dataset)],
    /// The model's folder is written here, with the files of [`RunFolder`] beside it.
    pub out: PathBuf,
    /// Where the run comes from; its sources must be those of the checkpoint.
    pub provenance: &'a Provenance,
    /// Bytes of `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// Id of `[MASK]`; needed if pieces are masked.
    pub mask: Option<u32>,
    /// Which of the run's ranks this is; all have the same settings and data. The first scores the devel sets and writes the files.
    pub rank: &'a Rank<'a>,
    /// Told by the first rank after each step: steps done, steps of the run, the last losses.
    pub on_step: &'a mut dyn FnMut(usize, usize, Losses),
    /// The run ends, with a checkpoint, before this step; `None`: at its end.
    pub stop_before: Option<usize>,
}

/// Word-level strict scores of each corpus of a data set.
pub type CorpusScores = BTreeMap<String, Counts>;

/// Trains `parameters`. Goes on from the checkpoint in the run's folder, if there is one.
///
/// # Errors
/// If the data are empty, the run diverges, the device fails or a file cannot be written; the last checkpoint stays good.
pub fn finetune(mut run: Run, parameters: &Parameters) -> Result<()> {
    let settings = run.settings.clone();
    let lengths: Vec<usize> = run.train.examples.iter().map(|example| example.piece_ids.len()).collect();
    if lengths.is_empty() || settings.epochs == 0 || settings.batch_pieces == 0 {
        return Err(Error::Setting("there is nothing to train: no examples, no epochs or no pieces in a batch".into()));
    }
    if settings.checkpoint_steps == 0 {
        return Err(Error::Setting("checkpoint_steps is 0, but must be at least 1".into()));
    }
    if settings.quantise_epochs > settings.epochs {
        return Err(Error::Setting(format!(
            "the last {} epochs shall be quantised, but there are {}",
            settings.quantise_epochs, settings.epochs
        )));
    }
    let partial = partial_corpora(run.train, &settings)?;
    if settings.corpus_heads
        && CorpusHeads::of(parameters).is_none_or(|heads| heads.corpora() != run.train.corpora.len())
    {
        return Err(Error::Setting("the corpora shall have heads, but the model has none for each of them".into()));
    }
    let share = run.rank.share(settings.accumulate)?;
    let json = share.record(&settings)?;

    // Epochs differ a little in their number of batches, since lengths are drawn apart anew.
    let epoch_steps: Vec<usize> = (0..settings.epochs)
        .map(|epoch| epoch_batches(&lengths, settings.batch_pieces, settings.seed, epoch).len())
        .collect();
    let steps = epoch_steps.iter().sum();
    let schedule = Schedule { peak: settings.learning_rate, steps, warmup: settings.warmup, flat: 0. };
    if settings.mask_pieces > 0. && run.mask.is_none() {
        return Err(Error::Setting("pieces shall be masked, but the tokenizer has no piece [MASK]".into()));
    }
    let adamw = AdamW {
        weight_decay: settings.weight_decay,
        clip_norm: settings.clip_norm,
        average_decay: settings.average_decay,
        ..AdamW::default()
    };
    let head = |name: &str| !["distilbert.", "bert."].iter().any(|prefix| name.starts_with(prefix));
    let scale = |name: &str| if head(name) { settings.head_factor } else { 1. };
    let mut optimizer = Optimizer::of(adamw, parameters, scale)?;
    let mut unfreezing = Unfreezing::new(parameters, steps, settings.unfreeze_share)?;
    let network = parameters.network()?;
    let quantised = parameters.network_in(Arithmetic::FakeQuantised)?;
    let mut dropout = Dropout::new(settings.dropout);

    let opening = Opening {
        folder: &run.out,
        settings: &json,
        seed: settings.seed,
        provenance: run.provenance,
        rank: run.rank,
        share,
        steps,
        losses: &["span_loss", "class_loss"],
    };
    let (mut progress, mut folder) = RunFolder::open(opening, parameters, &mut optimizer)?;
    reseed(parameters.device(), &mut dropout, settings.seed, progress.step, share.first())?;

    let started = Instant::now();
    let (mut first, mut saved) = (0, progress.step);
    for (epoch, &in_epoch) in epoch_steps.iter().enumerate() {
        let last = first + in_epoch;
        if progress.step >= last {
            first = last;
            continue;
        }
        let network = match settings.arithmetic(epoch) {
            Arithmetic::Floats => &network,
            Arithmetic::FakeQuantised => &quantised,
        };
        let batches = epoch_batches(&lengths, settings.batch_pieces, settings.seed, epoch);
        for batch in &batches[progress.step - first..] {
            if run.stop_before == Some(progress.step) {
                return save(folder.as_ref(), &mut progress, parameters, &optimizer);
            }
            let mut mean = GradientMean::new(parameters);
            let mut sums = [0.; 3];
            for part in share.cut(batch, |&i| lengths[i]) {
                if parameters.device().is_cpu() {
                    reseed(parameters.device(), &mut dropout, settings.seed, progress.step, part.number)?;
                }
                let examples = part.sequences.iter().map(|&i| &run.train.examples[i]);
                let mut labelled = LabelledBatch::pack(examples, &partial);
                if let Some(mask) = run.mask {
                    let before = part.before.iter().map(|&i| lengths[i].saturating_sub(2)).sum();
                    let (share, seed) = (settings.mask_pieces, settings.seed);
                    mask_pieces(&mut labelled.batch, mask, share, seed, progress.step as u64, before);
                }
                let (losses, gradients) =
                    loss_and_gradients(parameters, network, &labelled, &mut dropout, settings.class_weight)
                        .map_err(Error::explain_memory)?;
                let words = labelled.tags.len();
                mean.add(|variable| gradients.get(variable).cloned(), words).map_err(Error::explain_memory)?;
                losses.add_to(&mut sums, words);
            }
            let gradients = mean.finish(run.rank).map_err(Error::explain_memory)?;
            let sums = run.rank.sum(sums)?;
            unfreezing.before_step(&mut optimizer, progress.step)?;
            let rate = schedule.rate(progress.step);
            optimizer.step(|variable| gradients.get(variable), rate).map_err(Error::explain_memory)?;
            progress.step += 1;
            for (sum, part) in progress.epoch_sums.iter_mut().zip(sums) {
                sum.0 += part;
            }
            if run.rank.is_first() {
                (run.on_step)(progress.step, steps, Losses::of_sums(sums));
            }
            if progress.step % settings.checkpoint_steps == 0 && progress.step < last {
                save(folder.as_ref(), &mut progress, parameters, &optimizer)?;
                reseed(parameters.device(), &mut dropout, settings.seed, progress.step, share.first())?;
                saved = progress.step;
            }
        }
        first = last;
        finish_epoch(&mut run, parameters, &optimizer, epoch, &mut progress, folder.as_mut(), started)?;
        // Writing some hundred megabytes after every epoch would take longer than a short epoch.
        if progress.step - saved >= settings.checkpoint_steps || epoch + 1 == settings.epochs {
            save(folder.as_ref(), &mut progress, parameters, &optimizer)?;
            reseed(parameters.device(), &mut dropout, settings.seed, progress.step, share.first())?;
            saved = progress.step;
        }
    }
    folder.as_mut().map_or(Ok(()), RunFolder::finish)
}

/// Which of the corpora mark only a part.
fn partial_corpora(train: &Dataset, settings: &Settings) -> Result<Vec<bool>> {
    if let Some(unknown) = settings.partial.iter().find(|name| !train.corpora.contains(name)) {
        return Err(Error::Setting(format!(
            "no corpus is named \"{unknown}\"; the training data have {}",
            train.corpora.join(", ")
        )));
    }
    let partial: Vec<bool> = train.corpora.iter().map(|name| settings.partial.contains(name)).collect();
    if !partial.contains(&false) {
        return Err(Error::Setting(
            "without a corpus that marks all of its mentions nothing tells what is none".into(),
        ));
    }
    Ok(partial)
}

/// Scores the devel sets, keeps the model if it is the best, and writes the epoch's line of metrics.
fn finish_epoch(
    run: &mut Run,
    parameters: &Parameters,
    optimizer: &Optimizer,
    epoch: usize,
    progress: &mut Progress,
    folder: Option<&mut RunFolder>,
    started: Instant,
) -> Result<()> {
    optimizer.check_finite()?;
    let [span_loss, class_loss, words] = std::mem::take(&mut progress.epoch_sums).map(|sum| sum.0);
    let Some(folder) = folder else { return Ok(()) };
    let averaged = run.settings.average_decay > 0.;
    let arithmetic = run.settings.arithmetic(epoch);
    let mut scores = vec![("devel_f1", devel_scores(run, parameters, arithmetic)?)];
    if averaged {
        optimizer.show_average()?;
        scores.push(("devel_f1_average", devel_scores(run, parameters, arithmetic)?));
    }
    let mean = scores
        .last()
        .and_then(|(_, readings)| readings.first())
        .map(|(_, by_corpus)| by_corpus.values().map(Counts::f1).sum::<f64>() / by_corpus.len().max(1) as f64);
    // The floats' scores do not tell which model is the best in 8 bits, if that is what the run ends in.
    let eligible = arithmetic == run.settings.arithmetic(run.settings.epochs - 1);
    let better = eligible
        && match (mean, progress.best) {
            (Some(f1), Some((best, _))) => f1 > best.0,
            (Some(_), None) => true,
            (None, _) => epoch + 1 == run.settings.epochs,
        };
    if better {
        parameters.save_model(&run.out, run.tokenizer)?;
        progress.best = mean.map(|f1| (Exact(f1), epoch));
    }
    if averaged {
        optimizer.show_values()?;
    }
    let mut line = serde_json::json!({
        "epoch": epoch + 1,
        "step": progress.step,
        "span_loss": span_loss / words,
        "class_loss": class_loss / words,
        "kept": better,
        "seconds": started.elapsed().as_secs_f64(),
    });
    if arithmetic == Arithmetic::FakeQuantised {
        line["quantised"] = true.into();
    }
    for (name, readings) in scores {
        let f1 = |by_corpus: &CorpusScores| -> serde_json::Map<_, _> {
            by_corpus.iter().map(|(corpus, counts)| (corpus.clone(), counts.f1().into())).collect()
        };
        let readings: serde_json::Map<_, _> = readings.iter().map(|(name, c)| (name.clone(), f1(c).into())).collect();
        line[name] = readings.into();
    }
    folder.add_metrics(line)?;
    folder.draw()
}

/// Word-level scores of each devel reading.
fn devel_scores(run: &Run, parameters: &Parameters, arithmetic: Arithmetic) -> Result<Vec<(String, CorpusScores)>> {
    let scores = |dataset| evaluate_words(parameters, dataset, arithmetic);
    run.devel.iter().map(|(name, dataset)| Ok((name.clone(), scores(dataset)?))).collect()
}

/// Strict F1 by words of each corpus, on the network as it is now.
///
/// # Errors
/// If the device fails.
pub fn evaluate_words(parameters: &Parameters, dataset: &Dataset, arithmetic: Arithmetic) -> Result<CorpusScores> {
    const PIECES: usize = 32_768;
    let backend = CandleBackend::from_network(parameters.network_in(arithmetic)?);
    let crf = parameters.crf()?;
    let mut order: Vec<&Example> = dataset.examples.iter().collect();
    order.sort_by_key(|example| example.piece_ids.len());
    let mut scores = CorpusScores::new();
    for pack in packs(&order, |example| example.piece_ids.len(), PIECES) {
        score_batch(&backend, &crf, pack, &dataset.corpora, &mut scores)?;
    }
    Ok(scores)
}

fn score_batch(
    backend: &CandleBackend,
    crf: &Crf,
    examples: &[&Example],
    corpora: &[String],
    scores: &mut CorpusScores,
) -> Result<()> {
    let mut batch = Batch::default();
    for example in examples {
        batch.push(&example.piece_ids, &example.word_starts);
    }
    let emissions = backend.emissions(&batch)?;
    for (example, words) in examples.iter().zip(batch.cu_words.windows(2)) {
        let path = crf.viterbi(&emissions.tags[words[0] as usize..words[1] as usize]);
        let predicted: Vec<_> = spans(&path).collect();
        let gold: Vec<_> = spans(&example.tags).collect();
        let counts = scores.entry(corpora[usize::from(example.corpus)].clone()).or_default();
        counts.gold += gold.len() as u64;
        counts.predicted += predicted.len() as u64;
        counts.correct += predicted.iter().filter(|span| gold.contains(span)).count() as u64;
    }
    Ok(())
}

/// Writes the checkpoint if this rank has the files.
fn save(
    folder: Option<&RunFolder>,
    progress: &mut Progress,
    parameters: &Parameters,
    optimizer: &Optimizer,
) -> Result<()> {
    folder.map_or(Ok(()), |folder| folder.save(progress, parameters, optimizer))
}

/// Dropout masks from here on depend on the seed, the step and the part alone. curand's seeding is slow, so on a GPU only checkpoints do it.
pub(crate) fn reseed(device: &Device, dropout: &mut Dropout, seed: u64, step: usize, part: usize) -> Result<()> {
    let mixed = dropout_seed(seed, step, part);
    if !device.is_cpu() {
        device.set_seed(mixed)?;
    }
    dropout.reseed(mixed);
    Ok(())
}
