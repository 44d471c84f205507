//! A word list -> a model folder that finds exactly these words: what a test expects is known without running anything.
//! Attention and feed-forward network are zero, so a word's hidden state is the embedding of its piece: four features of +1 or -1,
//! each followed by its negative. Mean 0 and variance 1 pass every LayerNorm unchanged. Heads read the features.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

/// Class of chemicals that are not formulas.
pub const TRIVIAL: &str = "TRIVIAL";
/// Class of formulas.
pub const FORMULA: &str = "FORMULA";

/// Words that the model takes for chemicals.
pub const CHEMICALS: [(&str, &str); 11] = [
    ("benzene", TRIVIAL),
    ("ethanol", TRIVIAL),
    ("acetic", TRIVIAL),
    ("acid", TRIVIAL),
    ("α", TRIVIAL),
    ("β", TRIVIAL),
    ("pinene", TRIVIAL),
    ("carotene", TRIVIAL),
    ("酢", TRIVIAL),
    ("LiCl", FORMULA),
    ("Li7La3Zr2O12", FORMULA),
];
/// Words that go on with a chemical, but begin none.
pub const CONNECTORS: [&str; 2] = ["-", "酸"];

/// Twice the number of features.
const HIDDEN: usize = 8;
const PIECES: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
const POSITIONS: usize = 64;

/// A model's files before they are written, so that a test can spoil one.
pub struct TinyModel {
    /// `config.json`.
    pub config: Value,
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// Name, shape and values of each tensor of `model.safetensors`.
    pub tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl TinyModel {
    /// The model that finds [`CHEMICALS`].
    pub fn new() -> Self {
        let words = CHEMICALS.iter().map(|(word, _)| *word).chain(CONNECTORS);
        let vocabulary: Vec<&str> = PIECES.into_iter().chain(words).collect();
        let embeddings: Vec<f32> = vocabulary.iter().flat_map(|piece| embedding(piece)).collect();
        let mut tensors = vec![
            ("embeddings.word_embeddings.weight".into(), vec![vocabulary.len(), HIDDEN], embeddings),
            zeros("embeddings.position_embeddings.weight", &[POSITIONS, HIDDEN]),
            zeros("crf.start_transitions", &[3]),
            zeros("crf.end_transitions", &[3]),
            zeros("crf.transitions", &[3, 3]),
        ];
        for name in
            ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"]
        {
            tensors.push(zeros(&format!("transformer.layer.0.{name}.weight"), &[HIDDEN, HIDDEN]));
            tensors.push(zeros(&format!("transformer.layer.0.{name}.bias"), &[HIDDEN]));
        }
        for name in
            ["embeddings.LayerNorm", "transformer.layer.0.sa_layer_norm", "transformer.layer.0.output_layer_norm"]
        {
            tensors.push((format!("{name}.weight"), vec![HIDDEN], vec![1.0; HIDDEN]));
            tensors.push(zeros(&format!("{name}.bias"), &[HIDDEN]));
        }
        // Rows: scores by the features chemical, connector, formula, and the bias. They give O, B, I for a chemical -3, 2, 3; for a
        // connector 1, -4, 2; for any other word 4, -4, -5.
        tensors.extend(head("classifier", &[[-3.5, -1.5, 0.0, -1.0], [3.0, 0.0, 0.0, -1.0], [4.0, 3.5, 0.0, 2.5]]));
        tensors.extend(head("class_classifier", &[[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]));
        let config = json!({
            "model_type": "distilbert", "activation": "gelu", "vocab_size": vocabulary.len(), "dim": HIDDEN, "n_layers": 1,
            "n_heads": 2, "hidden_dim": HIDDEN, "max_position_embeddings": POSITIONS,
            "chemtag": {"name": "word-list", "version": "1.2", "license": "CC0-1.0", "sequence_pieces": 40,
                "classes": [TRIVIAL, FORMULA]},
        });
        let ids: serde_json::Map<_, _> =
            vocabulary.iter().enumerate().map(|(id, p)| (p.to_string(), id.into())).collect();
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": false,
                "lowercase": false},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 64, "vocab": ids},
        });
        Self { config, tokenizer, tensors }
    }

    /// Writes the model into a new folder inside `parent`.
    pub fn write(&self, parent: &Path) -> PathBuf {
        let folder = parent.join("model");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(folder.join("tokenizer.json"), self.tokenizer.to_string()).unwrap();
        let bytes: Vec<Vec<u8>> =
            self.tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = self.tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        std::fs::write(folder.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
        folder
    }
}

fn zeros(name: &str, shape: &[usize]) -> (String, Vec<usize>, Vec<f32>) {
    (name.into(), shape.into(), vec![0.0; shape.iter().product()])
}

fn embedding(piece: &str) -> [f32; HIDDEN] {
    let class = CHEMICALS.iter().find(|(word, _)| *word == piece).map(|(_, class)| *class);
    let features = [class.is_some(), CONNECTORS.contains(&piece), class == Some(FORMULA), true];
    std::array::from_fn(|i| if features[i / 2] == (i % 2 == 0) { 1.0 } else { -1.0 })
}

fn head(name: &str, rows: &[[f32; 4]]) -> [(String, Vec<usize>, Vec<f32>); 2] {
    let weight = rows.iter().flat_map(|row| [row[0], 0.0, row[1], 0.0, row[2], 0.0, 0.0, 0.0]).collect();
    let bias = rows.iter().map(|row| row[3]).collect();
    [(format!("{name}.weight"), vec![rows.len(), HIDDEN], weight), (format!("{name}.bias"), vec![rows.len()], bias)]
}
