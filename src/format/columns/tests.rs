//! Parquet and Arrow: files of other tools, round trips, what is read of a file, hostile files.

use std::fs::File;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{
    ArrayRef, BinaryArray, DictionaryArray, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::format::{Document, Format, ReadOptions, WriteOptions, open, open_as, reader, writer};
use crate::reading::Note;

const BOTH: [Format; 2] = [Format::Parquet, Format::Arrow];

fn file_of(format: Format, columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap();
    let mut bytes = Vec::new();
    if format == Format::Parquet {
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    } else {
        let mut writer = arrow_ipc::writer::FileWriter::try_new(&mut bytes, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }
    bytes
}

fn read(format: Format, bytes: Vec<u8>, options: &ReadOptions) -> Result<Vec<Result<(String, String), String>>> {
    let found = reader(Cursor::new(bytes), "a", format, options)?;
    Ok(found.map(|document| document.map(|d| (d.id, d.text)).map_err(|error| error.to_string())).collect())
}

fn named(field: &str, id_field: &str) -> ReadOptions {
    ReadOptions { field: field.into(), id_field: id_field.into(), ..ReadOptions::default() }
}

/// Written by pyarrow (`tests/fixtures/record_arrow.py`): dictionaries, nulls, several row groups and batches, Snappy, gzip, Brotli, LZ4.
#[test]
fn files_of_pyarrow_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/arrow");
    let expected =
        [("7", "α-Pinene in THF"), ("8", ""), ("10", "🧪 LiCl")].map(|(id, text)| (id.to_string(), text.to_string()));
    for name in [
        "snappy.parquet",
        "gzip.parquet",
        "brotli.parquet",
        "lz4.parquet",
        "lz4.feather",
        "plain.arrow",
        "stream.arrows",
    ] {
        let path = std::path::Path::new(folder).join(name);
        let (mut documents, mut problems) = (Vec::new(), Vec::new());
        for document in open(&path, None, &named("body", "pmid")).unwrap() {
            match document {
                Ok(document) => documents.push((document.id, document.text)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        assert_eq!(documents, expected, "{name}");
        assert!(
            problems.len() == 1 && problems[0].ends_with("line 3: row 3: its text is null"),
            "{name}: {problems:?}"
        );
    }
    let error = match open(&std::path::Path::new(folder).join("zstd.parquet"), None, &named("body", "pmid")) {
        Ok(mut found) => found.next().unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("Zstandard inside of Parquet and Arrow files is not read"), "{error}");
}

#[test]
fn texts_of_every_type_are_read_and_others_named() {
    let texts = ["α", "b"];
    let dictionary: DictionaryArray<arrow_array::types::Int8Type> = texts.into_iter().collect();
    let columns: [ArrayRef; 5] = [
        Arc::new(StringArray::from(texts.to_vec())),
        Arc::new(LargeStringArray::from(texts.to_vec())),
        Arc::new(StringViewArray::from(texts.to_vec())),
        Arc::new(BinaryArray::from(texts.map(str::as_bytes).to_vec())),
        Arc::new(dictionary),
    ];
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![-1, 2]));
    for format in BOTH {
        for column in &columns {
            let bytes =
                file_of(format, vec![("n", numbers.clone()), ("text", column.clone()), ("id", numbers.clone())]);
            let found = read(format, bytes, &ReadOptions::default()).unwrap();
            let expected = [("-1", "α"), ("2", "b")].map(|(id, text)| Ok((id.to_string(), text.to_string())));
            assert_eq!(found, expected, "{format} {}", column.data_type());
        }
        let bytes = || file_of(format, vec![("n", numbers.clone()), ("t", columns[0].clone())]);
        for (field, part) in
            [("text", "has no column \"text\" among [\"n\", \"t\"]"), ("n", "(Int64) in the column \"n\", not text")]
        {
            let error = read(format, bytes(), &named(field, "id")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(read(format, bytes(), &named("t", "none")).unwrap()[1], Ok(("a:2".into(), "b".into())));
        let not_text: ArrayRef = Arc::new(BinaryArray::from(vec![&b"a\xff"[..], b"b"]));
        let bytes = file_of(format, vec![("text", not_text)]);
        let found = read(format, bytes.clone(), &ReadOptions::default()).unwrap();
        assert!(found[0].as_ref().unwrap_err().contains("row 1: its text is not UTF-8 at byte 1") && found[1].is_ok());
        let lossy = ReadOptions { lossy: true, ..ReadOptions::default() };
        assert_eq!(read(format, bytes.clone(), &lossy).unwrap()[0], Ok(("a:1".into(), "a\u{fffd}".into())));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let long: ArrayRef = Arc::new(StringArray::from(vec!["a".repeat(100_000), "b".into()]));
    std::fs::write(&path, file_of(Format::Parquet, vec![("text", long)])).unwrap();
    let short = ReadOptions { most_bytes: 1000, ..ReadOptions::default() };
    let found = open(&path, None, &short).unwrap().map(|document| document.map_err(|error| error.to_string()));
    let found: Vec<_> = found.collect();
    assert!(found[0].as_ref().unwrap_err().contains("row 1: its text is longer than 1000 bytes") && found[1].is_ok());
}

#[test]
fn of_a_parquet_file_little_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    // Two megabytes of what is not wanted beside a few kilobytes of text, in ten row groups.
    let mut state = 1u64;
    let mut noise = || -> String {
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            char::from(b' ' + ((state >> 33) % 95) as u8)
        };
        (0..20_000).map(|_| next()).collect()
    };
    let bulk: ArrayRef = Arc::new(StringArray::from((0..100).map(|_| noise()).collect::<Vec<_>>()));
    let texts: ArrayRef =
        Arc::new(StringArray::from((0..100).map(|number| format!("text {number}")).collect::<Vec<_>>()));
    let batch = RecordBatch::try_from_iter([("bulk", bulk), ("text", texts)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let size = path.metadata().unwrap().len();
    let bytes_read = Arc::new(AtomicU64::new(0));
    let mut found = open_as(&path, "a", None, &ReadOptions::default(), &bytes_read).unwrap();
    assert_eq!(found.next().unwrap().unwrap().text, "text 0");
    let after_first = bytes_read.load(Ordering::Relaxed);
    assert_eq!(found.map(|document| document.unwrap().text).last().unwrap(), "text 99");
    let whole = bytes_read.load(Ordering::Relaxed);
    assert!(size > 1_000_000 && whole < size / 10, "{whole} of {size} bytes");
    assert!(after_first < whole, "row groups are read when their turn comes");
}

fn mention<'t>(text: &'t str, note: bool) -> (Entity<'t>, Note) {
    let entity = Entity { start: 0, end: text.len(), text: text.into(), class: Some("FORMULA".into()), score: 0.98766 };
    (entity, Note { name: note.then(|| text.to_lowercase()), ..Note::default() })
}

#[test]
fn mentions_are_rows_that_other_readers_understand() {
    let document = Document::from_text("α", "LiCl".into());
    for format in BOTH {
        for with_notes in [false, true] {
            let mut bytes = Vec::new();
            let mut output = writer(format, &mut bytes, WriteOptions::default()).unwrap();
            let (entity, note) = mention("LiCl", true);
            let without_class = Entity { class: None, ..entity.clone() };
            let notes = if with_notes { vec![note, Note::default()] } else { Vec::new() };
            output.write(&document, &[], &[]).unwrap();
            output.write(&document, &[entity, without_class], &notes).unwrap();
            // More than are written at once.
            for _ in 0..10_000 {
                let (entity, note) = mention("LiCl", false);
                output.write(&document, &[entity], if with_notes { std::slice::from_ref(&note) } else { &[] }).unwrap();
            }
            output.finish().unwrap();
            drop(output);
            let found = read(format, bytes.clone(), &named("text", "start")).unwrap();
            assert_eq!(found.len(), 10_002);
            assert!(found.iter().all(|row| *row == Ok(("0".into(), "LiCl".into()))));
            let found = read(format, bytes.clone(), &named("class", "id")).unwrap();
            assert_eq!(found[0], Ok(("α".into(), "FORMULA".into())));
            assert!(found[1].as_ref().unwrap_err().contains("row 2: its text is null"));
            let names = read(format, bytes, &named("name", "id"));
            assert_eq!(with_notes, names.is_ok_and(|names| names[0] == Ok(("α".into(), "licl".into()))));
        }
        let mut empty = Vec::new();
        let mut output = writer(format, &mut empty, WriteOptions::default()).unwrap();
        output.finish().unwrap();
        drop(output);
        assert_eq!(read(format, empty, &ReadOptions::default()).unwrap(), []);
    }
}

#[test]
fn a_message_that_claims_too_much_is_refused() {
    // A schema, then a record batch whose body is said to be an exabyte long.
    let bytes = file_of(Format::Arrow, vec![("text", Arc::new(StringArray::from(vec!["LiCl"])) as ArrayRef)]);
    let small = ReadOptions { most_bytes: 16, ..ReadOptions::default() };
    let found = read(Format::Arrow, bytes.clone(), &small).unwrap();
    assert!(found[0].as_ref().unwrap_err().contains("but 16 are the most that is read at once"), "{found:?}");
    let mut head = b"ARROW1\0\0\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec();
    head.resize(1000, 0);
    let error = read(Format::Arrow, head, &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Input { problem, .. } if problem.contains("head of a message")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_files_are_errors(parquet: bool, cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let format = if parquet { Format::Parquet } else { Format::Arrow };
        let mut bytes = file_of(format, vec![("text", Arc::new(StringArray::from(vec!["LiCl", "α"])) as ArrayRef)]);
        let place = at.index(bytes.len());
        bytes[place] = byte;
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let options = ReadOptions { most_bytes: 1 << 20, ..ReadOptions::default() };
        // Whatever comes of it, it ends.
        if let Ok(found) = read(format, bytes, &options) {
            prop_assert!(found.len() <= 1000);
        }
    }
}
