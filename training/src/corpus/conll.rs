//! In: a .conll corpus, `token<TAB>tag` on a line, an empty line between sentences, tags O, B-type and I-type.
//! Out: one [`Document`] for every sentence, its tokens joined by single spaces and kept as the words.
//! From: IOB2 (Tjong Kim Sang and Veenstra 1999), read as seqeval's strict mode reads it, so that scores agree.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Document, Mention, TypeFilter, excerpt, numbered_lines, read_utf8};
use crate::error::{Error, Result};
use crate::score::iob2_spans;

/// What [`read_conll_lenient`] read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LenientCorpus {
    pub documents: Vec<Document>,
    /// How many `I-type` tags continue no mention, of whatever type; they belong to none.
    pub stray_tags: usize,
}

/// Reads a .conll corpus. A document's id is the file's name and the line of its first token, `devel.conll:17`.
///
/// ```
/// use chemtag_training::corpus::{Mention, TypeFilter, read_conll};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("corpus.conll");
/// std::fs::write(&path, "Films\tO\nof\tO\nzinc\tB-MAT\noxide\tI-MAT\n.\tO\n\nDone\tO\n")?;
///
/// let documents = read_conll(&path, &TypeFilter::all())?;
/// assert_eq!(documents[0].text, "Films of zinc oxide .");
/// assert_eq!(documents[0].mentions, [Mention { start: 9, end: 19, label: "MAT".into() }]);
/// assert_eq!(documents[1].id, "corpus.conll:7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// With the file and the line, for what is not UTF-8, for a line that has not two columns, an empty token, a tag that
/// is not O, B-type or I-type, and an I-type that follows neither B-type nor I-type of its own type;
/// [`Error::UnknownTypes`] for a wanted type that no mention has.
pub fn read_conll(path: &Path, types: &TypeFilter) -> Result<Vec<Document>> {
    read_sentences(path, types, false).map(|corpus| corpus.documents)
}

/// Reads a .conll corpus as [`read_conll`] does, but takes an `I-type` that continues no mention as outside of any, as
/// seqeval's strict mode does, and counts it.
///
/// # Errors
///
/// Those of [`read_conll`], less that of such a tag.
pub fn read_conll_lenient(path: &Path, types: &TypeFilter) -> Result<LenientCorpus> {
    read_sentences(path, types, true)
}

/// A line of the file that holds a token.
struct Token<'a> {
    line: usize,
    form: &'a str,
    tag: &'a str,
}

fn read_sentences(path: &Path, types: &TypeFilter, lenient: bool) -> Result<LenientCorpus> {
    let file = read_utf8(path)?;
    let mut corpus = LenientCorpus { documents: Vec::new(), stray_tags: 0 };
    let mut present = BTreeSet::new();
    let mut sentence: Vec<Token<'_>> = Vec::new();
    // The empty line after the last one closes a sentence that the file leaves open.
    for (number, line) in numbered_lines(&file).chain([(0, "")]) {
        if !line.is_empty() {
            let token = parse_token(path, number, line)?;
            let previous = sentence.last().map_or("O", |token| token.tag);
            if is_stray(previous, token.tag) && !lenient {
                let label = &token.tag[2..];
                return Err(malformed(
                    path,
                    number,
                    "tag",
                    format!("B-{label} to begin a mention (I-{label} only continues B-{label} or I-{label})"),
                    format!("{:?} after {previous:?}", token.tag),
                ));
            }
            sentence.push(token);
        } else if !sentence.is_empty() {
            let (mut document, stray_tags) = assemble(path, &sentence);
            corpus.stray_tags += stray_tags;
            present.extend(document.mentions.iter().map(|mention| mention.label.clone()));
            document.mentions.retain(|mention| types.keeps(&mention.label));
            corpus.documents.push(document);
            sentence.clear();
        }
    }
    types.check(path, present)?;
    Ok(corpus)
}

fn malformed(path: &Path, line: usize, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        line,
        field: field.to_owned(),
        expected: expected.into(),
        found: found.into(),
    }
}

fn parse_token<'a>(path: &Path, line: usize, content: &'a str) -> Result<Token<'a>> {
    let columns = content.split('\t').count();
    let Some((form, tag)) = content.split_once('\t').filter(|_| columns == 2) else {
        let found = format!("{columns}: {:?}", excerpt(content));
        return Err(malformed(path, line, "columns", "2, a token and its tag with a tab between them", found));
    };
    if form.trim().is_empty() {
        let found = format!("{:?}", excerpt(form));
        return Err(malformed(path, line, "token", "something other than white space", found));
    }
    if tag != "O" && label(tag).is_none() {
        let found = format!("{:?}", excerpt(tag));
        return Err(malformed(path, line, "tag", "O, B-type or I-type", found));
    }
    Ok(Token { line, form, tag })
}

