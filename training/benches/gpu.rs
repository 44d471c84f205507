//! Pieces a second on a GPU: training steps of a masked language model (30 % of the pieces predicted, bf16) and the encoder's inference (f16),
//! on full sequences (256 of 128) and on lengths as in prose. `benches/gpu/pytorch.py` measures the same in PyTorch.
//!
//!     cargo bench -p chemtag-training --features cuda --bench gpu -- [LENGTHS.json]
//!
//! Prints one JSON object a line: the median of the blocks of steps. Weights and pieces are random.

fn main() {
    #[cfg(feature = "cuda")]
    if let Err(error) = measure::run() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    #[cfg(not(feature = "cuda"))]
    eprintln!("built without the feature cuda: nothing to measure");
}

#[cfg(feature = "cuda")]
mod measure {
    use std::collections::{BTreeMap, HashMap};
    use std::time::Instant;

    use candle_core::{DType, Device, Tensor};
    use chemtag::batch::{Batch, packs};
    use chemtag::model::config::ModelConfig;
    use chemtag::model::dropout::Dropout;
    use chemtag::model::encoder::{Encoder, Pass};
    use chemtag::model::layout::EncoderLayout;
    use chemtag::model::weights::Weights;
    use chemtag_training::error::{Error, Result};
    use chemtag_training::fused_masked_lm::{FusedMaskedLm, Prepared};
    use chemtag_training::masking::MaskedBatch;
    use chemtag_training::optimizer::{AdamW, Optimizer};
    use chemtag_training::parameters::{Parameters, Task, prefix, serialize};
    use rand::seq::index::sample;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, LogNormal, Normal};

    const VOCABULARY: u32 = 24_000;
    const PIECES: usize = 32_768;
    const WARM_UP: usize = 15;
    const BLOCKS: usize = 7;
    const STEPS: usize = 20;

    fn config(layers: usize, hidden: usize) -> ModelConfig {
        let json = serde_json::json!({
            "model_type": "distilbert", "vocab_size": VOCABULARY, "max_position_embeddings": 512, "dim": hidden,
            "n_layers": layers, "n_heads": 12, "hidden_dim": 4 * hidden,
        });
        ModelConfig::from_json(json.to_string().as_bytes(), "config.json").expect("a valid configuration")
    }

    fn tensors(config: &ModelConfig) -> Result<BTreeMap<String, Tensor>> {
        let normal = Normal::new(0f32, 0.02).map_err(|e| Error::Setting(e.to_string()))?;
        let mut random = ChaCha8Rng::seed_from_u64(0);
        EncoderLayout::new(&config.encoder)
            .places()
            .iter()
            .map(|place| {
                let values: Vec<f32> = match place.name.ends_with("orm.weight") {
                    true => vec![1.; place.range.len()],
                    false => normal.sample_iter(&mut random).take(place.range.len()).collect(),
                };
                let tensor = Tensor::from_vec(values, place.shape.as_slice(), &Device::Cpu)?;
                Ok((format!("{}{}", prefix(config), place.name), tensor))
            })
            .collect()
    }

    /// Batches of about [`PIECES`] pieces with these lengths, one after another.
    fn batches(lengths: &[usize], random: &mut ChaCha8Rng) -> Vec<MaskedBatch> {
        let make = |pack: &[usize]| {
            let mut masked = MaskedBatch::default();
            for &length in pack {
                let start = masked.batch.pieces();
                let pieces: Vec<u32> = (0..length).map(|_| random.random_range(5..VOCABULARY)).collect();
                let mut rows = sample(random, length, length * 3 / 10).into_vec();
                rows.sort_unstable();
                masked.rows.extend(rows.iter().map(|&row| (start + row) as u32));
                masked.targets.extend(rows.iter().map(|&row| pieces[row]));
                masked.batch.push(&pieces, &[]);
            }
            masked
        };
        packs(lengths, |&length| length, PIECES).into_iter().map(make).collect()
    }

    fn median(mut seconds: Vec<f64>) -> f64 {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }

    /// Median pieces a second of `step`, which runs batch `i`; `wait` waits for the device.
    fn rate(
        batches: &[MaskedBatch],
        mut step: impl FnMut(usize) -> Result<()>,
        mut wait: impl FnMut() -> Result<()>,
    ) -> Result<f64> {
        for i in 0..WARM_UP.max(2 * batches.len()) {
            step(i % batches.len())?;
        }
        wait()?;
        let mut rates = Vec::new();
        for _ in 0..BLOCKS {
            let (started, mut pieces) = (Instant::now(), 0);
            for i in 0..STEPS.next_multiple_of(batches.len()) {
                step(i % batches.len())?;
                pieces += batches[i % batches.len()].batch.pieces();
            }
            wait()?;
            rates.push(pieces as f64 / started.elapsed().as_secs_f64());
        }
        Ok(median(rates))
    }

    fn training(config: &ModelConfig, batches: &[MaskedBatch], device: &Device) -> Result<f64> {
        let bytes = serialize(&tensors(config)?)?;
        let parameters = Parameters::from_checkpoint(&bytes, "random", config.clone(), Task::MaskedLm, 0, device)?;
        let missing = || Error::Setting("there is no GPU".into());
        let model = std::cell::RefCell::new(FusedMaskedLm::new(&parameters)?.ok_or_else(missing)?);
        let optimizer = std::cell::RefCell::new(Optimizer::of(AdamW::default(), &parameters, |_| 1.)?);
        let mut dropout = Dropout::new(0.1);
        let prepared: Vec<Prepared> =
            batches.iter().map(|batch| Prepared::new(batch, &parameters)).collect::<Result<_>>()?;
        let step = |i: usize| {
            let gradients = model.borrow_mut().gradients(&parameters, prepared[i].clone(), dropout.next_pass())?;
            optimizer.borrow_mut().step(|variable| gradients.get(&variable.as_tensor().id()).cloned(), 1e-5)
        };
        let rate = rate(batches, step, || model.borrow_mut().take_losses().map(|_| ()))?;
        optimizer.borrow().check_finite()?;
        Ok(rate)
    }

    fn inference(config: &ModelConfig, batches: &[MaskedBatch], device: &Device) -> Result<f64> {
        let tensors: HashMap<String, Tensor> = tensors(config)?
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F16)?.to_device(device)?)))
            .collect::<candle_core::Result<_>>()?;
        let encoder = Encoder::load(&Weights::from_tensors(tensors, "random"), &config.encoder)?;
        let plain: Vec<&Batch> = batches.iter().map(|masked| &masked.batch).collect();
        rate(
            batches,
            |i| Ok(encoder.forward(plain[i], &mut Pass::Inference).map(|_| ())?),
            || Ok(device.synchronize()?),
        )
    }

    pub fn run() -> Result<()> {
        let device = chemtag::Device::Cuda(0).open()?;
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let prose: Vec<usize> = match std::env::args().skip(1).find(|argument| argument.ends_with(".json")) {
            Some(path) => {
                let json = std::fs::read_to_string(&path).map_err(|e| Error::io("read", path.as_ref(), e))?;
                let json: serde_json::Value =
                    serde_json::from_str(&json).map_err(|e| Error::Setting(format!("{path}: {e}")))?;
                let lengths = json["lengths"].as_array().cloned().unwrap_or_default();
                lengths.iter().filter_map(|length| Some(length.as_u64()? as usize)).collect()
            }
            None => {
                let lengths = LogNormal::new(27f64.ln(), 0.6335).map_err(|e| Error::Setting(e.to_string()))?;
                (0..512).map(|_| lengths.sample(&mut random).round().clamp(4., 256.) as usize).collect()
            }
        };
        let repeated: Vec<usize> = prose.iter().copied().cycle().take(8 * prose.len()).collect();
        for (layers, hidden) in [(6, 384), (12, 768)] {
            let config = config(layers, hidden);
            for (lengths, batches) in
                [("256 x 128", batches(&[128; 1024], &mut random)), ("prose, packed", batches(&repeated, &mut random))]
            {
                for (what, rate) in [
                    ("training bf16", training(&config, &batches, &device)?),
                    ("inference f16", inference(&config, &batches, &device)?),
                ] {
                    let encoder = format!("{layers} x {hidden}");
                    println!(
                        "{}",
                        serde_json::json!({"engine": "chemtag", "encoder": encoder, "what": what, "lengths": lengths,
                            "pieces_per_second": rate.round()})
                    );
                }
            }
        }
        Ok(())
    }
}
