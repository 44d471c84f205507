//! Fused training on a GPU against candle's operations on the CPU: gradients of a masked language model, AdamW's steps, fine-tuning's
//! gradients; gradients in parts and, with NCCL, shared among the machine's GPUs. Where there is no GPU, nothing is tested.
#![cfg(feature = "cuda")]

mod support;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use chemtag::model::config::ModelConfig;
use chemtag::model::crf::Crf;
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::Arithmetic;
use chemtag_training::accumulation::{GradientMean, Gradients};
use chemtag_training::error::Result;
use chemtag_training::fused_masked_lm::{FusedMaskedLm, Prepared};
use chemtag_training::loss::{LabelledBatch, distillation_loss_and_gradients, loss_and_gradients};
use chemtag_training::masked_lm;
use chemtag_training::masking::MaskedBatch;
use chemtag_training::optimizer::{AdamW, Optimizer};
use chemtag_training::parameters::{ENCODER, Parameters, Task, prefix, serialize};
use chemtag_training::ranks::Rank;
use chemtag_training::teacher::WordPosteriors;
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

const VOCABULARY: u32 = 416;

fn gpu() -> Option<Device> {
    let device = chemtag::Device::Cuda(0).open().ok();
    if device.is_none() {
        println!("no GPU: not run");
    }
    device
}

fn config(architecture: &str) -> ModelConfig {
    let json = serde_json::json!({
        "model_type": architecture, "vocab_size": VOCABULARY, "max_position_embeddings": 300, "dim": 96, "hidden_size": 96,
        "n_layers": 2, "num_hidden_layers": 2, "n_heads": 3, "num_attention_heads": 3, "hidden_dim": 160,
        "intermediate_size": 160, "type_vocab_size": 2, "dropout": 0.0, "hidden_dropout_prob": 0.0,
        "chemtag": {"classes": ["A", "B"], "sequence_pieces": 200},
    });
    ModelConfig::from_json(json.to_string().as_bytes(), "config.json").unwrap()
}

/// The same random values on each device, rounded to bf16 at first.
fn parameters(architecture: &str, task: Task, devices: &[&Device]) -> Result<Vec<Parameters>> {
    let config = config(architecture);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let layout = chemtag::model::layout::EncoderLayout::new(&config.encoder);
    let mut tensors = std::collections::BTreeMap::new();
    for place in layout.places() {
        let (mean, deviation) = match place.name.contains("orm.weight") {
            true => (1., 0.2),
            false => (0., if place.name.contains("embeddings") { 0.5 } else { 0.12 }),
        };
        let normal = Normal::new(mean, deviation).unwrap();
        let values = (0..place.range.len()).map(|_| bf16::from_f64(normal.sample(&mut random)).to_f32()).collect();
        let tensor = Tensor::from_vec(values, place.shape.as_slice(), &Device::Cpu)?;
        tensors.insert(format!("{}{}", prefix(&config), place.name), tensor);
    }
    let bytes = serialize(&tensors)?;
    devices
        .iter()
        .map(|device| Parameters::from_checkpoint(&bytes, "generated", config.clone(), task, 1, device))
        .collect()
}

fn masked(random: &mut ChaCha8Rng, lengths: &[usize]) -> MaskedBatch {
    let mut batch = MaskedBatch::default();
    for &length in lengths {
        let start = batch.batch.pieces() as u32;
        let pieces: Vec<u32> = (0..length).map(|_| random.random_range(0..VOCABULARY)).collect();
        batch.batch.push(&pieces, &[]);
        for row in 0..length as u32 {
            if random.random::<f64>() < 0.3 {
                batch.rows.push(start + row);
                batch.targets.push(random.random_range(0..VOCABULARY));
            }
        }
    }
    batch
}

/// Batches one after another as one.
fn join(batches: &[MaskedBatch]) -> MaskedBatch {
    let mut joined = MaskedBatch::default();
    for MaskedBatch { batch, rows, targets } in batches {
        let start = joined.batch.pieces() as u32;
        for sequence in batch.cu_seqlens.windows(2) {
            joined.batch.push(&batch.piece_ids[sequence[0] as usize..sequence[1] as usize], &[]);
        }
        joined.rows.extend(rows.iter().map(|row| start + row));
        joined.targets.extend(targets);
    }
    joined
}

/// Batches with very different numbers of predictions.
fn uneven_batches() -> [MaskedBatch; 3] {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    [&[150, 31][..], &[20], &[299, 7, 60, 128]].map(|lengths| masked(&mut random, lengths))
}

