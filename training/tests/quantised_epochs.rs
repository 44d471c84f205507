//! Epochs in the integer engine's format: they learn, go on after an interruption, alone choose the model, and what they leave finds the same in
//! the engine as in training.

mod support;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use chemtag::batch::Batch;
use chemtag::int8::{IntegerBackend, Kernel};
use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::model::crf::{Crf, spans};
use chemtag::model::encoder::Arithmetic;
use chemtag::{Backend, CandleBackend};
use chemtag_training::dataset::Dataset;
use chemtag_training::finetune::{Run, Settings, finetune};
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::provenance::Provenance;
use chemtag_training::ranks::Rank;
use tempfile::TempDir;

const MODEL: &str = "model.safetensors";

fn settings() -> Settings {
    Settings {
        epochs: 5,
        quantise_epochs: 2,
        batch_pieces: 150,
        learning_rate: 5e-3,
        average_decay: 0.9,
        checkpoint_steps: 3,
        seed: 1,
        ..Settings::default()
    }
}

/// A run on so many examples from an encoder that `change` has changed; `stops` are the steps before which it is stopped and started again.
fn run(examples: usize, settings: &Settings, change: impl Fn(&str, Tensor) -> Tensor, stops: &[usize]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (train, devel) = (support::examples(examples, 21), vec![("devel".into(), support::examples(40, 22))]);
    let config = support::config(Architecture::DistilBert, 2, 2, 8);
    for stop_before in stops.iter().copied().map(Some).chain([None]) {
        let checkpoint = support::checkpoint(&config.encoder, 7);
        let parameters =
            Parameters::from_checkpoint(&checkpoint, "generated", config.clone(), Task::Tagging, 1, &Device::Cpu)
                .unwrap();
        let values = parameters.values(DType::F32).unwrap().into_iter();
        parameters.set(&values.map(|(name, value)| (name.clone(), change(&name, value))).collect()).unwrap();
        let run = Run {
            settings: settings.clone(),
            train: &train,
            devel: &devel,
            out: folder.path().into(),
            provenance: &Provenance::default(),
            tokenizer: b"{}",
            mask: None,
            rank: &Rank::ALONE,
            on_step: &mut |_, _, _| {},
            stop_before,
        };
        finetune(run, &parameters).unwrap();
    }
    folder
}

fn unchanged(_: &str, value: Tensor) -> Tensor {
    value
}

fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("seconds");
        line
    });
    lines.collect()
}

#[test]
fn epochs_in_8_bits_learn_from_the_first_step() {
    let settings = Settings { quantise_epochs: 5, ..settings() };
    let folder = run(600, &settings, unchanged, &[]);
    let lines = metrics(folder.path());
    let loss = |line: &serde_json::Value| line["span_loss"].as_f64().unwrap();
    assert!(loss(&lines[4]) < loss(&lines[0]) / 5., "{lines:?}");
    for corpus in ["with-classes", "without"] {
        let f1 = lines[4]["devel_f1_average"]["devel"][corpus].as_f64().unwrap();
        assert!(f1 > 95., "{corpus}: F1 is {f1}");
    }
}

#[test]
fn a_run_stopped_in_a_quantised_epoch_goes_on_as_if_it_had_not_stopped() {
    let settings = settings();
    let whole = run(60, &settings, unchanged, &[]);
    let lines = metrics(whole.path());
    let border = lines[2]["step"].as_u64().unwrap() as usize;
    let stopped = run(60, &settings, unchanged, &[border - 1, border, border + 2, border + 4]);
    assert_eq!(metrics(stopped.path()), lines);
    let model = |folder: &TempDir| std::fs::read(folder.path().join(MODEL)).unwrap();
    assert!(model(&stopped) == model(&whole), "another model");
    assert!(model(&run(60, &Settings { quantise_epochs: 0, ..settings }, unchanged, &[])) != model(&whole));
}

/// The floats' devel scores are better sometimes, but say nothing of the model in 8 bits.
#[test]
fn quantised_epochs_alone_choose_the_model() {
    let lines = metrics(run(60, &settings(), unchanged, &[]).path());
    let of = |key: &str| lines.iter().map(|line| line[key].as_bool() == Some(true)).collect::<Vec<_>>();
    assert_eq!(of("quantised"), [false, false, false, true, true]);
    assert_eq!(of("kept")[..4], [false, false, false, true]);
    let all = metrics(run(60, &Settings { quantise_epochs: 0, ..settings() }, unchanged, &[]).path());
    assert!(all.iter().all(|line| line.get("quantised").is_none()) && all[0]["kept"] == true);
}

/// Every LayerNorm gives its first channel five times its size, and what reads it takes a fifth: floats hardly mind, but of the 7 bits of a row the other channels have less than 5.
fn with_outliers(name: &str, value: Tensor) -> Tensor {
    let factor = if name.contains("orm.") {
        5.
    } else if ["q_lin.weight", "k_lin.weight", "v_lin.weight", "lin1.weight"].iter().any(|end| name.ends_with(end)) {
        0.2
    } else {
        return value;
    };
    let width = value.dims().last().copied().unwrap();
    let factors = (0..width).map(|channel| if channel == 0 { factor } else { 1f32 }).collect::<Vec<_>>();
    value.broadcast_mul(&Tensor::new(factors, &Device::Cpu).unwrap()).unwrap()
}

