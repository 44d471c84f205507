//! Many texts in one call, which is faster than a call for each, and a threshold that finds more than the model's best reading.
//!
//!     cargo run --release --example batch

use chemtag::TagOptions;

pub fn main() -> chemtag::Result<()> {
    let tagger = chemtag::get("models/chemtag-small.int8.safetensors")?;
    let texts = ["Benzene in ethanol.", "No chemicals here.", "LiCl, NaCl and K2CO3 were dried.", ""];
    let found = tagger.tag_batch(&texts)?;
    assert_eq!(found.len(), texts.len());
    for (text, entities) in texts.iter().zip(&found) {
        let names: Vec<&str> = entities.iter().map(|entity| &*entity.text).collect();
        println!("{text:?}: {names:?}");
    }
    // Options belong to a tagger; the model is shared.
    let eager = tagger.with_options(TagOptions { threshold: Some(0.1), ..TagOptions::default() })?;
    let count = |found: &[Vec<_>]| found.iter().map(Vec::len).sum::<usize>();
    println!("{} mentions, {} with a probability of at least 0.1", count(&found), count(&eager.tag_batch(&texts)?));
    Ok(())
}
