//! In: a sentence so far, the white space after it, and the start of what follows.
//! Out: whether the sentence ends there.
//! Method: rules over the tables of `abbreviations`, in the order: layout, full stop, line break, open bracket.
//!
//! A decision sees only the two slices it is given. They end at the sentence's own start and at the look-ahead, so that the
//! promises of [`super`] hold by construction.

use super::abbreviations::{self, Ending};
use super::punctuation::{is_closing, is_closing_bracket, is_opening_bracket, is_opening_quote, line_breaks};
use super::starts;
use super::words::cluster_at;

/// A line of hard-wrapped prose has at least this many characters ...
const WRAP_MIN: usize = 60;
/// ... and at most this many; a longer line is a paragraph or a title of its own.
const WRAP_MAX: usize = 160;

/// What the last characters of a sentence so far say about its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// Offset of the first stop of a run such as "?!" or "...".
    pub at: usize,
    /// Number of stops in the run.
    pub count: usize,
    /// The run holds a mark that is no full stop: it cannot belong to an abbreviation.
    pub is_strong: bool,
    /// The run holds a stop of a script that is written without spaces.
    pub is_wide: bool,
    pub tail: Tail,
}

/// What stands between a stop and the white space after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing: another stop belongs to the same run.
    Nothing,
    /// Closing quotes and brackets.
    Closed,
    /// Reference numbers ("effect.12,13", "effect.[12]"); true once a digit was read.
    Reference(bool),
}

impl Stop {
    /// The stop after one more visible character `c`, itself no stop; `None` if `c` goes on with the sentence.
    pub(super) fn followed_by(self, c: char) -> Option<Stop> {
        let tail = match self.tail {
            Tail::Nothing | Tail::Closed if is_closing(c) => Tail::Closed,
            Tail::Nothing | Tail::Closed if c.is_numeric() => Tail::Reference(true),
            Tail::Nothing | Tail::Closed if matches!(c, '[' | '(') => Tail::Reference(false),
            Tail::Reference(_) if c.is_numeric() => Tail::Reference(true),
            Tail::Reference(_) if matches!(c, ',' | '-' | '–' | '[' | '(' | ']' | ')') => self.tail,
            _ => return None,
        };
        Some(Stop { tail, ..self })
    }
}

/// A sentence so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    /// The text from the sentence's start to its last visible character.
    pub sentence: &'a str,
    /// Offset of the last line's start in `sentence`.
    pub line_start: usize,
    /// The stop that `sentence` ends with, if any.
    pub stop: Option<Stop>,
    /// Brackets of `sentence` that are still open.
    pub open_brackets: usize,
}

/// Whether a sentence ends before the white space that `window` starts with.
pub(super) fn is_border(before: &Before, window: &str) -> bool {
    let (breaks, next) = split_gap(window);
    // White space that fills the window is a layout gap.
    if next.is_empty() || breaks >= 2 {
        return true;
    }
    let ends = match &before.stop {
        Some(stop) => stop_ends(before, stop, breaks == 1, next),
        None => breaks == 1 && line_ends(before, next),
    };
    ends && !(before.open_brackets > 0 && closes_bracket(next))
}

/// Counts the line breaks of the white space at the start of `window`; returns them and what follows the white space.
///
/// A paragraph separator counts as two. A form feed or vertical tab counts only where there is no other break, for a page
/// may end in the middle of a sentence.
fn split_gap(window: &str) -> (usize, &str) {
    let (mut breaks, mut page, mut position) = (0, 0, 0);
    while let Some(cluster) = cluster_at(window, position).filter(|cluster| cluster.is_white) {
        match cluster.first {
            '\u{c}' | '\u{b}' => page = 1,
            _ => breaks += line_breaks(cluster.first),
        }
        position = cluster.end;
    }
    (breaks.max(page), window.get(position..).unwrap_or_default())
}

/// Whether an open bracket is closed in `next` before a blank line.
fn closes_bracket(next: &str) -> bool {
    let (mut open, mut breaks, mut position) = (0_usize, 0, 0);
    while let Some(cluster) = cluster_at(next, position) {
        position = cluster.end;
        if cluster.is_white {
            breaks += line_breaks(cluster.first);
            if breaks >= 2 {
                return false;
            }
            continue;
        }
        breaks = 0;
        if is_opening_bracket(cluster.first) {
            open += 1;
        } else if is_closing_bracket(cluster.first) {
            match open.checked_sub(1) {
                Some(rest) => open = rest,
                None => return true,
            }
        }
    }
    false
}

