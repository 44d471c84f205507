//! Text of unknown origin -> what a terminal may show: control characters made visible, widths in columns, lines wrapped, colours.
//! Grapheme clusters by Unicode Standard Annex 29, widths by Annex 11; colours are SGR sequences of ECMA-48 with xterm's 256 colours.

use std::borrow::Cow;
use std::io::{self, Write};

use chemtag::format::is_control;
use unicode_segmentation::UnicodeSegmentation;

/// Narrower than this, rows would be no easier to read than what the terminal itself makes of a long line.
const NARROWEST_ROW: usize = 16;

/// Columns that a string takes.
pub fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// Characters that would make a terminal show a text in another order than it stands.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with control characters as Unicode's pictures of them (U+2400 to U+2421) or as `<U+009B>`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_control(c) || reorders(c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\0'..='\u{1f}' => shown.extend(char::from_u32(0x2400 + c as u32)),
            '\u{7f}' => shown.push('\u{2421}'),
            c if is_control(c) || reorders(c) => shown.push_str(&format!("<U+{:04X}>", c as u32)),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// The text, visible, cut to at most `columns` with an ellipsis.
pub fn fit(text: &str, columns: usize) -> String {
    // A text of many megabytes is not looked at as a whole: no grapheme that is shown begins beyond this.
    let head = &text[..text.floor_char_boundary(columns.saturating_mul(64))];
    let shown = visible(head);
    if head.len() == text.len() && width(&shown) <= columns {
        return shown.into_owned();
    }
    let mut cut = String::new();
    let mut used = 1;
    for grapheme in shown.graphemes(true) {
        used += width(grapheme);
        if used > columns {
            break;
        }
        cut.push_str(grapheme);
    }
    cut + "…"
}

/// How a stretch of text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As the terminal shows text.
    Plain,
    /// Bold.
    Bold,
    /// Black on a background of this number among xterm's 256 colours.
    Background(u8),
}

impl Paint {
    fn start(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Paint::Plain => Ok(()),
            Paint::Bold => out.write_all(b"\x1b[1m"),
            Paint::Background(colour) => write!(out, "\x1b[38;5;16;48;5;{colour}m"),
        }
    }

    fn end(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Paint::Plain => Ok(()),
            _ => out.write_all(b"\x1b[0m"),
        }
    }
}

/// Writes a string in one paint, not wrapped.
pub fn write_painted(out: &mut impl Write, text: &str, paint: Paint) -> io::Result<()> {
    paint.start(out)?;
    out.write_all(visible(text).as_bytes())?;
    paint.end(out)
}

/// One grapheme cluster in a row.
struct Cell<'t> {
    text: Cow<'t, str>,
    width: usize,
    paint: Paint,
}

/// Writes stretches of one line in rows of a width, each behind the same indent; rows break at spaces where they can.
pub struct Wrapper<'t> {
    indent: &'static str,
    /// Columns behind the indent; `None`: a line is one row, written as it comes.
    columns: Option<usize>,
    row: Vec<Cell<'t>>,
    used: usize,
    /// Something of the line was written, which happens only without columns.
    begun: bool,
}

impl<'t> Wrapper<'t> {
    /// `columns` are those of the terminal, the indent included; `None`: lines are not wrapped.
    pub fn new(indent: &'static str, columns: Option<usize>) -> Self {
        let columns = columns.map(|columns| columns.saturating_sub(indent.len()).max(NARROWEST_ROW));
        Self { indent, columns, row: Vec::new(), used: 0, begun: false }
    }

    /// Takes the next stretch of the line and writes the rows that are full.
    pub fn push(&mut self, out: &mut impl Write, text: &'t str, paint: Paint) -> io::Result<()> {
        let Some(columns) = self.columns else {
            if !std::mem::replace(&mut self.begun, true) {
                out.write_all(self.indent.as_bytes())?;
            }
            return write_painted(out, text, paint);
        };
        for grapheme in text.graphemes(true) {
            let text = visible(grapheme);
            let width = width(&text);
            while self.used + width > columns && !self.row.is_empty() {
                self.break_row(out)?;
            }
            self.row.push(Cell { text, width, paint });
            self.used += width;
        }
        Ok(())
    }

