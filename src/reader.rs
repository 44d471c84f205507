//! A stream of bytes -> the entities of one endless document: text is held only until its mentions are decoded.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read;

use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::tagger::Tagger;
use crate::text::{LOOKAHEAD_BYTES, sentences};

/// Bytes asked of the stream at once.
const PORTION: usize = 64 * 1024;
/// A text whose one grapheme is longer than this is cut inside it rather than held.
const LONGEST_GRAPHEME: usize = 4 * 1024 * 1024;

/// Entities of a stream, in order. Made by [`Tagger::tag_reader`].
pub struct TagReader<'m, R> {
    tagger: &'m Tagger,
    pipeline: Pipeline<'m>,
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
            pipeline: tagger.in_pool(|| Pipeline::new(tagger.model(), tagger.options())),
            reader,
            tail: Vec::new(),
            text: String::new(),
            offset: 0,
            next: 0,
            found: VecDeque::new(),
            state: State::Reading,
        }
    }

    /// Reads one more portion and tags what is certain by then.
    fn advance(&mut self) -> Result<()> {
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
        self.push_sentences(read == 0)?;
        if read == 0 {
            let pipeline = &mut self.pipeline;
            self.tagger.in_pool(|| pipeline.end_document().and_then(|()| pipeline.run()))?;
            self.state = State::Ended;
        }
        self.take_found();
        Ok(())
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

    /// Hands on the sentences that more text cannot change.
    fn push_sentences(&mut self, last: bool) -> Result<()> {
        let (text, start, offset) = (&self.text, self.next, self.offset);
        let forced = !last && text.len() - start > LONGEST_GRAPHEME;
        let pipeline = &mut self.pipeline;
        self.next = self.tagger.in_pool(|| -> Result<usize> {
            let mut next = start;
            for mut sentence in sentences(&text[start..]) {
                sentence.range = start + sentence.range.start..start + sentence.range.end;
                if sentence.range.end + LOOKAHEAD_BYTES > text.len() && !last {
                    if !forced {
                        break;
                    }
                    sentence.continues = true;
                }
                next = sentence.range.end;
                pipeline.push_sentence(text, &sentence, offset)?;
            }
            // White space without end is let go, but for the last character: a combining mark may follow it.
            let white = text.len() - text[next..].trim_start().len();
            Ok(if white == text.len() { text.floor_char_boundary(white.saturating_sub(1)).max(next) } else { next })
        })?;
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
