//! Models with random weights -> the model to publish: the mean of their numbers, in f16, under the names that the product loads.

mod support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use chemtag::batch::Batch;
use chemtag::int8::to_file;
use chemtag::model::config::Architecture;
use chemtag::{ModelFiles, Tagger};
use chemtag_training::export::{Description, export};
use chemtag_training::parameters::{Parameters, Task, save_folder, serialize};
use support::words::Vocabulary;

/// A tagger in f32 whose file also holds a tensor that taggers do not need.
fn model(seed: u64, layers: usize) -> ModelFiles {
    let config = support::config(Architecture::Bert, layers, 2, 8);
    let checkpoint = support::checkpoint(&config.encoder, seed);
    let parameters =
        Parameters::from_checkpoint(&checkpoint, "generated", config.clone(), Task::Tagging, seed, &Device::Cpu)
            .unwrap();
    let mut tensors: BTreeMap<String, Tensor> = parameters.values(DType::F32).unwrap().into_iter().collect();
    tensors.insert("cls.predictions.bias".into(), Tensor::zeros(44, DType::F32, &Device::Cpu).unwrap());
    ModelFiles {
        names: ["config.json", "tokenizer.json", "model.safetensors"].map(|name| format!("{seed}/{name}")),
        config: config.to_json().to_string().into_bytes().into(),
        tokenizer: Vocabulary::Pairs.json().into(),
        weights: serialize(&tensors).unwrap().into(),
        self_contained: false,
    }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn models_become_the_mean_of_their_weights() {
    let models = [model(1, 1), model(2, 1), model(3, 1)];
    let description =
        Description { name: Some("soup".into()), model_version: Some("1.2".into()), license: None, temperature: None };
    let exported = export(&models, &description).unwrap();
    let tagger = &exported.config.tagger;
    assert_eq!([&tagger.name, &tagger.version, &tagger.license], ["soup", "1.2", "unknown"]);
    let originals = models.each_ref().map(|m| candle_core::safetensors::load_buffer(&m.weights, &Device::Cpu).unwrap());
    assert_eq!(exported.tensors.len(), originals[0].len() - 1);
    for (name, tensor) in &exported.tensors {
        assert_eq!(tensor.dtype(), DType::F16);
        let parts = originals.each_ref().map(|tensors| numbers(&tensors[name]));
        for (i, found) in numbers(tensor).into_iter().enumerate() {
            let mean = (parts[0][i] + parts[1][i] + parts[2][i]) / 3.;
            assert!((found - mean).abs() <= 1e-3 * mean.abs() + 1e-6, "{name}: {found}, mean {mean}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    save_folder(folder.path(), &exported.config, &models[0].tokenizer, exported.tensors).unwrap();
    let tagger = Tagger::load(folder.path()).unwrap();
    assert_eq!(tagger.model().config(), &exported.config);

    // The same in 8 bits: BERT's names and token types in the integer engine.
    let file = folder.path().join("soup.int8.safetensors");
    std::fs::write(&file, to_file(&ModelFiles::read(&folder.path().into()).unwrap()).unwrap()).unwrap();
    let integers = Tagger::load(&file).unwrap();
    assert!(integers.model().backend().describe().starts_with("int8, cpu, "));
    let mut batch = Batch::default();
    batch.push(&(0..20).collect::<Vec<u32>>(), &(0..20).collect::<Vec<u32>>());
    let [exact, rounded] = [&tagger, &integers].map(|tagger| tagger.model().backend().emissions(&batch).unwrap());
    let (mut change, mut size) = (0., 0.);
    for (a, b) in exact.tags.as_flattened().iter().zip(rounded.tags.as_flattened()) {
        (change, size) = (change + (a - b).powi(2), size + a.powi(2));
    }
    assert!(size > 0. && change < 0.01 * size, "the emissions change by the root of {change} of {size}");
}

#[test]
fn what_cannot_be_one_model_is_named() {
    let error = |models: &[ModelFiles]| export(models, &Description::default()).unwrap_err().to_string();
    assert!(error(&[]).contains("no model"));
    let sizes = error(&[model(1, 1), model(2, 2)]);
    assert!(sizes.contains("1/config.json and 2/config.json differ in the encoder's sizes"), "{sizes}");
    let letters = ModelFiles { tokenizer: Vocabulary::Letters.json().into(), ..model(2, 1) };
    assert!(error(&[model(1, 1), letters]).contains("2/tokenizer.json differ in the tokenizer"));
    let with = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let model = model(4, 1);
        let tensors = candle_core::safetensors::load_buffer(&model.weights, &Device::Cpu).unwrap();
        let mut tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        change(&mut tensors);
        ModelFiles { weights: serialize(&tensors).unwrap().into(), self_contained: false, ..model }
    };
    let missing = error(&[with(&|tensors| _ = tensors.remove("classifier.weight"))]);
    assert!(missing.contains("4/model.safetensors") && missing.contains("classifier.weight"), "{missing}");
    for number in [1e6, f32::NAN] {
        let name = "classifier.bias";
        let large =
            with(&|tensors| _ = tensors.insert(name.into(), Tensor::new(&[0., number, 0.], &Device::Cpu).unwrap()));
        assert!(error(&[large]).contains("classifier.bias has numbers that f16 cannot hold"));
    }
}

#[test]
fn a_temperature_moves_posteriors_and_no_mention() {
    let tagger = |temperature| {
        let description = Description { temperature, ..Description::default() };
        let (model, folder) = (model(5, 1), tempfile::tempdir().unwrap());
        let exported = export(std::slice::from_ref(&model), &description).unwrap();
        save_folder(folder.path(), &exported.config, &model.tokenizer, exported.tensors).unwrap();
        Tagger::load(folder.path()).unwrap()
    };
    let text = support::words::text(20, 3);
    let (own, warm) = (tagger(None), tagger(Some(2.)));
    let (own, warm) = (own.tag(&text).unwrap(), warm.tag(&text).unwrap());
    assert!(own.len() > 10);
    let places = |found: &[chemtag::Entity]| found.iter().map(|e| (e.start, e.end)).collect::<Vec<_>>();
    assert_eq!(places(&own), places(&warm));
    let mean = |found: &[chemtag::Entity]| found.iter().map(|e| e.score).sum::<f32>() / found.len() as f32;
    assert!(mean(&warm) < mean(&own) - 0.01, "{} {}", mean(&warm), mean(&own));
    for wrong in [0., -1., f64::NAN] {
        let description = Description { temperature: Some(wrong), ..Description::default() };
        assert!(export(&[model(5, 1)], &description).unwrap_err().to_string().contains("must be a number above 0"));
    }
}
