//! The kernels against attention computed score by score in 64-bit floats, and that reference against central differences.
//! Every error is held against the sum of the absolute values of the terms that its number is made of: rounding one of them changes
//! the result by no more than that, whatever cancels.

use half::{bf16, f16};

use super::super::gpu;
use super::super::testing::{
    Number, Random, download_floats, download_half, speed, unset_floats, unset_half, upload, upload_floats, upload_half,
};
use super::*;

/// Sizes of a batch.
#[derive(Clone, Copy)]
struct Shape<'a> {
    heads: usize,
    width: usize,
    lengths: &'a [usize],
}

impl Shape<'_> {
    fn hidden(&self) -> usize {
        self.heads * self.width
    }

    fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn cu_seqlens(&self) -> Vec<u32> {
        let mut end = 0;
        let ends = self.lengths.iter().map(|&length| {
            end += length as u32;
            end
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn name<T: Number>(&self) -> String {
        format!("attention {} {} x {} {:?}", T::SUFFIX, self.heads, self.width, self.lengths)
    }
}

/// Numbers, and for each the sum of the absolute values of its terms.
struct Sums {
    values: Vec<f64>,
    sizes: Vec<f64>,
}

impl Sums {
    fn zeros(count: usize) -> Self {
        Self { values: vec![0.; count], sizes: vec![0.; count] }
    }

    fn add(&mut self, index: usize, value: f64, size: f64) {
        self.values[index] += value;
        self.sizes[index] += size;
    }

    /// Prints the largest error relative to the size, and fails where it is above `tolerance`.
    fn compare(&self, what: &str, found: &[f64], tolerance: impl Fn(usize) -> f64) {
        assert_eq!(found.len(), self.values.len(), "{what}");
        let mut largest = 0.;
        for (i, (f, (v, size))) in found.iter().zip(self.values.iter().zip(&self.sizes)).enumerate() {
            let error = if f == v { 0. } else { (f - v).abs() / size / tolerance(i) };
            assert!(
                error <= 1.,
                "{what}: number {i} is {f}, expected {v} of terms {size}: {error:.2} of what is allowed"
            );
            largest = error.max(largest);
        }
        println!("{what}: largest error {largest:.2} of what is allowed");
    }
}

struct Reference {
    context: Sums,
    log_sum_exp: Vec<f64>,
    grad_qkv: Sums,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Softmax of the scores, row by row; the gradient on a score is P (dP - sum of P dP), dP being the gradient on P.
fn reference(shape: Shape<'_>, qkv: &[f64], grad_context: &[f64]) -> Reference {
    let Shape { heads, width, lengths } = shape;
    let (hidden, rows, scale) = (shape.hidden(), shape.rows(), 1. / (width as f64).sqrt());
    let mut context = Sums::zeros(rows * hidden);
    let mut log_sum_exp = vec![0.; heads * rows];
    let mut grad_qkv = Sums::zeros(rows * 3 * hidden);
    for head in 0..heads {
        let place = |row: usize, part: usize| row * 3 * hidden + part * hidden + head * width;
        let part = |row: usize, part: usize| &qkv[place(row, part)..place(row, part) + width];
        let mut start = 0;
        for &length in lengths {
            let sequence = start..start + length;
            start += length;
            for i in sequence.clone() {
                let scores: Vec<f64> = sequence.clone().map(|j| scale * dot(part(i, 0), part(j, 1))).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                log_sum_exp[head * rows + i] = top + sum.ln();
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp() / sum).collect();
                let from = i * hidden + head * width;
                for (j, p) in sequence.clone().zip(&weights) {
                    for (d, v) in part(j, 2).iter().enumerate() {
                        context.add(from + d, p * v, p * v.abs());
                    }
                }
                let grad = &grad_context[from..from + width];
                let grad_weights: Vec<f64> = sequence.clone().map(|j| dot(grad, part(j, 2))).collect();
                let delta = dot(&weights, &grad_weights);
                let delta_size: f64 = (0..width).map(|d| (grad[d] * context.values[from + d]).abs()).sum();
                for (j, (p, dp)) in sequence.clone().zip(weights.iter().zip(&grad_weights)) {
                    let (grad_score, size) = (scale * p * (dp - delta), scale * p * (dp.abs() + delta_size));
                    for (d, g) in grad.iter().enumerate() {
                        let (q, k) = (part(i, 0)[d], part(j, 1)[d]);
                        grad_qkv.add(place(i, 0) + d, grad_score * k, size * k.abs());
                        grad_qkv.add(place(j, 1) + d, grad_score * q, size * q.abs());
                        grad_qkv.add(place(j, 2) + d, p * g, p * g.abs());
                    }
                }
            }
        }
    }
    Reference { context, log_sum_exp, grad_qkv }
}

#[test]
fn the_reference_has_the_slopes_that_central_differences_find() {
    let shape = Shape { heads: 2, width: 4, lengths: &[3, 1, 5] };
    let mut random = Random(1);
    let qkv = random.normals::<bf16>(shape.rows() * 3 * shape.hidden(), 0., 1.);
    let grad = random.normals::<bf16>(shape.rows() * shape.hidden(), 0., 1.);
    let slopes = reference(shape, &qkv, &grad).grad_qkv.values;
    let step = 1e-5;
    for (i, slope) in slopes.iter().enumerate() {
        let loss = |change: f64| {
            let mut qkv = qkv.clone();
            qkv[i] += change;
            dot(&reference(shape, &qkv, &grad).context.values, &grad)
        };
        assert!(((loss(step) - loss(-step)) / (2. * step) - slope).abs() < 1e-8, "{i}");
    }
}

#[test]
fn tiles_have_every_row_once_and_their_whole_sequences() {
    let mut random = Random(2);
    for round in 0..200 {
        let lengths: Vec<usize> = (0..random.below(30)).map(|_| random.below([3, 40, 700][round % 3])).collect();
        let cu_seqlens = Shape { heads: 1, width: 32, lengths: &lengths }.cu_seqlens();
        let numbers = tiles(&cu_seqlens);
        let mut seen = vec![0; lengths.iter().sum()];
        let mut ranges = vec![];
        for tile in numbers.chunks(TILE_NUMBERS) {
            let fragments: Vec<&[u32]> = tile.chunks(FRAGMENT_NUMBERS).collect();
            let range = fragments[0][1]..fragments[0][3];
            for &fragment in &fragments {
                let [first, start, end, range_end] = *fragment else { panic!("{fragment:?}") };
                assert_eq!(range_end, range.end);
                for row in first..end.min(first + FRAGMENT) {
                    seen[row as usize] += 1;
                }
                if first < end {
                    assert!(range.start <= start && start <= first && end <= range.end, "{fragments:?}");
                    assert!(cu_seqlens.windows(2).any(|pair| pair == [start, end]), "{fragments:?}");
                    assert!((first - start).is_multiple_of(FRAGMENT), "{fragments:?}");
                }
            }
            // Of several sequences no more rows than a block's shared memory holds.
            assert!(
                range.len() <= WARPS * FRAGMENT as usize
                    || fragments.iter().all(|f| f[1..] == fragments[0][1..] || f[0] == f[2])
            );
            ranges.push(range.len());
        }
        assert!(seen.iter().all(|&times| times == 1), "{lengths:?}");
        assert!(ranges.is_sorted_by(|a, b| a >= b), "{ranges:?}");
    }
    assert!(tiles(&[]).is_empty() && tiles(&[0]).is_empty() && tiles(&[0, 0]).is_empty());
}

/// `context`, `log_sum_exp` and `grad_qkv` by the kernels.
fn run<T: Number>(
    stream: &Arc<CudaStream>,
    shape: Shape<'_>,
    qkv: &[f64],
    grad_context: &[f64],
) -> Result<(Vec<f64>, Vec<f64>, Vec<f64>)> {
    let operation = Attention::<T>::load(stream, shape.heads, shape.width)?;
    let tiles = upload(stream, &tiles(&shape.cu_seqlens()))?;
    let (qkv, grad_context) = (upload_half::<T>(stream, qkv)?, upload_half::<T>(stream, grad_context)?);
    let mut context = unset_half::<T>(stream, grad_context.len())?;
    let mut log_sum_exp = unset_floats(stream, shape.heads * shape.rows())?;
    let mut grad_qkv = unset_half::<T>(stream, qkv.len())?;
    let (qkv, tiles) = (qkv.as_view(), tiles.as_view());
    operation.forward(&qkv, &tiles, &mut context.as_view_mut(), None)?;
    let inference = download_half(stream, &context.as_view())?;
    operation.forward(&qkv, &tiles, &mut context.as_view_mut(), Some(&mut log_sum_exp.as_view_mut()))?;
    let (context_view, log_sum_exp) = (context.as_view(), log_sum_exp.as_view());
    let mut grad = grad_qkv.as_view_mut();
    operation.backward(&grad_context.as_view(), &qkv, &tiles, &context_view, &log_sum_exp, &mut grad)?;
    let context = download_half(stream, &context_view)?;
    assert_eq!(context, inference, "{}", shape.name::<T>());
    Ok((context, download_floats(stream, &log_sum_exp)?, download_half(stream, &grad.as_view())?))
}

fn random_batch<T: Number>(shape: Shape<'_>) -> (Vec<f64>, Vec<f64>) {
    let mut random = Random(shape.rows() as u64);
    let qkv = random.normals::<T>(shape.rows() * 3 * shape.hidden(), 0., 1.3);
    (qkv, random.normals::<T>(shape.rows() * shape.hidden(), 0.1, 1.))
}

fn check<T: Number>(stream: &Arc<CudaStream>, shape: Shape<'_>) -> Result<()> {
    let name = shape.name::<T>();
    let (qkv, grad_context) = random_batch::<T>(shape);
    let expected = reference(shape, &qkv, &grad_context);
    let (context, log_sum_exp, grad_qkv) = run::<T>(stream, shape, &qkv, &grad_context)?;
    // The weights P and the result are rounded once each.
    expected.context.compare(&format!("{name} context"), &context, |_| 2.1 * T::ROUNDING);
    // So they are for v; for q and k it is dS, the result, and the context in delta. The rest is what 32-bit floats and exp2 lose.
    let hidden = shape.hidden();
    let tolerance = |i: usize| if i % (3 * hidden) < 2 * hidden { 3.1 } else { 2.1 } * T::ROUNDING;
    expected.grad_qkv.compare(&format!("{name} grad_qkv"), &grad_qkv, tolerance);
    let sizes = expected.log_sum_exp.iter().map(|x| x.abs().max(1.)).collect();
    // Scores of up to about 10 in 32-bit floats whose sums the matrix instructions truncate.
    Sums { values: expected.log_sum_exp, sizes }.compare(&format!("{name} log_sum_exp"), &log_sum_exp, |_| 2e-5);
    Ok(())
}

fn check_all<T: Number>() -> Result<()> {
    let Some(stream) = gpu() else { return Ok(()) };
    let short = [1, 2, 15, 16, 17, 0, 20, 31, 33, 48, 63, 64, 65];
    // Around one and several tiles of shared memory, which hold 128 rows of width 64 and 256 of width 32.
    let long = [127, 128, 129, 3, 200, 255, 256, 257, 40, 512, 513];
    for width in [32, 64] {
        check::<T>(&stream, Shape { heads: 1, width, lengths: &[1] })?;
        check::<T>(&stream, Shape { heads: 12, width, lengths: &short })?;
        check::<T>(&stream, Shape { heads: 2, width, lengths: &long })?;
    }
    Ok(())
}

#[test]
fn bf16_equals_the_reference() -> Result<()> {
    check_all::<bf16>()
}

#[test]
fn f16_equals_the_reference() -> Result<()> {
    check_all::<f16>()
}

#[test]
fn a_batch_gives_bit_for_bit_what_its_sequences_give_alone() -> Result<()> {
    let Some(stream) = gpu() else { return Ok(()) };
    for width in [32, 64] {
        let shape = Shape { heads: 2, width, lengths: &[20, 7, 90, 300, 1, 128, 64] };
        let (qkv, grad_context) = random_batch::<f16>(shape);
        let batch = run::<f16>(&stream, shape, &qkv, &grad_context)?;
        let mut start = 0;
        for length in shape.lengths {
            let end = start + length;
            let rows = start * shape.hidden()..end * shape.hidden();
            let wide = 3 * rows.start..3 * rows.end;
            let alone = Shape { lengths: &[*length], ..shape };
            let (context, _, grad_qkv) = run::<f16>(&stream, alone, &qkv[wide.clone()], &grad_context[rows.clone()])?;
            assert_eq!(context, batch.0[rows], "{width}, {length}");
            assert_eq!(grad_qkv, batch.2[wide], "{width}, {length}");
            start = end;
        }
    }
    Ok(())
}

#[test]
fn arguments_that_do_not_fit_are_refused() -> Result<()> {
    let Some(stream) = gpu() else { return Ok(()) };
    assert!(matches!(Attention::<bf16>::load(&stream, 12, 48), Err(Error::Option(_))));
    let operation = Attention::<bf16>::load(&stream, 2, 32)?;
    let list = upload(&stream, &tiles(&[0, 10]))?;
    let qkv = upload_half::<bf16>(&stream, &[0.; 10 * 192])?;
    let (mut context, mut log_sum_exp) = (unset_half::<bf16>(&stream, 640)?, unset_floats(&stream, 20)?);
    let (qkv, list, mut context) = (qkv.as_view(), list.as_view(), context.as_view_mut());
    assert!(operation.forward(&qkv.slice(192..), &list, &mut context, None).is_err());
    assert!(operation.forward(&qkv, &list.slice(4..), &mut context, None).is_err());
    assert!(operation.forward(&qkv, &list, &mut context, Some(&mut log_sum_exp.slice_mut(1..))).is_err());
    operation.forward(&qkv, &list, &mut context, Some(&mut log_sum_exp.as_view_mut()))
}

#[test]
#[ignore = "measures time"]
fn speed_of_attention() -> Result<()> {
    let Some(stream) = gpu() else { return Ok(()) };
    let mut random = Random(1);
    let even = vec![128; 256];
    let mixed: Vec<usize> = (0..936).map(|_| 1 + random.below(69)).collect();
    let windows = vec![250; 131];
    for (what, heads, width, lengths) in [
        ("128", 12, 32, &even),
        ("1 to 69", 12, 32, &mixed),
        ("250", 12, 32, &windows),
        ("128", 12, 64, &even),
        ("250", 12, 64, &windows),
    ] {
        let shape = Shape { heads, width, lengths };
        let (rows, hidden) = (shape.rows(), shape.hidden());
        let name = format!("attention [{rows}, {hidden}], heads of {width}, sequences of {what}");
        let operation = Attention::<bf16>::load(&stream, heads, width)?;
        let list = upload(&stream, &tiles(&shape.cu_seqlens()))?;
        let row = random.normals::<bf16>(3 * hidden, 0., 1.);
        let qkv = upload_half::<bf16>(&stream, &row.repeat(rows))?;
        let grad_context = upload_half::<bf16>(&stream, &row[..hidden].repeat(rows))?;
        let mut context = unset_half::<bf16>(&stream, rows * hidden)?;
        let mut log_sum_exp = upload_floats(&stream, &vec![0.; heads * rows])?;
        let mut grad_qkv = unset_half::<bf16>(&stream, qkv.len())?;
        let (qkv, list, unit) = (qkv.as_view(), list.as_view(), 2 * rows * hidden);
        let scores: usize = lengths.iter().map(|n| n * n * hidden).sum();
        let rate = |products: usize| format!("{:.1} GFLOP", (2 * products * scores) as f64 / 1e9);
        speed(&stream, &format!("{name}: forward, {}", rate(2)), 4 * unit, || {
            operation.forward(&qkv, &list, &mut context.as_view_mut(), Some(&mut log_sum_exp.as_view_mut()))
        })?;
        let (context, log_sum_exp, grad_context) = (context.as_view(), log_sum_exp.as_view(), grad_context.as_view());
        speed(&stream, &format!("{name}: backward, {} by the formula", rate(5)), 8 * unit, || {
            operation.backward(&grad_context, &qkv, &list, &context, &log_sum_exp, &mut grad_qkv.as_view_mut())
        })?;
    }
    Ok(())
}
