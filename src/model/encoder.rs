//! A packed batch of word pieces -> hidden states [pieces, hidden]: DistilBERT and BERT by one code, on candle.
//! Post-LayerNorm transformer (Vaswani et al. 2017; Devlin et al. 2019; Sanh et al. 2019), exact erf GELU.
//! Tensor names are Hugging Face's. In training every operation has a backward pass; in inference fused ones take their place.

use candle_core::{DType, Device, Tensor};

use super::attention::AttentionPlan;
use super::config::{Architecture, EncoderConfig};
use super::dropout::Dropout;
use super::fake_quantisation::{self, QuantisedRows};
use super::gradient;
use super::names::LayerNames;
use super::weights::Weights;
use crate::batch::Batch;
use crate::error::Result;

/// Whether gradients are wanted.
pub enum Pass<'d> {
    /// Fused operations without backward pass, no dropout.
    Inference,
    /// Differentiable operations and dropout.
    Training(&'d mut Dropout),
}

impl Pass<'_> {
    /// Dropout in training, nothing in inference.
    pub fn dropout(&mut self, x: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Pass::Inference => Ok(x),
            Pass::Training(dropout) => dropout.apply(&x),
        }
    }
}

/// What the products of an encoder in training are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Floats.
    Floats,
    /// Fake quantisation ([`super::fake_quantisation`]): word embeddings, weights, and rows before each product with weights are rounded as the integer engine
    /// rounds them. Attention's own products, which the engine computes in 12 to 15 bits and a sign, stay in floats.
    FakeQuantised,
}

/// An encoder's weights on one device, and how they are multiplied.
pub enum Encoder {
    /// candle's operations on a tensor for each weight: any device, any float, the reference.
    Tensors(TensorEncoder),
    /// Fused operations on an NVIDIA GPU, 16-bit activations.
    #[cfg(feature = "cuda")]
    Fused(crate::cuda::fused::FusedEncoder),
}

impl Encoder {
    /// Takes the encoder's tensors out of a checkpoint. 16-bit weights on a GPU are read by the fused operations, all others by candle's.
    ///
    /// # Errors
    /// If one is missing or its shape does not fit `config`.
    pub fn load(weights: &Weights, config: &EncoderConfig) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(fused) = crate::cuda::fused::FusedEncoder::load(weights, config)? {
            return Ok(Encoder::Fused(fused));
        }
        Ok(Encoder::Tensors(TensorEncoder::load(weights, config)?))
    }

    /// Takes the encoder's tensors, which are f32, out of a checkpoint, to compute as the integer engine does: candle's operations on any device.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn fake_quantised(weights: &Weights, config: &EncoderConfig) -> Result<Self> {
        let arithmetic = Arithmetic::FakeQuantised;
        Ok(Encoder::Tensors(TensorEncoder { arithmetic, ..TensorEncoder::load(weights, config)? }))
    }

    /// On one f32 tensor that holds all weights, laid out as [`super::layout::EncoderLayout`] says. If that is a variable, the hidden states of a training pass
    /// are a differentiable function of it.
    ///
    /// # Errors
    /// If the tensor is not on a GPU or of another length.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn on_flat(weights: &Tensor, config: &EncoderConfig) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Encoder::Fused(crate::cuda::fused::FusedEncoder::on_flat(weights, config)?));
        #[cfg(not(feature = "cuda"))]
        Err(crate::Error::Device("this build has no CUDA: build with `--features cuda`".into()))
    }

    /// The sizes it was loaded with.
    pub fn config(&self) -> &EncoderConfig {
        match self {
            Encoder::Tensors(encoder) => &encoder.config,
            #[cfg(feature = "cuda")]
            Encoder::Fused(encoder) => encoder.config(),
        }
    }

    /// Where its weights lie.
    pub fn device(&self) -> &Device {
        match self {
            Encoder::Tensors(encoder) => encoder.word_embeddings.device(),
            #[cfg(feature = "cuda")]
            Encoder::Fused(encoder) => encoder.device(),
        }
    }

    /// Number format of its hidden states.
    pub fn dtype(&self) -> DType {
        match self {
            Encoder::Tensors(encoder) => encoder.word_embeddings.dtype(),
            #[cfg(feature = "cuda")]
            Encoder::Fused(encoder) => encoder.dtype(),
        }
    }

    /// Hidden states [pieces, hidden] of a packed batch with at least one piece.
    ///
    /// # Errors
    /// If the tensor library fails, out of memory included.
    pub fn forward(&self, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
        match self {
            Encoder::Tensors(encoder) => encoder.forward(batch, pass),
            #[cfg(feature = "cuda")]
            Encoder::Fused(encoder) => encoder.forward(batch, pass),
        }
    }
}

/// A tensor for each of the encoder's weights.
pub struct TensorEncoder {
    config: EncoderConfig,
    arithmetic: Arithmetic,
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    /// Row 0 of BERT's token-type embedding: chemtag reads one segment.
    token_type: Option<Tensor>,
    embedding_norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    ffn_in: Linear,
    ffn_out: Linear,
    ffn_norm: LayerNorm,
}

/// `y = x Wᵀ + b`, weight [out, in].
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// From the tensors `NAME.weight` `[out, in]` and `NAME.bias` `[out]`.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn load(
        tensor: impl Fn(&str, &[usize]) -> Result<Tensor>,
        name: &str,
        input: usize,
        output: usize,
    ) -> Result<Self> {
        Ok(Self {
            weight: tensor(&format!("{name}.weight"), &[output, input])?,
            bias: tensor(&format!("{name}.bias"), &[output])?,
        })
    }

    /// Number format of the weights.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// `x`: [rows, in] -> [rows, out].
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }
}

