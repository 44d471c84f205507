//! Properties of `chemtag::text` on arbitrary Unicode and on prose full of difficult places, with a slow oracle for the words.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use chemtag::text::{LOOKAHEAD_BYTES, MAX_SENTENCE_BYTES, Sentence, sentences, words};
use proptest::prelude::*;
use proptest::sample::select;
use unicode_segmentation::UnicodeSegmentation;

/// Characters that make, break and confuse grapheme clusters.
const CLUSTER_PARTS: &[&str] = &[
    "a",
    "B",
    "7",
    "é",
    "α",
    "e\u{301}",
    "\u{301}",
    "\u{308}\u{323}",
    "\u{200d}",
    "\u{200c}",
    "\u{fe0f}",
    "\u{20dd}",
    "\u{903}",
    "🇩",
    "🇪",
    "👩",
    "🔬",
    "🏽",
    "❤",
    "©",
    "\r",
    "\n",
    "\r\n",
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{c}",
    "\0",
    "\u{ad}",
    "\u{200b}",
    "\u{feff}",
    " ",
    "\u{a0}",
    "\u{3000}",
    "\t",
    "ᄀ",
    "ᅡ",
    "ᆨ",
    "가",
    "각",
    "\u{600}",
    "\u{d4e}",
    "\u{110bd}",
    "क",
    "\u{94d}",
    "\u{93c}",
    "त",
    "ก",
    "\u{e33}",
    ".",
    "_",
    "-",
    "(",
    "]",
    "”",
    "。",
    "?",
    "漢",
    "ب",
    "\u{10ffff}",
];

/// Pieces of prose, layout and names whose neighbourhood decides about sentence ends.
const PROSE_PARTS: &[&str] = &[
    "The",
    "We",
    "A",
    "J",
    "Aspirin",
    "DMSO",
    "5-HT",
    "p-Cresol",
    "α-Pinene",
    "was",
    "of",
    "and",
    "given",
    "i.p.",
    "e.g.",
    "Fig.",
    "al.",
    "U.S.",
    "No.",
    "ca.",
    "2.5",
    "12",
    "1.",
    "mg",
    ".",
    ".",
    ".",
    "!",
    "?",
    "...",
    "…",
    "。",
    "！",
    ".12",
    ".[3]",
    ".(4,5)",
    "¹²",
    ",",
    ";",
    ":",
    "-",
    "•",
    "(",
    ")",
    "[",
    "]",
    "“",
    "”",
    "\"",
    "'",
    "’",
    " ",
    " ",
    " ",
    " ",
    " ",
    " ",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "\u{2028}",
    "\u{2029}",
    "\u{c}",
    "\u{a0}",
    "\t",
    "\u{301}",
    "\u{200d}",
    "🇩🇪",
    "bicyclo[2.2.1]hept-2-ene",
    "(+)-Catechin",
    "Introduction",
    "was wrapped by hand after a good many words in this one line",
];

fn joined(parts: &'static [&'static str], count: Range<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(select(parts), count).prop_map(|parts| parts.concat())
}

/// Prose with white space and clusters about as long as the look-ahead.
fn prose() -> impl Strategy<Value = String> {
    let long = select(vec![" ", "\n", "\u{3000}", "\u{301}", "x", ")"]);
    let long = (long, 60_usize..300).prop_map(|(unit, count)| unit.repeat(count));
    let part = prop_oneof![300 => select(PROSE_PARTS).prop_map(String::from), 1 => long];
    prop::collection::vec(part, 0..250).prop_map(|parts| parts.concat())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), joined(CLUSTER_PARTS, 0..40), joined(PROSE_PARTS, 0..60), prose()]
}

/// The definition of a word, one grapheme at a time.
fn words_slowly(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut in_run = false;
    for (start, grapheme) in text.grapheme_indices(true) {
        let alphanumeric = grapheme.chars().next().is_some_and(char::is_alphanumeric);
        if grapheme.chars().all(char::is_whitespace) {
            in_run = false;
            continue;
        }
        match found.last_mut().filter(|_| in_run && alphanumeric) {
            Some(word) => word.end = start + grapheme.len(),
            None => found.push(start..start + grapheme.len()),
        }
        in_run = alphanumeric;
    }
    found
}

