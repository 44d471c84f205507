//! Resident memory of eight taggers against that of one. Alone in its file, so that no other test runs in the same process.
#![cfg(target_os = "linux")]

mod random_model;

use chemtag::{LoadOptions, Registry, Tagger};

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn eight_taggers_take_the_memory_of_one() {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), 12, 256, 1);
    let weights = std::fs::metadata(folder.path().join("model.safetensors")).unwrap().len();
    let registry = Registry::new();
    let tagger = || -> Tagger {
        let tagger = registry.get(folder.path(), LoadOptions::default()).unwrap();
        tagger.tag("benzene in ethanol.").unwrap();
        tagger
    };
    let first = tagger();
    let one = resident_bytes();
    let others: Vec<Tagger> = (0..7).map(|_| tagger()).collect();
    let eight = resident_bytes();
    assert!(others.iter().all(|other| std::sync::Arc::ptr_eq(first.model(), other.model())));
    assert!(one > weights, "{one} bytes resident, but the weights alone are {weights}");
    // Of the model alone, the process around it not counted: seven copies would add seven times the weights.
    assert!(eight.saturating_sub(one) * 10 < weights * 3, "one: {one}, eight: {eight}, weights: {weights} bytes");
}
