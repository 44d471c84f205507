//! In: Parquet (<https://parquet.apache.org/docs/file-format/>), a document a row: row group by row group, and only the columns of text and name.
//! Out: a row for each mention, with the columns of CSV.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};

use super::columns::{MentionColumns, Rows, unreadable, wanted};
use super::document::Document;
use super::{Counted, ReadOptions, Writer};
use crate::entity::Entity;
use crate::error::Result;
use crate::format::record::OffsetUnit;
use crate::reading::Note;

/// Rows that are decoded at once: few, for a row may be a whole article.
const ROWS_AT_ONCE: usize = 64;
/// Bytes asked of a file at once where a page's header is read, which has some tens; pages are read whole.
const HEADER_BYTES: usize = 512;
/// Mentions of a row group, some ten megabytes, which lie in memory until it is whole.
const GROUP_ROWS: usize = 256 * 1024;

/// The documents of a file.
pub(super) fn documents<R: ChunkReader + 'static>(input: R, file: &str, options: &ReadOptions) -> Result<Rows> {
    let failed = |error: ParquetError| unreadable(file, &error.to_string());
    // The types that Arrow's writers note beside Parquet's own would only bring dictionaries and the like.
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(input, plain).map_err(failed)?;
    let columns = wanted(builder.schema(), file, options)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    let batches = builder.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build().map_err(failed)?;
    Ok(Rows::new(Box::new(batches), file, options))
}

/// A file of which is counted what is read.
pub(super) struct CountedFile {
    pub file: File,
    pub bytes_read: Arc<AtomicU64>,
}

impl Length for CountedFile {
    fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl ChunkReader for CountedFile {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> ParquetResult<Box<dyn Read>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        let bytes_read = self.bytes_read.clone();
        let counted = Counted::new(file, move |bytes| {
            bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        });
        Ok(Box::new(BufReader::with_capacity(HEADER_BYTES, counted)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        let mut read = Vec::new();
        // Not reserved: a damaged file may ask for more than it has.
        self.get_read(start)?.take(length as u64).read_to_end(&mut read)?;
        if read.len() < length {
            return Err(ParquetError::EOF(format!("expected {length} bytes at byte {start}, found {}", read.len())));
        }
        Ok(read.into())
    }
}

/// Writes a row for each mention.
pub(super) struct ParquetWriter<W> {
    out: W,
    columns: MentionColumns,
    /// Writes to memory, of which `out` gets each row group when it is whole; begun with the first mention.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl<W: Write> ParquetWriter<W> {
    pub fn new(out: W, unit: OffsetUnit) -> Self {
        Self { out, columns: MentionColumns::new(unit), writer: None }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let new = ArrowWriter::try_new(Vec::new(), self.columns.schema(), Some(properties));
                self.writer.insert(new.map_err(io::Error::other)?)
            }
        };
        writer.write(&self.columns.take().map_err(io::Error::other)?).map_err(io::Error::other)?;
        if writer.in_progress_rows() >= GROUP_ROWS {
            writer.flush().map_err(io::Error::other)?;
            self.out.write_all(&std::mem::take(writer.inner_mut()))?;
        }
        Ok(())
    }
}

impl<W: Write> Writer for ParquetWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        if self.columns.push(document, entities, notes) { self.write_batch() } else { Ok(()) }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write_batch()?;
        if let Some(writer) = self.writer.take() {
            self.out.write_all(&writer.into_inner().map_err(io::Error::other)?)?;
        }
        self.out.flush()
    }
}
