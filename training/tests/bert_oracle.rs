//! A second opinion on the BERT encoder: candle-transformers' own, an implementation that shares none of ours above candle's tensors, reads the
//! same random checkpoint one sequence at a time; ours reads all sequences packed into one batch.

mod support;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert;
use chemtag::batch::Batch;
use chemtag::model::config::{Architecture, ModelConfig};
use chemtag::model::encoder::{Encoder, Pass};
use chemtag::model::weights::Weights;

/// candle-transformers' model of a configuration, which it reads from the `config.json` that we write.
fn oracle(config: &ModelConfig, checkpoint: &[u8]) -> bert::BertModel {
    let mut json = config.to_json();
    // Keys that its reader wants and the encoder's arithmetic does not use.
    json["initializer_range"] = 0.02.into();
    let config: bert::Config = serde_json::from_value(json).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(checkpoint.to_vec(), DType::F32, &Device::Cpu).unwrap();
    bert::BertModel::load(weights, &config).unwrap()
}

#[test]
fn hidden_states_equal_candle_transformers() {
    for (layers, heads, head_width) in [(2, 2, 32), (3, 2, 64), (2, 5, 32)] {
        let config = support::config(Architecture::Bert, layers, heads, head_width);
        let checkpoint = support::checkpoint(&config.encoder, 11);
        let oracle = oracle(&config, &checkpoint);
        let weights = Weights::from_safetensors(&checkpoint, "generated", DType::F32, &Device::Cpu).unwrap();
        let encoder = Encoder::load(&weights, &config.encoder).unwrap();

        let examples = support::examples(20, 12).examples;
        let mut batch = Batch::default();
        for example in &examples {
            batch.push(&example.piece_ids, &example.word_starts);
        }
        let packed: Vec<Vec<f32>> = encoder.forward(&batch, &mut Pass::Inference).unwrap().to_vec2().unwrap();
        let lengths = || examples.iter().map(|example| example.piece_ids.len());
        assert!(lengths().max() > lengths().min().map(|least| 3 * least), "sequences of different lengths");

        let mut first = 0;
        for (index, example) in examples.iter().enumerate() {
            let ids = Tensor::new(example.piece_ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let expected = oracle.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
            let expected: Vec<Vec<f32>> = expected.squeeze(0).unwrap().to_vec2().unwrap();
            let found = &packed[first..first + expected.len()];
            first += expected.len();
            let differences = found.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0., f32::max);
            assert!(largest < 1e-4, "{layers} layers, heads of {head_width}, sequence {index}: {largest}");
            assert!(expected.iter().flatten().any(|x| x.abs() > 0.5), "the hidden states are not all zeros");
        }
        assert_eq!(first, packed.len());
    }
}
