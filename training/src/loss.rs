//! A batch with its gold tags and classes -> the loss and the gradient of every variable.
//! The CRF's negative log-likelihood and the classes' cross-entropy, with their gradients, are computed on the CPU from the heads' outputs;
//! multiplied into these outputs they give candle's backward pass exactly the gradients it needs.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::model::crf::{CrfGradient, TAGS, Tag};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Pass;
use chemtag::model::{Network, names};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dataset::{Example, NO_CLASS_INDEX};
use crate::error::Result;
use crate::parameters::Parameters;

/// Examples of one step, packed.
pub struct LabelledBatch {
    /// What the network reads.
    pub batch: Batch,
    /// Gold tag of each word.
    pub tags: Vec<Tag>,
    /// Class of each word, or [`NO_CLASS_INDEX`].
    pub classes: Vec<u8>,
}

impl LabelledBatch {
    /// Packs examples in the order given.
    pub fn pack<'e>(examples: impl IntoIterator<Item = &'e Example>) -> Self {
        let mut packed = Self { batch: Batch::default(), tags: Vec::new(), classes: Vec::new() };
        for example in examples {
            packed.batch.push(&example.piece_ids, &example.word_starts);
            packed.tags.extend_from_slice(&example.tags);
            packed.classes.extend_from_slice(&example.classes);
        }
        packed
    }

    /// Reads a share of the pieces as `mask`, drawn from the seed and the step. `[CLS]` and `[SEP]` of the sequences stay.
    pub fn mask(&mut self, mask: u32, share: f64, seed: u64, step: u64) {
        if share <= 0. {
            return;
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(!step);
        for sequence in self.batch.cu_seqlens.windows(2) {
            for piece in sequence[0] + 1..sequence[1].saturating_sub(1) {
                if random.random::<f64>() < share {
                    self.batch.piece_ids[piece as usize] = mask;
                }
            }
        }
    }
}

/// Mean losses per word.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Negative log-likelihood of the gold path.
    pub spans: f64,
    /// Cross-entropy of the classes.
    pub classes: f64,
}

/// Loss per word, `spans + class_weight * classes`, and its gradients.
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
    let output = network.forward(&labelled.batch, &mut Pass::Training(dropout))?;
    let device = parameters.device();
    let words = labelled.tags.len() as f64;

    let scores = host(&output.emissions)?;
    let crf =
        parameters.crf()?.batch_nll_and_gradient(scores.as_chunks().0, &labelled.batch.cu_words, &labelled.tags)?;
    let gradient = Tensor::from_slice(crf.emissions.as_flattened(), (labelled.tags.len(), TAGS), device)?;
    let mut surrogate = ((&output.emissions * gradient)?.sum_all()? + crf_surrogate(parameters, &crf.crf)?)?;
    let mut losses = Losses { spans: crf.loss / words, classes: 0. };

    if let Some(logits) = &output.class_logits {
        let (loss, gradient) = class_cross_entropy(&host(logits)?, logits.dim(1)?, &labelled.classes);
        let gradient = Tensor::from_vec(gradient, logits.shape(), device)?;
        surrogate = (surrogate + ((logits * gradient)?.sum_all()? * class_weight)?)?;
        losses.classes = loss / words;
    }
    Ok((losses, (surrogate / words)?.backward()?))
}

fn host(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
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

/// Summed cross-entropy of the words that have a class, and its gradient on the logits [words, classes].
fn class_cross_entropy(logits: &[f32], classes: usize, gold: &[u8]) -> (f64, Vec<f32>) {
    let mut loss = 0.;
    let mut gradient = vec![0f32; logits.len()];
    for (word, &class) in gold.iter().enumerate().filter(|&(_, &class)| class != NO_CLASS_INDEX) {
        let row = word * classes..(word + 1) * classes;
        let highest = logits[row.clone()].iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let exponentials: Vec<f64> = logits[row.clone()].iter().map(|&x| f64::from(x - highest).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        loss += sum.ln() - f64::from(logits[row.start + usize::from(class)] - highest);
        for (i, exponential) in exponentials.into_iter().enumerate() {
            let target = if i == usize::from(class) { 1. } else { 0. };
            gradient[row.start + i] = (exponential / sum - target) as f32;
        }
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_gradient_equals_central_differences() {
        let logits = [0.3f32, -1., 2., 0.1, 0.2, 0.3];
        let gold = [2, NO_CLASS_INDEX];
        let (loss, gradient) = class_cross_entropy(&logits, 3, &gold);
        let expected = -(2f64.exp() / (0.3f64.exp() + (-1f64).exp() + 2f64.exp())).ln();
        assert!((loss - expected).abs() < 1e-6);
        for i in 0..logits.len() {
            let at = |change: f32| {
                let mut moved = logits;
                moved[i] += change;
                class_cross_entropy(&moved, 3, &gold).0
            };
            let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
            assert!((difference - f64::from(gradient[i])).abs() < 1e-4, "logit {i}: {difference} {}", gradient[i]);
        }
    }
}
