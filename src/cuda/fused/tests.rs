//! The fused encoder against candle's in f32 on the CPU: hidden states and the gradient of every tensor.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::cuda::gpu_device;
use crate::cuda::testing::Random;
use crate::model::config::ModelConfig;
use crate::model::dropout::Dropout;
use crate::model::encoder::Encoder;

fn config(model_type: &str, heads: usize) -> EncoderConfig {
    let json = serde_json::json!({
        "model_type": model_type, "vocab_size": 120, "max_position_embeddings": 300, "dim": 128, "hidden_size": 128,
        "n_layers": 3, "num_hidden_layers": 3, "n_heads": heads, "num_attention_heads": heads, "hidden_dim": 192,
        "intermediate_size": 192, "type_vocab_size": 2,
    });
    ModelConfig::from_json(json.to_string().as_bytes(), "config.json").unwrap().encoder
}

/// Weights that make attention and LayerNorm matter, yet no softmax so sharp that one rounding of a score decides; already rounded to bf16 so that both sides start from the same.
fn weights(layout: &EncoderLayout, random: &mut Random) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let values = layout.places().iter().map(|place| {
        let (mean, deviation) = match place.name.as_str() {
            name if name.contains("orm.weight") => (1., 0.2),
            name if name.contains("embeddings") => (0., 0.6),
            _ => (0., 0.08),
        };
        let numbers = random.normals::<bf16>(place.range.len(), mean, deviation);
        (place.name.clone(), place.shape.clone(), numbers.into_iter().map(|x| x as f32).collect())
    });
    values.collect()
}

fn batch(lengths: &[usize], random: &mut Random) -> Batch {
    let mut batch = Batch::default();
    for &length in lengths {
        batch.push(&random.numbers(length, 120), &[0]);
    }
    batch
}

/// Share of the reference's length by which two vectors differ.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let off = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (off / square(&mut expected.iter().copied()).max(1e-30)).sqrt()
}

/// bf16 has eight bits: one rounding is off by up to 0.4 %, some dozen of them one after another stay below 2 % of a vector's length.
const TOLERANCE: f64 = 0.02;

#[test]
fn hidden_states_and_gradients_equal_candles() -> Result<()> {
    let Some(device) = gpu_device() else { return Ok(()) };
    for (model_type, heads) in [("distilbert", 4), ("bert", 2)] {
        let (config, mut random) = (config(model_type, heads), Random(heads as u64));
        let layout = EncoderLayout::new(&config);
        let weights = weights(&layout, &mut random);
        let batch = batch(&[1, 2, 17, 64, 65, 130, 300, 5, 5, 33], &mut random);
        let size = batch.pieces() * config.hidden;
        let towards: Vec<f32> = random.normals::<bf16>(size, 0., 1.).into_iter().map(|x| x as f32).collect();
        let towards = Tensor::from_vec(towards, (batch.pieces(), config.hidden), &Device::Cpu)?;

        let variables: HashMap<String, Var> = weights
            .iter()
            .map(|(name, shape, values)| {
                let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?;
                Ok((name.clone(), Var::from_tensor(&tensor)?))
            })
            .collect::<candle_core::Result<_>>()?;
        let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let reference = Encoder::load(&Weights::from_tensors(tensors, "test"), &config)?;
        let expected = reference.forward(&batch, &mut Pass::Training(&mut Dropout::new(0.)))?;
        let expected_gradients = (&expected * &towards)?.sum_all()?.backward()?;

        let mut flat = vec![0f32; layout.elements()];
        for (place, (_, _, values)) in layout.places().iter().zip(&weights) {
            flat[place.range.clone()].copy_from_slice(values);
        }
        let flat = Var::from_tensor(&Tensor::from_vec(flat, layout.elements(), &device)?)?;
        let fused = Encoder::on_flat(flat.as_tensor(), &config)?;
        let inferred = fused.forward(&batch, &mut Pass::Inference)?;
        let found = fused.forward(&batch, &mut Pass::Training(&mut Dropout::new(0.)))?;
        let towards = towards.to_device(&device)?.to_dtype(DType::BF16)?;
        let gradients = (&found * &towards)?.sum_all()?.backward()?;

        let host =
            |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>();
        let (expected, found) = (host(&expected)?, host(&found)?);
        assert_eq!(host(&inferred)?, found, "a training pass without dropout computes what inference does");
        let off = difference(&found, &expected);
        eprintln!("fused encoder, {model_type}: hidden states off by {off:.5}");
        assert!(off < TOLERANCE, "{model_type}: hidden states off by {off}");

        let found = host(gradients.get(flat.as_tensor()).expect("a gradient of all weights"))?;
        let mut largest = (0., "");
        for place in layout.places() {
            let expected = host(expected_gradients.get(variables[&place.name].as_tensor()).expect("a gradient"))?;
            let found = &found[place.range.clone()];
            let biases_of_keys = ["k_lin.bias", "key.bias"].iter().any(|name| place.name.ends_with(name));
            if biases_of_keys {
                // Zero in exact arithmetic: the softmax does not see a shift. What is left is the sum of roundings.
                assert!(found.iter().all(|x| x.abs() < 1.), "{}", place.name);
                continue;
            }
            assert!(found.iter().any(|&x| x != 0.), "{} has no gradient", place.name);
            let off = difference(found, &expected);
            if off > largest.0 {
                largest = (off, &place.name);
            }
            assert!(off < 2. * TOLERANCE, "{model_type}: gradient of {} off by {off}", place.name);
        }
        eprintln!("fused encoder, {model_type}: gradients off by up to {:.5} ({})", largest.0, largest.1);
    }
    Ok(())
}

