//! Unlabelled text, a document on each line -> its word pieces, cut into sentences by the product's own path; one file of 16-bit numbers,
//! to pre-train and distil where the text is not. Sequences are ranges of it: neighbouring sentences of one document, as long as they fit.

use std::collections::HashMap;
use std::io::BufRead;
use std::ops::Range;
use std::path::Path;

use chemtag::text::{sentences, words};
use chemtag::tokenizer::WordPieces;
use rayon::prelude::*;

use crate::augment::Augmentation;
use crate::columns::{self, Column};
use crate::corpus::Document;
use crate::error::{Error, Result};

/// Lines that are read before they are cut into pieces side by side.
const LINES: usize = 4096;
/// Metadata of the file: [`TextSet::tokenizer`].
const TOKENIZER: &str = "tokenizer";

/// The pieces of a collection of documents, without `[CLS]` and `[SEP]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextSet {
    /// Fingerprint of the `tokenizer.json` that cut the text; empty if it is not known.
    tokenizer: String,
    piece_ids: Vec<u16>,
    /// Number of pieces of each sentence.
    sentence_pieces: Vec<u16>,
    /// Number of sentences of each document.
    document_sentences: Vec<u32>,
}

impl TextSet {
    /// No documents yet, to be cut by this `tokenizer.json`.
    pub fn of_tokenizer(json: &[u8]) -> Self {
        Self { tokenizer: columns::fingerprint(&[json]), ..Self::default() }
    }

    /// Reads a text: every line that is not blank is a document.
    ///
    /// # Errors
    /// If a line cannot be read or is not UTF-8, or the vocabulary has more than 65,536 pieces; `name` is the text's name in messages.
    pub fn read(&mut self, name: &Path, text: impl BufRead, pieces: &WordPieces) -> Result<()> {
        self.read_with_variants(name, text, &Augmentation::default(), pieces)
    }

    /// Reads a text and adds variants of its documents, each some way behind its document.
    ///
    /// # Errors
    /// As [`TextSet::read`].
    pub fn read_with_variants(
        &mut self,
        name: &Path,
        text: impl BufRead,
        augmentation: &Augmentation,
        pieces: &WordPieces,
    ) -> Result<()> {
        let mut seed = 0;
        for_each_portion(name, text, |lines| {
            let mut portion: Vec<Document> = lines.into_iter().map(Document::unannotated).collect();
            portion.extend(augmentation.variants(&portion, seed << 32));
            seed += 1;
            self.add(&portion, pieces)
        })
    }

    /// Adds the texts of documents; those without a word are left out.
    ///
    /// # Errors
    /// If the vocabulary has more than 65,536 pieces.
    pub fn add(&mut self, documents: &[Document], pieces: &WordPieces) -> Result<()> {
        if pieces.vocab_size() > usize::from(u16::MAX) + 1 {
            return Err(Error::Setting(format!(
                "the vocabulary has {} pieces; a prepared text holds ids below 65,536",
                pieces.vocab_size()
            )));
        }
        let documents: Vec<_> = documents.par_iter().map(|document| cut(&document.text, pieces)).collect();
        for sentences in documents.into_iter().filter(|sentences| !sentences.is_empty()) {
            self.document_sentences.push(sentences.len() as u32);
            for sentence in sentences {
                self.sentence_pieces.push(sentence.len() as u16);
                self.piece_ids.extend(sentence);
            }
        }
        Ok(())
    }

    /// The same, said to be cut by the tokenizer of this fingerprint.
    pub fn with_tokenizer(self, fingerprint: &str) -> Self {
        Self { tokenizer: fingerprint.into(), ..self }
    }

    /// Adds documents that the same tokenizer has cut.
    pub fn append(&mut self, other: &TextSet) {
        if self.documents() == 0 {
            self.tokenizer.clone_from(&other.tokenizer);
        }
        self.piece_ids.extend_from_slice(&other.piece_ids);
        self.sentence_pieces.extend_from_slice(&other.sentence_pieces);
        self.document_sentences.extend_from_slice(&other.document_sentences);
    }