/// Every place where one grapheme ends and the next starts.
fn grapheme_borders(text: &str) -> BTreeSet<usize> {
    text.grapheme_indices(true).map(|(start, _)| start).chain([text.len()]).collect()
}

/// Ordered, not empty, on grapheme borders, trimmed, and covering all that is visible.
fn check_ranges(text: &str, ranges: &[Range<usize>]) -> Result<(), TestCaseError> {
    let borders = grapheme_borders(text);
    let mut end = 0;
    for range in ranges {
        prop_assert!(end <= range.start && range.start < range.end && range.end <= text.len());
        prop_assert!(borders.contains(&range.start) && borders.contains(&range.end));
        prop_assert!(text[end..range.start].chars().all(char::is_whitespace));
        let graphemes: Vec<&str> = text[range.clone()].graphemes(true).collect();
        for edge in [graphemes[0], graphemes[graphemes.len() - 1]] {
            prop_assert!(!edge.chars().all(char::is_whitespace));
        }
        end = range.end;
    }
    prop_assert!(text[end..].chars().all(char::is_whitespace));
    Ok(())
}

/// What stands before a sentence never matters.
fn check_restart(text: &str) -> Result<(), TestCaseError> {
    let all: Vec<Sentence> = sentences(text).collect();
    for sentence in &all {
        let start = sentence.range.start;
        let again = sentences(&text[start..]).next();
        let moved =
            again.map(|s| Sentence { range: s.range.start + start..s.range.end + start, continues: s.continues });
        prop_assert_eq!(moved.as_ref(), Some(sentence));
    }
    Ok(())
}

/// What stands beyond the look-ahead never matters.
fn check_prefix(text: &str, whole: &HashSet<Sentence>, length: usize) -> Result<(), TestCaseError> {
    for sentence in sentences(&text[..length]).filter(|s| s.range.end + LOOKAHEAD_BYTES <= length) {
        prop_assert!(whole.contains(&sentence), "{sentence:?} of the first {length} bytes is none of {text:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn words_are_those_of_the_definition(text in any_text()) {
        let found: Vec<Range<usize>> = words(&text).collect();
        prop_assert_eq!(&found, &words_slowly(&text));
        check_ranges(&text, &found)?;
    }

    #[test]
    fn sentences_cover_the_text_and_cut_no_word(text in any_text()) {
        let found: Vec<Range<usize>> = sentences(&text).map(|s| s.range).collect();
        check_ranges(&text, &found)?;
        let of_sentences = found.iter().flat_map(|range| {
            words(&text[range.clone()]).map(|word| word.start + range.start..word.end + range.start)
        });
        prop_assert!(of_sentences.eq(words(&text)));
    }

    #[test]
    fn what_stands_before_a_sentence_never_matters(text in any_text()) {
        check_restart(&text)?;
    }

    #[test]
    fn what_stands_beyond_the_look_ahead_never_matters(text in prose()) {
        let whole: HashSet<Sentence> = sentences(&text).collect();
        for length in (0..=text.len()).filter(|&n| text.is_char_boundary(n)).step_by(7) {
            check_prefix(&text, &whole, length)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A filler without an end brings difficult places close to the forced cut.
    #[test]
    fn both_promises_hold_around_a_forced_cut(
        filler in select(vec!["x", "x-", "(", "xy ", "e\u{301}", "\u{301}", "漢", "[a, ", "\u{1f1e9}"]),
        head in joined(PROSE_PARTS, 0..4),
        missing in 0_usize..400,
        tail in prose(),
    ) {
        let length = (MAX_SENTENCE_BYTES - missing) / filler.len();
        let text = format!("{head}{}{tail}", filler.repeat(length));
        let found: Vec<Range<usize>> = sentences(&text).map(|s| s.range).collect();
        check_ranges(&text, &found)?;
        let borders = grapheme_borders(&text);
        for sentence in sentences(&text) {
            let Range { start, end } = sentence.range;
            let is_cluster = borders.range(start + 1..).next() == Some(&end);
            prop_assert!(end - start <= MAX_SENTENCE_BYTES || is_cluster);
        }
        check_restart(&text)?;
        let whole: HashSet<Sentence> = sentences(&text).collect();
        let near = text.len().saturating_sub(tail.len() + 450)..=text.len();
        for length in near.filter(|&n| text.is_char_boundary(n)).step_by(31) {
            check_prefix(&text, &whole, length)?;
        }
    }
}
