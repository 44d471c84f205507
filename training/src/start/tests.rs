use super::*;
use crate::bert_tokenizer::{Normalization, SPECIAL, tokenizer_json};

fn sizes(architecture: Architecture, vocab_size: usize) -> EncoderConfig {
    let token_types = if architecture == Architecture::Bert { 2 } else { 0 };
    EncoderConfig {
        architecture,
        vocab_size,
        hidden: 4,
        layers: 2,
        heads: 2,
        ffn: 6,
        max_positions: 12,
        token_types,
        layer_norm_eps: 1e-12,
        dropout: 0.1,
    }
}

/// An encoder of distinct numbers, with a head.
fn trained(architecture: Architecture, vocab_size: usize) -> StartingEncoder {
    let mut encoder = StartingEncoder::fresh(sizes(architecture, vocab_size), 5).unwrap();
    let head = head_shapes(&encoder.config, Task::MaskedLm);
    for (number, (name, shape)) in head.into_iter().enumerate() {
        let count = shape.iter().product::<usize>();
        let numbers = (0..count).map(|i| (number * 1000 + i) as f32 / 100.).collect();
        encoder.tensors.insert(name, Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap());
    }
    encoder
}

fn pieces(list: &[&str]) -> Vec<String> {
    SPECIAL.iter().chain(list).map(|piece| piece.to_string()).collect()
}

fn rows(encoder: &StartingEncoder, name: &str) -> Vec<Vec<f32>> {
    encoder.tensors[name].to_vec2().unwrap()
}

fn numbers(encoder: &StartingEncoder, name: &str) -> Vec<f32> {
    encoder.tensors[name].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_new_piece_has_the_mean_of_the_old_pieces_that_spell_it() {
    let old = pieces(&["na", "##cl", "##ene", "benz", "ene", "##z", "-"]);
    let json = tokenizer_json(&old, &Normalization::UNCASED);
    let spelling = Spelling::new(&json, "old", old.len()).unwrap();
    let id = |piece: &str| old.iter().position(|known| known == piece).unwrap();
    let mut encoder = trained(Architecture::Bert, old.len());
    let words = "bert.embeddings.word_embeddings.weight";
    let (before, bias_before) = (rows(&encoder, words), numbers(&encoder, "cls.predictions.bias"));
    let new = pieces(&["NaCl", "##Cl", "Benzene", "##zene", "ene", "##ene", "-", "q", "[NEW]"]);
    assert_eq!(encoder.transfer(&spelling, &new, 3).unwrap(), 2);
    let (after, bias) = (rows(&encoder, words), numbers(&encoder, "cls.predictions.bias"));
    assert_eq!((after.len(), bias.len(), encoder.config.encoder.vocab_size), (new.len(), new.len(), new.len()));
    for (piece, spelled) in [
        ("[PAD]", vec!["[PAD]"]),
        ("[MASK]", vec!["[MASK]"]),
        ("NaCl", vec!["na", "##cl"]),
        ("##Cl", vec!["##cl"]),
        ("Benzene", vec!["benz", "##ene"]),
        // Within a word, so spelled by pieces from within words.
        ("##zene", vec!["##z", "##ene"]),
        ("ene", vec!["ene"]),
        ("##ene", vec!["##ene"]),
        ("-", vec!["-"]),
    ] {
        let new_id = new.iter().position(|known| known == piece).unwrap();
        let mean = |of: &dyn Fn(usize) -> f32| spelled.iter().map(|p| of(id(p))).sum::<f32>() / spelled.len() as f32;
        for column in 0..4 {
            let expected = mean(&|row| before[row][column]);
            assert!((after[new_id][column] - expected).abs() < 1e-6, "{piece}: {} {expected}", after[new_id][column]);
        }
        assert!((bias[new_id] - mean(&|row| bias_before[row])).abs() < 1e-5, "{piece}");
    }
    // What cannot be spelled is drawn, from the seed alone.
    let drawn = &after[new.len() - 2..];
    assert!(drawn.iter().flatten().all(|x| x.abs() < 0.1) && drawn[0] != drawn[1]);
    assert_eq!(bias[new.len() - 2..], [0., 0.]);
    let mut again = trained(Architecture::Bert, old.len());
    again.transfer(&spelling, &new, 3).unwrap();
    assert_eq!(rows(&again, words), after);
}

#[test]
fn stacked_layers_equal_their_origin() {
    for architecture in [Architecture::DistilBert, Architecture::Bert] {
        let before = trained(architecture, 8);
        let mut after = before.clone();
        after.stack(5).unwrap();
        let layer_of = |name: &str| -> Option<(String, usize)> {
            let (head, rest) = name.split_once(".layer.")?;
            let (number, part) = rest.split_once('.')?;
            Some((format!("{head}.layer.N.{part}"), number.parse().unwrap()))
        };
        let of_before = before.tensors.keys().filter(|name| layer_of(name).is_some()).count();
        let of_after = after.tensors.keys().filter(|name| layer_of(name).is_some()).count();
        assert_eq!((of_before, of_after), (2 * 16, 5 * 16));
        for name in after.tensors.keys() {
            let origin = match layer_of(name) {
                Some((pattern, number)) => pattern.replace("layer.N", &format!("layer.{}", number % 2)),
                None => name.clone(),
            };
            assert_eq!(numbers(&after, name), numbers(&before, &origin), "{name}");
        }
        let error = after.stack(4).unwrap_err().to_string();
        assert!(error.contains("has 5 layers"), "{error}");
    }
}

#[test]
fn the_same_seed_gives_the_same_folder_and_another_seed_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, seed| {
        let path = folder.path().join(name);
        StartingEncoder::fresh(sizes(Architecture::DistilBert, 30), seed).unwrap().save(&path, b"{}").unwrap();
        std::fs::read(path.join("model.safetensors")).unwrap()
    };
    assert_eq!(save("a", 1), save("b", 1));
    assert_ne!(save("a", 1), save("c", 2));
    let config = std::fs::read(folder.path().join("a/config.json")).unwrap();
    let config = ModelConfig::from_json(&config, "config.json").unwrap();
    assert_eq!((config.encoder.vocab_size, config.tagger.sequence_pieces), (30, 10));
    let encoder = StartingEncoder::fresh(sizes(Architecture::DistilBert, 30), 1).unwrap();
    let again = StartingEncoder::from_checkpoint(&save("a", 1), "a", config).unwrap();
    assert_eq!(again.tensors.len(), encoder.tensors.len());
    for (name, tensor) in &encoder.tensors {
        let difference = (tensor - &again.tensors[name]).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-4, "{name}");
    }
}
