//! In: a document and its mentions. Out: further places where names stand that were found with a high probability elsewhere in it.
//! Method: one sense per discourse (Gale, Church and Yarowsky 1992): exact words, but for a capital at their start, between borders that a
//! longer name cannot cross.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::entity::Entity;
use crate::format::Document;
use crate::text::words;

/// Characters of a name that is looked for again: shorter ones (In, As, He, I) are words and labels, too.
const SHORTEST_NAME: usize = 3;

/// Mentions that are not among `entities`, in order: names found with a probability of at least `least` elsewhere in the document.
/// Each has the class and the probability of the surest mention of its name.
pub fn repeated<'t>(document: &'t Document, entities: &[Entity<'t>], least: f32) -> Vec<Entity<'t>> {
    let mut surest: HashMap<String, &Entity> = HashMap::new();
    for entity in entities.iter().filter(|entity| entity.score >= least && is_looked_for(&entity.text)) {
        let known = surest.entry(small_start(&entity.text)).or_insert(entity);
        if entity.score > known.score {
            *known = entity;
        }
    }
    // Names by their first word, the longest first.
    let mut by_first_word: HashMap<String, Vec<(&str, &Entity)>> = HashMap::new();
    for (name, entity) in &surest {
        if let Some(first) = words(name).next() {
            by_first_word.entry(name[first].to_string()).or_default().push((name, entity));
        }
    }
    by_first_word.values_mut().for_each(|names| names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len())));
    let mut found = Vec::new();
    if by_first_word.is_empty() {
        return found;
    }
    for passage in &document.passages {
        let Some(text) = document.text.get(passage.range.clone()) else { continue };
        let mut end = 0;
        for word in words(text).filter(|word| is_start(text, word.start)) {
            if word.start < end {
                continue;
            }
            let here = small_start(&text[word.clone()]);
            let rest = &text[word.start..];
            let name = by_first_word.get(&here).and_then(|names| {
                names.iter().find(|(name, _)| {
                    let same = rest.get(..name.len()).is_some_and(|rest| small_start(rest) == *name);
                    same && is_end(rest, name.len())
                })
            });
            let Some((name, entity)) = name else { continue };
            let start = passage.range.start + word.start;
            let stop = start + name.len();
            let next = entities.partition_point(|entity| entity.end <= start);
            if entities.get(next).is_none_or(|entity| entity.start >= stop) {
                let text = Cow::Borrowed(&document.text[start..stop]);
                found.push(Entity { start, end: stop, text, class: entity.class.clone(), score: entity.score });
            }
            end = word.start + name.len();
        }
    }
    found
}

fn is_looked_for(name: &str) -> bool {
    name.chars().count() >= SHORTEST_NAME && name.chars().any(char::is_alphabetic)
}

/// The name as inside of a sentence: a capital before a small letter is one of ASCII, so that no length changes.
fn small_start(name: &str) -> String {
    let mut start = name.as_bytes().iter();
    let sentence_case =
        start.next().is_some_and(u8::is_ascii_uppercase) && start.next().is_some_and(u8::is_ascii_lowercase);
    let mut name = name.to_string();
    // "Na" and "Cl" at the start of a formula are left alone: they do not go on in small letters.
    if sentence_case && name.as_bytes().get(2).is_some_and(|byte| byte.is_ascii_lowercase()) {
        name[..1].make_ascii_lowercase();
    }
    name
}

/// Whether a name can begin here: not behind a hyphen or a locant.
fn is_start(text: &str, at: usize) -> bool {
    text[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || "([/\"“‘".contains(c))
}

/// Whether a name can end here: at white space, perhaps behind punctuation, or at a slash.
fn is_end(text: &str, at: usize) -> bool {
    let rest = &text[at..];
    let behind = rest.trim_start_matches(['.', ',', ';', ':', ')', ']', '?', '!', '"', '”', '’']);
    behind.chars().next().is_none_or(|c| c.is_whitespace() || c == '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, mentions: &[(&str, f32)]) -> Vec<(usize, String, f32)> {
        let document = Document::from_text("a", text.into());
        let entity = |&(mention, score): &(&'static str, f32)| {
            let start = text.find(mention).unwrap();
            Entity { start, end: start + mention.len(), text: mention.into(), class: Some("X".into()), score }
        };
        let mentions: Vec<(&'static str, f32)> = mentions.iter().map(|&(m, s)| (&*m.to_string().leak(), s)).collect();
        let entities: Vec<Entity> = mentions.iter().map(entity).collect();
        let found = repeated(&document, &entities, 0.9);
        for entity in &found {
            assert_eq!((&text[entity.start..entity.end], entity.class.as_deref()), (&*entity.text, Some("X")));
            assert!(entities.iter().all(|known| known.end <= entity.start || entity.end <= known.start));
        }
        found.iter().map(|entity| (entity.start, entity.text.to_string(), entity.score)).collect()
    }

    #[test]
    fn sure_names_are_found_again_with_a_capital_too() {
        let text = "In acetic acid. Acetic acid, ether (acetic acid)/acetic acid; water.";
        let expected = [(16, "Acetic acid"), (36, "acetic acid"), (49, "acetic acid")]
            .map(|(at, name)| (at, name.to_string(), 0.95));
        assert_eq!(found(text, &[("acetic acid", 0.95), ("ether", 0.5)]), expected);
        assert_eq!(found(text, &[("acetic acid", 0.89)]), []);
    }

    #[test]
    fn parts_of_longer_names_and_short_names_are_not() {
        let text = "benzene In, benzene-1,2-diol, nitro-benzene, (benzene)sulfonate, benzenes, Benzene1, 2,benzene, In, NaCl, NaCL";
        assert_eq!(found(text, &[("benzene", 1.), ("In", 1.), ("NaCl", 1.)]), []);
    }

    #[test]
    fn the_longest_name_is_taken_and_mentions_stay() {
        let text = "zinc oxide and zinc oxide and zinc, zinc";
        let expected = [(15, "zinc oxide".to_string(), 1.), (36, "zinc".to_string(), 0.9)];
        let document = Document::from_text("a", text.into());
        let entity =
            |start: usize, end: usize, score| Entity { start, end, text: text[start..end].into(), class: None, score };
        let found = repeated(&document, &[entity(0, 10, 1.), entity(30, 34, 0.9)], 0.9);
        let found: Vec<_> = found.iter().map(|entity| (entity.start, entity.text.to_string(), entity.score)).collect();
        assert_eq!(found, expected);
    }
}
