//! The encoder against PyTorch: hidden states recorded from Hugging Face transformers (tests/fixtures/record_transformers.py), and
//! the packed batch against its sequences one by one.

use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::model::config::ModelConfig;
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::{Encoder, Pass};
use chemtag::model::weights::Weights;

struct Fixture {
    encoder: Encoder,
    sequences: Vec<Vec<u32>>,
    hidden: Vec<Vec<f32>>,
}

fn fixture(name: &str) -> Fixture {
    let folder = std::path::Path::new("tests/fixtures").join(name);
    let read = |file: &str| std::fs::read(folder.join(file)).expect(file);
    let mut json: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    json["chemtag"] = serde_json::json!({"sequence_pieces": 46});
    let config = ModelConfig::from_json(json.to_string().as_bytes(), name).unwrap();
    let weights = Weights::from_safetensors(&read("model.safetensors"), name, DType::F32, &Device::Cpu).unwrap();
    let expected = candle_core::safetensors::load_buffer(&read("expected.safetensors"), &Device::Cpu).unwrap();
    let ids: Vec<i64> = expected["ids"].to_vec1().unwrap();
    let lengths: Vec<i64> = expected["lengths"].to_vec1().unwrap();
    let mut ids = ids.into_iter().map(|id| id as u32);
    Fixture {
        encoder: Encoder::load(&weights, &config.encoder).unwrap(),
        sequences: lengths.iter().map(|&n| ids.by_ref().take(n as usize).collect()).collect(),
        hidden: expected["hidden"].to_vec2().unwrap(),
    }
}

fn pack(sequences: &[Vec<u32>]) -> Batch {
    let mut batch = Batch::default();
    for sequence in sequences {
        batch.push(sequence, &[0]);
    }
    batch
}

fn largest_difference(a: &Tensor, b: &[Vec<f32>]) -> f32 {
    let a: Vec<Vec<f32>> = a.to_vec2().unwrap();
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0., f32::max)
}

#[test]
fn hidden_states_equal_pytorchs() {
    for name in ["encoder-distilbert", "encoder-bert"] {
        let Fixture { encoder, sequences, hidden } = fixture(name);
        let batch = pack(&sequences);
        let inference = encoder.forward(&batch, &mut Pass::Inference).unwrap();
        assert!(largest_difference(&inference, &hidden) < 1e-4, "{name}");
        let mut dropout = Dropout::new(0.);
        let training = encoder.forward(&batch, &mut Pass::Training(&mut dropout)).unwrap();
        assert!(largest_difference(&training, &hidden) < 1e-4, "{name}, differentiable operations");
        assert!(hidden.iter().flatten().any(|x| x.abs() > 0.5), "the fixture is not all zeros");
    }
}

#[test]
fn a_packed_batch_equals_its_sequences_one_by_one() {
    for name in ["encoder-distilbert", "encoder-bert"] {
        let Fixture { encoder, mut sequences, .. } = fixture(name);
        sequences.extend((1..40).map(|n| (0..n).map(|i| (i * 7 + n) % 97).collect()));
        sequences.reverse();
        let packed: Vec<Vec<f32>> =
            encoder.forward(&pack(&sequences), &mut Pass::Inference).unwrap().to_vec2().unwrap();
        let mut row = 0;
        for sequence in &sequences {
            let alone = encoder.forward(&pack(std::slice::from_ref(sequence)), &mut Pass::Inference).unwrap();
            let end = row + sequence.len();
            assert!(largest_difference(&alone, &packed[row..end]) < 1e-5, "{name}, {} pieces", sequence.len());
            row = end;
        }
    }
}
