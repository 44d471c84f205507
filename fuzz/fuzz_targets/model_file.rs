//! Any bytes as a model file, or a whole one with some of its bytes changed: either a message that names what is wrong, or a tagger that works.
//! What loads is used, so that sizes and weights which the file lies about reach the kernels.
//!
//! An input whose first byte is even is a file as it is, behind that byte. Else it is changes to the tests' model in 8 bits: three bytes each, the
//! place (two bytes, the lower one first) and what stands there then; one or two bytes that are left over cut the file at that place.
#![no_main]

use std::io::Write;
use std::sync::OnceLock;

use chemtag::{Device, LoadOptions, ModelFiles, Precision, Tagger, int8};
use libfuzzer_sys::fuzz_target;

/// The tests' model in 8 bits.
fn whole() -> &'static [u8] {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-model");
        let files = ModelFiles::read(&folder.into()).expect("the tests' model");
        let file = int8::to_file(&files).expect("the tests' model in 8 bits");
        assert!(file.len() <= 1 << 16, "two bytes reach every place of the file");
        file
    })
}

fn changed(changes: &[u8]) -> Vec<u8> {
    let mut file = whole().to_vec();
    let (changes, rest) = changes.as_chunks::<3>();
    for &[low, high, value] in changes {
        if let Some(byte) = file.get_mut(usize::from(u16::from_le_bytes([low, high]))) {
            *byte = value;
        }
    }
    match *rest {
        [low] => file.truncate(usize::from(low)),
        [low, high] => file.truncate(usize::from(u16::from_le_bytes([low, high]))),
        _ => {}
    }
    file
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let bytes = if kind % 2 == 0 { rest.to_vec() } else { changed(rest) };
    let mut file = tempfile::Builder::new().suffix(".safetensors").tempfile().expect("a temporary file");
    file.write_all(&bytes).expect("room for it");
    for precision in [Precision::Int8, Precision::F32] {
        match Tagger::load_with(file.path(), LoadOptions { device: Device::Cpu, precision }) {
            Ok(tagger) => {
                let text = "Benzene (C6H6) in ethanol.";
                for entity in tagger.tag(text).unwrap_or_default() {
                    assert_eq!(&text[entity.start..entity.end], entity.text);
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
