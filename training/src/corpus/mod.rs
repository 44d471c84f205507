//! In: annotated corpora, *.jsonl (offsets in code points) or *.conll (one token and its IOB2 tag on a line).
//! Out: [`Document`]s whose mentions and given words are byte offsets into their text.
//! From: IOB2 after Tjong Kim Sang and Veenstra (1999); the .jsonl is this project's own, see [`read_jsonl`].

mod conll;
mod jsonl;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

pub use conll::{LenientCorpus, read_conll, read_conll_lenient};
pub use jsonl::read_jsonl;

use crate::error::{Error, Result};

/// The label of a mention that its annotators gave no class; it counts as a mention, but for no class.
pub const NO_CLASS: &str = "NO CLASS";

/// A text and what its annotators marked in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub id: String,
    pub text: String,
    /// In the file's order, as they stand there: empty, repeated, nested and overlapping ones too.
    pub mentions: Vec<Mention>,
    /// Byte ranges of the corpus' own tokens; `None` where the corpus gives none.
    pub words: Option<Vec<Range<usize>>>,
}

impl Document {
    /// A text without mentions and name.
    pub fn unannotated(text: String) -> Self {
        Self { id: String::new(), text, mentions: Vec::new(), words: None }
    }
}

/// A span of a text, `start..end` in bytes, and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    pub start: usize,
    pub end: usize,
    pub label: String,
}

/// Which mentions of a corpus to keep: all of them, or those of some types.
///
/// ```
/// use chemtag_training::corpus::TypeFilter;
///
/// let filter: TypeFilter = "SYSTEMATIC, NO CLASS".parse()?;
/// assert!(filter.keeps("NO CLASS"));
/// assert!(!filter.keeps("FAMILY"));
/// assert!(TypeFilter::all().keeps("FAMILY"));
/// # Ok::<(), chemtag_training::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFilter {
    /// `None` keeps every type.
    wanted: Option<BTreeSet<String>>,
}

impl TypeFilter {
    /// Keeps every mention.
    pub fn all() -> Self {
        Self { wanted: None }
    }

    /// Whether mentions of this type are kept.
    pub fn keeps(&self, label: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(label))
    }

    /// A type that is asked for but occurs nowhere in a file is a misspelling that would otherwise read as "no mentions".
    fn check(&self, path: &Path, present: BTreeSet<String>) -> Result<()> {
        let missing: Vec<String> =
            self.wanted.iter().flatten().filter(|label| !present.contains(*label)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::UnknownTypes { path: path.to_owned(), missing, present: present.into_iter().collect() })
    }
}

impl FromStr for TypeFilter {
    type Err = Error;

    /// Reads types separated by commas; white space around a type is dropped, inside it is kept.
    fn from_str(list: &str) -> Result<Self> {
        let wanted: BTreeSet<String> = list.split(',').map(|label| label.trim().to_owned()).collect();
        if wanted.contains("") {
            return Err(Error::TypeList { found: list.to_owned() });
        }
        Ok(Self { wanted: Some(wanted) })
    }
}

/// Reads a corpus by its extension, `.jsonl` or `.conll`.
///
/// # Errors
///
/// Those of [`read_jsonl`] and [`read_conll`]; [`Error::CorpusFormat`] for any other extension.
pub fn read(path: &Path, types: &TypeFilter) -> Result<Vec<Document>> {
    match path.extension().and_then(OsStr::to_str) {
        Some("jsonl") => read_jsonl(path, types),
        Some("conll") => read_conll(path, types),
        _ => Err(Error::CorpusFormat { path: path.to_owned() }),
    }
}

/// The mentions that one sequence of O, B and I can express: no empty ones, and of overlapping ones the leftmost, of
/// those that start together the longest. In order of their start.
///
/// ```
/// use chemtag_training::corpus::{Mention, flat_mentions};
///
/// let mention = |start, end| Mention { start, end, label: "CHEMICAL".into() };
/// let flat = flat_mentions(&[mention(8, 8), mention(4, 12), mention(0, 3), mention(0, 6)]);
/// assert_eq!(flat, [mention(0, 6)]);
/// ```
pub fn flat_mentions(mentions: &[Mention]) -> Vec<Mention> {
    let mut candidates: Vec<&Mention> = mentions.iter().filter(|mention| mention.start < mention.end).collect();
    candidates.sort_by_key(|mention| (mention.start, std::cmp::Reverse(mention.end)));
    let mut flat: Vec<Mention> = Vec::with_capacity(candidates.len());
    for mention in candidates {
        if flat.last().is_none_or(|last| last.end <= mention.start) {
            flat.push(mention.clone());
        }
    }
    flat
}

