//! `chemtag bench`: a model -> how fast this machine runs it, on one thread and on all: single sequences, sentences, and text to entities.
//! Medians of runs that take turns; the workloads are those of [`chemtag::workload`], the text is the example abstract many times over.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Instant;

use chemtag::workload::Workload;
use chemtag::{Error, TagOptions, Tagger};
use clap::Args;
use serde::Serialize;

use super::terminal::visible;
use super::{Failure, ModelArguments};

/// An abstract of 1,600 bytes; so many copies are one run.
const ABSTRACT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/abstract.txt"));
const COPIES: usize = 24;
/// At least so many runs of each workload, whatever the time.
const LEAST_RUNS: usize = 3;

/// Arguments of `chemtag bench`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Seconds for each figure.
    #[arg(long, value_name = "N", default_value_t = 1., value_parser = seconds)]
    seconds: f64,
    /// Write JSON Lines: one object for each figure.
    #[arg(long)]
    json: bool,
}

fn seconds(argument: &str) -> Result<f64, String> {
    match argument.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0 to 3600".into()),
    }
}

/// One figure; the fields' order is that of the output.
#[derive(Serialize)]
struct Figure<'b> {
    engine: &'b str,
    threads: usize,
    workload: &'b str,
    value: f64,
    unit: &'b str,
    runs: usize,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let tagger = Tagger::load_with(arguments.model.source(), arguments.model.load_options())?;
    let model = tagger.model();
    let engine = model.backend().describe();
    let most = arguments.model.threads().unwrap_or_else(rayon::current_num_threads);
    let threads: Vec<usize> = if most == 1 { vec![1] } else { vec![1, most] };
    let workloads = Workload::all(&model.config().encoder)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if !arguments.json {
        let tagger = &model.config().tagger;
        for (name, value) in [
            ("machine", machine()),
            ("model", format!("{} {}", tagger.name, tagger.version)),
            ("engine", engine.clone()),
            ("chemtag", env!("CARGO_PKG_VERSION").into()),
        ] {
            writeln!(out, "{name:<8}  {}", visible(&value))?;
        }
        write!(out, "\n{:<42}", "")?;
        for threads in &threads {
            write!(out, "{:>12}", format!("{threads} thread{}", if *threads == 1 { "" } else { "s" }))?;
        }
        writeln!(out)?;
        out.flush()?;
    }
    let mut row = |name: &str, description: &str, unit: &'static str, figures: Vec<(usize, f64, usize)>| {
        if arguments.json {
            for (threads, value, runs) in figures {
                let figure = Figure { engine: &engine, threads, workload: name, value, unit, runs };
                serde_json::to_writer(&mut out, &figure).map_err(io::Error::from)?;
                writeln!(out)?;
            }
        } else {
            write!(out, "{:<42}", format!("{description}, {unit}"))?;
            for (_, value, _) in figures {
                let digits = if unit == "ms" { 2 } else { 0 };
                write!(out, "{value:>12.digits$}")?;
            }
            writeln!(out)?;
        }
        out.flush()
    };
    for workload in &workloads {
        let mut figures = Vec::new();
        for &threads in &threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|e| Error::Option(format!("cannot start {threads} threads: {e}")))?;
            let (median, runs) = median(arguments.seconds, || pool.install(|| workload.time(model.backend())))?;
            figures.push((threads, workload.figure(median), runs));
        }
        row(workload.name, &workload.description, workload.unit(), figures)?;
    }
    let text = vec![ABSTRACT; COPIES];
    let (mut whole, mut encoder) = (Vec::new(), Vec::new());
    for &threads in &threads {
        let tagger = tagger.with_options(TagOptions { threads: Some(threads), ..TagOptions::default() })?;
        let before = model.activity();
        let mut all = 0.;
        let (median, runs) = median(arguments.seconds, || {
            let started = Instant::now();
            std::hint::black_box(tagger.tag_batch(&text)?);
            all += started.elapsed().as_secs_f64();
            Ok(started.elapsed().as_secs_f64())
        })?;
        let after = model.activity();
        let pieces = (after.pieces - before.pieces) as f64 / (runs + 1) as f64;
        whole.push((threads, (pieces / median).round(), runs));
        let share = (after.encoder - before.encoder).as_secs_f64() / all;
        encoder.push((threads, (100. * share).round(), runs));
    }
    row("text", "text to entities", "pieces/s", whole)?;
    row("encoder", "  the encoder's share of that time", "%", encoder)?;
    Ok(ExitCode::SUCCESS)
}

/// The median of the seconds that `run` gives, and the number of runs; the first one, which fills caches, does not count.
fn median(seconds: f64, mut run: impl FnMut() -> Result<f64, Error>) -> Result<(f64, usize), Error> {
    run()?;
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < LEAST_RUNS || started.elapsed().as_secs_f64() < seconds {
        times.push(run()?);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times.len()))
}

/// The processor's name where the system tells it, and its cores.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let listed = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = listed.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{name}, {cores} logical core{}", if cores == 1 { "" } else { "s" })
}
