//! A trained encoder, made wider: its hidden states are the narrow one's, copied, and its masked-language-model scores the same, with stacked layers and another
//! vocabulary, too; copies become different in training; widths that do not fit are refused.

mod support;

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::model::config::{Architecture, EncoderConfig};
use chemtag::model::dropout::Dropout;
use chemtag::model::encoder::{Encoder, Pass};
use chemtag::model::weights::Weights;
use chemtag_training::masked_lm;
use chemtag_training::masking::MaskedBatch;
use chemtag_training::parameters::{Parameters, Task, head_shapes, masked_lm_names, prefix, serialize};
use chemtag_training::start::StartingEncoder;
use chemtag_training::start::widening::Width;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// An encoder of 2 layers and 3 heads of 8 with its masked-language-model head, all of random numbers.
fn narrow(architecture: Architecture) -> StartingEncoder {
    let config = support::config(architecture, 2, 3, 8);
    let bytes = support::checkpoint(&config.encoder, 21);
    let mut tensors: BTreeMap<String, Tensor> =
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap().into_iter().collect();
    let mut random = ChaCha8Rng::seed_from_u64(22);
    for (name, shape) in head_shapes(&config, Task::MaskedLm) {
        tensors.insert(name, support::normal(&shape, 0.2, 0.5, &mut random));
    }
    StartingEncoder::from_checkpoint(&serialize(&tensors).unwrap(), "generated", config).unwrap()
}

fn wide(narrow: &StartingEncoder, width: Width, noise: f64) -> StartingEncoder {
    let mut wide = narrow.clone();
    wide.widen(width, noise, 7).unwrap();
    wide
}

fn hidden(width: usize) -> Width {
    Width { hidden: Some(width), ..Width::default() }
}

fn batch() -> Batch {
    let mut batch = Batch::default();
    for example in support::examples(20, 23).examples {
        batch.push(&example.piece_ids, &example.word_starts);
    }
    batch
}

/// Hidden states `[pieces, hidden]`.
fn hidden_states(encoder: &StartingEncoder) -> Tensor {
    let tensors: HashMap<String, Tensor> = encoder.tensors().clone().into_iter().collect();
    let weights = Weights::from_tensors(tensors, "generated");
    Encoder::load(&weights, &encoder.config().encoder).unwrap().forward(&batch(), &mut Pass::Inference).unwrap()
}

/// Scores of all pieces `[pieces, vocabulary]`: linear, GELU, LayerNorm, word embeddings, bias.
fn scores(encoder: &StartingEncoder) -> Tensor {
    let names = masked_lm_names(encoder.config().encoder.architecture);
    let tensor = |name: &str| encoder.tensors()[name].to_dtype(DType::F64).unwrap();
    let linear = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
        x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(bias).unwrap()
    };
    let [weight, bias] = ["weight", "bias"].map(|kind| tensor(&format!("{}.{kind}", names.transform)));
    let x = linear(&hidden_states(encoder).to_dtype(DType::F64).unwrap(), &weight, &bias).gelu_erf().unwrap();
    let centred = x.broadcast_sub(&x.mean_keepdim(1).unwrap()).unwrap();
    let deviation = centred.sqr().unwrap().mean_keepdim(1).unwrap().sqrt().unwrap();
    let [weight, bias] = ["weight", "bias"].map(|kind| tensor(&format!("{}.{kind}", names.norm)));
    let x = centred.broadcast_div(&deviation).unwrap().broadcast_mul(&weight).unwrap().broadcast_add(&bias).unwrap();
    let words = tensor(&format!("{}embeddings.word_embeddings.weight", prefix(encoder.config())));
    linear(&x, &words, &tensor(names.bias))
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let largest = (a - b).unwrap().abs().unwrap().max_all().unwrap();
    largest.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn parameters(encoder: &StartingEncoder) -> Parameters {
    let bytes = serialize(encoder.tensors()).unwrap();
    let config = encoder.config().clone();
    Parameters::from_checkpoint(&bytes, "generated", config, Task::MaskedLm, 0, &Device::Cpu).unwrap()
}

fn masked() -> MaskedBatch {
    let batch = batch();
    let rows: Vec<u32> = (1..batch.pieces() as u32).step_by(3).collect();
    let targets = rows.iter().map(|row| 5 + row % 30).collect();
    MaskedBatch { batch, rows, targets }
}

