//! A text -> its entities, step by step: between two steps, each a fraction of a second, a worker can look whether they are still wanted.
//! Offsets count UTF-16 code units, as JavaScript's strings do.

use std::ops::Range;

use js_sys::{Array, JsString};
use serde::Serialize;
use wasm_bindgen::prelude::*;

use super::error::Failure;
use crate::Tagger;
use crate::pipeline::Pipeline;
use crate::portion::{Content, Cutter, Portion};

/// Bytes of text that one step reads, about 500 word pieces.
const STEP_BYTES: usize = 2048;

/// A text that is being tagged.
#[wasm_bindgen]
pub struct Run {
    tagger: Tagger,
    pipeline: Pipeline,
    js_text: JsString,
    text: String,
    /// Where the next sentence begins.
    next: usize,
    ended: bool,
    places: Utf16Places,
    read: Utf16Places,
}

#[wasm_bindgen]
impl Run {
    /// Reads the next few sentences; the entities that are certain by then. Once `ended`, it finds no more.
    pub fn step(&mut self) -> Result<Array, JsValue> {
        Ok(self.advance(STEP_BYTES)?)
    }

    /// Whether all entities were found.
    #[wasm_bindgen(getter)]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// UTF-16 code units of the text that were read so far.
    #[wasm_bindgen(getter)]
    pub fn done(&mut self) -> usize {
        self.read.at(&self.text, self.next)
    }
}

impl Run {
    /// Begins to tag a text.
    pub(super) fn new(tagger: &Tagger, js_text: JsString) -> Self {
        // A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD: one code unit as it was.
        let text = String::from(&js_text);
        Self {
            pipeline: tagger.pipeline(),
            tagger: tagger.clone(),
            js_text,
            text,
            next: 0,
            ended: false,
            places: Utf16Places::default(),
            read: Utf16Places::default(),
        }
    }

    /// All entities at once.
    pub(super) fn finish(mut self) -> Result<Array, Failure> {
        let all = Array::new();
        while !self.ended {
            for entity in self.advance(usize::MAX)? {
                all.push(&entity);
            }
        }
        Ok(all)
    }

    fn advance(&mut self, bytes: usize) -> Result<Array, Failure> {
        if !self.ended {
            let mut cutter = Cutter::new(&self.text, self.next, 0, true).in_portions_of(bytes);
            let portion = cutter.next();
            self.next = cutter.next_start();
            match portion {
                Some(portion) => self.pipeline.read(std::iter::once(portion))?,
                None => {
                    let nothing = Content::Sentences(Vec::new());
                    let end = Portion { text: &self.text, offset: 0, content: nothing, ends_document: true };
                    self.pipeline.read(std::iter::once(end))?;
                    self.pipeline.finish()?;
                    self.next = self.text.len();
                    self.ended = true;
                }
            }
        }
        let found = Array::new();
        for mention in self.pipeline.take_found() {
            let text = std::borrow::Cow::Borrowed(&self.text[mention.range.clone()]);
            let entity = self.tagger.entity(mention, text);
            let units = self.places.of(&self.text, entity.start..entity.end);
            found.push(&to_js(&self.js_text, units, entity.class.as_deref(), entity.score)?);
        }
        Ok(found)
    }
}

/// Bytes of a text -> UTF-16 code units, for places that ascend.
#[derive(Debug, Default)]
pub struct Utf16Places {
    byte: usize,
    units: usize,
}

impl Utf16Places {
    /// Code units before a byte that is not before the last one asked for.
    pub fn at(&mut self, text: &str, byte: usize) -> usize {
        let between = text.get(self.byte..byte).unwrap_or_default();
        self.units += between.chars().map(char::len_utf16).sum::<usize>();
        self.byte = self.byte.max(byte);
        self.units
    }

    /// A range of bytes in code units.
    pub fn of(&mut self, text: &str, range: Range<usize>) -> Range<usize> {
        self.at(text, range.start)..self.at(text, range.end)
    }
}

/// What JavaScript gets of an entity.
#[derive(Serialize)]
struct JsEntity<'m> {
    start: usize,
    end: usize,
    #[serde(with = "serde_wasm_bindgen::preserve")]
    text: JsString,
    class: Option<&'m str>,
    score: f32,
}

/// An entity at a place in `text`.
pub fn to_js(text: &JsString, units: Range<usize>, class: Option<&str>, score: f32) -> Result<JsValue, Failure> {
    let Range { start, end } = units;
    // A part of the caller's own string: it is the mention, whatever the string holds.
    let mention = text.slice(start as u32, end as u32);
    let serializer = serde_wasm_bindgen::Serializer::new().serialize_missing_as_null(true);
    JsEntity { start, end, text: mention, class, score }
        .serialize(&serializer)
        .map_err(|e| Failure::new(super::error::Code::Internal, e.to_string()))
}
