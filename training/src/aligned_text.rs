//! One text, cut by the tokenizers of a student and of its teachers -> sequences that hold the same words for each of them, and their batches.
//! A word begins at every piece that does not continue one ("##"); texts of several tokenizers meet at documents, sentences and words.
//! A sequence is a run of neighbouring sentences of one document, or a lone sentence; what is too long is cut between words.

use std::ops::Range;

use chemtag::batch::{Batch, packs};
use chemtag::tokenizer::WordPieces;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::columns::fingerprint;
use crate::error::{Error, Result};
use crate::text::TextSet;

/// Sentences that may have other numbers of words for other tokenizers, as a share of all: writing without spaces is cut by each in its own
/// way. They are left out. More of them mean that the texts are not the same.
const UNALIGNED_SHARE: f64 = 0.01;

/// A text as one tokenizer cut it.
pub struct CutText {
    set: TextSet,
    cls: u32,
    sep: u32,
    /// Most pieces of a sequence, `[CLS]` and `[SEP]` not counted.
    room: usize,
    /// Whether a piece goes on with the word before it.
    continues: Vec<bool>,
    /// First piece of each sentence, and the number of pieces at the end.
    starts: Vec<usize>,
}

impl CutText {
    /// `room`: most pieces of a sequence, `[CLS]` and `[SEP]` not counted.
    ///
    /// # Errors
    /// If the text has pieces that the tokenizer does not have, or is empty.
    pub fn new(set: TextSet, pieces: &WordPieces, room: usize) -> Result<Self> {
        let continues: Vec<bool> = pieces.vocabulary().iter().map(|piece| piece.starts_with("##")).collect();
        match set.piece_ids().par_iter().max() {
            None => return Err(Error::Setting("the text has no pieces".into())),
            Some(&highest) if usize::from(highest) >= continues.len() => {
                return Err(Error::Setting(format!(
                    "the text has the piece {highest}, but the vocabulary only {}: it was prepared with another tokenizer",
                    continues.len()
                )));
            }
            Some(_) => {}
        }
        let ends = set.sentence_pieces().iter().scan(0, |end, &n| {
            *end += usize::from(n);
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).collect();
        Ok(Self { cls: pieces.cls(), sep: pieces.sep(), room: room.max(1), continues, starts, set })
    }

    /// Pieces of a sentence.
    fn sentence(&self, sentence: usize) -> Range<usize> {
        self.starts[sentence]..self.starts[sentence + 1]
    }

    fn begins_word(&self, piece: usize) -> bool {
        !self.continues[usize::from(self.set.piece_ids()[piece])]
    }

    fn words(&self, pieces: Range<usize>) -> usize {
        pieces.filter(|&piece| self.begins_word(piece)).count()
    }

    /// The pieces of each word of a sentence.
    fn word_ranges(&self, sentence: usize) -> Vec<Range<usize>> {
        let pieces = self.sentence(sentence);
        let mut starts: Vec<usize> = pieces.clone().filter(|&piece| self.begins_word(piece)).collect();
        starts.push(pieces.end);
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// Appends a sequence to a batch.
    fn push(&self, pieces: Range<usize>, batch: &mut Batch) {
        let mut read = Vec::with_capacity(pieces.len() + 2);
        read.push(self.cls);
        read.extend(self.set.piece_ids()[pieces.clone()].iter().map(|&id| u32::from(id)));
        read.push(self.sep);
        let starts =
            pieces.clone().filter(|&piece| self.begins_word(piece)).map(|piece| (piece - pieces.start) as u32 + 1);
        batch.push(&read, &starts.collect::<Vec<_>>());
    }
}

/// Words that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextSequence {
    /// Pieces of the student's text.
    pub pieces: Range<usize>,
    /// Pieces of the other texts.
    others: Box<[Range<usize>]>,
    /// Its words, counted through the student's whole text.
    pub words: Range<u64>,
    /// Whether the document is read sentence by sentence.
    pub lone: bool,
}

/// How a text is read, pass after pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextReading {
    /// Share of the documents that are read sentence by sentence, drawn anew in each pass.
    pub sentence_share: f64,
    /// Most pieces of a batch, the student's.
    pub batch_pieces: usize,
    /// Seed of the draws and of the order.
    pub seed: u64,
}

/// The student's text and those of teachers with other tokenizers.
pub struct AlignedText {
    texts: Vec<CutText>,
    /// First sentence of each document, and the number of sentences.
    documents: Vec<usize>,
    /// First word of each document, and the number of words.
    words: Vec<u64>,
    /// Sentences without the same words in all texts, ascending.
    unaligned: Vec<usize>,
    /// Documents that a pass reads, some of them several times.
    read: Vec<usize>,
}