/// The byte offset of every code point of the text, and its length: entry `i` is where code point `i` starts.
pub(crate) fn code_point_starts(text: &str) -> Vec<usize> {
    text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect()
}

/// A whole file as UTF-8, without its byte order mark.
fn read_utf8(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line_start = bytes[..valid].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        Error::NotUtf8 {
            path: path.to_owned(),
            line: 1 + bytes[..valid].iter().filter(|&&byte| byte == b'\n').count(),
            column: 1 + valid - line_start,
            byte: bytes[valid],
        }
    })?;
    if text.starts_with('\u{FEFF}') {
        text.drain(..'\u{FEFF}'.len_utf8());
    }
    Ok(text)
}

/// The lines of a file with their numbers from 1; LF and CRLF both end a line.
fn numbered_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The beginning of a value for an error message: a line may hold megabytes.
fn excerpt(value: &str) -> String {
    const CHARACTERS: usize = 60;
    match value.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{} ...", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mention(start: usize, end: usize) -> Mention {
        Mention { start, end, label: "A".into() }
    }

    #[test]
    fn type_lists() {
        for bad in ["", ",", "A,", "A,,B", " , A"] {
            let error = bad.parse::<TypeFilter>().unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        let filter: TypeFilter = " A ,NO CLASS,A".parse().unwrap();
        assert!(filter.keeps("A") && filter.keeps("NO CLASS") && !filter.keeps("CLASS") && !filter.keeps("a"));
    }

    #[test]
    fn unknown_extension() {
        let error = read(Path::new("corpus.txt"), &TypeFilter::all()).unwrap_err();
        assert_eq!(error.to_string(), "corpus.txt: expected a corpus named *.jsonl or *.conll");
        let error = read(Path::new("jsonl"), &TypeFilter::all()).unwrap_err();
        assert!(matches!(error, Error::CorpusFormat { .. }), "{error}");
    }

    #[test]
    fn reads_by_extension_and_names_a_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let jsonl = folder.path().join("a.jsonl");
        std::fs::write(&jsonl, r#"{"id":"1","text":"NaCl","spans":[[0,4,"FORMULA"]]}"#).unwrap();
        let conll = folder.path().join("a.conll");
        std::fs::write(&conll, "NaCl\tB-FORMULA\n.\tO\n").unwrap();
        let from_jsonl = read(&jsonl, &TypeFilter::all()).unwrap();
        let from_conll = read(&conll, &TypeFilter::all()).unwrap();
        assert_eq!(from_jsonl[0].mentions, from_conll[0].mentions);
        assert_eq!(from_jsonl[0].words, None);
        assert_eq!(from_conll[0].words, Some(vec![0..4, 5..6]));

        let error = read(&folder.path().join("none.conll"), &TypeFilter::all()).unwrap_err();
        assert!(error.to_string().contains("none.conll: cannot read: "), "{error}");
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(excerpt(&"é".repeat(61)), format!("{} ...", "é".repeat(60)));
    }

    /// Leftmost-longest by its definition: again and again the best of all that do not overlap what was taken.
    fn flat_mentions_slow(mentions: &[Mention]) -> Vec<Mention> {
        let mut flat: Vec<Mention> = Vec::new();
        loop {
            let free = |m: &&Mention| m.start < m.end && flat.iter().all(|f| m.end <= f.start || f.end <= m.start);
            let mut best: Option<&Mention> = None;
            for m in mentions.iter().filter(free) {
                if best.is_none_or(|b| m.start < b.start || (m.start == b.start && m.end > b.end)) {
                    best = Some(m);
                }
            }
            match best {
                Some(best) => flat.push(best.clone()),
                None => return flat,
            }
        }
    }

    proptest! {
        #[test]
        fn flat_mentions_equal_the_definition(spans in prop::collection::vec((0usize..20, 0usize..6), 0..12)) {
            let mentions: Vec<Mention> = spans.iter().enumerate()
                .map(|(i, &(start, length))| Mention { label: i.to_string(), ..mention(start, start + length) })
                .collect();
            prop_assert_eq!(flat_mentions(&mentions), flat_mentions_slow(&mentions));
        }
    }
}
