//! Checkpoints that others made: PyTorch's files, BertTokenizer's pieces and BertModel's hidden states as recorded by record_bert.py, and the whole way from two
//! checkpoints in SciBERT's layout, one cased and one uncased, over teachers to a student, on the command line.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::model::config::ModelConfig;
use chemtag::model::encoder::{Encoder, Pass};
use chemtag::model::weights::Weights;
use chemtag::text::words;
use chemtag::tokenizer::WordPieces;
use chemtag_training::bert_tokenizer::{Normalization, SPECIAL, tokenizer_json};
use chemtag_training::encoder_folder::EncoderFolder;
use chemtag_training::parameters::serialize;
use chemtag_training::start::StartingEncoder;
use chemtag_training::torch_file;
use serde_json::{Value, json};
use support::old_layout;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert").join(name)
}

fn safetensors(name: &str) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(recorded(name), &Device::Cpu).unwrap().into_iter().collect()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn both_forms_of_pytorchs_files_hold_what_was_saved() {
    let saved = safetensors("saved.safetensors");
    for file in ["zip.bin", "stream.bin"] {
        let read = torch_file::read(&recorded(file)).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), saved.keys().collect::<Vec<_>>(), "{file}");
        for (name, tensor) in &saved {
            let found = &read[name];
            assert_eq!((found.dims(), found.dtype()), (tensor.dims(), tensor.dtype()), "{file}: {name}");
            assert_eq!(numbers(found), numbers(tensor), "{file}: {name}");
        }
    }
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    for file in ["zip.bin", "stream.bin"] {
        let whole = std::fs::read(recorded(file)).unwrap();
        for length in [0, 3, 21, 40, 300, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = torch_file::read(&path).unwrap_err().to_string();
            assert!(error.contains("pytorch_model.bin"), "{file} of {length} bytes: {error}");
        }
    }
}

/// Pieces of a whole text by our splitting into words.
fn pieces_of(text: &str, tokenizer: &WordPieces) -> Vec<u32> {
    words(text).flat_map(|word| tokenizer.pieces(&text[word]).to_vec()).collect()
}

