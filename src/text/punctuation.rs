//! In: a character.
//! Out: what it can do at the end of a sentence: stop it, close it, open or go on with the next.
//! Method: lists of characters, from the Unicode properties Sentence_Terminal, Open_Punctuation and Close_Punctuation.

/// How many line breaks a white character stands for: a paragraph separator leaves a line empty.
pub(super) fn line_breaks(c: char) -> usize {
    match c {
        '\u{2029}' => 2,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' => 1,
        _ => 0,
    }
}

/// Whether a run of stops may hold `c`.
pub(super) fn is_stop(c: char) -> bool {
    c == '.' || is_strong_stop(c) || c == '…'
}

/// Question and exclamation marks, and full stops of other scripts.
pub(super) fn is_strong_stop(c: char) -> bool {
    matches!(
        c,
        '!' | '?' | '‼' | '⁇' | '⁈' | '⁉' | '\u{589}' | '\u{61f}' | '\u{6d4}' | '\u{964}' | '\u{965}' | '\u{1362}'
    ) || is_wide_stop(c)
}

/// Stops of Chinese and Japanese, after which no space is written.
pub(super) fn is_wide_stop(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '｡')
}

pub(super) fn is_opening_bracket(c: char) -> bool {
    matches!(c, '(' | '[' | '{' | '（' | '【' | '「' | '『')
}

pub(super) fn is_closing_bracket(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '）' | '】' | '」' | '』')
}

/// A mark that belongs to the sentence whose stop it follows.
pub(super) fn is_closing(c: char) -> bool {
    is_closing_bracket(c) || matches!(c, '"' | '\'' | '”' | '’' | '»' | '›' | '*' | '†' | '‡')
}

pub(super) fn is_opening_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '“' | '‘' | '„' | '«' | '‹' | '¿' | '¡')
}

pub(super) fn is_dash(c: char) -> bool {
    matches!(c, '-' | '–' | '—' | '−')
}
