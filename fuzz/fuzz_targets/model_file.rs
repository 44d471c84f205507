//! Any bytes as a model file: either a message that names the file, or a tagger that works.
//! What loads is used, so that sizes which the file lies about reach the kernels.
#![no_main]

use std::io::Write;

use chemtag::{Device, LoadOptions, Precision, Tagger};
use libfuzzer_sys::fuzz_target;

/// Larger ones only take time: a whole model of one layer has 12 kB.
const MOST_BYTES: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > MOST_BYTES {
        return;
    }
    let mut file = tempfile::Builder::new().suffix(".safetensors").tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
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
