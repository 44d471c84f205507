//! The built command `chemtag`, run as a user runs it, with a model that finds a known list of words.

mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::TinyModel;
use tempfile::TempDir;

/// A folder with the model and a test's files; commands run in it.
struct Bench {
    folder: TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = TinyModel::new().write(folder.path());
        Self { folder, model }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag"));
        command.current_dir(self.folder.path()).args(arguments).args(["--model", "model", "--threads", "1"]);
        command.env_remove("NO_COLOR").env("TERM", "xterm-256color");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, b"")
    }

    /// The records of a run that must succeed without a message.
    fn records(&self, arguments: &[&str], input: &str) -> Vec<Value> {
        let output = self.run_with_input(arguments, input.as_bytes());
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
        records(&output)
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn records(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["id"].as_str().unwrap()).collect()
}

fn mentions(record: &Value) -> Vec<&str> {
    record["entities"].as_array().unwrap().iter().map(|entity| entity["text"].as_str().unwrap()).collect()
}

/// Slices `text` the slow way by each entity's offsets.
fn check_offsets(record: &Value, text: &str) {
    for entity in record["entities"].as_array().unwrap() {
        let start = entity["start"].as_u64().unwrap() as usize;
        let length = entity["end"].as_u64().unwrap() as usize - start;
        let slice = match record["offsets"].as_str().unwrap() {
            "chars" => text.chars().skip(start).take(length).collect(),
            "bytes" => text[start..start + length].to_string(),
            "utf16" => String::from_utf16(&text.encode_utf16().skip(start).take(length).collect::<Vec<_>>()).unwrap(),
            other => panic!("{other}"),
        };
        assert_eq!(slice, entity["text"].as_str().unwrap());
    }
}

#[test]
fn standard_input_gives_one_record() {
    let bench = Bench::new();
    let text = "LiCl and benzene.";
    let expected =
        r#"{"id":"-","offsets":"chars","entities":[{"start":0,"end":4,"text":"LiCl","class":"FORMULA","score":"#;
    for arguments in [&["tag"][..], &["tag", "-"]] {
        let output = bench.run_with_input(arguments, text.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).starts_with(expected) && stdout(&output).ends_with("]}\n"), "{}", stdout(&output));
        let score = &records(&output)[0]["entities"][0]["score"];
        assert!(score.as_f64().unwrap() > 0.9 && score.to_string().len() <= "0.1234".len(), "{score}");
    }
}

#[test]
fn offsets_in_every_unit_slice_the_mention_out() {
    let bench = Bench::new();
    let text = "🧪 α-pinene\r\nin 酢酸 (e\u{301}) 👩‍🔬 β-carotene,\r\n\r\n\u{a0}\u{200b}acetic acid\tthen \u{1f9ea}LiCl\u{2028}or benzene";
    let expected = ["α-pinene", "酢酸", "β-carotene", "acetic acid", "LiCl", "benzene"];
    for (unit, first) in [("chars", 2), ("bytes", 5), ("utf16", 3)] {
        let records = bench.records(&["tag", "--offsets", unit], text);
        assert_eq!((records.len(), records[0]["offsets"].as_str()), (1, Some(unit)));
        assert_eq!(mentions(&records[0]), expected);
        assert_eq!(records[0]["entities"][0]["start"], first);
        check_offsets(&records[0], text);
    }
}

#[test]
fn offsets_hold_in_random_texts() {
    let bench = Bench::new();
    let parts = [
        "benzene",
        "α",
        "-",
        "pinene",
        "酢",
        "酸",
        " ",
        "\r\n",
        "\n\n",
        ". ",
        "🧪",
        "👩‍🔬",
        "e\u{301}",
        "\u{a0}",
        "\u{feff}",
        "\u{0}",
        "The",
        " LiCl ",
        "\u{200d}",
        "x",
    ];
    let mut state = 7u64;
    let texts: Vec<String> = (0..40)
        .map(|length| {
            let part = |_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                parts[(state >> 33) as usize % parts.len()]
            };
            (0..length * 3).map(part).collect()
        })
        .collect();
    let names: Vec<String> = (0..texts.len()).map(|i| format!("{i}.txt")).collect();
    for (name, text) in names.iter().zip(&texts) {
        bench.file(name, text);
    }
    for unit in ["chars", "bytes", "utf16"] {
        let mut arguments = vec!["tag", "--offsets", unit];
        arguments.extend(names.iter().map(String::as_str));
        let records = bench.records(&arguments, "");
        assert_eq!(ids(&records), names);
        assert!(records.iter().map(|record| mentions(record).len()).sum::<usize>() > 100);
        for (record, text) in records.iter().zip(&texts) {
            check_offsets(record, text);
        }
    }
}

