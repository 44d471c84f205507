//! The command `chemtag` on files of every format, with a model that finds a known list of words.

mod support;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::TinyModel;
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        TinyModel::new().write(folder.path());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag"));
        command.current_dir(self.folder.path()).arg("tag").args(arguments).args(["--model", "model", "--threads", "1"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard output of a run that must succeed without a message.
    fn output(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input.as_bytes());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), message.as_str()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn records(&self, arguments: &[&str], input: &str) -> Vec<Value> {
        self.output(arguments, input).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn mentions(record: &Value) -> Vec<&str> {
    record["entities"].as_array().unwrap().iter().map(|entity| entity["text"].as_str().unwrap()).collect()
}

#[test]
fn formats_are_known_by_their_names_and_compression_by_its_bytes() {
    let bench = Bench::new();
    bench.file("a.jsonl", "{\"id\": \"one\", \"text\": \"LiCl\"}\n{\"text\": \"In benzene\", \"id\": 2}\n");
    bench.file("b.CSV", "id,text\nthree,\"é, LiCl\"\n");
    bench.file("c.conll", "In\tO\nacetic\tO\nacid\tO\n");
    bench.file("d.pubtator", "5|t|LiCl\n5|a|benzene\n");
    bench.file("e.nxml", "<article><body><p>Li<italic>Cl</italic> in <bold>benz</bold>ene</p></body></article>");
    bench.file("f.txt", "benzene");
    let utf16: Vec<u8> = "\u{feff}é LiCl".encode_utf16().flat_map(u16::to_le_bytes).collect();
    bench.file("g.txt", utf16);
    let files = ["a.jsonl", "b.CSV", "c.conll", "d.pubtator", "e.nxml", "f.txt", "g.txt"];
    let records = bench.records(&files, "");
    let ids: Vec<&str> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one", "2", "three", "c.conll:1", "5", "e.nxml:1", "f.txt", "g.txt"]);
    let found: Vec<Vec<&str>> = records.iter().map(mentions).collect();
    let expected = [
        &["LiCl"][..],
        &["benzene"],
        &["LiCl"],
        &["acetic acid"],
        &["LiCl", "benzene"],
        &["LiCl", "benzene"],
        &["benzene"],
        &["LiCl"],
    ];
    assert_eq!(found, expected);
    assert_eq!(records[4]["text"], "LiCl\nbenzene");
    assert_eq!(records[4]["passages"][1], serde_json::json!({"start": 5, "end": 12, "kind": "abstract"}));
    assert_eq!(records[7]["entities"][0]["start"], 3);
    // The same through gzip, under a name that says only the format.
    let plain = bench.output(&["a.jsonl"], "");
    bench.output(&["a.jsonl", "-o", "out.jsonl.gz"], "");
    let again =
        bench.run(&["-", "--from", "jsonl", "--field", "id"], &std::fs::read(bench.path("out.jsonl.gz")).unwrap());
    assert_eq!(String::from_utf8(again.stdout).unwrap().lines().count(), plain.lines().count());
}

#[test]
fn a_malformed_record_ends_the_run_or_is_counted() {
    let bench = Bench::new();
    bench.file("a.jsonl", "{\"text\": \"LiCl\"}\n{\"text\": \n\n{\"text\": \"benzene\"}\n");
    bench.file("b.txt", "ethanol");
    let output = bench.run(&["a.jsonl", "b.txt"], b"");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.iter().filter(|&&byte| byte == b'\n').count()), (Some(2), 1));
    assert!(
        message.starts_with("chemtag: a.jsonl, line 2: not a JSON object on one line: ")
            && message.lines().count() == 1,
        "{message}"
    );

    let output = bench.run(&["a.jsonl", "b.txt", "--keep-going"], b"");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.iter().filter(|&&byte| byte == b'\n').count()), (Some(0), 3));
    assert_eq!(message.lines().last(), Some("chemtag: passed over 1 malformed record"), "{message}");

    // A file that would lack records is not made; what was there before stays.
    bench.file("out.csv", "before");
    assert_eq!(bench.run(&["a.jsonl", "-o", "out.csv"], b"").status.code(), Some(2));
    assert_eq!(bench.read("out.csv"), "before");
    assert_eq!(bench.run(&["a.jsonl", "-o", "out.csv", "--keep-going"], b"").status.code(), Some(0));
    assert_eq!(bench.read("out.csv").lines().count(), 3);
    assert!(
        std::fs::read_dir(bench.folder.path()).unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with('.'))
    );
}

#[test]
fn every_form_of_output_holds_the_mention() {
    let bench = Bench::new();
    let text = "<b> 🧪 LiCl";
    for (form, part) in [
        ("jsonl", "\"start\":6,\"end\":10,\"text\":\"LiCl\""),
        ("csv", "\n-,6,10,LiCl,"),
        ("tsv", "\n-\t6\t10\tLiCl\t"),
        ("conll", "\nLiCl\tB-"),
        ("brat", " 6 10\tLiCl\n"),
        ("bioc-xml", "<location offset=\"6\" length=\"4\"/><text>LiCl</text>"),
        ("bioc-json", "\"locations\":[{\"offset\":6,\"length\":4}]"),
        ("pubtator", "-\t7\t11\tLiCl\t"),
        ("html", "&lt;b&gt; 🧪 <mark"),
        ("table", "«LiCl»"),
    ] {
        let output = bench.output(&["--to", form], text);
        assert!(output.contains(part), "{form}: {output}");
    }
    bench.file("a.txt", "LiCl");
    bench.output(&["a.txt", "-", "--to", "brat", "-o", "out"], text);
    assert_eq!(bench.read("out/a.txt"), "LiCl");
    assert!(bench.read("out/a.ann").starts_with("T1\t") && bench.read("out/document.ann").contains(" 6 10\tLiCl"));
}

#[test]
fn documents_are_read_as_a_whole_on_request() {
    let bench = Bench::new();
    bench.file("names.tsv", "Acetic-acid\tCHEBI:15366\n");
    let text = "acetic acid (AA) and LiCl. With benzene. Benzene was used.";
    let plain = &bench.records(&[], text)[0];
    assert!(plain["entities"].as_array().unwrap().iter().all(|entity| entity.as_object().unwrap().len() == 5));
    let options = ["--abbreviations", "--groups", "--formulas", "--repeat=0.5", "--lexicon", "names.tsv"];
    let record = &bench.records(&options, text)[0];
    assert_eq!(record["entities"][0]["identifier"], "CHEBI:15366");
    assert_eq!(record["entities"][0]["short_form"], "AA");
    assert_eq!(record["entities"][0]["name"], "aceticacid");
    let salt = record["entities"].as_array().unwrap().iter().find(|entity| entity["text"] == "LiCl").unwrap();
    assert_eq!(salt["formula"], serde_json::json!({"Cl": 1.0, "Li": 1.0}));
    let found =
        |name: &str| record["entities"].as_array().unwrap().iter().find(|entity| entity["text"] == name).unwrap();
    assert_eq!(found("Benzene")["group"], found("benzene")["group"]);
    // The model does not know it with a capital.
    assert_eq!((mentions(plain).contains(&"Benzene"), &found("Benzene")["repeated"]), (false, &true.into()));
    let output = bench.run(&["--lexicon", "missing.tsv"], b"");
    assert_eq!(output.status.code(), Some(1));
}
