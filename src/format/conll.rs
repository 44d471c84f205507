//! In: a token a line, further columns behind it, an empty line between sentences, `-DOCSTART-` before a document (the CoNLL-2003 shared
//! task, <https://www.clips.uantwerpen.be/conll2003/ner/>). Out: documents whose words are these tokens; written, token and IOB2 tag.

use std::io::{self, Write};
use std::ops::Range;

use super::document::{Document, Passage};
use super::lines::Lines;
use super::{Writer, record_id};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::reading::Note;
use crate::text::{sentences, words};

const DOCUMENT_START: &str = "-DOCSTART-";
/// Type of a mention whose model has no classes.
const NO_CLASS: &str = "CHEMICAL";

/// The documents of a file: what follows a `-DOCSTART-`, or a sentence in a file without.
pub(super) struct Sentences {
    lines: Lines,
    most_bytes: usize,
    /// A `-DOCSTART-` was read, so that sentences belong together.
    documents: bool,
    ended: bool,
}

impl Sentences {
    pub fn new(lines: Lines, most_bytes: usize) -> Self {
        Self { lines, most_bytes, documents: false, ended: false }
    }

    fn read(&mut self) -> Result<Option<Document>> {
        let mut document = Document { assembled: true, words: Some(Vec::new()), ..Document::default() };
        let mut sentence: Option<usize> = None;
        let mut failed = None;
        while let Some(line) = self.lines.next() {
            let token = match line {
                Ok(line) => line.split(['\t', ' ']).next().unwrap_or_default(),
                // The rest of the document is passed over: nothing is read as if the line were not there.
                Err(error @ Error::Malformed { .. }) => {
                    failed.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if token == DOCUMENT_START {
                let whole = failed.is_some() || !document.passages.is_empty() || sentence.is_some();
                self.documents = true;
                if whole {
                    end_sentence(&mut document, &mut sentence);
                    return failed.map_or(Ok(Some(document)), Err);
                }
                continue;
            }
            if token.is_empty() {
                end_sentence(&mut document, &mut sentence);
                if !self.documents && (failed.is_some() || !document.passages.is_empty()) {
                    return failed.map_or(Ok(Some(document)), Err);
                }
                continue;
            }
            if failed.is_some() {
                continue;
            }
            if document.text.len() + token.len() >= self.most_bytes {
                document = Document::default();
                let problem = format!("a document is longer than {} bytes, the most that is read", self.most_bytes);
                failed = Some(self.lines.malformed(problem));
                continue;
            }
            if sentence.is_some() {
                document.text.push(' ');
            } else if !document.passages.is_empty() {
                document.text.push('\n');
            }
            let start = document.text.len();
            document.text.push_str(token);
            sentence.get_or_insert(start);
            document.words.get_or_insert_default().push(start..document.text.len());
            if document.id.is_empty() {
                document.id = record_id(&self.lines.file, self.lines.number);
            }
        }
        self.ended = true;
        end_sentence(&mut document, &mut sentence);
        match failed {
            Some(error) => Err(error),
            None => Ok((!document.passages.is_empty()).then_some(document)),
        }
    }
}

fn end_sentence(document: &mut Document, sentence: &mut Option<usize>) {
    if let Some(start) = sentence.take() {
        document.passages.push(Passage { range: start..document.text.len(), kind: "sentence".into() });
    }
}

impl Iterator for Sentences {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended |= !matches!(read, Some(Ok(_) | Err(Error::Malformed { .. })));
        read
    }
}

/// Writes tokens with their tags.
pub(super) struct ConllWriter<W> {
    out: W,
}

impl<W: Write> ConllWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    fn write_sentence(&mut self, text: &str, words: &[Range<usize>], entities: &[Entity]) -> io::Result<()> {
        let mut last = None;
        for word in words {
            let index = entities.partition_point(|entity| entity.end <= word.start);
            let entity = entities.get(index).filter(|entity| entity.start < word.end);
            let token = text.get(word.clone()).unwrap_or_default();
            match entity {
                None => writeln!(self.out, "{token}\tO")?,
                Some(entity) => {
                    let tag = if last == Some(index) { "I" } else { "B" };
                    writeln!(self.out, "{token}\t{tag}-{}", entity.class.as_deref().unwrap_or(NO_CLASS))?;
                }
            }
            last = entity.map(|_| index);
        }
        if words.is_empty() { Ok(()) } else { writeln!(self.out) }
    }
}

