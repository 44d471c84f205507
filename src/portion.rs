//! Portions of documents -> their words with pieces: the part of the work on text that needs nothing of what stands before or after it,
//! and so is done for many portions at the same time. Borders of sentences are found while documents are cut into portions.

use std::ops::Range;

use crate::sequence::Sequencer;
use crate::text::{LOOKAHEAD_BYTES, Sentence, Sentences, sentences, words};
use crate::tokenizer::WordPieces;

/// Bytes of text that one thread takes at once: a tenth of a millisecond, which makes handing them over cheap.
pub const PORTION_BYTES: usize = 16 * 1024;
/// A text whose one grapheme is longer than this is cut inside it rather than held.
const LONGEST_GRAPHEME: usize = 4 * 1024 * 1024;

/// A part of a document.
#[derive(Debug, Clone)]
pub struct Portion<'t> {
    /// Some text of the document.
    pub text: &'t str,
    /// Byte of the document at which `text` begins.
    pub offset: usize,
    /// What of `text` is meant.
    pub content: Content<'t>,
    /// Nothing of the document follows.
    pub ends_document: bool,
}

/// What of a text is meant.
#[derive(Debug, Clone)]
pub enum Content<'t> {
    /// All of it, which is a document.
    All,
    /// These sentences.
    Sentences(Vec<Sentence>),
    /// These words, all of one sentence.
    Words(&'t [Range<usize>]),
}

impl Portion<'_> {
    /// About how many bytes of text are to be read.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::All => self.text.len(),
            Content::Sentences(sentences) => match (sentences.first(), sentences.last()) {
                (Some(first), Some(last)) => last.range.end - first.range.start,
                _ => 0,
            },
            Content::Words(words) => words.last().map_or(0, |last| last.end),
        }
    }
}

/// Words with their pieces, and where sentences and documents end among them.
#[derive(Debug, Default)]
pub struct PreparedWords {
    /// Bytes of each word in its document.
    words: Vec<Range<usize>>,
    /// Number of pieces of each word.
    counts: Vec<usize>,
    piece_ids: Vec<u32>,
    /// What ends after so many words.
    ends: Vec<(usize, End)>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Sentence,
    Document,
}

impl PreparedWords {
    /// Cuts portions, in order, into words and these into pieces.
    pub fn new(portions: &[Portion], pieces: &WordPieces) -> Self {
        let bytes: usize = portions.iter().map(Portion::bytes).sum();
        // Room for words and pieces as short as in formulas and tables.
        let most = bytes / 3;
        let mut prepared = Self {
            words: Vec::with_capacity(most),
            counts: Vec::with_capacity(most),
            piece_ids: Vec::with_capacity(most),
            ends: Vec::new(),
        };
        for portion in portions {
            prepared.push(portion, pieces);
        }
        prepared
    }

    fn push(&mut self, portion: &Portion, pieces: &WordPieces) {
        match &portion.content {
            Content::All => sentences(portion.text).for_each(|sentence| self.push_sentence(portion, &sentence, pieces)),
            Content::Sentences(all) => all.iter().for_each(|sentence| self.push_sentence(portion, sentence, pieces)),
            Content::Words(words) => {
                words.iter().for_each(|word| self.push_word(portion, word.clone(), pieces));
                self.ends.push((self.words.len(), End::Sentence));
            }
        }
        if portion.ends_document {
            self.ends.push((self.words.len(), End::Document));
        }
    }

    fn push_sentence(&mut self, portion: &Portion, sentence: &Sentence, pieces: &WordPieces) {
        let start = sentence.range.start;
        for word in words(&portion.text[sentence.range.clone()]) {
            self.push_word(portion, start + word.start..start + word.end, pieces);
        }
        if !sentence.continues {
            self.ends.push((self.words.len(), End::Sentence));
        }
    }

    fn push_word(&mut self, portion: &Portion, word: Range<usize>, pieces: &WordPieces) {
        self.counts.push(pieces.push_pieces(&portion.text[word.clone()], &mut self.piece_ids));
        self.words.push(portion.offset + word.start..portion.offset + word.end);
    }

    /// Gives it all to a sequencer.
    pub fn give(self, sequencer: &mut Sequencer) {
        let Self { words, counts, piece_ids, ends } = self;
        let mut words = words.into_iter().zip(counts);
        let (mut given, mut next) = (0, 0);
        let mut give_until = |end: usize, sequencer: &mut Sequencer| {
            for (word, count) in words.by_ref().take(end - given) {
                sequencer.push_word(word, &piece_ids[next..next + count]);
                next += count;
            }
            given = end;
        };
        for (end, what) in ends {
            give_until(end, sequencer);
            match what {
                End::Sentence => sequencer.end_sentence(),
                End::Document => sequencer.end_document(),
            }
        }
        give_until(usize::MAX, sequencer);
    }
}

/// A text -> portions of whole sentences, as far as more text could not change them.
pub struct Cutter<'t> {
    text: &'t str,
    sentences: Sentences<'t>,
    start: usize,
    offset: usize,
    /// No more text follows.
    last: bool,
    /// One sentence is so long that it is cut where the text ends.
    forced: bool,
    next: usize,
    ended: bool,
    portion_bytes: usize,
}