#[test]
fn a_wider_encoder_computes_the_same() {
    for architecture in [Architecture::DistilBert, Architecture::Bert] {
        for (factor, ffn, layers) in [(2, None, 2), (3, Some(200), 2), (1, Some(70), 2), (2, Some(48), 5)] {
            let mut narrow = narrow(architecture);
            narrow.stack(layers).unwrap();
            let states = hidden_states(&narrow);
            let copied = Tensor::cat(&vec![&states; factor], 1).unwrap();
            for noise in [0., 0.1] {
                let wide = wide(&narrow, Width { ffn, ..hidden(24 * factor) }, noise);
                let EncoderConfig { hidden, heads, ffn: found, layers: same, .. } = wide.config().encoder;
                assert_eq!((hidden, heads, found), (24 * factor, 3 * factor, ffn.unwrap_or(48 * factor)));
                assert_eq!(same, layers);
                let difference = largest_difference(&hidden_states(&wide), &copied);
                assert!(difference < 1e-5, "{architecture:?}, {factor} times, noise {noise}: {difference}");
                let difference = largest_difference(&scores(&wide), &scores(&narrow));
                assert!(difference < 5e-5, "{architecture:?}, {factor} times, noise {noise}, scores: {difference}");
                // As pre-training computes it.
                let loss = |encoder| {
                    let parameters = parameters(encoder);
                    masked_lm::loss(&parameters, &parameters.encoder().unwrap(), &masked()).unwrap()
                };
                let [found, expected] = [loss(&wide), loss(&narrow)];
                assert!((found.loss / expected.loss - 1.).abs() < 1e-5, "{found:?} {expected:?}");
            }
        }
    }
    // Stacked layers are wide, too, whichever comes first.
    let mut stacked = wide(&narrow(Architecture::DistilBert), hidden(48), 0.);
    stacked.stack(4).unwrap();
    let mut narrow = narrow(Architecture::DistilBert);
    narrow.stack(4).unwrap();
    let widened = wide(&narrow, hidden(48), 0.);
    assert_eq!(largest_difference(&hidden_states(&stacked), &hidden_states(&widened)), 0.);
}

#[test]
fn copies_become_different_in_training_if_their_weights_differ() {
    let narrow = narrow(Architecture::DistilBert);
    let query = "distilbert.transformer.layer.0.attention.q_lin.weight";
    for noise in [0., 0.1] {
        let parameters = parameters(&wide(&narrow, hidden(48), noise));
        let encoder = parameters.encoder().unwrap();
        let (_, gradients) =
            masked_lm::loss_and_gradients(&parameters, &encoder, &masked(), &mut Dropout::new(0.)).unwrap();
        let gradient = gradients.get(&parameters.variables()[query]).unwrap();
        let [one, other] = [0, 24].map(|row| gradient.narrow(0, row, 24).unwrap());
        let (apart, size) = (largest_difference(&one, &other), largest_difference(&one, &one.zeros_like().unwrap()));
        assert!(size > 1e-4);
        assert_eq!(apart > 1e-2 * size, noise > 0., "noise {noise}: {apart} of {size}");
    }
    // The seed alone decides.
    let bytes = |noise| serialize(wide(&narrow, hidden(48), noise).tensors()).unwrap();
    assert!(bytes(0.1) == bytes(0.1) && bytes(0.1) != bytes(0.2));
}

#[test]
fn widths_that_do_not_fit_are_refused() {
    let error = |width, noise| narrow(Architecture::DistilBert).widen(width, noise, 0).unwrap_err().to_string();
    for wrong in [36, 12, 0] {
        let error = error(hidden(wrong), 0.);
        assert!(error.contains("24, 48, 72, 96") && error.contains(&format!("{wrong} is none")), "{error}");
    }
    let heads = error(Width { heads: Some(3), ..hidden(48) }, 0.);
    assert!(heads.contains("heads stay 8 wide: a width of 48 has 6 heads, not 3"), "{heads}");
    let ffn = error(Width { ffn: Some(47), ..hidden(48) }, 0.);
    assert!(ffn.contains("feed-forward network is 48 wide, more than the 47"), "{ffn}");
    for noise in [-0.1, f64::NAN] {
        assert!(error(hidden(48), noise).contains("noise"));
    }
}
