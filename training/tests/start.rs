//! From text to a pre-trained encoder on the command line: a vocabulary, an encoder of random weights, masked-language-model training whose loss falls; then the same
//! encoder with more layers and another vocabulary. Everything again gives the same bytes.

use std::path::Path;
use std::process::{Command, Output};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Documents of words in a fixed order, so that each tells the next one.
fn text(seed: u64) -> String {
    const WORDS: [&str; 12] = [
        "Ethanol", "methanol", "was", "heated", "with", "sodium", "chloride", "and", "cooled", "slowly", "over",
        "night",
    ];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..300 {
        let first = random.random_range(0..WORDS.len());
        let words: Vec<&str> = (0..9).map(|i| WORDS[(first + i) % WORDS.len()]).collect();
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    text
}

fn output(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chemtag-train")).args(arguments).current_dir(folder).output().unwrap()
}

fn train(folder: &Path, arguments: &[&str]) {
    let output = output(folder, arguments);
    assert!(output.status.success(), "{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

#[rustfmt::skip]
const PRETRAIN: [&str; 22] = ["pretrain", "--pieces", "300000", "--batch-pieces", "1000", "--sequence-pieces", "16", "--long-sequence-pieces", "16",
    "--learning-rate", "1e-2", "--dropout", "0", "--metrics-steps", "10", "--checkpoint-steps", "100", "--device", "cpu", "--text", "text.safetensors", "--out"];

/// Losses of a run from an encoder, in order.
fn losses(folder: &Path, encoder: &str, out: &str) -> Vec<f64> {
    let mut arguments = PRETRAIN.to_vec();
    arguments.extend([out, "--encoder", encoder]);
    train(folder, &arguments);
    let metrics = String::from_utf8(read(folder, &format!("{out}/metrics.jsonl"))).unwrap();
    metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect()
}

/// Writes `fresh`, pre-trains it to `trained`, and returns the losses.
fn from_nothing(folder: &Path) -> Vec<f64> {
    std::fs::write(folder.join("text.txt"), text(1)).unwrap();
    train(folder, &["vocab", "--text", "text.txt", "--size", "60", "--out", "tokenizer.json"]);
    #[rustfmt::skip]
    train(folder, &["start", "--tokenizer", "tokenizer.json", "--layers", "1", "--hidden", "16", "--heads", "2", "--positions", "32", "--seed", "3",
        "--out", "fresh"]);
    train(folder, &["prepare-text", "--encoder", "fresh", "--text", "text.txt", "--out", "text.safetensors"]);
    losses(folder, "fresh", "trained")
}

#[test]
fn an_encoder_of_random_weights_learns_and_grows() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let first = from_nothing(folder);
    assert!(first[first.len() - 1] < first[0] / 3., "{first:?}");

    let again = tempfile::tempdir().unwrap();
    assert_eq!(from_nothing(again.path()), first);
    for file in ["tokenizer.json", "fresh/model.safetensors", "trained/model.safetensors"] {
        assert!(read(again.path(), file) == read(folder, file), "{file}");
    }

    // A wider encoder computes what the one that it comes from does, and learns on.
    train(folder, &["start", "--from", "trained", "--hidden", "32", "--out", "wider"]);
    let wider = losses(folder, "wider", "wider-trained");
    let last = first[first.len() - 1];
    assert!((wider[0] - last).abs() < 0.2 * first[0], "{wider:?} after {last}");

    // Grown encoders know what the one that they come from learnt: they need fewer steps than it did.
    train(folder, &["start", "--from", "trained", "--layers", "2", "--out", "deeper"]);
    let deeper = losses(folder, "deeper", "deeper-trained");
    assert!(deeper[2] < 0.6 * first[2], "{deeper:?}");

    std::fs::create_dir(folder.join("other")).unwrap();
    let other = folder.join("other");
    std::fs::write(other.join("text.txt"), text(1)).unwrap();
    train(&other, &["vocab", "--text", "text.txt", "--size", "45", "--out", "tokenizer.json"]);
    train(&other, &["start", "--from", "../trained", "--tokenizer", "tokenizer.json", "--out", "moved"]);
    train(&other, &["prepare-text", "--encoder", "moved", "--text", "text.txt", "--out", "text.safetensors"]);
    let moved = losses(&other, "moved", "moved-trained");
    assert!(moved[5] < 0.85 * first[5], "{moved:?}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |arguments: &[&str]| {
        let output = output(folder.path(), arguments);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(error(&["start", "--out", "x"]).contains("--tokenizer"));
    assert!(error(&["start", "--from", "nowhere", "--out", "x"]).contains("nowhere is no folder"));
    assert!(error(&["start", "--from", "nowhere", "--positions", "8", "--out", "x"]).contains("cannot be used with"));
    std::fs::write(folder.path().join("text.txt"), text(1)).unwrap();
    train(folder.path(), &["vocab", "--text", "text.txt", "--size", "60", "--out", "tokenizer.json"]);
    let heads = error(&["start", "--tokenizer", "tokenizer.json", "--hidden", "10", "--heads", "4", "--out", "x"]);
    assert!(heads.contains("multiple of the 4 heads"), "{heads}");
    assert!(!folder.path().join("x").exists());
}
