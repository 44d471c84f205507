//! A model's `config.json` (Hugging Face layout, DistilBERT or BERT names) -> sizes of the encoder, labels and reading length.
//! chemtag's own settings stand in the file's `chemtag` section, which other readers ignore.
//! Names follow `DistilBertConfig` and `BertConfig` of Hugging Face transformers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Which names and embeddings a checkpoint has; the layers' arithmetic is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Word and position embeddings.
    DistilBert,
    /// Word, position and token-type embeddings.
    Bert,
}

/// Sizes of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Tensor naming and embeddings.
    pub architecture: Architecture,
    /// Number of word pieces in the vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Attention heads; `hidden` is a multiple of it.
    pub heads: usize,
    /// Width of the feed-forward network.
    pub ffn: usize,
    /// Longest sequence in pieces, `[CLS]` and `[SEP]` included.
    pub max_positions: usize,
    /// Rows of the token-type embedding (BERT only, else 0).
    pub token_types: usize,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f64,
    /// Dropout probability used in training.
    pub dropout: f64,
}

/// The `chemtag` section of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaggerConfig {
    /// The model's name.
    pub name: String,
    /// The model's version.
    pub version: String,
    /// SPDX expression of the weights' licence.
    pub license: String,
    /// Neighbouring sentences share a sequence of up to this many pieces, `[CLS]` and `[SEP]` not counted.
    pub sequence_pieces: usize,
    /// Names of the class head's outputs, in order; empty if the model has no class head.
    pub classes: Vec<String>,
}

impl Default for TaggerConfig {
    fn default() -> Self {
        Self {
            name: "unnamed".into(),
            version: "0".into(),
            license: "unknown".into(),
            sequence_pieces: 250,
            classes: Vec::new(),
        }
    }
}

/// A whole `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The encoder's sizes.
    pub encoder: EncoderConfig,
    /// chemtag's own settings.
    pub tagger: TaggerConfig,
}

impl ModelConfig {
    /// Reads a `config.json`; `file` is its name for error messages.
    ///
    /// # Errors
    /// [`Error::Model`] if it is not JSON, lacks a key, or asks for an encoder that chemtag does not have.
    pub fn from_json(json: &[u8], file: &str) -> Result<Self> {
        let fail = |reason: String| Error::Model { file: file.into(), reason };
        let root: Value = serde_json::from_slice(json).map_err(|e| fail(format!("not valid JSON: {e}")))?;
        let encoder = EncoderConfig::from_value(&root).map_err(fail)?;
        let room = encoder.max_positions.saturating_sub(2);
        let tagger: TaggerConfig = match root.get("chemtag") {
            Some(section) => {
                TaggerConfig::deserialize(section).map_err(|e| fail(format!("section \"chemtag\": {e}")))?
            }
            None => {
                let default = TaggerConfig::default();
                TaggerConfig { sequence_pieces: default.sequence_pieces.min(room), ..default }
            }
        };
        if tagger.sequence_pieces == 0 || tagger.sequence_pieces > room {
            return Err(fail(format!(
                "chemtag.sequence_pieces is {}, but must lie between 1 and {room} (max_position_embeddings less [CLS] and [SEP])",
                tagger.sequence_pieces
            )));
        }
        Ok(Self { encoder, tagger })
    }

    /// Writes the configuration in Hugging Face's layout, as a token-classification model.
    pub fn to_json(&self) -> Value {
        let mut root = self.encoder.to_value();
        root["id2label"] = serde_json::json!({"0": "O", "1": "B-CHEMICAL", "2": "I-CHEMICAL"});
        root["label2id"] = serde_json::json!({"O": 0, "B-CHEMICAL": 1, "I-CHEMICAL": 2});
        root["chemtag"] = serde_json::json!(self.tagger);
        root
    }
}

