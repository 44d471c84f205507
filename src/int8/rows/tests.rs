//! LayerNorm, quantisation and the small layers on every kernel against their definitions in 64-bit floats.

use super::*;
use crate::int8::kernel::Kernel;
use crate::int8::product::Activations;
use proptest::prelude::*;

fn bits(lines: &[FloatLine]) -> Vec<u32> {
    lines.iter().flat_map(|line| line.0.map(f32::to_bits)).collect()
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![8 => -3f32..3., 1 => Just(0.), 1 => -1e4f32..1e4, 1 => -1e-6f32..1e-6];
    prop::collection::vec(value, 1..=83)
}

/// Quantises one row on a kernel: values, scale, zero point.
fn quantised(kernel: Kernel, row: &[FloatLine]) -> (Vec<u8>, f32, i32) {
    let mut to = Activations::default();
    to.resize(1, row.len() * LANES / 4);
    kernel.run(Quantise { rows: row, to: to.all_mut() });
    (to.values.as_flattened().to_vec(), to.scales[0], to.zeros[0])
}

proptest! {
    #[test]
    fn activations_are_at_most_half_a_step_off(values in values()) {
        let row = to_lines(&values);
        let (found, scale, zero) = quantised(Kernel::named("scalar").unwrap(), &row);
        prop_assert!(found.iter().all(|&q| q <= 127) && (0..=127).contains(&zero));
        for (&q, &value) in found.iter().zip(row.iter().flat_map(|line| &line.0)) {
            let back = scale * (i32::from(q) - zero) as f32;
            // The zero point itself is rounded, which moves both ends of the range by up to half a step.
            prop_assert!((back - value).abs() <= 1.001 * scale, "{value} became {back} with step {scale}");
        }
        for kernel in Kernel::available() {
            prop_assert_eq!(quantised(kernel, &row), (found.clone(), scale, zero), "{}", kernel.name());
        }
    }

    #[test]
    fn layer_norm_equals_its_definition(values in values(), gain in 0.5f32..2.) {
        let width = values.len();
        let weight: Vec<f32> = (0..width).map(|i| gain + i as f32 * 0.01).collect();
        let bias: Vec<f32> = (0..width).map(|i| 0.3 - i as f32 * 0.02).collect();
        let norm = Norm::new(&weight, &bias, 1e-5);
        let mut scalar: Option<Vec<FloatLine>> = None;
        for kernel in Kernel::available() {
            let mut row = to_lines(&values);
            let mut to = Activations::default();
            to.resize(1, row.len() * LANES / 4);
            kernel.run(Normalise { norm: &norm, rows: &mut row, to: to.all_mut() });
            prop_assert_eq!((to.values.as_flattened().to_vec(), to.scales[0], to.zeros[0]), quantised(kernel, &row));
            match &scalar {
                Some(scalar) => prop_assert_eq!(bits(&row), bits(scalar), "{}", kernel.name()),
                None => scalar = Some(row),
            }
        }
        let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        let mean = exact.iter().sum::<f64>() / width as f64;
        let variance = exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let size = exact.iter().fold(0f64, |size, x| size.max(x.abs()));
        for (lane, found) in scalar.iter().flatten().flat_map(|line| line.0).enumerate() {
            if lane >= width {
                prop_assert_eq!(found, 0.);
                continue;
            }
            let deviation = (variance + 1e-5).sqrt();
            let expected = (exact[lane] - mean) / deviation * f64::from(weight[lane]) + f64::from(bias[lane]);
            // The mean is off by some units of the last place of the largest value.
            let tolerance = 1e-5 + 1e-6 * size / deviation * 2.;
            prop_assert!((f64::from(found) - expected).abs() <= tolerance * 3., "{found}, exactly {expected}");
        }
    }

    #[test]
    fn small_layers_equal_their_definition(values in values(), outputs in 1usize..9) {
        let weights: Vec<f32> = (0..outputs * values.len()).map(|i| ((i * 37) % 101) as f32 * 0.02 - 1.).collect();
        let biases: Vec<f32> = (0..outputs).map(|i| i as f32).collect();
        let layer = Linear::new(&weights, &biases);
        let row = to_lines(&values);
        let mut scalar: Option<Vec<u32>> = None;
        for kernel in Kernel::available() {
            let mut out = vec![f32::NAN; outputs];
            kernel.run(Apply { layer: &layer, row: &row, out: &mut out });
            for (output, &found) in out.iter().enumerate() {
                let terms = || values.iter().zip(&weights[output * values.len()..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let size = terms().map(f64::abs).sum::<f64>() + 10.;
                let expected = terms().sum::<f64>() + output as f64;
                prop_assert!((f64::from(found) - expected).abs() <= 1e-5 * size, "{found}, exactly {expected}");
            }
            let out: Vec<u32> = out.into_iter().map(f32::to_bits).collect();
            prop_assert_eq!(scalar.get_or_insert_with(|| out.clone()), &out, "{}", kernel.name());
        }
    }
}

#[test]
fn rows_without_a_range_are_zero() {
    for row in [[0.; LANES], [1e-35; LANES], [-1e-35; LANES]] {
        for kernel in Kernel::available() {
            assert_eq!(quantised(kernel, &[Line(row)]), (vec![0; LANES], 0., 0));
        }
    }
    // A row of one value that is not zero has one: from zero to it.
    let (found, scale, zero) = quantised(Kernel::best(), &[Line([5.; LANES])]);
    assert!(found == [127; LANES] && zero == 0 && (scale * 127. - 5.).abs() < 1e-5);
    let (found, _, zero) = quantised(Kernel::best(), &[Line([-5.; LANES])]);
    assert!(found == [0; LANES] && zero == 127);
}
