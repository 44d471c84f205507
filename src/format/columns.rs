//! In: record batches of Arrow, as Parquet and Arrow files hold them: a document a row, its text in one column.
//! Out: documents; and the other way round, mentions as record batches with the columns of CSV.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, downcast_integer_array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::document::Document;
use super::record::{OffsetUnit, Place, four_decimals};
use super::{ReadOptions, record_id};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;

/// Mentions that are written at once.
pub(super) const BATCH_ROWS: usize = 8192;

/// Batches of a file, or what is wrong with it.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Places of the columns that are read among those of a schema: that of the text and, if there is one, that of the name.
pub(super) fn wanted(schema: &Schema, file: &str, options: &ReadOptions) -> Result<Vec<usize>> {
    let Some((text, field)) = schema.column_with_name(&options.field) else {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(Error::Input {
            file: file.into(),
            problem: format!(
                "has no column {:?} among {names:?}: name the column of the text with --field",
                options.field
            ),
        });
    };
    if !is_text(field.data_type()) {
        return Err(Error::Input {
            file: file.into(),
            problem: format!(
                "has numbers or lists ({}) in the column {:?}, not text: name the column of the text with --field",
                field.data_type(),
                options.field
            ),
        });
    }
    let id = schema
        .column_with_name(&options.id_field)
        .filter(|(_, id)| is_text(id.data_type()) || id.data_type().is_integer());
    Ok([Some(text), id.map(|(place, _)| place)].into_iter().flatten().collect())
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_text(values),
        other => other.is_string() || matches!(other, DataType::Binary | DataType::LargeBinary | DataType::BinaryView),
    }
}

/// The documents of a file.
pub(super) struct Rows {
    batches: Batches,
    batch: Option<RecordBatch>,
    /// The next row of the batch, and rows before it in the file.
    row: usize,
    rows: usize,
    file: String,
    options: ReadOptions,
}

impl Rows {
    pub fn new(batches: Batches, file: &str, options: &ReadOptions) -> Self {
        Self { batches, batch: None, row: 0, rows: 0, file: file.into(), options: options.clone() }
    }

    fn next_batch(&mut self) -> Option<Result<RecordBatch>> {
        // The readers promise errors, but arithmetic on a damaged file's numbers can make them panic.
        let next = catch_unwind(AssertUnwindSafe(|| self.batches.next()));
        let problem = match next {
            Ok(None) => return None,
            Ok(Some(Ok(batch))) => return Some(Ok(batch)),
            Ok(Some(Err(error))) => error.to_string(),
            Err(_) => "it contradicts itself".into(),
        };
        self.batches = Box::new(std::iter::empty());
        Some(Err(unreadable(&self.file, &problem)))
    }

    fn read(&self, batch: &RecordBatch, row: usize) -> Result<Document> {
        let number = self.rows + 1;
        let malformed = |problem: String| Error::Malformed {
            file: self.file.clone(),
            line: number,
            problem: format!("row {number}: {problem}"),
        };
        let column = |name: &str| batch.column_by_name(name).filter(|column| column.is_valid(row));
        let text = column(&self.options.field).ok_or_else(|| malformed("its text is null".into()))?;
        let text = match text_at(text, row) {
            Some(Ok(text)) => text,
            Some(Err(_)) if self.options.lossy => String::from_utf8_lossy(bytes_at(text, row)).into_owned(),
            Some(Err(at)) => return Err(malformed(format!("its text is not UTF-8 at byte {at}"))),
            None => return Err(malformed("its text is null".into())),
        };
        if text.len() > self.options.most_bytes {
            let most = self.options.most_bytes;
            return Err(malformed(format!(
                "its text is longer than {most} bytes, the most that is read as one document"
            )));
        }
        let id = column(&self.options.id_field).and_then(|ids| name_at(ids, row));
        Ok(Document::from_text(id.unwrap_or_else(|| record_id(&self.file, number)), text))
    }
}

/// What is said of a file that cannot be read further.
pub(super) fn unreadable(file: &str, problem: &str) -> Error {
    // The crate's compressor is C code, which this project does not build.
    let hint = if problem.to_lowercase().contains("zstd") {
        " (Zstandard inside of Parquet and Arrow files is not read: write the file with Snappy, LZ4, gzip or Brotli)"
    } else {
        ""
    };
    Error::Input { file: file.into(), problem: format!("cannot be read further: {problem}{hint}") }
}

