//! A folder with a BERT or DistilBERT checkpoint in Hugging Face's layout, new or old, or a model's name on their hub -> the three files that chemtag reads.
//! Old layout: `pytorch_model.bin` instead of `model.safetensors`, `vocab.txt` (with `tokenizer_config.json` or without) instead of `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bert_tokenizer::{Normalization, pieces_of_vocab_txt, tokenizer_json};
use crate::error::{Error, Result};
use crate::parameters::serialize;
use crate::torch_file;

/// Before a model's name on the hub: `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`.
pub const HUB: &str = "hub:";

/// Where an encoder's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderFolder {
    path: PathBuf,
}

impl EncoderFolder {
    /// A folder, or what [`HUB`] begins; the hub's files are fetched once and kept.
    ///
    /// # Errors
    /// If there is no such folder, the hub has no such model or cannot be reached, or this build cannot ask it.
    pub fn open(name: &str) -> Result<Self> {
        let path = match name.strip_prefix(HUB) {
            Some(model) => fetch(model)?,
            None => PathBuf::from(name),
        };
        match path.is_dir() {
            true => Ok(Self { path }),
            false => Err(Error::Setting(format!(
                "{name} is no folder: name a folder with config.json, a tokenizer and weights, or {HUB}OWNER/NAME"
            ))),
        }
    }

    /// `config.json` and its name in messages. Checkpoints from before `model_type` existed are BERT.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn config(&self) -> Result<(Vec<u8>, String)> {
        let (json, name) = self.file("config.json")?;
        if let Ok(mut root) = serde_json::from_slice::<Value>(&json)
            && root.get("model_type").is_none()
            && root.get("type_vocab_size").is_some()
        {
            root["model_type"] = "bert".into();
            return Ok((root.to_string().into_bytes(), name));
        }
        Ok((json, name))
    }

    /// `tokenizer.json`, made from `vocab.txt` where there is none, and its name in messages. The same files give the same bytes.
    ///
    /// # Errors
    /// If there is neither, or one cannot be read.
    pub fn tokenizer(&self) -> Result<(Vec<u8>, String)> {
        if self.has("tokenizer.json") || !self.has("vocab.txt") {
            return self.file("tokenizer.json");
        }
        let (text, name) = self.file("vocab.txt")?;
        let path = || self.path.join("vocab.txt");
        let text = String::from_utf8(text)
            .map_err(|e| Error::Dataset { path: path(), reason: format!("is not UTF-8: {}", e.utf8_error()) })?;
        let config = match self.has("tokenizer_config.json") {
            true => self.file("tokenizer_config.json")?,
            false => self.file("config.json")?,
        };
        let config: Value = serde_json::from_slice(&config.0)
            .map_err(|e| Error::Dataset { path: config.1.into(), reason: format!("is not valid JSON: {e}") })?;
        let pieces = pieces_of_vocab_txt(&text);
        let normalization = Normalization::of_checkpoint(&config, &pieces);
        Ok((tokenizer_json(&pieces, &normalization), name))
    }

    /// The weights as safetensors, and their name in messages.
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
    pub fn weights(&self) -> Result<(Vec<u8>, String)> {
        if self.has("model.safetensors") || !self.has("pytorch_model.bin") {
            return self.file("model.safetensors");
        }
        let path = self.path.join("pytorch_model.bin");
        let tensors = torch_file::read(&path)?;
        Ok((serialize(&tensors)?, path.display().to_string()))
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut names = vec!["config.json"];
        match self.has("tokenizer.json") || !self.has("vocab.txt") {
            true => names.push("tokenizer.json"),
            false => names.extend(["vocab.txt", "tokenizer_config.json"].into_iter().filter(|name| self.has(name))),
        }
        names.push(match self.has("model.safetensors") || !self.has("pytorch_model.bin") {
            true => "model.safetensors",
            false => "pytorch_model.bin",
        });
        names.into_iter().map(|name| self.path.join(name)).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    fn file(&self, name: &str) -> Result<(Vec<u8>, String)> {
        read(&self.path.join(name))
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, String)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    Ok((bytes, path.display().to_string()))
}

