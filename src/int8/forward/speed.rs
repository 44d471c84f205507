//! What each part of a layer takes, on one thread, beside the operations that it multiplies: the roofline's figures.
//! Not a test of anything: it prints, and runs on request alone (`--ignored`). The core's ceiling is what `cargo bench --bench int8` prints first.

use std::time::Instant;

use super::*;
use crate::int8::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::source::{ModelFiles, ModelSource};

const MODEL: &str = "models/chemtag-small.int8.safetensors";
/// Each part runs so often; the median counts.
const RUNS: usize = 200;

fn microseconds(mut part: impl FnMut()) -> f64 {
    part();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            part();
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

/// Rows of made-up values, which differ from each other as those of text do.
fn rows(count: usize, lines: usize) -> Vec<FloatLine> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.
    };
    (0..count * lines).map(|_| Line(std::array::from_fn(|_| next()))).collect()
}

fn activations(kernel: Kernel, rows: &[FloatLine], steps: usize) -> Activations {
    let mut to = Activations::default();
    to.resize(rows.len() * LANES / 4 / steps, steps);
    kernel.run(Quantise { rows, to: to.all_mut() });
    to
}

/// Blocks of rows as the second pass takes them.
fn blocks(rows: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..rows).step_by(BLOCK).map(move |first| first..rows.min(first + BLOCK))
}

struct Table {
    pieces: usize,
    sum: f64,
}

impl Table {
    fn row(&mut self, name: &str, operations: f64, microseconds: f64) {
        let pieces = self.pieces as f64;
        self.sum += microseconds;
        let rate =
            if operations > 0. { format!("{:.0}", operations * pieces / microseconds / 1e3) } else { String::new() };
        println!("| {name} | {:.2} | {:.3} | {rate} |", microseconds / pieces, operations / 1e6);
    }
}

fn measure(network: &Network, kernel: Kernel, pieces: usize) {
    let (layer, lines, head_lines) = (&network.layers[0], network.hidden_lines, network.head_lines());
    let (hidden, width) = (lines * LANES, network.head_width);
    let wide_lines = layer.ffn_in.panels();
    let (states, wide) = (rows(pieces, lines), rows(pieces, wide_lines));
    let inputs = activations(kernel, &states, layer.ffn_in.steps());
    let wide_inputs = activations(kernel, &wide, layer.ffn_out.steps());
    println!("\n{}, {pieces} pieces\n\n| part | µs a piece | Mop a piece | Gop/s |\n|---|---|---|---|", kernel.name());
    let mut table = Table { pieces, sum: 0. };
    let heads = layer.heads.len();

    let mut projected = vec![Line::default(); pieces * 3 * head_lines];
    let time = microseconds(|| {
        for weights in &layer.heads {
            kernel.run(Product { activations: inputs.rows(0..pieces), weights, out: &mut projected, epilogue: Keep });
        }
    });
    table.row("query, key, value", (2 * hidden * 3 * heads * head_lines * LANES) as f64, time);
    let mut contexts = vec![Line::default(); heads * pieces * head_lines];
    let mut scratch = attention::Scratch::default();
    let time = microseconds(|| {
        for context in contexts.chunks_mut(pieces * head_lines) {
            let projected = &projected;
            kernel.run(Attention { projected, lines: head_lines, width, context, scratch: &mut scratch });
        }
    });
    table.row("attention", (4 * pieces * heads * head_lines * LANES) as f64, time);
    let mut context = Activations::default();
    context.resize(pieces, layer.attention_output.steps());
    let time = microseconds(|| {
        let to = context.all_mut();
        kernel.run(QuantiseHeads { heads: &contexts, head_lines, of_all: pieces, first: 0, to });
    });
    table.row("7 bits of the contexts", 0., time);
    let mut out = rows(pieces, lines);
    let mut product = |name: &str, weights: &Matrix, inputs: &Activations, table: &mut Table| {
        let time = microseconds(|| {
            for block in blocks(pieces) {
                let out = &mut out[block.start * lines..block.end * lines];
                out.fill(Line::default());
                kernel.run(Product { activations: inputs.rows(block), weights, out, epilogue: Add });
            }
        });
        table.row(name, (2 * weights.steps() * 4 * weights.panels() * LANES) as f64, time);
    };
    product("attention's output, residual", &layer.attention_output, &context, &mut table);
    let mut wide_out = vec![Line::default(); BLOCK * wide_lines];
    let time = microseconds(|| {
        for block in blocks(pieces) {
            let out = &mut wide_out[..block.len() * wide_lines];
            let activations = inputs.rows(block);
            kernel.run(Product { activations, weights: &layer.ffn_in, out, epilogue: Gelu });
        }
    });
    table.row("first product, GELU", (2 * hidden * wide_lines * LANES) as f64, time);
    let mut to = wide_inputs.clone();
    let time = microseconds(|| kernel.run(Quantise { rows: &wide, to: to.all_mut() }));
    table.row("7 bits of its result", 0., time);
    product("second product, residual", &layer.ffn_out, &wide_inputs, &mut table);
    let (mut normal, mut to) = (states.clone(), inputs.clone());
    let time = microseconds(|| {
        for norm in [&layer.attention_norm, &layer.ffn_norm] {
            kernel.run(Normalise { norm, rows: &mut normal, to: to.all_mut() });
        }
    });
    table.row("two LayerNorms, 7 bits of their results", 0., time);
    let products = 2 * hidden * (3 * heads * head_lines * LANES + hidden + 2 * wide_lines * LANES);
    let sum = table.sum;
    table.row("the layer", products as f64, sum);
}

#[test]
#[ignore = "prints times; run it alone, with --release"]
fn speed_of_the_parts_of_a_layer() {
    let files = ModelFiles::read(&ModelSource::from(MODEL)).unwrap();
    let config = ModelConfig::from_json(&files.config, &files.names[0]).unwrap();
    let kernel = Kernel::from_environment().unwrap();
    let checkpoint = Checkpoint::read(&files.weights, &files.names[2]).unwrap();
    let network = Network::load(&checkpoint, &files.weights, &config, kernel.takes_groups()).unwrap();
    for pieces in [32, 256] {
        measure(&network, kernel, pieces);
    }
}
