//! Everything that is trained, by Hugging Face's tensor names: an encoder's checkpoint and the heads on it, as f32 variables.
//! Out again: a model folder that the product loads (config.json, tokenizer.json, model.safetensors in f16).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::model::crf::{Crf, TAGS};
use chemtag::model::weights::Weights;
use chemtag::model::{Network, load_crf, names};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::error::{Error, Result};
use crate::files::write_atomically;

/// Standard deviation of the heads' first weights, as in BERT.
const INITIAL_DEVIATION: f64 = 0.02;

/// The variables of one model.
pub struct Parameters {
    config: ModelConfig,
    device: Device,
    variables: BTreeMap<String, Var>,
}

impl Parameters {
    /// Starts from an encoder's checkpoint. Heads that it lacks are drawn from `seed`; tensors that the tagger does not use are left out.
    ///
    /// # Errors
    /// If the checkpoint lacks a tensor or one has another shape than `config` asks for.
    pub fn from_checkpoint(bytes: &[u8], file: &str, config: ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let weights = Weights::from_safetensors(bytes, file, DType::F32, &Device::Cpu)?;
        let prefix = match config.encoder.architecture {
            Architecture::DistilBert => "distilbert.",
            Architecture::Bert => "bert.",
        };
        let mut variables = BTreeMap::new();
        let mut keep = |name: String, tensor: &Tensor| -> Result<()> {
            variables.insert(name, Var::from_tensor(&tensor.to_device(device)?)?);
            Ok(())
        };
        for (name, tensor) in weights.tensors() {
            if let Some(own) = name.strip_prefix(weights.prefix())
                && ["embeddings.", "transformer.layer.", "encoder.layer."].iter().any(|part| own.starts_with(part))
            {
                keep(format!("{prefix}{own}"), tensor)?;
            }
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (name, shape) in head_shapes(&config) {
            let tensor = match weights.contains(&name) {
                true => weights.tensor(&name, &shape)?,
                false if shape.len() == 2 && name.ends_with(".weight") => {
                    let normal = Normal::new(0., INITIAL_DEVIATION).map_err(|e| Error::Setting(e.to_string()))?;
                    let numbers = normal.sample_iter(&mut random).take(shape.iter().product());
                    Tensor::from_vec(numbers.map(|n| n as f32).collect(), shape, &Device::Cpu)?
                }
                false => Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
            };
            keep(name, &tensor)?;
        }
        let parameters = Self { config, device: device.clone(), variables };
        parameters.network()?;
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

    /// The network on these variables: what trains them changes it.
    ///
    /// # Errors
    /// If a variable is missing or of another shape.
    pub fn network(&self) -> Result<Network> {
        Ok(Network::load(&self.weights(), &self.config)?)
    }

    /// The CRF's scores as they are now.
    ///
    /// # Errors
    /// If the device fails.
    pub fn crf(&self) -> Result<Crf> {
        Ok(load_crf(&self.weights())?)
    }

    fn weights(&self) -> Weights {
        let tensors: HashMap<String, Tensor> =
            self.variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        Weights::from_tensors(tensors, "the model in training")
    }

    /// Sets variables to the tensors of these names.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn set(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, variable) in &self.variables {
            let tensor = tensors.get(name).ok_or_else(|| Error::Setting(format!("tensor {name} is missing")))?;
            variable.set(&tensor.to_device(&self.device)?.to_dtype(DType::F32)?)?;
        }
        Ok(())
    }

    /// Copies of the variables' values on the CPU.
    ///
    /// # Errors
    /// If the device fails.
    pub fn values(&self, dtype: DType) -> Result<HashMap<String, Tensor>> {
        let value = |variable: &Var| variable.as_tensor().detach().to_dtype(dtype)?.to_device(&Device::Cpu)?.copy();
        let values = self.variables.iter().map(|(name, variable)| Ok((name.clone(), value(variable)?)));
        Ok(values.collect::<candle_core::Result<_>>()?)
    }

    /// Writes the model's folder: configuration, tokenizer (as given) and weights in f16.
    ///
    /// # Errors
    /// If a file cannot be written; each file is whole or untouched.
    pub fn save_model(&self, folder: &Path, tokenizer: &[u8]) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("write", folder, e))?;
        let values: BTreeMap<String, Tensor> = self.values(DType::F16)?.into_iter().collect();
        let weights = serialize(&values)?;
        let config = format!("{:#}\n", self.config.to_json());
        write_atomically(&folder.join("model.safetensors"), &weights)?;
        write_atomically(&folder.join("tokenizer.json"), tokenizer)?;
        write_atomically(&folder.join("config.json"), config.as_bytes())
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

/// Names and shapes of the heads and the CRF.
fn head_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.encoder.hidden;
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
    shapes
}
