//! What was counted in a corpus -> a table of its names and one page to look at, without script and without anything from elsewhere.
//! Plots are drawn in SVG inside the page. Everything from the corpus is escaped, as in the pages of [`crate::format::Format::Html`].

use std::fmt::Write;
use std::io;

use super::Summary;
use super::names::{MENTION_PARTS, SCORE_PARTS, Statistics};
use crate::format::escaped;

/// Names that the page shows.
const SHOWN: usize = 50;
/// Letters of a name that the page shows.
const LONGEST_NAME: usize = 80;
/// Sizes of a plot in pixels.
const WIDTH: f64 = 560.;
const HEIGHT: f64 = 160.;

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>chemtag: names in the corpus</title>
<style>
body { max-width: 60em; margin: 2em auto; padding: 0 1em; font: 1em/1.5 sans-serif; color: #000; background: #fff; }
h2 { font-size: 1.1em; border-top: 1px solid #999; padding-top: 1em; }
svg { max-width: 100%; height: auto; }
rect { fill: #0072b2; }
text { font: 11px sans-serif; fill: #000; }
table { border-collapse: collapse; }
td, th { padding: .1em .8em .1em 0; text-align: left; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; }
meter { width: 10em; }
</style>
</head>
<body>
<h1>Names in the corpus</h1>
"#;

/// All names, a row for each, the most frequent first: normalised name, most frequent spelling, class, mentions, documents.
pub(super) fn table(statistics: &Statistics) -> io::Result<String> {
    let mut rows = csv::WriterBuilder::new().delimiter(b'\t').from_writer(Vec::new());
    rows.write_record(["name", "spelling", "class", "mentions", "documents"])?;
    for (name, count) in statistics.ranked() {
        let (mentions, documents) = (count.mentions.to_string(), count.documents.to_string());
        rows.write_record([name, count.spelling(), count.class(), &mentions, &documents])?;
    }
    let bytes = rows.into_inner().map_err(|error| error.into_error())?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// The page.
pub(super) fn page(summary: &Summary, statistics: &Statistics) -> String {
    let mut page = String::from(HEAD);
    let Summary { files, documents, mentions, malformed, failed, .. } = summary;
    let names = statistics.names.len();
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "<p>{mentions} mentions of {names} names in {documents} documents of {files} files; {malformed} malformed records passed over, {} files failed.</p>",
        failed.len()
    );
    if statistics.missed > 0 {
        let _ = writeln!(
            page,
            "<p>There were too many names to hold: each count may be too low by up to {0}, and names with fewer mentions than {0} may be missing.</p>",
            statistics.missed
        );
    }
    let classes: Vec<(String, u64)> = statistics.classes.iter().map(|(class, count)| (class.clone(), *count)).collect();
    if !classes.is_empty() {
        plot(&mut page, "Mentions by class", &classes);
    }
    let by_score = (0..SCORE_PARTS).map(|part| format!("{:.2}", part as f64 / SCORE_PARTS as f64));
    plot(&mut page, "Mentions by score", &labelled(by_score, &statistics.mentions_by_score));
    let by_mentions =
        (0..MENTION_PARTS).map(|part| if part < 2 { part.to_string() } else { format!("{}+", 1u64 << (part - 1)) });
    plot(&mut page, "Documents by number of mentions", &labelled(by_mentions, &statistics.documents_by_mentions));
    let ranked = statistics.ranked();
    let most = ranked.first().map_or(1, |(_, count)| count.mentions);
    page.push_str("<h2>Most frequent names</h2>\n<table>\n<tr><th>name</th><th>class</th><th class=\"n\">mentions</th><th class=\"n\">documents</th><th></th></tr>\n");
    for (_, count) in ranked.iter().take(SHOWN) {
        let name: String = count.spelling().chars().take(LONGEST_NAME).collect();
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{mentions}</td><td class=\"n\">{documents}</td><td><meter max=\"{most}\" value=\"{mentions}\"></meter></td></tr>",
            escaped(&name),
            escaped(count.class()),
            mentions = count.mentions,
            documents = count.documents,
        );
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

fn labelled(labels: impl Iterator<Item = String>, counts: &[u64]) -> Vec<(String, u64)> {
    labels.zip(counts.iter().copied().chain(std::iter::repeat(0))).collect()
}

/// Bars, with what they count above and what they stand for below.
fn plot(page: &mut String, title: &str, bars: &[(String, u64)]) {
    let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    let step = WIDTH / bars.len().max(1) as f64;
    let _ = writeln!(
        page,
        "<h2>{title}</h2>\n<svg role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {WIDTH} {}\" width=\"{WIDTH}\">",
        HEIGHT + 40.
    );
    for (index, (label, count)) in bars.iter().enumerate() {
        let (x, height) = (index as f64 * step, HEIGHT * *count as f64 / most);
        let middle = x + step / 2.;
        let _ = writeln!(
            page,
            "<g><title>{whole}: {count}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>\
             <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text></g>",
            x + step * 0.1,
            20. + HEIGHT - height,
            step * 0.8,
            16. + HEIGHT - height,
            short(*count),
            HEIGHT + 35.,
            fitting(label, step),
            whole = escaped(label),
        );
    }
    page.push_str("</svg>\n");
}

/// A count in as few letters as there is room for above a bar.
fn short(count: u64) -> String {
    match count {
        0 => String::new(),
        1..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}

/// As much of a label as fits below a bar; the whole of it stands in the bar's title.
fn fitting(label: &str, width: f64) -> String {
    let letters = (width / 7.) as usize;
    let short: String = label.chars().take(letters.max(4)).collect();
    escaped(&short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::Entity;

    #[test]
    fn a_hostile_corpus_is_only_text() {
        let hostile = "<script>alert(1)</script>\"' onload=x &";
        let mut statistics = Statistics::default();
        let entity = |text: &str, class: &str| Entity {
            start: 0,
            end: text.len(),
            text: text.to_string().into(),
            class: Some(class.into()),
            score: 0.5,
        };
        statistics.count(&[entity(hostile, hostile), entity("a\tb\"c\u{202e}", "X"), entity(hostile, hostile)], &[]);
        let page = page(&Summary::default(), &statistics);
        assert!(!page.contains("<script") && !page.contains("onload=x &\""), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains('\u{202e}'));
        assert_eq!(page.matches("<svg").count(), 3);
        let table = table(&statistics).unwrap();
        let mut rows = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(table.as_bytes());
        let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
        assert_eq!((rows.len(), &rows[0][1], &rows[0][3], &rows[0][4]), (2, hostile, "2", "1"));
    }

    #[test]
    fn bars_are_as_high_as_their_counts() {
        let mut page = String::new();
        plot(&mut page, "t", &[("a".into(), 10), ("b".into(), 5), ("c".into(), 0)]);
        for height in ["160.0", "80.0", "0.0"] {
            assert!(page.contains(&format!("height=\"{height}\"")), "{page}");
        }
        assert_eq!([999, 12_345, 45_000_000].map(short), ["999", "12k", "45M"]);
    }
}
