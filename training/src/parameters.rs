//! Everything that is trained: an encoder's checkpoint and the heads on it, as f32 variables; Hugging Face's tensor names in files.
//! Out again: a model folder that the product loads (config.json, tokenizer.json, model.safetensors in f16).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::model::crf::{Crf, TAGS};
use chemtag::model::encoder::{Arithmetic, Encoder};
use chemtag::model::layout::EncoderLayout;
use chemtag::model::weights::Weights;
use chemtag::model::{Network, load_crf, names};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::corpus_heads::CORPUS_HEADS;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// Standard deviation of the heads' first weights, as in BERT.
const INITIAL_DEVIATION: f64 = 0.02;
/// Name of the variable that holds the whole encoder where it is one.
pub const ENCODER: &str = "encoder";

/// Weight `[width, hidden]` and bias `[width]` of the map of [`Task::Representations`].
pub const MAP: [&str; 2] = ["representation_map.weight", "representation_map.bias"];

/// What stands on the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Span head, CRF and class head.
    Tagging,
    /// The same, and a correction of the span head for each corpus ([`crate::corpus_heads`]), which no model's folder keeps.
    TaggingByCorpus {
        /// Number of corpora.
        corpora: usize,
    },
    /// A linear map towards another encoder's hidden states.
    Representations {
        /// Width of those.
        width: usize,
    },
    /// Hugging Face's masked-language-model head; its output matrix is the word embeddings.
    MaskedLm,
}

/// The variables of one model.
pub struct Parameters {
    config: ModelConfig,
    device: Device,
    /// Where the encoder's tensors lie in the variable [`ENCODER`], if that is how they are kept.
    layout: Option<EncoderLayout>,
    variables: BTreeMap<String, Var>,
}

