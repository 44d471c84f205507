//! Runs of pre-training on generated text, on the CPU: the loss falls where words follow a rule, the seed decides everything, an interrupted
//! run goes on as if it had never stopped.

mod support;

use std::path::Path;

use candle_core::Device;
use chemtag::model::config::Architecture;
use chemtag::tokenizer::WordPieces;
use chemtag_training::error::{Error, Result};
use chemtag_training::masking::Masking;
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::pretrain::{Run, Settings, pretrain};
use chemtag_training::text::TextSet;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Words `w0` to `w31`, of one piece or two ("w7" is "w7", "w20" is "w2" and "##0"), and the full stop: 44 pieces as the tests' encoder has.
fn tokenizer() -> Vec<u8> {
    let words = (0..10).map(|i| format!("w{i}")).chain((0..10).map(|i| format!("##{i}"))).chain([".".to_string()]);
    let mut pieces: Vec<String> = SPECIAL.iter().map(|piece| piece.to_string()).chain(words).collect();
    pieces.extend((pieces.len()..44).map(|i| format!("unused{i}")));
    let vocab: serde_json::Map<_, _> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), id.into())).collect();
    serde_json::json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 64, "vocab": vocab},
    })
    .to_string()
    .into_bytes()
}

/// Sentences in which each word tells the next: word n is followed by word (3 n + 1) mod 30.
fn text(pieces: &WordPieces) -> Result<TextSet> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut lines = String::new();
    for _ in 0..300 {
        for _ in 0..random.random_range(1..4) {
            let mut word = random.random_range(0..30);
            for _ in 0..random.random_range(2..6) {
                lines.push_str(&format!("w{word} "));
                word = (3 * word + 1) % 30;
            }
            lines.push_str(". ");
        }
        lines.push('\n');
    }
    let mut set = TextSet::default();
    set.read(Path::new("generated"), lines.as_bytes(), pieces)?;
    Ok(set)
}

fn settings() -> Settings {
    Settings {
        pieces: 60_000,
        batch_pieces: 600,
        sequence_pieces: 16,
        long_sequence_pieces: 24,
        learning_rate: 5e-3,
        dropout: 0.05,
        metrics_steps: 10,
        checkpoint_steps: 20,
        ..Settings::default()
    }
}

/// Runs until `stops` (each a step before which the run ends) and then to the end; the metrics without their times, and the encoder's file.
fn run(settings: &Settings, stops: &[usize]) -> Result<(Vec<serde_json::Value>, Vec<u8>)> {
    let tokenizer = tokenizer();
    let pieces = WordPieces::from_json(&tokenizer, "tokenizer.json", 44)?;
    let text = text(&pieces)?;
    let masking = Masking::new(settings.mask_share, &pieces)?;
    let folder = tempfile::tempdir().unwrap();
    let config = support::config(Architecture::DistilBert, 1, 2, 16);
    let checkpoint = support::checkpoint(&config.encoder, 3);
    for stop_before in stops.iter().copied().map(Some).chain([None]) {
        let parameters = Parameters::from_checkpoint(
            &checkpoint,
            "generated",
            config.clone(),
            Task::MaskedLm,
            settings.seed,
            &Device::Cpu,
        )?;
        pretrain(
            Run {
                settings: settings.clone(),
                text: &text,
                masking: &masking,
                out: folder.path().into(),
                tokenizer: &tokenizer,
                on_metrics: &mut |_, _, _| (),
                stop_before,
            },
            &parameters,
        )?;
        assert_eq!(folder.path().join("model.safetensors").exists(), stop_before.is_none());
    }
    let metrics = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let metrics = metrics.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "pieces_per_second"] {
            assert!(line.as_object_mut().unwrap().remove(key).is_some(), "{key} is missing");
        }
        line
    });
    Ok((metrics.collect(), std::fs::read(folder.path().join("model.safetensors")).unwrap()))
}

fn loss(line: &serde_json::Value) -> f64 {
    line["loss"].as_f64().unwrap()
}

#[test]
fn the_loss_falls_and_the_seed_decides() -> Result<()> {
    let (metrics, model) = run(&settings(), &[])?;
    let (first, last) = (loss(&metrics[0]), loss(metrics.last().unwrap()));
    // A word is one of 30 by itself, ln 30 = 3.4; its neighbours leave little open.
    assert!(first > 2.5 && last < 0.6 * first, "from {first} to {last}");
    assert!(metrics.last().unwrap()["accuracy"].as_f64() > metrics[0]["accuracy"].as_f64());
    assert_eq!(run(&settings(), &[])?, (metrics.clone(), model.clone()));
    let (other, _) = run(&Settings { seed: 1, ..settings() }, &[])?;
    assert_ne!(other, metrics);
    Ok(())
}

#[test]
fn an_interrupted_run_goes_on_as_if_it_had_not_been() -> Result<()> {
    let whole = run(&settings(), &[])?;
    // The last but one steps read long sequences already.
    let steps = whole.0.last().unwrap()["step"].as_u64().unwrap() as usize;
    let late = (steps - 1) / 10 * 10;
    assert_eq!(run(&settings(), &[0, 20, 50, late])?, whole);
    Ok(())
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (settings, reason) in [
        (Settings { pieces: 0, ..settings() }, "nothing to read"),
        (Settings { long_sequence_pieces: 25, ..settings() }, "between 3 and 24 pieces"),
        (Settings { batch_pieces: 20, ..settings() }, "shorter than a sequence of 24"),
        (Settings { checkpoint_steps: 15, ..settings() }, "a multiple of the steps between lines of metrics"),
        (Settings { mask_share: 0., ..settings() }, "between 0 and 1"),
    ] {
        let error = run(&settings, &[]).unwrap_err();
        assert!(matches!(&error, Error::Setting(message) if message.contains(reason)), "{error}");
    }
}
