//! A file or standard input -> its text in memory, once.
//! A byte order mark stays out of what is tagged, but in the text that offsets count in.

use std::io::{self, Read};
use std::path::Path;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// One input.
#[derive(Debug)]
pub struct Document {
    /// The file's name as the user gave it; `-` for standard input.
    pub id: String,
    text: String,
}

impl Document {
    /// Reads a file, or standard input for `-`. `lossy`: bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// A message that names the input, what is wrong with it and what to do.
    pub fn read(path: &Path, lossy: bool) -> Result<Self, String> {
        let id = path.to_string_lossy().into_owned();
        let name = if is_standard_input(path) { "standard input" } else { &id };
        let bytes = if is_standard_input(path) {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        } else if path.is_dir() {
            return Err(format!("{name} is a folder: name the files in it"));
        } else {
            std::fs::read(path)
        };
        let bytes = bytes.map_err(|e| format!("cannot read {name}: {e}"))?;
        let text = decode(bytes, lossy).map_err(|position| {
            format!("{name} is not UTF-8 at byte {position}: convert it first, or give --lossy to replace such bytes by U+FFFD")
        })?;
        Ok(Self { id, text })
    }

    #[cfg(test)]
    pub fn from_text(id: &str, text: &str) -> Self {
        Self { id: id.into(), text: text.into() }
    }

    /// The whole text; offsets in the output count in it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text without byte order mark: what is tagged and shown.
    pub fn body(&self) -> &str {
        self.text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.text)
    }

    /// Byte of the whole text at which the body begins.
    pub fn body_start(&self) -> usize {
        self.text.len() - self.body().len()
    }
}

/// Whether a name on the command line stands for standard input.
pub fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Takes the bytes over as text without a copy if they are UTF-8; else the offset of the first that is not.
fn decode(bytes: Vec<u8>, lossy: bool) -> Result<String, usize> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) if lossy => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        Err(error) => Err(error.utf8_error().valid_up_to()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_over_checked_or_replaced() {
        let bytes = "α-pinene".as_bytes().to_vec();
        let place = bytes.as_ptr();
        let text = decode(bytes, false).unwrap();
        assert_eq!((text.as_str(), text.as_ptr()), ("α-pinene", place));
        assert_eq!(decode(b"ab\xffc".to_vec(), false), Err(2));
        assert_eq!(decode(b"ab\xe2\x82".to_vec(), false), Err(2));
        assert_eq!(decode(b"ab\xffc".to_vec(), true).unwrap(), "ab\u{fffd}c");
    }

    #[test]
    fn only_one_byte_order_mark_at_the_start_is_none_of_the_body() {
        for (text, body, start) in
            [("\u{feff}a", "a", 3), ("\u{feff}\u{feff}", "\u{feff}", 3), ("a\u{feff}", "a\u{feff}", 0), ("", "", 0)]
        {
            let document = Document::from_text("-", text);
            assert_eq!((document.body(), document.body_start(), document.text()), (body, start, text));
        }
    }
}
