//! In: files of many formats, compressed or not. Out: their documents one after another, and what was found in them in many formats.
//! Method: one file for each format, each naming the specification it follows; the record is defined in docs/formats.md.
//!
//! ```
//! use chemtag::format::{Format, ReadOptions, WriteOptions, reader, writer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tagger = chemtag::get("models/chemtag-small")?;
//! let input = "{\"id\": \"a\", \"text\": \"Aspirin in THF\"}\n".as_bytes();
//! let mut records = Vec::new();
//! let mut output = writer(Format::JsonLines, &mut records, WriteOptions::default())?;
//! for document in reader(input, "abstracts.jsonl", Format::JsonLines, &ReadOptions::default())? {
//!     let document = document?;
//!     for entities in tagger.tag_documents(&[&document])? {
//!         output.write(&document, &entities, &[])?;
//!     }
//! }
//! output.finish()?;
//! drop(output);
//! assert!(String::from_utf8(records)?.starts_with(r#"{"id":"a","offsets":"chars","entities":[{"start":0,"end":7,"text":"Aspirin","#));
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "parquet")]
mod arrow;
mod articles;
pub mod bioc;
mod bioc_json;
mod bioc_xml;
mod brat;
mod budget;
#[cfg(feature = "parquet")]
mod columns;
mod compression;
mod conll;
mod counted;
mod delimited;
mod document;
mod encoding;
mod html;
mod json_lines;
mod json_members;
mod lines;
mod output;
#[cfg(feature = "parquet")]
mod parquet;
mod plain_text;
mod pubtator;
mod record;
mod tagging;
mod xml;

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use counted::Counted;
pub use document::{Document, Passage, Source};
#[cfg(feature = "corpus")]
pub(crate) use html::escaped;
pub use output::create;
pub use record::{OffsetUnit, Record, RecordEntity, RecordPassage, is_control};

use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;

/// What names standard input where a file's name is expected.
pub const STANDARD_INPUT: &str = "-";
/// And what it is called in messages.
const STANDARD_INPUT_IN_MESSAGES: &str = "standard input";

/// Bytes of a stream that are held at once.
const BUFFER: usize = 64 * 1024;

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Plain text, one document a file.
    Text,
    /// JSON Lines: in, an object a line with a text in one field; out, the record of docs/formats.md.
    JsonLines,
    /// Comma-separated values: in, a text in one column; out, a row for each mention.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// A token a line, tagged in IOB2.
    Conll,
    /// Standoff annotation of the tool brat.
    Brat,
    /// BioC in XML.
    BioCXml,
    /// BioC in JSON.
    BioCJson,
    /// PubTator: title and abstract, annotations below.
    PubTator,
    /// Articles in XML: JATS (PubMed Central) and PubMed's.
    Articles,
    /// A page to look at.
    Html,
    /// Parquet (feature `parquet`): in, a text in one column; out, a row for each mention.
    Parquet,
    /// Files and streams of Apache Arrow, Feather 2 too (feature `parquet`): the same.
    Arrow,
}

/// What is known of a format by its name.
struct Entry {
    name: &'static str,
    format: Format,
    extensions: &'static [&'static str],
    read: bool,
    written: bool,
}

const fn entry(
    name: &'static str,
    format: Format,
    extensions: &'static [&'static str],
    read: bool,
    written: bool,
) -> Entry {
    Entry { name, format, extensions, read, written }
}

/// Whether this build has Parquet and Arrow.
const COLUMNS: bool = cfg!(feature = "parquet");

/// All formats. The first name of a format is the one it is shown by.
const FORMATS: [Entry; 14] = [
    entry("text", Format::Text, &["txt", "text"], true, false),
    entry("jsonl", Format::JsonLines, &["jsonl", "ndjson"], true, true),
    entry("csv", Format::Csv, &["csv"], true, true),
    entry("tsv", Format::Tsv, &["tsv", "tab"], true, true),
    entry("conll", Format::Conll, &["conll", "iob", "iob2", "bio"], true, true),
    entry("brat", Format::Brat, &["ann"], true, true),
    entry("bioc-xml", Format::BioCXml, &[], true, true),
    entry("bioc-json", Format::BioCJson, &["json"], true, true),
    entry("pubtator", Format::PubTator, &["pubtator"], true, true),
    entry("jats", Format::Articles, &["xml", "nxml"], true, false),
    entry("pubmed", Format::Articles, &[], true, false),
    entry("html", Format::Html, &["html", "htm"], false, true),
    entry("parquet", Format::Parquet, &["parquet"], COLUMNS, COLUMNS),
    entry("arrow", Format::Arrow, &["arrow", "arrows", "feather"], COLUMNS, COLUMNS),
];

