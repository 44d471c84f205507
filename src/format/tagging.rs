//! Documents as their formats give them -> the mentions in each: passages are tagged one after another, as neighbours but never joined.

use std::borrow::Cow;
use std::ops::Range;

use super::Counted;
use super::document::Document;
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::portion::{Content, Portion, document_portions};
use crate::tagger::Tagger;

impl Tagger {
    /// The chemicals in each of several documents; offsets count bytes of [`Document::text`]. Documents share batches.
    /// A mention that would reach from one passage into the next is cut at the border.
    ///
    /// # Errors
    /// [`Error::Option`] if a passage or word is no part of its document or not behind the one before it; else as [`Tagger::tag`].
    pub fn tag_documents<'t>(&self, documents: &[&'t Document]) -> Result<Vec<Vec<Entity<'t>>>> {
        documents.iter().try_for_each(|document| check(document))?;
        let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        let mut found = self.run(&texts, documents.iter().flat_map(|document| portions(document)))?;
        for (document, entities) in documents.iter().zip(&mut found) {
            if entities.iter().any(|entity| document.passage_of(entity).is_none()) {
                *entities = entities.drain(..).flat_map(|entity| parts(document, entity)).collect();
            }
        }
        Ok(found)
    }

    /// The chemicals in a [long](Document::is_long) document, whose text is read from memory as a stream: the same as by [`Tagger::tag_documents`], but what
    /// waits for its batch stays small. `on_bytes` is called with the bytes of each portion that was taken.
    ///
    /// # Errors
    /// [`Error::Option`] if the document has words of its own or several passages; else as [`Tagger::tag`].
    pub fn tag_long_document(&self, document: &Document, on_bytes: impl FnMut(usize)) -> Result<Vec<Entity<'static>>> {
        let body = match document.passages.as_slice() {
            [passage] if document.words.is_none() => {
                document.text.get(passage.range.clone()).map(|body| (passage, body))
            }
            _ => None,
        };
        let Some((passage, body)) = body else {
            return Err(Error::Option(format!(
                "{} has words of its own or other passages than one, which a stream does not show: use tag_documents",
                document.id
            )));
        };
        let start = passage.range.start;
        let placed = |entity: Result<Entity<'static>>| {
            entity.map(|entity| Entity { start: start + entity.start, end: start + entity.end, ..entity })
        };
        self.tag_reader(Counted::new(body.as_bytes(), on_bytes)).map(placed).collect()
    }
}

/// The parts of a mention in each of the passages that it reaches into.
fn parts<'t>(document: &'t Document, entity: Entity<'t>) -> impl Iterator<Item = Entity<'t>> {
    document.passages.iter().filter_map(move |passage| {
        let (start, end) = (entity.start.max(passage.range.start), entity.end.min(passage.range.end));
        let text = document.text.get(start..end).filter(|text| !text.is_empty())?;
        Some(Entity { start, end, text: Cow::Borrowed(text), ..entity.clone() })
    })
}

fn check(document: &Document) -> Result<()> {
    let in_order = |ranges: &mut dyn Iterator<Item = &Range<usize>>, what: &str| {
        let mut end = 0;
        for range in ranges {
            if range.start < end || document.text.get(range.clone()).is_none() {
                let length = document.text.len();
                return Err(Error::Option(format!(
                    "{}: {range:?} is no {what} of a text of {length} bytes",
                    document.id
                )));
            }
            end = range.end;
        }
        Ok(())
    };
    in_order(&mut document.passages.iter().map(|passage| &passage.range), "passage")?;
    in_order(&mut document.words.iter().flatten(), "word")
}

fn portions(document: &Document) -> Box<dyn Iterator<Item = Portion<'_>> + Send + '_> {
    let text = document.text.as_str();
    let end = Portion { text: "", offset: text.len(), content: Content::All, ends_document: true };
    let passages = document.passages.iter();
    if document.words.is_some() {
        let sentences = passages.map(move |passage| {
            let content = Content::Words(document.words_of(passage));
            Portion { text, offset: 0, content, ends_document: false }
        });
        return Box::new(sentences.chain([end]));
    }
    let parts = passages.flat_map(move |passage| {
        document_portions(text.get(passage.range.clone()).unwrap_or_default()).map(|portion| Portion {
            offset: portion.offset + passage.range.start,
            ends_document: false,
            ..portion
        })
    });
    Box::new(parts.chain([end]))
}