#[test]
fn files_come_in_order_and_a_long_one_is_the_same_as_its_parts() {
    let bench = Bench::new();
    let part = "A solution of LiCl in ethanol, and α-pinene. Nothing else was seen here.\n\n";
    // Above the size from which a file is tagged alone and as a stream.
    let long = part.repeat(1_100_000 / part.len());
    bench.file("a.txt", "benzene");
    bench.file("long.txt", &long);
    bench.file("b.txt", part);
    let records = bench.records(&["tag", "a.txt", "long.txt", "-", "b.txt"], "acetic acid");
    assert_eq!(ids(&records), ["a.txt", "long.txt", "-", "b.txt"]);
    assert_eq!(mentions(&records[2]), ["acetic acid"]);
    assert_eq!(mentions(&records[3]), ["LiCl", "ethanol", "α-pinene"]);
    assert_eq!(mentions(&records[1]), mentions(&records[3]).repeat(1_100_000 / part.len()));
    let tagger = chemtag::Tagger::load(&bench.model).unwrap();
    let whole = tagger.tag(&long).unwrap();
    let starts: Vec<usize> = whole.iter().map(|entity| long[..entity.start].chars().count()).take(50).collect();
    let found = records[1]["entities"].as_array().unwrap();
    assert_eq!(
        found.iter().map(|entity| entity["start"].as_u64().unwrap() as usize).take(50).collect::<Vec<_>>(),
        starts
    );
    assert_eq!(found.len(), whole.len());
}

#[test]
fn a_bad_file_does_not_stop_the_others() {
    let bench = Bench::new();
    bench.file("a.txt", "benzene");
    bench.file("latin1.txt", b"caf\xe9 benzene");
    bench.file("b.txt", "ethanol");
    std::fs::create_dir(bench.folder.path().join("folder")).unwrap();
    let output = bench.run(&["tag", "a.txt", "missing.txt", "latin1.txt", "folder", "b.txt"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(ids(&records(&output)), ["a.txt", "b.txt"]);
    let messages = stderr(&output);
    let messages: Vec<&str> = messages.lines().collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages[0].starts_with("chemtag: cannot read missing.txt: "), "{messages:?}");
    assert!(messages[1].starts_with("chemtag: latin1.txt is not UTF-8 at byte 3: "), "{messages:?}");
    assert!(messages[1].contains("--lossy"), "{messages:?}");
    assert!(messages[2].starts_with("chemtag: folder is a folder"), "{messages:?}");

    let output = bench.run_with_input(&["tag"], b"\xff");
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert!(stderr(&output).starts_with("chemtag: standard input is not UTF-8 at byte 0: "), "{}", stderr(&output));
}

#[test]
fn lossy_offsets_count_in_the_replaced_text() {
    let bench = Bench::new();
    let bytes = b"caf\xe9 \xff\xfe LiCl \xe2\x82 benzene \xf0\x9f";
    bench.file("latin1.txt", bytes);
    let replaced = String::from_utf8_lossy(bytes);
    for unit in ["chars", "bytes", "utf16"] {
        let records = bench.records(&["tag", "latin1.txt", "--lossy", "--offsets", unit], "");
        assert_eq!(mentions(&records[0]), ["LiCl", "benzene"]);
        check_offsets(&records[0], &replaced);
    }
}

#[test]
fn an_empty_file_is_no_error() {
    let bench = Bench::new();
    for (name, content) in [("empty.txt", ""), ("mark.txt", "\u{feff}"), ("blank.txt", " \r\n\t\n")] {
        bench.file(name, content);
        let output = bench.run(&["tag", name]);
        assert_eq!(stdout(&output), format!("{{\"id\":\"{name}\",\"offsets\":\"chars\",\"entities\":[]}}\n"));
        let output = bench.run(&["tag", name, "--to", "table"]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), format!("{name}: no chemicals found\n")));
    }
}

