//! A tokenizer and a piece of another vocabulary -> the tokenizer's pieces that spell it: at the start of a word for a piece that begins one, within a word for one that goes on.
//! Special pieces are found by their names. (Transfer of embeddings between vocabularies by averaging, as by Gee et al. 2022, "Fast vocabulary transfer".)

use chemtag::tokenizer::WordPieces;
use serde_json::{Map, Value};

use crate::bert_tokenizer::{CONTINUING, SPECIAL};
use crate::error::Result;

/// A WordPiece tokenizer that can spell what stands at the start of a word and what stands within one.
pub struct Spelling {
    first: WordPieces,
    /// The same normalisation; its pieces are the ones that go on with a word, wherever they stand.
    later: WordPieces,
    unknown: u32,
}

impl Spelling {
    /// From a `tokenizer.json`; `file` names it in messages, `vocab_size` is the number of rows of the embedding.
    ///
    /// # Errors
    /// If it is no WordPiece tokenizer or has ids beyond `vocab_size`.
    pub fn new(json: &[u8], file: &str, vocab_size: usize) -> Result<Self> {
        let fail = |reason: &str| chemtag::Error::Model { file: file.into(), reason: reason.into() };
        let first = WordPieces::from_json(json, file, vocab_size)?;
        let unknown = first.id("[UNK]").ok_or_else(|| fail("piece [UNK] is missing"))?;
        let mut root: Value = serde_json::from_slice(json).map_err(|e| fail(&format!("not valid JSON: {e}")))?;
        let vocabulary = root.pointer_mut("/model/vocab").and_then(Value::as_object_mut);
        let vocabulary = vocabulary.ok_or_else(|| fail("has no vocabulary (model.vocab) of WordPiece's form"))?;
        let mut later: Map<String, Value> = Map::new();
        for (piece, id) in vocabulary.iter() {
            if SPECIAL.contains(&piece.as_str()) {
                later.insert(piece.clone(), id.clone());
            } else if let Some(text) = piece.strip_prefix(CONTINUING).filter(|text| !text.is_empty()) {
                later.insert(piece.clone(), id.clone());
                later.insert(text.into(), id.clone());
            }
        }
        *vocabulary = later;
        let later = WordPieces::from_json(root.to_string().as_bytes(), file, vocab_size)?;
        Ok(Self { first, later, unknown })
    }

    /// The ids that spell a piece of another vocabulary; `None` if there are none.
    pub fn of_piece(&self, piece: &str) -> Option<Vec<u32>> {
        if piece.starts_with('[') && piece.ends_with(']') && piece.len() > 2 {
            return self.first.id(piece).map(|id| vec![id]);
        }
        if let Some(id) = self.first.id(piece) {
            return Some(vec![id]);
        }
        let ids = match piece.strip_prefix(CONTINUING).filter(|text| !text.is_empty()) {
            Some(text) => self.later.pieces(text),
            None => self.first.pieces(piece),
        };
        (!ids.contains(&self.unknown)).then(|| ids.to_vec())
    }
}
