//! What holds for all formats: small samples written by hand to the public specification of each, round trips, offsets in hostile texts.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::entity::Offsets;

/// To BioC.dtd (<https://bioc.sourceforge.net/>): a passage with text, one with sentences, infons everywhere, an annotation, a relation.
const BIOC_XML: &str = r#"<?xml version='1.0' encoding='UTF-8' standalone='yes'?>
<!DOCTYPE collection SYSTEM 'BioC.dtd'>
<collection><source>hand &amp; pen</source><date>20240101</date><key>none.key</key><infon key="licence">CC0</infon>
  <document><id>12</id><infon key="year">2024</infon>
    <passage><infon key="type">title</infon><offset>0</offset><text>α &lt;b&gt; 🧪 THF&#13;
</text>
      <annotation id="chemtag4"><infon key="type">Chemical</infon><infon key="note"></infon><location offset="0" length="1"/><location offset="6" length="1"/><text>α 🧪</text></annotation>
      <relation id="R1"><infon key="type">same</infon><node refid="chemtag4" role="a"/><node refid="0" role=""/></relation>
    </passage>
    <passage><infon key="type">abstract</infon><offset>40</offset>
      <sentence><offset>40</offset><text>Dry THF.</text></sentence><sentence><offset>60</offset><text>LiCl</text></sentence>
    </passage>
  </document>
  <document><id>13</id></document>
</collection>
"#;

/// As the services of PubMed Central and PubTator answer (<https://www.ncbi.nlm.nih.gov/research/bionlp/APIs/BioC-PMC/>): numbers among the
/// infons, members beyond the DTD's.
const BIOC_JSON: &str = r#"{"source": "PMC", "date": "20240101", "key": "pmc.key", "version": 1, "infons": {}, "documents": [
  {"id": 12, "infons": {"license": "CC0"}, "passages": [
    {"offset": 3, "infons": {"type": "title", "year": 2024}, "text": "α \"b\" 🧪 THF", "sentences": [], "annotations": [
      {"id": "1", "infons": {"identifier": null, "type": "Chemical"}, "text": "α", "locations": [{"offset": 3, "length": 1}]}], "relations": []}],
   "annotations": [], "relations": [{"id": "R1", "infons": {}, "nodes": [{"refid": "1", "role": "x"}]}], "pmid": 12},
  {"id": "13", "passages": 7},
  {"id": "14", "infons": {}, "passages": [], "relations": []}]}"#;

/// As PubTator's tutorial shows it (<https://www.ncbi.nlm.nih.gov/research/pubtator3/tutorial>).
const PUBTATOR: &str = "\u{feff}12|t|α in THF | dry\r\n12|a|LiCl, 🧪.\r\n12\t5\t8\tTHF\tChemical\tMESH:C018674\r\n12\tCID\tMESH:C018674\tMESH:D1\r\n\r\n\r\n\
                        13|a|no title\n13\t0\t1\tx\n\n14|t|\n14|a|b\n15|t|glued\n\n16|t|last";

fn documents(input: &str, format: Format) -> Vec<Result<Document, String>> {
    let input = Cursor::new(input.to_string().into_bytes());
    let found = reader(input, "a", format, &ReadOptions::default()).unwrap();
    found.map(|document| document.map_err(|error| error.to_string())).collect()
}

fn whole(input: &str, format: Format) -> Vec<Document> {
    documents(input, format).into_iter().map(Result::unwrap).collect()
}

fn written(format: Format, documents: &[(&Document, &[Entity])]) -> String {
    let mut out = Vec::new();
    let mut writer = writer(format, &mut out, WriteOptions::default()).unwrap();
    for (document, entities) in documents {
        writer.write(document, entities, &[]).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    String::from_utf8(out).unwrap()
}

fn mention<'t>(document: &'t Document, text: &str) -> Entity<'t> {
    let start = document.text.rfind(text).unwrap();
    let end = start + text.len();
    Entity { start, end, text: document.text[start..end].into(), class: Some("ABBREVIATION".into()), score: 0.98766 }
}

