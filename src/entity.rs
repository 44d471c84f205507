//! What the tagger finds: a mention with its place in the caller's own text, its class and its probability.
//! Offsets are bytes, as Rust indexes strings; [`Offsets`] turns them into characters or UTF-16 code units.

use std::borrow::Cow;
use std::sync::Arc;

/// A chemical named in a text.
///
/// `&text[entity.start..entity.end]` is the mention, whatever the text holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity<'t> {
    /// First byte of the mention in the caller's text.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// The mention as it stands in the text.
    pub text: Cow<'t, str>,
    /// Its class, if the model has classes, such as `SYSTEMATIC` or `FORMULA`.
    pub class: Option<Arc<str>>,
    /// Probability that exactly these words are a mention (the CRF's posterior), between 0 and 1.
    pub score: f32,
}

impl Entity<'_> {
    /// The same entity with a text of its own, free of the caller's string.
    pub fn into_owned(self) -> Entity<'static> {
        Entity {
            start: self.start,
            end: self.end,
            text: Cow::Owned(self.text.into_owned()),
            class: self.class,
            score: self.score,
        }
    }
}

/// Bytes between two entries of the index.
const BLOCK: usize = 512;

/// Turns byte offsets of one text into characters (Unicode code points) or UTF-16 code units, by an index made once.
///
/// ```
/// use chemtag::Offsets;
/// let text = "α-pinene 🧪 and β-carotene";
/// let byte = text.find("β").unwrap();
/// let offsets = Offsets::new(text);
/// assert_eq!((byte, offsets.chars(byte), offsets.utf16(byte)), (19, 15, 16));
/// ```
pub struct Offsets<'t> {
    text: &'t str,
    /// Characters and UTF-16 code units before each block; empty for ASCII, where all offsets are the same.
    blocks: Vec<(usize, usize)>,
}

impl<'t> Offsets<'t> {
    /// Reads the text once.
    pub fn new(text: &'t str) -> Self {
        let mut blocks = Vec::new();
        if !text.is_ascii() {
            blocks.reserve(text.len() / BLOCK + 1);
            let mut counts = (0, 0);
            for block in text.as_bytes().chunks(BLOCK) {
                blocks.push(counts);
                let (chars, utf16) = count(block);
                counts = (counts.0 + chars, counts.1 + utf16);
            }
        }
        Self { text, blocks }
    }

    /// Number of characters before byte `byte`; a `byte` beyond the text counts as its end.
    pub fn chars(&self, byte: usize) -> usize {
        self.convert(byte).0
    }

    /// Number of UTF-16 code units before byte `byte`; a `byte` beyond the text counts as its end.
    pub fn utf16(&self, byte: usize) -> usize {
        self.convert(byte).1
    }

    fn convert(&self, byte: usize) -> (usize, usize) {
        let byte = byte.min(self.text.len());
        if self.blocks.is_empty() {
            return (byte, byte);
        }
        let block = (byte / BLOCK).min(self.blocks.len() - 1);
        let (chars, utf16) = count(&self.text.as_bytes()[block * BLOCK..byte]);
        (self.blocks[block].0 + chars, self.blocks[block].1 + utf16)
    }
}

/// Characters and UTF-16 code units that begin in these bytes of UTF-8.
fn count(bytes: &[u8]) -> (usize, usize) {
    let chars = bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
    // Four-byte sequences stand for characters beyond the basic plane, two code units each.
    (chars, chars + bytes.iter().filter(|&&byte| byte >= 0xF0).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn offsets_equal_counting_from_the_start(text in "(\\PC|[a-zα🧪\u{301}]){0,900}") {
            let offsets = Offsets::new(&text);
            for (byte, _) in text.char_indices().chain([(text.len(), ' ')]) {
                prop_assert_eq!(offsets.chars(byte), text[..byte].chars().count());
                prop_assert_eq!(offsets.utf16(byte), text[..byte].encode_utf16().count());
            }
        }
    }

    #[test]
    fn beyond_the_end_counts_as_the_end() {
        assert_eq!(Offsets::new("ä").chars(9), 1);
        assert_eq!(Offsets::new("").chars(9), 0);
    }
}
