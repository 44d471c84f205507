//! The integer engine's times, kernel by kernel, beside what the core can do at most.
//!
//!     cargo bench --bench int8 -- [--kernels avx2,avx512-vnni] [--threads 1,2] [--seconds N] [--model PATH] [--lengths FILE.json]
//!
//! The workloads are those of `chemtag bench` (`src/workload.rs`), on request with sentences of other lengths. Kernels take turns of a tenth of a second for N seconds a workload (default 3); each line is one JSON object with the median, the
//! fastest run, and `ceiling`: the fastest run's share of the core's own dot products, the weights' products alone counted (2 for each weight and piece).

mod ceiling;

use std::process::ExitCode;
use std::time::Instant;

use chemtag::int8::{IntegerBackend, Kernel};
use chemtag::model::config::{EncoderConfig, ModelConfig};
use chemtag::workload::Workload;
use chemtag::{Error, ModelFiles, ModelSource, Result};

/// At least so many runs of each workload.
const LEAST_RUNS: usize = 3;
/// Seconds of a kernel's turn.
const TURN: f64 = 0.1;

/// Operations that the weights of the encoder's layers cost for one piece.
fn operations(config: &EncoderConfig) -> f64 {
    2. * (config.layers * (4 * config.hidden * config.hidden + 2 * config.hidden * config.ffn)) as f64
}

struct Arguments {
    kernels: Vec<Kernel>,
    threads: Vec<usize>,
    seconds: f64,
    model: String,
    lengths: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut all = Arguments {
        kernels: Kernel::available().into_iter().filter(|kernel| kernel.name() != "scalar").collect(),
        threads: vec![1],
        seconds: 3.,
        model: "models/chemtag-small.int8.safetensors".into(),
        lengths: None,
    };
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = given.next() {
        let wrong = || Error::Option(format!("{name}: see the first lines of benches/int8/main.rs"));
        let value = given.next().ok_or_else(wrong)?;
        match name.as_str() {
            "--kernels" => {
                all.kernels = value.split(',').map(Kernel::named).collect::<Option<_>>().ok_or_else(wrong)?
            }
            "--threads" => {
                let numbers: Option<_> = value.split(',').map(|number| number.parse().ok()).collect();
                all.threads = numbers.ok_or_else(wrong)?;
            }
            "--seconds" => all.seconds = value.parse().map_err(|_| wrong())?,
            "--model" => all.model = value,
            "--lengths" => all.lengths = Some(value),
            _ => return Err(wrong()),
        }
    }
    Ok(all)
}

fn measure() -> Result<()> {
    let arguments = arguments()?;
    let files = ModelFiles::read(&ModelSource::from(&arguments.model))?;
    let config = ModelConfig::from_json(&files.config, &files.names[0])?;
    let load = |&kernel: &Kernel| Ok(IntegerBackend::load(&files.weights, &files.names[2], &config, kernel)?.0);
    let backends: Vec<IntegerBackend> = arguments.kernels.iter().map(load).collect::<Result<_>>()?;
    let ceilings: Vec<Option<f64>> = arguments.kernels.iter().map(ceiling::of).collect();
    for (kernel, ceiling) in arguments.kernels.iter().zip(&ceilings) {
        let step_by_step = ceiling::step_by_step(kernel).map(|value| ("registers alone, step by step", Some(value)));
        for (workload, value) in step_by_step.into_iter().chain([("registers alone", *ceiling)]) {
            let (engine, value) = (kernel.name(), value.map(f64::round));
            println!(
                "{}",
                serde_json::json!({"engine": engine, "workload": workload, "value": value, "unit": "Gop/s"})
            );
        }
    }
    let workloads = match &arguments.lengths {
        Some(file) => {
            let json = std::fs::read_to_string(file).map_err(|e| Error::Option(format!("{file}: {e}")))?;
            Workload::of_lengths(&json, file, &config.encoder)?
        }
        None => Workload::all(&config.encoder)?,
    };
    for workload in workloads {
        for &threads in &arguments.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|e| Error::Option(format!("cannot start {threads} threads: {e}")))?;
            let mut seconds = vec![Vec::new(); backends.len()];
            let started = Instant::now();
            while seconds.iter().any(|runs| runs.len() < LEAST_RUNS)
                || started.elapsed().as_secs_f64() < arguments.seconds
            {
                for (backend, seconds) in backends.iter().zip(&mut seconds) {
                    // The caches are full of the kernel's weights before they are of use.
                    let turn = Instant::now();
                    pool.install(|| workload.time(backend))?;
                    loop {
                        seconds.push(pool.install(|| workload.time(backend))?);
                        if turn.elapsed().as_secs_f64() > TURN {
                            break;
                        }
                    }
                }
            }
            for ((kernel, ceiling), mut seconds) in arguments.kernels.iter().zip(&ceilings).zip(seconds) {
                seconds.sort_by(f64::total_cmp);
                let (median, fastest, pieces) = (seconds[seconds.len() / 2], seconds[0], workload.pieces() as f64);
                let share =
                    |ceiling: f64| operations(&config.encoder) * pieces / fastest / (ceiling * threads as f64 * 1e9);
                println!(
                    "{}",
                    serde_json::json!({
                        "engine": format!("chemtag-{}", kernel.name()), "threads": threads, "workload": workload.name,
                        "value": workload.figure(median), "unit": workload.unit(),
                        "fastest": workload.figure(fastest), "runs": seconds.len(),
                        "ceiling": ceiling.map(|ceiling| (share(ceiling) * 1e3).round() / 1e3),
                    })
                );
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
