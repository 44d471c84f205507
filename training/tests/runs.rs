//! Whole runs of fine-tuning, tiny and on the CPU: the seed determines them, an interruption leaves no trace, what does not belong together is
//! refused, and the loop learns.

mod support;

use std::path::Path;

use candle_core::Device;
use chemtag::model::config::Architecture;
use chemtag_training::dataset::Dataset;
use chemtag_training::error::Result;
use chemtag_training::finetune::{Run, Settings, finetune};
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::provenance::{Provenance, SourceFile, Sources};
use chemtag_training::ranks::{self, Rank};
use tempfile::TempDir;

/// The piece `[MASK]`, which stands in no example.
const MASK: u32 = 4;
const METRICS: &str = "metrics.jsonl";
const MODEL: &str = "model.safetensors";
const CHECKPOINT: &str = "checkpoint.safetensors";

/// All that is random or carried from step to step is on.
fn settings() -> Settings {
    Settings {
        epochs: 3,
        batch_pieces: 80,
        learning_rate: 3e-3,
        dropout: 0.1,
        mask_pieces: 0.1,
        average_decay: 0.9,
        unfreeze_share: 0.5,
        seed: 1,
        checkpoint_steps: 3,
        ..Settings::default()
    }
}

/// Generated data and the size of the encoder.
struct Material {
    layers: usize,
    train: Dataset,
    devel: Vec<(String, Dataset)>,
    provenance: Provenance,
}

impl Material {
    fn new(examples: usize) -> Self {
        let devel = vec![("devel".into(), support::examples(40, 22)), ("other".into(), support::examples(10, 23))];
        Self { layers: 2, train: support::examples(examples, 21), devel, provenance: Provenance::default() }
    }

    /// A run that starts, or goes on, in `folder`. Returns the steps it did and how many steps there are.
    fn run(&self, folder: &Path, settings: Settings, stop_before: Option<usize>) -> Result<(usize, usize)> {
        self.run_rank(folder, settings, &Rank::ALONE, stop_before)
    }

    /// The same on one rank of several.
    fn run_rank(
        &self,
        folder: &Path,
        settings: Settings,
        rank: &Rank,
        stop_before: Option<usize>,
    ) -> Result<(usize, usize)> {
        let config = support::config(Architecture::DistilBert, self.layers, 2, 8);
        let checkpoint = support::checkpoint(&config.encoder, 7);
        let task = match settings.corpus_heads {
            true => Task::TaggingByCorpus { corpora: self.train.corpora.len() },
            false => Task::Tagging,
        };
        let parameters =
            Parameters::from_checkpoint(&checkpoint, "generated", config, task, settings.seed, &Device::Cpu)?;
        let (mut done, mut all) = (0, 0);
        let run = Run {
            settings,
            train: &self.train,
            devel: &self.devel,
            out: folder.into(),
            provenance: &self.provenance,
            tokenizer: b"{}",
            mask: Some(MASK),
            rank,
            on_step: &mut |_, steps, _| (done, all) = (done + 1, steps),
            stop_before,
        };
        finetune(run, &parameters)?;
        Ok((done, all))
    }

    /// The same on several ranks.
    fn share(&self, folder: &Path, settings: &Settings, count: usize, stop_before: Option<usize>) -> Result<()> {
        ranks::run(&vec![chemtag::Device::Cpu; count], |rank, _, _| {
            self.run_rank(folder, settings.clone(), rank, stop_before).map(drop)
        })
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The lines of metrics without the seconds, which no seed determines.
fn metrics(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(METRICS)).unwrap();
    let timeless = |line: &str| {
        let kept: Vec<&str> = line.split(',').filter(|field| !field.starts_with("\"seconds\":")).collect();
        assert_eq!(kept.len() + 1, line.split(',').count(), "one field holds the seconds: {line}");
        kept.join(",")
    };
    text.lines().map(timeless).collect()
}

fn model(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join(MODEL)).unwrap()
}

#[test]
fn the_seed_determines_a_run() {
    let material = Material::new(60);
    let [first, second, other] = [1, 1, 2].map(|seed| {
        let folder = folder();
        material.run(folder.path(), Settings { seed, ..settings() }, None).unwrap();
        folder
    });
    assert_eq!(metrics(first.path()).len(), 3);
    assert_eq!(metrics(first.path()), metrics(second.path()));
    assert!(model(first.path()) == model(second.path()), "the same seed gave another model");
    assert_ne!(metrics(first.path()), metrics(other.path()));
    assert!(model(first.path()) != model(other.path()), "another seed gave the same model");
}