/// Adds the gradients of a batch, computed without dropout, to a mean.
fn add_gradients(parameters: &Parameters, batch: &MaskedBatch, mean: &mut GradientMean) -> Result<()> {
    let mut model = FusedMaskedLm::new(parameters)?.expect("a GPU");
    let pass = Dropout::new(0.).next_pass();
    let found = model.gradients(parameters, Prepared::new(batch, parameters)?, pass)?;
    mean.add(|variable| found.get(&variable.as_tensor().id()).cloned(), batch.rows.len())
}

/// Asserts that gradients differ by bf16's rounding alone: those of a part were rounded at another scale.
fn assert_same_gradients(parameters: &Parameters, found: &Gradients, expected: &Gradients) {
    for (name, variable) in parameters.variables() {
        let [found, expected] = [found, expected].map(|gradients| host(&gradients.get(variable).expect("a gradient")));
        let off = difference(&found, &expected);
        assert!(off < 0.01, "gradient of {name} off by {off}");
    }
}

fn host(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Share of the reference's length by which two vectors differ.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let square = |numbers: Vec<f64>| numbers.iter().map(|x| x * x).sum::<f64>();
    let off = found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect();
    (square(off) / square(expected.iter().map(|&x| f64::from(x)).collect()).max(1e-30)).sqrt()
}

/// Compares gradients by the checkpoint's names; bf16 activations are off by some roundings of 0.4 % each.
fn compare(
    cpu: &Parameters,
    expected: impl Fn(&Var) -> Option<Tensor>,
    fused: &Parameters,
    found: impl Fn(&Var) -> Option<Tensor>,
) {
    let layout = fused.layout().expect("one variable holds the encoder");
    let flat = host(&found(&fused.variables()[ENCODER]).expect("the encoder's gradient"));
    let mut by_name: HashMap<String, Vec<f32>> = layout
        .places()
        .iter()
        .map(|place| (format!("{}{}", prefix(fused.config()), place.name), flat[place.range.clone()].to_vec()))
        .collect();
    for (name, variable) in fused.variables().iter().filter(|(name, _)| *name != ENCODER) {
        by_name.insert(name.clone(), host(&found(variable).unwrap_or_else(|| panic!("{name} has no gradient"))));
    }
    let (mut largest, mut at) = (0., "");
    for (name, variable) in cpu.variables() {
        if name.ends_with("k_lin.bias") || name.ends_with("key.bias") {
            continue;
        }
        let expected = host(&expected(variable).unwrap_or_else(|| panic!("{name} has no gradient on the CPU")));
        let off = difference(&by_name[name], &expected);
        if off > largest {
            (largest, at) = (off, name);
        }
        assert!(off < 0.04, "gradient of {name} off by {off}");
    }
    eprintln!("gradients off by up to {largest:.5} ({at})");
}

#[test]
fn masked_lm_gradients_equal_candles() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    for architecture in ["distilbert", "bert"] {
        let both = parameters(architecture, Task::MaskedLm, &[&Device::Cpu, &gpu])?;
        let [cpu, fused] = both.as_slice() else { unreachable!() };
        let batch = masked(&mut ChaCha8Rng::seed_from_u64(2), &[7, 60, 128, 299, 31]);
        let (expected_loss, expected) =
            masked_lm::loss_and_gradients(cpu, &cpu.encoder()?, &batch, &mut Dropout::new(0.))?;
        let mut model = FusedMaskedLm::new(fused)?.expect("a GPU");
        let pass = Dropout::new(0.).next_pass();
        let found = model.gradients(fused, Prepared::new(&batch, fused)?, pass)?;
        let loss = model.take_losses()?;
        assert_eq!(loss.predicted, expected_loss.predicted);
        assert!((loss.loss / expected_loss.loss - 1.).abs() < 2e-3, "{loss:?} {expected_loss:?}");
        compare(cpu, |v| expected.get(v).cloned(), fused, |v| found.get(&v.as_tensor().id()).cloned());
    }
    Ok(())
}

#[test]
fn fine_tuning_gradients_equal_candles() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let both = parameters("distilbert", Task::Tagging, &[&Device::Cpu, &gpu])?;
    let [cpu, fused] = both.as_slice() else { unreachable!() };
    let batch = LabelledBatch::pack(&support::examples(40, 4).examples, &[]);
    let (expected_loss, expected) = loss_and_gradients(cpu, &cpu.network()?, &batch, &mut Dropout::new(0.), 0.3)?;
    let (loss, found) = loss_and_gradients(fused, &fused.network()?, &batch, &mut Dropout::new(0.), 0.3)?;
    assert!((loss.spans / expected_loss.spans - 1.).abs() < 5e-3, "{loss:?} {expected_loss:?}");
    compare(cpu, |v| expected.get(v).cloned(), fused, |v| found.get(v).cloned());
    Ok(())
}