fn bioc_of(document: &Document) -> &bioc::Document {
    match &document.source {
        Source::BioC(document) => document,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bioc_comes_back_as_it_was_and_mentions_are_added() {
    let found = whole(BIOC_XML, Format::BioCXml);
    assert_eq!(found[0].text, "α <b> 🧪 THF\r\n\nDry THF.\nLiCl");
    let kinds: Vec<&str> = found[0].passages.iter().map(|passage| passage.kind.as_str()).collect();
    assert_eq!((found[0].id.as_str(), kinds), ("12", vec!["title", "abstract", "abstract"]));
    assert_eq!((found[1].id.as_str(), found[1].passages.len()), ("13", 0));
    for format in [Format::BioCXml, Format::BioCJson] {
        // Nothing is lost in either form.
        let again = whole(&written(format, &[(&found[0], &[]), (&found[1], &[])]), format);
        assert_eq!(again, found);
        let entities = [mention(&found[0], "THF"), mention(&found[0], "LiCl")];
        let again = whole(&written(format, &[(&found[0], &entities)]), format);
        let mut expected = bioc_of(&found[0]).clone();
        let sentences = &mut expected.passages[1].sentences;
        let added = [(0, "chemtag5", "THF", 44, 3), (1, "chemtag6", "LiCl", 60, 4)];
        for (sentence, id, text, offset, length) in added {
            let infons = [("type", "ABBREVIATION"), ("score", "0.9877")];
            sentences[sentence].annotations.push(bioc::Annotation {
                id: id.into(),
                infons: infons.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect(),
                text: text.into(),
                locations: vec![bioc::Location { offset, length }],
                ..bioc::Annotation::default()
            });
        }
        assert_eq!(bioc_of(&again[0]), &expected);
    }
}

#[test]
fn json_keeps_members_of_its_own_and_a_bad_document_is_passed_over() {
    let found = documents(BIOC_JSON, Format::BioCJson);
    assert!(
        found[1].as_ref().unwrap_err().starts_with("a, line 6: not a document of BioC: invalid type: integer"),
        "{found:?}"
    );
    let (first, last) = (found[0].as_ref().unwrap(), found[2].as_ref().unwrap());
    let again: serde_json::Value =
        serde_json::from_str(&written(Format::BioCJson, &[(first, &[mention(first, "THF")]), (last, &[])])).unwrap();
    let mut expected: serde_json::Value = serde_json::from_str(BIOC_JSON).unwrap();
    let documents = expected["documents"].as_array_mut().unwrap();
    documents.remove(1);
    documents[0]["id"] = "12".into();
    documents[1]["annotations"] = serde_json::json!([]);
    let annotations = documents[0]["passages"][0]["annotations"].as_array_mut().unwrap();
    annotations.push(
        serde_json::json!({"id": "chemtag1", "infons": {"type": "ABBREVIATION", "score": "0.9877"}, "text": "THF",
        "locations": [{"offset": 3 + 8, "length": 3}]}),
    );
    assert_eq!(again, expected);
}

#[test]
fn bioc_without_documents_is_whole() {
    for format in [Format::BioCXml, Format::BioCJson] {
        assert_eq!(whole(&written(format, &[]), format), []);
    }
    let error = documents("<article/>", Format::BioCXml).pop().unwrap().unwrap_err();
    assert!(error.ends_with("found <article>: read it with --from jats"), "{error}");
    let error =
        documents("<collection><document><passage><offset>x</offset>", Format::BioCXml).pop().unwrap().unwrap_err();
    assert_eq!(error, "a, line 1: offset: expected a number of characters, found \"x\"");
}

#[test]
fn pubtator_keeps_its_annotations_and_bad_documents_are_passed_over() {
    let found = documents(PUBTATOR, Format::PubTator);
    let first = found[0].as_ref().unwrap();
    assert_eq!((first.id.as_str(), first.text.as_str()), ("12", "α in THF | dry\nLiCl, 🧪."));
    let expected = "12|t|α in THF | dry\n12|a|LiCl, 🧪.\n12\t5\t8\tTHF\tChemical\tMESH:C018674\n12\tCID\tMESH:C018674\tMESH:D1\n\
                    12\t15\t19\tLiCl\tABBREVIATION\t-\n\n";
    assert_eq!(written(Format::PubTator, &[(first, &[mention(first, "LiCl")])]), expected);
    assert_eq!(found[1], Err("a, line 7: expected the title, 13|t|..., before anything else of 13".to_string()));
    let glued = "a, line 12: expected an empty line before document \"15\", but \"14\" goes on";
    assert_eq!(found[2], Err(glued.to_string()));
    assert_eq!((found.len(), found[3].as_ref().unwrap().text.as_str()), (4, "last"));
}

#[test]
fn any_text_becomes_pubtator_with_offsets_that_fit() {
    let document = Document::from_text("a|b", "\u{feff}In\r\nTHF\tdry".into());
    let lines = written(Format::PubTator, &[(&document, &[mention(&document, "THF")])]);
    assert_eq!(lines, "a_b|t|\na_b|a|\u{feff}In  THF dry\na_b\t6\t9\tTHF\tABBREVIATION\t-\n\n");
}

#[test]
fn csv_has_a_row_for_each_mention() {
    let document = Document::from_text("a", "α, \"THF\", LiCl".into());
    let entities = [mention(&document, "\"THF\""), mention(&document, "LiCl")];
    let table = written(Format::Csv, &[(&document, &entities)]);
    let expected =
        "id,start,end,text,class,score\na,3,8,\"\"\"THF\"\"\",ABBREVIATION,0.9877\na,10,14,LiCl,ABBREVIATION,0.9877\n";
    assert_eq!(table, expected);
    assert_eq!(written(Format::Tsv, &[]), "id\tstart\tend\ttext\tclass\tscore\n");
}

#[test]
fn names_are_known_and_unknown_ones_listed() {
    for name in Format::read_names().chain(Format::written_names()) {
        assert!(name.parse::<Format>().is_ok_and(|format| format.is_read() || format.is_written()));
    }
    let message = "word".parse::<Format>().unwrap_err().to_string();
    assert!(message.contains("text, jsonl, csv, tsv, conll, brat, bioc-xml"), "{message}");
    assert!(reader(Cursor::new(vec![]), "a", Format::Brat, &ReadOptions::default()).is_err());
    assert!(writer(Format::Text, Vec::new(), WriteOptions::default()).is_err());
}

#[test]
fn a_record_that_takes_too_much_is_refused() {
    let options = ReadOptions { most_bytes: 300, ..ReadOptions::default() };
    let long = "x".repeat(200_000);
    for (format, input) in [
        (Format::Text, long.clone()),
        (Format::Csv, format!("text\n\"{long}\"\n")),
        (Format::BioCJson, format!("{{\"documents\": [{{\"id\": \"{long}\"}}]}}")),
        (Format::BioCXml, format!("<collection><document><id>{long}</id></document></collection>")),
        (Format::Articles, format!("<article><p>{long}</p></article>")),
        (Format::PubTator, format!("1|t|a\n1|a|{long}\n")),
        (Format::Conll, long.clone()),
        (Format::JsonLines, format!("{{\"text\": \"{long}\"}}")),
    ] {
        let mut found = reader(Cursor::new(input.into_bytes()), "a", format, &options).unwrap();
        let error = found.find_map(Result::err).map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("300 bytes"), "{format}: {error}");
        assert!(found.next().is_none());
    }
}

/// Words of a text with everything that moves offsets: markup of XML, combining marks, characters beyond the basic plane.
fn words() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-cα🧪\u{301}<&>\"'\u{a0}]{1,6}", 1..6)
}

