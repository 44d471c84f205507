//! Attention on every kernel against its definition in 64-bit floats.

use super::*;
use crate::int8::kernel::Kernel;

/// Between -1 and 1, by Knuth's linear congruential generator (MMIX).
fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.
    }
}

/// Rows of query, key and value.
type Rows = Vec<[Vec<f32>; 3]>;

fn rows(pieces: usize, width: usize, sizes: [f32; 3], seed: u64) -> Rows {
    let mut next = numbers(seed);
    (0..pieces).map(|_| sizes.map(|size| (0..width).map(|_| size * next()).collect())).collect()
}

/// Equation 1 of Vaswani et al., word for word.
fn exact(rows: &Rows, width: usize) -> Vec<Vec<f64>> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let attend = |[query, ..]: &[Vec<f32>; 3]| {
        let scores: Vec<f64> = rows.iter().map(|[_, key, _]| dot(query, key) / (width as f64).sqrt()).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mean = |i: usize| rows.iter().zip(&weights).map(|([.., value], w)| f64::from(value[i]) * w / sum).sum();
        (0..width).map(mean).collect()
    };
    rows.iter().map(attend).collect()
}

fn on(kernel: Kernel, rows: &Rows, width: usize, scratch: &mut Scratch) -> Vec<FloatLine> {
    let wide = lines(width);
    let projected: Vec<FloatLine> = rows.iter().flatten().flat_map(|part| crate::int8::rows::to_lines(part)).collect();
    let mut context = vec![Line([f32::NAN; LANES]); rows.len() * wide];
    kernel.run(Attention { projected: &projected, lines: wide, width, context: &mut context, scratch });
    context
}

fn check(rows: &Rows, width: usize, tolerance: f64, scratch: &mut Scratch) {
    let expected = exact(rows, width);
    let bits = |lines: &[FloatLine]| lines.iter().flat_map(|line| line.0.map(f32::to_bits)).collect::<Vec<_>>();
    let scalar = on(Kernel::named("scalar").unwrap(), rows, width, scratch);
    for (row, expected) in expected.iter().enumerate() {
        for line in 0..lines(width) {
            for lane in 0..LANES {
                let found = f64::from(scalar[row * lines(width) + line].0[lane]);
                let expected = expected.get(line * LANES + lane).copied().unwrap_or(0.);
                let place = (rows.len(), width, row, line * LANES + lane);
                assert!((found - expected).abs() <= tolerance, "{place:?}: {found}, exactly {expected}");
            }
        }
    }
    for kernel in Kernel::available() {
        assert_eq!(bits(&on(kernel, rows, width, scratch)), bits(&scalar), "{} against scalar", kernel.name());
    }
}

#[test]
fn contexts_equal_the_definition_at_every_edge() {
    let mut scratch = Scratch::default();
    // Longer and shorter by turns, so that memory of the one before is there.
    let lengths = (1..=34).chain([47, 48, 49, 63, 64, 65, 127, 250]).rev().chain([5, 100]);
    for (i, pieces) in lengths.enumerate() {
        let width = [32, 8, 64, 17, 4][i % 5];
        // Scores up to about 5, as a trained model has them.
        let sizes = [2., 2., 1.];
        check(&rows(pieces, width, sizes, i as u64), width, 2e-3, &mut scratch);
    }
    check(&rows(512, 32, [1., 1., 1.], 7), 32, 2e-3, &mut scratch);
    check(&rows(20, 128, [1., 1., 1.], 8), 128, 2e-3, &mut scratch);
}

#[test]
fn extreme_rows_stay_finite() {
    let mut scratch = Scratch::default();
    for sizes in [[0., 0., 0.], [1e-38, 1e-38, 1e-38], [0., 1., 1.], [1., 0., 1.], [50., 50., 1.]] {
        check(&rows(21, 16, sizes, 3), 16, 2e-3, &mut scratch);
    }
    // One large value beside small ones; one key that takes all the weight.
    let mut some = rows(30, 16, [1., 1., 1.], 4);
    some[3][2][5] = 1000.;
    check(&some, 16, 1000. * 2e-3, &mut scratch);
    let mut all_equal = rows(40, 16, [1., 1., 1.], 5);
    for row in &mut all_equal {
        *row = [vec![0.5; 16], vec![-0.5; 16], vec![0.75; 16]];
    }
    check(&all_equal, 16, 2e-3, &mut scratch);
}