#[test]
fn a_byte_order_mark_is_not_tagged_but_counted() {
    let bench = Bench::new();
    let text = "\u{feff}LiCl in\r\nbenzene";
    bench.file("mark.txt", text);
    for (unit, start) in [("chars", 1), ("bytes", 3), ("utf16", 1)] {
        let records = bench.records(&["tag", "mark.txt", "--offsets", unit], "");
        assert_eq!(mentions(&records[0]), ["LiCl", "benzene"]);
        assert_eq!(records[0]["entities"][0]["start"], start);
        check_offsets(&records[0], text);
    }
}

#[test]
fn tables_on_a_pipe_have_no_escape_sequences() {
    let bench = Bench::new();
    bench.file("a.txt", "Nothing here.\r\nIn benzene \u{1b}[31mwith 酢酸.\r\n");
    bench.file("b.txt", "LiCl");
    let expected = "a.txt: 2 chemicals, offsets in characters

  In «benzene» ␛[31mwith «酢酸».

  start  end  class    score  text
     18   25  TRIVIAL  0.000  benzene
     36   38  TRIVIAL  0.000  酢酸

  TRIVIAL\u{a0}2  \n
b.txt: 1 chemical, offsets in characters

  «LiCl»

  start  end  class    score  text
      0    4  FORMULA  0.000  LiCl

  FORMULA\u{a0}1  \n";
    let output = bench.run(&["tag", "a.txt", "b.txt", "--to", "table"]);
    let mut shown = stdout(&output);
    // Scores are the model's; here only their form counts.
    for at in shown.match_indices(" 0.9").map(|(at, _)| at).collect::<Vec<_>>() {
        assert!(shown[at + 4..at + 6].bytes().all(|byte| byte.is_ascii_digit()));
        shown.replace_range(at..at + 6, " 0.000");
    }
    assert_eq!(shown, expected);
}

#[test]
fn a_threshold_moves_the_number_of_mentions() {
    let bench = Bench::new();
    let text = "benzene-ethanol";
    let count = |threshold: &str| mentions(&bench.records(&["tag", "--threshold", threshold], text)[0]).len();
    assert_eq!(count("1"), 0);
    assert!(count("0.00001") >= 1);
    let best = bench.records(&["tag"], text);
    let score = best[0]["entities"][0]["score"].as_f64().unwrap();
    assert_eq!(count(&(score + 0.001).to_string()), 0);
    assert_eq!(count(&(score - 0.001).to_string()), 1);
    let alone = bench.records(&["tag", "--sentences"], "LiCl was used. And benzene.");
    assert_eq!(mentions(&alone[0]), ["LiCl", "benzene"]);
}

#[test]
fn a_wrong_command_line_is_code_2() {
    let bench = Bench::new();
    for (arguments, named) in [
        (&["tag", "--threshold", "0"][..], "above 0 and at most 1"),
        (&["tag", "--threshold", "nan"], "above 0 and at most 1"),
        (&["tag", "--offsets", "words"], "utf16"),
        (&["tag", "--to", "csv"], "jsonl"),
        (&["tag", "--device", "tpu"], "cuda:NUMBER"),
        (&["tag", "-", "-"], "only once"),
        (&["tags"], "tags"),
        (&["info", "--lossy"], "--lossy"),
    ] {
        let output = bench.run(arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr(&output).contains(named), "{arguments:?}: {}", stderr(&output));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_chemtag")).args(["tag", "--threads", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_model_that_cannot_be_used_is_named_with_the_reason() {
    // What was done to the model folder, and what the message must say.
    let spoil = |spoil: &dyn Fn(&mut TinyModel), after: &dyn Fn(&Path), expected: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut model = TinyModel::new();
        spoil(&mut model);
        after(&model.write(folder.path()));
        std::fs::write(folder.path().join("a.txt"), "benzene").unwrap();
        for command in [&["tag", "a.txt"][..], &["info"]] {
            let output = Command::new(env!("CARGO_BIN_EXE_chemtag"))
                .current_dir(folder.path())
                .args(command)
                .args(["--model", "model"])
                .output()
                .unwrap();
            assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
            let message = stderr(&output);
            assert!(message.starts_with("chemtag: ") && message.lines().count() == 1, "{message}");
            for part in expected {
                assert!(message.contains(part), "{message}: expected {part}");
            }
        }
    };
    let weights = |folder: &Path| folder.join("model.safetensors");
    let same = |_: &mut TinyModel| ();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let remove = |folder: &Path| std::fs::remove_file(folder.join(name)).unwrap();
        spoil(&same, &remove, &["cannot read", name]);
    }
    for (numerator, denominator) in [(0, 1), (1, 3), (99, 100)] {
        let truncate = |folder: &Path| {
            let bytes = std::fs::read(weights(folder)).unwrap();
            std::fs::write(weights(folder), &bytes[..bytes.len() * numerator / denominator]).unwrap();
        };
        spoil(&same, &truncate, &["model.safetensors", "not a whole safetensors file"]);
    }
    let nothing = |_: &Path| ();
    spoil(
        &|model| model.config["hidden_dim"] = 16.into(),
        &nothing,
        &["model.safetensors", "ffn.lin1", "[8, 8]", "[16, 8]"],
    );
    spoil(&|model| model.config["n_layers"] = 2.into(), &nothing, &["transformer.layer.1.", "is missing"]);
    spoil(&|model| model.config["vocab_size"] = 9.into(), &nothing, &["tokenizer.json", "highest piece id"]);
    spoil(&|model| model.config["n_heads"] = 3.into(), &nothing, &["config.json", "multiple of the 3 heads"]);
    spoil(
        &|model| model.tensors.retain(|(name, ..)| name != "crf.transitions"),
        &nothing,
        &["crf.transitions", "[3, 3]"],
    );
    spoil(
        &same,
        &|folder| std::fs::write(folder.join("config.json"), "{").unwrap(),
        &["config.json", "not valid JSON"],
    );
    spoil(
        &same,
        &|folder| std::fs::write(folder.join("tokenizer.json"), "{}").unwrap(),
        &["tokenizer.json", "tokenizer"],
    );
    let file = |folder: &Path| {
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::write(folder, "").unwrap();
    };
    spoil(&same, &file, &["model", "is a file; name the folder"]);
}