fn in_xml(words: &[String], markup: bool) -> String {
    let tag = |(index, word): (usize, &String)| match index % 3 {
        0 if markup => format!("<italic>{}</italic>", xml::escaped(word)),
        1 if markup => word.chars().map(|c| format!("<sub><!-- x -->&#{};</sub>", u32::from(c))).collect(),
        _ => xml::escaped(word),
    };
    words.iter().enumerate().map(tag).collect::<Vec<_>>().join(if markup { "\n  " } else { " " })
}

proptest! {
    #[test]
    fn offsets_index_the_text_whatever_it_holds(title in words(), text in words(), chosen in any::<prop::sample::Index>()) {
        let (title_text, body_text) = (title.join(" "), text.join(" "));
        let json = serde_json::json!({"documents": [{"id": "7", "passages": [
            {"offset": 0, "infons": {"type": "title"}, "text": title_text},
            {"offset": 1000, "infons": {"type": "abstract"}, "text": body_text}]}]});
        let inputs = [
            (Format::Articles, format!("<article><front><article-meta><article-title>{}</article-title><abstract><p>{}</p></abstract></article-meta></front></article>",
                in_xml(&title, true), in_xml(&text, true))),
            (Format::BioCXml, format!("<collection><document><id>7</id><passage><infon key=\"type\">title</infon><offset>0</offset><text>{}</text></passage>\
                <passage><infon key=\"type\">abstract</infon><offset>1000</offset><text>{}</text></passage></document></collection>", in_xml(&title, false), in_xml(&text, false))),
            (Format::BioCJson, json.to_string()),
            (Format::PubTator, format!("7|t|{title_text}\n7|a|{body_text}\n")),
        ];
        for (format, input) in inputs {
            let document = whole(&input, format).pop().unwrap();
            prop_assert_eq!(&document.text, &format!("{title_text}\n{body_text}"), "{}", format);
            let parts: Vec<&str> = document.passages.iter().map(|passage| &document.text[passage.range.clone()]).collect();
            prop_assert_eq!(parts, [&title_text, &body_text]);
            // A word of the abstract, wherever it stands.
            let word = chosen.index(text.len());
            let start = document.passages[1].range.start + text[..word].iter().map(|word| word.len() + 1).sum::<usize>();
            let end = start + text[word].len();
            let entity = Entity { start, end, text: document.text[start..end].into(), class: None, score: 1. };
            let chars: Vec<char> = document.text.chars().collect();
            let offsets = Offsets::new(&document.text);
            let at = offsets.chars(start)..offsets.chars(end);
            prop_assert_eq!(chars[at.clone()].iter().collect::<String>(), text[word].as_str());
            let one = std::slice::from_ref(&entity);
            // The record's.
            let record: serde_json::Value = serde_json::from_str(&written(Format::JsonLines, &[(&document, one)])).unwrap();
            prop_assert_eq!(record["text"].as_str(), Some(document.text.as_str()));
            prop_assert_eq!(record["entities"][0]["start"].as_u64(), Some(at.start as u64));
            // PubTator's, read by its columns.
            let lines = written(Format::PubTator, &[(&document, one)]);
            let line = lines.lines().nth(2).unwrap_or_default();
            let fields: Vec<&str> = line.split('\t').collect();
            let expected = [at.start.to_string(), at.end.to_string(), text[word].clone()];
            prop_assert_eq!(&fields[1..4], expected);
            // BioC's, relative to its passages.
            for format in [Format::BioCXml, Format::BioCJson] {
                let again = whole(&written(format, &[(&document, one)]), format).pop().unwrap();
                prop_assert_eq!(&again.text, &document.text);
                let passage = &bioc_of(&again).passages[1];
                let location = passage.annotations[0].locations[0];
                let inside = passage.text.as_deref().unwrap_or_default().chars().skip(location.offset - passage.offset).take(location.length);
                prop_assert_eq!(inside.collect::<String>(), text[word].as_str());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic_in_every_format(bytes in prop::collection::vec(any::<u8>(), 0..60), pieces in prop::collection::vec(prop::sample::select(vec![
        "<", ">", "/", "article", "collection", "document", "passage", "text", "p", "&", ";", "#", "\"", "{", "}", "[", "]", ":", ",", "|", "t", "a", "1",
        "\t", "\n", "\\", "\u{1f}\u{8b}", "<![CDATA[", "]]>", "<!--", "-->", "<?", "documents", "-DOCSTART-", "text,id",
    ]), 0..40)) {
        for input in [bytes, pieces.concat().into_bytes()] {
            for name in Format::read_names() {
                let format: Format = name.parse().unwrap();
                let Ok(found) = reader(Cursor::new(input.clone()), "a", format, &ReadOptions::default()) else { continue };
                // No reader goes on without end.
                prop_assert!(found.take(1000).count() < 1000, "{}", format);
            }
        }
    }
}

/// A few kilobytes that unpack to 64 megabytes, and a frame that asks for a window of two terabytes: refused by every format, whatever it would have held.
#[test]
fn what_unpacks_without_end_is_refused() {
    use std::io::Write;
    let options = ReadOptions { most_bytes: 1 << 20, ..ReadOptions::default() };
    let bulk = vec![b'a'; 64 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bulk).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(bulk.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    let window = b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00".to_vec();
    for packed in [gzip.finish().unwrap(), zstd, window] {
        assert!(packed.len() < 400_000);
        for format in
            FORMATS.iter().filter(|entry| entry.read && entry.format != Format::Brat).map(|entry| entry.format)
        {
            let found = reader(Cursor::new(packed.clone()), "a", format, &options);
            let found = found.map_or_else(|error| vec![Err(error)], |found| found.take(100).collect());
            assert!(!found.is_empty() && found.iter().all(Result::is_err), "{format}: {found:?}");
        }
    }
}