impl Iterator for Rows {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        loop {
            if let Some(batch) = &self.batch
                && self.row < batch.num_rows()
            {
                let document = self.read(batch, self.row);
                self.row += 1;
                self.rows += 1;
                return Some(document);
            }
            self.batch = match self.next_batch()? {
                Ok(batch) => Some(batch),
                Err(error) => return Some(Err(error)),
            };
            self.row = 0;
        }
    }
}

/// A text, or at which byte it is none; `None` if it is null in a dictionary.
fn text_at(column: &dyn Array, row: usize) -> Option<Result<String, usize>> {
    let text = match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row),
        DataType::Utf8View => column.as_string_view().value(row),
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary_opt()?;
            let (keys, values) = (dictionary.keys(), dictionary.values());
            // Keys are of any integer type.
            #[allow(clippy::unnecessary_fallible_conversions)]
            let key = downcast_integer_array!(
                keys => usize::try_from(keys.value(row)).ok()?,
                _ => return None
            );
            return (key < values.len() && values.is_valid(key)).then(|| text_at(values, key)).flatten();
        }
        _ => match std::str::from_utf8(bytes_at(column, row)) {
            Ok(text) => text,
            Err(error) => return Some(Err(error.valid_up_to())),
        },
    };
    Some(Ok(text.into()))
}

/// Bytes that the file does not call a text; some writers call none of theirs one.
fn bytes_at(column: &dyn Array, row: usize) -> &[u8] {
    match column.data_type() {
        DataType::Binary => column.as_binary::<i32>().value(row),
        DataType::LargeBinary => column.as_binary::<i64>().value(row),
        DataType::BinaryView => column.as_binary_view().value(row),
        _ => &[],
    }
}

fn name_at(column: &ArrayRef, row: usize) -> Option<String> {
    let column = column.as_ref();
    downcast_integer_array!(
        column => Some(column.value(row).to_string()),
        _ => text_at(column, row)?.ok()
    )
}

/// Mentions that are not written yet, column by column.
pub(super) struct MentionColumns {
    unit: OffsetUnit,
    id: StringBuilder,
    start: UInt64Builder,
    end: UInt64Builder,
    text: StringBuilder,
    class: StringBuilder,
    score: Float64Builder,
    /// Columns of what reading tells; known with the first mention.
    notes: Option<Vec<StringBuilder>>,
    rows: usize,
}

impl MentionColumns {
    pub fn new(unit: OffsetUnit) -> Self {
        Self {
            unit,
            id: StringBuilder::new(),
            start: UInt64Builder::new(),
            end: UInt64Builder::new(),
            text: StringBuilder::new(),
            class: StringBuilder::new(),
            score: Float64Builder::new(),
            notes: None,
            rows: 0,
        }
    }

    /// Takes the mentions of a document and says whether there are enough to be written.
    pub fn push(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> bool {
        if entities.is_empty() {
            return false;
        }
        let columns = if notes.is_empty() { 0 } else { Note::COLUMNS.len() };
        let builders = self.notes.get_or_insert_with(|| (0..columns).map(|_| StringBuilder::new()).collect());
        let place = Place::new(&document.text, self.unit);
        for (index, entity) in entities.iter().enumerate() {
            self.id.append_value(&document.id);
            self.start.append_value(place.of(entity.start) as u64);
            self.end.append_value(place.of(entity.end) as u64);
            self.text.append_value(&entity.text);
            self.class.append_option(entity.class.as_deref());
            self.score.append_value(four_decimals(entity.score));
            let told = notes.get(index).map(Note::columns).unwrap_or_default();
            for (builder, told) in builders.iter_mut().zip(told) {
                builder.append_option((!told.is_empty()).then_some(told));
            }
        }
        self.rows += entities.len();
        self.rows >= BATCH_ROWS
    }

    /// The columns' names and types.
    pub fn schema(&self) -> SchemaRef {
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let number = |name: &str, kind| Field::new(name, kind, false);
        let mut fields = vec![
            text("id", false),
            number("start", DataType::UInt64),
            number("end", DataType::UInt64),
            text("text", false),
            text("class", true),
            number("score", DataType::Float64),
        ];
        if self.notes.as_ref().is_some_and(|notes| !notes.is_empty()) {
            fields.extend(Note::COLUMNS.map(|name| text(name, true)));
        }
        Arc::new(Schema::new(fields))
    }

    /// What was taken since the last call.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.start.finish()),
            Arc::new(self.end.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.class.finish()),
            Arc::new(self.score.finish()),
        ];
        columns.extend(self.notes.iter_mut().flatten().map(|column| Arc::new(column.finish()) as ArrayRef));
        self.rows = 0;
        RecordBatch::try_new(self.schema(), columns)
    }
}

#[cfg(test)]
mod tests;
