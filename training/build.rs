//! The revision that this build is made from, for the record that every run keeps: `git describe`, or nothing outside the repository.

use std::path::Path;
use std::process::Command;

fn main() {
    for source in ["build.rs", "Cargo.toml", "src", "../Cargo.toml", "../Cargo.lock", "../src"] {
        println!("cargo::rerun-if-changed={source}");
    }
    // Changes with every commit and checkout.
    for name in ["logs/HEAD", "HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // A copy without a repository of its own may lie in somebody else's.
    let ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix == "training/");
    if let Some(revision) = git(&["describe", "--always", "--dirty"]).filter(|_| ours) {
        println!("cargo::rustc-env=CHEMTAG_REVISION={revision}");
    }
}

/// What git answers in one line; nothing where git, a repository or the answer is missing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!line.is_empty()).then_some(line)
}
