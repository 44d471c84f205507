//! In: a stream of bytes. Out: the same, with its lines counted, and an end where one record takes more than its share.

use std::io::{self, BufRead, Read};

use crate::error::Error;

/// A stream that refuses to give more than so many bytes to one record.
pub(super) struct Budget {
    input: Box<dyn BufRead + Send>,
    /// The file, as the user named it.
    pub file: String,
    /// Line in which the next byte stands, from 1.
    pub line: usize,
    used: usize,
    most_bytes: usize,
}

impl Budget {
    pub fn new(input: Box<dyn BufRead + Send>, file: &str, most_bytes: usize) -> Self {
        Self { input, file: file.into(), line: 1, used: 0, most_bytes }
    }

    /// What is read from now on is another record's.
    pub fn start_record(&mut self) {
        self.used = 0;
    }

    pub fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed { file: self.file.clone(), line: self.line, problem: problem.into() }
    }
}

impl BufRead for Budget {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let held = self.input.fill_buf()?;
        if self.used >= self.most_bytes && !held.is_empty() {
            let message = format!("a record is longer than {} bytes, the most that is read", self.most_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(held)
    }

    fn consume(&mut self, amount: usize) {
        if let Ok(held) = self.input.fill_buf() {
            self.line += held.iter().take(amount).filter(|&&byte| byte == b'\n').count();
        }
        self.used += amount;
        self.input.consume(amount);
    }
}

impl Read for Budget {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
