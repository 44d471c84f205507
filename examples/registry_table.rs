//! Prints what the registry saves, as a markdown table: time of the first and of a later call, memory of 1, 2 and 8 taggers.
//!
//!     cargo run --release --example registry_table -- MODEL_FOLDER
//!
//! Each row is measured in a process of its own, so that no memory of another row is left over. Memory is VmRSS and thus read on Linux only;
//! each tagger reads one sentence before it is taken.

use std::process::Command;
use std::time::{Duration, Instant};

use chemtag::Tagger;

type Failure = Box<dyn std::error::Error>;

const SENTENCE: &str = "Aspirin was dissolved in tetrahydrofuran (THF).";
const TAGGERS: [usize; 3] = [1, 2, 8];

/// Ways to get a tagger: their name on the command line, in the table, and the call.
type Way = (&'static str, &'static str, fn(&str) -> chemtag::Result<Tagger>);
const WAYS: [Way; 2] = [
    ("shared", "`chemtag::get`: one model for all", |folder| chemtag::get(folder)),
    ("copies", "`Tagger::load`: a copy for each", |folder| Tagger::load(folder)),
];

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [folder] => table(folder),
        [folder, way] => match WAYS.iter().find(|(name, ..)| name == way) {
            Some(way) => row(folder, way),
            None => Err(format!("no way to get a tagger is called \"{way}\"").into()),
        },
        _ => Err("expected one argument, a model folder: registry_table MODEL_FOLDER".into()),
    }
}

fn table(folder: &str) -> Result<(), Failure> {
    println!("| taggers from | first call, ms | later call, ms | memory of 1, MB | of 2, MB | of 8, MB |");
    println!("|---|---|---|---|---|---|");
    for (name, ..) in WAYS {
        let status = Command::new(std::env::current_exe()?).args([folder, name]).status()?;
        if !status.success() {
            return Err(format!("the measurement of \"{name}\" failed ({status})").into());
        }
    }
    Ok(())
}

fn row(folder: &str, (_, title, get): &Way) -> Result<(), Failure> {
    let timed = || -> Result<(Tagger, Duration), Failure> {
        let begin = Instant::now();
        Ok((get(folder)?, begin.elapsed()))
    };
    let (mut taggers, mut later, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let (tagger, first) = timed()?;
    taggers.push(tagger);
    for count in TAGGERS {
        while taggers.len() < count {
            let (tagger, time) = timed()?;
            taggers.push(tagger);
            later.push(time);
        }
        for tagger in &taggers {
            tagger.tag(SENTENCE)?;
        }
        memory.push(resident_megabytes().map_or("unknown".into(), |megabytes| format!("{megabytes:.0}")));
    }
    later.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.;
    let (first, later) = (milliseconds(first), milliseconds(later[later.len() / 2]));
    println!("| {title} | {first:.1} | {later:.3} | {} |", memory.join(" | "));
    Ok(())
}

fn resident_megabytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kibibytes.parse::<f64>().ok()? * 1024. / 1e6)
}