#[test]
fn an_interrupted_run_goes_on_as_if_it_had_not_stopped() {
    let material = Material::new(60);
    let whole = folder();
    let (steps, of) = material.run(whole.path(), settings(), None).unwrap();
    assert_eq!(steps, of);
    let (in_epoch, rest) = (steps / 3, steps % 3);
    assert!(in_epoch > 4 && rest == 0, "{steps} steps: choose data with equal epochs, so that their borders are known");

    let border = in_epoch;
    for stops in
        [vec![0], vec![2], vec![border - 1], vec![border], vec![border + 1], vec![0, 1, border, 2 * border + 2]]
    {
        let folder = folder();
        let mut done = 0;
        for &stop in &stops {
            done += material.run(folder.path(), settings(), Some(stop)).unwrap().0;
            assert_eq!(done, stop);
        }
        done += material.run(folder.path(), settings(), None).unwrap().0;
        assert_eq!(done, steps, "no step is done twice");
        assert_eq!(metrics(folder.path()), metrics(whole.path()), "stopped before steps {stops:?}");
        assert!(model(folder.path()) == model(whole.path()), "another model after stops before steps {stops:?}");
    }

    // A run that is whole has nothing left to do.
    let before = (std::fs::read(whole.path().join(METRICS)).unwrap(), model(whole.path()));
    assert_eq!(material.run(whole.path(), settings(), None).unwrap().0, 0);
    assert!(before == (std::fs::read(whole.path().join(METRICS)).unwrap(), model(whole.path())));
}

