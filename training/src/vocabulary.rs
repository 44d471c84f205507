//! Text -> a vocabulary of word pieces for it: words are counted by the product's own splitting, then pairs of neighbouring pieces are merged, the most
//! frequent first, until the vocabulary is full (byte-pair encoding, Sennrich et al. 2016, on characters; the pieces are read as WordPiece).
//! Trainer: crate `tokenizers`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::BufRead;
use std::path::Path;

use chemtag::text::{sentences, words};
use rayon::prelude::*;
use serde::Serialize;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use crate::bert_tokenizer::{CONTINUING, Normalization, SPECIAL, tokenizer_json};
use crate::error::{Error, Result};
use crate::text::for_each_portion;

/// Distinct words that are counted at once, about 1 GB; a longer tail of words that hardly occur is forgotten (lossy counting, Manku and Motwani 2002).
const MOST_WORDS: usize = 8_000_000;

/// Settings, as the command line takes them. They and the text determine the vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Most pieces, special ones included. Prepared text holds at most 65,536.
    #[arg(long, value_name = "N", default_value_t = 24_000)]
    pub size: usize,
    /// A piece occurs at least so often in the text.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_frequency: u64,
    /// Most characters that have pieces of their own, the most frequent; words with others are unknown.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub alphabet: usize,
    /// Read capital letters as small ones, and letters without their accents.
    #[arg(long)]
    pub uncased: bool,
}

impl Default for Settings {
    /// What an empty command line gives.
    fn default() -> Self {
        crate::defaults()
    }
}

/// How often each word occurs.
#[derive(Debug, Clone, Default)]
pub struct WordCounts {
    counts: HashMap<String, u64>,
}

impl WordCounts {
    /// Counts the words of a text: every line is a document.
    ///
    /// # Errors
    /// If a line cannot be read or is not UTF-8; `name` is the text's name in messages.
    pub fn read(&mut self, name: &Path, text: impl BufRead) -> Result<()> {
        for_each_portion(name, text, |lines| {
            self.add(&lines);
            Ok(())
        })
    }

    /// Counts the words of documents.
    pub fn add(&mut self, documents: &[impl AsRef<str> + Sync]) {
        let of_document = |mut counts: HashMap<String, u64>, text: &str| {
            for sentence in sentences(text) {
                let sentence = &text[sentence.range];
                for word in words(sentence) {
                    count(&mut counts, &sentence[word], 1);
                }
            }
            counts
        };
        let parts = documents.par_iter().map(AsRef::as_ref).fold(HashMap::new, of_document);
        for (word, times) in parts.collect::<Vec<HashMap<String, u64>>>().iter().flatten() {
            count(&mut self.counts, word, *times);
        }
        self.forget_rare(MOST_WORDS);
    }

    /// Drops the rarest words until there are at most `most`.
    fn forget_rare(&mut self, most: usize) {
        let mut rare = 1;
        while self.counts.len() > most {
            self.counts.retain(|_, count| *count > rare);
            rare += 1;
        }
    }

    /// Number of distinct words.
    pub fn distinct(&self) -> usize {
        self.counts.len()
    }