    /// All pieces, one document after another.
    pub fn piece_ids(&self) -> &[u16] {
        &self.piece_ids
    }

    /// Fingerprint ([`columns::fingerprint`]) of the `tokenizer.json` that cut the text; empty if it is not known.
    pub fn tokenizer(&self) -> &str {
        &self.tokenizer
    }

    /// Number of pieces of each sentence.
    pub fn sentence_pieces(&self) -> &[u16] {
        &self.sentence_pieces
    }

    /// Number of sentences of each document.
    pub fn document_sentences(&self) -> &[u32] {
        &self.document_sentences
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.document_sentences.len()
    }

    /// Number of sentences.
    pub fn sentences(&self) -> usize {
        self.sentence_pieces.len()
    }

    /// Sequences of at most `room` pieces as ranges of [`TextSet::piece_ids`]: neighbouring sentences of a document share one; a sentence
    /// that does not fit is cut. Together they hold every piece once.
    pub fn sequences(&self, room: usize) -> Vec<Range<usize>> {
        let room = room.max(1);
        let mut sequences = Vec::new();
        let (mut start, mut sentence) = (0, 0);
        for &count in &self.document_sentences {
            let mut open = start..start;
            for &length in &self.sentence_pieces[sentence..sentence + count as usize] {
                let next = open.end + usize::from(length);
                if next - open.start > room && !open.is_empty() {
                    sequences.push(open.clone());
                    open = open.end..open.end;
                }
                while next - open.start > room {
                    sequences.push(open.start..open.start + room);
                    open = open.start + room..open.start + room;
                }
                open.end = next;
            }
            if !open.is_empty() {
                sequences.push(open.clone());
            }
            start = open.end;
            sentence += count as usize;
        }
        sequences
    }

    /// Writes the set to one file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        columns::save(
            path,
            vec![
                ("piece_ids", Column::shorts(self.piece_ids.iter().copied())),
                ("sentence_pieces", Column::shorts(self.sentence_pieces.iter().copied())),
                ("document_sentences", Column::words(self.document_sentences.iter().copied())),
            ],
            (!self.tokenizer.is_empty()).then(|| HashMap::from([(TOKENIZER.to_string(), self.tokenizer.clone())])),
        )
    }

    /// Reads a file written by [`TextSet::save`].
    ///
    /// # Errors
    /// If the file cannot be read or its columns do not fit each other.
    pub fn load(path: &Path) -> Result<Self> {
        let columns = columns::load(path)?;
        let set = Self {
            // Files from before it was written lack it.
            tokenizer: columns.metadata(TOKENIZER).unwrap_or_default(),
            piece_ids: columns.shorts("piece_ids")?,
            sentence_pieces: columns.shorts("sentence_pieces")?,
            document_sentences: columns.words("document_sentences")?,
        };
        let pieces: usize = set.sentence_pieces.iter().map(|&n| usize::from(n)).sum();
        let sentences: usize = set.document_sentences.iter().map(|&n| n as usize).sum();
        if pieces != set.piece_ids.len() || sentences != set.sentence_pieces.len() {
            return Err(columns.damaged("its columns do not fit each other"));
        }
        Ok(set)
    }
}

/// Calls `visit` with some thousand lines of a text at a time, so that a text of any length can be read by all threads in little memory.
///
/// # Errors
/// If a line cannot be read or is not UTF-8, and those of `visit`; `name` is the text's name in messages.
pub fn for_each_portion(
    name: &Path,
    text: impl BufRead,
    mut visit: impl FnMut(Vec<String>) -> Result<()>,
) -> Result<()> {
    let mut lines = text.lines();
    loop {
        let portion: Vec<String> =
            lines.by_ref().take(LINES).collect::<std::io::Result<_>>().map_err(|e| Error::io("read", name, e))?;
        if portion.is_empty() {
            return Ok(());
        }
        visit(portion)?;
    }
}

