//! A BERT model's `tokenizer.json` -> the tokenizer for it and for nothing else: the same code of the crate `tokenizers` as its general type, without
//! what that type brings for other models (byte pairs, unigrams, their regular expressions), which would be a third of what a browser fetches.

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Decoder, Encoding, PostProcessor, Result, TokenizerImpl};

/// WordPiece after BERT's normalisation.
pub type Tokenizer = TokenizerImpl<WordPiece, BertNormalizer, BertPreTokenizer, Unused, Unused>;

/// What the file says of `[CLS]` and `[SEP]`, which the sequencer sets, and of the way back to text.
#[derive(Debug, Clone, Deserialize)]
pub struct Unused {}

impl PostProcessor for Unused {
    fn added_tokens(&self, _is_pair: bool) -> usize {
        0
    }

    fn process_encodings(&self, encodings: Vec<Encoding>, _add_special_tokens: bool) -> Result<Vec<Encoding>> {
        Ok(encodings)
    }
}

impl Decoder for Unused {
    fn decode_chain(&self, tokens: Vec<String>) -> Result<Vec<String>> {
        Ok(tokens)
    }
}
