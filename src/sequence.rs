//! Words and sentence ends of a document, one after another -> the sequences that the encoder reads.
//! Neighbouring sentences share a sequence as long as they fit (document context); a sentence that does not fit alone is cut into
//! overlapping windows, whose emissions are joined again before decoding, so that no mention is lost or doubled at a seam.

use std::ops::Range;

/// Windows of one long sentence share up to this part of the room for pieces.
const OVERLAP_SHARE: usize = 4;

/// What the encoder reads at once: `[CLS]`, the pieces of the words, `[SEP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Which document of the run the words stand in.
    pub document: u32,
    /// Vocabulary ids, `[CLS]` and `[SEP]` included.
    pub piece_ids: Vec<u32>,
    /// First piece of each word, counted in `piece_ids`.
    pub word_starts: Vec<u32>,
    /// Byte range of each word in its document.
    pub words: Vec<Range<usize>>,
    /// The first words, this many, only give context: the window before this one speaks for them.
    pub lead: usize,
    /// The last words, this many, only give context: the window after this one speaks for them.
    pub trail: usize,
    /// The next sequence goes on with the same sentence.
    pub continues: bool,
}

impl Sequence {
    /// The words that this sequence speaks for.
    pub fn core(&self) -> Range<usize> {
        self.lead..self.words.len() - self.trail
    }
}

/// Words on their way into a sequence.
#[derive(Default)]
struct Draft {
    words: Vec<Range<usize>>,
    /// Number of pieces of each word.
    counts: Vec<usize>,
    piece_ids: Vec<u32>,
}

impl Draft {
    fn push(&mut self, word: Range<usize>, pieces: &[u32]) {
        self.words.push(word);
        self.counts.push(pieces.len());
        self.piece_ids.extend_from_slice(pieces);
    }

    fn append(&mut self, other: &mut Draft) {
        self.words.append(&mut other.words);
        self.counts.append(&mut other.counts);
        self.piece_ids.append(&mut other.piece_ids);
    }

    /// Keeps the longest tail of at most `most` pieces and returns all words, those of the tail too, with the tail's number of words.
    fn split_before_tail(&mut self, most: usize) -> (Draft, usize) {
        let mut tail_pieces = 0;
        let tail = self.counts.iter().rev().take_while(|&&n| {
            tail_pieces += n;
            tail_pieces <= most
        });
        let tail = tail.count().min(self.words.len() - 1);
        let first = self.words.len() - tail;
        let first_piece = self.piece_ids.len() - self.counts[first..].iter().sum::<usize>();
        let kept = Draft {
            words: self.words[first..].to_vec(),
            counts: self.counts[first..].to_vec(),
            piece_ids: self.piece_ids[first_piece..].to_vec(),
        };
        (std::mem::replace(self, kept), tail)
    }
}

/// Cuts the words of documents into sequences.
pub struct Sequencer {
    cls: u32,
    sep: u32,
    room: usize,
    lone_sentences: bool,
    document: u32,
    /// Whole sentences that share the next sequence.
    packed: Draft,
    /// The sentence being read.
    sentence: Draft,
    /// Number of words at the start of `sentence` that the window before speaks for; `None` if no window of it was cut yet.
    lead: Option<usize>,
    ready: Vec<Sequence>,
}

impl Sequencer {
    /// `room`: most pieces of a sequence, `[CLS]` and `[SEP]` not counted. `lone_sentences`: every sentence is a sequence of its own.
    pub fn new(cls: u32, sep: u32, room: usize, lone_sentences: bool) -> Self {
        Self {
            cls,
            sep,
            room: room.max(1),
            lone_sentences,
            document: 0,
            packed: Draft::default(),
            sentence: Draft::default(),
            lead: None,
            ready: Vec::new(),
        }
    }

    /// The next word of the sentence: its byte range and its pieces, of which a small part of the room is taken at most.
    pub fn push_word(&mut self, word: Range<usize>, pieces: &[u32]) {
        let pieces = &pieces[..pieces.len().min((self.room / OVERLAP_SHARE).max(1))];
        if self.sentence.piece_ids.len() + pieces.len() > self.room {
            self.cut_window();
        }
        self.sentence.push(word, pieces);
    }

    /// The sentence is whole.
    pub fn end_sentence(&mut self) {
        if let Some(lead) = self.lead.take() {
            let rest = std::mem::take(&mut self.sentence);
            self.finish(rest, lead, 0, false);
            return;
        }
        if self.packed.piece_ids.len() + self.sentence.piece_ids.len() > self.room {
            self.end_sequence();
        }
        self.packed.append(&mut self.sentence);
        if self.lone_sentences {
            self.end_sequence();
        }
    }

    /// The document is whole; the words that follow stand in another one.
    pub fn end_document(&mut self) {
        self.end_sentence();
        self.end_sequence();
        self.document += 1;
    }

