//! In: articles in XML: JATS, as PubMed Central keeps them (<https://jats.nlm.nih.gov/archiving/tag-library/1.3/>), and PubMed's own
//! (<https://dtd.nlm.nih.gov/ncbi/pubmed/>). Out: one document for each, its passages (title, abstract, paragraphs, captions, cells).
//! Markup inside a passage leaves no trace: `H<sub>2</sub>O` is `H2O`; white space is one space, as XML's indentation means nothing.

use super::document::Document;
use super::record_id;
use super::xml::{Node, Nodes};
use crate::error::Result;

/// What an element of an article means.
enum Meaning {
    /// Its text is a passage of this kind.
    Passage(&'static str),
    /// Inside of it, paragraphs are of this kind.
    Section(&'static str),
    /// Nothing in it is text to tag.
    Skipped,
    /// A space.
    Break,
    /// Its text belongs to the passage around it.
    Inline,
}

fn meaning(element: &str) -> Meaning {
    match element {
        "article-title" | "subtitle" | "ArticleTitle" | "BookTitle" => Meaning::Passage("title"),
        "trans-title" | "trans-subtitle" => Meaning::Passage("translated title"),
        "title" => Meaning::Passage("heading"),
        "p" | "disp-quote" | "term" | "verse-line" => Meaning::Passage("paragraph"),
        "td" | "th" => Meaning::Passage("cell"),
        "kwd" | "Keyword" => Meaning::Passage("keyword"),
        "AbstractText" => Meaning::Passage("abstract"),
        "abstract" | "trans-abstract" => Meaning::Section("abstract"),
        "caption" => Meaning::Section("caption"),
        "ref-list"
        | "journal-meta"
        | "contrib-group"
        | "author-notes"
        | "permissions"
        | "funding-group"
        | "history"
        | "label"
        | "object-id"
        | "tex-math"
        | "annotation"
        | "annotation-xml"
        | "sec-meta"
        | "Journal"
        | "AuthorList"
        | "ReferenceList"
        | "CommentsCorrectionsList" => Meaning::Skipped,
        "break" => Meaning::Break,
        _ => Meaning::Inline,
    }
}

/// The articles of a file.
pub(super) struct Articles {
    nodes: Nodes,
    ended: bool,
}

impl Articles {
    pub fn new(nodes: Nodes) -> Self {
        Self { nodes, ended: false }
    }

    fn read(&mut self) -> Result<Option<Document>> {
        loop {
            self.nodes.start_record();
            match self.nodes.next()? {
                Node::Start(name, _) => match name.as_str() {
                    "article" | "PubmedArticle" | "PubmedBookArticle" => return self.article().map(Some),
                    "collection" => {
                        return Err(self.nodes.malformed(
                            "found a <collection> of BioC, expected articles: read it with --from bioc-xml",
                        ));
                    }
                    "DeleteCitation" => self.nodes.skip()?,
                    // What holds articles, whatever it is called: sets, packages, answers of a service.
                    _ => {}
                },
                Node::Eof => return Ok(None),
                Node::End(_) | Node::Text(_) => {}
            }
        }
    }

    /// Reads to the end of the article that has just begun.
    fn article(&mut self) -> Result<Document> {
        let line = self.nodes.line();
        let mut document = Document { assembled: true, ..Document::default() };
        let mut name = Name::default();
        let mut passage = Collected::default();
        // Elements that are open, each with the kind of passage that ends with it, and the kinds of the sections among them.
        let mut open: Vec<(Option<&'static str>, bool)> = Vec::new();
        let (mut kinds, mut sections): (Vec<&'static str>, Vec<&'static str>) = (Vec::new(), Vec::new());
        loop {
            match self.nodes.next()? {
                Node::Start(element, attributes) => {
                    if name.takes(&element, &attributes, open.len()) {
                        let text = self.nodes.text_of(&element)?;
                        name.set(text.trim());
                        continue;
                    }
                    match meaning(&element) {
                        Meaning::Passage(kind) => {
                            // A figure in a paragraph: what stands before it is a passage, and so is what follows.
                            passage.end(&mut document, kinds.last().copied());
                            let kind =
                                if kind == "paragraph" { sections.last().copied().unwrap_or(kind) } else { kind };
                            kinds.push(kind);
                            open.push((Some(kind), false));
                        }
                        Meaning::Section(kind) => {
                            passage.end(&mut document, kinds.last().copied());
                            sections.push(kind);
                            open.push((None, true));
                        }
                        Meaning::Skipped => self.nodes.skip()?,
                        Meaning::Break => {
                            passage.space();
                            open.push((None, false));
                        }
                        Meaning::Inline => open.push((None, false)),
                    }
                }
                Node::End(_) => match open.pop() {
                    Some((Some(kind), _)) => {
                        passage.end(&mut document, Some(kind));
                        kinds.pop();
                    }
                    Some((None, section)) => {
                        if section {
                            passage.end(&mut document, kinds.last().copied());
                            sections.pop();
                        }
                    }
                    None => break,
                },
                Node::Text(text) if !kinds.is_empty() => passage.push(&text),
                Node::Text(_) => {}
                Node::Eof => return Err(self.nodes.malformed("the file ends inside of an article")),
            }
        }
        document.id = name.value.unwrap_or_else(|| record_id(self.nodes.file(), line));
        Ok(document)
    }
}

impl Iterator for Articles {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        // Behind what is not XML no place is known where an article begins.
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}

/// The article's name: PubMed Central's number, else PubMed's, else the DOI, else any.
#[derive(Default)]
struct Name {
    value: Option<String>,
    rank: u8,
    candidate: u8,
}

impl Name {
    /// Whether an element's text is a better name than the one that is known. Names in references are skipped with these; those in
    /// sub-articles are deeper than `article/front/article-meta`.
    fn takes(&mut self, element: &str, attributes: &[(String, String)], depth: usize) -> bool {
        let kind = attributes.iter().find(|(key, _)| key == "pub-id-type").map(|(_, value)| value.as_str());
        self.candidate = match (element, kind) {
            ("article-id", Some("pmcid" | "pmc")) if depth == 2 => 4,
            ("article-id", Some("pmid")) if depth == 2 => 3,
            ("article-id", Some("doi")) if depth == 2 => 2,
            ("article-id", _) if depth == 2 => 1,
            ("PMID", _) if depth == 1 => 4,
            _ => 0,
        };
        self.candidate > self.rank
    }

    fn set(&mut self, value: &str) {
        if !value.is_empty() {
            (self.value, self.rank) = (Some(value.into()), self.candidate);
        }
    }
}

/// The text of a passage, its white space made one space each and none at its ends.
#[derive(Default)]
struct Collected {
    text: String,
    space: bool,
}

impl Collected {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            // White space of XML; a no-break space is the author's.
            if matches!(c, ' ' | '\t' | '\r' | '\n') {
                self.space();
            } else {
                if std::mem::take(&mut self.space) {
                    self.text.push(' ');
                }
                self.text.push(c);
            }
        }
    }

    fn space(&mut self) {
        self.space = !self.text.is_empty();
    }

    /// Makes a passage of what was collected, if there is any.
    fn end(&mut self, document: &mut Document, kind: Option<&str>) {
        let Self { text, .. } = std::mem::take(self);
        if !text.is_empty() {
            document.push_passage(kind.unwrap_or_default(), &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::budget::Budget;

    /// A document's name and its passages, each with its kind; or the error.
    type Read = Result<(String, Vec<(String, String)>), String>;

    fn read(input: &'static str) -> Vec<Read> {
        let articles = Articles::new(Nodes::new(Budget::new(Box::new(input.as_bytes()), "a.xml", 10_000)));
        let found = articles.map(|article| {
            let article = article.map_err(|error| error.to_string())?;
            let text = |range: &std::ops::Range<usize>| article.text[range.clone()].to_string();
            Ok((article.id, article.passages.iter().map(|p| (p.kind.clone(), text(&p.range))).collect()))
        });
        found.collect()
    }

    /// After the examples of the JATS tag library for `<article>`, `<abstract>`, `<fig>`, `<table-wrap>` and `<sub>`.
    #[test]
    fn jats_passages_hold_their_text_without_markup() {
        let input = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Journal Archiving and Interchange DTD v1.3 20210610//EN" "JATS-archivearticle1-3.dtd">
<article xmlns:mml="http://www.w3.org/1998/Math/MathML"><front><journal-meta><journal-title>J</journal-title></journal-meta>
<article-meta><article-id pub-id-type="doi">10.1/x</article-id><article-id pub-id-type="pmcid">PMC7</article-id><article-id pub-id-type="pmid">1</article-id>
<title-group><article-title>Fe<sub>2</sub>(SO<sub>4</sub>)<sub>3</sub> &amp; <italic>N</italic>,<italic>N</italic>-dimethyl&#945;-<?x y?>amine
   at &lt;5 &alpha;</article-title></title-group>
<abstract><title>Aims</title><p>In  THF<!-- a comment -->.</p></abstract><kwd-group><kwd>LiCl</kwd></kwd-group></article-meta></front>
<body><sec><title>Results</title><p>See <xref>1</xref>.<fig><label>Fig. 1</label><caption><p>Shown: <bold>NaCl</bold>.</p></caption></fig>
 <italic>More</italic> of it<break/>here<inline-formula><tex-math>\alpha</tex-math></inline-formula>.</p>
<table-wrap><table><tr><td>H<sup>+</sup></td><td/></tr></table></table-wrap></sec></body>
<back><ref-list><ref><article-title>No</article-title></ref></ref-list></back>
<sub-article><front-stub><article-id pub-id-type="pmcid">PMC8</article-id></front-stub><body><p>Reply<![CDATA[ <x> ]]></p></body></sub-article></article>"#;
        let expected = [
            ("title", "Fe2(SO4)3 & N,N-dimethylα-amine at <5 α"),
            ("heading", "Aims"),
            ("abstract", "In THF."),
            ("keyword", "LiCl"),
            ("heading", "Results"),
            ("paragraph", "See 1."),
            ("caption", "Shown: NaCl."),
            ("paragraph", "More of it here."),
            ("cell", "H+"),
            ("paragraph", "Reply <x>"),
        ];
        let expected = expected.map(|(kind, text)| (kind.to_string(), text.to_string())).to_vec();
        assert_eq!(read(input), [Ok(("PMC7".to_string(), expected))]);
    }

    /// After the examples of PubMed's DTD for `<PubmedArticleSet>`.
    #[test]
    fn pubmed_articles_come_one_by_one() {
        let article =
            |passages: &[(&str, &str)]| passages.iter().map(|&(k, t)| (k.to_string(), t.to_string())).collect();
        let found = read(
            "<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID Version=\"1\">12</PMID><Article><Journal><Title>J</Title></Journal>\
             <ArticleTitle>CO<sub>2</sub></ArticleTitle><Abstract><AbstractText Label=\"AIM\">a</AbstractText><AbstractText>b</AbstractText>\
             </Abstract></Article></MedlineCitation><PubmedData><ReferenceList><Reference><ArticleIdList/></Reference></ReferenceList></PubmedData>\
             </PubmedArticle><PubmedArticle></PubmedArticle>\n<PubmedArticle><b>",
        );
        assert_eq!(
            found[0],
            Ok(("12".to_string(), article(&[("title", "CO2"), ("abstract", "a"), ("abstract", "b")])))
        );
        assert_eq!(found[1], Ok(("a.xml:1".to_string(), vec![])));
        assert_eq!(found[2..], [Err("a.xml, line 2: the file ends inside of an element: it is not whole".to_string())]);
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (input, message) in [
            ("<article>\n<p>&mine;</p></article>", "a.xml, line 2: &mine; is none of XML's or HTML's entities"),
            ("<article></p>", "a.xml, line 1: not well-formed XML"),
            ("<?xml version='1.0' encoding='ISO-8859-1'?><article/>", "a.xml is in iso-8859-1: convert it"),
            ("<collection/>", "a.xml, line 1: found a <collection> of BioC"),
        ] {
            let error = read(input).pop().unwrap().unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
