//! In: a table with a head, separated by commas or tabs (RFC 4180, <https://www.rfc-editor.org/rfc/rfc4180>), its text in a column that
//! the caller names. Out: one document for each row; written, a row for each mention.

use std::io::{self, Write};

use csv::{ErrorKind, StringRecord};

use super::budget::Budget;
use super::document::Document;
use super::lines::unreadable;
use super::record::{OffsetUnit, Place, four_decimals};
use super::{ReadOptions, Writer, record_id};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;

/// The documents of a table.
pub(super) struct Rows {
    csv: csv::Reader<Budget>,
    file: String,
    options: ReadOptions,
    /// Columns of text and name, once the head was read.
    columns: Option<(usize, Option<usize>)>,
    ended: bool,
}

impl Rows {
    pub fn new(input: Budget, delimiter: u8, options: ReadOptions) -> Self {
        let file = input.file.clone();
        let csv = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(input);
        Self { csv, file, options, columns: None, ended: false }
    }

    fn read_head(&mut self) -> Result<(usize, Option<usize>)> {
        let (file, field) = (self.file.clone(), self.options.field.clone());
        let head = self.csv.headers().map_err(|error| problem(&file, 1, error))?;
        let find = |name: &str| head.iter().position(|column| column.trim_start_matches('\u{feff}') == name);
        let text = find(&field).ok_or_else(|| {
            let known: Vec<&str> = head.iter().collect();
            let problem = format!("has no column {field:?} among {known:?}: name the column of the text with --field");
            Error::Input { file, problem }
        })?;
        Ok((text, find(&self.options.id_field)))
    }

    /// The line that a place is in. The crate takes a record to begin at the line feed that is left of the end of the one before it.
    fn line(&self, position: Option<&csv::Position>) -> usize {
        position.map_or(1, |position| position.line() as usize) + usize::from(self.csv.get_ref().carriage_returns)
    }

    fn read(&mut self) -> Result<Option<Document>> {
        let (text, id) = match self.columns {
            Some(columns) => columns,
            None => {
                let columns = self.read_head()?;
                *self.columns.insert(columns)
            }
        };
        let mut row = StringRecord::new();
        self.csv.get_mut().start_record();
        if !self.csv.read_record(&mut row).map_err(|error| problem(&self.file, self.line(error.position()), error))? {
            return Ok(None);
        }
        let line = self.line(row.position());
        // All rows are as long as the head.
        let id = match id.and_then(|column| row.get(column)).filter(|name| !name.is_empty()) {
            Some(name) => name.to_string(),
            None => record_id(&self.file, line),
        };
        Ok(Some(Document::from_text(id, row.get(text).unwrap_or_default().to_string())))
    }
}

impl Iterator for Rows {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        // Without its head nothing of a table can be read.
        self.ended = self.columns.is_none() || !matches!(read, Some(Ok(_) | Err(Error::Malformed { .. })));
        read
    }
}

/// The crate's error with the place that it knows.
fn problem(file: &str, line: usize, error: csv::Error) -> Error {
    let problem = match error.into_kind() {
        ErrorKind::Io(error) => return unreadable(file, error),
        ErrorKind::Utf8 { err, .. } => {
            format!(
                "field {} is not UTF-8: convert the file first, or give --lossy to replace such bytes by U+FFFD",
                err.field() + 1
            )
        }
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!(
                "{len} fields, but the head has {expected_len}: is the separator right, is a field without its quotes?"
            )
        }
        other => format!("not a row: {other:?}"),
    };
    Error::Malformed { file: file.into(), line, problem }
}

/// Writes a row for each mention.
pub(super) struct RowWriter<W: Write> {
    csv: csv::Writer<W>,
    unit: OffsetUnit,
    /// Whether the columns of what reading tells are written; known with the first document.
    notes: Option<bool>,
}

const COLUMNS: [&str; 6] = ["id", "start", "end", "text", "class", "score"];

impl<W: Write> RowWriter<W> {
    pub fn new(out: W, delimiter: u8, unit: OffsetUnit) -> Self {
        Self { csv: csv::WriterBuilder::new().delimiter(delimiter).from_writer(out), unit, notes: None }
    }

    /// Writes the head, if it is not there yet, and says whether rows have notes.
    fn head(&mut self, notes: bool) -> io::Result<bool> {
        if let Some(notes) = self.notes {
            return Ok(notes);
        }
        let more = Note::COLUMNS.iter().filter(|_| notes);
        self.csv.write_record(COLUMNS.iter().chain(more))?;
        Ok(*self.notes.insert(notes))
    }
}

impl<W: Write> Writer for RowWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        if entities.is_empty() {
            return Ok(());
        }
        let with_notes = self.head(!notes.is_empty())?;
        let place = Place::new(&document.text, self.unit);
        for (index, entity) in entities.iter().enumerate() {
            let mut row = vec![
                document.id.clone(),
                place.of(entity.start).to_string(),
                place.of(entity.end).to_string(),
                entity.text.to_string(),
                entity.class.as_deref().unwrap_or_default().to_string(),
                four_decimals(entity.score).to_string(),
            ];
            if with_notes {
                row.extend(notes.get(index).cloned().unwrap_or_default().columns());
            }
            self.csv.write_record(row)?;
        }
        self.csv.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.head(false)?;
        self.csv.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn rows(input: &'static [u8], delimiter: u8, field: &str) -> Vec<Result<(String, String), String>> {
        let options = ReadOptions { field: field.into(), ..ReadOptions::default() };
        let found = Rows::new(Budget::new(Box::new(BufReader::new(input)), "a.csv", 1000), delimiter, options);
        found.map(|row| row.map(|d| (d.id, d.text)).map_err(|error| error.to_string())).collect()
    }

    /// The examples of RFC 4180, section 2: quotes, commas and line ends inside fields.
    #[test]
    fn quoted_fields_hold_anything() {
        let input = "\u{feff}text,id\r\n\"α, \"\"b\"\"\r\nc\",1\r\nTHF,\r\n\"\",3\r\n";
        let ok = |id: &str, text: &str| Ok((id.to_string(), text.to_string()));
        assert_eq!(rows(input.as_bytes(), b',', "text"), [ok("1", "α, \"b\"\r\nc"), ok("a.csv:4", "THF"), ok("3", "")]);
        assert_eq!(rows(b"n\tabstract\n1\tin, THF\n", b'\t', "abstract"), [ok("a.csv:2", "in, THF")]);
        assert_eq!(rows(b"", b',', "text").len(), 1);
    }

    #[test]
    fn a_bad_row_is_named_and_the_next_one_read() {
        let found = rows(b"id,text\n1,a\n2,b,c\n3,\xff\n4,d\n", b',', "text");
        let message = |index: usize| found[index].as_ref().unwrap_err().as_str();
        assert_eq!(found.len(), 4);
        assert!(message(1).starts_with("a.csv, line 3: 3 fields, but the head has 2: "), "{}", message(1));
        assert!(message(2).starts_with("a.csv, line 4: field 2 is not UTF-8: "), "{}", message(2));
        assert_eq!(found[3], Ok(("4".into(), "d".into())));
    }

    #[test]
    fn a_column_that_is_missing_ends_the_file() {
        let found = rows(b"id,body\n1,a\n2,b\n", b',', "text");
        let expected =
            "a.csv has no column \"text\" among [\"id\", \"body\"]: name the column of the text with --field";
        assert_eq!(found, [Err(expected.to_string())]);
    }
}
