//! Models as ONNX against chemtag's own engines, by ONNX Runtime: the variable CHEMTAG_PYTHON names a Python that has `onnxruntime`, `numpy` and `tokenizers`,
//! as `tests/run-all.sh` makes one; else `python3` is asked. Where there is none, these tests say so and pass.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::int8::to_file;
use chemtag::model::config::Architecture;
use chemtag::text::{sentences, words};
use chemtag::{LoadOptions, Model, ModelFiles, ModelSource, Precision, TagOptions, Tagger};
use chemtag_training::onnx::to_onnx;
use chemtag_training::parameters::{Parameters, Task, serialize};
use serde_json::json;
use support::words::Vocabulary;

fn python() -> Option<String> {
    let python = std::env::var("CHEMTAG_PYTHON").ok().filter(|name| !name.is_empty()).unwrap_or("python3".into());
    let has = Command::new(&python).args(["-c", "import onnxruntime, numpy, tokenizers"]).output();
    let found = has.is_ok_and(|output| output.status.success());
    if !found {
        println!("no Python with onnxruntime, numpy and tokenizers: set CHEMTAG_PYTHON to one");
    }
    found.then_some(python)
}

/// What an engine says of texts, each a sequence of its own, for the script to compare.
fn cases(model: Model, texts: &[String]) -> serde_json::Value {
    let tagger = Tagger::from_model(model.into());
    let tagger = tagger.with_options(TagOptions { lone_sentences: true, ..TagOptions::default() }).unwrap();
    let pieces = tagger.model().tokenizer();
    let room = tagger.model().config().tagger.sequence_pieces;
    let backend = tagger.model().backend();
    let mut cases = Vec::new();
    for text in texts {
        let ranges: Vec<_> = words(text).collect();
        let (mut ids, mut starts) = (vec![pieces.cls()], Vec::new());
        for word in &ranges {
            starts.push(ids.len() as u32);
            pieces.push_pieces(&text[word.clone()], &mut ids);
        }
        ids.push(pieces.sep());
        assert!(ids.len() <= room, "{text}");
        let mut batch = Batch::default();
        batch.push(&ids, &starts);
        let emissions = backend.compute(backend.prepare(batch).unwrap()).unwrap();
        let found = tagger.tag_words(&[text.as_str()], &[&ranges]).unwrap().remove(0);
        let place = |byte: usize| ranges.partition_point(|word| word.end <= byte);
        let spans: Vec<_> = found.iter().map(|entity| [place(entity.start), place(entity.end - 1)]).collect();
        let logits: Vec<_> = emissions.class_logits.chunks(emissions.classes.max(1)).collect();
        cases.push(json!({"ids": ids, "word_starts": starts, "emissions": emissions.tags, "class_logits": logits, "spans": spans}));
    }
    cases.into()
}

