//! A document and its entities -> what a reader at a terminal sees: the lines that hold mentions, the mentions highlighted in the
//! colours of their classes, a table of them, and the classes' legend. After displaCy, which made this way of showing entities known.

use std::io::{self, IsTerminal, Write};
use std::ops::Range;

use chemtag::Entity;
use chemtag::format::{Document, OffsetUnit, Record};

use super::terminal::{Paint, Wrapper, fit, visible, width, write_painted};

/// Backgrounds of the classes, in the model's order, among xterm's 256 colours: light ones, on which black is easy to read.
const CLASS_COLOURS: [u8; 7] = [117, 156, 222, 183, 217, 159, 252];
/// Background of a mention without class.
const NO_CLASS_COLOUR: u8 = 229;
const INDENT: &str = "  ";
/// Columns between two of a table.
const GAP: usize = 2;
/// The mentions' column is not cut to less than this, however narrow the terminal.
const NARROWEST_TEXT: usize = 10;

/// How tables look.
pub struct Table<'m> {
    /// Names of the model's classes.
    classes: &'m [String],
    colour: bool,
    /// Columns of the terminal; `None`: lines are as long as they are.
    columns: Option<usize>,
    first: bool,
}

impl<'m> Table<'m> {
    /// Tables as standard output can show them: colours if it is a terminal and neither `no_color` nor the environment
    /// (`NO_COLOR`, `TERM=dumb`) is against it.
    pub fn for_standard_output(classes: &'m [String], no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let size = console::Term::stdout().size_checked().filter(|_| terminal);
        Self {
            classes,
            colour: terminal && !no_color && !unwanted,
            columns: size.map(|(_, columns)| usize::from(columns)),
            first: true,
        }
    }

    /// Writes one document's part. Entities count bytes of the document's text; `record` is theirs.
    pub fn write(
        &mut self,
        out: &mut impl Write,
        document: &Document,
        entities: &[Entity],
        record: &Record,
    ) -> io::Result<()> {
        if !std::mem::take(&mut self.first) {
            out.write_all(b"\n")?;
        }
        let unit = match record.offsets {
            OffsetUnit::Chars => "characters",
            OffsetUnit::Bytes => "bytes",
            OffsetUnit::Utf16 => "UTF-16 code units",
        };
        write_painted(out, &document.id, if self.colour { Paint::Bold } else { Paint::Plain })?;
        match entities.len() {
            0 => return writeln!(out, ": no chemicals found"),
            1 => writeln!(out, ": 1 chemical, offsets in {unit}\n")?,
            n => writeln!(out, ": {n} chemicals, offsets in {unit}\n")?,
        }
        for (lines, held) in blocks(&document.text, document.body_start(), entities) {
            self.write_lines(out, &document.text, lines, held)?;
        }
        out.write_all(b"\n")?;
        self.write_rows(out, record)?;
        self.write_legend(out, entities)
    }

    /// The lines in a byte range of the text; the entities are those that it holds.
    fn write_lines(
        &self,
        out: &mut impl Write,
        text: &str,
        lines: Range<usize>,
        entities: &[Entity],
    ) -> io::Result<()> {
        let mut start = lines.start;
        for line in text[lines].split('\n') {
            let end = start + line.strip_suffix('\r').unwrap_or(line).len();
            let mut row = Wrapper::new(INDENT, self.columns);
            let mut at = start;
            for entity in entities {
                let (from, to) = (entity.start.max(start), entity.end.min(end));
                if from >= to {
                    continue;
                }
                row.push(out, &text[at..from], Paint::Plain)?;
                if self.colour {
                    row.push(out, &text[from..to], self.paint(entity.class.as_deref()))?;
                } else {
                    for part in ["«", &text[from..to], "»"] {
                        row.push(out, part, Paint::Plain)?;
                    }
                }
                at = to;
            }
            row.push(out, &text[at..end], Paint::Plain)?;
            row.end_line(out)?;
            start += line.len() + 1;
        }
        Ok(())
    }

    fn write_rows(&self, out: &mut impl Write, record: &Record) -> io::Result<()> {
        let classes = record.entities.iter().any(|entity| entity.class.is_some());
        let heads = ["start", "end", "class", "score"];
        let mut widths = heads.map(str::len);
        for entity in &record.entities {
            widths[0] = widths[0].max(digits(entity.start));
            widths[1] = widths[1].max(digits(entity.end));
            widths[2] = widths[2].max(entity.class.map_or(0, |class| width(&visible(class))));
        }
        let mut before = INDENT.len() + widths[0] + GAP + widths[1] + GAP + widths[3] + GAP;
        if classes {
            before += widths[2] + GAP;
        }
        let room = self.columns.map_or(usize::MAX, |columns| columns.saturating_sub(before).max(NARROWEST_TEXT));
        let mut row = |start: &str, end: &str, class: &str, score: &str, text: &str| {
            write!(out, "{INDENT}{start:>0$}  {end:>1$}  ", widths[0], widths[1])?;
            if classes {
                // Padding by columns, which `{:<}` would count as characters.
                write!(out, "{class}{:1$}  ", "", widths[2] - width(class))?;
            }
            writeln!(out, "{score:>0$}  {text}", widths[3])
        };
        row(heads[0], heads[1], heads[2], heads[3], "text")?;
        for entity in &record.entities {
            row(
                &entity.start.to_string(),
                &entity.end.to_string(),
                &visible(entity.class.unwrap_or_default()),
                &format!("{:.3}", entity.score),
                &fit(entity.text, room),
            )?;
        }
        Ok(())
    }

