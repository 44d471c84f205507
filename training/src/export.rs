//! Trained models -> one model to publish: the weights that a tagger needs and no others, in f16 and by Hugging Face's names, with name, version and licence.
//! Several models that were fine-tuned from one encoder become the mean of their weights (Wortsman et al. 2022, "Model soups", uniform).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use chemtag::ModelFiles;
use chemtag::model::config::ModelConfig;
use chemtag::model::layout::EncoderLayout;
use chemtag::model::names;
use chemtag::model::weights::Weights;

use crate::error::{Error, Result};
use crate::parameters::{Task, head_shapes, prefix};

/// What a published model says of itself; what is not given stays as it was.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Description {
    /// The model's name; as it was if not given.
    #[arg(long)]
    pub name: Option<String>,
    /// The model's version; as it was if not given.
    #[arg(long, value_name = "VERSION")]
    pub model_version: Option<String>,
    /// The weights' licence (SPDX); as it was if not given.
    #[arg(long)]
    pub license: Option<String>,
    /// Divide emissions and transitions by this number, found by `calibrate`: what is tagged stays the same, posteriors change.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
}

/// A model's configuration and its tensors in f16.
#[derive(Debug, Clone)]
pub struct Exported {
    /// As `config.json` shall say.
    pub config: ModelConfig,
    /// By the names of Hugging Face's layout.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Whether a tensor's numbers are scores of tags, or linear in them.
fn is_score(name: &str) -> bool {
    [names::CRF_START, names::CRF_END, names::CRF_TRANSITIONS].contains(&name)
        || name.split_once('.').is_some_and(|(layer, _)| layer == names::SPAN_HEAD)
}

/// Makes one model of models of the same sizes, classes and tokenizer. The same models give the same numbers.
///
/// # Errors
/// If there is no model, they differ in more than their weights, one lacks a tensor, or a number does not fit f16.
pub fn export(models: &[ModelFiles], description: &Description) -> Result<Exported> {
    let first = models.first().ok_or_else(|| Error::Setting("there is no model to export".into()))?;
    let mut config = ModelConfig::from_json(&first.config, &first.names[0])?;
    let mut shapes: Vec<(String, Vec<usize>)> = EncoderLayout::new(&config.encoder)
        .places()
        .iter()
        .map(|place| (format!("{}{}", prefix(&config), place.name), place.shape.clone()))
        .collect();
    shapes.extend(head_shapes(&config, Task::Tagging));
    let mut means: BTreeMap<String, Tensor> = BTreeMap::new();
    for model in models {
        let other = ModelConfig::from_json(&model.config, &model.names[0])?;
        let differs = if other.encoder != config.encoder {
            Some((0, "the encoder's sizes"))
        } else if (other.tagger.sequence_pieces, &other.tagger.classes)
            != (config.tagger.sequence_pieces, &config.tagger.classes)
        {
            Some((0, "the classes or the sequences' length"))
        } else {
            (model.tokenizer != first.tokenizer).then_some((1, "the tokenizer"))
        };
        if let Some((file, what)) = differs {
            return Err(Error::Setting(format!(
                "{} and {} differ in {what}: only models that were fine-tuned from one encoder in one way can be averaged",
                first.names[file], model.names[file]
            )));
        }
        let weights = Weights::from_safetensors(&model.weights, &model.names[2], DType::F32, &Device::Cpu)?;
        let prefix = prefix(&config);
        for (name, shape) in &shapes {
            let tensor = match name.strip_prefix(prefix) {
                Some(name) => weights.encoder_tensor(name, shape)?,
                None => weights.tensor(name, shape)?,
            };
            let share = (tensor / models.len() as f64)?;
            let sum = match means.remove(name) {
                Some(sum) => (sum + share)?,
                None => share,
            };
            means.insert(name.clone(), sum);
        }
    }
    let temperature = description.temperature.unwrap_or(1.);
    if !(temperature.is_finite() && temperature > 0.) {
        return Err(Error::Setting(format!("the temperature is {temperature}, but must be a number above 0")));
    }
    let mut tensors = BTreeMap::new();
    for (name, mut mean) in means {
        if is_score(&name) {
            mean = (mean / temperature)?;
        }
        let halves = mean.to_dtype(DType::F16)?;
        let largest: f32 = halves.abs()?.max_all()?.to_dtype(DType::F32)?.to_scalar()?;
        // A maximum may pass over what is no number; a sum does not.
        let sum: f32 = halves.to_dtype(DType::F32)?.sum_all()?.to_scalar()?;
        if !(largest.is_finite() && sum.is_finite()) {
            return Err(Error::Setting(format!("tensor {name} has numbers that f16 cannot hold")));
        }
        tensors.insert(name, halves);
    }
    let tagger = &mut config.tagger;
    for (field, given) in [
        (&mut tagger.name, &description.name),
        (&mut tagger.version, &description.model_version),
        (&mut tagger.license, &description.license),
    ] {
        if let Some(given) = given {
            field.clone_from(given);
        }
    }
    Ok(Exported { config, tensors })
}
