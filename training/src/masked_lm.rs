//! A masked batch -> the loss of a masked language model and the gradient of every variable (Devlin et al. 2019, section 3.1).
//! Only the rows to predict go through the head: linear, GELU, LayerNorm, then the word embeddings as output matrix, and a bias.
//! On candle's operations here; on a GPU the fused ones take their place.

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Tensor};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::{Encoder, Pass};
use chemtag::model::gather::RowGather;
use chemtag::model::gradient;

use crate::error::{Error, Result};
use crate::masking::MaskedBatch;
use crate::parameters::{MaskedLmNames, Parameters, masked_lm_names, prefix};

/// Mean loss of a batch's predicted pieces, and how many of them the model gave the highest score.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MaskedLmLoss {
    /// Sum of the negative log-likelihoods.
    pub loss: f64,
    /// Predictions that were right.
    pub correct: f64,
    /// Predictions.
    pub predicted: f64,
}

impl std::ops::AddAssign for MaskedLmLoss {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.predicted += other.predicted;
    }
}

/// The loss, its mean's gradients, and the right predictions, by candle's operations.
///
/// # Errors
/// If nothing is to be predicted or the device fails.
pub fn loss_and_gradients(
    parameters: &Parameters,
    encoder: &Encoder,
    masked: &MaskedBatch,
    dropout: &mut Dropout,
) -> Result<(MaskedLmLoss, GradStore)> {
    let (sum, mut loss) = summed_loss(parameters, encoder, masked, &mut Pass::Training(dropout))?;
    let gradients = (&sum / loss.predicted)?.backward()?;
    loss.loss = f64::from(sum.to_scalar::<f32>()?);
    Ok((loss, gradients))
}

/// The loss without dropout and without gradients.
///
/// # Errors
/// As [`loss_and_gradients`].
pub fn loss(parameters: &Parameters, encoder: &Encoder, masked: &MaskedBatch) -> Result<MaskedLmLoss> {
    let (sum, mut loss) = summed_loss(parameters, encoder, masked, &mut Pass::Inference)?;
    loss.loss = f64::from(sum.to_scalar::<f32>()?);
    Ok(loss)
}

fn summed_loss(
    parameters: &Parameters,
    encoder: &Encoder,
    masked: &MaskedBatch,
    pass: &mut Pass,
) -> Result<(Tensor, MaskedLmLoss)> {
    if masked.rows.is_empty() {
        return Err(Error::Setting("a batch of masked text has nothing to predict".into()));
    }
    let config = &parameters.config().encoder;
    let MaskedLmNames { transform, norm, bias } = masked_lm_names(config.architecture);
    let variable = |name: &str| {
        let variable = parameters.variables().get(name);
        variable.ok_or_else(|| Error::Setting(format!("variable {name} is missing")))
    };
    let hidden = encoder.forward(&masked.batch, pass)?;
    let rows: Vec<Option<u32>> = masked.rows.iter().map(|&row| Some(row)).collect();
    let hidden = RowGather::new(&rows, masked.batch.pieces(), hidden.device())?.apply(&hidden)?;
    let weight = |name: &str| variable(&format!("{name}.weight"));
    let bias_of = |name: &str| variable(&format!("{name}.bias"));
    let x = hidden.matmul(&weight(transform)?.t()?)?.broadcast_add(bias_of(transform)?)?.gelu_erf()?;
    let x = gradient::layer_norm(&x, weight(norm)?, bias_of(norm)?, config.layer_norm_eps)?;
    let words = variable(&format!("{}embeddings.word_embeddings.weight", prefix(parameters.config())))?;
    let logits = x.matmul(&words.t()?)?.broadcast_add(variable(bias)?)?;
    let targets = Tensor::new(masked.targets.as_slice(), logits.device())?;
    let log_probabilities = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
    let sum = log_probabilities.gather(&targets.unsqueeze(1)?, 1)?.sum_all()?.neg()?;
    let right = logits.detach().argmax(D::Minus1)?.eq(&targets)?.to_dtype(DType::F32)?.sum_all()?;
    let correct = f64::from(right.to_scalar::<f32>()?);
    Ok((sum, MaskedLmLoss { loss: 0., correct, predicted: masked.rows.len() as f64 }))
}
