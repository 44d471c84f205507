//! An encoder's configuration -> where each of its tensors lies in one flat buffer: one conversion to 16 bits, one optimiser step and one
//! gradient buffer for all of them. Query, key and value projections lie side by side and are multiplied as one matrix.

use std::ops::Range;

use super::config::{Architecture, EncoderConfig};
use super::names::LayerNames;

/// Blocks begin at multiples of this many elements, which are 256 bytes of 16-bit floats: what the fastest matrix products ask for.
const ALIGNMENT: usize = 128;

/// One tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Hugging Face's name without prefix.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Elements of the flat buffer that hold it.
    pub range: Range<usize>,
}

/// Elements of one layer's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerLayout {
    /// Query, key and value weights `[3 hidden, hidden]`.
    pub qkv_weight: Range<usize>,
    /// Query, key and value biases `[3 hidden]`.
    pub qkv_bias: Range<usize>,
    /// Output projection of the attention: weight `[hidden, hidden]`.
    pub output_weight: Range<usize>,
    /// Its bias `[hidden]`.
    pub output_bias: Range<usize>,
    /// LayerNorm after the attention: weight and bias, each `[hidden]`.
    pub attention_norm: [Range<usize>; 2],
    /// First linear of the feed-forward network: weight `[ffn, hidden]`.
    pub ffn_in_weight: Range<usize>,
    /// Its bias `[ffn]`.
    pub ffn_in_bias: Range<usize>,
    /// Second linear: weight `[hidden, ffn]`.
    pub ffn_out_weight: Range<usize>,
    /// Its bias `[hidden]`.
    pub ffn_out_bias: Range<usize>,
    /// LayerNorm after the feed-forward network.
    pub ffn_norm: [Range<usize>; 2],
}

/// Places of all of an encoder's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderLayout {
    places: Vec<Place>,
    elements: usize,
    /// Word embeddings `[vocabulary, hidden]`.
    pub words: Range<usize>,
    /// Position embeddings `[positions, hidden]`.
    pub positions: Range<usize>,
    /// Token-type embeddings [types, hidden] (BERT).
    pub token_types: Option<Range<usize>>,
    /// LayerNorm of the embeddings: weight and bias.
    pub embedding_norm: [Range<usize>; 2],
    /// The layers from the first to the last.
    pub layers: Vec<LayerLayout>,
}

impl EncoderLayout {
    /// Lays out the tensors of an encoder of this configuration.
    pub fn new(config: &EncoderConfig) -> Self {
        let (hidden, ffn) = (config.hidden, config.ffn);
        let mut places = Places::default();
        let words = places.block(&[("embeddings.word_embeddings.weight".into(), &[config.vocab_size, hidden])]);
        let positions =
            places.block(&[("embeddings.position_embeddings.weight".into(), &[config.max_positions, hidden])]);
        let token_types = (config.architecture == Architecture::Bert).then(|| {
            places.block(&[("embeddings.token_type_embeddings.weight".into(), &[config.token_types, hidden])])
        });
        let embedding_norm = places.norm("embeddings.LayerNorm", hidden);
        let names = LayerNames::of(config.architecture);
        let layers = (0..config.layers).map(|index| {
            let name = |part: &str, kind: &str| format!("{}.{index}.{part}.{kind}", names.layer);
            let [query, key, value, output, ffn_in, ffn_out] = names.linear;
            let mut linear = |parts: &[&str], input: usize, outputs: usize| {
                let mut side_by_side = |kind: &str, shape: &[usize]| {
                    places.block(&parts.iter().map(|part| (name(part, kind), shape)).collect::<Vec<_>>())
                };
                (side_by_side("weight", &[outputs, input]), side_by_side("bias", &[outputs]))
            };
            let (qkv_weight, qkv_bias) = linear(&[query, key, value], hidden, hidden);
            let (output_weight, output_bias) = linear(&[output], hidden, hidden);
            let (ffn_in_weight, ffn_in_bias) = linear(&[ffn_in], hidden, ffn);
            let (ffn_out_weight, ffn_out_bias) = linear(&[ffn_out], ffn, hidden);
            let mut norm = |part: &str| places.norm(&format!("{}.{index}.{part}", names.layer), hidden);
            let [attention_norm, ffn_norm] = names.norm.map(&mut norm);
            LayerLayout {
                qkv_weight,
                qkv_bias,
                output_weight,
                output_bias,
                attention_norm,
                ffn_in_weight,
                ffn_in_bias,
                ffn_out_weight,
                ffn_out_bias,
                ffn_norm,
            }
        });
        let layers = layers.collect();
        Self { places: places.places, elements: places.next, words, positions, token_types, embedding_norm, layers }
    }

    /// All tensors, in the buffer's order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Length of the buffer. What no tensor holds is zero and stays so.
    pub fn elements(&self) -> usize {
        self.elements
    }
}

#[derive(Default)]
struct Places {
    places: Vec<Place>,
    next: usize,
}

impl Places {
    /// Tensors side by side, from the next aligned element on.
    fn block(&mut self, tensors: &[(String, &[usize])]) -> Range<usize> {
        let start = self.next;
        let mut end = start;
        for (name, shape) in tensors {
            let elements: usize = shape.iter().product();
            self.places.push(Place { name: name.clone(), shape: shape.to_vec(), range: end..end + elements });
            end += elements;
        }
        self.next = end.next_multiple_of(ALIGNMENT);
        start..end
    }

    fn norm(&mut self, name: &str, hidden: usize) -> [Range<usize>; 2] {
        ["weight", "bias"].map(|kind| self.block(&[(format!("{name}.{kind}"), &[hidden])]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ModelConfig;

    fn config(model_type: &str) -> EncoderConfig {
        let json = format!(
            r#"{{"model_type": "{model_type}", "vocab_size": 100, "max_position_embeddings": 512, "dim": 96, "hidden_size": 96, "n_layers": 2,
            "num_hidden_layers": 2, "n_heads": 3, "num_attention_heads": 3, "hidden_dim": 200, "intermediate_size": 200, "type_vocab_size": 2}}"#
        );
        ModelConfig::from_json(json.as_bytes(), "config.json").unwrap().encoder
    }

    #[test]
    fn tensors_fill_their_blocks_and_never_overlap() {
        for model_type in ["distilbert", "bert"] {
            let layout = EncoderLayout::new(&config(model_type));
            let mut end = 0;
            for place in layout.places() {
                assert!(place.range.start >= end && place.range.start < end + ALIGNMENT, "{place:?} after {end}");
                assert_eq!(place.range.len(), place.shape.iter().product::<usize>());
                end = place.range.end;
            }
            assert!(layout.elements() >= end && layout.elements().is_multiple_of(ALIGNMENT));
            let layer = &layout.layers[1];
            let within = |block: &Range<usize>| {
                let parts = layout.places().iter().filter(|place| block.contains(&place.range.start));
                parts.map(|place| place.name.as_str()).collect::<Vec<_>>()
            };
            let expected = match model_type {
                "bert" => ["query", "key", "value"].map(|part| format!("encoder.layer.1.attention.self.{part}.bias")),
                _ => ["q_lin", "k_lin", "v_lin"].map(|part| format!("transformer.layer.1.attention.{part}.bias")),
            };
            assert_eq!(within(&layer.qkv_bias), expected);
            assert_eq!(layer.qkv_bias.len(), 3 * 96);
            assert!(layer.ffn_out_weight.start.is_multiple_of(ALIGNMENT) && layer.ffn_out_weight.len() == 96 * 200);
            assert_eq!(layout.token_types.is_some(), model_type == "bert");
        }
    }
}
