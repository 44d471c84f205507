//! Out: one page to look at, without script and without anything from elsewhere: each text with its mentions on the colours of their classes,
//! after displaCy. Everything from a document is escaped (<https://html.spec.whatwg.org/#escapingString>), and the page forbids scripts.

use std::io::{self, Write};

use super::Writer;
use super::document::Document;
use super::record::four_decimals;
use crate::entity::Entity;
use crate::reading::Note;

/// Backgrounds of classes in the order of their occurrence, light tints of the palette of Okabe and Ito (2008), told apart with any colour
/// vision; black on each has a contrast above 9:1, where WCAG 2.2's level AAA asks for 7:1.
const COLOURS: [&str; 8] = ["#a6d8f5", "#f7cf7a", "#8fe0c4", "#f3ea8c", "#b9d0ea", "#f2b48a", "#eec3da", "#d9d9d9"];

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>chemtag</title>
<style>
body { max-width: 60em; margin: 2em auto; padding: 0 1em; font: 1em/1.9 sans-serif; color: #000; background: #fff; }
h2 { font-size: 1em; border-top: 1px solid #999; padding-top: 1em; overflow-wrap: anywhere; }
p { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
mark { color: #000; border-radius: .3em; padding: .1em .25em; }
mark small { font-weight: bold; font-size: .65em; margin-left: .4em; }
"#;

/// Writes a page.
pub(super) struct PageWriter<W> {
    out: W,
    begun: bool,
    /// Classes met so far.
    classes: Vec<String>,
}

impl<W: Write> PageWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, begun: false, classes: Vec::new() }
    }

    fn begin(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.out.write_all(HEAD.as_bytes())?;
        for (index, colour) in COLOURS.iter().enumerate() {
            writeln!(self.out, ".c{index} {{ background: {colour}; }}")?;
        }
        self.out.write_all(b"</style>\n</head>\n<body>\n")
    }

    fn colour(&mut self, class: &str) -> usize {
        let index = self.classes.iter().position(|known| known == class);
        index.unwrap_or_else(|| {
            self.classes.push(class.into());
            self.classes.len() - 1
        }) % COLOURS.len()
    }

    fn mention(&mut self, entity: &Entity, note: Option<&Note>) -> io::Result<()> {
        let class = entity.class.as_deref().unwrap_or_default();
        let colour = self.colour(class);
        let mut title = format!("{class} {}", four_decimals(entity.score));
        let columns = note.map(Note::columns).unwrap_or_default();
        for (key, value) in Note::COLUMNS.iter().zip(columns).filter(|(_, value)| !value.is_empty()) {
            title.push_str(&format!("; {key}: {value}"));
        }
        let (title, text) = (escaped(title.trim()), escaped(&entity.text));
        write!(self.out, "<mark class=\"c{colour}\" title=\"{title}\">{text}")?;
        if !class.is_empty() {
            write!(self.out, "<small>{}</small>", escaped(class))?;
        }
        self.out.write_all(b"</mark>")
    }
}

impl<W: Write> Writer for PageWriter<W> {
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        self.begin()?;
        write!(self.out, "<article>\n<h2>{}</h2>\n<p>", escaped(&document.id))?;
        let mut at = document.body_start();
        for (index, entity) in entities.iter().enumerate() {
            self.out.write_all(escaped(document.text.get(at..entity.start).unwrap_or_default()).as_bytes())?;
            self.mention(entity, notes.get(index))?;
            at = entity.end;
        }
        writeln!(self.out, "{}</p>\n</article>", escaped(document.text.get(at..).unwrap_or_default()))?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.begin()?;
        self.out.write_all(b"</body>\n</html>\n")?;
        self.out.flush()
    }
}

/// A text as it stands in an element or in an attribute's quotes. Control characters, which HTML forbids, and characters that would show a text
/// in another order than it stands become U+FFFD.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(id: &str, text: &str, mentions: &[(&str, &str)]) -> String {
        let document = Document::from_text(id, text.into());
        let entity = |&(mention, class): &(&str, &str)| {
            let start = text.find(mention).unwrap();
            let class = (!class.is_empty()).then(|| class.into());
            Entity { start, end: start + mention.len(), text: mention.to_string().into(), class, score: 0.5 }
        };
        let entities: Vec<Entity> = mentions.iter().map(entity).collect();
        let mut out = Vec::new();
        let mut writer = PageWriter::new(&mut out);
        writer.write(&document, &entities, &[]).unwrap();
        writer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_hostile_document_stays_text() {
        let hostile = "</p><script>alert(1)</script>\" onload='x' \u{0}\u{202e}&amp;";
        let page = page(hostile, hostile, &[(hostile, hostile)]);
        let body = page.split_once("<body>").unwrap().1;
        // What is left of the tags are the page's own.
        let tags: Vec<&str> = body.split('<').skip(1).map(|tag| tag.split(['>', ' ']).next().unwrap()).collect();
        let own = ["article", "h2", "/h2", "p", "mark", "small", "/small", "/mark", "/p", "/article", "/body", "/html"];
        assert_eq!(tags, own);
        let title = body.split_once("title=\"").unwrap().1.split_once("\">").unwrap().0;
        assert!(!title.contains(['"', '<', '\'', '\0']) && title.contains("&lt;/p&gt;"), "{title}");
        assert_eq!(body.matches("&amp;amp;").count(), 4);
    }

    #[test]
    fn colours_are_easy_to_read_black_on() {
        // Contrast of WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of relative luminances.
        for colour in COLOURS {
            let channel = |at: usize| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
            let luminance = 0.2126 * linear(channel(1)) + 0.7152 * linear(channel(3)) + 0.0722 * linear(channel(5));
            assert!((luminance + 0.05) / 0.05 > 9.0, "{colour}");
        }
    }

    #[test]
    fn the_text_stands_in_order_with_its_mentions_marked() {
        let page = page("a & b", "\u{feff}In THF,\nLiCl.", &[("THF", "ABBREVIATION"), ("LiCl", "")]);
        let expected = "<article>\n<h2>a &amp; b</h2>\n<p>In <mark class=\"c0\" title=\"ABBREVIATION 0.5\">THF<small>ABBREVIATION</small></mark>,\n\
                        <mark class=\"c1\" title=\"0.5\">LiCl</mark>.</p>\n</article>\n</body>\n</html>\n";
        assert!(page.ends_with(expected), "{page}");
    }
}
