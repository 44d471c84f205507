//! In: a stream of XML 1.0 in UTF-8. Out: its elements and texts one after another, entities resolved, with the line of each.
//! Method: crate quick-xml; named entities are XML's and HTML's (<https://html.spec.whatwg.org/#named-character-references>), no DTD is read.

use std::borrow::Cow;

use html_escape::decode_html_entities;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::budget::Budget;
use crate::error::{Error, Result};

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// An element begins: its local name and its attributes.
    Start(String, Vec<(String, String)>),
    /// An element ends.
    End(String),
    /// Some text; a text may come in several parts.
    Text(String),
    /// The file ends.
    Eof,
}

/// The parts of a file.
pub(super) struct Nodes {
    reader: quick_xml::Reader<Budget>,
    buffer: Vec<u8>,
    depth: usize,
}

impl Nodes {
    pub fn new(input: Budget) -> Self {
        let mut reader = quick_xml::Reader::from_reader(input);
        reader.config_mut().expand_empty_elements = true;
        Self { reader, buffer: Vec::new(), depth: 0 }
    }

    /// The file, as the user named it.
    pub fn file(&self) -> &str {
        &self.reader.get_ref().file
    }

    /// The line that was read last.
    pub fn line(&self) -> usize {
        self.reader.get_ref().line
    }

    /// What is read from now on is another record's.
    pub fn start_record(&mut self) {
        self.reader.get_mut().start_record();
    }

    /// What is wrong at the place that was read last.
    pub fn malformed(&self, problem: impl Into<String>) -> Error {
        self.reader.get_ref().malformed(problem)
    }

    /// The next part.
    pub fn next(&mut self) -> Result<Node> {
        loop {
            self.buffer.clear();
            let Self { reader, buffer, .. } = self;
            let event = reader.read_event_into(buffer).map_err(|error| problem(reader.get_ref(), &error))?;
            let here = reader.get_ref();
            let text = |text: Result<Cow<str>, _>| match text {
                Ok(text) => Ok(text.into_owned()),
                Err(error) => Err(problem(here, &quick_xml::Error::from(error))),
            };
            let node = match event {
                Event::Start(start) => {
                    self.depth += 1;
                    element(here, &start)?
                }
                Event::End(end) => {
                    self.depth -= 1;
                    Node::End(String::from_utf8_lossy(end.local_name().as_ref()).into_owned())
                }
                Event::Text(part) => Node::Text(text(part.xml10_content())?),
                Event::CData(part) => Node::Text(text(part.xml10_content())?),
                Event::GeneralRef(reference) => Node::Text(resolve(here, &reference)?),
                Event::Eof if self.depth > 0 => {
                    return Err(here.malformed("the file ends inside of an element: it is not whole"));
                }
                Event::Eof => Node::Eof,
                Event::Decl(declaration) => {
                    if let Some(Ok(encoding)) = declaration.encoding() {
                        known(here, &encoding)?;
                    }
                    continue;
                }
                Event::Empty(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => continue,
            };
            return Ok(node);
        }
    }

    /// The text up to the end of the element that has just begun; elements in it are an error.
    pub fn text_of(&mut self, element: &str) -> Result<String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                Node::Text(part) => text.push_str(&part),
                Node::End(_) => return Ok(text),
                Node::Start(name, _) => {
                    return Err(self.malformed(format!("<{element}> holds a text, but here it holds <{name}>")));
                }
                Node::Eof => return Err(self.malformed(format!("the file ends inside of <{element}>"))),
            }
        }
    }

    /// Reads past the element that has just begun.
    pub fn skip(&mut self) -> Result<()> {
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside {
            self.next()?;
        }
        Ok(())
    }
}

fn element(here: &Budget, start: &BytesStart) -> Result<Node> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| problem(here, &error.into()))?;
        let key = String::from_utf8_lossy(attribute.key.local_name().as_ref()).into_owned();
        let value = String::from_utf8_lossy(&attribute.value);
        attributes.push((key, decode_html_entities(&value).into_owned()));
    }
    Ok(Node::Start(String::from_utf8_lossy(start.local_name().as_ref()).into_owned(), attributes))
}

/// `&lt;`, `&#945;`, `&alpha;`.
fn resolve(here: &Budget, reference: &BytesRef) -> Result<String> {
    if let Some(c) = reference.resolve_char_ref().map_err(|error| problem(here, &error))? {
        return Ok(c.to_string());
    }
    let name = reference.decode().map_err(|error| problem(here, &error.into()))?;
    let written = format!("&{name};");
    let found = decode_html_entities(&written);
    (found != written).then(|| found.into_owned()).ok_or_else(|| {
        here.malformed(format!("&{name}; is none of XML's or HTML's entities, and document types are not read"))
    })
}

/// By now all is UTF-8, or was UTF-16 with a byte order mark.
fn known(here: &Budget, encoding: &[u8]) -> Result<()> {
    let encoding = String::from_utf8_lossy(encoding).to_ascii_lowercase();
    match encoding.as_str() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" | "utf-16" => Ok(()),
        _ => Err(Error::Input {
            file: here.file.clone(),
            problem: format!("is in {encoding}: convert it to UTF-8 first, the declaration in its first line included"),
        }),
    }
}

fn problem(here: &Budget, error: &quick_xml::Error) -> Error {
    match error {
        quick_xml::Error::Io(error) => {
            Error::Input { file: here.file.clone(), problem: format!("cannot be read at line {}: {error}", here.line) }
        }
        quick_xml::Error::Encoding(_) => {
            here.malformed("not UTF-8: convert the file first, or give --lossy to replace such bytes by U+FFFD")
        }
        error => here.malformed(format!("not well-formed XML: {error}")),
    }
}

/// A text as it stands in XML. What XML 1.0 cannot hold becomes U+FFFD; carriage returns, which a reader would take for line feeds, are references.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\r' => escaped.push_str("&#13;"),
            '\t' | '\n' => escaped.push(c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}