#[cfg(feature = "hub")]
fn fetch(model: &str) -> Result<PathBuf> {
    use chemtag::hub::{Address, Hub, Wanted};
    let address: Address = format!("hf://{model}").parse()?;
    if address.file().is_some() {
        return Err(Error::Setting(format!("{HUB}{model} names a file: name the model, {HUB}OWNER/NAME")));
    }
    // The tokenizer's configuration comes before what stands for the whole, so that a fetch that broke off is taken up again.
    let wanted = [
        Wanted::OneOf(&["config.json"]),
        Wanted::IfThere("tokenizer_config.json"),
        Wanted::OneOf(&["tokenizer.json", "vocab.txt"]),
        Wanted::OneOf(&["model.safetensors", "pytorch_model.bin"]),
    ];
    Ok(Hub::from_environment()?.fetch_files(&address, &wanted, &mut |_, _| Ok(()))?)
}

#[cfg(not(feature = "hub"))]
fn fetch(model: &str) -> Result<PathBuf> {
    Err(Error::Setting(format!(
        "{HUB}{model}: this build does not fetch from the hub: build with `--features hub`, or fetch the model's files yourself and name their folder"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use chemtag::tokenizer::WordPieces;
    use std::collections::BTreeMap;

    fn write(folder: &Path, name: &str, content: &str) {
        std::fs::write(folder.join(name), content).unwrap();
    }

    #[test]
    fn the_old_layout_becomes_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let open = || EncoderFolder::open(path.to_str().unwrap()).unwrap();
        write(path, "config.json", r#"{"type_vocab_size": 2, "hidden_size": 8}"#);
        write(path, "vocab.txt", "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nna\r\n##cl\r\n");
        let config: Value = serde_json::from_slice(&open().config().unwrap().0).unwrap();
        assert_eq!((&config["model_type"], &config["hidden_size"]), (&"bert".into(), &8.into()));
        let pieces = |words: &[&str]| -> Vec<Vec<u32>> {
            let (json, name) = open().tokenizer().unwrap();
            assert_eq!(open().tokenizer().unwrap().0, json);
            let pieces = WordPieces::from_json(&json, &name, 7).unwrap();
            words.iter().map(|word| pieces.pieces(word).to_vec()).collect()
        };
        // A vocabulary without capitals is read in small letters, unless its configuration says otherwise.
        assert_eq!(pieces(&["NaCl", "nacl"]), [[5, 6], [5, 6]]);
        write(path, "tokenizer_config.json", r#"{"do_lower_case": false}"#);
        assert_eq!(pieces(&["NaCl", "nacl"]), [vec![1], vec![5, 6]]);
        std::fs::remove_file(path.join("tokenizer_config.json")).unwrap();
        write(path, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nNa\n##Cl\n");
        assert_eq!(pieces(&["NaCl", "nacl"]), [vec![5, 6], vec![1]]);

        let error = open().weights().unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
        write(path, "pytorch_model.bin", "no checkpoint");
        let error = open().weights().unwrap_err().to_string();
        assert!(error.contains("pytorch_model.bin") && error.contains("no checkpoint of PyTorch"), "{error}");
        let tensor = Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap();
        let safetensors = serialize(&BTreeMap::from([("a".to_string(), tensor)])).unwrap();
        std::fs::write(path.join("model.safetensors"), &safetensors).unwrap();
        assert_eq!(open().weights().unwrap().0, safetensors);
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let error = |name: &str| EncoderFolder::open(name).unwrap_err().to_string();
        assert!(error("/nowhere/at/all").contains("/nowhere/at/all is no folder"));
        #[cfg(not(feature = "hub"))]
        assert!(error("hub:allenai/scibert_scivocab_cased").contains("--features hub"));
    }
}
