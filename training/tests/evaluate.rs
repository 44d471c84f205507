//! Scores of a model that finds a list of words: what it finds, and how many pieces it reads, is known by counting.

#[path = "../../tests/support/mod.rs"]
mod word_list;

use chemtag::Tagger;
use chemtag_training::corpus::{Document, Mention};
use chemtag_training::evaluate::{Options, evaluate, evaluate_ensemble};
use chemtag_training::score::Counts;
use chemtag_training::teacher::Ensemble;
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
    let model = TinyModel::new().write(folder.path());
    let tagger = Tagger::load(&model).unwrap();
    let ensemble = Ensemble::load(&[model.clone(), model], chemtag::Device::Cpu).unwrap();
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
        let found = evaluate(&tagger, &documents, &Options { lone_sentences, retokenise }, Some(&errors)).unwrap();
        assert_eq!(found.tokens, 2 * pieces, "words given: {words}, lone: {lone_sentences}, split anew: {retokenise}");
        // Beside itself a model finds what it finds alone, and reads twice as much.
        let options = Options { lone_sentences, retokenise };
        let twice = evaluate_ensemble(&ensemble, &documents, &options, None).unwrap();
        assert_eq!(twice.tokens, 2 * found.tokens);
        assert_eq!(twice.scores.overall, found.scores.overall);
        assert_eq!(twice.scores.by_class, found.scores.by_class);
        if !words || retokenise {
            assert_eq!(found.scores.overall, Counts { gold: 8, predicted: 8, correct: 4 });
            assert_eq!(found.scores.by_class[TRIVIAL], Counts { gold: 6, predicted: 6, correct: 2 });
            assert_eq!(found.scores.by_class[FORMULA], Counts { gold: 2, predicted: 2, correct: 2 });
            // For each document, the column names apart: "ethanol" cut wrongly, "Add" missed, "acetic acid" spurious.
            assert_eq!(std::fs::read_to_string(&errors).unwrap().lines().count(), 1 + 2 * 3);
        }
    }
}
