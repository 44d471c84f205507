//! Runs of pre-training on generated text, on the CPU: the loss falls where words follow a rule, the seed decides everything, an interrupted
//! run goes on as if it had never stopped, and steps in parts or shared among ranks give the curve of whole ones.

mod support;

use std::path::Path;

use candle_core::Device;
use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::tokenizer::WordPieces;
use chemtag_training::error::{Error, Result};
use chemtag_training::masking::Masking;
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::pretrain::{Run, Settings, pretrain};
use chemtag_training::provenance::Provenance;
use chemtag_training::ranks::{self, Rank};
use chemtag_training::text::TextSet;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

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

/// What a run leaves: the metrics without their times, and the encoder's file.
type Outcome = (Vec<serde_json::Value>, Vec<u8>);

/// What runs are made of.
struct Material {
    tokenizer: Vec<u8>,
    text: TextSet,
    masking: Masking,
    checkpoint: Vec<u8>,
    config: ModelConfig,
    folder: TempDir,
}

impl Material {
    fn new(settings: &Settings) -> Result<Self> {
        let tokenizer = tokenizer();
        let pieces = WordPieces::from_json(&tokenizer, "tokenizer.json", 44)?;
        let config = support::config(Architecture::DistilBert, 1, 2, 16);
        Ok(Self {
            text: text(&pieces)?,
            masking: Masking::new(settings.mask_share, &pieces)?,
            checkpoint: support::checkpoint(&config.encoder, 3),
            folder: tempfile::tempdir().unwrap(),
            tokenizer,
            config,
        })
    }

    /// Runs one rank in the folder, until `stop_before`.
    fn run(&self, settings: &Settings, rank: &Rank, stop_before: Option<usize>) -> Result<()> {
        let (config, seed) = (self.config.clone(), settings.seed);
        let parameters =
            Parameters::from_checkpoint(&self.checkpoint, "generated", config, Task::MaskedLm, seed, &Device::Cpu)?;
        let run = Run {
            settings: settings.clone(),
            text: &self.text,
            masking: &self.masking,
            out: self.folder.path().into(),
            provenance: &Provenance::default(),
            tokenizer: &self.tokenizer,
            rank,
            on_metrics: &mut |_, _, _| assert!(rank.is_first(), "only the first rank tells"),
            stop_before,
        };
        pretrain(run, &parameters)
    }

    /// The same on `count` ranks.
    fn share(&self, settings: &Settings, count: usize, stop_before: Option<usize>) -> Result<()> {
        ranks::run(&vec![chemtag::Device::Cpu; count], |rank, _, _| self.run(settings, rank, stop_before))
    }

    fn outcome(&self) -> Outcome {
        let metrics = std::fs::read_to_string(self.folder.path().join("metrics.jsonl")).unwrap();
        let metrics = metrics.lines().map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            for key in ["seconds", "pieces_per_second"] {
                assert!(line.as_object_mut().unwrap().remove(key).is_some(), "{key} is missing");
            }
            line
        });
        (metrics.collect(), std::fs::read(self.folder.path().join("model.safetensors")).unwrap())
    }
}

/// Runs until `stops` (each a step before which the run ends) and then to the end.
fn run(settings: &Settings, stops: &[usize]) -> Result<Outcome> {
    let material = Material::new(settings)?;
    for stop_before in stops.iter().copied().map(Some).chain([None]) {
        material.run(settings, &Rank::ALONE, stop_before)?;
        assert_eq!(material.folder.path().join("model.safetensors").exists(), stop_before.is_none());
    }
    Ok(material.outcome())
}

/// The same on several ranks.
fn run_on(count: usize, settings: &Settings, stops: &[usize]) -> Result<Outcome> {
    let material = Material::new(settings)?;
    for stop_before in stops.iter().copied().map(Some).chain([None]) {
        material.share(settings, count, stop_before)?;
    }
    Ok(material.outcome())
}

