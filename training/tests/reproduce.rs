//! recipes/reproduce.sh and curves.sh with the recipes of the default model, small, on generated text and corpora: from another encoder and its vocabulary to a model that is exported and scored.
//! What it makes then shows what distillation is for: over three seeds, a student that its teachers taught finds names that its gold lacks, the same student without them does not.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chemtag_training::dataset::Dataset;
use support::words;
use toml::{Table, Value};

const TRAIN: &str = env!("CARGO_BIN_EXE_chemtag-train");
const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes");

/// Values that take the place of the default model's: the beginning of the recipes' names, a key, its value.
const SMALL: [(&str, &str, &str); 31] = [
    ("vocab", "size", "80"),
    ("start-teacher", "layers", "2"),
    ("start-teacher", "hidden", "32"),
    ("pretrain", "pieces", "60_000"),
    ("pretrain", "batch_pieces", "1000"),
    ("pretrain", "sequence_pieces", "16"),
    ("pretrain", "long_sequence_pieces", "40"),
    ("pretrain", "learning_rate", "5e-3"),
    ("prepare-train", "sequence_pieces", "36"),
    ("prepare-final", "sequence_pieces", "36"),
    ("prepare-documents", "sequence_pieces", "36"),
    ("prepare-sentences", "sequence_pieces", "36"),
    ("finetune", "sequence_pieces", "36"),
    ("finetune", "batch_pieces", "300"),
    ("finetune", "average_decay", "0.9"),
    ("finetune-teacher", "epochs", "5"),
    ("finetune-teacher", "learning_rate", "4e-3"),
    ("finetune-encoder", "epochs", "3"),
    ("finetune-encoder", "learning_rate", "4e-3"),
    ("finetune-gold", "learning_rate", "1e-3"),
    ("label", "sequence_pieces", "36"),
    ("distill", "sequence_pieces", "36"),
    ("distill", "pieces", "60_000"),
    ("distill", "batch_pieces", "400"),
    ("distill", "learning_rate", "5e-3"),
    ("pretrain", "device", "'cpu'"),
    ("finetune", "device", "'cpu'"),
    ("label", "device", "'cpu'"),
    ("distill", "device", "'cpu'"),
    ("calibrate", "device", "'cpu'"),
    ("evaluate", "device", "'cpu'"),
];

/// The default model's recipes with small values.
fn write_recipes(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let mut used = [false; SMALL.len()];
    for entry in std::fs::read_dir(format!("{RECIPES}/chemtag-small")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let mut recipe: Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        for (used, (_, key, value)) in used.iter_mut().zip(SMALL).filter(|(_, (of, ..))| name.starts_with(of)) {
            let value = format!("x = {value}").parse::<Table>().unwrap().remove("x").unwrap();
            recipe.insert(key.into(), value);
            *used = true;
        }
        std::fs::write(folder.join(path.file_name().unwrap()), quoted(&recipe)).unwrap();
    }
    assert!(used.iter().all(|used| *used), "a small value has no recipe");
}

/// A recipe as the script reads it: strings in double quotes.
fn quoted(recipe: &Table) -> String {
    let line = |(key, value): (&String, &Value)| match value {
        Value::String(text) => format!("{key} = \"{text}\"\n"),
        other => format!("{key} = {other}\n"),
    };
    recipe.iter().map(line).collect()
}