    /// Number of words.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

fn count(counts: &mut HashMap<String, u64>, word: &str, times: u64) {
    match counts.get_mut(word) {
        Some(sum) => *sum += times,
        None => _ = counts.insert(word.into(), times),
    }
}

/// `tokenizer.json` of the vocabulary that serves these words best, and its number of pieces. The same words and settings give the same bytes.
///
/// Ids: the special pieces, characters that begin words, characters within words (both in Unicode's order), then the merged pieces, the most frequent first.
///
/// # Errors
/// If there are no words, or the vocabulary is too small for the alphabet.
pub fn learn(counts: &WordCounts, settings: &Settings) -> Result<(Vec<u8>, usize)> {
    let normalization = if settings.uncased { Normalization::UNCASED } else { Normalization::CASED };
    let words = as_read(counts, &normalization)?;
    let alphabet = alphabet(&words, settings);
    let words: BTreeMap<&str, u64> = words
        .iter()
        .filter(|(word, _)| word.chars().all(|c| alphabet.contains(&c)))
        .map(|(word, &count)| (word.as_str(), count))
        .collect();
    if words.is_empty() {
        return Err(Error::Setting(format!(
            "the text has no words to learn from, or none whose characters occur {} times",
            settings.min_frequency
        )));
    }
    let sorted = |characters: HashSet<char>| -> Vec<char> {
        let mut sorted: Vec<char> = characters.into_iter().collect();
        sorted.sort_unstable();
        sorted
    };
    let later = sorted(words.keys().flat_map(|word| word.chars().skip(1)).collect());
    let any = sorted(words.keys().flat_map(|word| word.chars()).collect());
    let first: Vec<String> = SPECIAL
        .iter()
        .map(|piece| piece.to_string())
        .chain(any.iter().map(char::to_string))
        .chain(later.iter().map(|c| format!("{CONTINUING}{c}")))
        .collect();
    if first.len() > settings.size {
        return Err(Error::Setting(format!(
            "{} special pieces and characters do not fit into a vocabulary of {}: ask for more pieces (--size) or fewer characters (--alphabet)",
            first.len(),
            settings.size
        )));
    }
    // Left to itself, the trainer numbers characters in the random order of a hash map, and breaks ties between pairs by those numbers.
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(settings.size)
        .min_frequency(settings.min_frequency)
        .continuing_subword_prefix(CONTINUING.into())
        .special_tokens(first.into_iter().map(|piece| AddedToken::from(piece, true)).collect())
        .build();
    let mut model = BPE::default();
    let counts = words.into_iter().map(|(word, count)| (word.into(), count)).collect();
    trainer
        .do_train(&counts, &mut model)
        .map_err(|e| Error::Setting(format!("the vocabulary cannot be learnt: {e}")))?;
    let mut pieces: Vec<(u32, String)> = model.get_vocab().into_iter().map(|(piece, id)| (id, piece)).collect();
    pieces.sort_unstable();
    let pieces: Vec<String> = pieces.into_iter().map(|(_, piece)| piece).collect();
    Ok((tokenizer_json(&pieces, &normalization), pieces.len()))
}

/// The words as WordPiece gets them: normalised, and cut where BERT cuts them once more.
fn as_read(counts: &WordCounts, normalization: &Normalization) -> Result<BTreeMap<String, u64>> {
    let fail = |e: tokenizers::Error| Error::Setting(format!("the words cannot be normalised: {e}"));
    let special = SPECIAL.map(String::from);
    let tokenizer = Tokenizer::from_bytes(tokenizer_json(&special, normalization)).map_err(fail)?;
    let mut read = BTreeMap::new();
    for (word, &count) in &counts.counts {
        let mut text = PreTokenizedString::from(word.as_str());
        if let Some(normalizer) = tokenizer.get_normalizer() {
            text.normalize(|part| normalizer.normalize(part)).map_err(fail)?;
        }
        if let Some(splitter) = tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut text).map_err(fail)?;
        }
        for (part, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            if (1..=normalization.longest_word).contains(&part.chars().count()) {
                *read.entry(part.to_string()).or_default() += count;
            }
        }
    }
    Ok(read)
}

/// The most frequent characters; of equally frequent ones those that come first in Unicode.
fn alphabet(words: &BTreeMap<String, u64>, settings: &Settings) -> HashSet<char> {
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in words {
        for c in word.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    let mut counts: Vec<(char, u64)> =
        counts.into_iter().filter(|&(_, count)| count >= settings.min_frequency).collect();
    counts.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    counts.into_iter().take(settings.alphabet).map(|(c, _)| c).collect()
}

#[cfg(test)]
mod tests;
