//! The integer engine's times, kernel by kernel, beside what the core can do at most.
//!
//!     cargo bench --bench int8 -- [--kernels avx2,avx512-vnni] [--threads 1,2] [--seconds N] [--model PATH]
//!
//! A32 and A256: one sequence of 32 or 256 word pieces, milliseconds. B-sorted: 512 sequences of the lengths in lengths.json (sentences of scientific
//! text), sorted, in batches of 2,048 pieces; B-unsorted: in the order given, 16 to a batch; pieces a second. Every piece begins a word, so that all
//! of every layer is computed. Kernels take turns of a tenth of a second for N seconds a workload (default 3); each line is one JSON object with the median, the
//! fastest run, and `ceiling`: the fastest run's share of the core's own dot products, the weights' products alone counted (2 for each weight and piece).

mod ceiling;

use std::process::ExitCode;
use std::time::Instant;

use chemtag::batch::Batch;
use chemtag::int8::{IntegerBackend, Kernel};
use chemtag::model::config::{EncoderConfig, ModelConfig};
use chemtag::{Backend, Error, ModelFiles, ModelSource, Result};

const LENGTHS: &str = include_str!("lengths.json");
/// Most pieces of a sorted batch, were it padded; sequences of an unsorted one.
const SORTED_PIECES: usize = 2048;
const UNSORTED_SEQUENCES: usize = 16;
/// At least so many runs of each workload.
const LEAST_RUNS: usize = 3;
/// Seconds of a kernel's turn.
const TURN: f64 = 0.1;

struct Workload {
    name: &'static str,
    batches: Vec<Batch>,
    /// Milliseconds a run, or else pieces a second.
    in_milliseconds: bool,
}

impl Workload {
    fn pieces(&self) -> usize {
        self.batches.iter().map(Batch::pieces).sum()
    }

    fn read(&self, backend: &IntegerBackend) -> Result<f64> {
        let started = Instant::now();
        for batch in &self.batches {
            std::hint::black_box(backend.emissions(batch)?);
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Sequences of made-up pieces.
fn batch(lengths: &[usize], vocabulary: usize) -> Batch {
    let mut batch = Batch::default();
    let mut state = 1u32;
    for &length in lengths {
        let mut id = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocabulary as u32
        };
        let ids: Vec<u32> = (0..length).map(|_| id()).collect();
        batch.push(&ids, &(0..length as u32).collect::<Vec<_>>());
    }
    batch
}

fn workloads(vocabulary: usize) -> Result<Vec<Workload>> {
    let wrong = |reason: String| Error::Option(format!("benches/int8/lengths.json: {reason}"));
    let lengths: serde_json::Value = serde_json::from_str(LENGTHS).map_err(|e| wrong(e.to_string()))?;
    let lengths: Vec<usize> = serde_json::from_value(lengths["lengths"].clone()).map_err(|e| wrong(e.to_string()))?;
    let mut ascending = lengths.clone();
    ascending.sort_unstable();
    let (mut sorted, mut first) = (Vec::new(), 0);
    for end in 1..=ascending.len() {
        if end == ascending.len() || (end + 1 - first) * ascending[end] > SORTED_PIECES {
            sorted.push(batch(&ascending[first..end], vocabulary));
            first = end;
        }
    }
    let unsorted = lengths.chunks(UNSORTED_SEQUENCES).map(|lengths| batch(lengths, vocabulary)).collect();
    let one = |length| vec![batch(&[length], vocabulary)];
    Ok(vec![
        Workload { name: "A32", batches: one(32), in_milliseconds: true },
        Workload { name: "A256", batches: one(256), in_milliseconds: true },
        Workload { name: "B-sorted", batches: sorted, in_milliseconds: false },
        Workload { name: "B-unsorted", batches: unsorted, in_milliseconds: false },
    ])
}

/// Operations that the weights of the encoder's layers cost for one piece.
fn operations(config: &EncoderConfig) -> f64 {
    2. * (config.layers * (4 * config.hidden * config.hidden + 2 * config.hidden * config.ffn)) as f64
}

struct Arguments {
    kernels: Vec<Kernel>,
    threads: Vec<usize>,
    seconds: f64,
    model: String,
}

fn arguments() -> Result<Arguments> {
    let mut all = Arguments {
        kernels: Kernel::available().into_iter().filter(|kernel| kernel.name() != "scalar").collect(),
        threads: vec![1],
        seconds: 3.,
        model: "models/chemtag-small".into(),
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
        let (engine, value) = (kernel.name(), ceiling.map(f64::round));
        println!(
            "{}",
            serde_json::json!({"engine": engine, "workload": "registers alone", "value": value, "unit": "Gop/s"})
        );
    }
    for workload in workloads(config.encoder.vocab_size)? {
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
                    pool.install(|| workload.read(backend))?;
                    loop {
                        seconds.push(pool.install(|| workload.read(backend))?);
                        if turn.elapsed().as_secs_f64() > TURN {
                            break;
                        }
                    }
                }
            }
            for ((kernel, ceiling), mut seconds) in arguments.kernels.iter().zip(&ceilings).zip(seconds) {
                seconds.sort_by(f64::total_cmp);
                let (median, fastest, pieces) = (seconds[seconds.len() / 2], seconds[0], workload.pieces() as f64);
                let value = |seconds: f64| match workload.in_milliseconds {
                    true => (seconds * 1e6).round() / 1e3,
                    false => (pieces / seconds).round(),
                };
                let share =
                    |ceiling: f64| operations(&config.encoder) * pieces / fastest / (ceiling * threads as f64 * 1e9);
                println!(
                    "{}",
                    serde_json::json!({
                        "engine": format!("chemtag-{}", kernel.name()), "threads": threads, "workload": workload.name,
                        "value": value(median), "unit": if workload.in_milliseconds { "ms" } else { "tokens/s" },
                        "fastest": value(fastest), "runs": seconds.len(),
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