/// A run that is killed leaves what it wrote after its last checkpoint.
#[test]
fn what_was_written_after_the_checkpoint_is_forgotten() {
    let material = Material::new(60);
    let (whole, killed, later) = (folder(), folder(), folder());
    let (steps, _) = material.run(whole.path(), settings(), None).unwrap();
    let border = steps / 3;
    material.run(killed.path(), settings(), Some(border - 1)).unwrap();
    material.run(later.path(), settings(), Some(border + 2)).unwrap();
    for name in [METRICS, MODEL] {
        std::fs::copy(later.path().join(name), killed.path().join(name)).unwrap();
    }
    assert_eq!(metrics(killed.path()).len(), 1);
    material.run(killed.path(), settings(), None).unwrap();
    assert_eq!(metrics(killed.path()), metrics(whole.path()));
    assert!(model(killed.path()) == model(whole.path()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let material = Material::new(4);
    for (changed, part) in [
        (Settings { epochs: 0, ..settings() }, "nothing to train"),
        (Settings { batch_pieces: 0, ..settings() }, "nothing to train"),
        (Settings { checkpoint_steps: 0, ..settings() }, "checkpoint_steps is 0"),
        (Settings { quantise_epochs: 4, ..settings() }, "the last 4 epochs shall be quantised, but there are 3"),
    ] {
        let folder = folder();
        let error = material.run(folder.path(), changed, None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let material = Material::new(30);
    let folder = folder();
    material.run(folder.path(), settings(), Some(2)).unwrap();
    let files = || [CHECKPOINT, "settings.json"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    let before = files();
    let other = Settings { learning_rate: 1e-3, ..settings() };
    let error = material.run(folder.path(), other, None).unwrap_err().to_string();
    for part in
        [CHECKPOINT, "belongs to a run with other settings", "\"learning_rate\":0.003", "\"learning_rate\":0.001"]
    {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(files() == before, "a refused run leaves the folder as it was");
    material.run(folder.path(), settings(), None).unwrap();
}

/// Settings are the same and the model fits, but the files that were read are others.
#[test]
fn a_checkpoint_of_other_data_is_refused() {
    let mut material = Material::new(30);
    let file = |option: &str, path: &str, sha256: &str| SourceFile {
        option: option.into(),
        path: path.into(),
        sha256: sha256.repeat(32),
    };
    let files = vec![file("train", "a/train.jsonl", "0a"), file("devel", "a/devel.jsonl", "0d")];
    material.provenance.sources = Sources { files, options: [("reading".into(), "mixed".into())].into() };
    let folder = folder();
    material.run(folder.path(), settings(), Some(2)).unwrap();
    let files = || {
        [CHECKPOINT, "settings.json", "run.json", "recipe.toml", METRICS]
            .map(|name| std::fs::read(folder.path().join(name)).unwrap())
    };
    let before = files();
    let kept = material.provenance.clone();
    material.provenance.sources.files[0].sha256 = "0b".repeat(32);
    let error = material.run(folder.path(), settings(), None).unwrap_err().to_string();
    for part in [CHECKPOINT, "belongs to a run on other data", "--train a/train.jsonl", "0b0b0b", "0a0a0a"] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    material.provenance.sources = kept.sources.clone();
    material.provenance.sources.options.insert("reading".into(), "documents".into());
    let error = material.run(folder.path(), settings(), None).unwrap_err().to_string();
    assert!(error.contains("--reading is documents, when the run began mixed"), "{error}");
    assert!(files() == before, "a refused run leaves the folder as it was");

    // The same files elsewhere.
    material.provenance.sources = kept.sources;
    material.provenance.sources.files[0].path = "b/train.jsonl".into();
    material.run(folder.path(), settings(), None).unwrap();
}

/// run.json and the curves are there for whoever finds the model, and no time or place is in what a seed determines.
#[test]
fn a_run_keeps_its_record_and_curves() {
    let mut material = Material::new(30);
    material.provenance.command = "finetune".into();
    material.provenance.recipe = "seed = 1\n".into();
    let folder = folder();
    let record = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.path().join("run.json")).unwrap()).unwrap()
    };
    material.run(folder.path(), settings(), Some(2)).unwrap();
    assert!(record()["starts"][0]["finished"].is_null());
    material.run(folder.path(), settings(), None).unwrap();
    let found = record();
    assert_eq!((&found["command"], &found["seed"]), (&"finetune".into(), &1.into()));
    let starts = found["starts"].as_array().unwrap();
    assert_eq!(starts.iter().map(|start| start["from_step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2]);
    let last = &starts[1];
    assert_eq!((&last["ranks"], &last["parts"]), (&1.into(), &1.into()));
    assert!(last["device"].as_str().unwrap().starts_with("cpu"));
    assert!(last["started"].as_str().unwrap() <= last["finished"].as_str().unwrap());
    assert_eq!(std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap(), "seed = 1\n");
    // A run that is done stays as it was recorded.
    material.run(folder.path(), settings(), None).unwrap();
    assert_eq!(record(), found);
    let draw = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for (name, texts) in [
        ("loss.svg", &["span loss", "class loss", "step"][..]),
        ("f1.svg", &["with-classes, devel", "without, other", "epoch", "F1 (%)"]),
    ] {
        let svg = draw(name);
        for text in texts {
            assert!(svg.contains(text), "{text} is not in {name}");
        }
    }
}

#[test]
fn a_checkpoint_that_is_damaged_or_of_another_model_is_refused() {
    let material = Material::new(30);
    let folder = folder();
    material.run(folder.path(), settings(), Some(4)).unwrap();
    let path = folder.path().join(CHECKPOINT);
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [0, 7, 8, header / 2, header, header + 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = material.run(folder.path(), settings(), None).unwrap_err().to_string();
        assert!(error.contains(CHECKPOINT) && error.contains("is damaged"), "{length} bytes: {error}");
    }
    // A whole file of tensors that is no checkpoint.
    std::fs::write(&path, support::checkpoint(&support::config(Architecture::Bert, 1, 1, 8).encoder, 1)).unwrap();
    let error = material.run(folder.path(), settings(), None).unwrap_err().to_string();
    assert!(error.contains(CHECKPOINT) && error.contains("is no checkpoint"), "{error}");
    // A checkpoint of the same settings and another encoder.
    std::fs::write(&path, &whole).unwrap();
    let deeper = Material { layers: 3, ..Material::new(30) };
    let error = deeper.run(folder.path(), settings(), None).unwrap_err().to_string();
    assert!(error.contains(CHECKPOINT) && error.contains("does not fit the model"), "{error}");

    material.run(folder.path(), settings(), None).unwrap();
}

#[test]
fn the_loop_learns() {
    let material = Material::new(600);
    let folder = folder();
    let settings = Settings {
        epochs: 5,
        batch_pieces: 150,
        learning_rate: 5e-3,
        dropout: 0.,
        mask_pieces: 0.,
        unfreeze_share: 0.,
        ..settings()
    };
    material.run(folder.path(), settings, None).unwrap();
    let text = std::fs::read_to_string(folder.path().join(METRICS)).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (first, last) = (&lines[0], &lines[4]);
    for loss in ["span_loss", "class_loss"] {
        let (first, last) = (first[loss].as_f64().unwrap(), last[loss].as_f64().unwrap());
        assert!(last < first / 10., "{loss} went from {first} to {last}");
    }
    for corpus in ["with-classes", "without"] {
        let f1 = last["devel_f1_average"]["devel"][corpus].as_f64().unwrap();
        assert!(f1 > 95., "{corpus}: F1 is {f1}");
    }
}

/// Dropout differs between parts, and pieces are masked: parts must draw the same numbers, whoever computes them.
#[test]
fn ranks_give_the_losses_of_one_that_accumulates() {
    let material = Material::new(60);
    let losses = |folder: &Path| -> Vec<[f64; 2]> {
        let text = std::fs::read_to_string(folder.join(METRICS)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| ["span_loss", "class_loss"].map(|name| line[name].as_f64().unwrap())).collect()
    };
    let same = |found: &Path, expected: &Path| {
        let [found, expected] = [found, expected].map(losses);
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.as_flattened().iter().zip(expected.as_flattened()) {
            assert!((a - b).abs() < 1e-4 * b, "{a} {b}");
        }
    };
    let (accumulating, shared, stopped) = (folder(), folder(), folder());
    material.run(accumulating.path(), Settings { accumulate: 4, ..settings() }, None).unwrap();
    let settings = Settings { accumulate: 2, ..settings() };
    material.share(shared.path(), &settings, 2, None).unwrap();
    same(shared.path(), accumulating.path());
    for stop_before in [Some(2), Some(7), None] {
        material.share(stopped.path(), &settings, 2, stop_before).unwrap();
    }
    assert_eq!(metrics(stopped.path()), metrics(shared.path()));
    assert!(model(stopped.path()) == model(shared.path()));

    // Without dropout parts are as the whole.
    let (whole, divided) = (folder(), folder());
    let settings = Settings { dropout: 0., accumulate: 1, ..settings };
    material.run(whole.path(), settings.clone(), None).unwrap();
    material.run(divided.path(), Settings { accumulate: 3, ..settings }, None).unwrap();
    same(divided.path(), whole.path());
}

/// The corpora of the generated examples are "with-classes" and "without".
#[test]
fn corpora_may_have_heads_of_their_own_and_be_marked_in_part() {
    let material = Material::new(60);
    let by_corpus = Settings { corpus_heads: true, partial: vec!["without".into()], ..settings() };
    let [plain, whole, stopped] = [folder(), folder(), folder()];
    material.run(plain.path(), settings(), None).unwrap();
    material.run(whole.path(), by_corpus.clone(), None).unwrap();
    for stop in [Some(4), None] {
        material.run(stopped.path(), by_corpus.clone(), stop).unwrap();
    }
    assert_eq!(metrics(stopped.path()), metrics(whole.path()));
    assert!(model(stopped.path()) == model(whole.path()), "an interruption left a trace");
    assert_ne!(metrics(plain.path()), metrics(whole.path()));
    // The model has what any tagger has.
    let names = |folder: &TempDir| {
        let tensors = candle_core::safetensors::load_buffer(&model(folder.path()), &Device::Cpu).unwrap();
        tensors.into_keys().collect::<std::collections::BTreeSet<String>>()
    };
    assert_eq!(names(&whole), names(&plain));
    let error = |partial: &[&str]| {
        let partial = partial.iter().map(|name| name.to_string()).collect();
        material.run(folder().path(), Settings { partial, ..settings() }, None).unwrap_err().to_string()
    };
    assert!(error(&["other"]).contains("no corpus is named \"other\"; the training data have with-classes, without"));
    assert!(error(&["with-classes", "without"]).contains("nothing tells what is none"));
}
