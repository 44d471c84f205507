//! A batch with its gold tags and classes, or with a teacher's posteriors of them -> the loss and the gradient of every variable.
//! The CRF's likelihood or cross-entropy and the classes' cross-entropy, with their gradients, are computed on the CPU from the heads' outputs;
//! multiplied into these outputs they give candle's backward pass exactly the gradients it needs.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use chemtag::batch::Batch;
use chemtag::model::crf::{BatchLoss, Crf, CrfGradient, TAGS, Tag, path_entropy, tag_marginals};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Pass;
use chemtag::model::{HeadOutput, Network, names};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::corpus_heads::CorpusHeads;
use crate::dataset::Example;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::partial_annotation::allowed_marginals;
use crate::teacher::WordPosteriors;

/// Examples of one step, packed.
pub struct LabelledBatch {
    /// What the network reads.
    pub batch: Batch,
    /// Gold tag of each word.
    pub tags: Vec<Tag>,
    /// Class of each word, or [`NO_CLASS_INDEX`](crate::dataset::NO_CLASS_INDEX).
    pub classes: Vec<u8>,
    /// Corpus of each word.
    pub corpora: Vec<u8>,
    /// Whether a sequence has mentions that are not marked.
    pub partial: Vec<bool>,
}

impl LabelledBatch {
    /// Packs examples in the order given. Corpora of which `partial` is true mark only a part of what they mention; it may be shorter than their number.
    pub fn pack<'e>(examples: impl IntoIterator<Item = &'e Example>, partial: &[bool]) -> Self {
        let (corpora, partly) = (Vec::new(), Vec::new());
        let mut packed =
            Self { batch: Batch::default(), tags: Vec::new(), classes: Vec::new(), corpora, partial: partly };
        for example in examples {
            packed.corpora.extend(std::iter::repeat_n(example.corpus, example.tags.len()));
            packed.partial.push(partial.get(usize::from(example.corpus)).copied().unwrap_or_default());
            packed.batch.push(&example.piece_ids, &example.word_starts);
            packed.tags.extend_from_slice(&example.tags);
            packed.classes.extend_from_slice(&example.classes);
        }
        packed
    }
}

impl LabelledBatch {
    /// What the network says of the words, as the annotators of each word's corpus would have it ([`CorpusHeads`]) where that is learnt.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward(&self, parameters: &Parameters, network: &Network, pass: &mut Pass) -> Result<HeadOutput> {
        let words = network.words(&self.batch, pass)?;
        let mut output = network.heads(&words)?;
        if let Some(heads) = CorpusHeads::of(parameters) {
            output.emissions = (output.emissions + heads.correction(&words, &self.corpora)?)?;
        }
        Ok(output)
    }
}

/// Reads a share of a batch's pieces as `mask`, drawn from the seed and the step. `[CLS]` and `[SEP]` of the sequences stay. In a batch that is a
/// part of a step, `before` pieces of the parts before it, counted without `[CLS]` and `[SEP]`, have had their draw.
pub fn mask_pieces(batch: &mut Batch, mask: u32, share: f64, seed: u64, step: u64, before: usize) {
    if share <= 0. {
        return;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(!step);
    // A 64-bit float takes two of the generator's 32-bit words.
    random.set_word_pos(2 * before as u128);
    for sequence in batch.cu_seqlens.windows(2) {
        for piece in sequence[0] + 1..sequence[1].saturating_sub(1) {
            if random.random::<f64>() < share {
                batch.piece_ids[piece as usize] = mask;
            }
        }
    }
}

/// Mean losses per word.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Negative log-likelihood of the gold path, or divergence from the teacher's distribution over paths.
    pub spans: f64,
    /// Cross-entropy of the classes, or divergence from the teacher's.
    pub classes: f64,
}

impl Losses {
    /// Adds the losses of a batch of so many words to sums: spans, classes, words.
    pub fn add_to(&self, sums: &mut [f64; 3], words: usize) {
        let words = words as f64;
        for (sum, part) in sums.iter_mut().zip([self.spans * words, self.classes * words, words]) {
            *sum += part;
        }
    }

    /// The means of such sums.
    pub fn of_sums([spans, classes, words]: [f64; 3]) -> Self {
        Self { spans: spans / words, classes: classes / words }
    }
}