    /// The sequences that are whole.
    pub fn take_ready(&mut self) -> Vec<Sequence> {
        std::mem::take(&mut self.ready)
    }

    /// First byte of the words that are in no sequence yet.
    pub fn pending_start(&self) -> Option<usize> {
        self.packed.words.first().or(self.sentence.words.first()).map(|word| word.start)
    }

    fn end_sequence(&mut self) {
        let packed = std::mem::take(&mut self.packed);
        self.finish(packed, 0, 0, false);
    }

    fn cut_window(&mut self) {
        self.end_sequence();
        let (window, tail) = self.sentence.split_before_tail(self.room / OVERLAP_SHARE);
        let lead = self.lead.unwrap_or(0);
        let trail = tail / 2;
        self.lead = Some(tail - trail);
        self.finish(window, lead, trail, true);
    }

    fn finish(&mut self, draft: Draft, lead: usize, trail: usize, continues: bool) {
        if draft.words.is_empty() {
            return;
        }
        let mut piece_ids = Vec::with_capacity(draft.piece_ids.len() + 2);
        piece_ids.push(self.cls);
        piece_ids.extend(draft.piece_ids);
        piece_ids.push(self.sep);
        let starts = draft.counts.iter().scan(1, |next, &count| Some(std::mem::replace(next, *next + count as u32)));
        self.ready.push(Sequence {
            document: self.document,
            piece_ids,
            word_starts: starts.collect(),
            words: draft.words,
            lead,
            trail,
            continues,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of sentences with so many words each, every word of `pieces` pieces; word `i` stands at bytes 10 i.
    fn sequences(sentences: &[usize], pieces: usize, room: usize, lone: bool) -> Vec<Sequence> {
        let mut sequencer = Sequencer::new(2, 3, room, lone);
        let mut word = 0;
        for &words in sentences {
            for _ in 0..words {
                sequencer.push_word(10 * word..10 * word + 5, &vec![100 + word as u32; pieces]);
                word += 1;
            }
            sequencer.end_sentence();
        }
        sequencer.end_document();
        sequencer.take_ready()
    }

    #[test]
    fn neighbouring_sentences_share_a_sequence() {
        let words = |s: Vec<Sequence>| s.iter().map(|s| s.words.len()).collect::<Vec<_>>();
        assert_eq!(words(sequences(&[3, 4, 3, 5, 1], 1, 10, false)), [10, 6]);
        assert_eq!(words(sequences(&[3, 4, 3, 5, 1], 2, 10, false)), [3, 4, 3, 5, 1]);
        assert_eq!(words(sequences(&[3, 4, 3, 5, 1], 1, 10, true)), [3, 4, 3, 5, 1]);
        assert_eq!(words(sequences(&[0, 0], 1, 10, false)), [] as [usize; 0]);
    }

    #[test]
    fn pieces_stand_between_cls_and_sep() {
        let sequence = &sequences(&[2], 2, 10, false)[0];
        assert_eq!(sequence.piece_ids, [2, 100, 100, 101, 101, 3]);
        assert_eq!(sequence.word_starts, [1, 3]);
        assert_eq!(sequence.words, [0..5, 10..15]);
    }

    #[test]
    fn windows_speak_for_every_word_once_and_see_both_sides() {
        for (words, pieces, room) in [(100, 1, 16), (100, 3, 16), (101, 1, 9), (50, 7, 8), (30, 1, 2), (30, 1, 1)] {
            let sequences = sequences(&[2, words, 2], pieces, room, false);
            let spoken: Vec<usize> =
                sequences.iter().flat_map(|s| s.words[s.core()].iter().map(|word| word.start / 10)).collect();
            assert_eq!(spoken, (0..words + 4).collect::<Vec<_>>(), "{words} words of {pieces} pieces in {room}");
            for sequence in &sequences {
                assert!(sequence.piece_ids.len() <= room + 2);
                assert_eq!(sequence.word_starts.len(), sequence.words.len());
            }
            let windows: Vec<_> = sequences.iter().filter(|s| s.continues || s.lead > 0).collect();
            assert!(windows.len() > 1);
            if room >= 16 {
                assert!(windows[1..].iter().all(|w| w.lead > 0), "each window but the first has context before");
            }
            assert!(!sequences.last().unwrap().continues);
        }
    }

    #[test]
    fn the_oldest_pending_word_is_known() {
        let mut sequencer = Sequencer::new(2, 3, 100, false);
        assert_eq!(sequencer.pending_start(), None);
        sequencer.push_word(7..9, &[5]);
        assert_eq!(sequencer.pending_start(), Some(7));
        sequencer.end_sentence();
        sequencer.push_word(17..19, &[5]);
        assert_eq!(sequencer.pending_start(), Some(7));
        sequencer.end_document();
        assert_eq!(sequencer.pending_start(), None);
    }
}
