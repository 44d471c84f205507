//! A path -> a writer of a format to it, compressed if the name ends in `.gz`. The file appears when it is whole: until then it has another name.

use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::document::Document;
use super::{Format, WriteOptions, Writer, brat, writer};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;
use crate::replacement::Replacement;

/// Writes to a file, or for brat to a folder, in a format. What was at the path is replaced by [`Writer::finish`], and only then.
///
/// # Errors
/// [`Error::Option`] if the format is only read or the name asks for a compression that is only read; [`Error::Input`] if the file cannot be made.
pub fn create(path: &Path, format: Format, options: WriteOptions) -> Result<Box<dyn Writer>> {
    let failed = |error: io::Error| Error::Input {
        file: path.to_string_lossy().into(),
        problem: format!("cannot be written: {error}"),
    };
    if format == Format::Brat {
        return Ok(Box::new(brat::Folder::new(path.into()).map_err(failed)?));
    }
    let gzip = path.extension().is_some_and(|extension| extension == "gz");
    if path.extension().is_some_and(|extension| extension == "zst") {
        return Err(Error::Option(format!(
            "{}: Zstandard is read, not written: name it .gz, or compress it with zstd",
            path.display()
        )));
    }
    // Refused before anything is made on disk.
    writer(format, io::sink(), options)?;
    let file = Replacement::new(path).map_err(failed)?;
    let out = if gzip { Out::Gzip(GzEncoder::new(file, Compression::default())) } else { Out::Plain(file) };
    let out = std::rc::Rc::new(std::cell::RefCell::new(Some(out)));
    let writer = writer(format, Shared(out.clone()), options)?;
    Ok(Box::new(FileWriter { writer, out }))
}

enum Out {
    Plain(Replacement),
    Gzip(GzEncoder<Replacement>),
}

/// The output, which the format's writer writes to and the file's writer ends.
struct Shared(std::rc::Rc<std::cell::RefCell<Option<Out>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.borrow_mut() {
            Some(Out::Plain(file)) => file.write(bytes),
            Some(Out::Gzip(file)) => file.write(bytes),
            None => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FileWriter {
    writer: Box<dyn Writer>,
    out: std::rc::Rc<std::cell::RefCell<Option<Out>>>,
}

impl Writer for FileWriter {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        self.writer.write(document, entities, notes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.writer.finish()?;
        match self.out.borrow_mut().take() {
            Some(Out::Plain(file)) => file.finish(),
            Some(Out::Gzip(file)) => file.finish()?.finish(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl.gz");
        fs::write(&path, "before").unwrap();
        let document = Document::from_text("α", "THF".into());
        for finished in [false, true] {
            let mut writer = create(&path, Format::JsonLines, WriteOptions::default()).unwrap();
            writer.write(&document, &[], &[]).unwrap();
            if finished {
                writer.finish().unwrap();
            }
            drop(writer);
            assert_eq!(fs::read(&path).unwrap() == b"before", !finished);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        let mut text = String::new();
        let file = super::super::compression::decompress(File::open(&path).unwrap()).unwrap();
        io::Read::read_to_string(&mut { file }, &mut text).unwrap();
        assert_eq!(text, "{\"id\":\"α\",\"offsets\":\"chars\",\"entities\":[]}\n");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (name, format) in [("a.zst", Format::JsonLines), ("a.txt", Format::Text)] {
            assert!(matches!(
                create(&folder.path().join(name), format, WriteOptions::default()),
                Err(Error::Option(_))
            ));
        }
        assert!(matches!(
            create(&folder.path().join("no/a.csv"), Format::Csv, WriteOptions::default()),
            Err(Error::Input { .. })
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
