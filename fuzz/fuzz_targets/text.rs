//! Any text, read at once, in a batch with itself and as a stream in small portions: the same mentions each time, in order, and each the text at its offsets.
//! Bytes that are no UTF-8 are read as a stream, which says where they stop being it.
#![no_main]

use std::io::Read;
use std::sync::OnceLock;

use chemtag::{Device, Error, LoadOptions, Precision, TagOptions, Tagger};
use libfuzzer_sys::fuzz_target;

static TAGGER: OnceLock<Tagger> = OnceLock::new();

/// A model of one layer in 8 bits, which finds mentions in most texts; two threads.
fn tagger() -> &'static Tagger {
    TAGGER.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-model");
        let tagger = Tagger::load_with(folder, LoadOptions { device: Device::Cpu, precision: Precision::Int8 });
        let options = TagOptions { threads: Some(2), token_budget: 64, ..TagOptions::default() };
        tagger.and_then(|tagger| tagger.with_options(options)).expect("the tests' model")
    })
}

/// A stream that gives a few bytes at a time.
struct Slow<'b>(&'b [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(7);
        self.0.read(&mut buffer[..count])
    }
}

fuzz_target!(|bytes: &[u8]| {
    let streamed: Result<Vec<_>, Error> = tagger().tag_reader(Slow(bytes)).collect();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(wrong) => {
            assert!(matches!(streamed, Err(Error::NotUtf8 { position }) if position == wrong.valid_up_to()));
            return;
        }
    };
    let entities = tagger().tag(text).expect("text cannot fail");
    let mut end = 0;
    for entity in &entities {
        assert!(entity.start >= end && entity.start < entity.end && (0.0..=1.0).contains(&entity.score));
        assert_eq!(&text[entity.start..entity.end], entity.text);
        end = entity.end;
    }
    assert_eq!(streamed.expect("text cannot fail"), entities);
    assert_eq!(tagger().tag_batch(&[text, "", text]).expect("text cannot fail"), [entities.clone(), vec![], entities]);
});