    /// The classes that occur, in the model's order, with the number of their mentions.
    fn write_legend(&self, out: &mut impl Write, entities: &[Entity]) -> io::Result<()> {
        let count = |class: &String| entities.iter().filter(|entity| entity.class.as_deref() == Some(class)).count();
        let occurring: Vec<_> =
            self.classes.iter().map(|class| (class, count(class))).filter(|&(_, n)| n > 0).collect();
        if occurring.is_empty() {
            return Ok(());
        }
        out.write_all(b"\n")?;
        // The no-break space keeps a class and its number in one row.
        let numbers: Vec<String> = occurring.iter().map(|(_, n)| format!("\u{a0}{n}  ")).collect();
        let mut row = Wrapper::new(INDENT, self.columns);
        for ((class, _), number) in occurring.iter().zip(&numbers) {
            row.push(out, class, if self.colour { self.paint(Some(class)) } else { Paint::Plain })?;
            row.push(out, number, Paint::Plain)?;
        }
        row.end_line(out)
    }

    fn paint(&self, class: Option<&str>) -> Paint {
        let index = class.and_then(|class| self.classes.iter().position(|known| known == class));
        Paint::Background(index.map_or(NO_CLASS_COLOUR, |index| CLASS_COLOURS[index % CLASS_COLOURS.len()]))
    }
}

/// Ranges of whole neighbouring lines (without the last one's line feed) that hold mentions in each of their lines, with these mentions.
/// The first line begins at byte `start`.
fn blocks<'e, 't>(text: &str, start: usize, entities: &'e [Entity<'t>]) -> Vec<(Range<usize>, &'e [Entity<'t>])> {
    let mut blocks = Vec::new();
    let (mut first, mut searched) = (0, start);
    while let Some(entity) = entities.get(first) {
        let start = text[searched..entity.start].rfind('\n').map_or(searched, |feed| searched + feed + 1);
        let line_end = |byte: usize| text[byte..].find('\n').map_or(text.len(), |feed| byte + feed);
        let mut end = line_end(entity.end);
        let mut last = first + 1;
        // A mention across a line feed draws the next line in.
        while let Some(next) = entities.get(last).filter(|next| next.start < end) {
            end = end.max(line_end(next.end));
            last += 1;
        }
        blocks.push((start..end, &entities[first..last]));
        (first, searched) = (last, end);
    }
    blocks
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entities<'t>(text: &'t str, mentions: &[(&str, &str)]) -> Vec<Entity<'t>> {
        let mut from = 0;
        let found = mentions.iter().map(|(mention, class)| {
            let start = from + text[from..].find(mention).unwrap();
            from = start + mention.len();
            let class = (!class.is_empty()).then(|| (*class).into());
            Entity { start, end: from, text: text[start..from].into(), class, score: 0.98765 }
        });
        found.collect()
    }

    fn shown(text: &str, mentions: &[(&str, &str)], colour: bool, columns: Option<usize>) -> String {
        let document = Document::from_text("abstract.txt", text.into());
        let entities = entities(&document.text, mentions);
        let record = Record::new(&document, &entities, &[], OffsetUnit::Chars);
        let classes = ["TRIVIAL".to_string(), "FORMULA".to_string()];
        let mut out = Vec::new();
        let mut table = Table { classes: &classes, colour, columns, first: true };
        table.write(&mut out, &document, &entities, &record).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_with_mentions_then_the_table_then_the_legend() {
        let text = "\u{feff}Nothing.\r\nIn 酢酸 and acetic\r\n\r\nacid with LiCl.\nNothing.\nMore LiCl";
        let mentions =
            [("酢酸", "TRIVIAL"), ("acetic\r\n\r\nacid", "TRIVIAL"), ("LiCl", "FORMULA"), ("LiCl", "FORMULA")];
        let expected = "abstract.txt: 4 chemicals, offsets in characters

  In «酢酸» and «acetic»
  \n  «acid» with «LiCl».
  More «LiCl»

  start  end  class    score  text
     14   16  TRIVIAL  0.988  酢酸
     21   35  TRIVIAL  0.988  acetic␍␊␍␊acid
     41   45  FORMULA  0.988  LiCl
     61   65  FORMULA  0.988  LiCl

  TRIVIAL\u{a0}2  FORMULA\u{a0}2  \n";
        assert_eq!(shown(text, &mentions, false, None), expected);
    }

    #[test]
    fn colours_are_those_of_the_classes() {
        let text = "In benzene, \x1b[31mLiCl.";
        let shown = shown(text, &[("benzene", "TRIVIAL"), ("LiCl", "FORMULA")], true, Some(30));
        let expected = "\x1b[1mabstract.txt\x1b[0m: 2 chemicals, offsets in characters

  In \x1b[38;5;16;48;5;117mbenzene\x1b[0m, ␛[31m\x1b[38;5;16;48;5;156mLiCl\x1b[0m.

  start  end  class    score  text
      3   10  TRIVIAL  0.988  benzene
     17   21  FORMULA  0.988  LiCl

  \x1b[38;5;16;48;5;117mTRIVIAL\x1b[0m\u{a0}1  \x1b[38;5;16;48;5;156mFORMULA\x1b[0m\u{a0}1  \n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn without_classes_there_is_no_column_and_no_legend() {
        let name = "methylenedioxypyrovalerone";
        let expected = "abstract.txt: 1 chemical, offsets in characters

  «methylenedioxypyrovalerone»

  start  end  score  text
      0   26  0.988  methylene…
";
        assert_eq!(shown(name, &[(name, "")], false, Some(30)), expected);
        assert_eq!(shown("", &[], false, None), "abstract.txt: no chemicals found\n");
    }
}
