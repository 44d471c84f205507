//! Sizes and seeds -> what a test of training starts from: an encoder of random weights by Hugging Face's names, and examples that follow a
//! rule which a small network can learn. Nothing comes from a corpus; the same arguments give the same bytes.

// Every test takes its share.
#![allow(dead_code)]

pub mod old_layout;
pub mod words;

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};
use chemtag::model::config::{Architecture, EncoderConfig, ModelConfig, TaggerConfig};
use chemtag::model::crf::Tag;
use chemtag_training::dataset::{Dataset, Example, NO_CLASS_INDEX};
use chemtag_training::parameters::serialize;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

const VOCABULARY: usize = 44;
/// More than the longest example: some rows of the position embedding are not read.
const POSITIONS: usize = 24;
const CLS: u32 = 2;
const SEP: u32 = 3;
/// First pieces of words, by what the word is. Pieces 0, 1 and 4 (padding, unknown, mask) occur in no example.
const ORDINARY: Range<u32> = 5..20;
const CHEMICALS: [Range<u32>; 2] = [20..25, 25..30];
const CONNECTORS: Range<u32> = 30..34;
/// Later pieces of any word.
const LATER: Range<u32> = 34..44;

/// A model of two classes.
pub fn config(architecture: Architecture, layers: usize, heads: usize, head_width: usize) -> ModelConfig {
    let hidden = heads * head_width;
    let encoder = EncoderConfig {
        architecture,
        vocab_size: VOCABULARY,
        hidden,
        layers,
        heads,
        ffn: 2 * hidden,
        max_positions: POSITIONS,
        token_types: if architecture == Architecture::Bert { 2 } else { 0 },
        layer_norm_eps: 1e-12,
        dropout: 0.1,
    };
    let classes = vec!["FIRST".into(), "SECOND".into()];
    ModelConfig { encoder, tagger: TaggerConfig { sequence_pieces: POSITIONS - 2, classes, ..TaggerConfig::default() } }
}

/// Numbers around `mean`.
pub fn normal(shape: &[usize], mean: f64, deviation: f64, random: &mut ChaCha8Rng) -> Tensor {
    let numbers = Normal::new(mean, deviation).unwrap().sample_iter(random).take(shape.iter().product());
    Tensor::from_vec(numbers.map(|n| n as f32).collect(), shape, &Device::Cpu).unwrap()
}

/// A checkpoint of the encoder alone (safetensors), as masked-language-model training leaves it.
pub fn checkpoint(config: &EncoderConfig, seed: u64) -> Vec<u8> {
    let bert = config.architecture == Architecture::Bert;
    let prefix = if bert { "bert" } else { "distilbert" };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize], mean, deviation| {
        tensors.insert(format!("{prefix}.{name}"), normal(shape, mean, deviation, &mut random));
    };
    let hidden = config.hidden;
    for (table, rows) in
        [("word", config.vocab_size), ("position", config.max_positions), ("token_type", config.token_types)]
    {
        if rows > 0 {
            add(format!("embeddings.{table}_embeddings.weight"), &[rows, hidden], 0., 0.5);
        }
    }
    let mut norms = vec!["embeddings.LayerNorm".to_string()];
    for layer in 0..config.layers {
        let (below, linear, norm) = if bert {
            let linear = [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ];
            (format!("encoder.layer.{layer}"), linear, ["attention.output.LayerNorm", "output.LayerNorm"])
        } else {
            let linear =
                ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"];
            (format!("transformer.layer.{layer}"), linear, ["sa_layer_norm", "output_layer_norm"])
        };
        let attention = [(hidden, hidden); 4];
        for (name, (input, output)) in
            linear.iter().zip(attention.into_iter().chain([(hidden, config.ffn), (config.ffn, hidden)]))
        {
            add(format!("{below}.{name}.weight"), &[output, input], 0., (1. / input as f64).sqrt());
            add(format!("{below}.{name}.bias"), &[output], 0., 0.1);
        }
        norms.extend(norm.map(|name| format!("{below}.{name}")));
    }
    for norm in norms {
        add(format!("{norm}.weight"), &[hidden], 1., 0.1);
        add(format!("{norm}.bias"), &[hidden], 0., 0.1);
    }
    serialize(&tensors).unwrap()
}

/// Examples of two corpora, of which only the first has classes. A chemical begins a mention, a connector goes on with the mention before it
/// and is an ordinary word elsewhere: the network must know words, and either it or the CRF must look back.
pub fn examples(count: usize, seed: u64) -> Dataset {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let examples = (0..count).map(|i| example((i % 2) as u8, &mut random)).collect();
    Dataset { corpora: vec!["with-classes".into(), "without".into()], examples }
}

fn example(corpus: u8, random: &mut ChaCha8Rng) -> Example {
    let mut example =
        Example { corpus, piece_ids: vec![CLS], word_starts: Vec::new(), tags: Vec::new(), classes: Vec::new() };
    for _ in 0..random.random_range(1..=9) {
        let class = random.random_range(0..CHEMICALS.len());
        let inside = example.tags.last().is_some_and(|&tag| tag != Tag::O);
        let (first, tag) = match random.random_range(0..4) {
            0 => (CHEMICALS[class].clone(), Tag::B),
            1 => (CONNECTORS, if inside { Tag::I } else { Tag::O }),
            _ => (ORDINARY, Tag::O),
        };
        example.word_starts.push(example.piece_ids.len() as u32);
        example.piece_ids.push(random.random_range(first));
        if random.random_bool(0.5) {
            example.piece_ids.push(random.random_range(LATER));
        }
        example.classes.push(if tag == Tag::B && corpus == 0 { class as u8 } else { NO_CLASS_INDEX });
        example.tags.push(tag);
    }
    example.piece_ids.push(SEP);
    example
}
