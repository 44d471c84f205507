//! brat's standoff annotation (<https://brat.nlplab.org/standoff.html>): `NAME.txt` with the text and `NAME.ann` with a line
//! `T1<TAB>TYPE START END<TAB>TEXT` for each mention; offsets count characters. In: the text, and the annotations that are there already.
//! Out: these as they were, and the new ones behind them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::document::{Document, Source};
use super::record::{OffsetUnit, Place, four_decimals};
use super::{Documents, ReadOptions, Writer, lines_of};
use crate::entity::Entity;
use crate::error::Result;
use crate::reading::Note;
use crate::replacement::Replacement;

/// Type of a mention whose model has no classes.
const NO_CLASS: &str = "Chemical";

/// What an annotation's name begins with: text-bound, relation, event, attribute, modification, normalisation, equivalence, note.
const KINDS: [char; 8] = ['T', 'R', 'E', 'A', 'M', 'N', '*', '#'];

/// The document whose annotations stand in `NAME.ann`; its text is read from `NAME.txt` beside it, as `text` opens it.
pub(super) fn open(
    annotations: &Path,
    name: &str,
    options: &ReadOptions,
    text: impl FnOnce(&Path, &str) -> Result<Documents>,
) -> Result<Documents> {
    let id = name.strip_suffix(".ann").unwrap_or(name);
    let document = text(&annotations.with_extension("txt"), id)?.next().transpose()?.unwrap_or_default();
    let document = read_annotations(annotations, document, options.most_bytes);
    Ok(Box::new(std::iter::once(document)))
}

fn read_annotations(path: &Path, mut document: Document, most_bytes: usize) -> Result<Document> {
    let mut lines = lines_of(path)?;
    let characters = document.text.chars().count();
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(line) = lines.next() {
        let line = line?.to_string();
        if line.is_empty() {
            continue;
        }
        bytes += line.len();
        if bytes > most_bytes {
            return Err(
                lines.malformed(format!("the annotations are longer than {most_bytes} bytes, the most that is read"))
            );
        }
        let mut fields = line.split('\t');
        let (id, what) = (fields.next().unwrap_or_default(), fields.next());
        let Some(what) = what.filter(|_| id.starts_with(KINDS)) else {
            return Err(lines.malformed("expected an annotation of brat: T1, a tab, TYPE START END, a tab and the text, or a relation, event or note"));
        };
        if id.starts_with('T') {
            let mut places = what.split([' ', ';']).skip(1).map(str::parse::<usize>);
            let within = places.all(|place| place.is_ok_and(|place| place <= characters));
            if !within {
                return Err(
                    lines.malformed(format!("\"{what}\" is no TYPE START END in a text of {characters} characters"))
                );
            }
        }
        found.push(line);
    }
    document.source = Source::Brat(found);
    Ok(document)
}

/// The highest number among annotations of a kind.
fn highest(lines: &[String], kind: char) -> usize {
    let numbers = lines.iter().filter_map(|line| line.split('\t').next()?.strip_prefix(kind)?.parse().ok());
    numbers.max().unwrap_or(0)
}

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
    let before = match &document.source {
        Source::Brat(lines) => lines.as_slice(),
        _ => &[],
    };
    for line in before {
        writeln!(out, "{line}")?;
    }
    let (last, last_note) = (highest(before, 'T'), highest(before, '#'));
    for (index, entity) in entities.iter().enumerate() {
        let (number, note) = (last + index + 1, last_note + index + 1);
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
            "#{note}\tAnnotatorNotes T{number}\tscore {}{}",
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
    fn annotations_come_back_and_new_ones_follow_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.txt"), "\u{feff}αα in THF\r\nand LiCl").unwrap();
        let before =
            "T7\tDrug 1 3;7 10\tαα THF\n#2\tAnnotatorNotes T7\tby hand\nR1\tsame Arg1:T7 Arg2:T7\nA1\tNegation T7\n";
        std::fs::write(path("a.ann"), before.replace("R1", "\r\nR1")).unwrap();
        let read = |name: &str| {
            super::super::open(&path(name), None, &ReadOptions::default()).and_then(|mut found| found.next().unwrap())
        };
        let document = read("a.ann").unwrap();
        assert_eq!((document.id.as_str(), &document.text[3..]), (path("a").to_str().unwrap(), "αα in THF\r\nand LiCl"));
        let mut out = Vec::new();
        AnnotationWriter::new(&mut out).write(&document, &[mention(&document, "LiCl", None)], &[]).unwrap();
        let added = "T8\tChemical 16 20\tLiCl\n#3\tAnnotatorNotes T8\tscore 0.9877\n";
        assert_eq!(String::from_utf8(out).unwrap(), before.to_string() + added);

        for (line, part) in [
            ("T1\tDrug 1 99\tx", "in a text of 20 characters"),
            ("T1 Drug", "expected an annotation"),
            ("x\ty", "expected"),
        ] {
            std::fs::write(path("a.ann"), format!("{before}{line}\n")).unwrap();
            let error = read("a.ann").unwrap_err().to_string();
            assert!(error.contains("a.ann, line 5: ") && error.contains(part), "{error}");
        }
        std::fs::write(path("b.ann"), "").unwrap();
        assert!(read("b.ann").unwrap_err().to_string().contains("b.txt"));
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
