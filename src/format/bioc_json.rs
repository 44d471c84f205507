//! In: BioC in JSON, as PubMed Central's and PubTator's services give it (<https://www.ncbi.nlm.nih.gov/research/bionlp/APIs/BioC-PMC/>):
//! an object with the array `documents`. Out: one document for each element; written, the same with the mentions added.

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::Value;

use super::Writer;
use super::bioc::{self, Header};
use super::budget::Budget;
use super::document::Document;
use super::json_members::{Member, Members};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;

/// The documents of a collection.
pub(super) struct Collection {
    members: Members,
    header: Arc<Header>,
}

impl Collection {
    pub fn new(input: Budget) -> Self {
        Self { members: Members::new(input, "documents"), header: Arc::default() }
    }

    /// Takes a member of the collection that stands before its documents; one behind them comes too late to be written, and says nothing of a text.
    fn take(&mut self, key: String, value: &[u8]) -> Result<()> {
        let problem = |error| self.members.input.malformed(format!("member {key:?} of the collection: {error}"));
        let value: Value = serde_json::from_slice(value).map_err(problem)?;
        let header = Arc::make_mut(&mut self.header);
        match (key.as_str(), value) {
            ("source", Value::String(source)) => header.source = source,
            ("date", Value::String(date)) => header.date = date,
            ("key", Value::String(key)) => header.key = key,
            ("infons", Value::Object(infons)) => header.infons = infons,
            (_, value) => {
                header.other.insert(key, value);
            }
        }
        Ok(())
    }
}

impl Iterator for Collection {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        loop {
            match self.members.next()? {
                Ok(Member::Other(key, value)) => {
                    if let Err(error) = self.take(key, &value) {
                        return Some(Err(error));
                    }
                }
                Ok(Member::Element(element, line)) => {
                    let document =
                        serde_json::from_slice::<bioc::Document>(&element).map_err(|error| Error::Malformed {
                            file: self.members.input.file.clone(),
                            line,
                            problem: format!("not a document of BioC: {error} of it"),
                        });
                    return Some(document.map(|mut document| {
                        document.header = self.header.clone();
                        document.into_text()
                    }));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Writes a collection.
pub(super) struct CollectionWriter<W> {
    out: W,
    begun: bool,
}

impl<W: Write> CollectionWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, begun: false }
    }

    /// Writes the header with an empty array left open.
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.begun = true;
        let header = serde_json::to_string(header)?;
        // The header is an object with members: the array goes in before its last bracket.
        let open = header.strip_suffix('}').unwrap_or(&header);
        write!(self.out, "{open},\"documents\":[")
    }
}

impl<W: Write> Writer for CollectionWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        let document = bioc::Document::annotated(document, entities, notes);
        if self.begun {
            self.out.write_all(b",")?;
        } else {
            self.begin(&document.header)?;
        }
        self.out.write_all(b"\n")?;
        serde_json::to_writer(&mut self.out, &document)?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begin(&Header { source: "chemtag".into(), ..Header::default() })?;
        }
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()
    }
}
