//! In: JSON Lines (<https://jsonlines.org>), one object on each line, its text in a field that the caller names.
//! Out: one document for each line; fields that are not asked for are read past, so a line may be far longer than memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use super::document::Document;
use super::lines::{Lines, unreadable};
use super::{ReadOptions, record_id};
use crate::error::Result;

/// The documents of a file.
pub(super) struct JsonLines {
    lines: Lines,
    options: ReadOptions,
}

impl JsonLines {
    pub fn new(lines: Lines, options: ReadOptions) -> Self {
        Self { lines, options }
    }

    fn read(&mut self) -> Option<Result<Document>> {
        let Self { lines, options } = self;
        loop {
            let file = lines.file.clone();
            let mut line = match lines.stream()? {
                Ok(line) => line,
                Err(error) => return Some(Err(unreadable(&file, error))),
            };
            let mut json = serde_json::Deserializer::from_reader(&mut line);
            let fields = Fields { text: &options.field, id: &options.id_field }.deserialize(&mut json);
            let fields = fields.and_then(|fields| json.end().map(|()| fields));
            let blank = line.blank;
            if let Err(error) = line.skip_rest() {
                return Some(Err(unreadable(&file, error)));
            }
            let (text, id) = match fields {
                Ok(fields) => fields,
                Err(error) if error.classify() == Category::Io => return Some(Err(unreadable(&file, error.into()))),
                // serde_json read nothing but white space: an empty line is no record.
                Err(error) if error.is_eof() && blank => continue,
                Err(error) => return Some(Err(lines.malformed(place(&error)))),
            };
            return Some(match text {
                None => {
                    let names = format!("no field {:?} with a text: name the field with --field", options.field);
                    Err(lines.malformed(names))
                }
                Some(text) if text.len() > options.most_bytes => Err(lines.malformed(format!(
                    "its text is longer than {} bytes, the most that is read as one document",
                    options.most_bytes
                ))),
                Some(text) => Ok(Document::from_text(id.unwrap_or_else(|| record_id(&file, lines.number)), text)),
            });
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        self.read()
    }
}

/// serde_json's message, with the column alone: the line is the only one that it saw.
fn place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    format!("not a JSON object on one line: {what} at column {}", error.column())
}

/// Reads the two fields out of an object.
struct Fields<'n> {
    text: &'n str,
    id: &'n str,
}

type TextAndId = (Option<String>, Option<String>);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = TextAndId;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TextAndId, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = TextAndId;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with the field {:?}", self.text)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<TextAndId, M::Error> {
        let (mut text, mut id) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            if key == self.text {
                text = Some(map.next_value()?);
            } else if key == self.id {
                id = map.next_value::<Option<Name>>()?.map(|Name(name)| name);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((text, id))
    }
}

/// A name: a string, or a number as it is written.
struct Name(String);

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(name) => Ok(Name(name)),
            serde_json::Value::Number(number) => Ok(Name(number.to_string())),
            _ => Err(serde::de::Error::custom("the record's name is neither a string nor a number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use proptest::prelude::*;

    use super::*;

    fn documents(input: impl Read + Send + 'static, options: ReadOptions) -> Vec<Result<(String, String), String>> {
        let lines = Lines::new(Box::new(BufReader::new(input)), "a.jsonl", options.most_bytes);
        let found = JsonLines::new(lines, options);
        found.map(|document| document.map(|d| (d.id, d.text)).map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn fields_are_named_and_bad_lines_are_passed_over() {
        let input = "\u{feff}{\"pmid\": 7, \"body\": \"α\\u0020\\ud83e\\uddea\"}\r\n\n   \n{\"body\": \"b\", \"pmid\": null}\n[1]\n\
                     {\"body\": 3}\n{\"pmid\": 1}\n{\"body\": \"c\"} x\n{\"body\": \"d\n{\"pmid\": \"e\", \"x\": [{}], \"body\": \"\"}";
        let options = ReadOptions { field: "body".into(), id_field: "pmid".into(), ..ReadOptions::default() };
        let found = documents(input.as_bytes(), options);
        let ok = |id: &str, text: &str| Ok((id.to_string(), text.to_string()));
        assert_eq!(found.len(), 8, "{found:?}");
        assert_eq!(found[0], ok("7", "α 🧪"));
        assert_eq!(found[1], ok("a.jsonl:4", "b"));
        assert_eq!(found[7], ok("e", ""));
        for (index, part) in [
            (
                2,
                "line 5: not a JSON object on one line: invalid type: sequence, expected an object with the field \"body\"",
            ),
            (3, "line 6: not a JSON object on one line: invalid type: integer"),
            (4, "line 7: no field \"body\" with a text"),
            (5, "line 8: not a JSON object on one line: trailing characters at column 15"),
            (6, "line 9: not a JSON object on one line: "),
        ] {
            let message = found[index].as_ref().unwrap_err();
            assert!(message.starts_with(&format!("a.jsonl, {part}")), "{message}");
        }
    }

    /// So many bytes of the letter `x`.
    fn bulk(bytes: u64) -> impl Read + Send {
        std::io::repeat(b'x').take(bytes)
    }

    #[test]
    fn a_long_field_beside_the_text_is_not_held() {
        // The limit of a record is far below: a reader that held the line would refuse it.
        let options = ReadOptions { most_bytes: 100, ..ReadOptions::default() };
        let input =
            (&b"{\"bulk\": \""[..]).chain(bulk(20_000_000)).chain(&b"\", \"text\": \"THF\"}\n{\"text\": \""[..]);
        let found = documents(input.chain(bulk(101)).chain(&b"\"}"[..]), options);
        assert_eq!(found[0], Ok(("a.jsonl:1".into(), "THF".into())));
        assert!(found[1].as_ref().unwrap_err().contains("line 2: its text is longer than 100 bytes"), "{found:?}");
    }

    proptest! {
        #[test]
        fn any_text_comes_through(texts in prop::collection::vec("\\PC{0,20}|[\u{0}-\u{20}\u{2028}🧪\u{301}<&\"]{0,20}", 0..5)) {
            let lines: String = texts.iter().map(|text| serde_json::json!({"id": text, "text": text}).to_string() + "\n").collect();
            let found = documents(std::io::Cursor::new(lines.into_bytes()), ReadOptions::default());
            let expected: Vec<_> = texts.into_iter().map(|text| Ok((text.clone(), text))).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(b'"'), any::<u8>()], 0..80)) {
            documents(std::io::Cursor::new(bytes), ReadOptions::default());
        }
    }
}
