//! Sizes, pieces and a seed -> a BERT checkpoint in the layout of the first Hugging Face models, as SciBERT has it: `pytorch_model.bin` in the form of `torch.save`
//! before PyTorch 1.6, `vocab.txt`, and a `config.json` that does not know its `model_type`.
//! Form of the stream: `_legacy_save` of torch/serialization.py; a test reads one that PyTorch wrote beside this one.

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

const HEAD: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

/// Sizes of the encoder.
pub struct Sizes {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn: usize,
    pub positions: usize,
}

/// Writes the folder's three files.
pub fn write(folder: &Path, pieces: &[String], sizes: &Sizes, seed: u64) {
    let Sizes { hidden, layers, heads, ffn, positions } = *sizes;
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({"attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "hidden_size": hidden, "initializer_range": 0.02, "intermediate_size": ffn, "max_position_embeddings": positions,
        "num_attention_heads": heads, "num_hidden_layers": layers, "type_vocab_size": 2, "vocab_size": pieces.len()});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocabulary: String = pieces.iter().map(|piece| format!("{piece}\n")).collect();
    std::fs::write(folder.join("vocab.txt"), vocabulary).unwrap();

    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |name: String, shape: &[usize], mean: f32, deviation: f32| {
        let numbers = Normal::new(mean, deviation).unwrap().sample_iter(&mut random);
        tensors.push((name, shape.to_vec(), numbers.take(shape.iter().product()).collect()));
    };
    for (table, rows) in [("word", pieces.len()), ("position", positions), ("token_type", 2)] {
        add(format!("bert.embeddings.{table}_embeddings.weight"), &[rows, hidden], 0., 0.5);
    }
    let mut norms = vec!["bert.embeddings.LayerNorm".to_string()];
    for layer in 0..layers {
        let below = format!("bert.encoder.layer.{layer}");
        for (name, input, output) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", hidden, ffn),
            ("output.dense", ffn, hidden),
        ] {
            add(format!("{below}.{name}.weight"), &[output, input], 0., (1. / input as f32).sqrt());
            add(format!("{below}.{name}.bias"), &[output], 0., 0.1);
        }
        norms.extend(["attention.output.LayerNorm", "output.LayerNorm"].map(|name| format!("{below}.{name}")));
    }
    norms.push("cls.predictions.transform.LayerNorm".into());
    for norm in norms {
        add(format!("{norm}.gamma"), &[hidden], 1., 0.1);
        add(format!("{norm}.beta"), &[hidden], 0., 0.1);
    }
    for (name, outputs) in
        [("bert.pooler.dense", hidden), ("cls.predictions.transform.dense", hidden), ("cls.seq_relationship", 2)]
    {
        add(format!("{name}.weight"), &[outputs, hidden], 0., 0.1);
        add(format!("{name}.bias"), &[outputs], 0., 0.1);
    }
    add("cls.predictions.bias".into(), &[pieces.len()], 0., 0.1);
    std::fs::write(folder.join("pytorch_model.bin"), stream(&tensors)).unwrap();
}

/// `torch.save(OrderedDict(tensors), ..., _use_new_zipfile_serialization=False)`.
fn stream(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let mut out = HEAD.to_vec();
    out.extend(b"\x80\x02ccollections\nOrderedDict\n)R(");
    for (key, (name, shape, numbers)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        int(&mut out, numbers.len());
        // No view of the storage; its offset is 0.
        out.extend(b"NtQK\x00");
        let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product());
        for tuple in [shape.clone(), strides.collect()] {
            out.push(b'(');
            tuple.into_iter().for_each(|n| int(&mut out, n));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.\x80\x02](");
    (0..tensors.len()).for_each(|key| text(&mut out, &key.to_string()));
    out.extend(b"e.");
    for (.., numbers) in tensors {
        out.extend((numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|x| out.extend(x.to_le_bytes()));
    }
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend((number as i32).to_le_bytes());
}
