//! Scores of a model that finds a list of words: what it finds, and how many pieces it reads, is known by counting.

#[path = "../../tests/support/mod.rs"]
mod word_list;

use std::process::Command;

use chemtag::{Device, TagOptions, Tagger};
use chemtag_training::corpus::{Document, Mention};
use chemtag_training::evaluate::{Options, evaluate};
use chemtag_training::mixture::Mixture;
use chemtag_training::score::Counts;
use word_list::{FORMULA, TRIVIAL, TinyModel};

/// Two sentences, of eight and four words, each of one piece to the model.
const TEXT: &str = "Dissolve benzene in ethanol, then LiCl. Add acetic acid.";

fn document(words: bool) -> Document {
    let mention = |text: &str, label: &str| {
        let start = TEXT.find(text).unwrap();
        Mention { start, end: start + text.len(), label: label.into() }
    };
    // The model finds "ethanol" and "acetic acid", and calls LiCl a formula.
    let mentions = vec![
        mention("benzene", TRIVIAL),
        mention("ethanol,", TRIVIAL),
        mention("LiCl", FORMULA),
        mention("Add", TRIVIAL),
    ];
    // As a corpus' own tokens: "ethanol," and the like are one.
    let mut next = 0;
    let given = TEXT.split(' ').map(|word| {
        let start = next;
        next += word.len() + 1;
        start..start + word.len()
    });
    let given = given.collect();
    Document { id: "1".into(), text: TEXT.into(), mentions, words: words.then_some(given) }
}

#[test]
fn scores_and_pieces_are_those_counted_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let tagger = Tagger::load(TinyModel::new().write(folder.path())).unwrap();
    let errors = folder.path().join("errors.tsv");
    for (words, lone_sentences, retokenise, pieces) in [
        (false, false, false, 12 + 2),
        (false, true, false, 12 + 2 * 2),
        (true, false, true, 12 + 2),
        (true, true, true, 12 + 2 * 2),
        // Nine words, three of which are of two pieces.
        (true, false, false, 12 + 2),
        (true, true, false, 12 + 2),
    ] {
        let documents = [document(words), document(words)];
        let found = evaluate(&tagger, &documents, &Options { lone_sentences, retokenise, repeat: None }, Some(&errors))
            .unwrap();
        assert_eq!(found.tokens, 2 * pieces, "words given: {words}, lone: {lone_sentences}, split anew: {retokenise}");
        assert_eq!(found.words, if words && !retokenise { 2 * 9 } else { 2 * 12 });
        let bins = found.calibration.bins();
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), found.scores.overall.predicted);
        assert_eq!(bins.iter().map(|bin| bin.correct).sum::<u64>(), found.scores.overall.correct);
        if !words || retokenise {
            assert_eq!(found.documents, [Counts { gold: 4, predicted: 4, correct: 2 }; 2]);
            assert_eq!(found.scores.overall, Counts { gold: 8, predicted: 8, correct: 4 });
            assert_eq!(found.scores.by_class[TRIVIAL], Counts { gold: 6, predicted: 6, correct: 2 });
            assert_eq!(found.scores.by_class[FORMULA], Counts { gold: 2, predicted: 2, correct: 2 });
            // For each document, the column names apart: "ethanol" cut wrongly, "Add" missed, "acetic acid" spurious.
            assert_eq!(std::fs::read_to_string(&errors).unwrap().lines().count(), 1 + 2 * 3);
        }
    }
}

#[test]
fn names_found_again_count_as_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let tagger = Tagger::load(TinyModel::new().write(folder.path())).unwrap();
    // The model was made for small letters: it does not know "Benzene".
    let text = "We took benzene. Benzene was dry.";
    let mention = |start: usize| Mention { start, end: start + 7, label: TRIVIAL.into() };
    let documents =
        [Document { id: "1".into(), text: text.into(), mentions: vec![mention(8), mention(17)], words: None }];
    let counts =
        |repeat| evaluate(&tagger, &documents, &Options { repeat, ..Options::default() }, None).unwrap().scores.overall;
    assert_eq!(counts(None), Counts { gold: 2, predicted: 1, correct: 1 });
    assert_eq!(counts(Some(0.5)), Counts { gold: 2, predicted: 2, correct: 2 });
    assert_eq!(counts(Some(1.0)), Counts { gold: 2, predicted: 1, correct: 1 });
}

