//! In: documents and what a tagger predicted for them.
//! Out: a tab-separated file with a line for every error, its span and the text around it.
//! From: the keyword-in-context concordance (Luhn 1960), one line for every place and what stands around it.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use super::Predicted;
use super::border_errors::{BorderError, border_errors};
use crate::corpus::{Document, code_point_starts};
use crate::error::{Error, Result};
use crate::files::write_atomically_with;

/// Characters of the text shown before and after an error.
const CONTEXT: usize = 40;

const HEADER: &str =
    "document\tkind\tgold_start\tgold_end\tgold_text\tpredicted_start\tpredicted_end\tpredicted_text\tbefore\tafter";

/// Writes the errors in the borders of predictions, tab-separated under a line of column names:
///
/// | columns | content |
/// |---|---|
/// | `document` | its id |
/// | `kind` | `missed` (no prediction), `spurious` (no mention) or `border` (they overlap, but differ) |
/// | `gold_start`, `gold_end`, `gold_text` | the mention, empty for `spurious` |
/// | `predicted_start`, `predicted_end`, `predicted_text` | the prediction, empty for `missed` |
/// | `before`, `after` | 40 characters of the text on each side of both |
///
/// Offsets are in code points. `\`, tab, line feed and carriage return are written `\\`, `\t`, `\n`, `\r`. Of
/// a document's mentions, each wrong one stands on one line and so does each wrong prediction: `missed` and `border`
/// lines together are gold - correct of [`Scores::overall`](super::Scores), `spurious` and `border` are predicted - correct.
///
/// The file is written beside `path` under another name and renamed when it is complete.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be written, [`Error::Span`] for a span outside its document's text or inside a character;
/// then `path` is as it was.
///
/// ```
/// use chemtag_training::corpus::{Document, Mention};
/// use chemtag_training::score::write_errors;
///
/// let document = Document {
///     id: "7".into(),
///     text: "α-Pinene oxide reacts.".into(),
///     mentions: vec![Mention { start: 0, end: 15, label: "SYSTEMATIC".into() }],
///     words: None,
/// };
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("errors.tsv");
/// write_errors(&path, [(&document, &[(0..9, None)][..])])?;
/// let written = std::fs::read_to_string(&path)?;
/// assert_eq!(written.lines().nth(1), Some("7\tborder\t0\t14\tα-Pinene oxide\t0\t8\tα-Pinene\t\t reacts."));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_errors<'a>(
    path: &Path,
    scored: impl IntoIterator<Item = (&'a Document, &'a [Predicted<'a>])>,
) -> Result<()> {
    let failed = |source: io::Error| Error::io("write", path, source);
    write_atomically_with(path, |file| {
        writeln!(file, "{HEADER}").map_err(failed)?;
        for (document, predicted) in scored {
            check_spans(document, predicted)?;
            let errors = border_errors(&document.mentions, predicted);
            if errors.is_empty() {
                continue;
            }
            let page = Page { document, starts: code_point_starts(&document.text) };
            for error in &errors {
                writeln!(file, "{}", page.row(error)).map_err(failed)?;
            }
        }
        Ok(())
    })
}

fn check_spans(document: &Document, predicted: &[Predicted<'_>]) -> Result<()> {
    let gold = document.mentions.iter().map(|m| ("gold", m.start..m.end));
    let predicted = predicted.iter().map(|(range, _)| ("predicted", range.clone()));
    for (kind, span) in gold.chain(predicted) {
        if document.text.get(span.clone()).is_none() {
            return Err(Error::Span {
                document: document.id.clone(),
                kind,
                start: span.start,
                end: span.end,
                length: document.text.len(),
            });
        }
    }
    Ok(())
}

/// A document ready to have its errors written.
struct Page<'a> {
    document: &'a Document,
    starts: Vec<usize>,
}

impl Page<'_> {
    fn row(&self, error: &BorderError) -> String {
        let text = &self.document.text;
        let extent = error.extent();
        let (start, end) = (self.code_point(extent.start), self.code_point(extent.end));
        let before = self.starts[start.saturating_sub(CONTEXT)];
        let after = self.starts[(end + CONTEXT).min(self.starts.len() - 1)];
        [
            escape(&self.document.id),
            error.kind().to_owned(),
            self.cells(error.gold.as_ref()),
            self.cells(error.predicted.as_ref()),
            escape(&text[before..extent.start]),
            escape(&text[extent.end..after]),
        ]
        .join("\t")
    }

    fn cells(&self, span: Option<&Range<usize>>) -> String {
        match span {
            Some(span) => format!(
                "{}\t{}\t{}",
                self.code_point(span.start),
                self.code_point(span.end),
                escape(&self.document.text[span.clone()])
            ),
            None => "\t\t".to_owned(),
        }
    }

    fn code_point(&self, byte: usize) -> usize {
        self.starts.partition_point(|&start| start < byte)
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::corpus::Mention;

    fn document(text: &str, spans: &[(usize, usize)]) -> Document {
        let mention = |&(start, end): &(usize, usize)| Mention { start, end, label: "A".into() };
        Document { id: "d\t1".into(), text: text.into(), mentions: spans.iter().map(mention).collect(), words: None }
    }

    fn predictions(spans: &[(usize, usize)]) -> Vec<Predicted<'static>> {
        spans.iter().map(|&(start, end)| (start..end, None)).collect()
    }

    fn written(document: &Document, predicted: &[(usize, usize)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("errors.tsv");
        write_errors(&path, [(document, predictions(predicted).as_slice())]).unwrap();
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["errors.tsv"], "the partial file is left behind");
        let file = fs::read_to_string(&path).unwrap();
        let mut lines = file.split_terminator('\n').map(str::to_owned);
        assert_eq!(lines.next().as_deref(), Some(HEADER));
        lines.collect()
    }

    #[test]
    fn rows_of_each_kind_in_the_order_of_the_text() {
        let text = "β-NaCl,\tKCl\\x\r\nLiCl";
        //          0  3     7 8   11  13 15..19 in code points + 1 for β in bytes
        let gold = document(text, &[(16, 20), (0, 7), (9, 12)]);
        assert_eq!(
            written(&gold, &[(9, 12), (13, 14), (3, 7)]),
            [
                "d\\t1\tborder\t0\t6\tβ-NaCl\t2\t6\tNaCl\t\t,\\tKCl\\\\x\\r\\nLiCl",
                "d\\t1\tspurious\t\t\t\t12\t13\tx\tβ-NaCl,\\tKCl\\\\\t\\r\\nLiCl",
                "d\\t1\tmissed\t15\t19\tLiCl\t\t\t\tβ-NaCl,\\tKCl\\\\x\\r\\n\t",
            ]
        );
        assert_eq!(written(&gold, &[(0, 7), (9, 12), (16, 20)]), [""; 0]);
    }

    #[test]
    fn context_is_forty_characters() {
        let text = format!("{}NaCl{}", "é".repeat(50), "ω".repeat(50));
        let rows = written(&document(&text, &[(100, 104)]), &[]);
        let cells: Vec<&str> = rows[0].split('\t').collect();
        assert_eq!(cells.len(), HEADER.split('\t').count());
        assert_eq!(cells[8..], ["é".repeat(40), "ω".repeat(40)]);
    }

    #[test]
    fn a_mention_pairs_with_one_prediction() {
        // One long mention, two predictions in it; an empty mention in a prediction.
        let rows = written(&document("abcdefghij", &[(0, 6), (8, 8)]), &[(0, 2), (4, 6), (7, 9)]);
        let kinds: Vec<Vec<&str>> = rows.iter().map(|row| row.split('\t').skip(1).take(3).collect()).collect();
        assert_eq!(
            kinds,
            [vec!["border", "0", "6"], vec!["spurious", "", ""], vec!["spurious", "", ""], vec!["missed", "8", "8"]]
        );
    }

    #[test]
    fn spans_outside_the_text_are_named_and_the_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("errors.tsv");
        fs::write(&path, "old").unwrap();
        #[expect(clippy::reversed_empty_ranges, reason = "one of the bad spans")]
        let bad = [(0..9, "0..9"), (1..2, "1..2"), (2..0, "2..0"), (0..1000, "0..1000")];
        for (span, shown) in bad {
            let gold = document("é1", &[]);
            let error = write_errors(&path, [(&gold, &[(span, None)][..])]).unwrap_err().to_string();
            assert!(error.contains(&format!("the predicted span {shown} (bytes)")), "{error}");
        }
        let error = write_errors(&path, [(&document("é1", &[(0, 1)]), &[][..])]).unwrap_err().to_string();
        assert!(error.contains("the gold span 0..1 (bytes) is outside the text of 3 bytes"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let nowhere = folder.path().join("none").join("errors.tsv");
        let error = write_errors(&nowhere, []).unwrap_err();
        assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
        // A folder in the way: the rename fails and nothing stays behind.
        let folder_in_the_way = folder.path().join("folder");
        fs::create_dir_all(folder_in_the_way.join("full")).unwrap();
        let error = write_errors(&folder_in_the_way, []).unwrap_err();
        assert!(matches!(error, Error::Io { action: "rename", .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
