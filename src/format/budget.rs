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
    /// The first line ended with a carriage return before its line feed.
    pub carriage_returns: bool,
    /// The last byte of what was given was a carriage return.
    after_carriage_return: bool,
    used: usize,
    most_bytes: usize,
}

impl Budget {
    pub fn new(input: Box<dyn BufRead + Send>, file: &str, most_bytes: usize) -> Self {
        Self {
            input,
            file: file.into(),
            line: 1,
            carriage_returns: false,
            after_carriage_return: false,
            used: 0,
            most_bytes,
        }
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
            let given = held.get(..amount).unwrap_or(held);
            if self.line == 1
                && let Some(feed) = given.iter().position(|&byte| byte == b'\n')
            {
                let before = feed.checked_sub(1).and_then(|at| given.get(at));
                self.carriage_returns = before.map_or(self.after_carriage_return, |&byte| byte == b'\r');
            }
            self.after_carriage_return = given.last() == Some(&b'\r');
            self.line += given.iter().filter(|&&byte| byte == b'\n').count();
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

/// All of a stream, if it is no longer than one record may be.
#[cfg(feature = "parquet")]
pub(super) fn hold(input: impl Read, most_bytes: usize) -> io::Result<Vec<u8>> {
    let mut held = Vec::new();
    input.take(most_bytes as u64 + 1).read_to_end(&mut held)?;
    if held.len() > most_bytes {
        let message =
            format!("a stream of more than {most_bytes} bytes, the most that is held: save it as a file first");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(held)
}
