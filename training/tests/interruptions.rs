//! The program itself, killed in the middle of a run or without room to write: started again, it gives the curve and the model of a run that was
//! left alone; other data is refused. Runs are tiny, on the CPU, and described by recipes.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chemtag::model::config::Architecture;
use chemtag_training::text::TextSet;
use support::words::{self, Vocabulary};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chemtag-train");
const CHECKPOINT: &str = "checkpoint.safetensors";
const MODEL: &str = "model.safetensors";

/// A command, the recipe of its run, and what the run reads.
struct Material {
    command: &'static str,
    folder: TempDir,
}

impl Material {
    /// A run of about 300 steps with a checkpoint every five.
    fn new(command: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = support::config(Architecture::DistilBert, 2, 2, 8);
        std::fs::create_dir(at("encoder")).unwrap();
        std::fs::write(at("encoder/config.json"), config.to_json().to_string()).unwrap();
        std::fs::write(at("encoder/tokenizer.json"), Vocabulary::Pairs.json()).unwrap();
        std::fs::write(at("encoder/model.safetensors"), support::checkpoint(&config.encoder, 7)).unwrap();
        support::examples(60, 21).save(&at("train.safetensors")).unwrap();
        support::examples(20, 22).save(&at("devel.safetensors")).unwrap();
        let mut text = TextSet::of_tokenizer(&Vocabulary::Pairs.json());
        text.read(Path::new("text"), words::text(200, 3).as_bytes(), &Vocabulary::Pairs.pieces()).unwrap();
        text.save(&at("text.safetensors")).unwrap();
        let own = match command {
            "finetune" => {
                "train = [\"train.safetensors\"]\ndevel = [\"devel.safetensors\"]\nclasses = \"FIRST,SECOND\"\nsequence_pieces = 20\nepochs = 40\nbatch_pieces = 80\nmask_pieces = 0.1\naverage_decay = 0.9\n"
            }
            _ => {
                "text = [\"text.safetensors\"]\npieces = 45_000\nbatch_pieces = 150\nsequence_pieces = 12\nlong_sequence_pieces = 20\nmetrics_steps = 5\n"
            }
        };
        let recipe = format!(
            "encoder = \"encoder\"\ndevice = \"cpu\"\nlearning_rate = 3e-3\ndropout = 0.1\nseed = 1\ncheckpoint_steps = 5\n{own}"
        );
        std::fs::write(at("run.toml"), recipe).unwrap();
        Self { command, folder }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command of a run in the folder `out`. Paths of the recipe are relative to where it is called.
    fn program(&self, out: &str) -> Command {
        let mut program = Command::new(PROGRAM);
        program.args([self.command, "--recipe", "run.toml", "--out", out]);
        program
    }

    fn call(&self, program: &mut Command) -> Output {
        program.current_dir(self.folder.path()).output().unwrap()
    }

    /// Runs to the end.
    fn finish(&self, out: &str) {
        let output = self.call(&mut self.program(out));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Kills a run after it has written `checkpoints` more, and a little later.
    fn kill(&self, out: &str, checkpoints: usize, later: Duration) {
        let path = self.out(out).join(CHECKPOINT);
        let stamp = || std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let mut known = stamp();
        let mut program = self.program(out);
        let mut child = Killed(program.current_dir(self.folder.path()).stderr(Stdio::null()).spawn().unwrap());
        let mut written = 0;
        let started = Instant::now();
        while written < checkpoints {
            assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint is written");
            assert!(child.0.try_wait().unwrap().is_none(), "the run is over before it could be killed");
            let now = stamp();
            written += usize::from(now != known);
            known = now;
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(later);
        assert!(child.0.try_wait().unwrap().is_none(), "the run is over before it could be killed");
        // SIGKILL on Unix: nothing of the program runs any more.
        child.0.kill().unwrap();
        child.0.wait().unwrap();
    }

    /// Asserts that two runs left the same lines of metrics, but for times, and the same model.
    fn assert_same(&self, out: &str, whole: &str) {
        let metrics = |out: &str| -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(self.out(out).join("metrics.jsonl")).unwrap();
            let line = |line: &str| {
                let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
                line.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "pieces_per_second");
                line
            };
            text.lines().map(line).collect()
        };
        assert_eq!(metrics(out), metrics(whole));
        let model = |out: &str| std::fs::read(self.out(out).join(MODEL)).unwrap();
        assert!(model(out) == model(whole), "another model");
        for entry in std::fs::read_dir(self.out(out)).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().ends_with(".tmp"), "{name:?} is left over");
        }
    }
}