impl AlignedText {
    /// Lays texts beside each other; the first one is the student's.
    ///
    /// # Errors
    /// If documents, sentences or (but for a few sentences) words are not the same in all texts.
    pub fn new(texts: Vec<CutText>) -> Result<Self> {
        let first = texts.first().ok_or_else(|| Error::Setting("there is no text".into()))?;
        let sentences = first.set.sentences();
        for other in &texts[1..] {
            let counts = |text: &CutText| (text.set.documents(), text.set.sentences());
            if counts(first) != counts(other) {
                return Err(Error::Setting(format!(
                    "the student's text has {:?} documents and sentences, a teacher's {:?}: prepare the same files, in the same order, with both tokenizers",
                    counts(first),
                    counts(other)
                )));
            }
            let pairs = first.set.document_sentences().iter().zip(other.set.document_sentences());
            if let Some((document, (a, b))) = pairs.enumerate().find(|(_, (a, b))| a != b) {
                return Err(Error::Setting(format!(
                    "document {document} has {a} sentences in the student's text and {b} in a teacher's: prepare the same files with both tokenizers"
                )));
            }
        }
        let aligned = |sentence: &usize| {
            let words = |text: &CutText| text.words(text.sentence(*sentence));
            texts[1..].is_empty() || texts[1..].iter().all(|text| words(text) == words(first))
        };
        let unaligned: Vec<usize> = (0..sentences).into_par_iter().filter(|sentence| !aligned(sentence)).collect();
        if let Some(sentence) =
            unaligned.first().filter(|_| unaligned.len() as f64 > UNALIGNED_SHARE * sentences as f64)
        {
            return Err(Error::Setting(format!(
                "{} of {sentences} sentences have other words in a teacher's text than in the student's, the first is sentence {sentence}: prepare the same files with both tokenizers",
                unaligned.len()
            )));
        }
        let ends = first.set.document_sentences().iter().scan(0, |end, &n| {
            *end += n as usize;
            Some(*end)
        });
        let documents: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let counts: Vec<u64> = documents
            .par_windows(2)
            .map(|pair| first.words(first.starts[pair[0]]..first.starts[pair[1]]) as u64)
            .collect();
        let ends = counts.iter().scan(0, |end, &n| {
            *end += n;
            Some(*end)
        });
        let words = std::iter::once(0).chain(ends).collect();
        let read = (0..counts.len()).collect();
        Ok(Self { documents, words, unaligned, read, texts })
    }

