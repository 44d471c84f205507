//! A masked batch -> the gradient of every variable, on a GPU by fused operations (the same as [`crate::masked_lm`], which is the reference).
//! Only the rows to predict go through the head, a portion of them at a time: logits of a portion are 16-bit, become their own gradient in
//! place, and are gone before the next. Nothing waits for the device; losses add up there until they are asked for.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, DriverError};
use candle_core::{CudaDevice, DType, Device, Tensor, TensorId};
use chemtag::cuda::column_sums::{self, ColumnSums};
use chemtag::cuda::cross_entropy::CrossEntropy;
use chemtag::cuda::dropout::Dropout as Site;
use chemtag::cuda::encoder::{EncoderOperations, PassDropout};
use chemtag::cuda::fused::{tensor, with_memory, with_weights};
use chemtag::cuda::gather_rows::GatherRows;
use chemtag::cuda::gelu::Gelu;
use chemtag::cuda::inputs::HostInputs;
use chemtag::cuda::layer_norm::{self, Norm, NormGradients, SavedNorm};
use chemtag::cuda::residual_norm::ResidualNorm;
use half::bf16;

use crate::error::{Error, Result};
use crate::masked_lm::MaskedLmLoss;
use crate::masking::MaskedBatch;
use crate::parameters::{ENCODER, MaskedLmNames, Parameters, masked_lm_names};

/// Rows whose logits are in memory at once: 0.8 GB with 24,000 pieces.
const PORTION: usize = 16_384;

/// A batch made ready on the CPU.
#[derive(Clone)]
pub struct Prepared {
    inputs: HostInputs,
    rows: Vec<u32>,
    targets: Vec<u32>,
}

impl Prepared {
    /// Prepares a batch; any thread may do that.
    ///
    /// # Errors
    /// If there is nothing to predict or a piece is not one of the encoder's.
    pub fn new(masked: &MaskedBatch, parameters: &Parameters) -> Result<Self> {
        if masked.rows.is_empty() {
            return Err(Error::Setting("a batch of masked text has nothing to predict".into()));
        }
        let inputs = HostInputs::new(&masked.batch, &parameters.config().encoder, true)?;
        Ok(Self { inputs, rows: masked.rows.clone(), targets: masked.targets.clone() })
    }

    /// Number of pieces to predict.
    pub fn predicted(&self) -> usize {
        self.rows.len()
    }
}

/// The operations of the model in training.
pub struct FusedMaskedLm {
    stream: Arc<CudaStream>,
    device: CudaDevice,
    encoder: EncoderOperations<bf16>,
    gather: GatherRows<bf16>,
    gelu: Gelu<bf16>,
    norm: ResidualNorm<bf16>,
    cross_entropy: CrossEntropy<bf16>,
    sums: ColumnSums<bf16>,
    /// Loss and right predictions since they were last asked for, on the device, and the number of predictions.
    losses: Option<(Tensor, Tensor)>,
    predicted: usize,
}

fn failed(e: DriverError) -> Error {
    chemtag::Error::Device(format!("a step of training failed on the GPU: {e:?}")).into()
}

impl FusedMaskedLm {
    /// Loads the kernels; `None` if the parameters are not on a GPU.
    ///
    /// # Errors
    /// If the driver refuses them.
    pub fn new(parameters: &Parameters) -> Result<Option<Self>> {
        let Device::Cuda(device) = parameters.device() else { return Ok(None) };
        let vocabulary = parameters.config().encoder.vocab_size;
        if !vocabulary.is_multiple_of(32) {
            return Err(Error::Setting(format!(
                "pre-training on a GPU needs a vocabulary whose size is a multiple of 32, not of {vocabulary} pieces"
            )));
        }
        let stream = device.cuda_stream();
        Ok(Some(Self {
            encoder: EncoderOperations::load(&stream, &parameters.config().encoder)?,
            gather: GatherRows::load(&stream)?,
            gelu: Gelu::load(&stream)?,
            norm: ResidualNorm::load(&stream)?,
            cross_entropy: CrossEntropy::load(&stream)?,
            sums: ColumnSums::load(&stream)?,
            losses: None,
            predicted: 0,
            device: device.clone(),
            stream,
        }))
    }

    /// Memory whose content nobody reads before it is written.
    fn room<T: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>> {
        // Safety: every operation below writes all of its output before another one reads it.
        unsafe { self.stream.alloc(count) }.map_err(failed)
    }

