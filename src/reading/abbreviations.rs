//! In: a text and its mentions. Out: the abbreviations that it defines, "tetrahydrofuran (THF)" or "THF (tetrahydrofuran)".
//! From: Schwartz and Hearst 2003, "A simple algorithm for identifying abbreviation definitions in biomedical text", PSB 8:451-462;
//! where a mention ends at the bracket, it is the long form, for the tagger knows better where a name begins.

use crate::entity::Entity;
use crate::format::Document;

/// Words that a long form may have beyond the short form's characters, and how many times as many (section 3.1 of the paper).
const MORE_WORDS: usize = 5;
const TIMES_WORDS: usize = 2;
/// Characters and words of a short form (the same section).
const SHORT_CHARS: std::ops::RangeInclusive<usize> = 2..=10;
const SHORT_WORDS: usize = 2;
/// Bytes of a text in brackets that are looked at: a bracket that does not close soon defines nothing.
const LONGEST_BRACKET: usize = 400;
/// Bytes before a bracket in which a long form is looked for.
const LONGEST_BEFORE: usize = 600;

/// An abbreviation with the name that it stands for, as they stand in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition<'t> {
    /// The abbreviation.
    pub short: &'t str,
    /// The name.
    pub long: &'t str,
}

/// The abbreviations that a document defines, in order. `entities` are its mentions.
pub fn definitions<'t>(document: &'t Document, entities: &[Entity]) -> Vec<Definition<'t>> {
    let mut found = Vec::new();
    for passage in &document.passages {
        let Some(text) = document.text.get(passage.range.clone()) else { continue };
        for (bracket, _) in text.match_indices('(') {
            let Some((before, inside)) = around(text, bracket) else { continue };
            // Where in the document a mention that ends with `part` begins, as a text.
            let mention = |part: &'t str| {
                let end = part.as_ptr() as usize - document.text.as_ptr() as usize + part.len();
                let index = entities.partition_point(|entity| entity.end < end);
                let entity = entities.get(index).filter(|entity| entity.end == end)?;
                document.text.get(entity.start..end)
            };
            found.extend(definition(before, inside, mention));
        }
    }
    found
}

/// The text before a bracket and that inside of it.
fn around(text: &str, bracket: usize) -> Option<(&str, &str)> {
    let after = text.get(bracket + 1..)?;
    let after = &after[..after.floor_char_boundary(LONGEST_BRACKET)];
    let mut depth = 1usize;
    let close = after.char_indices().find(|&(_, c)| {
        depth = match c {
            '(' => depth + 1,
            ')' => depth - 1,
            _ => depth,
        };
        depth == 0
    })?;
    // What stands behind a semicolon or comma is a remark: "(THF, dry)", "(THF; Aldrich)".
    let inside = after[..close.0].split([';']).next()?.trim();
    let inside = inside.split(", ").next()?.trim();
    let before = text[..bracket].trim_end();
    let near = before.ceil_char_boundary(before.len().saturating_sub(LONGEST_BEFORE));
    // A name in the bracket's own word, "poly(THF)", is none.
    (before.len() < bracket).then_some((&before[near..], inside))
}

fn definition<'t>(
    before: &'t str,
    inside: &'t str,
    mention: impl Fn(&'t str) -> Option<&'t str>,
) -> Option<Definition<'t>> {
    if is_short(inside) {
        let chars = inside.chars().count();
        let window = last_words(before, (chars + MORE_WORDS).min(chars * TIMES_WORDS));
        let long =
            mention(before).filter(|name| best_long(inside, name).is_some()).or_else(|| best_long(inside, window));
        return long.filter(|long| is_long(inside, long)).map(|long| Definition { short: inside, long });
    }
    // The other way round: the name in brackets behind its abbreviation.
    let short = last_words(before, 1);
    let long = best_long(short, inside).filter(|_| is_short(short) && is_long(short, inside))?;
    // All of the bracket is the name, or nothing of it.
    (long.len() == inside.len() || mention(inside) == Some(inside)).then_some(Definition { short, long: inside })
}

/// Whether a text can be a short form.
fn is_short(text: &str) -> bool {
    SHORT_CHARS.contains(&text.chars().count())
        && text.split_whitespace().count() <= SHORT_WORDS
        && text.chars().any(char::is_alphabetic)
        && text.starts_with(char::is_alphanumeric)
}

/// Whether a text can be the long form: longer, and not one that has the short form as a word.
fn is_long(short: &str, long: &str) -> bool {
    long.chars().count() > short.chars().count() && long.split_whitespace().all(|word| word != short)
}

/// The last words of a text, at most so many.
fn last_words(text: &str, count: usize) -> &str {
    let mut start = text.len();
    for word in text.split_whitespace().rev().take(count) {
        // A word is a part of the text.
        start = word.as_ptr() as usize - text.as_ptr() as usize;
    }
    text.get(start..).unwrap_or_default()
}

