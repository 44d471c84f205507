//! In: PubTator (<https://www.ncbi.nlm.nih.gov/research/pubtator3/tutorial>): `ID|t|TITLE`, `ID|a|ABSTRACT`, lines of annotations and
//! relations, an empty line between documents. Out: one document each; written, the same with the mentions added.
//! Offsets count characters of title, one separator and abstract.

use std::io::{self, Write};

use super::Writer;
use super::bioc::NO_CLASS;
use super::document::{Document, Source};
use super::lines::Lines;
use super::record::{OffsetUnit, Place};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;

/// What stands for a name that no lexicon gave.
const NO_IDENTIFIER: &str = "-";

/// The documents of a file.
pub(super) struct Abstracts {
    lines: Lines,
    most_bytes: usize,
    ended: bool,
}

/// A line of a document.
enum Line<'l> {
    Text { id: &'l str, part: &'l str, text: &'l str },
    Annotation { id: &'l str },
}

impl<'l> Line<'l> {
    fn read(line: &'l str) -> Option<Self> {
        let mut parts = line.splitn(3, '|');
        if let (Some(id), Some(part @ ("t" | "a")), Some(text)) = (parts.next(), parts.next(), parts.next())
            && !id.contains('\t')
        {
            return Some(Self::Text { id, part, text });
        }
        line.split_once('\t').map(|(id, _)| Self::Annotation { id })
    }
}

impl Abstracts {
    pub fn new(lines: Lines, most_bytes: usize) -> Self {
        Self { lines, most_bytes, ended: false }
    }

    fn read(&mut self) -> Result<Option<Document>> {
        let mut document = Document { assembled: true, ..Document::default() };
        let (mut annotations, mut failed, mut bytes) = (Vec::new(), None, 0);
        loop {
            let problem = match self.lines.next() {
                None => {
                    self.ended = true;
                    break;
                }
                Some(Ok(line)) if line.trim().is_empty() => {
                    if failed.is_some() || !document.passages.is_empty() {
                        break;
                    }
                    continue;
                }
                Some(Ok(_)) if failed.is_some() => continue,
                Some(Ok(line)) => {
                    bytes += line.len();
                    if bytes > self.most_bytes {
                        Some(format!("a document is longer than {} bytes, the most that is read", self.most_bytes))
                    } else {
                        take(&mut document, &mut annotations, line).err()
                    }
                }
                Some(Err(error @ Error::Malformed { .. })) => {
                    failed.get_or_insert(error);
                    continue;
                }
                Some(Err(error)) => return Err(error),
            };
            if let Some(problem) = problem {
                failed = Some(self.lines.malformed(problem));
            }
        }
        document.source = Source::PubTator(annotations);
        match failed {
            Some(error) => Err(error),
            None => Ok((!document.passages.is_empty()).then_some(document)),
        }
    }
}

/// Adds a line to its document, or says what is wrong with it.
fn take(document: &mut Document, annotations: &mut Vec<String>, line: &str) -> Result<(), String> {
    let id = match Line::read(line) {
        Some(Line::Text { id, .. } | Line::Annotation { id }) => id,
        None => return Err("expected ID|t|TITLE, ID|a|ABSTRACT or fields separated by tabs".into()),
    };
    if !document.passages.is_empty() && id != document.id {
        return Err(format!("expected an empty line before document {id:?}, but {:?} goes on", document.id));
    }
    match (Line::read(line), document.passages.len()) {
        (Some(Line::Text { part: "t", text, .. }), 0) => {
            document.id = id.into();
            document.push_passage("title", text);
        }
        (Some(Line::Text { part: "a", text, .. }), 1) if annotations.is_empty() => {
            document.push_passage("abstract", text);
        }
        (Some(Line::Annotation { .. }), 1..) => annotations.push(line.into()),
        (_, 0) => return Err(format!("expected the title, {id}|t|..., before anything else of {id}")),
        _ => return Err(format!("document {id:?} has a second title or abstract, or one behind its annotations")),
    }
    Ok(())
}

impl Iterator for Abstracts {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended |= !matches!(read, Some(Ok(_) | Err(Error::Malformed { .. })));
        read
    }
}

/// Writes documents.
pub(super) struct PubTatorWriter<W> {
    out: W,
}

impl<W: Write> PubTatorWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

/// A text on one line: each line end or tab is a space, so that offsets stay.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

impl<W: Write> Writer for PubTatorWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        let id: String = one_line(&document.id).replace('|', "_");
        // A title, if the text begins with one and one separator; else an empty title, whose separator moves all by one.
        let title = document.passages.first().filter(|first| first.kind == "title" && first.range.start == 0);
        let split = title.and_then(|title| {
            let rest = document.text.get(title.range.end..)?;
            let rest = rest.strip_prefix('\n').or(rest.is_empty().then_some(""))?;
            Some((document.text.get(title.range.clone())?, rest))
        });
        let (title, text) = split.unwrap_or(("", &document.text));
        let moved = usize::from(split.is_none());
        write!(self.out, "{id}|t|{}\n{id}|a|{}\n", one_line(title), one_line(text))?;
        if let Source::PubTator(lines) = &document.source {
            lines.iter().try_for_each(|line| writeln!(self.out, "{line}"))?;
        }
        let place = Place::new(&document.text, OffsetUnit::Chars);
        for (index, entity) in entities.iter().enumerate() {
            let [start, end] = [entity.start, entity.end].map(|byte| place.of(byte) + moved);
            let class = one_line(entity.class.as_deref().unwrap_or(NO_CLASS));
            let identifier = notes.get(index).and_then(|note| note.identifier.as_deref()).unwrap_or(NO_IDENTIFIER);
            let text = one_line(&entity.text);
            writeln!(self.out, "{id}\t{start}\t{end}\t{text}\t{class}\t{}", one_line(identifier))?;
        }
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
