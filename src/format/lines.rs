//! In: a stream of bytes.
//! Out: its lines in UTF-8, without line feed, carriage return and, in the first, byte order mark; numbered, and none longer than a limit.

use std::io::{self, BufRead, Read};

use crate::error::Error;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The lines of a file.
pub(crate) struct Lines {
    input: Box<dyn BufRead + Send>,
    /// The file, as the user named it.
    pub file: String,
    /// Number of the last line that was read, from 1.
    pub number: usize,
    most_bytes: usize,
    line: Vec<u8>,
}

impl Lines {
    pub fn new(input: Box<dyn BufRead + Send>, file: &str, most_bytes: usize) -> Self {
        Self { input, file: file.into(), number: 0, most_bytes, line: Vec::new() }
    }

    /// The next line; `None` at the end of the file. After [`Error::Malformed`] the line after it can be read.
    pub fn next(&mut self) -> Option<Result<&str, Error>> {
        self.line.clear();
        self.number += 1;
        let line = OneLine::new(&mut *self.input);
        let read = line.take(self.most_bytes as u64 + 1).read_to_end(&mut self.line);
        match read {
            Ok(0) if self.at_end() => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(unreadable(&self.file, error))),
        }
        if self.line.len() > self.most_bytes {
            if let Err(error) = OneLine::new(&mut *self.input).skip_rest() {
                return Some(Err(unreadable(&self.file, error)));
            }
            return Some(Err(self.malformed(format!("longer than {} bytes, the most that is read", self.most_bytes))));
        }
        let mut line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.number == 1 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        Some(std::str::from_utf8(line).map_err(|error| self.malformed(not_utf8(error.valid_up_to()))))
    }

    /// One line as a stream that ends where it ends, for those that need not be held; `None` at the end of the file.
    pub(super) fn stream(&mut self) -> Option<io::Result<OneLine<'_>>> {
        match self.input.fill_buf() {
            Ok([]) => return None,
            Ok(start) if self.number == 0 && start.starts_with(BYTE_ORDER_MARK) => {
                self.input.consume(BYTE_ORDER_MARK.len());
            }
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
        self.number += 1;
        Some(Ok(OneLine::new(&mut *self.input)))
    }

    pub fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed { file: self.file.clone(), line: self.number, problem: problem.into() }
    }

    fn at_end(&mut self) -> bool {
        self.input.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

/// The bytes of a stream up to and with the next line feed.
pub(super) struct OneLine<'i> {
    input: &'i mut dyn BufRead,
    ended: bool,
    /// Nothing but white space was read.
    pub blank: bool,
}

impl<'i> OneLine<'i> {
    fn new(input: &'i mut dyn BufRead) -> Self {
        Self { input, ended: false, blank: true }
    }

    /// Reads to the end of the line and lets go of it.
    pub fn skip_rest(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }
}

impl Read for OneLine<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let held = self.input.fill_buf()?;
        let held = held.get(..buffer.len()).unwrap_or(held);
        // The first line feed, as fast as the standard library finds it.
        let line = held.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
        self.ended = line.ends_with(b"\n");
        self.blank &= line.iter().all(u8::is_ascii_whitespace);
        let read = (&*line).read(buffer)?;
        self.input.consume(read);
        Ok(read)
    }
}

/// An error of reading as the library's.
pub(super) fn unreadable(file: &str, error: io::Error) -> Error {
    Error::Input { file: file.into(), problem: format!("cannot be read: {error}") }
}

/// What is said of a text that is not UTF-8.
pub(super) fn not_utf8(position: usize) -> String {
    format!("not UTF-8 at byte {position}: convert it first, or give --lossy to replace such bytes by U+FFFD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &'static [u8], most: usize) -> Vec<Result<String, String>> {
        // A buffer of few bytes has every line fall into parts.
        let mut lines = Lines::new(Box::new(io::BufReader::with_capacity(5, bytes)), "a.txt", most);
        let mut found = Vec::new();
        while let Some(line) = lines.next() {
            found.push(line.map(String::from).map_err(|error| error.to_string()));
        }
        found
    }

    #[test]
    fn line_ends_of_every_kind_and_the_mark_are_no_part_of_lines() {
        let expected = ["α", "", "b\r c", "last"].map(|line| Ok(line.to_string()));
        assert_eq!(lines("\u{feff}α\r\n\nb\r c\nlast".as_bytes(), 99), expected);
        assert_eq!(lines(b"", 99), []);
        assert_eq!(lines(b"\n", 99), [Ok(String::new())]);
    }

    #[test]
    fn a_bad_line_is_named_and_the_next_one_read() {
        let expected = [
            Ok("a".to_string()),
            Err(format!("a.txt, line 2: {}", not_utf8(1))),
            Err("a.txt, line 3: longer than 9 bytes, the most that is read".to_string()),
            Ok("b".to_string()),
        ];
        assert_eq!(lines(b"a\nb\xff\n0123456789\nb", 9), expected);
    }
}