/// The shortest end of `long` that holds the letters and digits of `short` in order, the first of them at the start of a word
/// (the paper's figure 1).
fn best_long<'t>(short: &str, long: &'t str) -> Option<&'t str> {
    let same = |a: char, b: char| a == b || a.to_lowercase().eq(b.to_lowercase());
    let mut rest = long.char_indices().rev().peekable();
    let mut wanted = short.chars().rev().filter(|c| c.is_alphanumeric()).peekable();
    let mut first = None;
    while let Some(c) = wanted.next() {
        let starts_word = wanted.peek().is_none();
        first = loop {
            let (at, found) = rest.next()?;
            let inside_word = rest.peek().is_some_and(|(_, before)| before.is_alphanumeric());
            if same(c, found) && !(starts_word && inside_word) {
                break Some(at);
            }
        };
    }
    let first = first?;
    // The whole word: "2-methyl..." and not "methyl...".
    let start = long[..first].char_indices().rev().find(|(_, c)| c.is_whitespace());
    long.get(start.map_or(0, |(at, c)| at + c.len_utf8())..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str, mentions: &[&str]) -> Vec<(String, String)> {
        let document = Document::from_text("a", text.into());
        let mut entities: Vec<Entity> = Vec::new();
        for mention in mentions {
            let start = text.find(mention).unwrap();
            let end = start + mention.len();
            entities.push(Entity { start, end, text: (*mention).into(), class: None, score: 1. });
        }
        definitions(&document, &entities).iter().map(|d| (d.short.to_string(), d.long.to_string())).collect()
    }

    fn one(text: &str, mentions: &[&str]) -> Option<(String, String)> {
        let mut all = found(text, mentions);
        assert!(all.len() <= 1, "{all:?}");
        all.pop()
    }

    fn pair(short: &str, long: &str) -> Option<(String, String)> {
        Some((short.into(), long.into()))
    }

    /// The examples of the paper: sections 1, 3.1 and 3.2.
    #[test]
    fn the_papers_examples() {
        let heat = "heat shock transcription factor";
        assert_eq!(one(&format!("the {heat} (HSF) binds"), &[]), pair("HSF", heat));
        assert_eq!(
            one("Gcn5-related N-acetyltransferase (GNAT)", &[]),
            pair("GNAT", "Gcn5-related N-acetyltransferase")
        );
        // Letters inside of words.
        assert_eq!(one("in acetylcholinesterase (AChE)", &[]), pair("AChE", "acetylcholinesterase"));
        assert_eq!(one("ABC (a bitter compound)", &[]), pair("ABC", "a bitter compound"));
    }

    #[test]
    fn chemists_definitions_go_both_ways() {
        assert_eq!(one("in dry tetrahydrofuran (THF, 5 mL)", &[]), pair("THF", "tetrahydrofuran"));
        assert_eq!(one("methyl tert-butyl ether (MTBE; dry)", &[]), pair("MTBE", "methyl tert-butyl ether"));
        assert_eq!(one("THF (tetrahydrofuran)", &[]), pair("THF", "tetrahydrofuran"));
        assert_eq!(
            one("used (R)-1,1'-bi-2-naphthol (BINOL).", &["(R)-1,1'-bi-2-naphthol"]),
            pair("BINOL", "(R)-1,1'-bi-2-naphthol")
        );
        // The mention knows where the name begins, which the letters alone do not.
        let name = "sodium lauryl sulfate";
        assert_eq!(one("pure sodium lauryl sulfate (LS)", &[]), pair("LS", "lauryl sulfate"));
        assert_eq!(one("pure sodium lauryl sulfate (LS)", &[name]), pair("LS", name));
    }

    #[test]
    fn what_defines_nothing() {
        for text in [
            "(THF)",
            "tetrahydrofuran (5 mL)",
            "tetrahydrofuran (THF",
            "in water (THF)",
            "poly(THF)",
            "x (see Figure 1)",
            "as shown (1)",
            "THF (THF)",
            "solvent ()",
            "THF (dried over sodium)",
        ] {
            assert_eq!(found(text, &[]), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(\\PC|[A-Ca-c() ,;αβ\u{301}]){0,60}") {
            for (short, long) in found(&text, &[]) {
                prop_assert!(text.contains(&short) && text.contains(&long) && long.len() > short.len().min(2));
            }
        }

        #[test]
        fn letters_of_the_short_form_stand_in_the_long_one_in_order(long in "[a-e]{1,4}( [a-e]{1,4}){0,4}", short in "[a-e]{1,4}") {
            // Every way to choose an end that starts a word and holds the letters: the shortest is the answer.
            let holds = |part: &str| {
                let mut letters = part.chars();
                part.starts_with(&short[..1]) && short.chars().all(|c| letters.any(|l| l == c))
            };
            let starts = long.char_indices().map(|(at, _)| at).filter(|&at| at == 0 || long.as_bytes()[at - 1] == b' ');
            let expected = starts.map(|at| &long[at..]).rfind(|part| holds(part));
            prop_assert_eq!(best_long(&short, &long), expected);
        }
    }
}
