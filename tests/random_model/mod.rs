//! Sizes -> a folder with a whole model of random weights, as a test's stand-in for a trained one.
//! The same sizes and seed give the same bytes.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

const PIECES: [&str; 12] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "benz", "##ene", "##o", "ethan", "##ol", ".", "in"];
const POSITIONS: usize = 64;

/// Writes `config.json`, `tokenizer.json` and `model.safetensors` of a DistilBERT with CRF.
pub fn write(folder: &Path, layers: usize, hidden: usize, seed: u64) {
    let ffn = 4 * hidden;
    let config = serde_json::json!({"model_type": "distilbert", "vocab_size": PIECES.len(), "dim": hidden, "n_layers": layers,
        "n_heads": 4, "hidden_dim": ffn, "max_position_embeddings": POSITIONS, "chemtag": {"sequence_pieces": 50}});
    let vocab: serde_json::Map<_, _> =
        PIECES.iter().enumerate().map(|(id, piece)| (piece.to_string(), id.into())).collect();
    let tokenizer = serde_json::json!({"version": "1.0", "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 64, "vocab": vocab}});
    let mut shapes = vec![
        ("distilbert.embeddings.word_embeddings.weight".to_string(), vec![PIECES.len(), hidden]),
        ("distilbert.embeddings.position_embeddings.weight".into(), vec![POSITIONS, hidden]),
        ("crf.start_transitions".into(), vec![3]),
        ("crf.end_transitions".into(), vec![3]),
        ("crf.transitions".into(), vec![3, 3]),
    ];
    let mut linear = |name: &str, input, output| {
        shapes.push((format!("{name}.weight"), vec![output, input]));
        shapes.push((format!("{name}.bias"), vec![output]));
    };
    linear("classifier", hidden, 3);
    for layer in 0..layers {
        let name = |part: &str| format!("distilbert.transformer.layer.{layer}.{part}");
        for part in ["q_lin", "k_lin", "v_lin", "out_lin"] {
            linear(&name(&format!("attention.{part}")), hidden, hidden);
        }
        linear(&name("ffn.lin1"), hidden, ffn);
        linear(&name("ffn.lin2"), ffn, hidden);
    }
    let norms = (0..layers).flat_map(|layer| {
        ["sa_layer_norm", "output_layer_norm"].map(|norm| format!("distilbert.transformer.layer.{layer}.{norm}"))
    });
    for norm in norms.chain(["distilbert.embeddings.LayerNorm".into()]) {
        shapes.extend(["weight", "bias"].map(|part| (format!("{norm}.{part}"), vec![hidden])));
    }
    let mut state = seed;
    let tensors: HashMap<String, Tensor> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product()).map(|_| next(&mut state)).collect::<Vec<f32>>();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    // Under another name first: a file that is read meanwhile stays whole.
    let whole = folder.join("model.safetensors.new");
    candle_core::safetensors::save(&tensors, &whole).unwrap();
    std::fs::rename(whole, folder.join("model.safetensors")).unwrap();
}

/// Between -0.5 and 0.5, by Knuth's linear congruential generator (MMIX).
fn next(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}
