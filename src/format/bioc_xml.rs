//! In: BioC in XML (BioC.dtd, <https://bioc.sourceforge.net/>). Out: one document for each `<document>`; written, the same with the
//! mentions added.

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::Value;

use super::Writer;
use super::bioc::{self, Annotation, Header, Infons, Location, Passage, Relation};
use super::document::Document;
use super::xml::{Node, Nodes, escaped};
use crate::entity::Entity;
use crate::error::Result;
use crate::reading::Note;

/// The documents of a collection.
pub(super) struct Collection {
    nodes: Nodes,
    header: Arc<Header>,
    ended: bool,
}

impl Collection {
    pub fn new(nodes: Nodes) -> Self {
        Self { nodes, header: Arc::default(), ended: false }
    }

    /// Reads to the end of the next document.
    fn read(&mut self) -> Result<Option<Document>> {
        loop {
            self.nodes.start_record();
            let header = Arc::make_mut(&mut self.header);
            match self.nodes.next()? {
                Node::Start(name, attributes) => match name.as_str() {
                    "collection" => {}
                    "source" => header.source = self.nodes.text_of(&name)?,
                    "date" => header.date = self.nodes.text_of(&name)?,
                    "key" => header.key = self.nodes.text_of(&name)?,
                    "infon" => infon(&mut self.nodes, &attributes, &mut header.infons)?,
                    "document" => {
                        let mut document = document(&mut self.nodes)?;
                        document.header = self.header.clone();
                        return Ok(Some(document.into_text()));
                    }
                    _ => {
                        let hint = if name == "article" || name.starts_with("Pubmed") {
                            ": read it with --from jats"
                        } else {
                            ""
                        };
                        return Err(self
                            .nodes
                            .malformed(format!("expected a <collection> of BioC, found <{name}>{hint}")));
                    }
                },
                Node::Eof => return Ok(None),
                Node::End(_) | Node::Text(_) => {}
            }
        }
    }
}

impl Iterator for Collection {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        // Behind what is not XML, or not BioC, no place is known where a document begins.
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}

/// Calls `take` for each element inside the one that has just begun.
fn children(
    nodes: &mut Nodes,
    mut take: impl FnMut(&mut Nodes, &str, &[(String, String)]) -> Result<()>,
) -> Result<()> {
    loop {
        match nodes.next()? {
            Node::Start(name, attributes) => take(nodes, &name, &attributes)?,
            Node::End(_) | Node::Eof => return Ok(()),
            Node::Text(_) => {}
        }
    }
}

fn document(nodes: &mut Nodes) -> Result<bioc::Document> {
    let mut document = bioc::Document::default();
    children(nodes, |nodes, name, attributes| {
        match name {
            "id" => document.id = nodes.text_of(name)?,
            "infon" => infon(nodes, attributes, &mut document.infons)?,
            "passage" => document.passages.push(passage(nodes, "passage")?),
            "annotation" => document.annotations.push(annotation(nodes, attributes)?),
            "relation" => document.relations.push(relation(nodes, attributes)?),
            _ => return Err(unknown(nodes, name, "document")),
        }
        Ok(())
    })?;
    Ok(document)
}

/// A passage or a sentence.
fn passage(nodes: &mut Nodes, element: &str) -> Result<Passage> {
    let mut passage = Passage::default();
    children(nodes, |nodes, name, attributes| {
        match name {
            "infon" => infon(nodes, attributes, &mut passage.infons)?,
            "offset" => {
                let offset = nodes.text_of(name)?;
                passage.offset = number(nodes, name, &offset)?;
            }
            "text" => passage.text = Some(nodes.text_of(name)?),
            // Not in one another: a file cannot make this call itself without end.
            "sentence" if element == "passage" => passage.sentences.push(self::passage(nodes, name)?),
            "annotation" => passage.annotations.push(annotation(nodes, attributes)?),
            "relation" => passage.relations.push(relation(nodes, attributes)?),
            _ => return Err(unknown(nodes, name, element)),
        }
        Ok(())
    })?;
    Ok(passage)
}

fn annotation(nodes: &mut Nodes, attributes: &[(String, String)]) -> Result<Annotation> {
    let mut annotation = Annotation { id: attribute(attributes, "id"), ..Annotation::default() };
    children(nodes, |nodes, name, attributes| {
        match name {
            "infon" => infon(nodes, attributes, &mut annotation.infons)?,
            "text" => annotation.text = nodes.text_of(name)?,
            "location" => {
                let offset = number(nodes, "offset", &attribute(attributes, "offset"))?;
                let length = number(nodes, "length", &attribute(attributes, "length"))?;
                annotation.locations.push(Location { offset, length });
                nodes.skip()?;
            }
            _ => return Err(unknown(nodes, name, "annotation")),
        }
        Ok(())
    })?;
    Ok(annotation)
}

