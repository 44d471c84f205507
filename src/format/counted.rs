//! In: a stream. Out: the same, and after each portion of it a call with its bytes, for whoever shows progress.

use std::io::{self, Read};

/// A stream that tells how much is read of it.
pub(crate) struct Counted<R, F> {
    reader: R,
    on_bytes: F,
}

impl<R: Read, F: FnMut(usize)> Counted<R, F> {
    pub fn new(reader: R, on_bytes: F) -> Self {
        Self { reader, on_bytes }
    }
}

impl<R: Read, F: FnMut(usize)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        (self.on_bytes)(read);
        Ok(read)
    }
}
