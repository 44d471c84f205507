//! `chemtag run` as a user runs it, killed and started again, with a model that finds a known list of words.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

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
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag"));
        command.current_dir(self.folder.path()).args(arguments).args(["--model", "model"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A run that must succeed; gives its messages.
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    }

    fn summary(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(out).join("summary.json")).unwrap()).unwrap()
    }

    /// Every file below a folder but the run's own state.
    fn tree(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut tree = BTreeMap::new();
        collect(&self.path(name), "", &mut tree);
        tree
    }

    /// Lines of the journal: files that are done.
    fn finished(&self, out: &str) -> usize {
        fs::read_to_string(self.path(out).join(".chemtag/finished.jsonl")).map_or(0, |lines| lines.lines().count())
    }
}

fn collect(folder: &Path, above: &str, tree: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        if name == ".chemtag" {
            continue;
        }
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), tree);
        } else {
            tree.insert(name, fs::read(entry.path()).unwrap());
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A text of so many bytes in which the model finds names; another one for each number.
fn text(number: usize, bytes: usize) -> String {
    let words = [
        "benzene",
        "the",
        "LiCl",
        "α-pinene",
        "in",
        "acetic acid",
        "of",
        "ethanol.",
        "β-carotene",
        "and",
        "🧪",
        "酢酸",
    ];
    let mut text = format!("Document {number}");
    let mut state = number as u64 + 1;
    while text.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text.push(' ');
        text.push_str(words[(state >> 33) as usize % words.len()]);
    }
    text
}

/// Forty files of four formats in folders, two of which cannot be read to their ends.
fn write_corpus(bench: &Bench) {
    for number in 0..40 {
        let texts = (0..60).map(|document| text(100 * number + document, 400));
        let folder = number % 3;
        match number % 4 {
            0 => bench.file(&format!("corpus/{folder}/{number}.txt"), text(number, 24_000)),
            1 => {
                let lines = texts.map(|text| serde_json::json!({ "text": text }).to_string() + "\n");
                bench.file(&format!("corpus/{folder}/{number}.jsonl"), lines.collect::<String>());
            }
            2 => bench.file(
                &format!("corpus/{folder}/{number}.tsv"),
                "text\n".to_string() + &texts.map(|text| text + "\n").collect::<String>(),
            ),
            _ => bench.file(&format!("corpus/{folder}/{number}.pubtator"), {
                texts.enumerate().map(|(id, text)| format!("{id}|t|{text}\n{id}|a|{text}\n\n")).collect::<String>()
            }),
        }
    }
    bench.file("corpus/1/broken.jsonl", "{\"text\": \"LiCl\"}\n{\"text\": 3}\n{\"text\": \"benzene\"}\n");
    bench.file("corpus/2/broken.txt", b"\x1f\x8bno gzip");
}

const FORMATS: [&[&str]; 4] = [
    &["--to", "jsonl", "--stats"],
    &["--to", "csv", "--gzip", "--groups"],
    &["--to", "brat"],
    &["--to", "bioc-xml", "--stats"],
];

/// Starts a run and kills it (SIGKILL) as soon as so many files are done.
fn kill_after(bench: &Bench, arguments: &[&str], out: &str, files: usize) {
    let mut child: Child = bench.command(arguments).stderr(Stdio::null()).spawn().unwrap();
    while bench.finished(out) < files {
        assert!(child.try_wait().unwrap().is_none(), "the run ended with {} of {files} files", bench.finished(out));
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run was over before it was killed");
}

#[test]
fn a_run_killed_at_five_points_comes_to_the_same_files() {
    let bench = Bench::new();
    write_corpus(&bench);
    let mut state = 20_260_101u64;
    for (index, format) in FORMATS.iter().enumerate() {
        let arguments = |out: &'static str, workers: &'static str| {
            [&["run", "corpus", "-o", out, "--workers", workers][..], format].concat()
        };
        let whole = bench.run(&arguments("whole", "2"));
        assert_eq!(whole.status.code(), Some(1), "two files are broken: {}", stderr(&whole));
        // Five points, one at random in each fifth of the first 35 files.
        for fifth in 0..5 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let files = 7 * fifth + 1 + (state >> 33) as usize % 7;
            kill_after(&bench, &arguments("killed", ["1", "3"][fifth % 2]), "killed", files);
        }
        assert_eq!(bench.run(&arguments("killed", "2")).status.code(), Some(1));
        let (whole, killed) = (bench.tree("whole"), bench.tree("killed"));
        assert!(whole.len() >= 41 && whole.values().map(Vec::len).sum::<usize>() > 50_000);
        assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>(), "{index}");
        assert!(whole == killed, "another content in format {index}");
        for out in ["whole", "killed"] {
            fs::remove_dir_all(bench.path(out)).unwrap();
        }
    }
}

