//! The numbers of the generated examples -> words, tokenizers that cut them, text and corpora: what distillation and the whole pipeline read.
//! A first piece is a pair of letters, a later piece a digit; one vocabulary has the pairs, the other single letters.

use std::ops::Range;

use chemtag::model::crf::Tag;
use chemtag::tokenizer::WordPieces;
use chemtag_training::dataset::{Dataset, Example};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CLS, LATER, SEP, VOCABULARY};

/// Id of `[MASK]` in both vocabularies.
pub const MASK: u32 = 4;
/// First pieces of chemicals that the little gold of a test does not have: half of each kind.
pub const HELD_OUT: [Range<u32>; 2] = [22..25, 27..30];
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const CAPITALS: [char; 5] = ['B', 'D', 'F', 'G', 'K'];
const SMALL: [char; 6] = ['a', 'e', 'i', 'o', 'u', 'y'];

/// What a tokenizer has pieces for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary {
    /// The pieces of the generated examples.
    Pairs,
    /// Single letters and digits.
    Letters,
}

/// The text of a first or later piece.
fn piece(id: u32) -> String {
    if LATER.contains(&id) {
        return (id - LATER.start).to_string();
    }
    let i = (id - 5) as usize;
    [CAPITALS[i / SMALL.len()], SMALL[i % SMALL.len()]].iter().collect()
}

/// The word of these pieces.
pub fn word(pieces: &[u32]) -> String {
    pieces.iter().map(|&id| piece(id)).collect()
}

impl Vocabulary {
    fn list(self) -> Vec<String> {
        let special = SPECIAL.iter().map(|piece| piece.to_string());
        match self {
            Vocabulary::Pairs => {
                let own = (5..VOCABULARY as u32).map(|id| match LATER.contains(&id) {
                    true => format!("##{}", piece(id)),
                    false => piece(id),
                });
                special.chain(own).collect()
            }
            Vocabulary::Letters => {
                let later = SMALL.iter().chain(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
                let own = CAPITALS.iter().map(char::to_string).chain(later.map(|c| format!("##{c}")));
                special.chain(own).collect()
            }
        }
    }

    /// Number of pieces.
    pub fn size(self) -> usize {
        self.list().len()
    }

    /// `tokenizer.json`.
    pub fn json(self) -> Vec<u8> {
        let vocab: serde_json::Map<_, _> =
            self.list().into_iter().enumerate().map(|(id, piece)| (piece, id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0",
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 64, "vocab": vocab},
        });
        json.to_string().into_bytes()
    }

    /// The tokenizer.
    pub fn pieces(self) -> WordPieces {
        WordPieces::from_json(&self.json(), "tokenizer.json", self.size()).unwrap()
    }
}

/// The pieces of each word of an example.
fn words_of(example: &Example) -> Vec<&[u32]> {
    let ends = example.word_starts[1..].iter().copied().chain([example.piece_ids.len() as u32 - 1]);
    example.word_starts.iter().zip(ends).map(|(&start, end)| &example.piece_ids[start as usize..end as usize]).collect()
}

/// The same words and gold in the pieces of another vocabulary.
pub fn recut(dataset: &Dataset, vocabulary: Vocabulary) -> Dataset {
    let pieces = vocabulary.pieces();
    let example = |example: &Example| {
        let (mut piece_ids, mut word_starts) = (vec![CLS], Vec::new());
        for ids in words_of(example) {
            word_starts.push(piece_ids.len() as u32);
            piece_ids.extend(pieces.pieces(&word(ids)).iter());
        }
        piece_ids.push(SEP);
        Example { piece_ids, word_starts, ..example.clone() }
    };
    Dataset { corpora: dataset.corpora.clone(), examples: dataset.examples.iter().map(example).collect() }
}

/// Examples with and without a name of which the little gold knows nothing.
pub fn split(dataset: Dataset) -> [Dataset; 2] {
    let held_out = |example: &Example| example.piece_ids.iter().any(|&id| HELD_OUT.iter().any(|r| r.contains(&id)));
    let (with, without): (Vec<Example>, Vec<Example>) = dataset.examples.into_iter().partition(held_out);
    [with, without].map(|examples| Dataset { corpora: dataset.corpora.clone(), examples })
}

/// Documents of one to three sentences, a document on each line.
pub fn text(documents: usize, seed: u64) -> String {
    let examples = super::examples(3 * documents, seed).examples;
    runs(&examples, seed).take(documents).map(|sentences| document(sentences).0 + "\n").collect()
}

/// A corpus in the form `.jsonl`, in documents of one to three sentences; a mention has the label of its class, the last one if it has no class.
pub fn jsonl(dataset: &Dataset, labels: &[&str], seed: u64) -> String {
    let line = |(number, sentences): (usize, &[Example])| {
        let (text, mentions) = document(sentences);
        let label = |class: u8| labels.get(usize::from(class)).or(labels.last()).unwrap();
        let spans: Vec<_> = mentions.iter().map(|(at, class)| (at.start, at.end, label(*class))).collect();
        format!("{}\n", serde_json::json!({"id": number.to_string(), "text": text, "spans": spans}))
    };
    runs(&dataset.examples, seed).enumerate().map(line).collect()
}

/// The same in the form `.conll`, sentence by sentence.
pub fn conll(dataset: &Dataset, label: &str) -> String {
    let sentence = |example: &Example| {
        let tag = |tag: &Tag| match tag {
            Tag::O => "O".to_string(),
            Tag::B => format!("B-{label}"),
            Tag::I => format!("I-{label}"),
        };
        let lines = words_of(example).into_iter().map(word).zip(example.tags.iter().map(tag));
        lines.map(|(word, tag)| format!("{word}\t{tag}\n")).collect::<String>() + ".\tO\n\n"
    };
    dataset.examples.iter().map(sentence).collect()
}

/// Neighbouring examples, one to three together.
fn runs(examples: &[Example], seed: u64) -> impl Iterator<Item = &[Example]> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut rest = examples;
    std::iter::from_fn(move || {
        let (run, other) = rest.split_at(random.random_range(1..=3).min(rest.len()));
        rest = other;
        (!run.is_empty()).then_some(run)
    })
}

/// The text of sentences, and the bytes and the class of each mention.
fn document(sentences: &[Example]) -> (String, Vec<(Range<usize>, u8)>) {
    let (mut text, mut mentions) = (String::new(), Vec::<(Range<usize>, u8)>::new());
    for example in sentences {
        for (index, ids) in words_of(example).into_iter().enumerate() {
            if index > 0 {
                text.push(' ');
            }
            let start = text.len();
            text.push_str(&word(ids));
            match example.tags[index] {
                Tag::O => {}
                Tag::B => mentions.push((start..text.len(), example.classes[index])),
                Tag::I => mentions.last_mut().unwrap().0.end = text.len(),
            }
        }
        text.push_str(". ");
    }
    (text, mentions)
}
