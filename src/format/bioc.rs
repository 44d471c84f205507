//! BioC's documents, the same in XML and JSON: passages with offsets, sentences, annotations, relations, each with properties ("infons").
//! In: a document of BioC -> the texts to tag. Out: a document with the mentions found added to those that it had.
//! From: Comeau et al. 2013, "BioC: a minimalist approach to interoperability for biomedical text processing"; its DTD at
//! <https://bioc.sourceforge.net/>. Offsets count characters (code points), as PubMed's and PubTator's files do.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::document::{Document as Text, Source};
use super::record::four_decimals;
use crate::entity::{Entity, Offsets};
use crate::reading::Note;

/// Properties: text in XML, any value in JSON.
pub type Infons = Map<String, Value>;

/// Type of a mention whose model has no classes, as PubTator names it.
pub(super) const NO_CLASS: &str = "Chemical";

/// What a collection says of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Where its texts are from.
    pub source: String,
    /// When it was made.
    pub date: String,
    /// Name of the file that explains it.
    pub key: String,
    /// Properties.
    pub infons: Infons,
    /// Members that BioC does not know, in JSON.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One document.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// Its name, such as a PubMed number.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// Properties.
    pub infons: Infons,
    /// Its parts.
    pub passages: Vec<Passage>,
    /// Annotations of the whole.
    pub annotations: Vec<Annotation>,
    /// Relations between annotations.
    pub relations: Vec<Relation>,
    /// Members that BioC does not know, in JSON.
    #[serde(flatten)]
    pub other: Map<String, Value>,
    /// The collection's header.
    #[serde(skip)]
    pub header: Arc<Header>,
}

/// A part of a document: a text, or sentences.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Passage {
    /// Characters of the document before it.
    pub offset: usize,
    /// Properties; `type` says what it is.
    pub infons: Infons,
    /// Its text, if it is not given by sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its sentences; they have none of their own.
    pub sentences: Vec<Passage>,
    /// Mentions in it.
    pub annotations: Vec<Annotation>,
    /// Relations between annotations.
    pub relations: Vec<Relation>,
    /// Members that BioC does not know, in JSON.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A mention.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotation {
    /// Its name in the document.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// Properties; `type` says what is mentioned.
    pub infons: Infons,
    /// The text at its locations.
    pub text: String,
    /// Where it stands.
    pub locations: Vec<Location>,
    /// Members that BioC does not know, in JSON.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A stretch of a document, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Location {
    /// Characters of the document before it.
    pub offset: usize,
    /// Characters in it.
    pub length: usize,
}

/// A relation between annotations or relations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Relation {
    /// Its name in the document.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// Properties.
    pub infons: Infons,
    /// What it relates.
    pub nodes: Vec<Node>,
    /// Members that BioC does not know, in JSON.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One end of a relation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name of an annotation or relation.
    #[serde(deserialize_with = "name")]
    pub refid: String,
    /// Its part in the relation.
    pub role: String,
}

/// A name, which some files write as a number.
fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(name) => Ok(name),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(serde::de::Error::custom("expected a name: a string or a number")),
    }
}

impl Passage {
    /// The passage itself if it has a text, else its sentences.
    fn texts(&self) -> impl Iterator<Item = &Passage> {
        let own = self.text.is_some();
        own.then_some(self).into_iter().chain(self.sentences.iter().filter(move |_| !own))
    }

    fn texts_mut(&mut self) -> impl Iterator<Item = &mut Passage> {
        if self.text.is_some() { std::slice::from_mut(self).iter_mut() } else { self.sentences.iter_mut() }
    }
}

impl Document {
    /// The document's texts as passages of one, each behind a line feed.
    pub(super) fn into_text(self) -> Text {
        let mut text = Text { id: self.id.clone(), assembled: true, ..Text::default() };
        for passage in &self.passages {
            let kind = passage.infons.get("type").and_then(Value::as_str).unwrap_or_default();
            for part in passage.texts() {
                text.push_passage(kind, part.text.as_deref().unwrap_or_default());
            }
        }
        text.source = Source::BioC(Box::new(self));
        text
    }

    /// The document that a text came from, or a new one with the text's passages, with the mentions found added.
    pub(super) fn annotated(text: &Text, entities: &[Entity], notes: &[Note]) -> Self {
        let mut document = match &text.source {
            Source::BioC(document) => (**document).clone(),
            _ => Self::of_passages(text),
        };
        let mut names = document.new_names();
        let mut next = 0;
        let parts = document.passages.iter_mut().flat_map(Passage::texts_mut);
        for (part, passage) in parts.zip(&text.passages) {
            // Mentions in the text between passages, which a tagger does not find, belong nowhere.
            while entities.get(next).is_some_and(|entity| entity.start < passage.range.start) {
                next += 1;
            }
            let within = text.text.get(passage.range.clone()).unwrap_or_default();
            let offsets = Offsets::new(within);
            while let Some(entity) = entities.get(next).filter(|entity| entity.end <= passage.range.end) {
                let [start, end] = [entity.start, entity.end].map(|byte| offsets.chars(byte - passage.range.start));
                let location = Location { offset: part.offset + start, length: end - start };
                part.annotations.push(annotation(names.next(), location, entity, notes.get(next)));
                next += 1;
            }
        }
        document
    }

    fn of_passages(text: &Text) -> Self {
        let offsets = Offsets::new(&text.text);
        let passages = text.passages.iter().map(|passage| {
            let kind = (!passage.kind.is_empty()).then(|| ("type".to_string(), passage.kind.clone().into()));
            Passage {
                offset: offsets.chars(passage.range.start),
                infons: kind.into_iter().collect(),
                text: Some(text.text.get(passage.range.clone()).unwrap_or_default().to_string()),
                ..Passage::default()
            }
        });
        let header = Header { source: "chemtag".into(), ..Header::default() };
        Self { id: text.id.clone(), passages: passages.collect(), header: Arc::new(header), ..Self::default() }
    }

    /// Names that no annotation of the document has.
    fn new_names(&self) -> Names {
        let parts = self.passages.iter().flat_map(|passage| std::iter::once(passage).chain(&passage.sentences));
        let all = parts.flat_map(|part| &part.annotations).chain(&self.annotations);
        let numbers = all.filter_map(|annotation| annotation.id.strip_prefix(Names::PREFIX)?.parse::<usize>().ok());
        Names { last: numbers.max().unwrap_or(0) }
    }
}

struct Names {
    last: usize,
}

impl Names {
    const PREFIX: &'static str = "chemtag";

    fn next(&mut self) -> String {
        self.last = self.last.saturating_add(1);
        format!("{}{}", Self::PREFIX, self.last)
    }
}

fn annotation(id: String, location: Location, entity: &Entity, note: Option<&Note>) -> Annotation {
    let mut infons = Infons::new();
    infons.insert("type".into(), entity.class.as_deref().unwrap_or(NO_CLASS).into());
    infons.insert("score".into(), four_decimals(entity.score).to_string().into());
    let columns = note.map(Note::columns).unwrap_or_default();
    for (key, value) in Note::COLUMNS.iter().zip(columns).filter(|(_, value)| !value.is_empty()) {
        infons.insert((*key).into(), value.into());
    }
    Annotation { id, infons, text: entity.text.to_string(), locations: vec![location], other: Map::new() }
}