impl Format {
    /// The format that a file's name says, by its extension without `.gz` and `.zst`.
    ///
    /// ```
    /// use chemtag::format::Format;
    ///
    /// assert_eq!(Format::of_path("corpus/a.jsonl.gz".as_ref()), Some(Format::JsonLines));
    /// assert_eq!(Format::of_path("README".as_ref()), None);
    /// ```
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        let extension = name.rsplit_once('.')?.1;
        FORMATS.iter().find(|entry| entry.extensions.contains(&extension)).map(|entry| entry.format)
    }

    /// Whether documents can be read from it.
    pub fn is_read(self) -> bool {
        FORMATS.iter().any(|entry| entry.format == self && entry.read)
    }

    /// Whether what was found can be written in it.
    pub fn is_written(self) -> bool {
        FORMATS.iter().any(|entry| entry.format == self && entry.written)
    }

    /// Names of the formats that are read.
    pub fn read_names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().filter(|entry| entry.read).map(|entry| entry.name)
    }

    /// Names of the formats that are written.
    pub fn written_names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().filter(|entry| entry.written).map(|entry| entry.name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(FORMATS.iter().find(|entry| entry.format == *self).map_or("", |entry| entry.name))
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = FORMATS.iter().find(|entry| entry.name == name).map(|entry| entry.format);
        found.ok_or_else(|| {
            let known: Vec<&str> = FORMATS.iter().map(|entry| entry.name).collect();
            Error::Option(format!("there is no format {name:?}: expected one of {}", known.join(", ")))
        })
    }
}

/// How documents are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Field of JSON Lines, or column of CSV and TSV, that holds the text.
    pub field: String,
    /// Field or column that holds a record's name; without it the name is `FILE:LINE`.
    pub id_field: String,
    /// Replace ill-formed UTF-8 and UTF-16 by U+FFFD instead of refusing it.
    pub lossy: bool,
    /// Most bytes of one record, decompressed: what a hostile file can have a reader hold.
    pub most_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { field: "text".into(), id_field: "id".into(), lossy: false, most_bytes: 1 << 30 }
    }
}

/// How what was found is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// What offsets count in JSON Lines, CSV and TSV. The other formats define it: characters.
    pub offsets: OffsetUnit,
}

/// The documents of a file, in order.
///
/// An item [`Error::Malformed`] is one record that was passed over: the next item is the record behind it, if its format lets that be found
/// (in XML that is not well-formed, it does not).
pub type Documents = Box<dyn Iterator<Item = Result<Document>> + Send>;

/// Reads documents from a stream, decompressed first if its first bytes say gzip or Zstandard; `file` is its name in messages
/// and names of documents, [`STANDARD_INPUT`] for standard input.
///
/// # Errors
/// [`Error::Option`] if the format is only written; [`Error::Input`] if the stream cannot be read.
pub fn reader(
    input: impl Read + Send + 'static,
    file: &str,
    format: Format,
    options: &ReadOptions,
) -> Result<Documents> {
    let id = file;
    let file = if file == STANDARD_INPUT { STANDARD_INPUT_IN_MESSAGES } else { file };
    let input = compression::decompress(input);
    #[cfg(feature = "parquet")]
    match format {
        Format::Parquet => {
            // Its index stands at its end: a stream has to be held.
            let input = input.and_then(|input| budget::hold(input, options.most_bytes));
            let input = input.map_err(|error| lines::unreadable(file, error))?;
            return Ok(Box::new(parquet::documents(bytes::Bytes::from(input), file, options)?));
        }
        Format::Arrow => {
            let input = input.map_err(|error| lines::unreadable(file, error))?;
            return Ok(Box::new(arrow::documents(input, file, options)?));
        }
        _ => {}
    }
    let input = input.and_then(|input| encoding::to_utf8(input, options.lossy));
    let input = BufReader::with_capacity(BUFFER, input.map_err(|error| lines::unreadable(file, error))?);
    let most = options.most_bytes;
    let lines = |input| lines::Lines::new(Box::new(input), file, most);
    let budget = |input| budget::Budget::new(Box::new(input), file, most);
    Ok(match format {
        Format::Text => Box::new(std::iter::once_with({
            let (file, id) = (file.to_string(), id.to_string());
            move || plain_text::read(input, &file, id, most)
        })),
        Format::JsonLines => Box::new(json_lines::JsonLines::new(lines(input), options.clone())),
        Format::Csv => Box::new(delimited::Rows::new(budget(input), b',', options.clone())),
        Format::Tsv => Box::new(delimited::Rows::new(budget(input), b'\t', options.clone())),
        Format::Conll => Box::new(conll::Sentences::new(lines(input), most)),
        Format::BioCXml => Box::new(bioc_xml::Collection::new(xml::Nodes::new(budget(input)))),
        Format::BioCJson => Box::new(bioc_json::Collection::new(budget(input))),
        Format::PubTator => Box::new(pubtator::Abstracts::new(lines(input), most)),
        Format::Articles => Box::new(articles::Articles::new(xml::Nodes::new(budget(input)))),
        Format::Parquet | Format::Arrow => return Err(no_columns(format)),
        Format::Brat => {
            let problem = "is a stream, but brat keeps text and annotations in two files: name the .ann file, beside its .txt file";
            return Err(Error::Input { file: file.into(), problem: problem.into() });
        }
        Format::Html => {
            let known: Vec<&str> = Format::read_names().collect();
            return Err(Error::Option(format!("{format} is written, not read: expected one of {}", known.join(", "))));
        }
    })
}