#[test]
fn dropout_repeats_with_its_seed_and_differs_between_passes() -> Result<()> {
    let Some(device) = gpu_device() else { return Ok(()) };
    let (config, mut random) = (config("distilbert", 4), Random(3));
    let layout = EncoderLayout::new(&config);
    let flat: Vec<f32> = random.normals::<bf16>(layout.elements(), 0., 0.1).into_iter().map(|x| x as f32).collect();
    let flat = Var::from_tensor(&Tensor::from_vec(flat, layout.elements(), &device)?)?;
    let encoder = Encoder::on_flat(flat.as_tensor(), &config)?;
    let batch = batch(&[40, 9], &mut random);
    let mut dropout = Dropout::new(0.2);
    let pass = |dropout: &mut Dropout| -> Result<Vec<f32>> {
        let hidden = encoder.forward(&batch, &mut Pass::Training(dropout))?;
        Ok(hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    dropout.reseed(1);
    let (first, second) = (pass(&mut dropout)?, pass(&mut dropout)?);
    dropout.reseed(1);
    assert_eq!(pass(&mut dropout)?, first);
    assert_ne!(first, second);
    dropout.reseed(2);
    assert_ne!(pass(&mut dropout)?, first);
    Ok(())
}

#[test]
fn a_batch_equals_its_sequences_one_by_one() -> Result<()> {
    let Some(device) = gpu_device() else { return Ok(()) };
    let (config, mut random) = (config("bert", 4), Random(4));
    let layout = EncoderLayout::new(&config);
    let tensors = weights(&layout, &mut random).into_iter().map(|(name, shape, values)| {
        let tensor = Tensor::from_vec(values, shape.as_slice(), &device)?.to_dtype(DType::F16)?;
        Ok((name, tensor))
    });
    let tensors: HashMap<String, Tensor> = tensors.collect::<candle_core::Result<_>>()?;
    let encoder = Encoder::load(&Weights::from_tensors(tensors, "test"), &config)?;
    assert!(matches!(encoder, Encoder::Fused(_)) && encoder.dtype() == DType::F16);
    let batch = batch(&[3, 70, 250, 1, 16], &mut random);
    let host = |tensor: Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let together = host(encoder.forward(&batch, &mut Pass::Inference)?)?;
    for sequence in batch.cu_seqlens.windows(2) {
        let (start, end) = (sequence[0] as usize, sequence[1] as usize);
        let mut alone = Batch::default();
        alone.push(&batch.piece_ids[start..end], &[0]);
        let alone = host(encoder.forward(&alone, &mut Pass::Inference)?)?;
        let off = difference(&alone, &together[start * config.hidden..end * config.hidden]);
        // Products of other shapes may add up in another order.
        assert!(off < 2e-3, "sequence at {start}: off by {off}");
    }
    Ok(())
}
