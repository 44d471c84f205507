//! A packed batch -> what the heads say of its words: encoder, span head and class head on candle's tensors.
//! Heads are linear layers over the hidden state of a word's first piece.

use candle_core::{DType, Device, Tensor};

use super::config::ModelConfig;
use super::crf::{Crf, TAGS};
use super::encoder::{Encoder, Linear, Pass};
use super::gather::RowGather;
use super::names;
use super::weights::Weights;
use crate::batch::Batch;
use crate::error::Result;

/// Encoder, span head and class head.
pub struct Network {
    encoder: Encoder,
    span_head: Linear,
    class_head: Option<Linear>,
}

/// What the heads say of each word of a batch.
pub struct HeadOutput {
    /// Emission scores [words, 3] for O, B, I.
    pub emissions: Tensor,
    /// Class logits [words, classes]; absent without a class head.
    pub class_logits: Option<Tensor>,
}

impl Network {
    /// Takes the network's tensors out of a checkpoint.
    ///
    /// # Errors
    /// If one is missing or its shape does not fit `config`.
    pub fn load(weights: &Weights, config: &ModelConfig) -> Result<Self> {
        Self::on(Encoder::load(weights, &config.encoder)?, weights, config)
    }

    fn on(encoder: Encoder, weights: &Weights, config: &ModelConfig) -> Result<Self> {
        let hidden = config.encoder.hidden;
        // Small, and what the CRF adds up: 32 bits whatever the encoder has. A trained variable of 32 bits stays itself.
        let tensor = |name: &str, shape: &[usize]| Ok(weights.tensor(name, shape)?.to_dtype(DType::F32)?);
        let head = |name, outputs| Linear::load(tensor, name, hidden, outputs);
        let classes = config.tagger.classes.len();
        Ok(Self {
            encoder,
            span_head: head(names::SPAN_HEAD, TAGS)?,
            class_head: (classes > 0).then(|| head(names::CLASS_HEAD, classes)).transpose()?,
        })
    }

    /// The network on an encoder whose weights are one tensor ([`Encoder::on_flat`]); the heads are `weights`' tensors.
    ///
    /// # Errors
    /// As [`Encoder::on_flat`], or if a head's tensor is missing or does not fit `config`.
    pub fn on_flat_encoder(encoder: &Tensor, weights: &Weights, config: &ModelConfig) -> Result<Self> {
        Self::on(Encoder::on_flat(encoder, &config.encoder)?, weights, config)
    }

    /// The network with an encoder that computes as the integer engine does ([`Encoder::fake_quantised`]); `weights` are f32.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn fake_quantised(weights: &Weights, config: &ModelConfig) -> Result<Self> {
        Self::on(Encoder::fake_quantised(weights, &config.encoder)?, weights, config)
    }

    /// The encoder below the heads.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Reads a batch with at least one word.
    ///
    /// # Errors
    /// If the tensor library fails, out of memory included.
    pub fn forward(&self, batch: &Batch, pass: &mut Pass) -> Result<HeadOutput> {
        Ok(self.heads(&self.words(batch, pass)?)?)
    }

    /// Hidden states of a batch's words, `[words, hidden]`, as the heads read them.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn words(&self, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
        let hidden = self.encoder.forward(batch, pass)?;
        let starts: Vec<Option<u32>> = batch.word_starts.iter().map(|&start| Some(start)).collect();
        let words = RowGather::new(&starts, batch.pieces(), hidden.device())?.apply(&hidden)?;
        let words = words.to_dtype(self.span_head.dtype())?;
        Ok(pass.dropout(words)?)
    }

    /// What the heads say of words' hidden states [words, hidden].
    ///
    /// # Errors
    /// If the device fails.
    pub fn heads(&self, words: &Tensor) -> candle_core::Result<HeadOutput> {
        Ok(HeadOutput {
            emissions: self.span_head.forward(words)?,
            class_logits: self.class_head.as_ref().map(|head| head.forward(words)).transpose()?,
        })
    }

    /// As [`Network::forward`] without gradients, for a batch that was made ready for the fused encoder.
    ///
    /// # Errors
    /// As [`Network::forward`], or if the encoder is not the fused one.
    #[cfg(feature = "cuda")]
    pub fn forward_prepared(&self, inputs: crate::cuda::inputs::HostInputs) -> Result<HeadOutput> {
        let Encoder::Fused(encoder) = &self.encoder else {
            return Err(crate::Error::Option("the batch was prepared for another encoder".into()));
        };
        Ok(self.heads(&encoder.forward_words(inputs)?.to_dtype(self.span_head.dtype())?)?)
    }
}

/// Reads the CRF's scores from a checkpoint.
///
/// # Errors
/// If one is missing or of another shape.
pub fn load_crf(weights: &Weights) -> Result<Crf> {
    let read = |name, shape: &[usize]| -> Result<Vec<f32>> {
        let tensor = weights.tensor(name, shape)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        Ok(tensor.flatten_all()?.to_vec1()?)
    };
    let (start, end) = (read(names::CRF_START, &[TAGS])?, read(names::CRF_END, &[TAGS])?);
    let transitions = read(names::CRF_TRANSITIONS, &[TAGS, TAGS])?;
    Ok(Crf {
        start: std::array::from_fn(|i| start[i]),
        end: std::array::from_fn(|i| end[i]),
        transitions: std::array::from_fn(|from| std::array::from_fn(|to| transitions[from * TAGS + to])),
    })
}