#[test]
fn one_bad_file_does_not_end_the_run() {
    let bench = Bench::new();
    write_corpus(&bench);
    let output = bench.run(&["run", "corpus", "-o", "out"]);
    assert_eq!(output.status.code(), Some(1));
    let messages = stderr(&output);
    assert!(messages.contains("1/broken.jsonl, line 2: ") && messages.contains("2/broken.txt"), "{messages}");
    let summary = bench.summary("out");
    assert_eq!((&summary["files"], &summary["malformed"]), (&40.into(), &0.into()));
    let failed: Vec<&str> = summary["failed"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    assert_eq!(failed, ["1/broken.jsonl", "2/broken.txt"]);
    assert!(!bench.path("out/1/broken.jsonl.jsonl").exists());

    let output = bench.run(&["run", "corpus", "-o", "going", "--keep-going"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let summary = bench.summary("going");
    assert_eq!((&summary["files"], &summary["malformed"]), (&41.into(), &1.into()));
    let records = fs::read_to_string(bench.path("going/1/broken.jsonl.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 2);
    // 10 texts; 60 records in each of 20 files and 60 abstracts in each of 10; two records beside the broken one.
    assert_eq!(summary["documents"], 10 + 30 * 60 + 2);
}

#[test]
fn records_are_those_of_tag() {
    let bench = Bench::new();
    write_corpus(&bench);
    bench.file("corpus/long.txt", text(7, 1_200_000));
    bench.run(&["run", "corpus", "-o", "out", "--workers", "3", "--keep-going"]);
    let mut checked = 0;
    for (name, records) in bench.tree("out") {
        let Some(file) = name.strip_suffix(".jsonl") else { continue };
        let mut tag = Command::new(env!("CARGO_BIN_EXE_chemtag"));
        tag.current_dir(bench.path("corpus")).args(["tag", file, "--keep-going", "--model", "../model"]);
        let tagged = tag.output().unwrap();
        assert!(tagged.status.success(), "{}", stderr(&tagged));
        assert!(tagged.stdout == records, "{file}");
        checked += 1;
    }
    assert_eq!(checked, 42);
}

#[test]
fn what_is_finished_is_kept_while_nothing_has_changed() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.file(&format!("corpus/{name}.txt"), format!("benzene in {name}"));
    }
    let arguments = ["run", "corpus", "-o", "out", "--stats"];
    bench.succeed(&arguments);
    let first = bench.tree("out");
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        ["a.txt.jsonl", "b.txt.jsonl", "c.txt.jsonl", "names.tsv", "report.html", "summary.json"]
    );
    let again = bench.succeed(&arguments);
    assert!(again.contains("tagged 0 documents now, 3 files had been finished before"), "{again}");
    assert_eq!(bench.tree("out"), first);

    // A line that was not written to its end, an output that is gone, a file that has changed.
    let journal = bench.path("out/.chemtag/finished.jsonl");
    let lines = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, &lines[..lines.len() - 10]).unwrap();
    fs::remove_file(bench.path("out/a.txt.jsonl")).unwrap();
    bench.file("corpus/b.txt", "ethanol and LiCl");
    let messages = bench.succeed(&arguments);
    assert!(messages.contains("tagged 3 documents now, 0 files"), "{messages}");
    let changed = bench.tree("out");
    assert_eq!((&changed["a.txt.jsonl"], &changed["c.txt.jsonl"]), (&first["a.txt.jsonl"], &first["c.txt.jsonl"]));
    assert_eq!(bench.summary("out")["mentions"], 4);
    let names = String::from_utf8(changed["names.tsv"].clone()).unwrap();
    assert_eq!(
        names,
        "name\tspelling\tclass\tmentions\tdocuments\nbenzene\tbenzene\tTRIVIAL\t2\t2\nLiCl\tLiCl\tFORMULA\t1\t1\nethanol\tethanol\tTRIVIAL\t1\t1\n"
    );

    // A file that cannot be read any more has no output.
    bench.file("corpus/c.txt", b"\xff\xfe\x00");
    assert_eq!(bench.run(&arguments).status.code(), Some(1));
    assert!(!bench.path("out/c.txt.jsonl").exists());
}

#[test]
fn other_settings_and_a_second_run_at_once_are_refused() {
    let bench = Bench::new();
    bench.file("corpus/a.txt", "benzene");
    bench.succeed(&["run", "corpus", "-o", "out"]);
    let refused = |arguments: &[&str]| {
        let output = bench.run(&[&["run", "corpus", "-o", "out"], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let message = refused(&["--offsets", "bytes", "--threshold", "0.5"]);
    assert!(message.contains("out holds a run with another --threshold, --offsets: "), "{message}");
    bench.succeed(&["run", "corpus", "-o", "out", "--offsets", "bytes", "--restart"]);
    assert!(fs::read_to_string(bench.path("out/a.txt.jsonl")).unwrap().contains("\"bytes\""));

    let lock = fs::File::create(bench.path("out/.chemtag/lock")).unwrap();
    lock.lock().unwrap();
    let message = refused(&["--offsets", "bytes"]);
    assert!(message.contains("another run writes to out"), "{message}");
    drop(lock);
    bench.succeed(&["run", "corpus", "-o", "out", "--offsets", "bytes"]);

    for (arguments, part) in [
        (&["run", "corpus/none", "-o", "out"][..], "corpus/none is not there"),
        (&["run", "corpus/*.xml", "-o", "out"], "matches no file"),
    ] {
        let output = bench.run(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    assert_eq!(bench.run(&["run", "corpus", "-o", "out", "--to", "jats"]).status.code(), Some(2));
}

/// Most memory that a run over so many bytes of text has resident at any time, in kilobytes.
#[cfg(target_os = "linux")]
fn peak(bytes: usize) -> usize {
    let bench = Bench::new();
    let mut lines = String::new();
    for number in 0..bytes / 2000 {
        lines.push_str(&serde_json::json!({ "text": text(number, 2000) }).to_string());
        lines.push('\n');
    }
    bench.file("corpus/a.jsonl", lines);
    let mut child =
        bench.command(&["run", "corpus", "-o", "out", "--workers", "2"]).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        peak = peak.max(line.split_whitespace().next().and_then(|kb| kb.parse().ok()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    peak
}

/// The groups between reader and writer hold 1.5 MB of text at most; the rest of a file does not lie in memory.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_corpus() {
    let (small, large) = (peak(4_000_000), peak(24_000_000));
    assert!(large < small + 10_000, "{small} kB for 4 MB of text, {large} kB for 24 MB");
}
