//! The integers and scales are the scalar reference's to the bit; the gradients are those of `x + (rounded - x)` with the bracket taken for a constant.

use candle_core::{Device, Var};
use half::f16;
use proptest::prelude::*;

use super::*;
use crate::int8::reference::Reference;

/// Rows, and output channels as a model's file holds them.
#[derive(Debug, Clone)]
struct Case {
    rows: Vec<Vec<f32>>,
    channels: Vec<Vec<f32>>,
}

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().unwrap()
}

fn column(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

impl Case {
    fn check(&self) {
        let reference = Reference::new(&self.rows, &self.channels);
        let (rows, zeros) = activations(&tensor(&self.rows)).unwrap();
        let zeros = column(&zeros);
        for (row, values) in numbers(&rows.values).into_iter().enumerate() {
            let (expected, scale, zero) = reference.row(row);
            assert_eq!((column(&rows.scales)[row].to_bits(), zeros[row]), (scale.to_bits(), zero as f32), "row {row}");
            let places: Vec<f32> = values.iter().map(|value| value + zeros[row]).collect();
            assert_eq!(places, expected.iter().map(|&q| f32::from(q)).collect::<Vec<_>>(), "row {row}");
        }
        let of_channels = weights(&tensor(&self.channels)).unwrap();
        for (channel, values) in numbers(&of_channels.values).into_iter().enumerate() {
            let (expected, scale) = &reference.channels[channel];
            assert_eq!(column(&of_channels.scales)[channel].to_bits(), scale.to_bits(), "channel {channel}");
            assert_eq!(values, expected.iter().map(|&w| f32::from(w)).collect::<Vec<_>>(), "channel {channel}");
        }
        for (row, sums) in numbers(&rows.values).into_iter().zip(reference.sums()) {
            for (channel, sum) in numbers(&of_channels.values).into_iter().zip(sums) {
                let exact: f64 = row.iter().zip(&channel).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                assert_eq!(exact, f64::from(sum));
            }
        }
        let bias = |channel: usize| channel as f32 * 0.3 - 1.;
        let biases: Vec<f32> = (0..self.channels.len()).map(bias).collect();
        let products = QuantisedRows::new(&tensor(&self.rows)).unwrap().product(&tensor(&self.channels)).unwrap();
        let products = products.broadcast_add(&Tensor::new(biases, &Device::Cpu).unwrap()).unwrap();
        let bits = |rows: Vec<Vec<f32>>| rows.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(numbers(&products)), bits(reference.products(bias)));
    }
}

fn cases() -> impl Strategy<Value = Case> {
    (1usize..=5, 1usize..=19, 1usize..=83).prop_flat_map(|(rows, channels, inputs)| {
        let value =
            prop_oneof![8 => -3f32..3., 1 => Just(0.), 1 => -1e4f32..1e4, 1 => -1e-6f32..1e-6, 1 => (-9i8..9).prop_map(f32::from)];
        let row = prop_oneof![9 => prop::collection::vec(value, inputs), 1 => Just(vec![0.; inputs]), 1 => Just(vec![-2.5; inputs])];
        let weight = prop_oneof![8 => -0.5f32..0.5, 1 => Just(0.), 1 => -30f32..30., 1 => (-127i8..=127).prop_map(f32::from)]
            .prop_map(|weight| f16::from_f32(weight).to_f32());
        let channel = prop_oneof![9 => prop::collection::vec(weight, inputs), 1 => Just(vec![0.; inputs])];
        (prop::collection::vec(row, rows), prop::collection::vec(channel, channels))
            .prop_map(|(rows, channels)| Case { rows, channels })
    })
}

proptest! {
    #[test]
    fn integers_scales_and_products_are_those_of_the_engine(case in cases()) {
        case.check();
    }
}

/// Halves between two steps go to the even one, on both sides of zero and at the zero point.
#[test]
fn ties_go_to_even_as_in_the_engine() {
    let halves: Vec<f32> = (-127..=127).map(|i| i as f32 / 2.).collect();
    let from_zero: Vec<f32> = (0..255).map(|i| i as f32 / 2.).collect();
    let wide: Vec<f32> = (-127..=127i32).map(|i| i as f32 + if i.abs() < 127 { 0.5 } else { 0. }).collect();
    Case { rows: vec![halves.clone(), from_zero.clone()], channels: vec![halves, from_zero, wide] }.check();
}

