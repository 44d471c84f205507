//! What every format's reader makes of a record: a text, the passages of it that are to be tagged, and what a writer must not lose.

use std::ops::Range;

use super::bioc;
use crate::entity::Entity;

/// A text of so many bytes is tagged alone, and as a stream.
const LONG_BYTES: usize = 1 << 20;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// One document.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document {
    /// Its name: a file's name, or what the record calls itself.
    pub id: String,
    /// All of its text; offsets count in it.
    pub text: String,
    /// The parts of the text that are tagged, in order and without overlap, such as title and abstract. No mention crosses into the next.
    pub passages: Vec<Passage>,
    /// Bytes of the words in the text, where the format gives them; `None`: chemtag splits the text itself.
    pub words: Option<Vec<Range<usize>>>,
    /// The text stands like this in no field of the input: a reader put it together, so that a record has to carry it.
    pub assembled: bool,
    /// What else the record held.
    pub source: Source,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Bytes of the document's text.
    pub range: Range<usize>,
    /// What it is, such as `title`, `abstract` or `paragraph`; empty if the format does not say.
    pub kind: String,
}

/// What a record held besides its text, for writers of the same format.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Source {
    /// Nothing that is kept.
    #[default]
    Text,
    /// Passages with their properties, annotations and relations.
    BioC(Box<bioc::Document>),
    /// Lines of annotations and relations.
    PubTator(Vec<String>),
    /// Lines of annotations of the tool brat.
    Brat(Vec<String>),
}

impl Document {
    /// A text of one passage. A byte order mark at its start is not tagged, but counted.
    ///
    /// ```
    /// use chemtag::format::Document;
    ///
    /// let document = Document::from_text("a.txt", "\u{feff}LiCl".into());
    /// assert_eq!(document.passages[0].range, 3..7);
    /// ```
    pub fn from_text(id: impl Into<String>, text: String) -> Self {
        let mut document = Self { id: id.into(), text, ..Self::default() };
        let range = document.body_start()..document.text.len();
        document.passages = vec![Passage { range, kind: String::new() }];
        document
    }

    /// Byte at which the text begins behind its byte order mark, if it has one.
    pub fn body_start(&self) -> usize {
        if self.text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 }
    }

    /// Whether the text is so long, a megabyte, that it is better tagged alone and as a stream
    /// ([`Tagger::tag_long_document`](crate::Tagger::tag_long_document)), and can be: words of the document's own, and borders of passages, are not seen in a stream.
    pub fn is_long(&self) -> bool {
        self.text.len() >= LONG_BYTES && self.words.is_none() && self.passages.len() == 1
    }

    /// The bytes of words that belong to a passage.
    pub fn words_of(&self, passage: &Passage) -> &[Range<usize>] {
        let words = self.words.as_deref().unwrap_or_default();
        let first = words.partition_point(|word| word.start < passage.range.start);
        let last = words.partition_point(|word| word.start < passage.range.end);
        words.get(first..last).unwrap_or_default()
    }

    /// The index of the passage that holds a mention.
    pub(super) fn passage_of(&self, entity: &Entity) -> Option<usize> {
        let index = self.passages.partition_point(|passage| passage.range.start <= entity.start).checked_sub(1)?;
        self.passages.get(index).filter(|passage| entity.end <= passage.range.end).map(|_| index)
    }

    /// Appends a passage behind a line feed and gives its range.
    pub(super) fn push_passage(&mut self, kind: &str, text: &str) -> Range<usize> {
        if !self.passages.is_empty() {
            self.text.push('\n');
        }
        let start = self.text.len();
        self.text.push_str(text);
        let range = start..self.text.len();
        self.passages.push(Passage { range: range.clone(), kind: kind.into() });
        range
    }
}