fn write(path: PathBuf, content: String) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn run(folder: &Path, command: &str, arguments: &[&str]) -> Output {
    let output = Command::new(TRAIN).arg(command).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The folders that the script reads: text, corpora, and an uncased encoder with one layer, as all-MiniLM-L6-v2 is uncased.
fn write_data(folder: &Path) {
    write(folder.join("text/chemistry.txt"), words::text(800, 61));
    write(folder.join("text/general.txt"), words::text(400, 62));
    for (number, (split, sentences)) in [("train", 150), ("devel", 80), ("test", 80)].into_iter().enumerate() {
        let examples = |corpus: u64| support::examples(sentences, 70 + 10 * number as u64 + corpus);
        let file = |corpus: &str, extension: &str| folder.join(format!("corpora/{corpus}/{split}.{extension}"));
        write(file("chemdner", "jsonl"), words::jsonl(&examples(1), &["SYSTEMATIC", "TRIVIAL", "NO CLASS"], 1));
        write(file("bc5cdr_chem", "jsonl"), words::jsonl(&examples(2), &["CHEMICAL"], 2));
        write(file("matscholar", "conll"), words::conll(&examples(3), "MAT"));
        write(file("sofc_exp", "conll"), words::conll(&examples(4), "MATERIAL"));
    }
    let config = serde_json::json!({"model_type": "bert", "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40, "type_vocab_size": 2});
    write(folder.join("config.json"), config.to_string());
    run(folder, "vocab", &["--text", "text/chemistry.txt", "--uncased", "--size", "60", "--out", "uncased.json"]);
    run(folder, "start", &["--config", "config.json", "--tokenizer", "uncased.json", "--out", "general-encoder"]);
}

fn script(folder: &Path, name: &str) -> Output {
    Command::new("bash")
        .arg(format!("{RECIPES}/{name}"))
        .envs([("CHEMTAG_TRAIN", TRAIN), ("RECIPES", "recipes"), ("START", "general-encoder")])
        .envs([("TEXT", "text"), ("CORPORA", "corpora"), ("WORK", "work")])
        .envs([("PRETRAINING", "0 20e3"), ("UNLABELLED", "5e3 40e3")])
        .env_remove("TEMPERATURE")
        .env_remove("TRAINING_OPTIONS")
        .current_dir(folder)
        .output()
        .unwrap()
}

fn reproduce(folder: &Path) -> Output {
    script(folder, "reproduce.sh")
}

/// F1 of a model on a corpus.
fn f1(folder: &Path, model: &str, data: &str) -> f64 {
    let output = run(folder, "evaluate", &["--model", model, "--data", data, "--device", "cpu", "--json"]);
    let output = String::from_utf8(output.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    summary["f1"].as_f64().unwrap_or_else(|| panic!("{summary}"))
}

#[test]
fn the_script_makes_a_model_and_teachers_teach_names_that_gold_lacks() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_data(folder);
    write_recipes(&folder.join("recipes"));

    let output = reproduce(folder);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let work = folder.join("work");
    for name in ["chemdner", "bc5cdr", "matscholar", "sofc", "chemdner-sentences", "sofc-retokenised"] {
        let scores = std::fs::read_to_string(work.join(format!("runs/evaluation/{name}.txt"))).unwrap();
        let overall = scores.lines().find(|line| line.starts_with("overall")).unwrap();
        let f1: f64 = overall.split_whitespace().nth(3).unwrap().parse().unwrap();
        eprintln!("{name}: {f1}");
        assert!(f1 > 70., "{name}: {scores}");
    }
    // What is done is left as it is; what is missing is made again, the same.
    let model = || std::fs::read(work.join("model/model.safetensors")).unwrap();
    let first = model();
    std::fs::remove_dir_all(work.join("model")).unwrap();
    let output = reproduce(folder);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert_eq!(said.lines().filter(|line| line.contains(" -> ")).collect::<Vec<_>>(), ["=== export export -> model"]);
    assert!(model() == first);
    assert!(work.join("chemtag-small.int8.safetensors").exists());

    // The curves have the F1 that each run's best epoch had on devel.
    let output = script(folder, "curves.sh");
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (curve, runs) in
        [("pretraining", ["encoder-0", "encoder-20e3"]), ("unlabelled", ["student-5e3", "student-40e3"])]
    {
        assert!(work.join(format!("runs/curves/{curve}.svg")).exists());
        let expected = runs.map(|run| {
            let metrics = std::fs::read_to_string(work.join(format!("runs/curves/{run}/metrics.jsonl"))).unwrap();
            let mut epochs = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let best = epochs.rfind(|epoch| epoch["kept"] == true).unwrap();
            let pieces: f64 = run.split_once('-').unwrap().1.parse().unwrap();
            format!("{pieces} {:.2}", best["devel_f1_average"]["documents"]["chemdner"].as_f64().unwrap())
        });
        let found = std::fs::read_to_string(work.join(format!("runs/curves/{curve}.txt"))).unwrap();
        let expected = format!("chemdner, documents: {}", expected.join(", "));
        assert!(found.lines().any(|line| line == expected), "{expected} is not in {found}");
    }

    // A corpus of few sentences, and one of other sentences with names that it lacks.
    let [_, mut little] = words::split(support::examples(60, 91));
    little.examples.truncate(15);
    let [other, _] = words::split(support::examples(300, 92));
    let labels = ["SYSTEMATIC", "TRIVIAL"];
    let file = |name: &str, dataset: &Dataset| write(work.join(name), words::jsonl(dataset, &labels, 3));
    file("little/train.jsonl", &little);
    file("little/other.jsonl", &other);
    let gold = ["--recipe", "../recipes/finetune-gold.toml", "--train", "little/train.jsonl"];
    for seed in ["1", "2", "3"] {
        let [alone, distilled, taught] = ["alone", "distilled", "taught"].map(|name| format!("runs/{name}-{seed}"));
        #[rustfmt::skip]
        run(&work, "finetune", &[&gold[..], &["--encoder", "runs/student", "--epochs", "40", "--learning-rate", "5e-3", "--seed", seed, "--out", &alone]].concat());
        run(&work, "distill", &["--recipe", "../recipes/distill.toml", "--seed", seed, "--out", &distilled]);
        run(&work, "finetune", &[&gold[..], &["--encoder", &distilled, "--seed", seed, "--out", &taught]].concat());
        let [alone, taught] = [alone, taught].map(|model| f1(&work, &model, "little/other.jsonl"));
        eprintln!("seed {seed}: alone {alone}, distilled {taught}");
        assert!(taught > alone + 10., "seed {seed}: F1 {taught} distilled, {alone} from gold alone");
    }
}

#[test]
fn what_is_missing_is_named_before_anything_is_made() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    std::fs::create_dir(folder.join("recipes")).unwrap();
    let error = || {
        let output = reproduce(folder);
        assert!(!output.status.success() && !folder.join("work").exists());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(error().contains("TEXT=text has no chemistry.txt"));
    for name in ["chemistry", "general"] {
        write(folder.join(format!("text/{name}.txt")), String::new());
    }
    assert!(error().contains("CORPORA=corpora has no chemdner/train.jsonl"));
}