/// On a GPU candle's operations read the flat variable of the fused ones; a value at the edge between two integers may fall to either.
#[test]
fn fake_quantised_gradients_equal_those_on_the_cpu() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    for architecture in ["distilbert", "bert"] {
        let both = parameters(architecture, Task::Tagging, &[&Device::Cpu, &gpu])?;
        let [cpu, flat] = both.as_slice() else { unreachable!() };
        let batch = LabelledBatch::pack(&support::examples(40, 4).examples, &[]);
        let of = |parameters: &Parameters| {
            let network = parameters.network_in(Arithmetic::FakeQuantised)?;
            loss_and_gradients(parameters, &network, &batch, &mut Dropout::new(0.), 0.3)
        };
        let ((expected_loss, expected), (loss, found)) = (of(cpu)?, of(flat)?);
        assert!((loss.spans / expected_loss.spans - 1.).abs() < 5e-3, "{loss:?} {expected_loss:?}");
        compare(cpu, |v| expected.get(v).cloned(), flat, |v| found.get(v).cloned());
    }
    Ok(())
}

#[test]
fn distillation_gradients_equal_candles() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let both = parameters("distilbert", Task::Tagging, &[&Device::Cpu, &gpu])?;
    let [cpu, fused] = both.as_slice() else { unreachable!() };
    let batch = LabelledBatch::pack(&support::examples(40, 4).examples, &[]).batch;
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let emissions: Vec<[f32; 3]> = (0..batch.words()).map(|_| [0; 3].map(|_| 4. * random.random::<f32>())).collect();
    let classes = (0..batch.words()).flat_map(|_| {
        let p = random.random::<f32>();
        [p, 1. - p]
    });
    let classes = classes.collect();
    let target = WordPosteriors { pairs: Crf::default().batch_pair_marginals(&emissions, &batch.cu_words)?, classes };
    let of = |parameters: &Parameters| {
        let network = parameters.network()?;
        distillation_loss_and_gradients(parameters, &network, &batch, &target, &mut Dropout::new(0.), 0.3)
    };
    let ((expected_loss, expected), (loss, found)) = (of(cpu)?, of(fused)?);
    assert!((loss.spans / expected_loss.spans - 1.).abs() < 5e-3, "{loss:?} {expected_loss:?}");
    assert!((loss.classes / expected_loss.classes - 1.).abs() < 5e-3, "{loss:?} {expected_loss:?}");
    compare(cpu, |v| expected.get(v).cloned(), fused, |v| found.get(v).cloned());
    Ok(())
}

#[test]
fn steps_of_adamw_equal_those_on_the_cpu() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let both = parameters("bert", Task::Tagging, &[&Device::Cpu, &gpu])?;
    let [cpu, fused] = both.as_slice() else { unreachable!() };
    let settings = AdamW { average_decay: 0.9, clip_norm: 0.5, ..AdamW::default() };
    let scale = |name: &str| if name.contains("classifier") { 10. } else { 1. };
    let mut reference = Optimizer::of(settings, cpu, scale)?;
    let mut optimizer = Optimizer::of(settings, fused, scale)?;
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for step in 0..5 {
        // The first layer and the embeddings are frozen for a while.
        let trained = |name: &str| step == 0 || step > 2 || !name.starts_with("bert.") || name.contains(".layer.1.");
        reference.train_only(trained)?;
        optimizer.train_only(trained)?;
        let gradients: HashMap<String, Tensor> = cpu
            .values(DType::F32)?
            .into_iter()
            .map(|(name, value)| {
                let numbers: Vec<f32> = (0..value.elem_count()).map(|_| random.random::<f32>() - 0.3).collect();
                Ok((name, Tensor::from_vec(numbers, value.shape(), &Device::Cpu)?))
            })
            .collect::<candle_core::Result<_>>()?;
        let of = |parameters: &Parameters, variable: &Var| {
            let (name, _) = parameters.variables().iter().find(|(_, own)| own.id() == variable.id())?;
            match parameters.layout() {
                Some(layout) if name == ENCODER => {
                    let mut flat = vec![0f32; layout.elements()];
                    for place in layout.places() {
                        let name = format!("{}{}", prefix(parameters.config()), place.name);
                        flat[place.range.clone()].copy_from_slice(&host(&gradients[&name]));
                    }
                    Tensor::from_vec(flat, layout.elements(), parameters.device()).ok()
                }
                _ => gradients[name].to_device(parameters.device()).ok(),
            }
        };
        reference.step(|variable| of(cpu, variable), 1e-2)?;
        optimizer.step(|variable| of(fused, variable), 1e-2)?;
    }
    optimizer.check_finite()?;
    assert!((optimizer.norm()? / reference.norm()? - 1.).abs() < 1e-5);
    let same = |what: &str| -> Result<()> {
        let (expected, found) = (cpu.values(DType::F32)?, fused.values(DType::F32)?);
        for (name, expected) in expected {
            for (a, b) in host(&found[&name]).into_iter().zip(host(&expected)) {
                assert!((a - b).abs() < 1e-5 + 1e-5 * b.abs(), "{what} of {name}: {a} {b}");
            }
        }
        Ok(())
    };
    same("value")?;
    reference.show_average()?;
    optimizer.show_average()?;
    same("average")?;
    reference.show_values()?;
    optimizer.show_values()?;
    same("value again")
}

