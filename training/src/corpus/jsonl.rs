//! In: a .jsonl corpus, one `{"id", "text", "spans": [[start, end, type], ...]}` on a line, offsets in code points.
//! Out: [`Document`]s with byte offsets.
//! From: the offset convention of the BioCreative CHEMDNER task (Krallinger et al. 2015), start included, end not.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Document, Mention, TypeFilter, code_point_starts, excerpt, numbered_lines, read_utf8};
use crate::error::{Error, Result};

/// Reads a .jsonl corpus: on every line an object with `id` and `text` (strings) and `spans`, a list of
/// `[start, end, type]` in Unicode code points of `text`. Other fields are ignored, empty lines skipped.
///
/// ```
/// use chemtag_training::corpus::{Mention, TypeFilter, read_jsonl};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("corpus.jsonl");
/// std::fs::write(&path, r#"{"id": "1", "text": "β-Alanine in H2O", "spans": [[0, 9, "TRIVIAL"], [13, 16, "FORMULA"]]}"#)?;
///
/// let documents = read_jsonl(&path, &"TRIVIAL".parse::<TypeFilter>()?)?;
/// assert_eq!(documents[0].mentions, [Mention { start: 0, end: 10, label: "TRIVIAL".into() }]);
/// assert_eq!(&documents[0].text[0..10], "β-Alanine");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// With the file and the line, for what is not UTF-8, not JSON, lacks a field or has one of another kind, and for a
/// span that starts after its end or ends after the text; [`Error::UnknownTypes`] for a wanted type that no span has.
pub fn read_jsonl(path: &Path, types: &TypeFilter) -> Result<Vec<Document>> {
    let file = read_utf8(path)?;
    let mut documents = Vec::new();
    let mut present = BTreeSet::new();
    for (number, line) in numbered_lines(&file).filter(|(_, line)| !line.trim().is_empty()) {
        let mut document = parse_document(&Line { path, number }, line)?;
        for mention in &document.mentions {
            if !present.contains(&mention.label) {
                present.insert(mention.label.clone());
            }
        }
        document.mentions.retain(|mention| types.keeps(&mention.label));
        documents.push(document);
    }
    types.check(path, present)?;
    Ok(documents)
}

/// Where a value stands, for error messages.
struct Line<'a> {
    path: &'a Path,
    number: usize,
}

