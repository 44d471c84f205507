//! A model folder's files <-> one self-contained safetensors file with 8-bit weights, which is what programs ship and load.
//! Tensors keep their Hugging Face names; the large matrices become `NAME` (I8) and `NAME_scale` (F32), all others stay as they are.
//! `config.json` and `tokenizer.json` stand in the file's metadata. Layout: <https://huggingface.co/docs/safetensors>.

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, SCALE};
use super::network::{Network, quantised_names};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::source::ModelFiles;

/// What the metadata say the file is.
const FORMAT: &str = "chemtag-int8";
/// A reader that knows this number understands the file.
const FORMAT_VERSION: &str = "1";
/// The tensors' bytes begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// The file that holds a model in 8 bits: float weights are quantised, weights that are in 8 bits stay as they are. The same model gives the
/// same bytes.
///
/// # Errors
/// If a file is damaged or does not fit the others, or the model's sizes exceed what the integer engine takes.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use chemtag::{ModelFiles, int8};
///
/// let files = ModelFiles::read(&"models/chemtag-small".into())?;
/// std::fs::write("chemtag-small.int8.safetensors", int8::to_file(&files)?)?;
/// # Ok(())
/// # }
/// ```
pub fn to_file(files: &ModelFiles) -> Result<Vec<u8>> {
    let config = ModelConfig::from_json(&files.config, &files.names[0])?;
    let checkpoint = Checkpoint::read(&files.weights, &files.names[2])?;
    // What cannot be loaded is not written.
    Network::load(&checkpoint, &files.weights, &config, false)?;
    let quantised = quantised_names(&checkpoint, &config.encoder);
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for name in checkpoint.names() {
        let (dtype, shape, data) = checkpoint.raw(name)?;
        if dtype != Dtype::I8 && quantised.iter().any(|quantised| quantised == name) {
            let rows = checkpoint.rows(name, &shape)?;
            let scales = rows.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            tensors.push((format!("{name}{SCALE}"), Dtype::F32, vec![rows.scales.len()], scales));
            let bytes = rows.values.iter().map(|value| value.cast_unsigned()).collect();
            tensors.push((name.into(), Dtype::I8, shape, bytes));
        } else {
            tensors.push((name.into(), dtype, shape, data.to_vec()));
        }
    }
    // Wider numbers first, so that each lies at a multiple of its size.
    tensors.sort_by(|(a, a_type, ..), (b, b_type, ..)| b_type.bitsize().cmp(&a_type.bitsize()).then(a.cmp(b)));
    let mut header = Map::new();
    header.insert("__metadata__".into(), metadata(files)?);
    let mut end = 0;
    for (name, dtype, shape, data) in &tensors {
        let start = end;
        end += data.len();
        let place = json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), place);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize((header.len() + 8).next_multiple_of(ALIGNMENT) - 8, b' ');
    let mut file = Vec::with_capacity(8 + header.len() + end);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header);
    for (.., data) in tensors {
        file.extend(data);
    }
    Ok(file)
}

/// The metadata: both files without white space that means nothing.
fn metadata(files: &ModelFiles) -> Result<Value> {
    let compact = |json: &[u8], name: &String| -> Result<String> {
        let parsed: Value = serde_json::from_slice(json)
            .map_err(|e| Error::Model { file: name.clone(), reason: format!("not valid JSON: {e}") })?;
        Ok(parsed.to_string())
    };
    Ok(json!({
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": compact(&files.config, &files.names[0])?,
        "tokenizer": compact(&files.tokenizer, &files.names[1])?,
    }))
}

/// `config.json` and `tokenizer.json` out of a self-contained file's metadata; `file` names it in messages.
///
/// # Errors
/// [`Error::Model`] if the bytes are no safetensors file, or one without this metadata, or of a later format.
pub(crate) fn configuration_and_tokenizer(bytes: &[u8], file: &str) -> Result<[Vec<u8>; 2]> {
    let fail = |reason: String| Error::Model { file: file.into(), reason };
    let damaged = |e| fail(format!("not a whole safetensors file of {} bytes ({e}): get the file again", bytes.len()));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let mut metadata = header.metadata().clone().unwrap_or_default();
    match (metadata.get("format").map(String::as_str), metadata.get("format_version").map(String::as_str)) {
        (Some(FORMAT), Some(FORMAT_VERSION)) => {}
        (Some(FORMAT), version) => {
            let found = version.unwrap_or("missing");
            return Err(fail(format!(
                "its format_version is {found}, but this program reads {FORMAT_VERSION}: update it"
            )));
        }
        _ => {
            let reason = format!(
                "has no metadata of the format {FORMAT}: name the model's folder, or make such a file with chemtag-train export"
            );
            return Err(fail(reason));
        }
    }
    let mut part = |key: &str| -> Result<Vec<u8>> {
        let json =
            metadata.remove(key).ok_or_else(|| fail(format!("its metadata lack the key {key}: get the file again")))?;
        Ok(json.into_bytes())
    };
    Ok([part("config")?, part("tokenizer")?])
}
