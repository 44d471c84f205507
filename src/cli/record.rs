//! A document and its entities -> the record that docs/formats.md defines, as one line of JSON.

use std::io::{self, Write};

use chemtag::{Entity, Offsets};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::document::Document;
use super::terminal::is_control;

/// What offsets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OffsetUnit {
    /// Characters (Unicode code points), as Python counts.
    Chars,
    /// Bytes of UTF-8, as Rust and Go count.
    Bytes,
    /// UTF-16 code units, as JavaScript, Java and C# count.
    Utf16,
}

/// What was found in one input. The fields' order is that of the keys.
#[derive(Debug, PartialEq, Serialize)]
pub struct Record<'a> {
    /// The file's name, `-` for standard input.
    pub id: &'a str,
    /// Unit of `start` and `end`.
    pub offsets: OffsetUnit,
    /// In the order of the text.
    pub entities: Vec<RecordEntity<'a>>,
}

/// One mention.
#[derive(Debug, PartialEq, Serialize)]
pub struct RecordEntity<'a> {
    /// Where it begins in the input's text.
    pub start: usize,
    /// Where it ends; the unit at `end` is no part of it.
    pub end: usize,
    /// The mention as it stands in the text.
    pub text: &'a str,
    /// Its class; `null` if the model has none.
    pub class: Option<&'a str>,
    /// Its probability, to four decimals.
    pub score: f64,
}

impl<'a> Record<'a> {
    /// Entities count bytes of the document's body.
    pub fn new(document: &'a Document, entities: &'a [Entity], unit: OffsetUnit) -> Self {
        // Bytes need no index of the text.
        let offsets = (unit != OffsetUnit::Bytes && !entities.is_empty()).then(|| Offsets::new(document.text()));
        let place = |byte: usize| {
            let byte = document.body_start() + byte;
            match (&offsets, unit) {
                (Some(offsets), OffsetUnit::Chars) => offsets.chars(byte),
                (Some(offsets), OffsetUnit::Utf16) => offsets.utf16(byte),
                _ => byte,
            }
        };
        let entities = entities.iter().map(|entity| RecordEntity {
            start: place(entity.start),
            end: place(entity.end),
            text: &entity.text,
            class: entity.class.as_deref(),
            score: (f64::from(entity.score) * 1e4).round() / 1e4,
        });
        Self { id: &document.id, offsets: unit, entities: entities.collect() }
    }

    /// Writes the record as JSON on one line.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        self.serialize(&mut Serializer::with_formatter(&mut *out, OneLine))?;
        out.write_all(b"\n")
    }
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
            let entity = RecordEntity { start: 0, end: 1, text: &text, class: None, score: 0.5 };
            let mut line = Vec::new();
            Record { id: &text, offsets: OffsetUnit::Utf16, entities: vec![entity] }.write_json(&mut line).unwrap();
            let line = String::from_utf8(line).unwrap();
            prop_assert!(line.ends_with('\n') && !line.trim_end_matches('\n').contains(is_control), "{}", line);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["id"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["entities"][0]["text"].as_str(), Some(text.as_str()));
        }
    }

    #[test]
    fn keys_stand_in_order_and_scores_have_four_decimals() {
        let document = Document::from_text("a.txt", "\u{feff}α 🧪 benzene");
        let entities = [0.98766, 1.0, 1e-6].map(|score| Entity {
            start: 8,
            end: 15,
            text: document.body()[8..15].into(),
            class: (score < 1.0).then(|| "TRIVIAL".into()),
            score,
        });
        for (unit, name, start) in
            [(OffsetUnit::Chars, "chars", 5), (OffsetUnit::Bytes, "bytes", 11), (OffsetUnit::Utf16, "utf16", 6)]
        {
            let mut line = Vec::new();
            Record::new(&document, &entities, unit).write_json(&mut line).unwrap();
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
