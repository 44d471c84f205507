//! In: a `&str`.
//! Out: its words, as byte ranges in reading order.
//! Method: runs of alphanumeric extended grapheme clusters (Unicode Standard Annex 29); any other visible cluster stands alone.

use std::iter::FusedIterator;
use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// The words of `text`, as byte ranges into it.
///
/// A word is a run of letters and digits, or one grapheme cluster that is neither alphanumeric nor white space: a
/// punctuation mark, `_`, a symbol, an emoji sequence, a combining mark that stands on nothing. A cluster counts by its first
/// character. The ranges are ordered, do not overlap and together cover every character that is not white space (a white
/// space that carries a combining mark is a word). Takes time proportional to the length of `text`; does not allocate.
///
/// ```
/// let text = "β-Carotene 5 µM";
/// let found: Vec<_> = chemtag::text::words(text).map(|range| &text[range]).collect();
/// assert_eq!(found, ["β", "-", "Carotene", "5", "µM"]);
/// ```
pub fn words(text: &str) -> Words<'_> {
    Words { text, position: 0 }
}

/// Iterator over the words of a text: see [`words`].
#[derive(Clone, Debug)]
pub struct Words<'a> {
    text: &'a str,
    position: usize,
}

impl Iterator for Words<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let mut start = self.position;
        let mut cluster = cluster_at(self.text, start)?;
        while cluster.is_white {
            start = cluster.end;
            cluster = cluster_at(self.text, start)?;
        }
        let mut end = cluster.end;
        if cluster.is_alphanumeric() {
            while let Some(next) = cluster_at(self.text, end).filter(Cluster::is_alphanumeric) {
                end = next.end;
            }
        }
        self.position = end;
        Some(start..end)
    }
}

impl FusedIterator for Words<'_> {}

/// One extended grapheme cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    /// Offset of the first byte after the cluster.
    pub end: usize,
    /// First character, which decides what the cluster is.
    pub first: char,
    /// All characters are white space.
    pub is_white: bool,
}

impl Cluster {
    pub(super) fn is_alphanumeric(&self) -> bool {
        self.first.is_alphanumeric()
    }
}

/// The cluster of `text` that starts at `position`, which must be the start of a cluster; `None` at the end of the text.
///
/// Whether two characters belong together depends on nothing before the start of their cluster, so starting afresh at each
/// cluster finds the same borders as one pass over the whole text, and a long run of flags is not counted again and again.
#[inline]
pub(super) fn cluster_at(text: &str, position: usize) -> Option<Cluster> {
    let bytes = text.as_bytes();
    let byte = *bytes.get(position)?;
    if byte.is_ascii() {
        // Among ASCII characters only CR LF is a cluster of two; what is not ASCII may extend the character before it.
        let end = match bytes.get(position + 1) {
            Some(b'\n') if byte == b'\r' => Some(position + 2),
            Some(next) if !next.is_ascii() => None,
            _ => Some(position + 1),
        };
        if let Some(end) = end {
            let first = char::from(byte);
            return Some(Cluster { end, first, is_white: first.is_whitespace() });
        }
    }
    let cluster = text.get(position..)?.graphemes(true).next()?;
    let first = cluster.chars().next()?;
    // Only CR LF joins two white characters: whatever else follows a white character in its cluster is a mark or a joiner.
    let is_white = first.is_whitespace() && cluster.len() == first.len_utf8();
    Some(Cluster { end: position + cluster.len(), first, is_white })
}

#[cfg(test)]
mod tests {
    use super::words;

    fn split(text: &str) -> Vec<&str> {
        words(text).map(|range| &text[range]).collect()
    }

    #[test]
    fn letters_and_digits_run_together_and_all_else_stands_alone() {
        assert_eq!(split("2,3-dihydro_1H"), ["2", ",", "3", "-", "dihydro", "_", "1H"]);
        assert_eq!(split("  Ca2+\u{a0}(10 µM)\r\n"), ["Ca2", "+", "(", "10", "µM", ")"]);
        assert_eq!(split("H₂SO₄ x²"), ["H₂SO₄", "x²"]);
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split(" \t\r\n\u{3000}\u{2029}"), [""; 0]);
    }

    #[test]
    fn marks_and_joiners_belong_to_the_word_before_them() {
        assert_eq!(split("e\u{301}ther o\u{308}l"), ["e\u{301}ther", "o\u{308}l"]);
        assert_eq!(split("a\u{200d}b"), ["a\u{200d}b"]);
        assert_eq!(split("-\u{fe0f}x"), ["-\u{fe0f}", "x"]);
        assert_eq!(split("👩\u{200d}🔬🇩🇪🇫🇷"), ["👩\u{200d}🔬", "🇩🇪", "🇫🇷"]);
    }

    #[test]
    fn marks_on_nothing_or_on_a_space_are_words() {
        assert_eq!(split("\u{301}a"), ["\u{301}", "a"]);
        assert_eq!(split("a \u{301}b"), ["a", " \u{301}", "b"]);
        assert_eq!(split("a\n\u{301}b"), ["a", "\u{301}", "b"]);
    }

    #[test]
    fn characters_without_width_are_not_lost() {
        assert_eq!(split("a\u{200b}b\u{feff}"), ["a", "\u{200b}", "b", "\u{feff}"]);
    }

    #[test]
    fn long_runs_of_one_kind_are_read_once() {
        // Each of these takes minutes if a run is counted again from its start for every cluster.
        assert_eq!(words(&"\u{1f1e9}".repeat(250_001)).count(), 125_001);
        assert_eq!(words(&format!("a{}", "\u{301}".repeat(500_000))).count(), 1);
        assert_eq!(words(&"क\u{94d}".repeat(150_000)).count(), 1);
        assert_eq!(words(&"a".repeat(1_000_000)).count(), 1);
    }
}
