//! Memory of the default model at work: a process of its own, so that no other test's memory is in the figures.
#![cfg(target_os = "linux")]

mod prose;

use chemtag::{TagOptions, Tagger};
use prose::prose;

/// A line of the process's status in kilobytes: `VmRSS`, resident memory, or `VmHWM`, the most so far.
fn kilobytes(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Loading and tagging on two threads stay within 80 MB, and what is read later takes no more than what was read first.
#[test]
fn a_long_text_takes_little_memory() {
    let tagger = Tagger::load("models/chemtag-small.int8.safetensors").unwrap();
    let tagger = tagger.with_options(TagOptions { threads: Some(2), ..TagOptions::default() }).unwrap();
    let text = prose(40_000, 3);
    assert!(text.len() > 180_000);
    let (mut after_half, mut end) = (None, 0);
    for entity in tagger.tag_reader(text.as_bytes()) {
        let entity = entity.unwrap();
        assert_eq!(&text[entity.start..entity.end], entity.text);
        end = entity.end;
        if end > text.len() / 2 {
            after_half.get_or_insert_with(|| kilobytes("VmRSS:"));
        }
    }
    assert!(end > text.len() * 9 / 10, "read to {end} of {}", text.len());
    let (most, growth) = (kilobytes("VmHWM:"), kilobytes("VmRSS:").saturating_sub(after_half.unwrap()));
    assert!(most <= 80_000, "{most} kB at most");
    assert!(growth < 3_000, "memory grew by {growth} kB in the second half");
}
