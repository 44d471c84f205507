//! Words -> word pieces, by the model's own `tokenizer.json` (crate `tokenizers`), each distinct word once.
//! A word is encoded alone: neither its neighbours nor white space reach the tokenizer, so a cache is exact.

use std::sync::Arc;

#[cfg(not(all(feature = "wasm", target_arch = "wasm32")))]
use tokenizers::Tokenizer;

#[cfg(all(feature = "wasm", target_arch = "wasm32"))]
use crate::bert_tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::word_cache::WordCache;

/// Longer words are not cached.
const LONGEST_CACHED_BYTES: usize = 64;
/// Only this much of a word is encoded; WordPiece gives up on words far shorter than this anyway.
const LONGEST_ENCODED_BYTES: usize = 1024;

/// A WordPiece tokenizer for single words.
pub struct WordPieces {
    tokenizer: Tokenizer,
    cls: u32,
    sep: u32,
    unknown: u32,
    /// Full, it takes no more words: scientific text repeats its frequent words, and memory stays bounded.
    cache: WordCache,
}

impl WordPieces {
    /// Reads a `tokenizer.json`; `file` names it in messages, `vocab_size` is the number of rows of the model's embedding.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no tokenizer, lacks `[CLS]`, `[SEP]` or `[UNK]`, or has ids beyond `vocab_size`.
    pub fn from_json(json: &[u8], file: &str, vocab_size: usize) -> Result<Self> {
        let fail = |reason: String| Error::Model { file: file.into(), reason };
        let mut tokenizer: Tokenizer =
            serde_json::from_slice(json).map_err(|e| fail(format!("not a tokenizer of Hugging Face's format: {e}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if highest >= vocab_size {
            return Err(fail(format!("its highest piece id is {highest}, but the model has only {vocab_size} pieces")));
        }
        let special = |name: &str| tokenizer.token_to_id(name).ok_or_else(|| fail(format!("piece {name} is missing")));
        let (cls, sep, unknown) = (special("[CLS]")?, special("[SEP]")?, special("[UNK]")?);
        Ok(Self { tokenizer, cls, sep, unknown, cache: WordCache::default() })
    }

    /// Id of the piece that begins every sequence.
    pub fn cls(&self) -> u32 {
        self.cls
    }

    /// Id of the piece that ends every sequence.
    pub fn sep(&self) -> u32 {
        self.sep
    }

    /// Id of a piece, if the vocabulary has it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    /// Number of pieces in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The pieces by their ids; ids that stand for none have an empty string.
    pub fn vocabulary(&self) -> Vec<String> {
        let by_piece = self.tokenizer.get_vocab(true);
        let length = by_piece.values().max().map_or(0, |&id| id as usize + 1);
        let mut vocabulary = vec![String::new(); length];
        for (piece, id) in by_piece {
            vocabulary[id as usize] = piece;
        }
        vocabulary
    }

    /// Ids of a word's pieces, at least one.
    pub fn pieces(&self, word: &str) -> Arc<[u32]> {
        match self.cached(word) {
            Some(pieces) => pieces.clone(),
            None => self.new_pieces(word),
        }
    }

    /// Appends the ids of a word's pieces to `ids` and returns how many they are. Faster than [`WordPieces::pieces`] where many threads read
    /// the same words, for it writes to no memory that they share.
    pub fn push_pieces(&self, word: &str, ids: &mut Vec<u32>) -> usize {
        let held = ids.len();
        match self.cached(word) {
            Some(pieces) => ids.extend_from_slice(pieces),
            None => ids.extend_from_slice(&self.new_pieces(word)),
        }
        ids.len() - held
    }

    fn cached(&self, word: &str) -> Option<&Arc<[u32]>> {
        if word.len() > LONGEST_CACHED_BYTES { None } else { self.cache.get(word) }
    }

    fn new_pieces(&self, word: &str) -> Arc<[u32]> {
        if word.len() > LONGEST_CACHED_BYTES {
            return self.encode(&word[..word.floor_char_boundary(LONGEST_ENCODED_BYTES)]);
        }
        let pieces = self.encode(word);
        self.cache.insert(word, pieces.clone());
        pieces
    }

    fn encode(&self, word: &str) -> Arc<[u32]> {
        match self.tokenizer.encode_fast(word, false) {
            Ok(encoding) if !encoding.get_ids().is_empty() => encoding.get_ids().into(),
            // Control characters vanish in the normaliser; the word still needs a piece to carry its tag.
            _ => [self.unknown].into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tokenizer of a few pieces in the layout of BERT's.
    pub(crate) fn small() -> WordPieces {
        let pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "benz", "##ene", "##o", "ethan", "##ol", ".", "a"];
        let vocab: serde_json::Map<_, _> =
            pieces.iter().enumerate().map(|(id, piece)| (piece.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [{"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": false, "lowercase": false},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 64, "vocab": vocab},
        });
        WordPieces::from_json(json.to_string().as_bytes(), "tokenizer.json", pieces.len()).unwrap()
    }

    #[test]
    fn words_become_pieces_and_repeated_words_share_them() {
        let pieces = small();
        assert_eq!(*pieces.pieces("benzene"), [5, 6]);
        assert_eq!(*pieces.pieces("ethanol"), [8, 9]);
        assert!(Arc::ptr_eq(&pieces.pieces("benzene"), &pieces.pieces("benzene")));
        let mut ids = vec![7];
        assert_eq!((pieces.push_pieces("ethanol", &mut ids), pieces.push_pieces("benzol", &mut ids)), (2, 2));
        assert_eq!(ids, [7, 8, 9, 5, 9]);
        assert_eq!((pieces.cls(), pieces.sep(), pieces.vocab_size()), (2, 3, 12));
        assert_eq!(pieces.vocabulary()[5..8], ["benz", "##ene", "##o"]);
    }

    #[test]
    fn every_word_has_a_piece() {
        let pieces = small();
        for word in ["xyz", "\u{0}", "\u{200b}", "", &"a".repeat(70), &"é".repeat(1_000_000)] {
            assert!(!pieces.pieces(word).is_empty());
        }
        assert_eq!(*pieces.pieces("\u{0}"), [1]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |json: &str| WordPieces::from_json(json.as_bytes(), "t.json", 1).err().unwrap().to_string();
        assert!(error("{}").starts_with("t.json: not a tokenizer"));
        let model =
            r#"{"version":"1.0","model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"\#\#",
            "max_input_chars_per_word":9,"vocab":{"[UNK]":ID}}}"#
                .replace(r"\#", "#");
        assert!(error(&model.replace("ID", "0")).contains("[CLS] is missing"));
        assert!(error(&model.replace("ID", "5")).contains("highest piece id is 5"));
    }
}