impl Parameters {
    /// Starts from an encoder's checkpoint. Heads that it lacks are drawn from `seed`; tensors that the task does not use are left out.
    /// On a GPU the encoder is one variable, as the fused operations want it, elsewhere each of its tensors is one.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor or one has another shape than `config` asks for.
    pub fn from_checkpoint(
        bytes: &[u8],
        file: &str,
        config: ModelConfig,
        task: Task,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let weights = Weights::from_safetensors(bytes, file, DType::F32, &Device::Cpu)?;
        let layout = EncoderLayout::new(&config.encoder);
        let prefix = prefix(&config);
        let mut tensors = HashMap::new();
        for place in layout.places() {
            let tensor = weights.encoder_tensor(&place.name, &place.shape)?;
            tensors.insert(format!("{prefix}{}", place.name), tensor);
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let heads = head_shapes(&config, task);
        for (name, shape) in &heads {
            let tensor = match weights.contains(name) {
                true => weights.tensor(name, shape)?,
                false => first_value(name, shape, &mut random)?,
            };
            tensors.insert(name.clone(), tensor);
        }
        let mut variables = BTreeMap::new();
        let mut variable = |name: &str, shape: &[usize]| -> Result<()> {
            variables.insert(name.into(), Var::zeros(shape, DType::F32, device)?);
            Ok(())
        };
        for (name, shape) in &heads {
            variable(name, shape)?;
        }
        let layout = device.is_cuda().then_some(layout);
        match &layout {
            Some(layout) => variable(ENCODER, &[layout.elements()])?,
            None => EncoderLayout::new(&config.encoder)
                .places()
                .iter()
                .try_for_each(|place| variable(&format!("{prefix}{}", place.name), &place.shape))?,
        }
        let parameters = Self { config, device: device.clone(), layout, variables };
        parameters.set(&tensors)?;
        Ok(parameters)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the variables lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The variables by name, in the order of their names.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// Places of the encoder's tensors in the variable [`ENCODER`]; `None` where each is a variable of its own.
    pub fn layout(&self) -> Option<&EncoderLayout> {
        self.layout.as_ref()
    }

    /// The tagger's network on these variables, in floats: what trains them changes it.
    ///
    /// # Errors
    /// If the parameters are another task's.
    pub fn network(&self) -> Result<Network> {
        self.network_in(Arithmetic::Floats)
    }

    /// The tagger's network on these variables: what trains them changes it. With fake quantisation it reads parts of the variable [`ENCODER`], where there is
    /// one, through candle's operations.
    ///
    /// # Errors
    /// As [`Parameters::network`].
    pub fn network_in(&self, arithmetic: Arithmetic) -> Result<Network> {
        let weights = self.weights()?;
        if arithmetic == Arithmetic::FakeQuantised {
            return Ok(Network::fake_quantised(&weights, &self.config)?);
        }
        Ok(match self.variables.get(ENCODER) {
            Some(encoder) => Network::on_flat_encoder(encoder.as_tensor(), &weights, &self.config)?,
            None => Network::load(&weights, &self.config)?,
        })
    }

    /// The encoder on these variables.
    ///
    /// # Errors
    /// If the device fails.
    pub fn encoder(&self) -> Result<Encoder> {
        Ok(match self.variables.get(ENCODER) {
            Some(encoder) => Encoder::on_flat(encoder.as_tensor(), &self.config.encoder)?,
            None => Encoder::load(&self.weights()?, &self.config.encoder)?,
        })
    }

    /// The CRF's scores as they are now.
    ///
    /// # Errors
    /// If the device fails.
    pub fn crf(&self) -> Result<Crf> {
        Ok(load_crf(&self.weights()?)?)
    }

    /// The tensors that the variables hold, by the checkpoint's names.
    fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let mut tensors = HashMap::new();
        for (name, variable) in &self.variables {
            match &self.layout {
                Some(layout) if name == ENCODER => {
                    for place in layout.places() {
                        let part = variable.narrow(0, place.range.start, place.range.len())?;
                        tensors.insert(
                            format!("{}{}", prefix(&self.config), place.name),
                            part.reshape(place.shape.as_slice())?,
                        );
                    }
                }
                _ => {
                    tensors.insert(name.clone(), variable.as_tensor().clone());
                }
            }
        }
        Ok(tensors)
    }

    fn weights(&self) -> Result<Weights> {
        Ok(Weights::from_tensors(self.tensors()?, "the model in training"))
    }

    /// Sets variables to the tensors of these names.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn set(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let find = |name: &str| {
            let tensor = tensors.get(name).ok_or_else(|| Error::Setting(format!("tensor {name} is missing")));
            Ok::<_, Error>(tensor?.to_dtype(DType::F32)?)
        };
        for (name, variable) in &self.variables {
            match &self.layout {
                Some(layout) if name == ENCODER => {
                    let mut flat = vec![0f32; layout.elements()];
                    for place in layout.places() {
                        let name = format!("{}{}", prefix(&self.config), place.name);
                        let values: Vec<f32> = find(&name)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
                        flat.get_mut(place.range.clone())
                            .filter(|part| part.len() == values.len())
                            .ok_or_else(|| Error::Setting(format!("tensor {name} has another size")))?
                            .copy_from_slice(&values);
                    }
                    variable.set(&Tensor::from_vec(flat, layout.elements(), &self.device)?)?;
                }
                _ => variable.set(&find(name)?.to_device(&self.device)?)?,
            }
        }
        Ok(())
    }

    /// Copies of the variables' values on the CPU, by the checkpoint's names.
    ///
    /// # Errors
    /// If the device fails.
    pub fn values(&self, dtype: DType) -> Result<HashMap<String, Tensor>> {
        self.tensors()?.into_iter().map(|(name, tensor)| Ok((name, on_the_cpu(&tensor, dtype)?))).collect()
    }

    /// Writes the model's folder: configuration, tokenizer (as given) and weights in f16.
    ///
    /// # Errors
    /// If a file cannot be written; each file is whole or untouched.
    pub fn save_model(&self, folder: &Path, tokenizer: &[u8]) -> Result<()> {
        let kept = self.values(DType::F16)?.into_iter().filter(|(name, _)| !CORPUS_HEADS.contains(&name.as_str()));
        save_folder(folder, &self.config, tokenizer, kept.collect())
    }
}

/// A copy of a tensor on the CPU. Where it is a part of a longer one, as weights of the fused encoder are, only this part is copied: `to_device` alone would copy all of it.
fn on_the_cpu(tensor: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    tensor.detach().to_dtype(dtype)?.force_contiguous()?.to_device(&Device::Cpu)
}

/// Writes a model's or an encoder's folder in Hugging Face's layout: configuration, tokenizer (as given) and weights in f16.
///
/// # Errors
/// If a file cannot be written; each file is whole or untouched.
pub fn save_folder(
    folder: &Path,
    config: &ModelConfig,
    tokenizer: &[u8],
    tensors: BTreeMap<String, Tensor>,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("write", folder, e))?;
    let halves = tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F16)?)));
    let weights = serialize(&halves.collect::<Result<_>>()?)?;
    let config = format!("{:#}\n", config.to_json());
    write_atomically(&folder.join("model.safetensors"), &weights)?;
    write_atomically(&folder.join("tokenizer.json"), tokenizer)?;
    write_atomically(&folder.join("config.json"), config.as_bytes())
}

