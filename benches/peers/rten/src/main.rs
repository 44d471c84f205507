//! rten-peer MODEL.onnx WORKLOADS.json THREADS: times a model in rten on every workload; prints what engines.py prints.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool};
use rten_tensor::{AsView, NdTensor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LEAST_RUNS: usize = 15;
const SECONDS: f64 = 2.0;

struct Batch {
    ids: NdTensor<i32, 2>,
    mask: NdTensor<i32, 2>,
    pieces: usize,
}

impl Batch {
    fn padded(sequences: &[Vec<i32>]) -> Self {
        let width = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let id = |[row, column]: [usize; 2]| sequences[row].get(column).copied();
        let shape = [sequences.len(), width];
        Self {
            ids: NdTensor::from_fn(shape, |at| id(at).unwrap_or(0)),
            mask: NdTensor::from_fn(shape, |at| id(at).is_some() as i32),
            pieces: sequences.iter().map(Vec::len).sum(),
        }
    }
}

struct Session {
    model: Model,
    inputs: [NodeId; 2],
    output: NodeId,
    options: RunOptions,
}

impl Session {
    fn load(path: &str, threads: usize) -> Result<Self> {
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        Ok(Self {
            inputs: [model.node_id("input_ids")?, model.node_id("attention_mask")?],
            output: model.node_id("logits")?,
            options: RunOptions::default().with_thread_pool(Some(pool)),
            model,
        })
    }

    fn run(&self, batch: &Batch) -> Result<()> {
        let inputs = vec![(self.inputs[0], batch.ids.view().into()), (self.inputs[1], batch.mask.view().into())];
        std::hint::black_box(self.model.run_n(inputs, [self.output], Some(self.options.clone()))?);
        Ok(())
    }

    fn seconds(&self, batches: &[Batch]) -> Result<f64> {
        let started = Instant::now();
        for batch in batches {
            self.run(batch)?;
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, workloads, threads] = arguments.as_slice() else {
        return Err("usage: rten-peer MODEL.onnx WORKLOADS.json THREADS".into());
    };
    let threads: usize = threads.parse()?;
    let workloads: serde_json::Map<_, _> = serde_json::from_str(&std::fs::read_to_string(workloads)?)?;
    let session = Session::load(model, threads)?;
    for (name, batches) in workloads {
        let sequences: Vec<Vec<Vec<i32>>> = serde_json::from_value(batches)?;
        let batches: Vec<Batch> = sequences.iter().map(|sequences| Batch::padded(sequences)).collect();
        let (value, unit) = if name.starts_with('A') {
            for _ in 0..3 {
                session.seconds(&batches)?;
            }
            let (mut times, started) = (Vec::new(), Instant::now());
            while times.len() < LEAST_RUNS || started.elapsed().as_secs_f64() < SECONDS {
                times.push(session.seconds(&batches)?);
            }
            times.sort_by(f64::total_cmp);
            (times[times.len() / 2] * 1e3, "ms")
        } else {
            session.run(&batches[batches.len() / 2])?;
            (batches.iter().map(|batch| batch.pieces).sum::<usize>() as f64 / session.seconds(&batches)?, "pieces/s")
        };
        println!("{}", serde_json::json!({"engine": "rten-int8", "threads": threads, "workload": name, "value": value, "unit": unit}));
    }
    Ok(())
}