    /// Writes what is left of the line.
    pub fn end_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        if std::mem::take(&mut self.begun) {
            return out.write_all(b"\n");
        }
        let row = std::mem::take(&mut self.row);
        self.used = 0;
        self.write_row(out, &row)
    }

    /// Writes the row up to its last space, or all of it if it has none.
    fn break_row(&mut self, out: &mut impl Write) -> io::Result<()> {
        let space = self.row.iter().rposition(|cell| cell.text == " ");
        let rest = match space {
            Some(space) if space > 0 => self.row.split_off(space + 1),
            _ => Vec::new(),
        };
        let row = std::mem::replace(&mut self.row, rest);
        self.used = self.row.iter().map(|cell| cell.width).sum();
        self.write_row(out, &row)
    }

    fn write_row(&self, out: &mut impl Write, row: &[Cell]) -> io::Result<()> {
        out.write_all(self.indent.as_bytes())?;
        for run in row.chunk_by(|a, b| a.paint == b.paint) {
            let paint = run[0].paint;
            paint.start(out)?;
            for cell in run {
                out.write_all(cell.text.as_bytes())?;
            }
            paint.end(out)?;
        }
        out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrapped(stretches: &[(&str, Paint)], columns: usize) -> String {
        let mut out = Vec::new();
        let mut wrapper = Wrapper::new("  ", Some(columns));
        for &(text, paint) in stretches {
            wrapper.push(&mut out, text, paint).unwrap();
        }
        wrapper.end_line(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows_break_at_spaces_and_colours_end_with_the_row() {
        let text =
            [("The solvent was ", Paint::Plain), ("acetic acid", Paint::Background(117)), (" again.", Paint::Plain)];
        let expected = "  The solvent was \n  \x1b[38;5;16;48;5;117macetic acid\x1b[0m \n  again.\n";
        assert_eq!(wrapped(&text, 18), expected);
        let text = [("in ", Paint::Plain), ("tetrahydrofuran oxide", Paint::Background(1))];
        let expected = "  in \x1b[38;5;16;48;5;1mtetrahydrofuran \x1b[0m\n  \x1b[38;5;16;48;5;1moxide\x1b[0m\n";
        assert_eq!(wrapped(&text, 22), expected);
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(visible("a\tb\x1b[2J\u{7f}\u{9b}c\u{202e}\u{2028}"), "a␉b␛[2J␡<U+009B>c<U+202E><U+2028>");
        assert!(matches!(visible("α-pinene 🧪"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_too_wide_is_cut_between_graphemes() {
        assert_eq!(fit("benzene", 7), "benzene");
        assert_eq!(fit("benzene", 6), "benze…");
        assert_eq!(fit("酢酸水", 6), "酢酸水");
        assert_eq!(fit("酢酸水", 5), "酢酸…");
        assert_eq!(fit("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(fit(&"a".repeat(1_000_000), 3), "aa…");
    }

    proptest! {
        #[test]
        fn wrapping_loses_nothing_and_keeps_the_width(text in "(\\PC|[a-z \u{1b}\u{301}🧪酢]){0,200}", columns in 20usize..60) {
            let rows = wrapped(&[(&text, Paint::Plain)], columns);
            let joined: String = rows.lines().map(|row| row.strip_prefix("  ").unwrap()).collect();
            prop_assert_eq!(joined, visible(&text));
            for row in rows.lines() {
                // A single grapheme, visible as <U+202E>, is never wider than a row.
                let graphemes: usize = row.graphemes(true).map(width).sum();
                prop_assert!(graphemes <= columns, "{:?}", row);
                prop_assert!(!row.contains(is_control));
            }
        }
    }
}