/// Hugging Face's prefix of the encoder's tensors.
pub fn prefix(config: &ModelConfig) -> &'static str {
    match config.encoder.architecture {
        Architecture::DistilBert => "distilbert.",
        Architecture::Bert => "bert.",
    }
}

/// Tensors as a safetensors file; the same tensors give the same bytes.
///
/// # Errors
/// If a tensor cannot be read from its device.
pub fn serialize(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let metadata = Some(HashMap::from([("format".to_string(), "pt".to_string())]));
    safetensors::serialize(tensors.iter(), metadata).map_err(|e| Error::Setting(e.to_string()))
}

/// Names of the masked-language-model head's tensors, as Hugging Face has them.
pub struct MaskedLmNames {
    /// Linear on the hidden states, GELU after it.
    pub transform: &'static str,
    /// LayerNorm after that.
    pub norm: &'static str,
    /// Bias of the output, one for each piece.
    pub bias: &'static str,
}

/// The masked-language-model head's names in an architecture.
pub fn masked_lm_names(architecture: Architecture) -> MaskedLmNames {
    match architecture {
        Architecture::DistilBert => {
            MaskedLmNames { transform: "vocab_transform", norm: "vocab_layer_norm", bias: "vocab_projector.bias" }
        }
        Architecture::Bert => MaskedLmNames {
            transform: "cls.predictions.transform.dense",
            norm: "cls.predictions.transform.LayerNorm",
            bias: "cls.predictions.bias",
        },
    }
}

/// What a tensor of this name holds before any training, on the CPU, as in BERT: small random numbers in matrices, ones in LayerNorms' weights,
/// zeros in biases and in the CRF.
///
/// # Errors
/// If the tensor library fails.
pub fn first_value(name: &str, shape: &[usize], random: &mut ChaCha8Rng) -> Result<Tensor> {
    let is_norm = name.ends_with("layer_norm.weight") || name.ends_with("LayerNorm.weight");
    Ok(if shape.len() == 2 && name.ends_with(".weight") {
        let normal = Normal::new(0., INITIAL_DEVIATION).map_err(|e| Error::Setting(e.to_string()))?;
        let numbers = normal.sample_iter(random).take(shape.iter().product());
        Tensor::from_vec(numbers.map(|n| n as f32).collect(), shape, &Device::Cpu)?
    } else if is_norm {
        Tensor::ones(shape, DType::F32, &Device::Cpu)?
    } else {
        Tensor::zeros(shape, DType::F32, &Device::Cpu)?
    })
}

/// Names and shapes of what stands on the encoder.
pub fn head_shapes(config: &ModelConfig, task: Task) -> Vec<(String, Vec<usize>)> {
    let hidden = config.encoder.hidden;
    if task == Task::MaskedLm {
        let MaskedLmNames { transform, norm, bias } = masked_lm_names(config.encoder.architecture);
        return vec![
            (format!("{transform}.weight"), vec![hidden, hidden]),
            (format!("{transform}.bias"), vec![hidden]),
            (format!("{norm}.weight"), vec![hidden]),
            (format!("{norm}.bias"), vec![hidden]),
            (bias.into(), vec![config.encoder.vocab_size]),
        ];
    }
    if let Task::Representations { width } = task {
        return vec![(MAP[0].into(), vec![width, hidden]), (MAP[1].into(), vec![width])];
    }
    let mut shapes = vec![
        (names::CRF_START.to_string(), vec![TAGS]),
        (names::CRF_END.to_string(), vec![TAGS]),
        (names::CRF_TRANSITIONS.to_string(), vec![TAGS, TAGS]),
    ];
    for (head, outputs) in [(names::SPAN_HEAD, TAGS), (names::CLASS_HEAD, config.tagger.classes.len())] {
        if outputs > 0 {
            shapes.push((format!("{head}.weight"), vec![outputs, hidden]));
            shapes.push((format!("{head}.bias"), vec![outputs]));
        }
    }
    if let Task::TaggingByCorpus { corpora } = task {
        let [weights, biases] = CORPUS_HEADS;
        shapes.push((weights.into(), vec![corpora * TAGS, hidden]));
        shapes.push((biases.into(), vec![corpora * TAGS]));
    }
    shapes
}
