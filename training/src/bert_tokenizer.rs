//! A list of word pieces and how text is normalised -> `tokenizer.json`, the form that Hugging Face's `tokenizers` reads; and the same from the `vocab.txt` and
//! `tokenizer_config.json` of older checkpoints.
//! Normaliser, splitting and greedy longest match are BERT's (Devlin et al. 2019; `tokenization.py` of google-research/bert).

use serde_json::{Map, Value, json};

/// Pieces that stand for no text, in the order of their ids in a new vocabulary.
pub const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Before a piece that goes on with a word.
pub const CONTINUING: &str = "##";

/// What happens to a text before it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalization {
    /// Capital letters become small ones.
    pub lowercase: bool,
    /// Letters lose their accents; `None`: where capitals become small.
    pub strip_accents: Option<bool>,
    /// Each Chinese character is a word.
    pub chinese_characters: bool,
    /// A longer word, in characters, is unknown as a whole.
    pub longest_word: usize,
}

impl Normalization {
    /// Text as it is written.
    pub const CASED: Self =
        Self { lowercase: false, strip_accents: Some(false), chinese_characters: true, longest_word: 64 };
    /// Small letters without accents.
    pub const UNCASED: Self = Self { lowercase: true, strip_accents: Some(true), ..Self::CASED };

    /// What a checkpoint's `tokenizer_config.json` says (`{}` if it has none), as `BertTokenizer` understands it. If it does not say whether letters become small, the
    /// vocabulary does: one without capital letters can only be read so. Words are unknown from 101 characters on.
    pub fn of_checkpoint(config: &Value, pieces: &[String]) -> Self {
        let says = |key: &str| config.get(key).and_then(Value::as_bool);
        let has_capitals = || {
            let mut text = pieces.iter().filter(|piece| !(piece.starts_with('[') && piece.ends_with(']')));
            text.any(|piece| piece.chars().any(char::is_uppercase))
        };
        Self {
            lowercase: says("do_lower_case").unwrap_or_else(|| !has_capitals()),
            strip_accents: says("strip_accents"),
            chinese_characters: says("tokenize_chinese_chars").unwrap_or(true),
            longest_word: 100,
        }
    }
}

/// The pieces of a `vocab.txt`: one on each line, the first with the id 0.
pub fn pieces_of_vocab_txt(text: &str) -> Vec<String> {
    text.strip_suffix('\n').unwrap_or(text).split('\n').map(|line| line.trim_end_matches('\r').to_string()).collect()
}

/// `tokenizer.json` of these pieces; the same arguments give the same bytes.
pub fn tokenizer_json(pieces: &[String], normalization: &Normalization) -> Vec<u8> {
    let mut vocabulary = Map::new();
    for (id, piece) in pieces.iter().enumerate() {
        // Of a piece that stands on two lines the later one counts, as for `BertTokenizer`.
        vocabulary.insert(piece.clone(), id.into());
    }
    let special = SPECIAL.iter().filter_map(|&piece| Some((vocabulary.get(piece)?.clone(), piece)));
    let mut special: Vec<Value> = special
        .map(|(id, piece)| {
            json!({"id": id, "content": piece, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    special.sort_by_key(|token| token["id"].as_u64());
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            // A letter and its accent are one character, however they are written.
            {"type": "NFC"},
            {
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": normalization.chinese_characters,
                "strip_accents": normalization.strip_accents,
                "lowercase": normalization.lowercase,
            },
        ]},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": CONTINUING,
            "max_input_chars_per_word": normalization.longest_word,
            "vocab": vocabulary,
        },
    });
    format!("{json:#}\n").into_bytes()
}