/// Reads documents from a file, in the format that its name says or, where it says none, plain text, unless `format` is given.
///
/// # Errors
/// [`Error::Read`] or [`Error::Input`] if it is no readable file; else as [`reader`].
pub fn open(path: &Path, format: Option<Format>, options: &ReadOptions) -> Result<Documents> {
    open_as(path, &path.to_string_lossy(), format, options, &Arc::default())
}

/// As [`open`], under another name in messages and names of documents; what is read of the file, in bytes on disk, is added to `bytes_read`.
///
/// # Errors
/// As [`open`].
pub fn open_as(
    path: &Path,
    name: &str,
    format: Option<Format>,
    options: &ReadOptions,
    bytes_read: &Arc<AtomicU64>,
) -> Result<Documents> {
    let format = format.or_else(|| Format::of_path(path)).unwrap_or(Format::Text);
    if format == Format::Brat {
        let text = |path: &Path, id: &str| open_as(path, id, Some(Format::Text), options, bytes_read);
        return brat::open(path, name, options, text);
    }
    let (file, _) = file(path)?;
    let bytes_read = bytes_read.clone();
    #[cfg(feature = "parquet")]
    if format == Format::Parquet && file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let file = parquet::CountedFile { file, bytes_read };
        return Ok(Box::new(parquet::documents(file, name, options)?));
    }
    let counted = Counted::new(file, move |bytes| {
        bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    });
    reader(counted, name, format, options)
}

fn file(path: &Path) -> Result<(File, Cow<'_, str>)> {
    let name = path.to_string_lossy();
    if path.is_dir() {
        return Err(Error::Input { file: name.into(), problem: "is a folder: name the files in it".into() });
    }
    Ok((File::open(path).map_err(|source| Error::Read { path: path.into(), source })?, name))
}

/// The lines of a file, decompressed and decoded as those of any format.
pub(crate) fn lines_of(path: &Path) -> Result<lines::Lines> {
    let (file, name) = file(path)?;
    let ReadOptions { most_bytes, lossy, .. } = ReadOptions::default();
    let input = compression::decompress(file).and_then(|input| encoding::to_utf8(input, lossy));
    let input = BufReader::with_capacity(BUFFER, input.map_err(|error| lines::unreadable(&name, error))?);
    Ok(lines::Lines::new(Box::new(input), &name, most_bytes))
}

/// Takes what was found, document by document.
pub trait Writer {
    /// Writes one document. Entities count bytes of its text, in order; `notes` is empty or has one for each of them.
    ///
    /// # Errors
    /// Those of the output; [`io::ErrorKind::InvalidInput`] if the format cannot hold the document.
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()>;

    /// Writes what ends the file. Without it the file is not whole.
    ///
    /// # Errors
    /// Those of the output.
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes to a stream in a format.
///
/// # Errors
/// [`Error::Option`] if the format is only read.
pub fn writer<'w>(format: Format, out: impl Write + 'w, options: WriteOptions) -> Result<Box<dyn Writer + 'w>> {
    Ok(match format {
        Format::JsonLines => Box::new(record::JsonLinesWriter::new(out, options.offsets)),
        Format::Csv => Box::new(delimited::RowWriter::new(out, b',', options.offsets)),
        Format::Tsv => Box::new(delimited::RowWriter::new(out, b'\t', options.offsets)),
        Format::Conll => Box::new(conll::ConllWriter::new(out)),
        Format::Brat => Box::new(brat::AnnotationWriter::new(out)),
        Format::BioCXml => Box::new(bioc_xml::CollectionWriter::new(out)),
        Format::BioCJson => Box::new(bioc_json::CollectionWriter::new(out)),
        Format::PubTator => Box::new(pubtator::PubTatorWriter::new(out)),
        Format::Html => Box::new(html::PageWriter::new(out)),
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(parquet::ParquetWriter::new(out, options.offsets)),
        #[cfg(feature = "parquet")]
        Format::Arrow => Box::new(arrow::ArrowFileWriter::new(out, options.offsets)),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet | Format::Arrow => return Err(no_columns(format)),
        Format::Text | Format::Articles => {
            let known: Vec<&str> = Format::written_names().collect();
            return Err(Error::Option(format!("{format} is read, not written: expected one of {}", known.join(", "))));
        }
    })
}

/// What is said where Parquet and Arrow are asked of a build without them.
fn no_columns(format: Format) -> Error {
    Error::Option(format!("this build has no {format}: build with `--features parquet`"))
}

/// The name of a record that has none: where it stands.
fn record_id(file: &str, line: usize) -> String {
    let file = if file == STANDARD_INPUT_IN_MESSAGES { STANDARD_INPUT } else { file };
    format!("{file}:{line}")
}

#[cfg(test)]
mod tests;
