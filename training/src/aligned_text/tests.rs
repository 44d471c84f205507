use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A tokenizer of single letters, or of pairs of letters where they are `ab`.
fn tokenizer(pairs: bool) -> WordPieces {
    let mut list: Vec<&str> = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "a", "b", "##a", "##b", "."];
    if pairs {
        list.extend(["ab", "##ab"]);
    }
    let vocab: serde_json::Map<_, _> =
        list.iter().enumerate().map(|(id, piece)| (piece.to_string(), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 64, "vocab": vocab},
    });
    WordPieces::from_json(json.to_string().as_bytes(), "tokenizer.json", list.len()).unwrap()
}

fn cut(text: &str, pairs: bool, room: usize) -> CutText {
    let pieces = tokenizer(pairs);
    let mut set = TextSet::of_tokenizer(&[u8::from(pairs)]);
    set.read(Path::new("text"), text.as_bytes(), &pieces).unwrap();
    CutText::new(set, &pieces, room).unwrap()
}

/// Documents as sentences of words, each word by its length.
fn write(documents: &[Vec<Vec<usize>>]) -> String {
    let word = |&length: &usize| "ab".repeat(length).chars().take(length).collect::<String>();
    let sentence = |lengths: &Vec<usize>| format!("A {}. ", lengths.iter().map(word).collect::<Vec<_>>().join(" "));
    documents.iter().map(|sentences| sentences.iter().map(sentence).collect::<String>() + "\n").collect()
}

fn documents() -> impl Strategy<Value = Vec<Vec<Vec<usize>>>> {
    let sentence = prop::collection::vec(1usize..9, 1..12);
    prop::collection::vec(prop::collection::vec(sentence, 1..5), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sequences_hold_every_word_once_and_the_same_words_in_both_texts(
        documents in documents(), rooms in (3usize..40, 3usize..40), lone: bool,
    ) {
        let text = write(&documents);
        let aligned = AlignedText::new(vec![cut(&text, false, rooms.0), cut(&text, true, rooms.1)]).unwrap();
        prop_assert_eq!(aligned.left_out(), 0);
        let mut next = 0;
        for document in 0..aligned.documents() {
            prop_assert_eq!(aligned.words(document..document + 1).start, next);
            for sequence in aligned.sequences(document, lone) {
                prop_assert_eq!(sequence.words.start, next);
                next = sequence.words.end;
                let one = std::slice::from_ref(&sequence);
                let batches = [aligned.batch(0, one), aligned.batch(1, one)];
                for (batch, room) in batches.iter().zip([rooms.0, rooms.1]) {
                    prop_assert_eq!(batch.words() as u64, sequence.words.end - sequence.words.start);
                    prop_assert!(batch.pieces() <= room + 2);
                }
                prop_assert_eq!(sequence.pieces.len() + 2, batches[0].pieces());
            }
            prop_assert_eq!(aligned.words(document..document + 1).end, next);
        }
        // A word for each, the capital and the full stop of each sentence.
        let words: usize = documents.iter().flatten().map(|sentence| sentence.len() + 2).sum();
        prop_assert_eq!(next, words as u64);
    }
}

#[test]
fn lone_sentences_are_sequences_of_their_own_and_neighbours_share_one() {
    let text = write(&[vec![vec![1, 2], vec![3]], vec![vec![4]]]);
    let aligned = AlignedText::new(vec![cut(&text, false, 40)]).unwrap();
    let words = |lone| -> Vec<u64> {
        let sequences = (0..2).flat_map(|document| aligned.sequences(document, lone));
        sequences.map(|sequence| sequence.words.end - sequence.words.start).collect()
    };
    assert_eq!(words(true), [4, 3, 3]);
    assert_eq!(words(false), [7, 3]);
}

#[test]
fn steps_go_on_where_they_were_left_and_read_documents_both_ways() {
    let text = write(&vec![vec![vec![2, 3], vec![4, 1]]; 60]);
    let aligned = AlignedText::new(vec![cut(&text, false, 40)]).unwrap();
    let steps = |seed: u64, first: usize| {
        let mut steps = Vec::new();
        let reading = TextReading { sentence_share: 0.5, batch_pieces: 200, seed };
        aligned
            .for_each_step(&reading, first, |sequences| {
                steps.push(sequences.to_vec());
                steps.len() + first < 20
            })
            .unwrap();
        steps
    };
    let whole = steps(1, 0);
    assert_eq!(whole.len(), 20);
    assert_eq!(whole[13..], steps(1, 13));
    assert_ne!(whole, steps(2, 0));
    let sequences = || whole.iter().flatten();
    let lone = sequences().filter(|sequence| sequence.lone).count() as f64 / sequences().count() as f64;
    // A lone document gives two sequences, another one.
    assert!((lone - 2. / 3.).abs() < 0.1, "{lone}");
    assert!(whole.iter().all(|step| (101..=200).contains(&aligned.batch(0, step).pieces())));
}

#[test]
fn few_sentences_with_other_words_are_left_out_and_many_are_refused() {
    // The second text has one word more in one sentence: a vowel of its own between two words.
    let texts = |sentences: usize| {
        let text = write(&vec![vec![vec![2, 3]; 5]; sentences / 5]);
        let other = text.replacen("ab aba", "ab ab a", 1);
        AlignedText::new(vec![cut(&text, false, 40), cut(&other, true, 40)])
    };
    let aligned = texts(500).unwrap();
    assert_eq!(aligned.left_out(), 1);
    let [first] = aligned.sequences(0, false).try_into().unwrap();
    assert_eq!(first.words, 4..20, "the first sentence is left out, and its words keep their numbers");
    assert!(texts(50).map(|_| ()).unwrap_err().to_string().contains("1 of 50 sentences"));
}

#[test]
fn a_step_holds_two_sequences_at_least() {
    let text = write(&[vec![vec![1]]]);
    let aligned = AlignedText::new(vec![cut(&text, false, 40)]).unwrap();
    let reading = TextReading { sentence_share: 0.5, batch_pieces: 50, seed: 0 };
    let error = aligned.for_each_step(&reading, 0, |_| true).unwrap_err().to_string();
    assert!(error.contains("less than two sequences of 40"), "{error}");
}

#[test]
fn each_pass_reads_a_document_as_often_as_it_is_named_but_it_stands_once() {
    let text = write(&[vec![vec![2, 3]], vec![vec![1, 1, 1]], vec![vec![4]]]);
    let mut aligned = AlignedText::new(vec![cut(&text, false, 40)]).unwrap();
    let before = aligned.fingerprint();
    aligned.read_again(1..2).unwrap();
    aligned.read_again(0..2).unwrap();
    assert_eq!((aligned.documents(), aligned.fingerprint()), (3, before));
    let first_word = |document: usize| aligned.words(document..document + 1).start;
    let pass = aligned.pass(&TextReading { sentence_share: 0.5, batch_pieces: 200, seed: 1 }, 0);
    let times = |document: usize| pass.iter().filter(|sequence| sequence.words.start == first_word(document)).count();
    assert_eq!([times(0), times(1), times(2)], [2, 3, 1]);
    let error = aligned.read_again(2..4).unwrap_err().to_string();
    assert!(error.contains("4") && error.contains("3"), "{error}");
}