/// The type of a B-type or I-type tag. seqeval drops hyphens and white space around a type would never match a
/// filter, so a type has neither.
fn label(tag: &str) -> Option<&str> {
    let label = tag.strip_prefix("B-").or_else(|| tag.strip_prefix("I-"))?;
    let clean = !label.is_empty() && label.trim() == label && label.trim_matches('-') == label;
    clean.then_some(label)
}

fn is_stray(previous: &str, tag: &str) -> bool {
    tag.starts_with("I-") && label(previous) != label(tag)
}

/// A sentence's document with mentions of every type, and how many of its I tags continue none.
fn assemble(path: &Path, tokens: &[Token<'_>]) -> (Document, usize) {
    let mut text = String::new();
    let mut words = Vec::with_capacity(tokens.len());
    for token in tokens {
        if !text.is_empty() {
            text.push(' ');
        }
        let start = text.len();
        text.push_str(token.form);
        words.push(start..text.len());
    }
    let tags: Vec<&str> = tokens.iter().map(|token| token.tag).collect();
    let mut stray_tags = tags.iter().filter(|tag| tag.starts_with("I-")).count();
    let mut mentions = Vec::new();
    for (span, label) in iob2_spans(&tags) {
        stray_tags -= span.len() - 1;
        mentions.push(Mention { start: words[span.start].start, end: words[span.end - 1].end, label });
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let line = tokens.first().map_or(0, |token| token.line);
    let document = Document { id: format!("{name}:{line}"), text, mentions, words: Some(words) };
    (document, stray_tags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_file<T>(bytes: &[u8], read: impl Fn(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.conll");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    fn read_text(file: &str, types: &TypeFilter) -> Result<Vec<Document>> {
        with_file(file.as_bytes(), |path| read_conll(path, types))
    }

    /// `text[start..end]/label` for every mention.
    fn shown(document: &Document) -> Vec<String> {
        let cut = |m: &Mention| format!("{}/{}", &document.text[m.start..m.end], m.label);
        document.mentions.iter().map(cut).collect()
    }

    #[test]
    fn sentences_words_and_mentions() {
        let file = "\u{FEFF}\n\nLa₀\tB-MAT\n.9\tI-MAT\nα\tB-MAT\nfilm\tB-DSC\r\n\r\n\n\nNo\tO\n\nZnO\tB-MAT";
        let documents = read_text(file, &TypeFilter::all()).unwrap();
        let ids: Vec<&str> = documents.iter().map(|document| document.id.as_str()).collect();
        assert_eq!(ids, ["c.conll:3", "c.conll:10", "c.conll:12"]);
        assert_eq!(documents[0].text, "La₀ .9 α film");
        assert_eq!(documents[0].words, Some(vec![0..5, 6..8, 9..11, 12..16]));
        assert_eq!(shown(&documents[0]), ["La₀ .9/MAT", "α/MAT", "film/DSC"]);
        assert_eq!(shown(&documents[1]), [""; 0]);
        assert_eq!(shown(&documents[2]), ["ZnO/MAT"]);
    }

    #[test]
    fn types_are_filtered_and_unknown_ones_named() {
        let file = "a\tB-X\nb\tI-X\nc\tB-Y-Z\n\nd\tB-Y-Z\n";
        let documents = read_text(file, &"Y-Z".parse().unwrap()).unwrap();
        assert_eq!(shown(&documents[0]), ["c/Y-Z"]);
        let error = read_text(file, &"Y".parse().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("c.conll: no mention has the type Y; the types in this file are: X, Y-Z"), "{error}");
        assert!(read_text("", &TypeFilter::all()).unwrap().is_empty());
        assert!(read_text("\n\n", &TypeFilter::all()).unwrap().is_empty());
    }

    #[test]
    fn malformed_lines_are_named() {
        let cases = [
            ("word", "columns: expected 2, a token and its tag with a tab between them, found 1: \"word\""),
            ("word O", "columns: expected 2, a token and its tag with a tab between them, found 1: \"word O\""),
            (" ", "columns: expected 2, a token and its tag with a tab between them, found 1: \" \""),
            (
                "word\tNN\tO",
                "columns: expected 2, a token and its tag with a tab between them, found 3: \"word\\tNN\\tO\"",
            ),
            ("\tO", "token: expected something other than white space, found \"\""),
            ("\u{A0}\tO", "token: expected something other than white space, found \"\\u{a0}\""),
            ("word\t", "tag: expected O, B-type or I-type, found \"\""),
            ("word\to", "tag: expected O, B-type or I-type, found \"o\""),
            ("word\tO ", "tag: expected O, B-type or I-type, found \"O \""),
            ("word\tB", "tag: expected O, B-type or I-type, found \"B\""),
            ("word\tB-", "tag: expected O, B-type or I-type, found \"B-\""),
            ("word\tB--MAT", "tag: expected O, B-type or I-type, found \"B--MAT\""),
            ("word\tI-MAT ", "tag: expected O, B-type or I-type, found \"I-MAT \""),
            ("word\tE-MAT", "tag: expected O, B-type or I-type, found \"E-MAT\""),
            ("word\tS-MAT", "tag: expected O, B-type or I-type, found \"S-MAT\""),
            (
                "word\tI-MAT",
                "tag: expected B-MAT to begin a mention (I-MAT only continues B-MAT or I-MAT), found \"I-MAT\" after \"B-DSC\"",
            ),
        ];
        for (line, message) in cases {
            let file = format!("good\tB-DSC\n{line}\ngood\tO\n");
            let error = read_text(&file, &TypeFilter::all()).expect_err(line).to_string();
            assert!(error.ends_with(&format!("c.conll:2: {message}")), "{line}: {error}");
        }
        for (file, message) in [
            ("a\tO\nb\tI-X\n", "c.conll:2: tag"),
            ("a\tB-X\n\nb\tI-X\n", "c.conll:3: tag"),
            ("I\tI-X\n", "found \"I-X\" after \"O\""),
        ] {
            let error = read_text(file, &TypeFilter::all()).expect_err(file).to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = with_file(b"a\tO\n\n\xFFb\tO\n", |path| read_conll(path, &TypeFilter::all())).unwrap_err();
        assert!(error.to_string().contains("c.conll:3: expected UTF-8, found the byte 0xFF at column 1"), "{error}");
    }

    #[test]
    fn lenient_reading_drops_and_counts_stray_tags() {
        let file = "a\tI-X\nb\tI-X\nc\tB-X\nd\tI-X\ne\tI-Y\nf\tI-X\n\ng\tI-Y\nh\tB-Y\ni\tI-Y\n";
        let corpus = with_file(file.as_bytes(), |path| read_conll_lenient(path, &"X".parse().unwrap())).unwrap();
        assert_eq!(shown(&corpus.documents[0]), ["c d/X"]);
        assert_eq!(shown(&corpus.documents[1]), [""; 0]);
        assert_eq!(corpus.stray_tags, 5);
        let error = with_file(b"a\tQ\n", |path| read_conll_lenient(path, &TypeFilter::all())).unwrap_err();
        assert!(error.to_string().contains("c.conll:1: tag"), "{error}");
    }

    proptest! {
        #[test]
        fn words_are_the_tokens_and_reading_twice_agrees(
            tokens in prop::collection::vec(("[a-zé₂Ω.()]{1,4}", prop::sample::select(vec!["O", "B-X", "B-Y", "I-X", "I-Y"])), 1..30),
        ) {
            let file: String = tokens.iter().map(|(form, tag)| format!("{form}\t{tag}\n")).collect();
            let lenient = with_file(file.as_bytes(), |path| read_conll_lenient(path, &TypeFilter::all())).unwrap();
            let document = &lenient.documents[0];
            let words: Vec<&str> = document.words.iter().flatten().map(|word| &document.text[word.clone()]).collect();
            let forms: Vec<&str> = tokens.iter().map(|(form, _)| form.as_str()).collect();
            prop_assert_eq!(&words, &forms);
            prop_assert_eq!(&document.text, &forms.join(" "));
            match with_file(file.as_bytes(), |path| read_conll(path, &TypeFilter::all())) {
                Ok(strict) => {
                    prop_assert_eq!(lenient.stray_tags, 0);
                    prop_assert_eq!(strict, lenient.documents);
                }
                Err(error) => prop_assert!(lenient.stray_tags > 0, "{}", error),
            }
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a\u{A0}\t\r\nBIO-]{0,60}") {
            let _ = with_file(&bytes, |path| read_conll(path, &TypeFilter::all()));
            let _ = with_file(text.as_bytes(), |path| read_conll_lenient(path, &TypeFilter::all()));
        }
    }
}