#[test]
fn gradients_in_parts_equal_the_undivided_ones() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let parameters = &parameters("distilbert", Task::MaskedLm, &[&gpu])?[0];
    let batches = uneven_batches();
    let mut whole = GradientMean::new(parameters);
    add_gradients(parameters, &join(&batches), &mut whole)?;
    let mut divided = GradientMean::new(parameters);
    for batch in &batches {
        add_gradients(parameters, batch, &mut divided)?;
    }
    assert_same_gradients(parameters, &divided.finish(&Rank::ALONE)?, &whole.finish(&Rank::ALONE)?);
    Ok(())
}

/// On all GPUs of the machine, or on its only one.
#[cfg(feature = "nccl")]
mod nccl {
    use super::*;
    use chemtag_training::error::Error;
    use chemtag_training::ranks;

    fn gpus() -> Vec<chemtag::Device> {
        let all: Vec<_> = (0..).map(chemtag::Device::Cuda).take_while(|device| device.open().is_ok()).collect();
        println!("{} GPUs", all.len());
        all
    }

    #[test]
    fn buffers_and_numbers_are_summed_over_gpus() -> Result<()> {
        let gpus = gpus();
        if gpus.is_empty() {
            return Ok(());
        }
        let ranks = gpus.len() as f32;
        ranks::run(&gpus, |rank, name, device| {
            let chemtag::Device::Cuda(number) = name else { unreachable!() };
            let own = number as f32 + 1.;
            // From one number to more than one block of NCCL's, and several sums in a row.
            for count in [1, 1000, 5_000_003] {
                let numbers: Vec<f32> = (0..count).map(|i| own * (i % 100) as f32).collect();
                let sum = rank.sum_buffer(Tensor::from_vec(numbers, count, device)?)?;
                let all = ranks * (ranks + 1.) / 2.;
                assert!(host(&sum).iter().enumerate().all(|(i, &x)| x == all * (i % 100) as f32), "{count} numbers");
            }
            assert_eq!(rank.sum([f64::from(own)])?, [f64::from(ranks * (ranks + 1.) / 2.)]);
            Ok(())
        })
    }

    #[test]
    fn gradients_shared_among_gpus_equal_the_undivided_ones() -> Result<()> {
        let gpus = gpus();
        if gpus.is_empty() {
            return Ok(());
        }
        let batches = uneven_batches();
        ranks::run(&gpus, |rank, _, device| {
            let parameters = &parameters("bert", Task::MaskedLm, &[device])?[0];
            let mut whole = GradientMean::new(parameters);
            add_gradients(parameters, &join(&batches), &mut whole)?;
            let mut shared = GradientMean::new(parameters);
            for part in rank.share(1)?.cut(&batches, |batch| batch.batch.pieces()) {
                add_gradients(parameters, &join(part.sequences), &mut shared)?;
            }
            assert_same_gradients(parameters, &shared.finish(rank)?, &whole.finish(&Rank::ALONE)?);
            Ok(())
        })
    }

    /// The last rank fails between two sums; the others wait for it on the GPU or on the CPU.
    #[test]
    fn a_rank_that_fails_ends_the_run() {
        let gpus = gpus();
        let Some(&last) = gpus.last() else { return };
        let error = ranks::run(&gpus, |rank, name, device| {
            for sum in 0.. {
                if name == last && sum == 3 {
                    return Err(Error::Setting("out of order".into()));
                }
                rank.sum_buffer(Tensor::ones(1_000_000, DType::F32, device)?)?;
            }
            Ok(())
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("({last}) failed")) && error.contains("out of order"), "{error}");
    }
}
