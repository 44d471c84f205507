use super::*;
use crate::bert_tokenizer::pieces_of_vocab_txt;
use chemtag::tokenizer::WordPieces;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn counts_of(text: &str) -> WordCounts {
    let mut counts = WordCounts::default();
    counts.read(Path::new("text"), text.as_bytes()).unwrap();
    counts
}

fn pieces(json: &[u8]) -> Vec<String> {
    WordPieces::from_json(json, "tokenizer.json", usize::MAX).unwrap().vocabulary()
}

/// A text of words that share beginnings and ends, so that merges compete.
fn text(seed: u64) -> String {
    const PARTS: [&str; 9] = ["meth", "eth", "prop", "but", "an", "yl", "ol", "oxy", "e"];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..400 {
        for _ in 0..random.random_range(3..12) {
            for _ in 0..random.random_range(1..5) {
                text.push_str(PARTS[random.random_range(0..PARTS.len())]);
            }
            text.push_str([" ", "-", ", "][random.random_range(0..3)]);
        }
        text.push('\n');
    }
    text
}

/// Byte-pair encoding as its inventors wrote it: all pairs are counted anew before each merge. A tie goes to the pair whose pieces came first.
fn naive(words: &BTreeMap<String, u64>, mut vocabulary: Vec<String>, settings: &Settings) -> Vec<String> {
    let piece = |(i, c): (usize, char)| if i == 0 { c.to_string() } else { format!("##{c}") };
    let mut cut: Vec<(Vec<String>, u64)> =
        words.iter().map(|(word, &n)| (word.chars().enumerate().map(piece).collect(), n)).collect();
    while vocabulary.len() < settings.size {
        let mut pairs: HashMap<(usize, usize), u64> = HashMap::new();
        let id = |piece: &String| vocabulary.iter().position(|known| known == piece).unwrap();
        for (word, n) in &cut {
            for pair in word.windows(2) {
                *pairs.entry((id(&pair[0]), id(&pair[1]))).or_default() += n;
            }
        }
        let best = pairs.into_iter().max_by_key(|&(pair, n)| (n, std::cmp::Reverse(pair)));
        let Some(((a, b), _)) = best.filter(|&(_, n)| n >= settings.min_frequency) else { break };
        let (a, b) = (vocabulary[a].clone(), vocabulary[b].clone());
        let merged = format!("{a}{}", b.trim_start_matches("##"));
        for (word, _) in &mut cut {
            let mut i = 0;
            while i + 1 < word.len() {
                if word[i] == a && word[i + 1] == b {
                    word.splice(i..i + 2, [merged.clone()]);
                }
                i += 1;
            }
        }
        if !vocabulary.contains(&merged) {
            vocabulary.push(merged);
        }
    }
    vocabulary
}

#[test]
fn merges_are_those_of_counting_all_pairs_anew() {
    for seed in [1, 2, 3] {
        let counts = counts_of(&text(seed));
        let settings = Settings { size: 70, ..Settings::default() };
        let (json, learnt) = learn(&counts, &settings).unwrap();
        let found = pieces(&json);
        assert_eq!((learnt, found.len()), (70, 70));
        let alphabet = found
            .iter()
            .take_while(|piece| piece.trim_start_matches("##").chars().count() == 1 || piece.starts_with('['));
        let first: Vec<String> = alphabet.cloned().collect();
        let words = counts.counts.iter().map(|(word, &n)| (word.clone(), n)).collect();
        assert_eq!(found, naive(&words, first, &settings));
    }
}

#[test]
fn the_same_text_gives_the_same_bytes_however_it_is_split() {
    let text = text(7);
    let settings = Settings { size: 120, ..Settings::default() };
    let whole = learn(&counts_of(&text), &settings).unwrap();
    for _ in 0..3 {
        assert_eq!(learn(&counts_of(&text), &settings).unwrap(), whole);
    }
    let mut parts = WordCounts::default();
    for line in text.lines() {
        parts.read(Path::new("line"), line.as_bytes()).unwrap();
    }
    assert_eq!(learn(&parts, &settings).unwrap(), whole);
}

#[test]
fn special_pieces_come_first_and_words_are_the_products() {
    let text = "N,N-dimethyl and N,N-diethyl and NaCl\nN,N-dimethyl Naïve nai\u{308}ve NaCl and\n";
    let (json, _) = learn(&counts_of(text), &Settings { size: 100, ..Settings::default() }).unwrap();
    let found = pieces(&json);
    assert_eq!(found[..5], SPECIAL.map(String::from));
    let tokenizer = WordPieces::from_json(&json, "t", found.len()).unwrap();
    for (word, whole) in [("dimethyl", true), ("NaCl", true), ("and", true), ("N", true), ("dan", false)] {
        assert_eq!(tokenizer.pieces(word).len() == 1, whole, "{word}");
    }
    // No piece goes across the product's words, and both ways to write ï are one character.
    assert!(
        found.iter().all(|piece| !piece.trim_start_matches("##").contains([',', '-', '\u{308}']) || piece.len() == 1)
    );
    assert_eq!(tokenizer.pieces("nai\u{308}ve"), tokenizer.pieces("naïve"));

    let (json, _) = learn(&counts_of(text), &Settings { size: 100, uncased: true, ..Settings::default() }).unwrap();
    let found = pieces(&json);
    assert!(found[5..].iter().all(|piece| !piece.contains(|c: char| c.is_uppercase() || c == 'ï')), "{found:?}");
    let tokenizer = WordPieces::from_json(&json, "t", found.len()).unwrap();
    assert_eq!(tokenizer.pieces("NAIVE"), tokenizer.pieces("naïve"));
}

#[test]
fn rare_characters_and_pieces_are_left_out() {
    let text = "abc abc abc abd abd xyz ☃ ☃ ab\n";
    let learnt = |settings: Settings| pieces(&learn(&counts_of(text), &settings).unwrap().0)[5..].to_vec();
    // x, y, z occur once.
    let all = learnt(Settings { size: 50, ..Settings::default() });
    assert_eq!(all, ["a", "b", "c", "d", "☃", "##b", "##c", "##d", "ab", "abc", "abd"]);
    // "d" and "☃" occur twice, and "d" comes first in Unicode.
    let four = learnt(Settings { size: 50, alphabet: 4, ..Settings::default() });
    assert_eq!(four, ["a", "b", "c", "d", "##b", "##c", "##d", "ab", "abc", "abd"]);
    let three = learnt(Settings { size: 50, min_frequency: 3, ..Settings::default() });
    assert_eq!(three, ["a", "b", "c", "##b", "##c", "ab", "abc"]);
    let error = |text, settings| learn(&counts_of(text), &settings).unwrap_err().to_string();
    assert!(error(text, Settings { size: 12, ..Settings::default() }).contains("do not fit into a vocabulary of 12"));
    assert!(error("once\n", Settings::default()).contains("no words"));
}

#[test]
fn the_rarest_words_are_forgotten_first() {
    let mut counts = counts_of("a a a b b c d\n");
    counts.forget_rare(3);
    assert_eq!(counts.distinct(), 2);
    assert_eq!((counts.counts["a"], counts.counts["b"], counts.total()), (3, 2, 5));
    counts.forget_rare(1);
    assert_eq!(counts.distinct(), 1);
}

#[test]
fn lines_of_a_vocabulary_are_pieces() {
    assert_eq!(pieces_of_vocab_txt("[PAD]\na\r\n##b\n"), ["[PAD]", "a", "##b"]);
    assert_eq!(pieces_of_vocab_txt("[PAD]\na"), ["[PAD]", "a"]);
}