impl EncoderConfig {
    fn from_value(root: &Value) -> Result<Self, String> {
        let kind = root.get("model_type").and_then(Value::as_str);
        let architecture = match kind {
            Some("distilbert") => Architecture::DistilBert,
            Some("bert") => Architecture::Bert,
            Some(other) => return Err(format!("model_type is \"{other}\", but must be \"distilbert\" or \"bert\"")),
            None => return Err("key model_type is missing; it must be \"distilbert\" or \"bert\"".into()),
        };
        let distil = architecture == Architecture::DistilBert;
        let size = |key: &str| -> Result<usize, String> {
            match root.get(key).and_then(Value::as_u64) {
                Some(n) if n > 0 => Ok(n as usize),
                Some(_) => Err(format!("{key} is 0")),
                None => Err(format!("key {key} is missing or not a whole number")),
            }
        };
        let number = |key: &str, default: f64| root.get(key).and_then(Value::as_f64).unwrap_or(default);
        let activation =
            root.get(if distil { "activation" } else { "hidden_act" }).and_then(Value::as_str).unwrap_or("gelu");
        if activation != "gelu" {
            return Err(format!("activation is \"{activation}\", but only \"gelu\" (exact, by erf) is supported"));
        }
        let positions = root.get("position_embedding_type").and_then(Value::as_str).unwrap_or("absolute");
        if positions != "absolute" {
            return Err(format!("position_embedding_type is \"{positions}\", but only \"absolute\" is supported"));
        }
        let config = Self {
            architecture,
            vocab_size: size("vocab_size")?,
            hidden: size(if distil { "dim" } else { "hidden_size" })?,
            layers: size(if distil { "n_layers" } else { "num_hidden_layers" })?,
            heads: size(if distil { "n_heads" } else { "num_attention_heads" })?,
            ffn: size(if distil { "hidden_dim" } else { "intermediate_size" })?,
            max_positions: size("max_position_embeddings")?,
            token_types: if distil { 0 } else { size("type_vocab_size")? },
            layer_norm_eps: number("layer_norm_eps", 1e-12),
            dropout: number(if distil { "dropout" } else { "hidden_dropout_prob" }, 0.1),
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(format!("width {} is not a multiple of the {} heads", config.hidden, config.heads));
        }
        if config.max_positions < 3 {
            return Err(format!("max_position_embeddings is {}, but must be at least 3", config.max_positions));
        }
        Ok(config)
    }

    fn to_value(&self) -> Value {
        match self.architecture {
            Architecture::DistilBert => serde_json::json!({
                "architectures": ["DistilBertForTokenClassification"],
                "model_type": "distilbert",
                "activation": "gelu",
                "vocab_size": self.vocab_size,
                "dim": self.hidden,
                "n_layers": self.layers,
                "n_heads": self.heads,
                "hidden_dim": self.ffn,
                "max_position_embeddings": self.max_positions,
                "sinusoidal_pos_embds": false,
                "layer_norm_eps": self.layer_norm_eps,
                "dropout": self.dropout,
                "attention_dropout": self.dropout,
                "pad_token_id": 0,
            }),
            Architecture::Bert => serde_json::json!({
                "architectures": ["BertForTokenClassification"],
                "model_type": "bert",
                "hidden_act": "gelu",
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "intermediate_size": self.ffn,
                "max_position_embeddings": self.max_positions,
                "type_vocab_size": self.token_types,
                "layer_norm_eps": self.layer_norm_eps,
                "hidden_dropout_prob": self.dropout,
                "attention_probs_dropout_prob": self.dropout,
                "pad_token_id": 0,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distil() -> Value {
        serde_json::json!({"model_type": "distilbert", "vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4,
            "hidden_dim": 64, "max_position_embeddings": 40, "chemtag": {"sequence_pieces": 30, "classes": ["A"]}})
    }

    #[test]
    fn round_trip_keeps_every_setting() {
        let bert = serde_json::json!({"model_type": "bert", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 300, "type_vocab_size": 2});
        for json in [distil(), bert] {
            let config = ModelConfig::from_json(json.to_string().as_bytes(), "config.json").unwrap();
            let again = ModelConfig::from_json(config.to_json().to_string().as_bytes(), "config.json").unwrap();
            assert_eq!(config, again);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (key, value, expected) in [
            ("model_type", Value::from("gpt2"), "gpt2"),
            ("dim", Value::from(30), "multiple of the 4 heads"),
            ("n_layers", Value::Null, "n_layers"),
            ("vocab_size", Value::from(0), "vocab_size is 0"),
            ("activation", Value::from("relu"), "relu"),
            ("position_embedding_type", Value::from("relative_key"), "relative_key"),
            ("chemtag", serde_json::json!({"sequence_pieces": 39}), "between 1 and 38"),
            ("chemtag", serde_json::json!({"sequence_piece": 39}), "sequence_piece"),
        ] {
            let mut json = distil();
            json[key] = value;
            let error =
                ModelConfig::from_json(json.to_string().as_bytes(), "some/config.json").unwrap_err().to_string();
            assert!(error.contains(expected) && error.starts_with("some/config.json: "), "{error}");
        }
        assert!(ModelConfig::from_json(b"{", "c").unwrap_err().to_string().contains("not valid JSON"));
    }
}