impl Line<'_> {
    fn malformed(&self, field: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Malformed {
            path: self.path.to_owned(),
            line: self.number,
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn string(&self, object: &Value, field: &str) -> Result<String> {
        match object.get(field) {
            Some(Value::String(value)) => Ok(value.clone()),
            other => Err(self.malformed(field, "a string", describe(other))),
        }
    }
}

fn parse_document(line: &Line<'_>, json: &str) -> Result<Document> {
    let object: Value = serde_json::from_str(json).map_err(|error| {
        let message = error.to_string();
        Error::Json {
            path: line.path.to_owned(),
            line: line.number,
            column: error.column(),
            // serde_json counts lines within this one line.
            message: match message.rsplit_once(" at line ") {
                Some((cause, _)) => cause.to_owned(),
                None => message,
            },
        }
    })?;
    if !object.is_object() {
        return Err(line.malformed("line", "a JSON object", describe(Some(&object))));
    }
    let id = line.string(&object, "id")?;
    let text = line.string(&object, "text")?;
    let spans = match object.get("spans") {
        Some(Value::Array(spans)) => spans,
        other => {
            return Err(line.malformed("spans", "a list of [start, end, type]", describe(other)));
        }
    };
    let starts = code_point_starts(&text);
    let mentions =
        spans.iter().enumerate().map(|(index, span)| parse_span(line, index, span, &starts)).collect::<Result<_>>()?;
    Ok(Document { id, text, mentions, words: None })
}

fn parse_span(line: &Line<'_>, index: usize, span: &Value, starts: &[usize]) -> Result<Mention> {
    let malformed = |expected: &str| line.malformed(format!("spans[{index}]"), expected, describe(Some(span)));
    let Some([start, end, label]) = span.as_array().map(Vec::as_slice) else {
        return Err(malformed("[start, end, type]"));
    };
    let (Some(start), Some(end)) = (start.as_u64(), end.as_u64()) else {
        return Err(malformed("start and end as whole numbers from 0"));
    };
    let Some(label) = label.as_str().filter(|label| !label.is_empty()) else {
        return Err(malformed("a type that is a non-empty string"));
    };
    if start > end {
        return Err(malformed("a start that is not after the end"));
    }
    let byte = |offset: u64| usize::try_from(offset).ok().and_then(|offset| starts.get(offset).copied());
    let (Some(start), Some(end)) = (byte(start), byte(end)) else {
        return Err(malformed(&format!("offsets within the text of {} code points", starts.len() - 1)));
    };
    Ok(Mention { start, end, label: label.to_owned() })
}

fn describe(value: Option<&Value>) -> String {
    match value {
        None => "no such field".to_owned(),
        Some(value) => excerpt(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_bytes(bytes: &[u8], types: &TypeFilter) -> Result<Vec<Document>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.jsonl");
        std::fs::write(&path, bytes).unwrap();
        read_jsonl(&path, types)
    }

    #[test]
    fn offsets_become_bytes() {
        let file = concat!(
            "\u{FEFF}{\"id\":\"a\",\"text\":\"γ\\u0301-Al₂O₃\\r\\n😀NaCl\",\"spans\":[[3,8,\"X\"],[11,15,\"Y\"]],\"more\":1}\r\n",
            "\n",
            "{\"id\":\"b\",\"text\":\"\",\"spans\":[]}"
        );
        let documents = read_bytes(file.as_bytes(), &TypeFilter::all()).unwrap();
        assert_eq!(documents.len(), 2);
        let text = &documents[0].text;
        let cut: Vec<&str> = documents[0].mentions.iter().map(|m| &text[m.start..m.end]).collect();
        assert_eq!(cut, ["Al₂O₃", "NaCl"]);
        assert_eq!(documents[1].text, "");
        assert!(documents.iter().all(|document| document.words.is_none()));
    }

    #[test]
    fn empty_repeated_nested_and_unordered_spans_are_kept_in_order() {
        let file = r#"{"id":"a","text":"ethyl acetate","spans":[[6,13,"B"],[0,13,"A"],[0,5,"A"],[0,5,"A"],[3,3,"A"],[13,13,"A"]]}"#;
        let spans: Vec<(usize, usize)> = read_bytes(file.as_bytes(), &TypeFilter::all()).unwrap()[0]
            .mentions
            .iter()
            .map(|m| (m.start, m.end))
            .collect();
        assert_eq!(spans, [(6, 13), (0, 13), (0, 5), (0, 5), (3, 3), (13, 13)]);
    }

    #[test]
    fn types_are_filtered_and_unknown_ones_named() {
        let file = "{\"id\":\"a\",\"text\":\"ab\",\"spans\":[[0,1,\"NO CLASS\"],[1,2,\"B\"]]}\n{\"id\":\"b\",\"text\":\"ab\",\"spans\":[[0,1,\"A\"]]}";
        let kept = |types: &str| -> Vec<usize> {
            let documents = read_bytes(file.as_bytes(), &types.parse().unwrap()).unwrap();
            documents.iter().map(|document| document.mentions.len()).collect()
        };
        assert_eq!(kept("NO CLASS"), [1, 0]);
        assert_eq!(kept("A,B"), [1, 1]);
        let error = read_bytes(file.as_bytes(), &"A,CLASS,b".parse().unwrap()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("c.jsonl: no mention has the type CLASS, b; the types in this file are: A, B, NO CLASS"),
            "{error}"
        );
        let error = read_bytes(b"", &"A".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("none, it has no mentions"), "{error}");
        assert!(read_bytes(b"", &TypeFilter::all()).unwrap().is_empty());
    }

    #[test]
    fn malformed_lines_are_named() {
        let good = r#"{"id":"a","text":"é€😀","spans":[[0,3,"A"]]}"#;
        let huge = format!(r#"{{"id":[{}1],"text":"","spans":[]}}"#, "1,".repeat(90));
        let cases: Vec<(&str, &str)> = vec![
            ("{", "2: expected a JSON object on one line, found invalid JSON at column 1: EOF while parsing an object"),
            (r#"{"id":"a"} x"#, "invalid JSON at column 12: trailing characters"),
            (r#"{"id":"\ud800","text":"","spans":[]}"#, "invalid JSON at column"),
            ("[]", "2: line: expected a JSON object, found []"),
            ("null", "2: line: expected a JSON object, found null"),
            (r#"{"text":"","spans":[]}"#, "2: id: expected a string, found no such field"),
            (r#"{"id":7,"text":"","spans":[]}"#, "2: id: expected a string, found 7"),
            (&huge, "1,1 ..."),
            (r#"{"id":"a","spans":[]}"#, "2: text: expected a string, found no such field"),
            (r#"{"id":"a","text":null,"spans":[]}"#, "2: text: expected a string, found null"),
            (r#"{"id":"a","text":""}"#, "2: spans: expected a list of [start, end, type], found no such field"),
            (r#"{"id":"a","text":"","spans":{}}"#, "2: spans: expected a list of [start, end, type], found {}"),
            (r#"{"id":"a","text":"abc","spans":[[0,1,"A"],7]}"#, "2: spans[1]: expected [start, end, type], found 7"),
            (r#"{"id":"a","text":"abc","spans":[[0,1]]}"#, "2: spans[0]: expected [start, end, type], found [0,1]"),
            (r#"{"id":"a","text":"abc","spans":[[0,1,"A","B"]]}"#, "2: spans[0]: expected [start, end, type], found"),
            (
                r#"{"id":"a","text":"abc","spans":[[-1,1,"A"]]}"#,
                "2: spans[0]: expected start and end as whole numbers from 0, found [-1,1,\"A\"]",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[[0,1.5,"A"]]}"#,
                "2: spans[0]: expected start and end as whole numbers",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[["0",1,"A"]]}"#,
                "2: spans[0]: expected start and end as whole numbers",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[[0,1,null]]}"#,
                "2: spans[0]: expected a type that is a non-empty string",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[[0,1,""]]}"#,
                "2: spans[0]: expected a type that is a non-empty string",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[[2,1,"A"]]}"#,
                "2: spans[0]: expected a start that is not after the end, found [2,1,\"A\"]",
            ),
            (
                r#"{"id":"a","text":"é€😀","spans":[[0,4,"A"]]}"#,
                "2: spans[0]: expected offsets within the text of 3 code points, found [0,4,\"A\"]",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[[0,18446744073709551615,"A"]]}"#,
                "2: spans[0]: expected offsets within",
            ),
            (
                r#"{"id":"a","text":"abc","spans":[[0,18446744073709551616,"A"]]}"#,
                "2: spans[0]: expected start and end as whole numbers",
            ),
        ];
        for (line, message) in cases {
            let file = format!("{good}\n{line}\n{good}\n");
            let error = read_bytes(file.as_bytes(), &TypeFilter::all()).expect_err(line).to_string();
            assert!(error.contains("c.jsonl:2: ") && error.contains(message), "{line}: {error}");
        }
        let mut bytes = format!("{good}\nab").into_bytes();
        bytes.extend([0xC3, b'(', b'\n']);
        let error = read_bytes(&bytes, &TypeFilter::all()).unwrap_err().to_string();
        assert!(error.contains("c.jsonl:2: expected UTF-8, found the byte 0xC3 at column 3"), "{error}");
    }

    proptest! {
        #[test]
        fn spans_cut_what_code_points_say(text in any::<String>(), at in any::<(prop::sample::Index, prop::sample::Index)>()) {
            let characters: Vec<char> = text.chars().collect();
            let (a, b) = (at.0.index(characters.len() + 1), at.1.index(characters.len() + 1));
            let (start, end) = (a.min(b), a.max(b));
            let file = json!({"id": "a", "text": text, "spans": [[start, end, "A"]]}).to_string();
            let documents = read_bytes(file.as_bytes(), &TypeFilter::all()).unwrap();
            let mention = &documents[0].mentions[0];
            prop_assert_eq!(&documents[0].text, &text);
            prop_assert_eq!(&text[mention.start..mention.end], characters[start..end].iter().collect::<String>());
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), line in "[\\[\\]{}\",:0-9a-z]{0,60}") {
            let _ = read_bytes(&bytes, &TypeFilter::all());
            let _ = read_bytes(line.as_bytes(), &TypeFilter::all());
        }
    }
}
