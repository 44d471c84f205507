//! Completions and pages of the manual, as `chemtag` writes them.

use std::process::{Command, Output};

fn chemtag(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chemtag")).args(arguments).output().unwrap()
}

fn text(output: Output) -> String {
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_shell_gets_completions_of_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = text(chemtag(&["completions", shell]));
        for word in ["tag", "run", "info", "bench", "keep-going", "threshold"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    assert_eq!(chemtag(&["completions", "cmd"]).status.code(), Some(2));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("completions");
    std::fs::write(&path, text(chemtag(&["completions", "bash"]))).unwrap();
    // Where there is a bash, it can read them.
    if let Ok(output) = Command::new("bash").arg("-n").arg(&path).output() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let page = text(chemtag(&["man"]));
    assert!(page.contains(".TH chemtag 1") && page.contains("chemtag\\-run(1)"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man");
    text(chemtag(&["man", "-o", out.to_str().unwrap()]));
    for (name, part) in [("chemtag.1", "chemicals"), ("chemtag-tag.1", "threshold"), ("chemtag-run.1", "workers")] {
        let page = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(page.contains(part), "{name} lacks {part}");
    }
}
