//! In: the text after a possible end of a sentence, from its first visible character, at most the look-ahead long.
//! Out: what it can be: the start of a sentence, of a list item, a name, or the rest of the sentence before.
//! Method: the spelling of the first word, and the tables of `abbreviations`.

use super::abbreviations;
use super::punctuation::{is_closing_bracket, is_dash, is_opening_bracket, is_opening_quote};
use super::words::words;

/// Whether `next` can start a sentence after a stop that belongs to no abbreviation.
pub(super) fn starts_sentence(next: &str) -> bool {
    let next = next.trim_start_matches(is_opening_quote);
    let mut characters = next.chars();
    let Some(first) = characters.next() else {
        return false;
    };
    let rest = characters.as_str();
    match first {
        _ if first.is_numeric() => true,
        _ if first.is_lowercase() => is_small_letter_name(next),
        _ if first.is_alphabetic() => true,
        '#' | '$' | '€' | '£' | '§' | '¶' | '©' => true,
        '~' | '∼' | '≈' | '<' | '>' | '≤' | '≥' => rest.trim_start().starts_with(|c: char| c.is_ascii_digit()),
        _ if is_opening_bracket(first) => {
            let inner = rest.trim_start_matches(is_opening_bracket);
            match inner.chars().next() {
                Some('+' | '-' | '−' | '–' | '±') => true,
                Some(c) if c.is_lowercase() => is_small_letter_name(inner) || is_enumerator_in_bracket(inner),
                Some(c) => c.is_alphanumeric(),
                None => false,
            }
        }
        _ => is_bullet(next) && !is_dash(first),
    }
}

/// "(a)", "(iv)".
fn is_enumerator_in_bracket(inner: &str) -> bool {
    inner.split_once(')').is_some_and(|(label, _)| is_enumerator(label))
}

/// "p-Cresol", "pH", "mRNA", "p53", "α-Pinene", "tert-butanol": a first word with small first letter that may still open a
/// sentence, because no other spelling of it exists.
fn is_small_letter_name(next: &str) -> bool {
    let word = next.split(char::is_whitespace).next().unwrap_or_default();
    if word.chars().take(24).any(|c| c.is_uppercase() || c.is_numeric()) {
        return true;
    }
    let (prefix, after) = match word.split_once(['-', '‐', '‑']) {
        Some(parts) => parts,
        None => return false,
    };
    let is_greek = |c: char| ('α'..='ω').contains(&c);
    !after.is_empty() && (prefix.chars().all(is_greek) || abbreviations::is_name_prefix(prefix))
}

/// "5-HT", "2-Butanol", "1,4-Dioxane": digits and marks, then a hyphen and a letter.
pub(super) fn is_digit_name(next: &str) -> bool {
    let locants = |c: char| c.is_ascii_digit() || matches!(c, ',' | '\'' | '′');
    let mut rest = next.trim_start_matches(locants).chars();
    rest.next() == Some('-') && rest.next().is_some_and(char::is_alphabetic)
}

/// The first letter of `next`, past opening quotes; `None` if something else stands there.
pub(super) fn first_letter(next: &str) -> Option<char> {
    next.trim_start_matches(is_opening_quote).chars().next().filter(|c| c.is_alphabetic())
}

/// Whether `next` starts with a word that opens sentences.
pub(super) fn is_opener(next: &str) -> bool {
    let next = next.trim_start_matches(is_opening_quote);
    let Some(word) = words(next).next().and_then(|range| next.get(range)) else {
        return false;
    };
    let after = next.get(word.len()..).unwrap_or_default();
    if is_initial(word) {
        // "A dose of" opens a sentence, "A. Smith" and "A 2" do not.
        let mut after = after.chars();
        return abbreviations::is_opener(word)
            && after.next().is_some_and(char::is_whitespace)
            && after.next().is_some_and(char::is_lowercase);
    }
    // "RESULTS" and its like open the parts of an abstract.
    let is_label = word.chars().all(char::is_uppercase) && abbreviations::is_heading(word);
    is_label || abbreviations::is_opener(word)
}

/// Whether `next` starts with a capitalised word that is no symbol of an element, unit or formula: an opener, or a capital and
/// at least two small letters.
pub(super) fn is_capitalised(next: &str) -> bool {
    let next_word = next.trim_start_matches(is_opening_quote);
    let mut letters = next_word.chars().take_while(|c| c.is_alphanumeric());
    let capital = letters.next().is_some_and(char::is_uppercase);
    let (small, other) = letters.fold(
        (0, 0),
        |(small, other), c| {
            if c.is_lowercase() { (small + 1, other) } else { (small, other + 1) }
        },
    );
    (capital && small >= 2 && other == 0) || is_opener(next)
}

/// Whether `next` starts with a mark that cannot start a sentence.
pub(super) fn continues(next: &str) -> bool {
    next.starts_with(|c: char| {
        is_closing_bracket(c) || matches!(c, ',' | ';' | ':' | '.' | '%' | '=' | '×' | '/' | '±' | '”' | '’' | '»')
    })
}

/// A bullet, or a dash or asterisk that stands alone as one.
pub(super) fn is_bullet(next: &str) -> bool {
    let mut characters = next.chars();
    let Some(first) = characters.next() else {
        return false;
    };
    match first {
        '•' | '‣' | '◦' | '▪' | '●' | '○' | '■' | '□' | '➢' | '✓' => true,
        '*' | '·' => characters.next().is_some_and(char::is_whitespace),
        _ => is_dash(first) && characters.next().is_some_and(char::is_whitespace),
    }
}

/// "1. ", "2) ", "(a) ", "[12] ", "2.1 Materials": the number of a list item, a reference or a section.
pub(super) fn is_item_marker(next: &str) -> bool {
    let inner = next.trim_start_matches(['(', '[']);
    let label_end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(inner.len());
    let (label, rest) = inner.split_at(label_end);
    let bare = label.trim_end_matches('.');
    if bare.len() > 6 || !is_enumerator(bare) {
        return false;
    }
    let closed = rest.trim_start_matches([')', ']']);
    let marked = rest.len() > closed.len() || label.len() > bare.len();
    let section = bare.contains('.') && is_capitalised(closed.trim_start());
    (marked || section) && closed.starts_with(char::is_whitespace)
}

/// "1", "2.3", "A", "iv" at the start of a sentence count its items.
pub(super) fn is_enumerator(word: &str) -> bool {
    let number = word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let roman = !word.is_empty() && word.chars().all(|c| "ivxIVX".contains(c));
    number || roman || is_initial(word)
}

pub(super) fn is_initial(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none()
}
