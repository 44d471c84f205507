//! In: a `&str`.
//! Out: its sentences, as byte ranges in reading order.
//! Method: one pass over the grapheme clusters from a sentence's start; `borders` judges each gap between words.

use std::iter::FusedIterator;
use std::ops::Range;

use super::borders::{self, Before, Stop, Tail};
use super::punctuation;
use super::words::{Cluster, cluster_at};

/// A sentence that would be longer than this many bytes is cut: see [`Sentence::continues`].
pub const MAX_SENTENCE_BYTES: usize = 32 * 1024;

/// The end of a sentence depends on at most this many bytes after it.
pub const LOOKAHEAD_BYTES: usize = 256;

/// One sentence of a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sentence {
    /// Where it stands in the text, in bytes. Starts and ends with something that is not white space.
    pub range: Range<usize>,
    /// It was cut at [`MAX_SENTENCE_BYTES`]: the next sentence goes on with it.
    pub continues: bool,
}

/// The sentences of `text`.
///
/// The ranges are ordered, do not overlap, are not empty and together cover every character that is not white space. No end
/// lies inside a grapheme cluster, and none inside a word unless the word alone exceeds [`MAX_SENTENCE_BYTES`]. A sentence
/// that reaches that length without an end is cut at its last white space, or else at its last border between words, or
/// else between two clusters; a single cluster is never cut, however long. Takes time proportional to the length of `text`
/// and does not allocate, but for the look-up of single words.
///
/// ```
/// let text = "Was aspirin given (cf. Fig. 2)? p-Cresol was.\n\nResults";
/// let found: Vec<_> = chemtag::text::sentences(text).map(|s| &text[s.range]).collect();
/// assert_eq!(found, ["Was aspirin given (cf. Fig. 2)?", "p-Cresol was.", "Results"]);
/// ```
pub fn sentences(text: &str) -> Sentences<'_> {
    Sentences { text, position: 0 }
}

/// Iterator over the sentences of a text: see [`sentences`].
#[derive(Clone, Debug)]
pub struct Sentences<'a> {
    text: &'a str,
    position: usize,
}

impl Iterator for Sentences<'_> {
    type Item = Sentence;

    fn next(&mut self) -> Option<Sentence> {
        let mut cluster = cluster_at(self.text, self.position)?;
        while cluster.is_white {
            self.position = cluster.end;
            cluster = cluster_at(self.text, self.position)?;
        }
        let start = self.position;
        let (length, continues) = first_sentence(self.text.get(start..)?);
        self.position = start + length;
        Some(Sentence { range: start..self.position, continues })
    }
}

impl FusedIterator for Sentences<'_> {}

/// Length of the first sentence of `text`, which starts with a visible cluster, and whether it was cut.
fn first_sentence(text: &str) -> (usize, bool) {
    let mut scan = Scan::default();
    let mut position = 0;
    while let Some(cluster) = cluster_at(text, position) {
        if !cluster.is_white {
            if scan.ends_without_space(&cluster) {
                break;
            }
            if cluster.end > MAX_SENTENCE_BYTES && scan.end > 0 {
                return (scan.cut(&cluster), true);
            }
            scan.push(position, &cluster);
            position = cluster.end;
            continue;
        }
        if !is_plain_space(text, position, &scan) && borders::is_border(&scan.before(text), window(text, scan.end)) {
            break;
        }
        while let Some(white) = cluster_at(text, position).filter(|cluster| cluster.is_white) {
            position = white.end;
            if punctuation::line_breaks(white.first) > 0 {
                scan.line_start = position;
            }
        }
        scan.white_border = scan.end;
        scan.stop = None;
        scan.ends_alphanumeric = false;
    }
    (scan.end, false)
}

/// A single space after no stop and before a visible ASCII character ends nothing; most gaps are such.
fn is_plain_space(text: &str, position: usize, scan: &Scan) -> bool {
    let next = text.as_bytes().get(position + 1);
    scan.stop.is_none() && text.as_bytes().get(position) == Some(&b' ') && next.is_some_and(u8::is_ascii_graphic)
}

/// At most [`LOOKAHEAD_BYTES`] of `text` from `start`, without a part of a character.
fn window(text: &str, start: usize) -> &str {
    let end = text.floor_char_boundary(start + LOOKAHEAD_BYTES);
    text.get(start..end).unwrap_or_default()
}

/// What is known of a sentence so far; all offsets count from its start.
#[derive(Default)]
struct Scan {
    /// End of the last visible cluster.
    end: usize,
    line_start: usize,
    stop: Option<Stop>,
    open_brackets: usize,
    ends_alphanumeric: bool,
    /// End of the last visible cluster before white space; 0: none yet.
    white_border: usize,
    /// Last border between two words; 0: none yet.
    word_border: usize,
}

impl Scan {
    fn before<'a>(&self, text: &'a str) -> Before<'a> {
        Before {
            sentence: text.get(..self.end).unwrap_or_default(),
            line_start: self.line_start,
            stop: self.stop,
            open_brackets: self.open_brackets,
        }
    }

    /// Whether the sentence ends before `next`, which follows at once. Depends on the first character of `next` only, for a
    /// look further ahead could make a forced cut before this place depend on what follows it.
    fn ends_without_space(&self, next: &Cluster) -> bool {
        let after_stop = |stop: Stop| stop.is_wide && !matches!(stop.tail, Tail::Reference(_));
        self.stop.is_some_and(after_stop) && !punctuation::is_stop(next.first) && !punctuation::is_closing(next.first)
    }

    /// Where to cut before `next`, with which the sentence would be too long.
    fn cut(&self, next: &Cluster) -> usize {
        if self.white_border > 0 {
            self.white_border
        } else if !(self.ends_alphanumeric && next.is_alphanumeric()) || self.word_border == 0 {
            self.end
        } else {
            self.word_border
        }
    }

    /// Takes in a visible cluster.
    fn push(&mut self, start: usize, cluster: &Cluster) {
        let first = cluster.first;
        let alphanumeric = cluster.is_alphanumeric();
        if !(self.ends_alphanumeric && alphanumeric) {
            self.word_border = start;
        }
        self.ends_alphanumeric = alphanumeric;
        self.end = cluster.end;
        if !alphanumeric && punctuation::is_stop(first) {
            self.stop = Some(self.stop_with(start, first));
            return;
        }
        self.stop = self.stop.and_then(|stop| stop.followed_by(first));
        if alphanumeric {
            return;
        }
        if punctuation::is_opening_bracket(first) {
            self.open_brackets += 1;
        } else if punctuation::is_closing_bracket(first) {
            self.open_brackets = self.open_brackets.saturating_sub(1);
        }
    }

    /// The stop `c` at `start`, joined with the stops directly before it.
    fn stop_with(&self, start: usize, c: char) -> Stop {
        let run = self.stop.filter(|stop| stop.tail == Tail::Nothing);
        let mut stop =
            run.unwrap_or(Stop { at: start, count: 0, is_strong: false, is_wide: false, tail: Tail::Nothing });
        // An ellipsis in one character counts as the three full stops that it stands for.
        stop.count += if c == '…' { 3 } else { 1 };
        stop.is_strong |= punctuation::is_strong_stop(c);
        stop.is_wide |= punctuation::is_wide_stop(c);
        stop
    }
}

#[cfg(test)]
mod tests;