#[test]
fn pieces_are_those_of_bert_tokenizer() {
    let recorded: Value = serde_json::from_slice(&std::fs::read(recorded("tokens.json")).unwrap()).unwrap();
    let mut differ = Vec::new();
    for kind in ["cased", "uncased"] {
        let list = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|piece| piece.as_str().unwrap().to_string()).collect()
        };
        let pieces = list(&recorded[kind]["pieces"]);
        let normalization = Normalization::of_checkpoint(&json!({}), &pieces);
        assert_eq!(Value::from(normalization.lowercase), recorded[kind]["lowercase"]);
        let tokenizer = WordPieces::from_json(&tokenizer_json(&pieces, &normalization), kind, pieces.len()).unwrap();
        for (text, ids) in list(&recorded["strings"]).iter().zip(recorded[kind]["ids"].as_array().unwrap()) {
            let mut expected: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            if expected.is_empty() {
                // What has no piece gets the unknown one.
                expected.push(1);
            }
            // Not word by word: BERT splits fewer symbols off words than chemtag does.
            let found = tokenizer.pieces(text).to_vec();
            if found != expected {
                differ.push(format!("{kind} {text:?}: {found:?}, BertTokenizer {expected:?}"));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// Hidden states of one sequence.
fn hidden(encoder: &StartingEncoder, ids: &[u32]) -> Vec<f32> {
    let tensors = encoder.tensors().clone().into_iter().collect();
    let encoder = Encoder::load(&Weights::from_tensors(tensors, "encoder"), &encoder.config().encoder).unwrap();
    let mut batch = Batch::default();
    batch.push(ids, &[1]);
    numbers(&encoder.forward(&batch, &mut Pass::Inference).unwrap())
}

#[test]
fn an_old_checkpoint_gives_the_hidden_states_of_bert_model() {
    let folder = EncoderFolder::open(recorded("old-layout").to_str().unwrap()).unwrap();
    let (json, name) = folder.config().unwrap();
    let config = ModelConfig::from_json(&json, &name).unwrap();
    let (json, name) = folder.tokenizer().unwrap();
    let tokenizer = WordPieces::from_json(&json, &name, config.encoder.vocab_size).unwrap();
    let expected = safetensors("old-layout.safetensors");
    let mut ids = vec![tokenizer.cls()];
    ids.extend(pieces_of("Naïve bençene, NaCl: 1,2-diol", &tokenizer));
    ids.push(tokenizer.sep());
    let recorded: Vec<i64> = expected["ids"].to_vec1().unwrap();
    assert_eq!(ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), recorded);

    let (weights, name) = folder.weights().unwrap();
    let bert = StartingEncoder::from_checkpoint(&weights, &name, config).unwrap();
    let distilbert = bert.clone().into_distilbert().unwrap();
    // The masked-language-model head, with the names of either architecture.
    assert!(bert.tensors().contains_key("cls.predictions.transform.LayerNorm.weight"));
    assert!(distilbert.tensors().contains_key("vocab_layer_norm.weight"));
    for (kind, encoder) in [("bert", &bert), ("distilbert", &distilbert)] {
        let found = hidden(encoder, &ids);
        let expected = numbers(&expected["hidden"]);
        assert_eq!(found.len(), expected.len());
        let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        assert!(largest < 1e-5, "{kind}: {largest}");
    }
    // The same from safetensors with the old names, as newer copies of old checkpoints have them.
    let old_names = torch_file::read(&self::recorded("old-layout/pytorch_model.bin")).unwrap();
    assert!(old_names.contains_key("bert.embeddings.LayerNorm.gamma"));
    let weights = Weights::from_safetensors(&serialize(&old_names).unwrap(), "w", DType::F32, &Device::Cpu).unwrap();
    assert!(weights.encoder_tensor("embeddings.LayerNorm.weight", &[8]).is_ok());
}

/// Number of pieces of SciBERT's vocabularies.
const SCIVOCAB: usize = 31_090;
const CHEMICALS: [&str; 8] = ["Ethanol", "NaCl", "Äthan", "benzene", "Toluene", "TiO2", "α-pinene", "naphthalene"];
const OTHERS: [&str; 10] = ["was", "Heated", "with", "the", "Sample", "then", "cooled", "Naïve", "mice", "in"];

/// Characters, some words, and pieces that no text has.
fn scivocab(cased: bool) -> Vec<String> {
    let mut characters: Vec<char> = ('a'..='z').chain('0'..='9').chain("αäï".chars()).collect();
    if cased {
        characters.extend(('A'..='Z').chain(['Ä']));
    }
    let mut pieces: Vec<String> = SPECIAL.map(String::from).to_vec();
    pieces.extend(characters.iter().map(char::to_string));
    pieces.extend(characters.iter().map(|c| format!("##{c}")));
    pieces.extend([".", ",", "-"].map(String::from));
    let known = CHEMICALS[..4].iter().chain(&OTHERS[..5]);
    pieces.extend(known.map(|word| if cased { word.to_string() } else { word.to_lowercase().replace('ä', "a") }));
    pieces.push(if cased { "##Cl".into() } else { "##cl".into() });
    let others = SCIVOCAB - pieces.len();
    pieces.extend((0..others).map(|i| format!("unused{i}")));
    pieces
}

/// Documents of a few sentences: every third word is a chemical, in one of several cases.
fn documents(count: usize, seed: usize) -> Vec<Value> {
    let mut next = seed;
    let mut draw = move |below: usize| {
        next = next.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (next >> 33) % below
    };
    let mut document = |id: usize| {
        let (mut text, mut spans) = (String::new(), Vec::new());
        for i in 0..12 {
            let chemical = draw(3) == 0;
            let word = if chemical { CHEMICALS[draw(8)] } else { OTHERS[draw(10)] };
            let word = if draw(5) == 0 { word.to_uppercase() } else { word.to_string() };
            let start = text.chars().count();
            text.push_str(&word);
            if chemical {
                spans.push(json!([start, text.chars().count(), "CHEMICAL"]));
            }
            text.push_str(if i % 6 == 5 { ". " } else { " " });
        }
        json!({"id": id.to_string(), "text": text.trim_end(), "spans": spans})
    };
    (0..count).map(&mut document).collect()
}

fn train(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_chemtag-train")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "chemtag-train {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// What `evaluate` says of a model, and of others beside it.
fn evaluate(model: &str, data: &str, against: &[&str]) -> Value {
    let mut arguments = vec!["evaluate", "--device", "cpu", "--json", "--data", data, "--model", model];
    if !against.is_empty() {
        arguments.push("--against");
        arguments.extend(against);
    }
    serde_json::from_str(train(&arguments).lines().last().unwrap()).unwrap()
}

fn f1(model: &str, data: &str) -> f64 {
    evaluate(model, data, &[])["f1"].as_f64().unwrap()
}

#[test]
fn checkpoints_in_scibert_layout_become_teachers_and_teach_a_student() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let jsonl = |name: &str, documents: &[Value]| {
        let lines: String = documents.iter().map(|document| format!("{document}\n")).collect();
        std::fs::write(path(name), lines).unwrap();
        path(name)
    };
    let corpus = jsonl("train.jsonl", &documents(120, 1));
    let test = jsonl("test.jsonl", &documents(60, 2));
    let text = path("text.txt");
    let lines: Vec<String> = documents(400, 3).iter().map(|d| format!("{}\n", d["text"].as_str().unwrap())).collect();
    std::fs::write(&text, lines.concat()).unwrap();

    let sizes = old_layout::Sizes { hidden: 8, layers: 1, heads: 2, ffn: 16, positions: 100 };
    let mut teachers = Vec::new();
    for (seed, kind) in ["cased", "uncased"].into_iter().enumerate() {
        let (start, teacher) = (path(&format!("scivocab-{kind}")), path(kind));
        old_layout::write(Path::new(&start), &scivocab(kind == "cased"), &sizes, seed as u64);
        #[rustfmt::skip]
        train(&["teacher", "--encoder", &start, "--train", &corpus, "--out", &teacher, "--sequence-pieces", "90", "--epochs", "8",
            "--batch-pieces", "300", "--learning-rate", "1e-2", "--head-factor", "1", "--dropout", "0", "--device", "cpu"]);
        let found = f1(&teacher, &test);
        eprintln!("{kind} teacher: {found}");
        assert!(found > 80., "{kind}: {found}");
        teachers.push(teacher);
    }

    // Together they meet at words.
    let together = evaluate(&teachers[0], &test, &[&teachers[0], &teachers[1]]);
    let together = together["against"]["f1"].as_f64().unwrap();
    eprintln!("together: {together}");
    assert!(together > 80., "{together}");

    // What an uncased model finds stands in the caller's text as it was written.
    let tagger = chemtag::Tagger::load(PathBuf::from(&teachers[1])).unwrap();
    let mut capitals = 0;
    for document in documents(40, 4) {
        let text = document["text"].as_str().unwrap();
        let characters: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
        let byte = |n: &Value| characters[n.as_u64().unwrap() as usize];
        let gold: Vec<(usize, usize)> =
            document["spans"].as_array().unwrap().iter().map(|span| (byte(&span[0]), byte(&span[1]))).collect();
        for entity in tagger.tag(text).unwrap() {
            assert_eq!(entity.text, text[entity.start..entity.end]);
            let exact = gold.contains(&(entity.start, entity.end));
            capitals += usize::from(exact && entity.text.chars().any(char::is_uppercase));
        }
    }
    assert!(capitals > 40, "{capitals}");

    // A student with a vocabulary of its own.
    let (vocabulary, student, out) = (path("tokenizer.json"), path("student"), path("distilled"));
    train(&["vocab", "--text", &text, "--size", "200", "--out", &vocabulary]);
    #[rustfmt::skip]
    train(&["start", "--tokenizer", &vocabulary, "--layers", "1", "--hidden", "16", "--heads", "2", "--positions", "100", "--out", &student]);
    let mut prepared = Vec::new();
    for encoder in [&student, &teachers[0], &teachers[1]] {
        let file = format!("{encoder}.safetensors");
        train(&["prepare-text", "--encoder", encoder, "--text", &text, "--out", &file]);
        prepared.push(file);
    }
    // The foreign folder and the teacher made from it cut a text alike.
    let again = path("again.safetensors");
    train(&["prepare-text", "--encoder", &path("scivocab-uncased"), "--text", &text, "--out", &again]);
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&prepared[2]).unwrap());
    let mut arguments = vec!["distill", "--student", &student, "--out", &out, "--device", "cpu", "--teacher"];
    arguments.extend(teachers.iter().map(String::as_str));
    arguments.push("--text");
    arguments.extend(prepared.iter().map(String::as_str));
    #[rustfmt::skip]
    arguments.extend(["--pieces", "150000", "--batch-pieces", "600", "--sequence-pieces", "90", "--learning-rate", "1e-2", "--head-factor", "1", "--dropout", "0"]);
    train(&arguments);
    let found = f1(&out, &test);
    eprintln!("student: {found}");
    assert!(found > 75., "{found}");
}
