//! Memory of a stream without a full stop: a process of its own, so that no other test's memory is in the figures.
#![cfg(target_os = "linux")]

mod prose;

use std::io::Read;

use chemtag::Tagger;
use prose::prose;

/// Resident memory in kilobytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ten megabytes without a full stop through a stream: memory stays flat after the first.
#[test]
fn an_endless_sentence_takes_bounded_memory() {
    let tagger = Tagger::load("tests/fixtures/tiny-model").unwrap();
    let portion = prose(4000, 8).replace(". ", " ");
    let repeats = 10_000_000 / portion.len() + 1;
    let mut stream: Box<dyn Read> = Box::new(std::io::empty());
    let bytes = portion.as_bytes();
    for _ in 0..repeats {
        stream = Box::new(stream.chain(bytes));
    }
    let (mut after_first, mut highest, mut end) = (None, 0, 0);
    for entity in tagger.tag_reader(stream) {
        let entity = entity.unwrap();
        assert!(entity.start >= end);
        let at = entity.start % portion.len();
        if at + entity.text.len() <= portion.len() {
            assert_eq!(&portion[at..at + entity.text.len()], entity.text);
        }
        if entity.start / 100_000 != end / 100_000 {
            highest = highest.max(resident());
            if entity.start > 1_000_000 {
                after_first.get_or_insert_with(resident);
            }
        }
        end = entity.end;
    }
    assert!(end > 9_900_000, "the stream is read to its end: {end}");
    let growth = highest.saturating_sub(after_first.unwrap());
    assert!(growth < 20_000, "memory grew by {growth} kB after the first megabyte");
}