/// Rows that go into one product or several.
enum Rows<'x> {
    Floats(&'x Tensor),
    Quantised(QuantisedRows),
}

impl<'x> Rows<'x> {
    fn new(x: &'x Tensor, arithmetic: Arithmetic) -> candle_core::Result<Self> {
        Ok(match arithmetic {
            Arithmetic::Floats => Rows::Floats(x),
            Arithmetic::FakeQuantised => Rows::Quantised(QuantisedRows::new(x)?),
        })
    }

    fn through(&self, layer: &Linear) -> candle_core::Result<Tensor> {
        match self {
            Rows::Floats(x) => layer.forward(x),
            Rows::Quantised(rows) => rows.product(&layer.weight)?.broadcast_add(&layer.bias),
        }
    }
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    fn load(weights: &Weights, name: &str, config: &EncoderConfig) -> Result<Self> {
        Ok(Self {
            weight: weights.encoder_tensor(&format!("{name}.weight"), &[config.hidden])?,
            bias: weights.encoder_tensor(&format!("{name}.bias"), &[config.hidden])?,
            eps: config.layer_norm_eps,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        match pass {
            Pass::Inference => candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32),
            Pass::Training(_) => gradient::layer_norm(x, &self.weight, &self.bias, self.eps),
        }
    }
}

impl Layer {
    fn load(weights: &Weights, index: usize, config: &EncoderConfig) -> Result<Self> {
        let names = LayerNames::of(config.architecture);
        let name = |part: &str| format!("{}.{index}.{part}", names.layer);
        let linear = |i: usize, input, output| {
            Linear::load(|n, s| weights.encoder_tensor(n, s), &name(names.linear[i]), input, output)
        };
        let (hidden, ffn) = (config.hidden, config.ffn);
        Ok(Self {
            query: linear(0, hidden, hidden)?,
            key: linear(1, hidden, hidden)?,
            value: linear(2, hidden, hidden)?,
            attention_output: linear(3, hidden, hidden)?,
            attention_norm: LayerNorm::load(weights, &name(names.norm[0]), config)?,
            ffn_in: linear(4, hidden, ffn)?,
            ffn_out: linear(5, ffn, hidden)?,
            ffn_norm: LayerNorm::load(weights, &name(names.norm[1]), config)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        encoder: &TensorEncoder,
        plan: &AttentionPlan,
        pass: &mut Pass,
    ) -> candle_core::Result<Tensor> {
        let training = matches!(pass, Pass::Training(_));
        let rows = |x| Rows::new(x, encoder.arithmetic);
        let inputs = rows(x)?;
        let [queries, keys, values] = [&self.query, &self.key, &self.value].map(|layer| inputs.through(layer));
        let context = plan.attend(&queries?, &keys?, &values?, encoder.config.heads, |scores| match training {
            false => candle_nn::ops::softmax_last_dim(scores),
            true => gradient::softmax(scores),
        })?;
        let attended = pass.dropout(rows(&context)?.through(&self.attention_output)?)?;
        let x = self.attention_norm.forward(&(x + attended)?, pass)?;
        let wide = rows(&x)?.through(&self.ffn_in)?.gelu_erf()?;
        let narrow = pass.dropout(rows(&wide)?.through(&self.ffn_out)?)?;
        self.ffn_norm.forward(&(x + narrow)?, pass)
    }
}

impl TensorEncoder {
    /// Takes the encoder's tensors out of a checkpoint.
    ///
    /// # Errors
    /// If one is missing or its shape does not fit `config`.
    fn load(weights: &Weights, config: &EncoderConfig) -> Result<Self> {
        let table = |name: &str, rows: usize| {
            weights.encoder_tensor(&format!("embeddings.{name}_embeddings.weight"), &[rows, config.hidden])
        };
        let token_type = match config.architecture {
            Architecture::DistilBert => None,
            Architecture::Bert => Some(table("token_type", config.token_types)?.narrow(0, 0, 1)?),
        };
        Ok(Self {
            word_embeddings: table("word", config.vocab_size)?,
            position_embeddings: table("position", config.max_positions)?,
            token_type,
            embedding_norm: LayerNorm::load(weights, "embeddings.LayerNorm", config)?,
            layers: (0..config.layers).map(|i| Layer::load(weights, i, config)).collect::<Result<_>>()?,
            config: config.clone(),
            arithmetic: Arithmetic::Floats,
        })
    }

    /// Hidden states [pieces, hidden] of a packed batch with at least one piece.
    ///
    /// # Errors
    /// If the tensor library fails, out of memory included.
    fn forward(&self, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
        let device = self.word_embeddings.device();
        let plan = AttentionPlan::new(&batch.cu_seqlens, self.word_embeddings.dtype(), device)?;
        let ids = Tensor::new(batch.piece_ids.as_slice(), device)?;
        let positions = Tensor::new(batch.positions.as_slice(), device)?;
        let words = self.word_embeddings.index_select(&ids, 0)?;
        let words = match self.arithmetic {
            Arithmetic::Floats => words,
            Arithmetic::FakeQuantised => fake_quantisation::embeddings(&words)?,
        };
        let mut x = (words + self.position_embeddings.index_select(&positions, 0)?)?;
        if let Some(token_type) = &self.token_type {
            x = x.broadcast_add(token_type)?;
        }
        let mut x = pass.dropout(self.embedding_norm.forward(&x, pass)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, self, &plan, pass)?;
        }
        Ok(x)
    }
}