/// A document's sentences as pieces. What is longer than 16 bits can count goes on in a further sentence.
fn cut(text: &str, pieces: &WordPieces) -> Vec<Vec<u16>> {
    let mut all = Vec::new();
    let mut open: Vec<u16> = Vec::new();
    for sentence in sentences(text) {
        let text = &text[sentence.range];
        for word in words(text) {
            let word = pieces.pieces(&text[word]);
            if open.len() + word.len() > usize::from(u16::MAX) {
                all.push(std::mem::take(&mut open));
            }
            open.extend(word.iter().map(|&id| id as u16));
        }
        if !sentence.continues && !open.is_empty() {
            all.push(std::mem::take(&mut open));
        }
    }
    if !open.is_empty() {
        all.push(open);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(documents: &[Vec<u16>]) -> TextSet {
        let mut set = TextSet::default();
        for document in documents {
            set.document_sentences.push(document.len() as u32);
            set.sentence_pieces.extend(document);
        }
        let pieces: usize = set.sentence_pieces.iter().map(|&n| usize::from(n)).sum();
        set.piece_ids = (0..pieces).map(|i| i as u16).collect();
        set
    }

    #[test]
    fn neighbours_share_a_sequence_as_long_as_they_fit() {
        let set = set(&[vec![3, 4, 5], vec![2], vec![25, 1]]);
        assert_eq!(set.sequences(10), [0..7, 7..12, 12..14, 14..24, 24..34, 34..40]);
        assert_eq!(set.sequences(1000), [0..12, 12..14, 14..40]);
    }

    #[test]
    fn variants_stand_behind_their_documents() {
        let letters = ["[UNK]", "T", "t", "##i", "##O", "##2", "O", "##T", "##I", "[CLS]", "[SEP]"];
        let vocabulary: serde_json::Map<_, _> =
            letters.iter().enumerate().map(|(id, piece)| (piece.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0",
            "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary },
        });
        let pieces = WordPieces::from_json(json.to_string().as_bytes(), "tokenizer.json", letters.len());
        let read = |augmentation: &str| {
            let (pieces, mut set) = (pieces.as_ref().unwrap(), TextSet::default());
            let augmentation = augmentation.parse().unwrap();
            set.read_with_variants(Path::new("text"), "TiO2\nTi".as_bytes(), &augmentation, pieces).unwrap();
            set.piece_ids().to_vec()
        };
        assert_eq!(read("upper=0"), [1, 3, 4, 5, 1, 3]);
        assert_eq!(read("normalised=1"), [1, 3, 4, 5, 1, 3, 6, 5, 7, 3]);
        assert_eq!(read("upper=1"), [1, 3, 4, 5, 1, 3, 1, 8, 4, 5, 1, 8]);
    }

    proptest! {
        #[test]
        fn sequences_hold_every_piece_once_and_no_two_documents(
            documents in prop::collection::vec(prop::collection::vec(1u16..40, 1..6), 0..8), room in 1usize..60,
        ) {
            let set = set(&documents);
            let sequences = set.sequences(room);
            let mut end = 0;
            for sequence in &sequences {
                prop_assert!(sequence.start == end && (1..=room).contains(&sequence.len()));
                end = sequence.end;
            }
            prop_assert_eq!(end, set.piece_ids().len());
            let mut border = 0;
            for document in &documents {
                border += document.iter().map(|&n| usize::from(n)).sum::<usize>();
                prop_assert!(sequences.iter().any(|sequence| sequence.end == border));
            }
        }
    }

    #[test]
    fn a_saved_text_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.safetensors");
        let set = TextSet { tokenizer: "abc".into(), ..set(&[vec![3, 4], vec![70]]) };
        set.save(&path).unwrap();
        assert_eq!(TextSet::load(&path).unwrap(), set);
        let broken = TextSet { document_sentences: vec![2], ..set };
        broken.save(&path).unwrap();
        assert!(TextSet::load(&path).unwrap_err().to_string().contains("do not fit"));
    }
}