/// What is exported is quantised from 16-bit floats.
#[test]
fn weights_are_rounded_as_a_models_file_holds_them() {
    let row: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin() * 0.3).collect();
    let half: Vec<f32> = row.iter().map(|&weight| f16::from_f32(weight).to_f32()).collect();
    let values = |row: &Vec<f32>| numbers(&weights(&tensor(std::slice::from_ref(row))).unwrap().values);
    assert_eq!(values(&row), values(&half));
    let (exported, _) = crate::int8::quantise_weights(&half);
    assert_eq!(values(&row)[0], exported.into_iter().map(f32::from).collect::<Vec<_>>());
}

#[test]
fn a_row_that_is_not_finite_stays_so() {
    for wrong in [f32::INFINITY, f32::NAN] {
        let rows = tensor(&[vec![1., wrong, 2.]]);
        let product = QuantisedRows::new(&rows).unwrap().product(&tensor(&[vec![1., 1., 1.]])).unwrap();
        assert!(column(&product)[0].is_nan(), "{wrong} became {product}");
    }
}

fn variable(rows: usize, width: usize, seed: usize) -> Result<Var> {
    let numbers: Vec<f32> = (0..rows * width).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 40. - 1.2).collect();
    Var::from_tensor(&Tensor::from_vec(numbers, (rows, width), &Device::Cpu)?)
}

#[test]
fn gradients_go_straight_through() -> Result<()> {
    let (x, w) = (variable(5, 12, 1)?, variable(7, 12, 2)?);
    let through = |x: &Tensor, integers: Integers| x + (integers.floats()? - x)?.detach();
    let ours = QuantisedRows::new(&x)?.product(&w)?;
    let oracle = through(&x, activations(&x)?.0)?.matmul(&through(&w, weights(&w)?)?.t()?)?;
    let factors = variable(5, 7, 3)?.as_tensor().detach();
    let gradients = |y: &Tensor| -> Result<Vec<f32>> {
        let gradients = (y * &factors)?.sum_all()?.backward()?;
        let of = |variable: &Var| Ok::<_, candle_core::Error>(column(gradients.get(variable).expect("a gradient")));
        Ok([of(&x)?, of(&w)?].concat())
    };
    for (a, b) in
        column(&ours).into_iter().zip(column(&oracle)).chain(gradients(&ours)?.into_iter().zip(gradients(&oracle)?))
    {
        assert!((a - b).abs() < 1e-4 * (1. + b.abs()), "{a} {b}");
    }
    let rounded = embeddings(&x)?;
    assert_eq!(numbers(&rounded), numbers(&weights(&x)?.floats()?));
    let gradient = (rounded * x.as_tensor().detach())?.sum_all()?.backward()?;
    assert_eq!(numbers(gradient.get(&x).expect("a gradient")), numbers(&x));
    Ok(())
}

/// Embeddings and weights learn a function together, though each step of theirs is rounded.
#[test]
fn the_loss_falls() -> Result<()> {
    let (x, w) = (variable(16, 8, 1)?, variable(4, 8, 2)?);
    let target = variable(16, 4, 3)?.as_tensor().detach();
    let mut losses = Vec::new();
    for _ in 0..300 {
        let loss = (QuantisedRows::new(&embeddings(&x)?)?.product(&w)? - &target)?.sqr()?.mean_all()?;
        let gradients = loss.backward()?;
        for variable in [&x, &w] {
            let gradient = gradients.get(variable).expect("a gradient");
            variable.set(&(variable.as_tensor() - (gradient * 0.3)?)?.detach())?;
        }
        losses.push(loss.to_scalar::<f32>()?);
    }
    let (first, last) = (losses[0], losses[losses.len() - 10..].iter().sum::<f32>() / 10.);
    assert!(last < first / 50., "from {first} to {last}");
    Ok(())
}
