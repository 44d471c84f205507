//! Mentions of an integer model against those of the floats that it was made from.
//!
//!     cargo run --release --example agreement -- MODEL_FOLDER DOCUMENTS.jsonl [MOST_DOCUMENTS]
//!
//! DOCUMENTS: one JSON object a line with the key `text`. Prints how many mentions are the same, the F1 of one against the other, and the
//! largest difference of a score.

use chemtag::{Device, Error, LoadOptions, Precision, Result, Tagger};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err(Error::Option("name a model folder and a file of documents".into()));
    };
    let most = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
    let read = std::fs::read_to_string(&file).map_err(|source| Error::Read { path: file.into(), source })?;
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["text"].as_str().map(String::from);
    let texts: Vec<String> = read.lines().filter_map(text).take(most).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let load = |precision| Tagger::load_with(&model, LoadOptions { device: Device::Cpu, precision });
    let (floats, integers) = (load(Precision::F32)?.tag_batch(&texts)?, load(Precision::Int8)?.tag_batch(&texts)?);
    let (mut both, mut shift) = (0, 0f32);
    for (floats, integers) in floats.iter().zip(&integers) {
        for a in floats {
            if let Some(b) = integers.iter().find(|b| (a.start, a.end) == (b.start, b.end)) {
                both += 1;
                shift = shift.max((a.score - b.score).abs());
            }
        }
    }
    let count = |found: &[Vec<_>]| found.iter().map(Vec::len).sum::<usize>();
    let (of_floats, of_integers) = (count(&floats), count(&integers));
    println!(
        "{} documents: {of_floats} mentions in f32, {of_integers} in int8, {both} in both: F1 {:.2} %; scores differ by up to {shift:.3}",
        texts.len(),
        200. * both as f64 / (of_floats + of_integers).max(1) as f64
    );
    Ok(())
}