    /// Lets each pass read these documents once more.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn read_again(&mut self, documents: Range<usize>) -> Result<()> {
        if documents.end > self.documents() {
            return Err(Error::Setting(format!(
                "documents up to {} cannot be read again: the text has {}",
                documents.end,
                self.documents()
            )));
        }
        self.read.extend(documents);
        Ok(())
    }

    /// Which text a tokenizer cut, by its fingerprint.
    pub fn of_tokenizer(&self, tokenizer: &str) -> Option<usize> {
        self.texts.iter().position(|text| text.set.tokenizer() == tokenizer)
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.documents.len() - 1
    }

    /// Words of documents, counted through the student's whole text.
    pub fn words(&self, documents: Range<usize>) -> Range<u64> {
        self.words[documents.start]..self.words[documents.end]
    }

    /// Number of sentences that are left out, since their words differ.
    pub fn left_out(&self) -> usize {
        self.unaligned.len()
    }

    /// What the student's text and the sequences are: texts with one fingerprint are read in the same words and sequences.
    pub fn fingerprint(&self) -> String {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for text in &self.texts {
            parts.push(text.room.to_le_bytes().into());
            parts.push(text.set.piece_ids().iter().flat_map(|id| id.to_le_bytes()).collect());
            parts.push(text.set.sentence_pieces().iter().flat_map(|n| n.to_le_bytes()).collect());
        }
        parts.push(self.documents.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect());
        fingerprint(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The sequences of a document, in order.
    pub fn sequences(&self, document: usize, lone: bool) -> Vec<TextSequence> {
        let mut run = Run { text: self, lone, ready: Vec::new(), open: None, next_word: self.words[document] };
        for sentence in self.documents[document]..self.documents[document + 1] {
            run.push(sentence);
        }
        run.close();
        run.ready
    }

    /// The sequences of one pass in random order; `pass` counts them.
    fn pass(&self, reading: &TextReading, pass: u64) -> Vec<TextSequence> {
        let random = |part: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(reading.seed);
            random.set_stream(2 * pass + part);
            random
        };
        let mut draws = random(0);
        let lone: Vec<bool> = self.read.iter().map(|_| draws.random::<f64>() < reading.sentence_share).collect();
        let mut sequences: Vec<TextSequence> =
            self.read.par_iter().zip(lone).flat_map_iter(|(&document, lone)| self.sequences(document, lone)).collect();
        sequences.shuffle(&mut random(1));
        sequences
    }

    /// Calls `visit` with the sequences of each step from `first` on, pass after pass, until it returns false.
    ///
    /// # Errors
    /// If no sequence has a word, or one is longer than half a batch.
    pub fn for_each_step(
        &self,
        reading: &TextReading,
        first: usize,
        mut visit: impl FnMut(&[TextSequence]) -> bool,
    ) -> Result<()> {
        if 2 * (self.texts[0].room + 2) > reading.batch_pieces {
            return Err(Error::Setting(format!(
                "a step of {} pieces holds less than two sequences of {}",
                reading.batch_pieces, self.texts[0].room
            )));
        }
        let mut step = 0;
        for pass in 0.. {
            let sequences = self.pass(reading, pass);
            let length = |sequence: &TextSequence| sequence.pieces.len() + 2;
            let packs = packs(&sequences, length, reading.batch_pieces);
            if packs.is_empty() {
                return Err(Error::Setting("the text has no sentence that can be read".into()));
            }
            let only = packs.len() == 1;
            for pack in packs {
                // The last one of a pass may be so short that its gradient is mostly noise.
                if only || 2 * pack.iter().map(length).sum::<usize>() > reading.batch_pieces {
                    if step >= first && !visit(pack) {
                        return Ok(());
                    }
                    step += 1;
                }
            }
        }
        Ok(())
    }

    /// Packs sequences as the tokenizer of text `text` has them.
    pub fn batch(&self, text: usize, sequences: &[TextSequence]) -> Batch {
        let mut batch = Batch::default();
        for sequence in sequences {
            let pieces = if text == 0 { &sequence.pieces } else { &sequence.others[text - 1] };
            self.texts[text].push(pieces.clone(), &mut batch);
        }
        batch
    }
}

/// Sentences on their way into sequences.
struct Run<'t> {
    text: &'t AlignedText,
    lone: bool,
    ready: Vec<TextSequence>,
    /// Pieces of the open sequence in each text, and its first word.
    open: Option<(Vec<Range<usize>>, u64)>,
    /// The next word of the student's text.
    next_word: u64,
}

impl Run<'_> {
    fn push(&mut self, sentence: usize) {
        let texts = &self.text.texts;
        let words = texts[0].words(texts[0].sentence(sentence)) as u64;
        if self.text.unaligned.binary_search(&sentence).is_ok() {
            self.close();
            self.next_word += words;
            return;
        }
        let pieces: Vec<Range<usize>> = texts.iter().map(|text| text.sentence(sentence)).collect();
        if pieces.iter().zip(texts).all(|(pieces, text)| pieces.len() <= text.room) {
            self.extend(pieces, words);
        } else {
            self.close();
            let by_text: Vec<Vec<Range<usize>>> = texts.iter().map(|text| text.word_ranges(sentence)).collect();
            for word in 0..words as usize {
                // A word that does not fit alone gives its first pieces.
                let room = |(words, text): (&Vec<Range<usize>>, &CutText)| {
                    let word = words[word].clone();
                    word.start..word.end.min(word.start + text.room)
                };
                self.extend(by_text.iter().zip(texts).map(room).collect(), 1);
            }
        }
        if self.lone {
            self.close();
        }
    }

    /// Adds pieces that fit alone to the open sequence, or begins another one with them.
    fn extend(&mut self, pieces: Vec<Range<usize>>, words: u64) {
        let fits = |open: &[Range<usize>]| {
            let each = open.iter().zip(&pieces).zip(&self.text.texts);
            each.clone().all(|((open, next), text)| open.end == next.start && next.end - open.start <= text.room)
        };
        match &mut self.open {
            Some((open, _)) if fits(open) => {
                for (open, next) in open.iter_mut().zip(&pieces) {
                    open.end = next.end;
                }
            }
            _ => {
                self.close();
                self.open = Some((pieces, self.next_word));
            }
        }
        self.next_word += words;
    }

    fn close(&mut self) {
        if let Some((mut pieces, first)) = self.open.take()
            && first < self.next_word
        {
            let others = pieces.split_off(1).into();
            let words = first..self.next_word;
            self.ready.extend(pieces.pop().map(|pieces| TextSequence { pieces, others, words, lone: self.lone }));
        }
    }
}

#[cfg(test)]
mod tests;
