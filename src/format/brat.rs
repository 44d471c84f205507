//! Out: brat's standoff annotation (<https://brat.nlplab.org/standoff.html>): `NAME.txt` with the text and `NAME.ann` with a line
//! `T1<TAB>TYPE START END<TAB>TEXT` for each mention; offsets count characters. Its texts are read as plain text.

use std::io::{self, Write};
use std::path::PathBuf;

use super::Writer;
use super::document::Document;
use super::output::Replacement;
use super::record::{OffsetUnit, Place, four_decimals};
use crate::entity::Entity;
use crate::reading::Note;

/// Type of a mention whose model has no classes.
const NO_CLASS: &str = "Chemical";

/// Writes the annotation of one document to a stream.
pub(super) struct AnnotationWriter<W> {
    out: W,
    written: bool,
}

impl<W: Write> AnnotationWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, written: false }
    }
}

impl<W: Write> Writer for AnnotationWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        if std::mem::replace(&mut self.written, true) {
            let message =
                "brat keeps the annotation of each document in a file of its own: name a folder with --output";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        write_annotation(&mut self.out, document, entities, notes)?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes each document's two files to a folder.
pub(super) struct Folder {
    folder: PathBuf,
}

impl Folder {
    /// The folder is made if it is not there.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }
}

impl Writer for Folder {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        let name = file_name(&document.id);
        let annotation = self.folder.join(format!("{name}.ann"));
        if annotation.exists() {
            let message = format!("{} is there already: what was annotated is not written over", annotation.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let mut text = Replacement::new(&self.folder.join(format!("{name}.txt")))?;
        text.write_all(document.text.as_bytes())?;
        text.finish()?;
        let mut out = Replacement::new(&annotation)?;
        write_annotation(&mut out, document, entities, notes)?;
        out.finish()
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A document's name as that of a file in the folder, never of one elsewhere.
fn file_name(id: &str) -> String {
    let stem = id.strip_suffix(".txt").unwrap_or(id);
    let name: String = stem.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() || name == "-" { "document".into() } else { name.into() }
}

fn write_annotation(out: &mut impl Write, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
    let place = Place::new(&document.text, OffsetUnit::Chars);
    for (index, entity) in entities.iter().enumerate() {
        let number = index + 1;
        let class = entity.class.as_deref().unwrap_or(NO_CLASS);
        // brat's types are letters, digits, hyphens and underscores.
        let class: String =
            class.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let parts = fragments(&document.text, entity);
        let places: Vec<String> =
            parts.iter().map(|&(start, end)| format!("{} {}", place.of(start), place.of(end))).collect();
        let texts: Vec<&str> = parts.iter().filter_map(|&(start, end)| document.text.get(start..end)).collect();
        writeln!(out, "T{number}\t{class} {}\t{}", places.join(";"), texts.join(" "))?;
        writeln!(
            out,
            "#{number}\tAnnotatorNotes T{number}\tscore {}{}",
            four_decimals(entity.score),
            comment(notes.get(index))
        )?;
    }
    Ok(())
}

fn comment(note: Option<&Note>) -> String {
    let columns = note.map(Note::columns).unwrap_or_default();
    let known = Note::COLUMNS.iter().zip(columns).filter(|(_, value)| !value.is_empty());
    known.map(|(key, value)| format!("; {key} {}", value.replace(char::is_control, " "))).collect()
}

/// Bytes of a mention's parts on each line: no annotation of brat holds a line end.
fn fragments(text: &str, entity: &Entity) -> Vec<(usize, usize)> {
    let mention = text.get(entity.start..entity.end).unwrap_or_default();
    let (mut parts, mut start) = (Vec::new(), entity.start);
    for line in mention.split_inclusive(['\n', '\r']) {
        let shown = line.trim_end_matches(['\n', '\r']);
        if !shown.is_empty() {
            parts.push((start, start + shown.len()));
        }
        start += line.len();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mention(document: &Document, text: &str, class: Option<&str>) -> Entity<'static> {
        let start = document.text.find(text).unwrap();
        let class = class.map(Into::into);
        Entity { start, end: start + text.len(), text: text.to_string().into(), class, score: 0.98766 }
    }

    /// The example of brat's documentation for a discontinuous annotation, with a line end between its parts.
    #[test]
    fn a_mention_on_two_lines_has_two_fragments() {
        let document = Document::from_text("a", "🧪 North\r\nAmerica, THF".into());
        let entities = [mention(&document, "North\r\nAmerica", Some("A/B c")), mention(&document, "THF", None)];
        let mut out = Vec::new();
        AnnotationWriter::new(&mut out).write(&document, &entities, &[]).unwrap();
        let expected = "T1\tA_B_c 2 7;9 16\tNorth America\n#1\tAnnotatorNotes T1\tscore 0.9877\n\
                        T2\tChemical 18 21\tTHF\n#2\tAnnotatorNotes T2\tscore 0.9877\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn names_stay_in_the_folder_and_nothing_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Folder::new(folder.path().join("out")).unwrap();
        for (id, name) in [("../../etc/a.txt", "_.._etc_a"), ("-", "document"), ("..", "document"), ("α β", "α_β")]
        {
            assert_eq!(file_name(id), name);
        }
        let document = Document::from_text("../a.txt", "THF\r\n".into());
        writer.write(&document, &[], &[]).unwrap();
        let text = folder.path().join("out/_a.txt");
        assert_eq!(std::fs::read_to_string(&text).unwrap(), "THF\r\n");
        let error = writer.write(&document, &[], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 2);
    }
}