#[cfg(not(feature = "embedded-model"))]
#[test]
fn without_a_model_the_message_says_how_to_get_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_chemtag")).arg("tag").stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert_eq!(stderr(&output), format!("chemtag: {}\n", chemtag::Error::NoEmbeddedModel));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bench = Bench::new();
    // Far more records than a pipe holds.
    bench.file("a.txt", "benzene, ethanol, LiCl. ".repeat(100));
    let mut arguments = vec!["tag"];
    arguments.extend(["a.txt"; 100]);
    let mut child = bench.command(&arguments).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 10]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn control_characters_of_names_do_not_reach_the_terminal() {
    let bench = Bench::new();
    let output = bench.run(&["tag", "a\u{1b}[2Jb\u{9b}.txt"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("chemtag: cannot read a␛[2Jb<U+009B>.txt: "), "{}", stderr(&output));
    let output = bench.run_with_input(&["tag"], "acetic \u{9b}\u{7f} acid".as_bytes());
    assert!(!stdout(&output).chars().any(|c| c.is_control() && c != '\n'), "{}", stdout(&output));
}

#[test]
fn a_self_contained_file_is_read_in_integers() {
    let bench = Bench::new();
    let files = chemtag::ModelFiles::read(&(&bench.model).into()).unwrap();
    bench.file("words.safetensors", chemtag::int8::to_file(&files).unwrap());
    let text = "Ethanol and Li7La3Zr2O12 in benzene; α-pinene, acetic acid.";
    let run = |arguments: &[&str], kernel: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag"));
        command.current_dir(bench.folder.path()).args(arguments).args(["--model", "words.safetensors"]);
        command.env("CHEMTAG_KERNEL", kernel).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may have ended.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        child.wait_with_output().unwrap()
    };
    let in_floats = bench.records(&["tag"], text);
    let places = |records: &[Value]| -> Vec<[Value; 3]> {
        let entities = records[0]["entities"].as_array().unwrap();
        entities.iter().map(|entity| ["start", "end", "class"].map(|key| entity[key].clone())).collect()
    };
    assert!(places(&in_floats).len() > 3);
    for kernel in chemtag::int8::Kernel::available() {
        let output = run(&["tag"], kernel.name());
        assert_eq!(places(&records(&output)), places(&in_floats), "{}", stderr(&output));
        let info: Value = serde_json::from_str(&stdout(&run(&["info", "--json"], kernel.name()))).unwrap();
        assert_eq!(info["engine"], format!("int8, cpu, {}", kernel.name()));
        let parameters: usize = TinyModel::new().tensors.iter().map(|(_, _, values)| values.len()).sum();
        assert_eq!(info["parameters"], parameters);
    }
    let output = run(&["tag"], "abacus");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("CHEMTAG_KERNEL is \"abacus\", but this CPU has the kernels scalar"));
}