impl<W: Write> Writer for ConllWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], _notes: &[Note]) -> io::Result<()> {
        let lone_sentence = document.words.is_some() && document.passages.len() == 1;
        if !lone_sentence {
            write!(self.out, "{DOCUMENT_START}\tO\n\n")?;
        }
        for passage in &document.passages {
            if document.words.is_some() {
                self.write_sentence(&document.text, document.words_of(passage), entities)?;
                continue;
            }
            let text = document.text.get(passage.range.clone()).unwrap_or_default();
            for sentence in sentences(text) {
                let start = passage.range.start + sentence.range.start;
                let words: Vec<Range<usize>> = words(text.get(sentence.range).unwrap_or_default())
                    .map(|word| start + word.start..start + word.end)
                    .collect();
                self.write_sentence(&document.text, &words, entities)?;
            }
        }
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &'static [u8]) -> Vec<Result<Document, String>> {
        let found = Sentences::new(Lines::new(Box::new(input), "a.conll", 1000), 40);
        found.map(|document| document.map_err(|error| error.to_string())).collect()
    }

    fn written(document: &Document, entities: &[Entity]) -> String {
        let mut out = Vec::new();
        ConllWriter::new(&mut out).write(document, entities, &[]).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn mention(document: &Document, text: &str, class: Option<&str>) -> Entity<'static> {
        let start = document.text.find(text).unwrap();
        let class = class.map(Into::into);
        Entity { start, end: start + text.len(), text: text.to_string().into(), class, score: 1.0 }
    }

    #[test]
    fn tokens_in_tags_out() {
        let input = "-DOCSTART- -X- -X- O\r\n\r\nFilms NNS I-NP O\r\nof IN O\r\nzinc\r\noxide\r\n\r\n\r\nLiCl\tNN\r\n\r\n-DOCSTART-\r\n\r\nα\r\n";
        let found = read(input.as_bytes());
        let document = found[0].as_ref().unwrap();
        assert_eq!((document.text.as_str(), document.id.as_str()), ("Films of zinc oxide\nLiCl", "a.conll:3"));
        let sentences: Vec<_> = document.passages.iter().map(|passage| passage.range.clone()).collect();
        assert_eq!(sentences, [0..19, 20..24]);
        assert_eq!(document.words_of(&document.passages[1]), std::slice::from_ref(&(20..24)));
        let entities = [mention(document, "zinc oxide", Some("FAMILY")), mention(document, "LiCl", None)];
        let expected = "-DOCSTART-\tO\n\nFilms\tO\nof\tO\nzinc\tB-FAMILY\noxide\tI-FAMILY\n\nLiCl\tB-CHEMICAL\n\n";
        assert_eq!(written(document, &entities), expected);
        assert_eq!((found.len(), found[1].as_ref().unwrap().text.as_str()), (2, "α"));
    }

    #[test]
    fn without_document_starts_a_sentence_is_a_document() {
        let found = read(b"zinc\tO\noxide\tO\n\nDone\tO\n");
        let ids: Vec<&str> = found.iter().map(|document| document.as_ref().unwrap().id.as_str()).collect();
        assert_eq!(ids, ["a.conll:1", "a.conll:4"]);
        let document = found[0].as_ref().unwrap();
        let neighbours = [mention(document, "zinc", None), mention(document, "oxide", None)];
        assert_eq!(written(document, &neighbours), "zinc\tB-CHEMICAL\noxide\tB-CHEMICAL\n\n");
    }

    #[test]
    fn plain_text_is_split_into_tokens() {
        let document = Document::from_text("a", "\u{feff}In (R)-BINOL. Then.".into());
        let expected = "-DOCSTART-\tO\n\nIn\tO\n(\tB-X\nR\tI-X\n)\tI-X\n-\tI-X\nBINOL\tI-X\n.\tO\n\nThen\tO\n.\tO\n\n";
        assert_eq!(written(&document, &[mention(&document, "(R)-BINOL", Some("X"))]), expected);
    }

    #[test]
    fn a_bad_sentence_is_passed_over_whole() {
        let found = read(b"a\n\xff\nb\n\nc\n\naaaaaaaaaaaaaaaaaaaaaaaa\nbbbbbbbbbbbbbbbbbbbbbbbbb\nd\n\ne\n");
        let texts: Vec<_> = found.iter().map(|document| document.as_ref().map(|d| d.text.as_str()).ok()).collect();
        assert_eq!(texts, [None, Some("c"), None, Some("e")]);
        assert!(found[0].as_ref().unwrap_err().starts_with("a.conll, line 2: not UTF-8 at byte 0: "));
        assert!(found[2].as_ref().unwrap_err().starts_with("a.conll, line 8: a document is longer than 40 bytes"));
    }
}