/// Asserts that two curves differ by rounding alone. Its share grows from step to step, as AdamW divides by the size of the gradients.
fn assert_same_curve((found, _): &Outcome, (expected, _): &Outcome) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((&found["step"], &found["rate"]), (&expected["step"], &expected["rate"]));
        for key in ["loss", "accuracy"] {
            let [a, b] = [found, expected].map(|line| line[key].as_f64().unwrap());
            assert!((a - b).abs() < 2e-3 * (1. + b), "{key}: {found} {expected}");
        }
    }
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
        (Settings { accumulate: 0, ..settings() }, "--accumulate must be at least 1"),
    ] {
        let error = run(&settings, &[]).unwrap_err();
        assert!(matches!(&error, Error::Setting(message) if message.contains(reason)), "{error}");
    }
}

#[test]
fn steps_in_parts_give_the_curve_of_whole_ones() -> Result<()> {
    let whole = Settings { dropout: 0., ..settings() };
    let expected = run(&whole, &[])?;
    assert_same_curve(&run(&Settings { accumulate: 3, ..whole.clone() }, &[])?, &expected);
    // More parts than a step has sequences.
    let settings = Settings { batch_pieces: 40, pieces: 2_000, accumulate: 1, ..whole };
    assert_same_curve(&run(&Settings { accumulate: 50, ..settings.clone() }, &[])?, &run(&settings, &[])?);
    Ok(())
}

#[test]
fn ranks_give_the_curve_of_one() -> Result<()> {
    let alone = Settings { dropout: 0., ..settings() };
    let expected = run(&alone, &[])?;
    assert_same_curve(&run_on(2, &alone, &[])?, &expected);
    // Through the exchange, but with nobody else.
    assert_same_curve(&run_on(1, &alone, &[])?, &expected);
    // Parts draw the same dropout masks, whoever computes them.
    let two = Settings { accumulate: 2, ..settings() };
    assert_same_curve(&run_on(2, &settings(), &[])?, &run(&two, &[])?);
    Ok(())
}

#[test]
fn an_interrupted_run_on_two_ranks_goes_on_as_if_it_had_not_been() -> Result<()> {
    let whole = run_on(2, &settings(), &[])?;
    assert_eq!(run_on(2, &settings(), &[0, 20, 50])?, whole);

    // On one rank in as many parts it goes on, too; in others it is another run.
    let material = Material::new(&settings())?;
    material.share(&settings(), 2, Some(50))?;
    let error = material.run(&settings(), &Rank::ALONE, None).unwrap_err().to_string();
    assert!(error.contains("other settings") && error.contains("\"parts\":2"), "{error}");
    material.run(&Settings { accumulate: 2, ..settings() }, &Rank::ALONE, None)?;
    assert_same_curve(&material.outcome(), &whole);
    Ok(())
}

/// A rank fails ten steps after a checkpoint, by an error or a panic: the run ends with its message, and goes on from the checkpoint.
#[test]
fn a_rank_that_fails_ends_the_run_and_leaves_the_checkpoint() -> Result<()> {
    let settings = settings();
    let whole = run_on(2, &settings, &[])?;
    for panics in [false, true] {
        let material = Material::new(&settings)?;
        material.share(&settings, 2, Some(20))?;
        let checkpoint = || std::fs::read(material.folder.path().join("checkpoint.safetensors")).unwrap();
        let before = checkpoint();
        let failing = |rank: &Rank| match (rank.is_first(), panics) {
            (true, _) => material.run(&settings, rank, None),
            (false, false) => {
                material.run(&settings, rank, Some(30))?;
                Err(Error::Setting("the second device is gone".into()))
            }
            (false, true) => {
                material.run(&settings, rank, Some(30))?;
                panic!("the second device is gone")
            }
        };
        let devices = [chemtag::Device::Cpu; 2];
        let error = ranks::run(&devices, |rank, _, _| failing(rank)).unwrap_err().to_string();
        for part in ["rank 1 (cpu)", "the second device is gone"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert_eq!(checkpoint(), before);
        material.share(&settings, 2, None)?;
        assert_eq!(material.outcome(), whole);
    }
    Ok(())
}

#[test]
fn ranks_are_on_gpus_or_on_cpus_alone() {
    let devices = [chemtag::Device::Cpu, chemtag::Device::Cuda(99)];
    assert!(ranks::run(&devices, |_, _, _| Ok(())).is_err());
    assert!(ranks::run(&[], |_, _, _| Ok(())).is_err());
}
