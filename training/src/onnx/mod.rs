//! A model -> one ONNX file (operators of version 17): `input_ids` and `attention_mask` `[batch, sequence]` in, `emissions` `[batch, sequence, 3]` and, where the model has
//! classes, `class_logits` `[batch, sequence, classes]` out, one row for each word piece. Weights in f32; those of a file in 8 bits stay 8 bits, and activations become
//! 7-bit integers row by row as in chemtag's integer engine (Jacob et al. 2018, section 2.1), with the same scales.
//!
//! What else a program needs to tag stands in the file's metadata: `config.json`, `tokenizer.json` and, under `crf`, the transitions that the best path is found by.

mod encoder;
mod graph;
mod proto;
mod tensors;

use chemtag::ModelFiles;
use chemtag::model::config::ModelConfig;
use chemtag::model::names;
use prost::Message;
use serde_json::json;

use crate::error::Result;
use encoder::network;
use tensors::Tensors;

/// Of the operators.
const OPSET: i64 = 17;
/// The first version of the format that knows them.
const IR_VERSION: i64 = 8;

/// The bytes of the ONNX file of a model, a folder's or a self-contained one's. The same model gives the same bytes.
///
/// # Errors
/// If a tensor is missing or of another shape than the configuration asks for.
///
/// ```no_run
/// use chemtag::ModelFiles;
/// use chemtag_training::onnx::to_onnx;
///
/// let files = ModelFiles::read(&"models/chemtag-small.int8.safetensors".into())?;
/// std::fs::write("chemtag-small.int8.onnx", to_onnx(&files)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn to_onnx(files: &ModelFiles) -> Result<Vec<u8>> {
    let config = ModelConfig::from_json(&files.config, &files.names[0])?;
    let tensors = Tensors::read(&files.weights, &files.names[2])?;
    let crf = json!({
        "start": tensors.floats(names::CRF_START, &[3])?,
        "end": tensors.floats(names::CRF_END, &[3])?,
        "transitions": tensors.floats(names::CRF_TRANSITIONS, &[3, 3])?,
    });
    let property = |key: &str, value: String| proto::Property { key: key.into(), value };
    let text = |json: &[u8]| String::from_utf8_lossy(json).into_owned();
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: "chemtag".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(network(&tensors, &config)?),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: vec![
            property("config.json", text(&files.config)),
            property("tokenizer.json", text(&files.tokenizer)),
            property("crf", crf.to_string()),
        ],
    };
    Ok(model.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    /// The default model, in floats and in 8 bits: every value is there before it is used, and nothing is left over.
    #[test]
    fn every_node_finds_its_inputs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        for (name, product, weights) in
            [("chemtag-small", "MatMul", 4), ("chemtag-small.int8.safetensors", "MatMulInteger", 1)]
        {
            let files = ModelFiles::read(&root.join(name).as_path().into()).unwrap();
            let bytes = to_onnx(&files).unwrap();
            let model = proto::Model::decode(bytes.as_slice()).unwrap();
            assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
            let keys: Vec<&str> = model.metadata_props.iter().map(|property| property.key.as_str()).collect();
            assert_eq!(keys, ["config.json", "tokenizer.json", "crf"]);
            let graph = model.graph.unwrap();
            let mut known: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
            known.extend(graph.initializer.iter().map(|constant| constant.name.as_str()));
            let mut used = HashSet::new();
            for node in &graph.node {
                for input in &node.input {
                    assert!(known.contains(input.as_str()), "{} is used before it is there", input);
                    used.insert(input.as_str());
                }
                assert!(known.insert(&node.output[0]), "{} is there twice", node.output[0]);
            }
            let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
            assert_eq!(outputs, ["emissions", "class_logits"]);
            used.extend(outputs);
            let left: Vec<_> = known.difference(&used).collect();
            assert!(left.is_empty(), "{left:?}");
            // Query, key, value, output and two of the feed-forward network in each of six layers.
            let layers = graph.node.iter().filter(|node| node.op_type == product).count();
            assert!(layers >= 6 * 6);
            // 20 million weights of so many bytes.
            let sizes = 19_000_000 * weights..22_000_000 * weights;
            assert!(sizes.contains(&bytes.len()), "{} bytes", bytes.len());
        }
    }
}