impl<'t> Cutter<'t> {
    /// Begins at byte `start` of `text`, where a sentence begins; `text` begins at byte `offset` of the document; `last`: nothing follows it.
    pub fn new(text: &'t str, start: usize, offset: usize, last: bool) -> Self {
        let forced = !last && text.len() - start > LONGEST_GRAPHEME;
        Self {
            text,
            sentences: sentences(&text[start..]),
            start,
            offset,
            last,
            forced,
            next: start,
            ended: false,
            portion_bytes: PORTION_BYTES,
        }
    }

    /// The same in portions of about so many bytes.
    #[cfg(all(feature = "wasm", target_arch = "wasm32"))]
    pub fn in_portions_of(self, bytes: usize) -> Self {
        Self { portion_bytes: bytes, ..self }
    }

    /// Where in the text the next sentence begins, once all portions were taken.
    pub fn next_start(&self) -> usize {
        // White space without end is let go, but for the last character: a combining mark may follow it.
        let white = self.text.len() - self.text[self.next..].trim_start().len();
        if white == self.text.len() {
            self.text.floor_char_boundary(white.saturating_sub(1)).max(self.next)
        } else {
            self.next
        }
    }
}

impl<'t> Iterator for Cutter<'t> {
    type Item = Portion<'t>;

    fn next(&mut self) -> Option<Portion<'t>> {
        let (mut found, first) = (Vec::new(), self.next);
        while !self.ended && self.next - first < self.portion_bytes {
            let Some(mut sentence) = self.sentences.next() else {
                self.ended = true;
                break;
            };
            sentence.range = self.start + sentence.range.start..self.start + sentence.range.end;
            if sentence.range.end + LOOKAHEAD_BYTES > self.text.len() && !self.last {
                if !self.forced {
                    self.ended = true;
                    break;
                }
                sentence.continues = true;
            }
            self.next = sentence.range.end;
            found.push(sentence);
        }
        let portion = |content| Portion { text: self.text, offset: self.offset, content, ends_document: false };
        (!found.is_empty()).then(|| portion(Content::Sentences(found)))
    }
}

/// A whole document -> its portions.
pub fn document_portions(text: &str) -> impl Iterator<Item = Portion<'_>> + Send {
    let whole = text.len() <= PORTION_BYTES;
    let all = Portion { text, offset: 0, content: Content::All, ends_document: true };
    let end = Portion { content: Content::Sentences(Vec::new()), ..all.clone() };
    let long = (!whole).then(|| Cutter::new(text, 0, 0, true)).into_iter().flatten();
    long.chain(std::iter::once(if whole { all } else { end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::Sequence;

    const TEXT: &str = "Benzene in ethanol. The α-pinene was added (20 mg).\n\nIt reacted, e.g. with Fe. No more";

    fn sequences(portions: impl Iterator<Item = Portion<'static>>) -> Vec<Sequence> {
        let pieces = crate::tokenizer::tests::small();
        let mut sequencer = Sequencer::new(2, 3, 9, false);
        for portion in portions {
            PreparedWords::new(&[portion], &pieces).give(&mut sequencer);
        }
        sequencer.take_ready()
    }

    /// Word by word, as the sequencer's documentation says.
    fn slowly(texts: &[&str]) -> Vec<Sequence> {
        let pieces = crate::tokenizer::tests::small();
        let mut sequencer = Sequencer::new(2, 3, 9, false);
        for text in texts {
            for sentence in sentences(text) {
                for word in words(&text[sentence.range.clone()]) {
                    let word = sentence.range.start + word.start..sentence.range.start + word.end;
                    sequencer.push_word(word.clone(), &pieces.pieces(&text[word]));
                }
                if !sentence.continues {
                    sequencer.end_sentence();
                }
            }
            sequencer.end_document();
        }
        sequencer.take_ready()
    }

    #[test]
    fn portions_give_the_documents_sequences() {
        let long: &str = TEXT.repeat(1000).leak();
        for texts in [vec![TEXT], vec![TEXT, "", " \n", TEXT], vec![long, TEXT, long]] {
            let portions = texts.iter().flat_map(|text| document_portions(text));
            assert_eq!(sequences(portions), slowly(&texts));
        }
        assert!(document_portions(long).count() > 4);
    }

    #[test]
    fn only_sentences_that_more_text_cannot_change_are_cut() {
        let long: &str = TEXT.repeat(100).leak();
        let mut cutter = Cutter::new(long, 0, 0, false);
        let portions: Vec<_> = cutter.by_ref().collect();
        let next = cutter.next_start();
        assert!(next + LOOKAHEAD_BYTES <= long.len() && next + 2 * LOOKAHEAD_BYTES > long.len(), "{next}");
        let rest = Cutter::new(&long[next..], 0, next, true);
        let end = Portion { text: "", offset: 0, content: Content::All, ends_document: true };
        assert_eq!(sequences(portions.into_iter().chain(rest).chain([end])), slowly(&[long]));
    }

    #[test]
    fn white_space_is_let_go_but_for_its_last_character() {
        let mut cutter = Cutter::new("  \u{a0} ", 0, 0, false);
        assert!(cutter.next().is_none());
        assert_eq!(cutter.next_start(), 4);
    }
}