/// A trained model, read by what scored it in training and by the integer engine.
struct Readings {
    /// Spans of the one that are the other's, too, in percent (F1).
    agreement: f64,
    /// Gold spans that the integer engine finds, in percent (F1).
    f1: f64,
}

fn read(folder: &Path, arithmetic: Arithmetic, data: &Dataset) -> Readings {
    let bytes = std::fs::read(folder.join(MODEL)).unwrap();
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let config = ModelConfig::from_json(&config, "config.json").unwrap();
    let (engine, crf) = IntegerBackend::load(&bytes.clone().into(), MODEL, &config, Kernel::best()).unwrap();
    let parameters = Parameters::from_checkpoint(&bytes, MODEL, config, Task::Tagging, 0, &Device::Cpu).unwrap();
    let trained = CandleBackend::from_network(parameters.network_in(arithmetic).unwrap());
    let (trained, engine) = (all_spans(&trained, &crf, data), all_spans(&engine, &crf, data));
    let gold = data.examples.iter().enumerate();
    let gold: Vec<_> =
        gold.flat_map(|(i, example)| spans(&example.tags).map(move |span| (i, span.start, span.end))).collect();
    let f1 = |a: &[Span], b: &[Span]| {
        let both = a.iter().filter(|span| b.contains(span)).count();
        200. * both as f64 / (a.len() + b.len()) as f64
    };
    Readings { agreement: f1(&trained, &engine), f1: f1(&engine, &gold) }
}

/// Example, first word, word behind the last one.
type Span = (usize, usize, usize);

fn all_spans(backend: &dyn Backend, crf: &Crf, data: &Dataset) -> Vec<Span> {
    let mut batch = Batch::default();
    data.examples.iter().for_each(|example| batch.push(&example.piece_ids, &example.word_starts));
    let emissions = backend.emissions(&batch).unwrap();
    let sequences = batch.cu_words.windows(2).enumerate();
    let of = |(i, words): (usize, &[u32])| {
        let path = crf.viterbi(&emissions.tags[words[0] as usize..words[1] as usize]);
        spans(&path).map(|span| (i, span.start, span.end)).collect::<Vec<_>>()
    };
    sequences.flat_map(of).collect()
}

#[test]
fn a_model_of_quantised_epochs_agrees_with_its_integers() {
    let data = support::examples(1500, 24);
    let (mut agreement, mut f1) = ([0.; 2], [0.; 2]);
    for seed in 1..=2 {
        for (i, (quantise_epochs, arithmetic)) in
            [(0, Arithmetic::Floats), (2, Arithmetic::FakeQuantised)].into_iter().enumerate()
        {
            let settings = Settings { quantise_epochs, seed, checkpoint_steps: 1000, ..settings() };
            let folder = run(600, &settings, with_outliers, &[]);
            let readings = read(folder.path(), arithmetic, &data);
            println!(
                "{quantise_epochs} quantised epochs: {:.2} % agree with int8, whose F1 is {:.2}",
                readings.agreement, readings.f1
            );
            agreement[i] += readings.agreement / 2.;
            f1[i] += readings.f1 / 2.;
        }
    }
    assert!(agreement[1] >= agreement[0] && agreement[1] > 99.5, "agreement with int8 {agreement:?}");
    assert!(f1.iter().all(|&f1| f1 > 70.), "F1 in int8 {f1:?}: nothing was learnt that could agree");
}

/// Every trained tensor has a gradient when products are rounded, too.
#[test]
fn every_tensor_has_a_gradient() {
    use chemtag::model::dropout::Dropout;
    use chemtag_training::loss::{LabelledBatch, loss_and_gradients};
    for architecture in [Architecture::DistilBert, Architecture::Bert] {
        let config = support::config(architecture, 2, 2, 8);
        let checkpoint = support::checkpoint(&config.encoder, 1);
        let parameters =
            Parameters::from_checkpoint(&checkpoint, "generated", config, Task::Tagging, 2, &Device::Cpu).unwrap();
        let network = parameters.network_in(Arithmetic::FakeQuantised).unwrap();
        let labelled = LabelledBatch::pack(&support::examples(12, 4).examples, &[]);
        let (_, gradients) = loss_and_gradients(&parameters, &network, &labelled, &mut Dropout::new(0.1), 0.5).unwrap();
        let moves = |variable: &Var| {
            gradients
                .get(variable)
                .is_some_and(|g| g.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 0.)
        };
        let still: HashMap<_, _> = parameters.variables().iter().filter(|(_, variable)| !moves(variable)).collect();
        assert!(still.is_empty(), "no gradient: {:?}", still.keys());
    }
}