/// A child that does not outlive a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn killed_at_any_moment(command: &'static str) {
    let material = Material::new(command);
    material.finish("whole");
    for (checkpoints, later) in [(1, 0), (3, 3), (2, 7), (4, 1), (1, 12)] {
        material.kill("killed", checkpoints, Duration::from_millis(later));
    }
    material.finish("killed");
    material.assert_same("killed", "whole");
    let record = std::fs::read(material.out("killed").join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let finished = |start: &serde_json::Value| !start["finished"].is_null();
    let starts: Vec<bool> = record["starts"].as_array().unwrap().iter().map(finished).collect();
    assert_eq!(starts, [false, false, false, false, false, true]);
}

#[test]
fn fine_tuning_goes_on_after_it_was_killed() {
    killed_at_any_moment("finetune");
}

#[test]
fn pre_training_goes_on_after_it_was_killed() {
    killed_at_any_moment("pretrain");
}

/// A limit on the size of files fails as a full disk does, in the middle of a file, and needs no disk to fill.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_a_run_with_a_message_and_its_checkpoint() {
    let material = Material::new("finetune");
    material.finish("whole");
    material.kill("full", 2, Duration::ZERO);
    let checkpoint = || std::fs::read(material.out("full").join(CHECKPOINT)).unwrap();
    let before = checkpoint();
    // Blocks are of 512 or 1024 bytes, by the shell.
    let blocks = before.len() / 2048;
    assert!(blocks > 8, "the checkpoint has {} bytes: too few to stop in its middle", before.len());
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f $0; exec \"$@\"", &blocks.to_string()]);
    let own = material.program("full");
    limited.arg(own.get_program()).args(own.get_args());
    let output = material.call(&mut limited);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    for part in ["safetensors: there is no room to write it", "free some space", "goes on from its last checkpoint"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(checkpoint() == before, "the last good checkpoint is gone");
    material.finish("full");
    material.assert_same("full", "whole");
}

#[test]
fn a_run_goes_on_with_its_own_data_alone() {
    let material = Material::new("finetune");
    material.kill("out", 1, Duration::ZERO);
    let (train, kept) = (material.out("train.safetensors"), material.out("kept.safetensors"));
    std::fs::rename(&train, &kept).unwrap();
    support::examples(60, 99).save(&train).unwrap();
    let output = material.call(&mut material.program("out"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains("belongs to a run on other data: --train train.safetensors has the SHA-256"), "{message}");
    // Under another name it is the same.
    let output = material.call(material.program("out").args(["--train", "kept.safetensors", "--epochs", "40"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record = std::fs::read_to_string(material.out("out").join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let files: Vec<&str> =
        record["files"].as_array().unwrap().iter().filter_map(|file| file["path"].as_str()).collect();
    assert_eq!(files[3..], ["kept.safetensors", "devel.safetensors"]);
    let recipe = std::fs::read_to_string(material.out("out").join("recipe.toml")).unwrap();
    let recipe: toml::Table = recipe.parse().unwrap();
    assert_eq!(recipe["train"].as_array().unwrap()[0].as_str(), Some("kept.safetensors"));
    assert_eq!((recipe["epochs"].as_integer(), recipe["learning_rate"].as_float()), (Some(40), Some(3e-3)));
}
