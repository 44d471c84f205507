//! In: names of files, folders and patterns, as on a command line. Out: the files of a corpus, in an order that depends on nothing but their names.
//! Folders are read to any depth; of what lies in them, those files count whose names say a format that is read. Hidden ones do not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::error::{Error, Result};
use crate::format::Format;

/// One file of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name in the corpus: the path below the folder that was named, with `/` between its parts, or the file's own name. It names the output
    /// and, for plain text, the document.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What inputs stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CorpusFiles {
    /// Sorted by [name](CorpusFile::name).
    pub files: Vec<CorpusFile>,
    /// Files in the folders whose names say no format that is read.
    pub passed_over: usize,
}

impl CorpusFiles {
    /// Looks inputs up: files, folders, and patterns with `*`, `?`, `[…]` and `**` where no file has that name. With a format given, every file of a
    /// folder counts, whatever its name. What lies below `out`, where the results go, is no part of the corpus.
    ///
    /// # Errors
    /// [`Error::Input`] or [`Error::Read`] if an input is not there, cannot be read, or matches nothing; [`Error::Option`] if two files have the same name.
    pub fn find(inputs: &[PathBuf], from: Option<Format>, out: &Path) -> Result<Self> {
        let mut found = Self::default();
        // Where there is no such folder yet, nothing lies in it.
        let out = out.canonicalize().ok();
        for input in inputs {
            if input.exists() {
                found.add(input, from, out.as_deref())?;
                continue;
            }
            let name = input.to_string_lossy();
            let pattern = input.to_str().filter(|name| name.contains(['*', '?', '[']));
            let missing = |problem: String| Error::Input { file: name.clone().into(), problem };
            let Some(pattern) = pattern else {
                return Err(missing("is not there: name a file, a folder, or a pattern such as 'folder/*.xml'".into()));
            };
            let paths = glob::glob(pattern).map_err(|e| missing(format!("is no pattern: {e}")))?;
            let before = found.files.len() + found.passed_over;
            for path in paths {
                let path = path.map_err(|e| Error::Read { path: e.path().into(), source: e.into() })?;
                found.add(&path, from, out.as_deref())?;
            }
            if found.files.len() + found.passed_over == before {
                return Err(missing("matches no file".into()));
            }
        }
        found.files.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        // A file that two inputs lead to counts once.
        found.files.dedup_by(|a, b| a.path == b.path);
        found.refuse_equal_names()?;
        Ok(found)
    }

    fn add(&mut self, path: &Path, from: Option<Format>, out: Option<&Path>) -> Result<()> {
        if !path.is_dir() {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
            return self.push(path, name);
        }
        let is_seen = |entry: &DirEntry| {
            let hidden = entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
            // Only folders are compared, for each comparison asks the file system.
            let is_output = || entry.file_type().is_dir() && entry.path().canonicalize().ok().as_deref() == out;
            !(hidden || out.is_some() && is_output())
        };
        for entry in WalkDir::new(path).follow_links(true).into_iter().filter_entry(is_seen) {
            let entry = entry.map_err(|e| Error::Read { path: e.path().unwrap_or(path).into(), source: e.into() })?;
            if !entry.file_type().is_file() {
                continue;
            }
            let format = Format::of_path(entry.path());
            let counts = match from {
                None => format.is_some_and(Format::is_read),
                // Every annotation leads to its text.
                Some(Format::Brat) => format == from,
                Some(_) => true,
            };
            if !counts {
                self.passed_over += 1;
                continue;
            }
            // The text of a document of brat.
            if from.is_none() && format == Some(Format::Text) && entry.path().with_extension("ann").is_file() {
                continue;
            }
            let below = entry.path().strip_prefix(path).unwrap_or(entry.path());
            let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            self.push(entry.path(), parts.join("/"))?;
        }
        Ok(())
    }

    fn push(&mut self, path: &Path, name: String) -> Result<()> {
        let metadata = path.metadata().map_err(|source| Error::Read { path: path.into(), source })?;
        self.files.push(CorpusFile { path: path.into(), name, bytes: metadata.len() });
        Ok(())
    }

    fn refuse_equal_names(&self) -> Result<()> {
        let mut seen: HashMap<&str, &Path> = HashMap::new();
        for file in &self.files {
            if let Some(first) = seen.insert(&file.name, &file.path) {
                return Err(Error::Option(format!(
                    "{} and {} have the same name, so that one's output would replace the other's: name a folder above both, or give each run an output folder of its own",
                    first.display(),
                    file.path.display()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "THF").unwrap();
        }
        folder
    }

    fn names(found: &CorpusFiles) -> Vec<&str> {
        found.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn folders_give_what_is_read_in_order() {
        let corpus = folder(&[
            "c/b.txt",
            "c/a/z.xml.gz",
            "c/.hidden/x.txt",
            "c/.x.txt",
            "c/note.doc",
            "c/out/r.jsonl",
            "c/d.txt",
            "c/d.ann",
        ]);
        let root = corpus.path().join("c");
        let found = CorpusFiles::find(std::slice::from_ref(&root), None, &root.join("out")).unwrap();
        assert_eq!((names(&found), found.passed_over), (vec!["a/z.xml.gz", "b.txt", "d.ann"], 1));
        assert_eq!(found.files[1].bytes, 3);
        let every = CorpusFiles::find(std::slice::from_ref(&root), Some(Format::Text), &root.join("none")).unwrap();
        assert_eq!(names(&every), ["a/z.xml.gz", "b.txt", "d.ann", "d.txt", "note.doc", "out/r.jsonl"]);
        let brat = CorpusFiles::find(std::slice::from_ref(&root), Some(Format::Brat), &root.join("none")).unwrap();
        assert_eq!(names(&brat), ["d.ann"]);
    }

    #[test]
    fn patterns_are_resolved_and_files_named_twice_count_once() {
        let corpus = folder(&["a/1.txt", "a/2.txt", "a/b/3.txt", "a/[x].txt"]);
        let path = |name: &str| corpus.path().join(name);
        let find = |inputs: &[&str]| {
            CorpusFiles::find(&inputs.iter().map(|name| path(name)).collect::<Vec<_>>(), None, &path("out"))
        };
        assert_eq!(names(&find(&["a/?.txt"]).unwrap()), ["1.txt", "2.txt"]);
        assert_eq!(names(&find(&["a/**/*.txt", "a/2.txt"]).unwrap()), ["1.txt", "2.txt", "3.txt", "[x].txt"]);
        // The name of a file goes before what it would mean as a pattern.
        assert_eq!(names(&find(&["a/[x].txt"]).unwrap()), ["[x].txt"]);
        for (input, part) in [("a/*.xml", "matches no file"), ("a/none", "is not there"), ("a/***", "is no pattern")] {
            let error = find(&[input]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let corpus = folder(&["a/1.txt", "b/1.txt"]);
        let inputs = [corpus.path().join("a"), corpus.path().join("b/1.txt")];
        let error = CorpusFiles::find(&inputs, None, Path::new("out")).unwrap_err().to_string();
        assert!(error.contains("a/1.txt and ") && error.contains("have the same name"), "{error}");
        let whole = CorpusFiles::find(&[corpus.path().into()], None, Path::new("out")).unwrap();
        assert_eq!(names(&whole), ["a/1.txt", "b/1.txt"]);
    }
}
