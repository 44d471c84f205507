//! A student's hidden states at the words' first pieces -> how far they are from its teacher's, after a linear map that is learnt with them.
//! Mean squared error on vectors that LayerNorm has made comparable, as the widths of hidden states differ between encoders (the last-layer form
//! of TinyBERT's loss, Jiao et al. 2020, section 3.1). The map serves this stage alone.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::{Encoder, Linear, Pass};
use chemtag::model::gather::RowGather;
use chemtag::model::gradient::layer_norm;
use chemtag::model::weights::Weights;

use crate::accumulation::Part;
use crate::aligned_text::{AlignedText, TextSequence};
use crate::error::{Error, Result};
use crate::loss::Losses;
use crate::parameters::{MAP, Parameters};
use crate::stage::Objective;
use crate::teacher::Ensemble;

/// Added to the variance in LayerNorm, as BERT does.
const EPSILON: f64 = 1e-12;

/// The encoder of an ensemble's first teacher.
pub struct TeacherEncoder {
    encoder: Encoder,
    /// Which of the texts it reads.
    text: usize,
}

impl TeacherEncoder {
    /// Loads it onto a device, in f16 on a GPU.
    ///
    /// # Errors
    /// If there is no teacher or the device fails.
    pub fn load(ensemble: &Ensemble, device: &Device) -> Result<Self> {
        let (files, config, text) = ensemble.first_files()?;
        let dtype = if device.is_cpu() { DType::F32 } else { DType::F16 };
        let weights = Weights::from_safetensors(&files.weights, &files.names[2], dtype, device)?;
        Ok(Self { encoder: Encoder::load(&weights, &config.encoder)?, text })
    }

    /// Width of its hidden states.
    pub fn width(&self) -> usize {
        self.encoder.config().hidden
    }
}

/// The objective of the stage on representations.
pub struct Representations<'a> {
    student: Encoder,
    teacher: TeacherEncoder,
    text: &'a AlignedText,
    /// LayerNorm's weight and bias, which nobody trains.
    plain: [Tensor; 2],
}

impl<'a> Representations<'a> {
    /// `parameters` are those of the task [`Representations`](crate::parameters::Task::Representations).
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(parameters: &Parameters, text: &'a AlignedText, teacher: TeacherEncoder) -> Result<Self> {
        let (width, device) = (teacher.width(), parameters.device());
        let plain = [Tensor::ones(width, DType::F32, device)?, Tensor::zeros(width, DType::F32, device)?];
        Ok(Self { student: parameters.encoder()?, teacher, text, plain })
    }

    fn normed(&self, states: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(states, &self.plain[0], &self.plain[1], EPSILON)?)
    }
}

/// Hidden states of the words' first pieces, [words, hidden] in f32.
fn word_states(encoder: &Encoder, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
    let hidden = encoder.forward(batch, pass)?;
    let starts: Vec<Option<u32>> = batch.word_starts.iter().map(|&start| Some(start)).collect();
    Ok(RowGather::new(&starts, batch.pieces(), hidden.device())?.apply(&hidden)?.to_dtype(DType::F32)?)
}

impl Objective for Representations<'_> {
    /// What student and teacher read.
    type Prepared = [Batch; 2];

    fn names(&self) -> [&'static str; 2] {
        ["squared_error", ""]
    }

    fn prepare(&self, part: &Part<TextSequence>, _: usize) -> Result<[Batch; 2]> {
        let student = self.text.batch(0, part.sequences);
        let teacher = match self.teacher.text {
            0 => student.clone(),
            text => self.text.batch(text, part.sequences),
        };
        Ok([student, teacher])
    }

    fn words(&self, [student, _]: &[Batch; 2]) -> usize {
        student.words()
    }

    fn gradients(
        &self,
        parameters: &Parameters,
        [student, teacher]: [Batch; 2],
        dropout: &mut Dropout,
    ) -> Result<(Losses, GradStore)> {
        let target = word_states(&self.teacher.encoder, &teacher, &mut Pass::Inference)?;
        let states = word_states(&self.student, &student, &mut Pass::Training(dropout))?;
        let variable = |name: &str, _: &[usize]| {
            let variable = parameters.variables().get(name).map(|variable| variable.as_tensor().clone());
            variable.ok_or_else(|| chemtag::Error::Option(format!("variable {name} is missing")))
        };
        let name = MAP[0].strip_suffix(".weight").unwrap_or(MAP[0]);
        let (_, hidden) = states.dims2()?;
        let map = Linear::load(variable, name, hidden, self.teacher.width())?;
        let distance = (self.normed(&map.forward(&states)?)? - self.normed(&target)?.detach())?;
        let loss = distance.sqr()?.mean_all()?;
        let gradients = loss.backward()?;
        let spans = f64::from(loss.to_scalar::<f32>()?);
        if !spans.is_finite() {
            return Err(Error::Setting("the squared error is not finite: lower the learning rate".into()));
        }
        Ok((Losses { spans, classes: 0. }, gradients))
    }
}
