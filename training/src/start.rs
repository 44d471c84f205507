//! Sizes, or a trained encoder -> an encoder to pre-train: of random weights; with another vocabulary, each new piece the mean of the old pieces that spell it; with
//! more layers, the trained ones stacked (Gong et al. 2019, "Efficient training of BERT by progressively stacking"); or wider ([`widening`]).
//! The masked-language-model head comes along where a checkpoint has one.

pub mod widening;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use chemtag::model::config::{Architecture, EncoderConfig, ModelConfig, TaggerConfig};
use chemtag::model::layout::EncoderLayout;
use chemtag::model::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::parameters::{Task, first_value, head_shapes, masked_lm_names, prefix, save_folder};
use crate::spelling::Spelling;

/// Streams of random numbers of one seed.
const ENCODER_STREAM: u64 = 0;
const PIECES_STREAM: u64 = 1;
const WIDENING_STREAM: u64 = 2;

const WORDS: &str = "embeddings.word_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const TOKEN_TYPES: &str = "embeddings.token_type_embeddings.weight";

/// An encoder's weights in f32 on the CPU, by the checkpoint's names.
#[derive(Debug, Clone)]
pub struct StartingEncoder {
    config: ModelConfig,
    tensors: BTreeMap<String, Tensor>,
}

impl StartingEncoder {
    /// Random weights (as in BERT: deviation 0.02, biases 0), without a head. The same seed gives the same numbers.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn fresh(encoder: EncoderConfig, seed: u64) -> Result<Self> {
        let room = encoder.max_positions.saturating_sub(2);
        let tagger = TaggerConfig::default();
        let tagger = TaggerConfig { sequence_pieces: tagger.sequence_pieces.min(room), ..tagger };
        let config = ModelConfig { encoder, tagger };
        // Holds the sizes against each other.
        let config = ModelConfig::from_json(config.to_json().to_string().as_bytes(), "the encoder's sizes")?;
        let mut random = stream(seed, ENCODER_STREAM);
        let mut tensors = BTreeMap::new();
        for place in EncoderLayout::new(&config.encoder).places() {
            let name = format!("{}{}", prefix(&config), place.name);
            tensors.insert(name, first_value(&place.name, &place.shape, &mut random)?);
        }
        Ok(Self { config, tensors })
    }

    /// The encoder of a checkpoint (safetensors; `file` names it in messages), and its masked-language-model head if that is whole.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor or one has another shape than `config` asks for.
    pub fn from_checkpoint(bytes: &[u8], file: &str, mut config: ModelConfig) -> Result<Self> {
        config.tagger.classes.clear();
        let weights = Weights::from_safetensors(bytes, file, DType::F32, &Device::Cpu)?;
        let mut tensors = BTreeMap::new();
        for place in EncoderLayout::new(&config.encoder).places() {
            tensors.insert(
                format!("{}{}", prefix(&config), place.name),
                weights.encoder_tensor(&place.name, &place.shape)?,
            );
        }
        let head = head_shapes(&config, Task::MaskedLm);
        if head.iter().all(|(name, _)| weights.contains(name)) {
            for (name, shape) in head {
                tensors.insert(name.clone(), weights.tensor(&name, &shape)?);
            }
        }
        Ok(Self { config, tensors })
    }

    /// The encoder's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Gives the encoder another vocabulary. Each new piece has the mean of the embeddings (and of the head's biases) of the old pieces that spell it; one that they cannot
    /// spell is drawn from `seed`. Returns the number of those.
    ///
    /// # Errors
    /// If the tensor library fails.
    pub fn transfer(&mut self, old: &Spelling, pieces: &[String], seed: u64) -> Result<usize> {
        let words = format!("{}{WORDS}", prefix(&self.config));
        let hidden = self.config.encoder.hidden;
        let embeddings: Vec<f32> = self.tensor(&words)?.flatten_all()?.to_vec1()?;
        let bias = masked_lm_names(self.config.encoder.architecture).bias;
        let biases: Option<Vec<f32>> = self.tensors.get(bias).map(Tensor::to_vec1).transpose()?;
        let drawn = first_value(WORDS, &[pieces.len(), hidden], &mut stream(seed, PIECES_STREAM))?;
        let mut new_embeddings: Vec<f32> = drawn.flatten_all()?.to_vec1()?;
        let mut new_biases = vec![0.; pieces.len()];
        let mut without = 0;
        let rows = new_embeddings.chunks_exact_mut(hidden).zip(&mut new_biases);
        for (piece, (row, new_bias)) in pieces.iter().zip(rows) {
            let Some(spelled) = old.of_piece(piece) else {
                without += 1;
                continue;
            };
            let share = 1. / spelled.len() as f32;
            row.fill(0.);
            for &id in &spelled {
                let first = id as usize * hidden;
                // The tokenizer's ids were held against the configuration's size when it was read.
                for (sum, x) in row.iter_mut().zip(embeddings.get(first..first + hidden).unwrap_or_default()) {
                    *sum += share * x;
                }
                *new_bias += share * biases.as_ref().and_then(|b| b.get(id as usize)).copied().unwrap_or_default();
            }
        }
        self.config.encoder.vocab_size = pieces.len();
        self.tensors.insert(words, Tensor::from_vec(new_embeddings, (pieces.len(), hidden), &Device::Cpu)?);
        if biases.is_some() {
            self.tensors.insert(bias.into(), Tensor::from_vec(new_biases, pieces.len(), &Device::Cpu)?);
        }
        Ok(without)
    }

    /// Stacks the layers on themselves until there are `layers`: of six, layer 7 begins as layer 1.
    ///
    /// # Errors
    /// If there are more layers already.
    pub fn stack(&mut self, layers: usize) -> Result<()> {
        let trained = self.config.encoder.layers;
        if layers < trained {
            return Err(Error::Setting(format!("the encoder has {trained} layers, more than the {layers} asked for")));
        }
        self.config.encoder.layers = layers;
        let layout = EncoderLayout::new(&self.config.encoder);
        let prefix = prefix(&self.config);
        // Each layer has the same tensors in the same order.
        let of_layer = |index: usize| {
            let layer = &layout.layers[index];
            let places = layer.qkv_weight.start..layer.ffn_norm[1].end;
            layout.places().iter().filter(move |place| places.contains(&place.range.start)).map(|place| &place.name)
        };
        for index in trained..layers {
            for (new, old) in of_layer(index).zip(of_layer(index % trained)) {
                let tensor = self.tensor(&format!("{prefix}{old}"))?.clone();
                self.tensors.insert(format!("{prefix}{new}"), tensor);
            }
        }
        Ok(())
    }

    /// Makes a BERT encoder a DistilBERT one that computes the same: the embedding of the one segment that chemtag reads goes into the positions'.
    ///
    /// # Errors
    /// If the tensor library fails.
    pub fn into_distilbert(mut self) -> Result<Self> {
        if self.config.encoder.architecture == Architecture::DistilBert {
            return Ok(self);
        }
        let (old, old_prefix) = (EncoderLayout::new(&self.config.encoder), prefix(&self.config));
        let old_head = head_shapes(&self.config, Task::MaskedLm);
        let segment = self.tensor(&format!("{old_prefix}{TOKEN_TYPES}"))?.narrow(0, 0, 1)?;
        let positions = format!("{old_prefix}{POSITIONS}");
        let shifted = self.tensor(&positions)?.broadcast_add(&segment)?;
        self.tensors.insert(positions, shifted);
        self.config.encoder.architecture = Architecture::DistilBert;
        self.config.encoder.token_types = 0;
        let (new, new_prefix) = (EncoderLayout::new(&self.config.encoder), prefix(&self.config));
        let encoder = old.places().iter().filter(|place| place.name != TOKEN_TYPES).zip(new.places());
        let encoder =
            encoder.map(|(old, new)| (format!("{old_prefix}{}", old.name), format!("{new_prefix}{}", new.name)));
        let new_head = head_shapes(&self.config, Task::MaskedLm);
        let head = old_head.into_iter().zip(new_head).map(|((old, _), (new, _))| (old, new));
        let names: HashMap<String, String> = encoder.chain(head).collect();
        let renamed = self.tensors.into_iter().filter_map(|(name, tensor)| Some((names.get(&name)?.clone(), tensor)));
        Ok(Self { tensors: renamed.collect(), config: self.config })
    }

    /// Writes the encoder's folder, which `pretrain` and `finetune` take: configuration, tokenizer (as given) and weights in f16.
    ///
    /// # Errors
    /// If a file cannot be written; each file is whole or untouched.
    pub fn save(&self, folder: &Path, tokenizer: &[u8]) -> Result<()> {
        save_folder(folder, &self.config, tokenizer, self.tensors.clone())
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::Setting(format!("tensor {name} is missing")))
    }
}

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}

#[cfg(test)]
mod tests;