    /// The gradients of the mean loss of a batch's predictions, by the variables' ids.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn gradients(
        &mut self,
        parameters: &Parameters,
        prepared: Prepared,
        dropout: PassDropout,
    ) -> Result<HashMap<TensorId, Tensor>> {
        let config = &parameters.config().encoder;
        let (hidden, vocabulary, m) = (config.hidden, config.vocab_size, prepared.rows.len());
        let MaskedLmNames { transform, norm, bias } = masked_lm_names(config.architecture);
        let variable = |name: &str| {
            let variable = parameters.variables().get(name).map(|variable| variable.as_tensor().clone());
            variable.ok_or_else(|| Error::Setting(format!("variable {name} is missing")))
        };
        let narrow = |tensor: &Tensor| tensor.detach().to_dtype(DType::BF16);
        let flat = variable(ENCODER)?;
        let (transform_weight, transform_bias) =
            (variable(&format!("{transform}.weight"))?, variable(&format!("{transform}.bias"))?);
        let (norm_weight, norm_bias) = (variable(&format!("{norm}.weight"))?, variable(&format!("{norm}.bias"))?);
        let output_bias = variable(bias)?;
        let (narrow_flat, narrow_transform) = (narrow(&flat)?, narrow(&transform_weight)?);
        let (narrow_transform_bias, narrow_output_bias) = (narrow(&transform_bias)?, narrow(&output_bias)?);

        let inputs = prepared.inputs.upload(&self.stream)?;
        let rows = self.stream.clone_htod(&prepared.rows).map_err(failed)?;
        let targets = self.stream.clone_htod(&prepared.targets).map_err(failed)?;
        let (states, saved) =
            with_weights::<bf16, _>(&narrow_flat, &flat, |w| self.encoder.forward(w, &inputs, Some(dropout)))?;
        let Some(saved) = saved else {
            return Err(Error::Setting("a training pass keeps what its backward pass needs".into()));
        };

        // The head up to its logits: states -> x -> wide (GELU) -> sum (LayerNorm) -> y.
        let (mut x, mut linear) = (self.room::<bf16>(m * hidden)?, self.room::<bf16>(m * hidden)?);
        let (mut activated, mut y) = (self.room::<bf16>(m * hidden)?, self.room::<bf16>(m * hidden)?);
        let mut statistics = self.room::<f32>(2 * m)?;
        self.gather.forward(&states.as_view(), &rows.as_view(), hidden, &mut x.as_view_mut())?;
        with_memory::<bf16, _>(&narrow_transform, |weight| {
            with_memory::<bf16, _>(&narrow_transform_bias, |bias| {
                let (x, out) = (x.as_view(), &mut linear.as_view_mut());
                self.encoder.products().forward(&x, &weight, Some(&bias), out, [m, hidden, hidden])
            })
        })?;
        self.gelu.forward(&linear.as_view(), &mut activated.as_view_mut())?;
        with_memory::<f32, _>(&norm_weight, |weight| {
            with_memory::<f32, _>(&norm_bias, |bias| {
                let norm = Norm { weight: &weight, bias: &bias, epsilon: config.layer_norm_eps as f32 };
                let (statistics, out) = (&mut statistics.as_view_mut(), &mut y.as_view_mut());
                self.norm.forward(None, &mut activated.as_view_mut(), norm, Site::NONE, Some(statistics), out)
            })
        })?;

        // Logits and their gradients, portion by portion.
        let words = self.encoder.layout().words.clone();
        let mut gradients = self.stream.alloc_zeros::<f32>(self.encoder.layout().elements()).map_err(failed)?;
        let mut to_y = self.room::<bf16>(m * hidden)?;
        let (mut losses, mut correct) = (self.room::<f32>(m)?, self.room::<u32>(m)?);
        let mut bias_gradient: Option<Tensor> = None;
        let mut scratch = self.room::<f32>(
            column_sums::scratch_len(PORTION.min(m), vocabulary)
                .max(column_sums::scratch_len(m, hidden))
                .max(layer_norm::scratch_len(m, hidden)),
        )?;
        for first in (0..m).step_by(PORTION) {
            let portion = first..m.min(first + PORTION);
            let (count, part) = (portion.len(), portion.start * hidden..portion.end * hidden);
            let size = [count, hidden, vocabulary];
            let mut logits = self.room::<bf16>(count * vocabulary)?;
            with_memory::<bf16, _>(&narrow_flat, |weights| {
                let table = weights.slice(words.clone());
                with_memory::<bf16, _>(&narrow_output_bias, |bias| {
                    let (y, out) = (y.slice(part.clone()), &mut logits.as_view_mut());
                    self.encoder.products().forward(&y, &table, Some(&bias), out, size)
                })?;
                self.cross_entropy.forward_backward(
                    &mut logits.as_view_mut(),
                    &targets.slice(portion.clone()),
                    vocabulary,
                    1. / m as f32,
                    &mut losses.slice_mut(portion.clone()),
                    &mut correct.slice_mut(portion.clone()),
                )?;
                let (logits, products) = (logits.as_view(), self.encoder.products());
                products.input_gradient(&logits, &table, &mut to_y.slice_mut(part.clone()), size, false)?;
                let table_gradient = &mut gradients.slice_mut(words.clone());
                products.weight_gradient(&logits, &y.slice(part.clone()), table_gradient, size, first > 0)
            })?;
            let mut sums = self.room::<f32>(vocabulary)?;
            self.sums.forward(&logits.as_view(), &mut sums.as_view_mut(), &mut scratch.as_view_mut())?;
            let sums = tensor(sums, &self.device, vocabulary);
            bias_gradient = Some(match bias_gradient {
                Some(before) => (before + sums)?,
                None => sums,
            });
        }

        // The head's way back.
        let (mut of_norm_weight, mut of_norm_bias) = (self.room::<f32>(hidden)?, self.room::<f32>(hidden)?);
        let (mut of_transform, mut of_transform_bias) = (self.room::<f32>(hidden * hidden)?, self.room::<f32>(hidden)?);
        with_memory::<f32, _>(&norm_weight, |weight| {
            let statistics = statistics.as_view();
            let saved = SavedNorm { statistics: &statistics, weight: &weight, dropout: Site::NONE };
            let norm_gradients =
                NormGradients { weight: of_norm_weight.as_view_mut(), bias: of_norm_bias.as_view_mut(), input: None };
            let (to_y, sum) = (&mut to_y.as_view_mut(), &activated.as_view());
            self.norm.backward(to_y, sum, saved, None, norm_gradients, &mut scratch.as_view_mut())
        })?;
        self.gelu.backward(
            &mut to_y.as_view_mut(),
            &linear.as_view(),
            &mut of_transform_bias.as_view_mut(),
            &mut scratch.as_view_mut(),
        )?;
        let (size, to_linear) = ([m, hidden, hidden], to_y.as_view());
        let products = self.encoder.products();
        products.weight_gradient(&to_linear, &x.as_view(), &mut of_transform.as_view_mut(), size, false)?;
        let mut to_x = self.room::<bf16>(m * hidden)?;
        with_memory::<bf16, _>(&narrow_transform, |weight| {
            products.input_gradient(&to_linear, &weight, &mut to_x.as_view_mut(), size, false)
        })?;
        let mut to_states = self.stream.alloc_zeros::<bf16>(states.len()).map_err(failed)?;
        self.gather.backward(&to_x.as_view(), &rows.as_view(), hidden, &mut to_states.as_view_mut())?;
        with_weights::<bf16, _>(&narrow_flat, &flat, |weights| {
            self.encoder.backward(weights, &inputs, saved, to_states, &mut gradients)
        })?;

        self.add_losses(tensor(losses, &self.device, m), tensor(correct, &self.device, m))?;
        let elements = self.encoder.layout().elements();
        let mut by_id = HashMap::from([
            (flat.id(), tensor(gradients, &self.device, elements)),
            (transform_weight.id(), tensor(of_transform, &self.device, (hidden, hidden))),
            (transform_bias.id(), tensor(of_transform_bias, &self.device, hidden)),
            (norm_weight.id(), tensor(of_norm_weight, &self.device, hidden)),
            (norm_bias.id(), tensor(of_norm_bias, &self.device, hidden)),
        ]);
        by_id.extend(bias_gradient.map(|gradient| (output_bias.id(), gradient)));
        Ok(by_id)
    }

    fn add_losses(&mut self, losses: Tensor, correct: Tensor) -> Result<()> {
        self.predicted += losses.elem_count();
        let (mut loss, mut right) = (losses.sum_all()?, correct.to_dtype(DType::F32)?.sum_all()?);
        if let Some((before, right_before)) = &self.losses {
            (loss, right) = ((loss + before)?, (right + right_before)?);
        }
        self.losses = Some((loss, right));
        Ok(())
    }

    /// The losses since this was last called; waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn take_losses(&mut self) -> Result<MaskedLmLoss> {
        let Some((loss, correct)) = self.losses.take() else { return Ok(MaskedLmLoss::default()) };
        let predicted = std::mem::take(&mut self.predicted) as f64;
        let host = |tensor: Tensor| Ok::<_, Error>(f64::from(tensor.to_scalar::<f32>()?));
        Ok(MaskedLmLoss { loss: host(loss)?, correct: host(correct)?, predicted })
    }
}
