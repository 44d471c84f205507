//! Distillation, tiny and on the CPU: a student comes close to its teachers on text without gold and learns from them names that its gold
//! lacks; an interruption leaves no trace; vocabularies may differ; what does not belong together is refused.

mod support;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Arithmetic;
use chemtag::tokenizer::WordPieces;
use chemtag_training::accumulation::Part;
use chemtag_training::aligned_text::{AlignedText, CutText};
use chemtag_training::dataset::Dataset;
use chemtag_training::distill::{self, GOLD, Gold, REPRESENTATIONS, STRUCTURAL, Settings, Student, distill};
use chemtag_training::error::Result;
use chemtag_training::finetune::{self, evaluate_words, finetune};
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::posterior_shards::{self, PosteriorShards, label};
use chemtag_training::provenance::Provenance;
use chemtag_training::ranks::{self, Rank};
use chemtag_training::representations::{Representations, TeacherEncoder};
use chemtag_training::stage::Objective;
use chemtag_training::structural::Targets;
use chemtag_training::teacher::Ensemble;
use chemtag_training::text::TextSet;
use support::words::{self, Vocabulary};
use tempfile::TempDir;

const MODEL: &str = "model.safetensors";
const METRICS: &str = "structural/metrics.jsonl";

/// All that is random or carried from step to step is on.
fn settings() -> Settings {
    Settings {
        pieces: 60_000,
        batch_pieces: 600,
        learning_rate: 5e-3,
        mask_pieces: 0.05,
        average_decay: 0.9,
        dropout: 0.,
        seed: 1,
        metrics_steps: 10,
        checkpoint_steps: 30,
        ..Settings::default()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The tagger of a test: architecture, layers and vocabulary.
fn model(architecture: Architecture, layers: usize, vocabulary: Vocabulary) -> ModelConfig {
    let mut config = support::config(architecture, layers, 2, 8);
    config.encoder.max_positions = 40;
    config.encoder.vocab_size = vocabulary.size();
    config
}

fn train(dataset: &Dataset, config: ModelConfig, vocabulary: Vocabulary, epochs: usize, seed: u64) -> TempDir {
    let checkpoint = support::checkpoint(&config.encoder, seed);
    let parameters =
        Parameters::from_checkpoint(&checkpoint, "generated", config, Task::Tagging, seed, &Device::Cpu).unwrap();
    let folder = folder();
    let settings = finetune::Settings {
        epochs,
        batch_pieces: 150,
        learning_rate: 5e-3,
        dropout: 0.,
        seed,
        ..finetune::Settings::default()
    };
    let run = finetune::Run {
        settings,
        train: dataset,
        devel: &[],
        out: folder.path().into(),
        provenance: &Provenance::default(),
        tokenizer: &vocabulary.json(),
        mask: None,
        rank: &Rank::ALONE,
        on_step: &mut |_, _, _| {},
        stop_before: None,
    };
    finetune(run, &parameters).unwrap();
    folder
}

/// The teachers of all tests: one trained on each vocabulary.
fn teacher(vocabulary: Vocabulary) -> PathBuf {
    static TEACHERS: [OnceLock<TempDir>; 2] = [OnceLock::new(), OnceLock::new()];
    let train = || {
        let dataset = words::recut(&support::examples(500, 31), vocabulary);
        train(&dataset, model(Architecture::Bert, 2, vocabulary), vocabulary, 5, 5)
    };
    TEACHERS[vocabulary as usize].get_or_init(train).path().into()
}

fn cut(text: &str, vocabulary: Vocabulary) -> CutText {
    let pieces = vocabulary.pieces();
    let mut set = TextSet::of_tokenizer(&vocabulary.json());
    set.read(Path::new("text"), text.as_bytes(), &pieces).unwrap();
    CutText::new(set, &pieces, 30).unwrap()
}

/// What a run may have beside its settings.
#[derive(Clone, Copy, Default)]
struct Extras<'a> {
    shards: Option<&'a PosteriorShards>,
    gold: Option<&'a Dataset>,
    stop_before: Option<(&'static str, usize)>,
    /// Ranks that share the run; 0 for one that is alone.
    ranks: usize,
}

/// What a student of one vocabulary is distilled from.
struct Distillation {
    student: Vocabulary,
    ensemble: Ensemble,
    text: AlignedText,
}

impl Distillation {
    fn new(student: Vocabulary, teachers: &[Vocabulary]) -> Self {
        let text = words::text(1500, 33);
        let others = teachers.iter().filter(|&&teacher| teacher != student);
        let texts = std::iter::once(&student).chain(others).map(|&vocabulary| cut(&text, vocabulary));
        let text = AlignedText::new(texts.collect()).unwrap();
        let folders: Vec<PathBuf> = teachers.iter().map(|&vocabulary| teacher(vocabulary)).collect();
        let mut ensemble = Ensemble::load(&folders, chemtag::Device::Cpu).unwrap();
        ensemble.read_from(&text).unwrap();
        Self { student, ensemble, text }
    }

    /// Distils in `folder`, in the stages of the settings and of `extras`. Returns the lines of metrics that were written.
    fn run_with(&self, folder: &Path, settings: Settings, weights: &[u8], extras: Extras) -> Result<usize> {
        let config = model(Architecture::DistilBert, 1, self.student);
        let tokenizer = self.student.json();
        let student = Student { config, weights, file: "generated", tokenizer: &tokenizer, mask: Some(words::MASK) };
        let lines = AtomicUsize::new(0);
        let train = |rank: &Rank, _: chemtag::Device, device: &Device| {
            let run = distill::Run {
                settings: settings.clone(),
                text: &self.text,
                targets: Targets { ensemble: &self.ensemble, kept: extras.shards },
                rank,
                gold: extras.gold.map(|train| Gold { train, devel: &[] }),
                out: folder.into(),
                provenance: &Provenance::default(),
                on_metrics: &mut |_, _, _, _| _ = lines.fetch_add(1, Ordering::Relaxed),
                stop_before: extras.stop_before,
            };
            distill(run, &student, device)
        };
        match extras.ranks {
            0 => train(&Rank::ALONE, chemtag::Device::Cpu, &Device::Cpu)?,
            count => ranks::run(&vec![chemtag::Device::Cpu; count], train)?,
        }
        Ok(lines.into_inner())
    }

    fn run(&self, folder: &Path, settings: Settings, weights: &[u8]) -> Result<usize> {
        self.run_with(folder, settings, weights, Extras::default())
    }

    fn fresh(&self, seed: u64) -> Vec<u8> {
        support::checkpoint(&model(Architecture::DistilBert, 1, self.student).encoder, seed)
    }
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

/// The numbers of one name in a stage's metrics.
fn series(folder: &Path, file: &str, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[name].as_f64().unwrap();
    text.lines().map(line).collect()
}

/// Word-level F1 of a model's folder, over all corpora.
fn f1(folder: &Path, vocabulary: Vocabulary, dataset: &Dataset) -> f64 {
    let config = ModelConfig::from_json(&read(folder, "config.json"), "config.json").unwrap();
    assert_eq!(config.encoder.vocab_size, vocabulary.size());
    let weights = read(folder, MODEL);
    let parameters = Parameters::from_checkpoint(&weights, MODEL, config, Task::Tagging, 0, &Device::Cpu).unwrap();
    let scores = evaluate_words(&parameters, dataset, Arithmetic::Floats).unwrap();
    scores.values().map(|counts| counts.f1()).sum::<f64>() / scores.len() as f64
}

#[test]
fn a_student_comes_close_to_its_teacher_and_learns_names_that_its_gold_lacks() {
    let vocabulary = Vocabulary::Pairs;
    let distillation = Distillation::new(vocabulary, &[vocabulary]);
    let [test, _] = words::split(support::examples(400, 34));
    for seed in [1, 2, 3] {
        let [_, mut gold] = words::split(support::examples(60, 40 + seed));
        gold.examples.truncate(15);
        let alone = train(&gold, model(Architecture::DistilBert, 1, vocabulary), vocabulary, 40, seed);
        let distilled = folder();
        let settings = Settings { seed, pieces: 120_000, batch_pieces: 300, ..settings() };
        distillation.run(distilled.path(), settings, &distillation.fresh(seed)).unwrap();
        for name in ["divergence", "class_divergence"] {
            let divergence = series(distilled.path(), METRICS, name);
            let (first, last) = (divergence[0], divergence[divergence.len() - 1]);
            eprintln!("{name}: {first} -> {last}");
            assert!(last > 0. && last < first / 4., "{name} fell from {first} to {last}");
        }
        let (alone, distilled) = (f1(alone.path(), vocabulary, &test), f1(distilled.path(), vocabulary, &test));
        eprintln!("seed {seed}: alone {alone}, distilled {distilled}");
        assert!(distilled > alone + 10., "seed {seed}: F1 {distilled} distilled, {alone} from gold alone");
    }
}

/// The lines of metrics without what no seed determines.
fn timeless(folder: &Path, file: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        assert!(fields.remove("seconds").is_some());
        fields.remove("words_per_second");
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn an_interrupted_run_goes_on_as_if_it_had_not_stopped() {
    let vocabulary = Vocabulary::Pairs;
    let distillation = Distillation::new(vocabulary, &[vocabulary]);
    let settings = Settings {
        representation_pieces: 6_000,
        pieces: 24_000,
        gold_epochs: 2,
        gold_batch_pieces: 100,
        dropout: 0.1,
        unfreeze_share: 0.6,
        ..settings()
    };
    let weights = distillation.fresh(1);
    let gold = support::examples(40, 50);
    let (whole, stopped) = (folder(), folder());
    let extras = Extras { gold: Some(&gold), ..Extras::default() };
    let run = |folder: &Path, stop_before| {
        distillation.run_with(folder, settings.clone(), &weights, Extras { stop_before, ..extras }).unwrap()
    };
    run(whole.path(), None);
    let stops =
        [(REPRESENTATIONS, 0), (REPRESENTATIONS, 5), (STRUCTURAL, 0), (STRUCTURAL, 7), (STRUCTURAL, 30), (GOLD, 3)];
    for stop in stops {
        run(stopped.path(), Some(stop));
        assert!(!stopped.path().join(MODEL).exists(), "stopped before {stop:?}");
    }
    run(stopped.path(), None);
    for file in ["representations/metrics.jsonl", METRICS, "gold/metrics.jsonl"] {
        assert_eq!(timeless(stopped.path(), file), timeless(whole.path(), file));
    }
    assert!(read(stopped.path(), MODEL) == read(whole.path(), MODEL));
    // A run that is whole has nothing left to do.
    assert_eq!(run(whole.path(), None), 0);
    assert!(read(stopped.path(), MODEL) == read(whole.path(), MODEL));
    let other = Settings { learning_rate: 1e-3, ..settings.clone() };
    let error = distillation.run_with(whole.path(), other, &weights, extras).unwrap_err().to_string();
    assert!(error.contains("belongs to a run with other settings"), "{error}");
}

#[test]
fn kept_posteriors_teach_as_live_teachers_do() {
    let vocabulary = Vocabulary::Letters;
    let distillation = Distillation::new(vocabulary, &[Vocabulary::Pairs, Vocabulary::Letters]);
    let (kept, live, labelled) = (folder(), folder(), folder());
    let of = posterior_shards::Settings { shard_documents: 400, batch_pieces: 3000 };
    let mut shards = Vec::new();
    let mut on_shard = |shard, of| shards.push((shard, of));
    label(&distillation.text, &distillation.ensemble, of, labelled.path(), &mut on_shard).unwrap();
    label(&distillation.text, &distillation.ensemble, of, labelled.path(), &mut on_shard).unwrap();
    assert_eq!(shards, [[(1, 4), (2, 4), (3, 4), (4, 4)]; 2].concat());
    let shards = PosteriorShards::load(labelled.path(), &distillation.text, &distillation.ensemble).unwrap();

    let settings = Settings { pieces: 12_000, ..settings() };
    let weights = distillation.fresh(1);
    distillation.run(live.path(), settings.clone(), &weights).unwrap();
    let extras = Extras { shards: Some(&shards), ..Extras::default() };
    distillation.run_with(kept.path(), settings.clone(), &weights, extras).unwrap();
    for name in ["divergence", "class_divergence"] {
        let [live, kept] = [&live, &kept].map(|folder| series(folder.path(), METRICS, name));
        for (live, kept) in live.iter().zip(&kept) {
            assert!((live - kept).abs() < 2e-3 * live.max(0.1), "{name}: {live} live, {kept} kept");
        }
    }
    // Another text, the same text in shorter sequences, other teachers, a file that is missing or cut short.
    let load = |text: &AlignedText, ensemble: &Ensemble| {
        PosteriorShards::load(labelled.path(), text, ensemble).map(|_| ()).unwrap_err().to_string()
    };
    let other = AlignedText::new(vec![cut(&words::text(1500, 7), vocabulary)]).unwrap();
    assert!(load(&other, &distillation.ensemble).contains("posteriors of another text"));
    let alone = Distillation::new(vocabulary, &[vocabulary]);
    let refused = label(&alone.text, &alone.ensemble, of, labelled.path(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("posteriors-00000.safetensors") && refused.contains("another text"), "{refused}");
    let mut one = Ensemble::load(&[teacher(vocabulary)], chemtag::Device::Cpu).unwrap();
    one.read_from(&distillation.text).unwrap();
    let refused = label(&distillation.text, &one, of, labelled.path(), &mut |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("other teachers"), "{refused}");
    assert_eq!(load(&distillation.text, &one), refused);
    let file = labelled.path().join("posteriors-00002.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    assert!(load(&distillation.text, &distillation.ensemble).contains("posteriors-00002"));
    std::fs::remove_file(&file).unwrap();
    assert!(load(&distillation.text, &distillation.ensemble).contains("posteriors-00002"));
}

#[test]
fn hidden_states_come_close_to_the_teachers_and_gold_is_learnt_at_last() {
    let vocabulary = Vocabulary::Letters;
    let distillation = Distillation::new(vocabulary, &[Vocabulary::Pairs, vocabulary]);
    let folder = folder();
    let settings = Settings {
        representation_pieces: 60_000,
        representation_learning_rate: 3e-3,
        mask_pieces: 0.,
        gold_batch_pieces: 150,
        gold_learning_rate: 2e-3,
        quantise_epochs: 1,
        ..settings()
    };
    let error = distillation.run(folder.path(), settings.clone(), &distillation.fresh(1)).unwrap_err().to_string();
    assert!(error.contains("the last 1 passes over gold data shall be quantised, but there are 0"), "{error}");
    let gold = words::recut(&support::examples(60, 41), vocabulary);
    let extras = Extras { gold: Some(&gold), ..Extras::default() };
    distillation.run_with(folder.path(), settings, &distillation.fresh(1), extras).unwrap();
    let errors = series(folder.path(), "representations/metrics.jsonl", "squared_error");
    assert!(errors[errors.len() - 1] < errors[0] / 2., "{errors:?}");
    let losses = series(folder.path(), "gold/metrics.jsonl", "span_loss");
    assert_eq!(losses.len(), 2);
    assert!(losses[1] < 0.5, "{losses:?}");
    let lines = timeless(folder.path(), "gold/metrics.jsonl");
    assert!(lines[0].get("quantised").is_none() && lines[1]["quantised"] == true, "{lines:?}");
    for name in [MODEL, "config.json", "tokenizer.json", "recipe.toml"] {
        assert!(read(folder.path(), name) == read(&folder.path().join("gold"), name));
    }
    // The model's folder has the record of every stage.
    let record: serde_json::Value = serde_json::from_slice(&read(folder.path(), "run.json")).unwrap();
    for stage in [REPRESENTATIONS, STRUCTURAL, GOLD] {
        let own: serde_json::Value = serde_json::from_slice(&read(&folder.path().join(stage), "run.json")).unwrap();
        assert_eq!(record["stages"][stage], own);
        assert!(own["starts"][0]["finished"].is_string());
        assert!(folder.path().join(stage).join("loss.svg").exists());
    }
}

#[test]
fn teachers_with_another_vocabulary_teach_words() {
    let distillation = Distillation::new(Vocabulary::Letters, &[Vocabulary::Pairs, Vocabulary::Letters]);
    assert_eq!(distillation.text.left_out(), 0);
    let folder = folder();
    let settings = Settings { pieces: 120_000, ..settings() };
    distillation.run(folder.path(), settings, &distillation.fresh(1)).unwrap();
    let divergence = series(folder.path(), METRICS, "divergence");
    assert!(divergence[divergence.len() - 1] < divergence[0] / 3., "{divergence:?}");
    let test = words::recut(&support::examples(200, 34), Vocabulary::Letters);
    let f1 = f1(folder.path(), Vocabulary::Letters, &test);
    assert!(f1 > 70., "{f1}");
}

#[test]
fn texts_that_are_not_the_same_are_refused() {
    let of = |pairs: &str, letters: &str| {
        let texts = vec![cut(pairs, Vocabulary::Pairs), cut(letters, Vocabulary::Letters)];
        AlignedText::new(texts).map(|_| ()).unwrap_err().to_string()
    };
    let text = words::text(30, 1);
    let shorter = words::text(29, 1);
    let error = of(&text, &shorter);
    assert!(error.contains("(30, ") && error.contains("prepare the same files"), "{error}");
    // As many documents and sentences, but other ones.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.rotate_left(1);
    let error = of(&text, &lines.join("\n"));
    assert!(error.contains("has") && error.contains("sentences"), "{error}");

    let pieces = Vocabulary::Letters.pieces();
    let mut set = TextSet::default();
    set.read(Path::new("text"), text.as_bytes(), &Vocabulary::Pairs.pieces()).unwrap();
    let error = CutText::new(set, &pieces, 30).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("prepared with another tokenizer"), "{error}");

    // A teacher whose text is missing.
    let text = AlignedText::new(vec![cut(&text, Vocabulary::Pairs)]).unwrap();
    let mut ensemble = Ensemble::load(&[teacher(Vocabulary::Letters)], chemtag::Device::Cpu).unwrap();
    let error = ensemble.read_from(&text).unwrap_err().to_string();
    assert!(error.contains("no text was prepared with the tokenizer of teacher"), "{error}");
}

#[test]
fn the_distance_of_hidden_states_has_a_gradient_in_every_tensor() {
    let distillation = Distillation::new(Vocabulary::Letters, &[Vocabulary::Pairs]);
    let encoder = TeacherEncoder::load(&distillation.ensemble, &Device::Cpu).unwrap();
    let task = Task::Representations { width: encoder.width() };
    let config = model(Architecture::DistilBert, 1, Vocabulary::Letters);
    let weights = distillation.fresh(1);
    let parameters = Parameters::from_checkpoint(&weights, "generated", config, task, 1, &Device::Cpu).unwrap();
    let objective = Representations::new(&parameters, &distillation.text, encoder).unwrap();
    let sequences = distillation.text.sequences(0, false);
    let part = Part { number: 0, before: &[], sequences: &sequences };
    let batch = objective.prepare(&part, 0).unwrap();
    let (_, gradients) = objective.gradients(&parameters, batch, &mut Dropout::new(0.)).unwrap();
    for (name, variable) in parameters.variables() {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
        let size: f32 = gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
        assert!(size > 1e-6 || name.ends_with("k_lin.bias"), "{name}: {size}");
    }
}

#[test]
fn generated_text_is_cut_as_meant() {
    let mut set = TextSet::default();
    set.read(Path::new("text"), words::text(100, 1).as_bytes(), &Vocabulary::Pairs.pieces()).unwrap();
    assert_eq!(set.documents(), 100);
    assert!(set.sentences() > 150, "{} sentences", set.sentences());
    let pairs: WordPieces = Vocabulary::Pairs.pieces();
    assert_eq!(*pairs.pieces(&words::word(&[21, 36])), [21, 36]);
    let letters = Vocabulary::Letters.pieces();
    assert_eq!(letters.pieces(&words::word(&[21, 36])).len(), 3);
}

/// Every stage, in parts and shared among ranks, against whole steps; pieces are masked, so that parts must draw as the whole does.
#[test]
fn parts_and_ranks_give_the_losses_of_whole_steps() {
    let vocabulary = Vocabulary::Pairs;
    let distillation = Distillation::new(vocabulary, &[vocabulary]);
    let gold = words::recut(&support::examples(60, 50), vocabulary);
    let settings = Settings { representation_pieces: 12_000, pieces: 20_000, gold_batch_pieces: 200, ..settings() };
    let run = |accumulate, ranks, stop_before| {
        let folder = folder();
        let settings = Settings { accumulate, ..settings.clone() };
        let extras = Extras { gold: Some(&gold), ranks, ..Extras::default() };
        for stop_before in [stop_before, None].into_iter().skip(usize::from(stop_before.is_none())) {
            let extras = Extras { stop_before, ..extras };
            distillation.run_with(folder.path(), settings.clone(), &distillation.fresh(1), extras).unwrap();
        }
        folder
    };
    let files = [
        ("representations/metrics.jsonl", "squared_error"),
        (METRICS, "divergence"),
        (METRICS, "class_divergence"),
        ("gold/metrics.jsonl", "span_loss"),
        ("gold/metrics.jsonl", "class_loss"),
    ];
    let whole = run(1, 0, None);
    for (accumulate, ranks) in [(3, 0), (1, 2)] {
        let divided = run(accumulate, ranks, None);
        for (file, name) in files {
            let [found, expected] = [&divided, &whole].map(|folder| series(folder.path(), file, name));
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.into_iter().zip(expected) {
                assert!((a - b).abs() < 1e-3 * (1. + b), "{name}: {a} {b}");
            }
        }
    }
    let [divided, stopped] = [None, Some((STRUCTURAL, 20))].map(|stop_before| run(1, 2, stop_before));
    assert!(read(stopped.path(), MODEL) == read(divided.path(), MODEL), "an interruption left a trace");
}