/// Runs the script and gives what it prints.
fn compare(python: &str, onnx: &[u8], cases: &serde_json::Value, most_difference: f32, least_equal: f32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (folder.path().join("model.onnx"), folder.path().join("cases.json"));
    std::fs::write(&model, onnx).unwrap();
    std::fs::write(&file, cases.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_onnx.py");
    let output = Command::new(python)
        .arg(script)
        .args([&model, &file])
        .args([most_difference, least_equal].map(|number| number.to_string()))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

fn random_model(architecture: Architecture) -> ModelFiles {
    let config = support::config(architecture, 2, 2, 8);
    let checkpoint = support::checkpoint(&config.encoder, 5);
    let parameters =
        Parameters::from_checkpoint(&checkpoint, "generated", config.clone(), Task::Tagging, 5, &Device::Cpu).unwrap();
    let tensors: BTreeMap<String, Tensor> = parameters.values(DType::F32).unwrap().into_iter().collect();
    ModelFiles {
        names: ["config.json", "tokenizer.json", "model.safetensors"].map(str::to_string),
        config: config.to_json().to_string().into_bytes().into(),
        tokenizer: Vocabulary::Pairs.json().into(),
        weights: serialize(&tensors).unwrap().into(),
        self_contained: false,
    }
}

fn load(files: &ModelFiles, precision: Precision) -> Model {
    Model::load(files, LoadOptions { precision, ..LoadOptions::default() }).unwrap()
}

#[test]
fn both_architectures_are_the_same_in_onnx_runtime() {
    let Some(python) = python() else { return };
    for architecture in [Architecture::DistilBert, Architecture::Bert] {
        let files = random_model(architecture);
        let texts: Vec<String> = (1..20).map(|count| "na cl h o li ".repeat(count % 3 + 1)).collect();
        let onnx = to_onnx(&files).unwrap();
        assert_eq!(onnx, to_onnx(&files).unwrap(), "the same model gives the same bytes");
        let printed = compare(&python, &onnx, &cases(load(&files, Precision::F32), &texts), 1e-4, 1.);
        println!("{architecture:?}, f32: {printed}");
        let int8 = ModelFiles::from_bytes(to_file(&files).unwrap(), "int8".into()).unwrap();
        let printed =
            compare(&python, &to_onnx(&int8).unwrap(), &cases(load(&int8, Precision::Int8), &texts), 1e-2, 0.95);
        println!("{architecture:?}, int8: {printed}");
    }
}

fn default_model() -> ModelFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/chemtag-small");
    ModelFiles::read(&ModelSource::Folder(folder)).unwrap()
}

/// Sentences of the repository's own texts, and pairs of them: five hundred.
fn five_hundred() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let lines = std::fs::read_to_string(root.join("tests/general_text.jsonl")).unwrap();
    let texts = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut all: Vec<String> = texts.map(|record| record["text"].as_str().unwrap().to_string()).collect();
    let long = std::fs::read_to_string(root.join("examples/abstract.txt")).unwrap();
    all.extend(sentences(&long).map(|sentence| long[sentence.range].to_string()));
    let single = all.len();
    for step in 1.. {
        for first in 0..single {
            if all.len() == 500 {
                return all;
            }
            all.push(format!("{} {}", all[first], all[(first + step) % single]));
        }
    }
    all
}

#[test]
fn the_default_model_tags_the_same_in_onnx_runtime() {
    let Some(python) = python() else { return };
    let files = default_model();
    let texts = five_hundred();
    let expected = cases(load(&files, Precision::F32), &texts);
    let mentions: usize = expected.as_array().unwrap().iter().map(|case| case["spans"].as_array().unwrap().len()).sum();
    assert!(mentions > 500, "{mentions}");
    println!("f32: {}", compare(&python, &to_onnx(&files).unwrap(), &expected, 1e-4, 1.));
    let int8 = ModelFiles::from_bytes(to_file(&files).unwrap(), "int8".into()).unwrap();
    let expected = cases(load(&int8, Precision::Int8), &texts);
    // ONNX's attention stays in floats, the engine's is in integers: what rounds otherwise there may cross a border of 7 bits in the next layer.
    println!("int8: {}", compare(&python, &to_onnx(&int8).unwrap(), &expected, 1.2, 0.97));
}

#[test]
fn the_example_tags_as_the_tagger_does() {
    let Some(python) = python() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    let files = default_model();
    std::fs::write(&model, to_onnx(&files).unwrap()).unwrap();
    let path = root.join("examples/abstract.txt");
    let output = Command::new(python).arg(root.join("examples/onnx_tag.py")).args([&model, &path]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(path).unwrap();
    let tagger = Tagger::from_model(load(&files, Precision::F32).into());
    let tagger = tagger.with_options(TagOptions { lone_sentences: true, ..TagOptions::default() }).unwrap();
    let offsets = chemtag::Offsets::new(&text);
    let entities = tagger.tag(&text).unwrap();
    let lines = entities.iter().map(|entity| {
        let (start, end) = (offsets.chars(entity.start), offsets.chars(entity.end));
        format!("{start}\t{end}\t{}\t{}\n", entity.class.as_deref().unwrap(), entity.text)
    });
    let expected: String = lines.collect();
    assert!(entities.len() > 5, "{}", entities.len());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