/// Where all models are the same, so is their mixture: its mentions are the product's at a threshold of one half, in windows and by sentences too.
#[test]
fn a_mixture_of_equals_finds_what_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    let model = TinyModel::new().write(folder.path());
    // Longer than the model reads at once, in one sentence and in several.
    let long = format!("{} α-pinene", "benzene and ethanol with acetic acid, then β-carotene ".repeat(20));
    let sentences = "Dissolve benzene. Add LiCl and acetic acid. Nothing here. α-pinene! ".repeat(20);
    let text = |text: String| Document { id: "2".into(), text, mentions: Vec::new(), words: None };
    let documents = [document(false), text(long), text(sentences), text(String::new())];
    let tagger = Tagger::load(model.clone()).unwrap();
    let mut count = 0;
    for lone_sentences in [false, true] {
        let options = TagOptions { threshold: Some(0.5), lone_sentences, ..TagOptions::default() };
        let tagger = tagger.with_options(options).unwrap();
        let reading = Options { lone_sentences, ..Options::default() };
        for models in [vec![model.clone()], vec![model.clone(); 3]] {
            let mixture = Mixture::load(&models, Device::Cpu).unwrap();
            for (found, document) in mixture.tag(&documents, &reading).unwrap().iter().zip(&documents) {
                let expected = tagger.tag(&document.text).unwrap();
                count += expected.len();
                assert_eq!(*found, expected.iter().map(|entity| entity.start..entity.end).collect::<Vec<_>>());
            }
        }
        let given = [document(true), document(true)];
        let words: Vec<_> = given.iter().map(|document| document.words.as_deref().unwrap()).collect();
        let expected = tagger.tag_words(&[TEXT, TEXT], &words).unwrap();
        let found = Mixture::load(std::slice::from_ref(&model), Device::Cpu).unwrap().tag(&given, &reading).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(*found, expected.iter().map(|entity| entity.start..entity.end).collect::<Vec<_>>());
        }
    }
    assert!(count > 200, "{count} mentions are too few to tell");
    assert!(Mixture::load(&[], Device::Cpu).is_err());
}

/// The command prints what the library says: the model beside itself keeps all of its F1.
#[test]
fn the_command_tells_all_figures() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write(folder.path());
    let gold = r#"[[9, 16, "TRIVIAL"], [20, 28, "TRIVIAL"], [34, 38, "FORMULA"], [40, 43, "TRIVIAL"]]"#;
    let line = |id: usize| format!("{{\"id\": \"{id}\", \"text\": \"{TEXT}\", \"spans\": {gold}}}\n");
    std::fs::write(folder.path().join("corpus.jsonl"), (0..5).map(line).collect::<String>()).unwrap();
    let call = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag-train"));
        command
            .args(["evaluate", "--model", "model", "--data", "corpus.jsonl", "--device", "cpu", "--json"])
            .args(words);
        let output = command.current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        (text, json)
    };
    let (text, json) = call(&["--reliability", "r.svg", "--against", "model"]);
    for (key, expected) in [("f1", 50.), ("precision", 50.), ("gold", 20.), ("documents", 5.)] {
        assert_eq!(json[key].as_f64(), Some(expected), "{key} in {json}");
    }
    // All documents are alike.
    assert_eq!(json["intervals"]["f1"], serde_json::json!([50.0, 50.0]));
    assert_eq!(json["classes"]["FORMULA"]["f1"].as_f64(), Some(100.));
    assert_eq!(json["against"], serde_json::json!({"models": ["model"], "f1": 50.0, "retention": 100.0}));
    assert!(json["words_per_second"].as_f64() > Some(0.) && json["machine"].as_str().unwrap().starts_with("cpu"));
    // Each mention's posterior is near 1 and half of them are wrong.
    let error = json["calibration_error"].as_f64().unwrap();
    assert!((30. ..50.).contains(&error), "{error}");
    let svg = std::fs::read_to_string(folder.path().join("r.svg")).unwrap();
    assert!(svg.contains(&format!("expected calibration error {error:.2} %")));
    for part in
        ["95 % intervals over 5 documents: precision 50.00 to 50.00", "keeps 100.00 %", "speed on this machine, cpu"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (_, json) = call(&["--against", "model", "model"]);
    assert_eq!(json["against"]["models"], serde_json::json!(["model", "model"]));
    assert_eq!(json["against"]["retention"].as_f64(), Some(100.));
    assert!(call(&[]).1["against"].is_null());
}