/// Loss per word, `spans + class_weight * classes`, and its gradients. Of a sequence that is marked in part, the probability of all paths with the marked mentions counts.
///
/// # Errors
/// If an emission is not finite (the run has diverged) or the device fails.
pub fn loss_and_gradients(
    parameters: &Parameters,
    network: &Network,
    labelled: &LabelledBatch,
    dropout: &mut Dropout,
    class_weight: f64,
) -> Result<(Losses, GradStore)> {
    let output = labelled.forward(parameters, network, &mut Pass::Training(dropout))?;
    let host = HostOutput::read(parameters, &output)?;
    let (cu_words, tags) = (&labelled.batch.cu_words, &labelled.tags);
    let spans = if labelled.partial.contains(&true) {
        let target = allowed_marginals(&host.crf, host.emissions(), cu_words, tags, &labelled.partial)?;
        let crossed = host.crf.batch_cross_entropy_and_gradient(host.emissions(), cu_words, &target)?;
        BatchLoss { loss: crossed.loss - path_entropy(&target), ..crossed }
    } else {
        host.crf.batch_nll_and_gradient(host.emissions(), cu_words, tags)?
    };
    let gold = |word: usize, target: &mut [f64]| match target.get_mut(usize::from(labelled.classes[word])) {
        Some(class) => {
            *class = 1.;
            1.
        }
        // NO_CLASS_INDEX
        None => 0.,
    };
    let classes = class_cross_entropy(host.logits(), host.classes, gold);
    let words = labelled.tags.len() as f64;
    let losses = Losses { spans: spans.loss / words, classes: classes.loss / words };
    Ok((losses, backward(parameters, &output, &spans, classes, class_weight)?))
}

/// Divergence (Kullback-Leibler) per word of the network's distribution from the teacher's, `spans + class_weight * classes`, and its gradients.
/// Classes count by the probability that a mention begins at the word. Of several teachers, the chain with their pair marginals is meant.
///
/// # Errors
/// As [`loss_and_gradients`]; also if the target is not one of this batch.
pub fn distillation_loss_and_gradients(
    parameters: &Parameters,
    network: &Network,
    batch: &Batch,
    target: &WordPosteriors,
    dropout: &mut Dropout,
    class_weight: f64,
) -> Result<(Losses, GradStore)> {
    let output = network.forward(batch, &mut Pass::Training(dropout))?;
    let host = HostOutput::read(parameters, &output)?;
    let spans = host.crf.batch_cross_entropy_and_gradient(host.emissions(), &batch.cu_words, &target.pairs)?;
    if target.classes.len() != host.logits().len() {
        return Err(Error::Setting("the student's classes are not the teacher's".into()));
    }
    let posterior = |word: usize, row: &mut [f64]| {
        for (p, &q) in row.iter_mut().zip(&target.classes[word * host.classes..]) {
            *p = f64::from(q);
        }
        tag_marginals(&target.pairs[word])[Tag::B as usize]
    };
    let classes = class_cross_entropy(host.logits(), host.classes, posterior);
    let words = batch.words() as f64;
    let losses = Losses {
        spans: (spans.loss - path_entropy(&target.pairs)) / words,
        classes: (classes.loss - classes.entropy) / words,
    };
    Ok((losses, backward(parameters, &output, &spans, classes, class_weight)?))
}

/// The heads' outputs and the CRF on the CPU.
struct HostOutput {
    crf: Crf,
    classes: usize,
    /// Emissions, then logits.
    numbers: Vec<f32>,
    words: usize,
}

impl HostOutput {
    /// Reads all of it at once: each answer from a GPU is a wait.
    fn read(parameters: &Parameters, output: &HeadOutput) -> Result<Self> {
        let variable = |name: &str| {
            let variable = parameters.variables().get(name).map(|variable| variable.as_tensor().detach());
            variable.ok_or_else(|| Error::Setting(format!("variable {name} is missing")))
        };
        let (words, _) = output.emissions.dims2()?;
        let classes = output.class_logits.as_ref().map(|logits| logits.dim(1)).transpose()?.unwrap_or(0);
        let mut parts = vec![output.emissions.detach()];
        parts.extend(output.class_logits.as_ref().map(Tensor::detach));
        let outputs = words * (TAGS + classes);
        for name in [names::CRF_START, names::CRF_END, names::CRF_TRANSITIONS] {
            parts.push(variable(name)?);
        }
        let parts: Vec<Tensor> =
            parts.iter().map(|part| part.to_dtype(DType::F32)?.flatten_all()).collect::<candle_core::Result<_>>()?;
        let mut numbers: Vec<f32> = Tensor::cat(&parts, 0)?.to_vec1()?;
        let scores = numbers.split_off(outputs);
        let row = |i: usize| std::array::from_fn(|tag| scores[i * TAGS + tag]);
        let crf = Crf { start: row(0), end: row(1), transitions: [row(2), row(3), row(4)] };
        Ok(Self { crf, classes, numbers, words })
    }

    /// [words, 3].
    fn emissions(&self) -> &[[f32; TAGS]] {
        self.numbers[..self.words * TAGS].as_chunks().0
    }

    /// [words, classes], row by row.
    fn logits(&self) -> &[f32] {
        &self.numbers[self.words * TAGS..]
    }
}

/// The gradients of all variables, per word, from those of the heads' outputs and of the CRF.
fn backward(
    parameters: &Parameters,
    output: &HeadOutput,
    spans: &BatchLoss,
    classes: ClassLoss,
    class_weight: f64,
) -> Result<GradStore> {
    let device = parameters.device();
    let words = spans.emissions.len();
    let gradient = Tensor::from_slice(spans.emissions.as_flattened(), (words, TAGS), device)?;
    let mut surrogate = ((&output.emissions * gradient)?.sum_all()? + crf_surrogate(parameters, &spans.crf)?)?;
    if let Some(logits) = &output.class_logits {
        let gradient = Tensor::from_vec(classes.gradient, logits.shape(), device)?;
        surrogate = (surrogate + ((logits * gradient)?.sum_all()? * class_weight)?)?;
    }
    Ok((surrogate / words as f64)?.backward()?)
}