#[test]
fn info_describes_the_model() {
    let bench = Bench::new();
    let output = bench.run(&["info", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let info: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let files = chemtag::ModelFiles::read(&(&bench.model).into()).unwrap();
    let parameters: usize = TinyModel::new().tensors.iter().map(|(_, _, values)| values.len()).sum();
    for (key, value) in [
        ("name", Value::from("word-list")),
        ("version", "1.2".into()),
        ("license", "CC0-1.0".into()),
        ("architecture", "DistilBERT with CRF".into()),
        ("layers", 1.into()),
        ("width", 8.into()),
        ("heads", 2.into()),
        ("feed_forward_width", 8.into()),
        ("vocabulary", 17.into()),
        ("parameters", parameters.into()),
        ("classes", vec!["TRIVIAL", "FORMULA"].into()),
        ("sequence_pieces", 40.into()),
        ("sha256", files.hash().into()),
        ("source", "model".into()),
        ("engine", "candle, cpu, f32".into()),
        ("threads", 1.into()),
        ("chemtag", env!("CARGO_PKG_VERSION").into()),
    ] {
        assert_eq!(info[key], value, "{key}");
    }
    let output = bench.run(&["info"]);
    let text = stdout(&output);
    for line in
        ["model         word-list 1.2\n", "classes       TRIVIAL, FORMULA\n", "engine        candle, cpu, f32\n"]
    {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(text.lines().count(), 12);
}

/// What a shell line shows on a terminal of 40 columns, `chemtag` in it being the built one with the model; `None` where there is no `script` (util-linux) to make one.
fn on_terminal(bench: &Bench, shell_line: &str, environment: &[(&str, &str)]) -> Option<String> {
    let function = r#"chemtag() { "$CHEMTAG" "$@" --model model --device cpu; }"#;
    let line = format!("{function}; stty cols 40 rows 20; {shell_line}");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(bench.folder.path());
    script.env("CHEMTAG", env!("CARGO_BIN_EXE_chemtag")).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    script.env("SHELL", "/bin/sh").envs(environment.iter().copied()).stdin(Stdio::null());
    let output = script.output().ok()?;
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    Some(stdout(&output).replace("\r\n", "\n"))
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_a_coloured_table() {
    let bench = Bench::new();
    bench.file("a.txt", "A long line that holds acetic acid and, further on, LiCl \u{1b}]0;title\u{7}.\nNothing.\n");
    let Some(shown) = on_terminal(&bench, "chemtag tag a.txt", &[]) else { return };
    let lines = "a.txt\x1b[0m: 2 chemicals, offsets in characters

  A long line that holds \x1b[38;5;16;48;5;117macetic acid\x1b[0m \n  and, further on, \x1b[38;5;16;48;5;156mLiCl\x1b[0m ␛]0;title␇.\n\n";
    assert!(shown.starts_with(&format!("\x1b[1m{lines}")), "{shown:?}");
    assert!(!shown.contains("Nothing"), "{shown:?}");
    for quiet in [
        ("chemtag tag a.txt --no-color", &[][..]),
        ("chemtag tag a.txt", &[("NO_COLOR", "1")]),
        ("chemtag tag a.txt", &[("TERM", "dumb")]),
    ] {
        let shown = on_terminal(&bench, quiet.0, quiet.1).unwrap();
        assert!(!shown.contains('\u{1b}') && shown.contains("«acetic acid»"), "{shown:?}");
    }
    let shown = on_terminal(&bench, "chemtag tag a.txt --to jsonl", &[]).unwrap();
    assert!(shown.starts_with(r#"{"id":"a.txt","#) && !shown.contains('\u{1b}'), "{shown:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_bar_shows_only_where_output_goes_elsewhere() {
    let bench = Bench::new();
    bench.file("a.txt", "We used benzene. ".repeat(100_000));
    let Some(shown) = on_terminal(&bench, "chemtag tag a.txt missing.txt > out.jsonl || true", &[]) else { return };
    assert!(shown.contains("of 1.62 MiB") && shown.contains("chemtag: cannot read missing.txt"), "{shown:?}");
    let written = std::fs::read_to_string(bench.folder.path().join("out.jsonl")).unwrap();
    let record: Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&record["id"], written.lines().count()), (&"a.txt".into(), 1));
    let shown = on_terminal(&bench, "chemtag tag a.txt --to jsonl", &[]).unwrap();
    assert!(!shown.contains("MiB"));
}

#[test]
fn verbose_says_what_computes_and_how_fast() {
    let bench = Bench::new();
    let output = bench.run_with_input(&["tag", "--verbose", "--device", "cpu"], b"LiCl in benzene.");
    assert_eq!(output.status.code(), Some(0));
    let stderr = stderr(&output);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines[0], "chemtag: candle, cpu, f32");
    // Four words between [CLS] and [SEP].
    assert!(lines[1].starts_with("chemtag: 6 word pieces in ") && lines.len() == 2, "{stderr}");
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_that_this_build_cannot_use_is_an_error() {
    let output = Bench::new().run(&["tag", "--device", "cuda:1"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(stderr(&output).starts_with("chemtag: cuda:1 cannot be used: this program was built without CUDA"));
}

#[test]
fn bench_gives_a_figure_for_each_workload_and_number_of_threads() {
    let bench = Bench::new();
    let workloads = ["A32", "A256", "B-sorted", "B-unsorted", "text", "encoder"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag"));
    command.args(["bench", "--seconds", "0", "--threads", "2", "--json", "--model"]).arg(&bench.model);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let figures = records(&output);
    let of = |figure: &Value| (figure["workload"].as_str().unwrap().to_string(), figure["threads"].as_u64().unwrap());
    let expected: Vec<(String, u64)> =
        workloads.iter().flat_map(|name| [(name.to_string(), 1), (name.to_string(), 2)]).collect();
    assert_eq!(figures.iter().map(of).collect::<Vec<_>>(), expected);
    for figure in &figures {
        assert!(figure["value"].as_f64().unwrap() > 0. && figure["runs"].as_u64().unwrap() >= 3, "{figure}");
        assert_eq!(figure["engine"], "candle, cpu, f32");
    }
    let text = stdout(&bench.run(&["bench", "--seconds", "0"]));
    for line in
        ["model     word-list 1.2\n", "1 thread\n", "one sequence of 32 word pieces, ms", "text to entities, pieces/s"]
    {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(text.lines().count() <= 24, "one screen");
    let wrong = bench.run(&["bench", "--seconds", "-1"]);
    assert_eq!(wrong.status.code(), Some(2));
}
