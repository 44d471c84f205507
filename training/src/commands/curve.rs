//! `chemtag-train curve`.

use std::path::PathBuf;
use std::str::FromStr;

use chemtag_training::curves::{devel_f1_of_runs, kept_devel_f1};
use chemtag_training::error::{Error, Result};
use chemtag_training::files::write_atomically;
use chemtag_training::metrics;
use serde_json::Value;

#[derive(clap::Args)]
pub struct Arguments {
    /// Runs of `finetune` with devel sets: NUMBER=DIR, the number by which they differ, such as the pieces that their encoders have read.
    #[arg(long, value_name = "NUMBER=DIR", required = true, num_args = 1..)]
    run: Vec<RunArgument>,
    /// What the number is.
    #[arg(long, value_name = "TEXT", default_value = "pieces")]
    label: String,
    /// The drawing to write.
    #[arg(long, value_name = "FILE.svg")]
    out: PathBuf,
}

/// `NUMBER=DIR`.
#[derive(Debug, Clone)]
struct RunArgument {
    number: f64,
    folder: PathBuf,
}

impl FromStr for RunArgument {
    type Err = Error;

    fn from_str(argument: &str) -> Result<Self> {
        let parts = argument.split_once('=').filter(|(_, folder)| !folder.is_empty());
        let number = parts.and_then(|(number, _)| number.parse::<f64>().ok()).filter(|number| number.is_finite());
        match (number, parts) {
            (Some(number), Some((_, folder))) => Ok(Self { number, folder: folder.into() }),
            _ => Err(Error::Setting(format!("\"{argument}\" is not NUMBER=DIR, such as 120e6=runs/student"))),
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let runs = arguments.run.iter().map(scored).collect::<Result<Vec<_>>>()?;
    let plot = devel_f1_of_runs(&runs, &arguments.label);
    let plot = plot.ok_or_else(|| Error::Setting("the runs have no devel F1 that is a number".into()))?;
    for line in &plot.lines {
        let points: Vec<String> = line.points.iter().map(|(x, f1)| format!("{x} {f1:.2}")).collect();
        println!("{}: {}", line.name, points.join(", "));
    }
    write_atomically(&arguments.out, plot.svg()?.as_bytes())
}

/// A run's number and its devel F1.
fn scored(run: &RunArgument) -> Result<(f64, Value)> {
    let path = run.folder.join("metrics.jsonl");
    let lines = metrics::read(&path)?;
    match kept_devel_f1(&lines) {
        Some(f1) => Ok((run.number, f1.clone())),
        None => Err(Error::Dataset {
            path,
            reason: "tells no devel F1: name runs of `finetune` that had devel sets (--devel)".into(),
        }),
    }
}