/// The CRF's variables times their gradients, summed.
fn crf_surrogate(parameters: &Parameters, gradient: &CrfGradient) -> Result<Tensor> {
    let parts = [
        (names::CRF_START, gradient.start.to_vec()),
        (names::CRF_END, gradient.end.to_vec()),
        (names::CRF_TRANSITIONS, gradient.transitions.as_flattened().to_vec()),
    ];
    let mut sum = Tensor::zeros((), DType::F32, parameters.device())?;
    for (name, numbers) in parts {
        if let Some(variable) = parameters.variables().get(name) {
            let numbers: Vec<f32> = numbers.into_iter().map(|n| n as f32).collect();
            let gradient = Tensor::from_vec(numbers, variable.shape(), parameters.device())?;
            sum = (sum + (variable.as_tensor() * gradient)?.sum_all()?)?;
        }
    }
    Ok(sum)
}

/// Loss of the class head, summed over words.
struct ClassLoss {
    /// Cross-entropy.
    loss: f64,
    /// Entropy of the targets, the least that the cross-entropy can be.
    entropy: f64,
    /// With respect to the logits [words, classes].
    gradient: Vec<f32>,
}

/// Cross-entropy of logits [words, classes]. `target` fills in a word's distribution, which is zero at first, and gives the word's weight.
fn class_cross_entropy(logits: &[f32], classes: usize, target: impl Fn(usize, &mut [f64]) -> f64 + Sync) -> ClassLoss {
    let mut gradient = vec![0f32; logits.len()];
    let width = classes.max(1);
    let rows = gradient.par_chunks_mut(width).zip(logits.par_chunks(width)).enumerate();
    let losses: Vec<[f64; 2]> = rows
        .map(|(word, (gradient, logits))| {
            let mut wanted = vec![0.; logits.len()];
            let weight = target(word, &mut wanted);
            if weight == 0. {
                return [0.; 2];
            }
            let highest = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let distances = logits.iter().map(|&x| f64::from(x - highest));
            let exponentials: Vec<f64> = distances.clone().map(f64::exp).collect();
            let sum: f64 = exponentials.iter().sum();
            let (mut loss, mut entropy) = (0., 0.);
            for (((slope, exponential), distance), &p) in
                gradient.iter_mut().zip(exponentials).zip(distances).zip(&wanted)
            {
                *slope = (weight * (exponential / sum - p)) as f32;
                if p > 0. {
                    loss += weight * p * (sum.ln() - distance);
                    entropy -= weight * p * p.ln();
                }
            }
            [loss, entropy]
        })
        .collect();
    let [loss, entropy] = [0, 1].map(|i| losses.iter().map(|parts| parts[i]).sum());
    ClassLoss { loss, entropy, gradient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_batch_mask_the_pieces_of_the_whole() {
        let sequences: Vec<Vec<u32>> = (0..20).map(|i| (10..15 + i).collect()).collect();
        let masked = |sequences: &[Vec<u32>], before| {
            let mut batch = Batch::default();
            sequences.iter().for_each(|pieces| batch.push(pieces, &[]));
            mask_pieces(&mut batch, 4, 0.3, 1, 7, before);
            batch.piece_ids
        };
        let whole = masked(&sequences, 0);
        assert!(whole.contains(&4));
        for cut in [1, 3, 10, 19] {
            let before = sequences[..cut].iter().map(|pieces| pieces.len() - 2).sum();
            assert_eq!([masked(&sequences[..cut], 0), masked(&sequences[cut..], before)].concat(), whole);
        }
    }

    #[test]
    fn class_gradient_equals_central_differences() {
        let logits = [0.3f32, -1., 2., 0.1, 0.2, 0.3, 1., 0., -1.];
        // A gold class, none, and a teacher's doubt of half the weight.
        let target = |word: usize, row: &mut [f64]| match word {
            0 => {
                row[2] = 1.;
                1.
            }
            1 => 0.,
            _ => {
                row.copy_from_slice(&[0.25, 0.75, 0.]);
                0.5
            }
        };
        let found = class_cross_entropy(&logits, 3, target);
        let gold = -(2f64.exp() / (0.3f64.exp() + (-1f64).exp() + 2f64.exp())).ln();
        let sum = (1f64.exp() + 1. + (-1f64).exp()).ln();
        assert!((found.loss - gold - 0.5 * (0.25 * (sum - 1.) + 0.75 * sum)).abs() < 1e-6);
        let entropy = -0.5 * (0.25 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
        assert!((found.entropy - entropy).abs() < 1e-12);
        for i in 0..logits.len() {
            let at = |change: f32| {
                let mut moved = logits;
                moved[i] += change;
                class_cross_entropy(&moved, 3, target).loss
            };
            let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
            let slope = f64::from(found.gradient[i]);
            assert!((difference - slope).abs() < 1e-4, "logit {i}: {difference} {slope}");
        }
    }
}