/// Whether a stop, with or without a line break after it, ends the sentence before `next`.
fn stop_ends(before: &Before, stop: &Stop, line_break: bool, next: &str) -> bool {
    let head = before.sentence.get(..stop.at).unwrap_or_default();
    let by_line = || line_break && line_ends(before, next);
    let ordinary = || starts::starts_sentence(next) || (line_break && !starts::continues(next));
    match stop.tail {
        Tail::Reference(false) => return by_line(),
        Tail::Reference(true) => {
            let follows_word = stop.is_strong || ends_with_plain_word(head);
            return (follows_word && starts::first_letter(next).is_some_and(char::is_uppercase)) || by_line();
        }
        Tail::Nothing | Tail::Closed => {}
    }
    if stop.is_strong {
        return ordinary();
    }
    if stop.count > 1 {
        return starts::is_capitalised(next) || by_line();
    }
    let word = word_before_stop(head);
    if word.len() == head.len() && starts::is_enumerator(word) {
        return false;
    }
    if word.ends_with(|c: char| c.is_ascii_digit()) && next.starts_with(|c: char| c.is_numeric()) {
        // "pH 7. 4" is one number; "in group 2. 5-HT was" names a substance.
        return starts::is_digit_name(next);
    }
    match abbreviations::ending(word) {
        _ if is_unit_letter(head, word) => ordinary(),
        Some(Ending::Never) => false,
        Some(Ending::NotBeforeNumber) if next.starts_with(|c: char| c.is_numeric()) => false,
        Some(Ending::NotBeforeNumber) | None => ordinary(),
        Some(Ending::BeforeOpener) if starts::is_initial(word) => starts::is_opener(next),
        Some(Ending::BeforeOpener) => starts::is_opener(next) || by_line(),
        Some(Ending::BeforeCapitalised) => starts::is_capitalised(next) || by_line(),
    }
}

/// Whether a line break without a stop before it ends the sentence before `next`.
fn line_ends(before: &Before, next: &str) -> bool {
    if starts::continues(next) {
        return false;
    }
    let line = before.sentence.get(before.line_start..).unwrap_or_default();
    if starts::is_bullet(next) || abbreviations::is_heading(before.sentence) {
        return true;
    }
    let length = line.chars().take(WRAP_MAX + 1).count();
    let wrapped = (WRAP_MIN..=WRAP_MAX).contains(&length);
    if wrapped || needs_more(line) {
        return false;
    }
    if starts::is_item_marker(next) {
        return true;
    }
    match next.trim_start_matches(is_opening_quote).chars().next() {
        Some(c) => c.is_alphabetic() && !c.is_lowercase(),
        None => false,
    }
}

/// The letters, digits and inner full stops before a stop: "i.p", "Fig", "2.5". Empty if they are longer than any
/// abbreviation, which keeps the look back short.
fn word_before_stop(head: &str) -> &str {
    const LONGEST: usize = 12;
    let letters = head.chars().rev().take_while(|&c| c.is_alphanumeric() || c == '.');
    let (count, bytes) = letters.take(LONGEST + 1).fold((0, 0), |(n, b), c| (n + 1, b + c.len_utf8()));
    if count > LONGEST { "" } else { head.get(head.len() - bytes..).unwrap_or_default() }
}

/// "25 °C", "310 K", "6 h", "mg/L", "cyclosporin-A": a lone letter that is no initial of a name.
fn is_unit_letter(head: &str, word: &str) -> bool {
    if !starts::is_initial(word) {
        return false;
    }
    let mut back = head.chars().rev().skip(1);
    match back.next() {
        Some('°' | 'º' | '/') => true,
        Some('-') => back.next().is_some_and(char::is_alphanumeric),
        Some(c) if c.is_whitespace() => "CKLMTVdghsÅ".contains(word) && back.next().is_some_and(|c| c.is_ascii_digit()),
        _ => false,
    }
}

/// A word of at least two letters that is no abbreviation: a number after its full stop is a reference, not a decimal.
fn ends_with_plain_word(head: &str) -> bool {
    if head.ends_with(is_closing) {
        return true;
    }
    let word = word_before_stop(head);
    let letters = head.chars().rev().take(2).filter(|c| c.is_alphabetic()).count();
    letters == 2 && !matches!(abbreviations::ending(word), Some(Ending::Never | Ending::NotBeforeNumber))
}

/// Whether a line ends in the middle of a phrase: a comma, a hyphen, an open bracket, "of", "and", "the".
fn needs_more(line: &str) -> bool {
    if line.ends_with([',', '-', '‐', '–', '−', '/', '+', '=', '&', '<', '>', '±', '×', '~'])
        || line.ends_with(is_opening_bracket)
    {
        return true;
    }
    // No connective of the table is longer than eight letters.
    let word = line.chars().rev().take_while(|c| c.is_ascii_alphabetic()).take(9).count();
    let start = line.len() - word;
    let whole = !line.get(..start).unwrap_or_default().ends_with(|c: char| c.is_alphanumeric());
    whole && abbreviations::is_connective(line.get(start..).unwrap_or_default())
}
