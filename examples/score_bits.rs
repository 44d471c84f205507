//! A model and JSON Lines with a key `text` -> for each line the entities with UTF-16 offsets and the bits of their scores, as JSON.
//! What other builds of the same engine are held to: the package for browsers and Node must print the same bits.
//!
//!     cargo run --example score_bits -- MODEL.int8.safetensors tests/general_text.jsonl

use std::io::Write;

use chemtag::{Offsets, Tagger};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, file] = arguments.as_slice() else {
        return Err("expected two arguments, MODEL and FILE".into());
    };
    let tagger = Tagger::load(model)?;
    let mut out = std::io::stdout().lock();
    for line in std::fs::read_to_string(file)?.lines() {
        let record: Value = serde_json::from_str(line)?;
        let text = record["text"].as_str().ok_or("a line has no key text")?;
        let offsets = Offsets::new(text);
        let entities = tagger.tag(text)?.into_iter().map(|entity| {
            let place = [entity.start, entity.end].map(|byte| offsets.utf16(byte));
            json!([place[0], place[1], entity.class.as_deref(), entity.score.to_bits()])
        });
        writeln!(out, "{}", Value::from_iter(entities))?;
    }
    Ok(())
}
