//! A document, its entities and what is known of them -> the record that docs/formats.md defines, as one line of JSON.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::Writer;
use super::document::Document;
use crate::entity::{Entity, Offsets};
use crate::reading::Note;

/// What offsets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum OffsetUnit {
    /// Characters (Unicode code points), as Python counts.
    #[default]
    Chars,
    /// Bytes of UTF-8, as Rust and Go count.
    Bytes,
    /// UTF-16 code units, as JavaScript, Java and C# count.
    Utf16,
}

impl OffsetUnit {
    const NAMES: [(&'static str, Self); 3] = [("chars", Self::Chars), ("bytes", Self::Bytes), ("utf16", Self::Utf16)];
}

impl fmt::Display for OffsetUnit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Self::NAMES.iter().filter(|(_, unit)| unit == self).try_for_each(|(name, _)| f.write_str(name))
    }
}

impl FromStr for OffsetUnit {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, unit)| *unit).ok_or_else(|| "expected chars, bytes or utf16".into())
    }
}

/// Turns bytes of a text into a unit.
pub(super) struct Place<'t> {
    unit: OffsetUnit,
    /// Bytes need no index of the text.
    offsets: Option<Offsets<'t>>,
}

impl<'t> Place<'t> {
    pub fn new(text: &'t str, unit: OffsetUnit) -> Self {
        Self { unit, offsets: (unit != OffsetUnit::Bytes).then(|| Offsets::new(text)) }
    }

    pub fn of(&self, byte: usize) -> usize {
        match (&self.offsets, self.unit) {
            (Some(offsets), OffsetUnit::Chars) => offsets.chars(byte),
            (Some(offsets), OffsetUnit::Utf16) => offsets.utf16(byte),
            _ => byte,
        }
    }
}

/// A probability to four decimals.
pub(super) fn four_decimals(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}

/// What was found in one document. The fields' order is that of the keys.
#[derive(Debug, PartialEq, Serialize)]
pub struct Record<'a> {
    /// The document's name.
    pub id: &'a str,
    /// Unit of `start` and `end`.
    pub offsets: OffsetUnit,
    /// The text, if it stands like this in no field of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    /// The passages of that text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passages: Vec<RecordPassage<'a>>,
    /// In the order of the text.
    pub entities: Vec<RecordEntity<'a>>,
}

/// One passage of a text that a reader put together.
#[derive(Debug, PartialEq, Serialize)]
pub struct RecordPassage<'a> {
    /// Where it begins in the record's text.
    pub start: usize,
    /// Where it ends; the unit at `end` is no part of it.
    pub end: usize,
    /// What it is, such as `title`.
    pub kind: &'a str,
}

/// One mention.
#[derive(Debug, PartialEq, Serialize)]
pub struct RecordEntity<'a> {
    /// Where it begins in the document's text.
    pub start: usize,
    /// Where it ends; the unit at `end` is no part of it.
    pub end: usize,
    /// The mention as it stands in the text.
    pub text: &'a str,
    /// Its class; `null` if the model has none.
    pub class: Option<&'a str>,
    /// Its probability, to four decimals.
    pub score: f64,
    /// What reading the document told of it, where that was asked for.
    #[serde(flatten)]
    pub note: Option<&'a Note>,
}

impl<'a> Record<'a> {
    /// Entities count bytes of the document's text; `notes` is empty or as long as they are.
    pub fn new(document: &'a Document, entities: &'a [Entity], notes: &'a [Note], unit: OffsetUnit) -> Self {
        let assembled = document.assembled;
        // Without anything to place, the text need not be read.
        let place = Place::new(if entities.is_empty() && !assembled { "" } else { &document.text }, unit);
        let passages = document.passages.iter().filter(|_| assembled).map(|passage| RecordPassage {
            start: place.of(passage.range.start),
            end: place.of(passage.range.end),
            kind: &passage.kind,
        });
        let entities = entities.iter().enumerate().map(|(index, entity)| RecordEntity {
            start: place.of(entity.start),
            end: place.of(entity.end),
            text: &entity.text,
            class: entity.class.as_deref(),
            score: four_decimals(entity.score),
            note: notes.get(index),
        });
        Self {
            id: &document.id,
            offsets: unit,
            text: assembled.then_some(document.text.as_str()),
            passages: passages.collect(),
            entities: entities.collect(),
        }
    }

    /// Writes the record as JSON on one line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        self.serialize(&mut Serializer::with_formatter(&mut *out, OneLine))?;
        out.write_all(b"\n")
    }
}

/// Writes a record for each document.
pub(super) struct JsonLinesWriter<W> {
    out: W,
    unit: OffsetUnit,
}

impl<W: Write> JsonLinesWriter<W> {
    pub fn new(out: W, unit: OffsetUnit) -> Self {
        Self { out, unit }
    }
}

impl<W: Write> Writer for JsonLinesWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        Record::new(document, entities, notes, self.unit).write_json(&mut self.out)?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Control characters, which a terminal would obey, and those that end a line for some readers.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// JSON that also escapes the control characters which JSON itself lets pass (DEL, C1, line and paragraph separator), so that
/// every reader finds one line and no terminal obeys the text.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_control(c)) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            write!(writer, "\\u{:04x}", c as u32)?;
            rest = &rest[at + c.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_one_line_and_comes_back(text in "(\\PC|[\u{0}-\u{a0}\u{2028}\u{2029}]){0,40}") {
            let entity = RecordEntity { start: 0, end: 1, text: &text, class: None, score: 0.5, note: None };
            let mut line = Vec::new();
            let record = Record { id: &text, offsets: OffsetUnit::Utf16, text: None, passages: vec![], entities: vec![entity] };
            record.write_json(&mut line).unwrap();
            let line = String::from_utf8(line).unwrap();
            prop_assert!(line.ends_with('\n') && !line.trim_end_matches('\n').contains(is_control), "{}", line);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["id"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["entities"][0]["text"].as_str(), Some(text.as_str()));
        }
    }

    #[test]
    fn keys_stand_in_order_and_scores_have_four_decimals() {
        let document = Document::from_text("a.txt", "\u{feff}α 🧪 benzene".into());
        let entities = [0.98766, 1.0, 1e-6].map(|score| Entity {
            start: 11,
            end: 18,
            text: document.text[11..18].into(),
            class: (score < 1.0).then(|| "TRIVIAL".into()),
            score,
        });
        for (unit, name, start) in
            [(OffsetUnit::Chars, "chars", 5), (OffsetUnit::Bytes, "bytes", 11), (OffsetUnit::Utf16, "utf16", 6)]
        {
            let mut line = Vec::new();
            Record::new(&document, &entities, &[], unit).write_json(&mut line).unwrap();
            let entity = |class: &str, score: &str| {
                let end = start + 7;
                format!(r#"{{"start":{start},"end":{end},"text":"benzene","class":{class},"score":{score}}}"#)
            };
            let entities = [entity("\"TRIVIAL\"", "0.9877"), entity("null", "1.0"), entity("\"TRIVIAL\"", "0.0")];
            let expected = format!(r#"{{"id":"a.txt","offsets":"{name}","entities":[{}]}}"#, entities.join(","));
            assert_eq!(String::from_utf8(line).unwrap(), expected + "\n");
        }
    }
}
