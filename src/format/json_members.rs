//! In: a stream of one JSON object with a long array in it. Out: the array's elements one by one, and the object's other members, each as
//! bytes of its own, so that only one element is held. Method: brackets and strings of JSON (RFC 8259), without reading what is in them.

use std::io::BufRead;

use super::budget::Budget;
use super::lines::unreadable;
use crate::error::Result;

/// A part of the object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A member that is not the array: its key and its value.
    Other(String, Vec<u8>),
    /// An element of the array, and the line where it begins.
    Element(Vec<u8>, usize),
}

/// Where in the object the stream stands.
#[derive(PartialEq)]
enum State {
    Start,
    Members,
    Elements,
    Ended,
}

/// The members of an object.
pub(super) struct Members {
    pub input: Budget,
    array: &'static str,
    state: State,
}

impl Members {
    /// `array` is the key of the array.
    pub fn new(input: Budget, array: &'static str) -> Self {
        Self { input, array, state: State::Start }
    }

    /// The next part; `None` at the end. After an error there is none.
    pub fn next(&mut self) -> Option<Result<Member>> {
        let member = self.advance().transpose();
        if !matches!(member, Some(Ok(_))) {
            self.state = State::Ended;
        }
        member
    }

    fn advance(&mut self) -> Result<Option<Member>> {
        loop {
            self.input.start_record();
            match self.state {
                State::Ended => return Ok(None),
                State::Start => {
                    let mark = self.peek()?;
                    for byte in [0xef, 0xbb, 0xbf].into_iter().filter(|_| mark == Some(0xef)) {
                        self.expect(byte)?;
                    }
                    self.skip_white()?;
                    self.expect(b'{')?;
                    self.state = State::Members;
                }
                State::Members => {
                    match self.skip_white()? {
                        Some(b',') => self.input.consume(1),
                        Some(b'}') => {
                            self.input.consume(1);
                            return match self.skip_white()? {
                                None => Ok(None),
                                Some(byte) => Err(self.unexpected("the end of the file behind the object", Some(byte))),
                            };
                        }
                        _ => {}
                    }
                    self.skip_white()?;
                    let key = self.value()?;
                    let key: String = serde_json::from_slice(&key).map_err(|error| {
                        self.input.malformed(format!("expected a member's name in quotes: {error}"))
                    })?;
                    self.skip_white()?;
                    self.expect(b':')?;
                    let next = self.skip_white()?;
                    if key != self.array {
                        return Ok(Some(Member::Other(key, self.value()?)));
                    }
                    if next != Some(b'[') {
                        return Err(self.unexpected(&format!("an array of {key}"), next));
                    }
                    self.input.consume(1);
                    self.state = State::Elements;
                }
                State::Elements => match self.skip_white()? {
                    Some(b',') => self.input.consume(1),
                    Some(b']') => {
                        self.input.consume(1);
                        self.state = State::Members;
                    }
                    _ => {
                        let line = self.input.line;
                        return Ok(Some(Member::Element(self.value()?, line)));
                    }
                },
            }
        }
    }

    /// The bytes of one value: up to the bracket that closes it, the end of a string, or what ends a number or word.
    fn value(&mut self) -> Result<Vec<u8>> {
        let mut value = Vec::new();
        let (mut depth, mut string, mut escaped) = (0usize, false, false);
        loop {
            let Some(byte) = self.peek()? else { return Err(self.unexpected("the end of a value", None)) };
            if depth == 0
                && !string
                && !value.is_empty()
                && matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\r' | b'\n')
            {
                return Ok(value);
            }
            if depth == 0 && !string && matches!(byte, b',' | b'}' | b']' | b':') {
                return Err(self.unexpected("a value", Some(byte)));
            }
            self.input.consume(1);
            value.push(byte);
            if string {
                string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b'"' => string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => continue,
                }
            }
            if depth == 0 && !string {
                return Ok(value);
            }
        }
    }

    fn skip_white(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.input.consume(1),
                other => return Ok(other),
            }
        }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        match self.input.fill_buf() {
            Ok(held) => Ok(held.first().copied()),
            Err(error) => Err(unreadable(&self.input.file.clone(), error)),
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<()> {
        let found = self.peek()?;
        if found != Some(wanted) {
            return Err(self.unexpected(&format!("{:?}", char::from(wanted)), found));
        }
        self.input.consume(1);
        Ok(())
    }

    fn unexpected(&self, wanted: &str, found: Option<u8>) -> crate::error::Error {
        let found = found.map_or("the end of the file".to_string(), |byte| format!("{:?}", char::from(byte)));
        self.input.malformed(format!("not one JSON object: expected {wanted}, found {found}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn members(input: &str) -> Result<Vec<Member>, String> {
        let input = std::io::BufReader::with_capacity(7, std::io::Cursor::new(input.to_string().into_bytes()));
        let mut members = Members::new(Budget::new(Box::new(input), "a.json", 10_000), "documents");
        let mut found = Vec::new();
        while let Some(member) = members.next() {
            found.push(member.map_err(|error| error.to_string())?);
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn elements_are_those_that_a_parser_finds(texts in prop::collection::vec("\\PC{0,6}|[\\[\\]{}\",:\\\\\n]{0,6}", 0..6), pretty in any::<bool>()) {
            let elements: Vec<Value> = texts.iter().enumerate().map(|(n, text)| match n % 3 {
                0 => json!({"a": [text, {"b": text}], text: n}),
                1 => json!(text),
                _ => json!(n),
            }).collect();
            let whole = json!({"source": texts, "documents": elements, "z": {"documents": [1]}});
            let written = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) }.unwrap();
            let (mut found, mut others) = (Vec::new(), Vec::new());
            for member in members(&written).unwrap() {
                match member {
                    Member::Element(bytes, _) => found.push(serde_json::from_slice::<Value>(&bytes).unwrap()),
                    Member::Other(key, bytes) => others.push((key, serde_json::from_slice::<Value>(&bytes).unwrap())),
                }
            }
            prop_assert_eq!(found, elements);
            prop_assert_eq!(others, [("source".to_string(), json!(texts)), ("z".to_string(), json!({"documents": [1]}))]);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[\\[\\]{}\",:\\\\a\n ]{0,30}") {
            let _ = members(&("{\"documents\":".to_string() + &text));
        }
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (input, problem) in [
            ("", "expected '{', found the end of the file"),
            ("[1]", "expected '{', found '['"),
            ("{\"documents\": {}}", "expected an array of documents, found '{'"),
            ("{\"documents\": [{\"a\": 1}", "expected the end of a value, found the end of the file"),
            ("{\"a\": 1}\n x", "expected the end of the file behind the object, found 'x'"),
            ("{\"documents\": [\"a", "expected the end of a value, found the end of the file"),
        ] {
            let message = members(input).unwrap_err();
            assert!(message.starts_with("a.json, line ") && message.ends_with(problem), "{input}: {message}");
        }
    }
}