fn relation(nodes: &mut Nodes, attributes: &[(String, String)]) -> Result<Relation> {
    let mut relation = Relation { id: attribute(attributes, "id"), ..Relation::default() };
    children(nodes, |nodes, name, attributes| {
        match name {
            "infon" => infon(nodes, attributes, &mut relation.infons)?,
            "node" => {
                relation
                    .nodes
                    .push(bioc::Node { refid: attribute(attributes, "refid"), role: attribute(attributes, "role") });
                nodes.skip()?;
            }
            _ => return Err(unknown(nodes, name, "relation")),
        }
        Ok(())
    })?;
    Ok(relation)
}

fn infon(nodes: &mut Nodes, attributes: &[(String, String)], infons: &mut Infons) -> Result<()> {
    let value = nodes.text_of("infon")?;
    infons.insert(attribute(attributes, "key"), value.into());
    Ok(())
}

fn attribute(attributes: &[(String, String)], name: &str) -> String {
    attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn number(nodes: &Nodes, what: &str, text: &str) -> Result<usize> {
    let found = text.trim().parse();
    found.map_err(|_| nodes.malformed(format!("{what}: expected a number of characters, found {text:?}")))
}

fn unknown(nodes: &Nodes, name: &str, parent: &str) -> crate::error::Error {
    nodes.malformed(format!("BioC knows no <{name}> in a <{parent}>"))
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

    fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.begun = true;
        self.out.write_all(
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE collection SYSTEM \"BioC.dtd\">\n<collection>",
        )?;
        for (name, text) in [("source", &header.source), ("date", &header.date), ("key", &header.key)] {
            write!(self.out, "<{name}>{}</{name}>", escaped(text))?;
        }
        self.infons(&header.infons)
    }

    fn infons(&mut self, infons: &Infons) -> io::Result<()> {
        for (key, value) in infons {
            let value = match value {
                Value::String(text) => escaped(text),
                other => escaped(&other.to_string()),
            };
            write!(self.out, "<infon key=\"{}\">{value}</infon>", escaped(key))?;
        }
        Ok(())
    }

    fn passage(&mut self, element: &str, passage: &Passage) -> io::Result<()> {
        write!(self.out, "\n<{element}>")?;
        self.infons(&passage.infons)?;
        write!(self.out, "<offset>{}</offset>", passage.offset)?;
        if let Some(text) = &passage.text {
            write!(self.out, "<text>{}</text>", escaped(text))?;
        }
        passage.sentences.iter().try_for_each(|sentence| self.passage("sentence", sentence))?;
        self.annotations(&passage.annotations, &passage.relations)?;
        write!(self.out, "</{element}>")
    }

    fn annotations(&mut self, annotations: &[Annotation], relations: &[Relation]) -> io::Result<()> {
        for annotation in annotations {
            write!(self.out, "\n<annotation id=\"{}\">", escaped(&annotation.id))?;
            self.infons(&annotation.infons)?;
            for Location { offset, length } in &annotation.locations {
                write!(self.out, "<location offset=\"{offset}\" length=\"{length}\"/>")?;
            }
            write!(self.out, "<text>{}</text></annotation>", escaped(&annotation.text))?;
        }
        for relation in relations {
            write!(self.out, "\n<relation id=\"{}\">", escaped(&relation.id))?;
            self.infons(&relation.infons)?;
            for node in &relation.nodes {
                write!(self.out, "<node refid=\"{}\" role=\"{}\"/>", escaped(&node.refid), escaped(&node.role))?;
            }
            self.out.write_all(b"</relation>")?;
        }
        Ok(())
    }
}

impl<W: Write> Writer for CollectionWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        let document = bioc::Document::annotated(document, entities, notes);
        if !self.begun {
            self.begin(&document.header)?;
        }
        write!(self.out, "\n<document><id>{}</id>", escaped(&document.id))?;
        self.infons(&document.infons)?;
        document.passages.iter().try_for_each(|passage| self.passage("passage", passage))?;
        self.annotations(&document.annotations, &document.relations)?;
        self.out.write_all(b"</document>")?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begin(&Header { source: "chemtag".into(), ..Header::default() })?;
        }
        self.out.write_all(b"\n</collection>\n")?;
        self.out.flush()
    }
}
