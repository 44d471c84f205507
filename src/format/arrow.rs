//! In: Arrow's streams and files (<https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>), which are
//! also Feather 2: a document a row. Both are read as streams, message by message; a file's index at its end is not needed.
//! Out: an Arrow file with a row for each mention and the columns of CSV.

use std::io::{self, Read, Write};

use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::FileWriter;
use arrow_ipc::{Message, root_as_message};
use arrow_schema::ArrowError;

use super::columns::{MentionColumns, Rows, unreadable, wanted};
use super::compression::peek;
use super::document::Document;
use super::{ReadOptions, Writer};
use crate::entity::Entity;
use crate::error::Result;
use crate::format::record::OffsetUnit;
use crate::reading::Note;

/// What a file begins with, filled up to eight bytes; a stream follows.
const MAGIC: &[u8] = b"ARROW1";
const MAGIC_BYTES: usize = 8;
/// Stands before the length of a message's head.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Most bytes of a message's head, which describes columns and buffers.
const MOST_HEAD: usize = 64 << 20;

/// The documents of a stream or file.
pub(super) fn documents(input: Box<dyn Read + Send>, file: &str, options: &ReadOptions) -> Result<Rows> {
    let failed = |error: ArrowError| unreadable(file, &error.to_string());
    let input = behind_magic(input).map_err(|e| failed(e.into()))?;
    let messages =
        Messages { input, most_bytes: options.most_bytes as u64, head: io::Cursor::default(), body: 0, ended: false };
    let stream = StreamReader::try_new(messages, None).map_err(failed)?;
    let columns = wanted(&stream.schema(), file, options)?;
    let batches = stream.map(move |batch| batch?.project(&columns));
    Ok(Rows::new(Box::new(batches), file, options))
}

/// The stream inside a file, or a stream as it is.
fn behind_magic(input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let (head, mut input) = peek(input, MAGIC_BYTES as u64)?;
    if !head.starts_with(MAGIC) {
        return Ok(Box::new(input));
    }
    input.read_exact(&mut [0; MAGIC_BYTES])?;
    // Writers may fill up to more than eight bytes; a message never begins with eight zeros.
    loop {
        let mut group = Vec::new();
        input.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut group)?;
        if group != [0; MAGIC_BYTES] {
            return Ok(Box::new(io::Cursor::new(group).chain(input)));
        }
    }
}

/// A stream whose messages are no larger than they may be: who reads a message makes room for as much as it says of itself.
struct Messages<R> {
    input: R,
    most_bytes: u64,
    /// Length and head of the present message.
    head: io::Cursor<Vec<u8>>,
    /// Bytes left of its body.
    body: u64,
    ended: bool,
}

impl<R: Read> Messages<R> {
    /// So many bytes, if they are no more than may be read at once.
    fn allowed(&self, bytes: u64) -> io::Result<u64> {
        if bytes <= self.most_bytes {
            return Ok(bytes);
        }
        let message =
            format!("a message holds {bytes} bytes, but {} are the most that is read at once", self.most_bytes);
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }

    /// Reads the next message's head and looks at what it says of its body.
    fn begin(&mut self) -> io::Result<()> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let mut head = Vec::new();
        self.input.by_ref().take(4).read_to_end(&mut head)?;
        if head == CONTINUATION {
            self.input.by_ref().take(4).read_to_end(&mut head)?;
        }
        let length = head.last_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        self.ended = length == 0;
        if length > MOST_HEAD {
            return Err(invalid(format!("the head of a message says it is {length} bytes long")));
        }
        let before = head.len();
        self.input.by_ref().take(length as u64).read_to_end(&mut head)?;
        if !self.ended {
            let message = head.get(before..).unwrap_or_default();
            let message = root_as_message(message).map_err(|e| invalid(format!("no head of a message: {e}")))?;
            self.body = self.allowed(u64::try_from(message.bodyLength()).unwrap_or(u64::MAX))?;
            let sizes = compressed_buffers(&message);
            if !sizes.is_empty() {
                // What stands before each buffer says how much room is made for it.
                let mut body = Vec::new();
                self.input.by_ref().take(self.body).read_to_end(&mut body)?;
                let sizes = sizes.iter().filter_map(|&at| body.get(at..)?.first_chunk().copied());
                let inside = sizes.map(i64::from_le_bytes).filter(|&size| size > 0).fold(0i64, i64::saturating_add);
                self.allowed(inside.cast_unsigned())?;
                self.body = 0;
                head.extend_from_slice(&body);
            }
        }
        self.head = io::Cursor::new(head);
        Ok(())
    }
}

impl<R: Read> Read for Messages<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.head.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        if self.body > 0 {
            let read = self.input.by_ref().take(self.body).read(buffer)?;
            self.body -= read as u64;
            return Ok(read);
        }
        if self.ended {
            return Ok(0);
        }
        self.begin()?;
        self.head.read(buffer)
    }
}

/// Where the buffers of a message begin in its body, if they are compressed.
fn compressed_buffers(message: &Message) -> Vec<usize> {
    let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data());
    let compressed = batch.filter(|batch| batch.compression().is_some());
    let buffers = compressed.and_then(|batch| batch.buffers());
    let filled = buffers.iter().flatten().filter(|buffer| buffer.length() > 0);
    filled.filter_map(|buffer| usize::try_from(buffer.offset()).ok()).collect()
}

/// Writes a row for each mention.
pub(super) struct ArrowFileWriter<W: Write> {
    /// Until the first mention, which tells the columns.
    out: Option<W>,
    columns: MentionColumns,
    writer: Option<FileWriter<W>>,
}

impl<W: Write> ArrowFileWriter<W> {
    pub fn new(out: W, unit: OffsetUnit) -> Self {
        Self { out: Some(out), columns: MentionColumns::new(unit), writer: None }
    }

    fn write_batch(&mut self) -> Result<(), ArrowError> {
        if let Some(out) = self.out.take() {
            self.writer = Some(FileWriter::try_new(out, &self.columns.schema())?);
        }
        let batch = self.columns.take()?;
        self.writer.as_mut().map_or(Ok(()), |writer| writer.write(&batch))
    }
}

impl<W: Write> Writer for ArrowFileWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        if self.columns.push(document, entities, notes) {
            self.write_batch().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write_batch().map_err(io::Error::other)?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.finish().map_err(io::Error::other)?;
        writer.get_mut().flush()
    }
}
