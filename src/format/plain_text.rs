//! In: a file of text, read whole.
//! Out: one document; nothing in its text is changed, line ends and byte order mark included.

use std::io::{self, Read};

use super::document::Document;
use super::lines::{not_utf8, unreadable};
use crate::error::{Error, Result};

/// Reads one document, at most so many bytes of it.
pub(super) fn read(mut input: impl Read, file: &str, id: String, most_bytes: usize) -> Result<Document> {
    let mut bytes = Vec::new();
    let read = input.by_ref().take(most_bytes as u64).read_to_end(&mut bytes);
    let more = read.and_then(|_| io::copy(&mut input.take(1), &mut io::sink()));
    if more.map_err(|error| unreadable(file, error))? > 0 {
        let problem = format!("holds more than {most_bytes} bytes, the most that is read as one document: cut it");
        return Err(Error::Input { file: file.into(), problem });
    }
    let text = String::from_utf8(bytes).map_err(|error| Error::Input {
        file: file.into(),
        problem: format!("is {}", not_utf8(error.utf8_error().valid_up_to())),
    })?;
    Ok(Document::from_text(id, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_file() {
        let text = "\u{feff}α-pinene\r\n\0\u{301}";
        assert_eq!(read(text.as_bytes(), "a.txt", "a".into(), 99).unwrap(), Document::from_text("a", text.into()));
        assert_eq!(read(&b""[..], "a.txt", "a".into(), 99).unwrap().text, "");
    }

    #[test]
    fn what_cannot_be_a_document_is_named() {
        for (bytes, message) in
            [(&b"ab\xffc"[..], "a.txt is not UTF-8 at byte 2: "), (b"abcde", "a.txt holds more than 4 bytes")]
        {
            let error = read(bytes, "a.txt", "a".into(), 4).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
