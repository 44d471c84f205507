//! A stream of bytes -> the entities of one endless document: text is held only until its mentions are decoded.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read;

use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::portion::{Content, Cutter, Portion};
use crate::tagger::Tagger;

/// Bytes asked of the stream at once.
const PORTION: usize = 64 * 1024;

/// Entities of a stream, in order. Made by [`Tagger::tag_reader`].
pub struct TagReader<'m, R> {
    tagger: &'m Tagger,
    pipeline: Pipeline,
    reader: R,
    /// Bytes read that are not yet whole characters.
    tail: Vec<u8>,
    /// Text that is not yet decoded; begins at byte `offset` of the stream.
    text: String,
    offset: usize,
    /// Where in `text` the next sentence begins.
    next: usize,
    found: VecDeque<Entity<'static>>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Reading,
    Ended,
    Failed,
}

impl<'m, R: Read> TagReader<'m, R> {
    pub(crate) fn new(tagger: &'m Tagger, reader: R) -> Self {
        Self {
            tagger,
            pipeline: tagger.pipeline(),
            reader,
            tail: Vec::new(),
            text: String::new(),
            offset: 0,
            next: 0,
            found: VecDeque::new(),
            state: State::Reading,
        }
    }

    /// Reads about as much text as the device reads at once and tags what is certain by then.
    fn advance(&mut self) -> Result<()> {
        // Always some, for what is there may be part of one sentence.
        let mut last = self.read_portion()?;
        while !last && self.text.len() - self.next < self.pipeline.stretch_bytes() {
            last = self.read_portion()?;
        }
        let mut cutter = Cutter::new(&self.text, self.next, self.offset, last);
        self.pipeline.read(&mut cutter)?;
        self.next = cutter.next_start();
        if last {
            let end = Portion { text: "", offset: self.offset, content: Content::All, ends_document: true };
            self.pipeline.read(std::iter::once(end))?;
            self.pipeline.finish()?;
            self.state = State::Ended;
        }
        self.take_found();
        Ok(())
    }

    /// Whether the stream has ended.
    fn read_portion(&mut self) -> Result<bool> {
        let held = self.tail.len();
        self.tail.resize(held + PORTION, 0);
        let read = loop {
            match self.reader.read(&mut self.tail[held..]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                other => break other.map_err(Error::Stream)?,
            }
        };
        self.tail.truncate(held + read);
        self.take_characters(read == 0)?;
        Ok(read == 0)
    }

    /// Moves whole characters from the bytes to the text.
    fn take_characters(&mut self, last: bool) -> Result<()> {
        let valid = match std::str::from_utf8(&self.tail) {
            Ok(text) => text.len(),
            Err(e) if e.error_len().is_none() && !last => e.valid_up_to(),
            Err(e) => {
                return Err(Error::NotUtf8 { position: self.offset + self.text.len() + e.valid_up_to() });
            }
        };
        // Checked just above; an empty string in its place can never be reached.
        self.text.push_str(std::str::from_utf8(&self.tail[..valid]).unwrap_or_default());
        self.tail.drain(..valid);
        Ok(())
    }

    /// Turns decoded mentions into entities and lets go of the text before what is still to be decoded.
    fn take_found(&mut self) {
        for mention in self.pipeline.take_found() {
            let range = mention.range.start - self.offset..mention.range.end - self.offset;
            let text = Cow::Owned(self.text[range].to_string());
            self.found.push_back(self.tagger.entity(mention, text));
        }
        let pending = self.pipeline.pending_start().map_or(self.next, |byte| byte - self.offset).min(self.next);
        if pending >= PORTION {
            self.text.drain(..pending);
            self.offset += pending;
            self.next -= pending;
        }
    }
}

impl<R: Read> Iterator for TagReader<'_, R> {
    type Item = Result<Entity<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entity) = self.found.pop_front() {
                return Some(Ok(entity));
            }
            if self.state != State::Reading {
                return None;
            }
            if let Err(e) = self.advance() {
                self.state = State::Failed;
                return Some(Err(e));
            }
        }
    }
}
