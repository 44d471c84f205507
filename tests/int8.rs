//! The integer engine as a whole: the same bits on every kernel, in any batch and on any number of threads; close to the floats that it was
//! made from; one file that holds all of a model.

mod random_model;

use candle_core::{DType, Device::Cpu};
use chemtag::batch::Batch;
use chemtag::int8::{IntegerBackend, Kernel, to_file};
use chemtag::model::Network;
use chemtag::model::config::ModelConfig;
use chemtag::model::weights::Weights;
use chemtag::{Backend, CandleBackend, Device, Emissions, Error, LoadOptions, ModelFiles, Precision, Tagger};

const DEFAULT: &str = "models/chemtag-small";
/// What `chemtag-train export --int8` made of it, which is what ships.
const SHIPPED: &str = "models/chemtag-small.int8.safetensors";
const F32: LoadOptions = LoadOptions { device: Device::Cpu, precision: Precision::F32 };
const INT8: LoadOptions = LoadOptions { device: Device::Cpu, precision: Precision::Int8 };

fn integers(files: &ModelFiles, kernel: Kernel) -> IntegerBackend {
    let config = ModelConfig::from_json(&files.config, &files.names[0]).unwrap();
    IntegerBackend::load(&files.weights, &files.names[2], &config, kernel).unwrap().0
}

/// Sequences of these lengths, of pieces below `vocabulary`, every `stride`-th piece the first of a word.
fn batch(lengths: &[usize], vocabulary: u32, stride: usize) -> Batch {
    let mut batch = Batch::default();
    let mut state = 17u32;
    for &length in lengths {
        let mut id = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocabulary
        };
        let ids: Vec<u32> = (0..length).map(|_| id()).collect();
        batch.push(&ids, &(0..length as u32).step_by(stride).collect::<Vec<_>>());
    }
    batch
}

fn bits(emissions: &Emissions) -> Vec<u32> {
    emissions.tags.as_flattened().iter().chain(&emissions.class_logits).map(|x| x.to_bits()).collect()
}

fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Two models: one of odd sizes, and the one that ships.
fn models() -> Vec<(ModelFiles, u32)> {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), 2, 36, 5);
    [(folder.path().to_str().unwrap(), 12), (DEFAULT, 24_000)]
        .map(|(path, vocabulary)| (ModelFiles::read(&path.into()).unwrap(), vocabulary))
        .into()
}

#[test]
fn every_kernel_gives_the_same_bits() {
    for (files, vocabulary) in models() {
        let batch = batch(&[3, 17, 1, 40], vocabulary, 2);
        let scalar = integers(&files, Kernel::named("scalar").unwrap()).emissions(&batch).unwrap();
        assert_eq!(scalar.tags.len(), batch.words());
        for kernel in Kernel::available() {
            let backend = integers(&files, kernel);
            assert_eq!(bits(&backend.emissions(&batch).unwrap()), bits(&scalar), "{}", backend.describe());
        }
        println!("compared: {:?}", Kernel::available().iter().map(Kernel::name).collect::<Vec<_>>());
    }
}

/// The number was recorded on x86-64 with AVX-512 VNNI. A machine on which this fails computes something else than that one; a change of the
/// format or of the order of a sum changes it everywhere.
#[test]
fn another_machine_gives_the_same_bits() {
    let (files, vocabulary) = models().swap_remove(0);
    let emissions = integers(&files, Kernel::best()).emissions(&batch(&[3, 17, 1, 40], vocabulary, 1)).unwrap();
    // FNV-1a.
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = bits(&emissions).into_iter().flat_map(u32::to_le_bytes);
    assert_eq!(format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, hash)), "738e77e1f4905a43");
}

#[test]
fn neither_batch_nor_threads_change_a_bit() {
    let lengths = [1, 5, 64, 30, 31, 2, 7, 50, 33, 60, 8, 9, 16, 48, 12, 64, 3];
    for (files, vocabulary) in models() {
        let backend = integers(&files, Kernel::best());
        let together = batch(&lengths, vocabulary, 3);
        let expected = with_threads(1, || backend.emissions(&together).unwrap());
        for threads in [2, 3, 8] {
            let found = with_threads(threads, || backend.emissions(&together).unwrap());
            assert_eq!(bits(&found), bits(&expected), "{threads} threads");
        }
        let classes = expected.classes;
        for (i, ends) in together.cu_seqlens.windows(2).enumerate() {
            let mut alone = Batch::default();
            let words = together.cu_words[i] as usize..together.cu_words[i + 1] as usize;
            let starts: Vec<u32> = together.word_starts[words.clone()].iter().map(|start| start - ends[0]).collect();
            alone.push(&together.piece_ids[ends[0] as usize..ends[1] as usize], &starts);
            for threads in [1, 2, 5] {
                let found = with_threads(threads, || backend.emissions(&alone).unwrap());
                let expected = Emissions {
                    tags: expected.tags[words.clone()].to_vec(),
                    class_logits: expected.class_logits[words.start * classes..words.end * classes].to_vec(),
                    classes,
                };
                assert_eq!(bits(&found), bits(&expected), "sequence {i} alone, {threads} threads");
            }
        }
    }
}

#[test]
fn empty_and_wordless_batches_have_no_emissions() {
    let backend = integers(&ModelFiles::read(&DEFAULT.into()).unwrap(), Kernel::best());
    assert!(backend.emissions(&Batch::default()).unwrap().tags.is_empty());
    let mut wordless = Batch::default();
    wordless.push(&[], &[]);
    assert!(backend.emissions(&wordless).unwrap().tags.is_empty());
    wordless.push(&[2, 3], &[]);
    wordless.push(&[], &[]);
    assert!(backend.emissions(&wordless).unwrap().tags.is_empty());
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let backend = integers(&ModelFiles::read(&DEFAULT.into()).unwrap(), Kernel::best());
    let good = batch(&[4, 5], 24_000, 1);
    type Spoil = fn(&mut Batch);
    let spoilt: [(&str, Spoil); 6] = [
        ("id is not below 24000", |batch| batch.piece_ids[3] = 24_000),
        ("position below 512", |batch| batch.positions[3] = 512),
        ("position below 512", |batch| batch.positions.truncate(8)),
        ("do not ascend", |batch| batch.cu_seqlens[1] = 10),
        ("do not ascend", |batch| batch.cu_words[2] = 8),
        ("outside of its sequence", |batch| batch.word_starts[1] = 6),
    ];
    for (expected, spoil) in spoilt {
        let mut batch = good.clone();
        spoil(&mut batch);
        let error = backend.emissions(&batch).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Text of the repository: the sentences from elsewhere and the example.
fn texts() -> Vec<String> {
    let general = include_str!("general_text.jsonl").lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["text"].as_str().unwrap().to_string()
    });
    general.chain([std::fs::read_to_string("examples/abstract.txt").unwrap()]).collect()
}

#[test]
fn mentions_are_those_of_the_floats() {
    let (floats, integers) = (Tagger::load_with(DEFAULT, F32).unwrap(), Tagger::load_with(DEFAULT, INT8).unwrap());
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (mut both, mut of_floats, mut of_integers, mut shift) = (0, 0, 0, 0f32);
    for (a, b) in floats.tag_batch(&texts).unwrap().iter().zip(integers.tag_batch(&texts).unwrap()) {
        (of_floats, of_integers) = (of_floats + a.len(), of_integers + b.len());
        for a in a {
            if let Some(b) = b.iter().find(|b| (a.start, a.end) == (b.start, b.end)) {
                both += 1;
                shift = shift.max((a.score - b.score).abs());
            }
        }
    }
    let f1 = 200. * f64::from(both) / (of_floats + of_integers) as f64;
    println!(
        "{of_floats} mentions in f32, {of_integers} in int8, {both} the same: F1 {f1:.2} %; scores differ by up to {shift:.3}"
    );
    // On a few thousand mentions of the corpora it is above 99 (docs/quantization.md); one mention of these is more than half a percent.
    assert!(of_floats > 70 && f1 >= 97., "{of_floats}, {of_integers}, {both}");
}

/// Euclidean distance of each word's emissions.
fn distances(a: &Emissions, b: &Emissions) -> Vec<f64> {
    let distance =
        |(a, b): (&[f32; 3], &[f32; 3])| a.iter().zip(b).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    a.tags.iter().zip(&b.tags).map(distance).collect()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn root_mean_square(numbers: Vec<f64>) -> f64 {
    (numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len() as f64).sqrt()
}

/// Emissions of a model in f32, with fake quantisation, and of the integer engine. The weights become 16-bit floats first, as training writes them.
fn three_ways(mut files: ModelFiles, batch: &Batch) -> [Emissions; 3] {
    let config = ModelConfig::from_json(&files.config, &files.names[0]).unwrap();
    let read = |bytes: &[u8], dtype| Weights::from_safetensors(bytes, "file", dtype, &Cpu).unwrap();
    files.weights = safetensors::serialize(read(&files.weights, DType::F16).tensors(), None).unwrap().into();
    let weights = read(&files.weights, DType::F32);
    let emissions = |network| CandleBackend::from_network(network).emissions(batch).unwrap();
    [
        emissions(Network::load(&weights, &config).unwrap()),
        emissions(Network::fake_quantised(&weights, &config).unwrap()),
        integers(&files, Kernel::best()).emissions(batch).unwrap(),
    ]
}

/// Where one layer has few values, those of most words all round to the engine's integers, and the last bits are left.
#[test]
fn fake_quantisation_computes_what_the_engine_computes() {
    let mut ratios = Vec::new();
    for seed in 1..=5 {
        let folder = tempfile::tempdir().unwrap();
        random_model::write(folder.path(), 1, 16, seed);
        let files = ModelFiles::read(&folder.path().into()).unwrap();
        let [floats, fake, engine] = three_ways(files, &batch(&[3, 17, 1, 40, 50, 50], 12, 1));
        let [of_floats, of_fake] = [floats, fake].map(|emissions| median(distances(&emissions, &engine)));
        println!("median distance to the engine: floats {of_floats:.2e}, fake quantisation {of_fake:.2e}");
        ratios.push(of_floats / of_fake);
    }
    assert!(ratios.iter().all(|&ratio| ratio > 300.), "{ratios:?}");
}

/// In a wide and deep network a last bit of exp or GELU moves one value in some thousands to the next integer, each moved value moves others in the next layer, and
/// after six layers two such roundings differ as much as either from the floats. What training must know is their size.
#[test]
fn fake_quantisation_has_the_noise_of_the_engine() {
    let (files, vocabulary) = models().swap_remove(1);
    let [floats, fake, engine] = three_ways(files, &batch(&[3, 17, 1, 40, 50, 50, 60, 60, 60], vocabulary, 1));
    let [of_fake, of_engine] = [&fake, &engine].map(|emissions| root_mean_square(distances(emissions, &floats)));
    let between = root_mean_square(distances(&fake, &engine));
    println!(
        "distance to the floats: fake quantisation {of_fake:.3e}, engine {of_engine:.3e}; between the two {between:.3e}"
    );
    assert!((of_fake / of_engine - 1.).abs() < 0.3, "{of_fake} {of_engine}");
}

#[test]
fn what_ships_is_what_export_makes_of_the_folder() {
    let shipped = std::fs::read(SHIPPED).unwrap();
    let made = to_file(&ModelFiles::read(&DEFAULT.into()).unwrap()).unwrap();
    let first = shipped.iter().zip(&made).position(|(a, b)| a != b);
    assert_eq!((shipped.len(), first), (made.len(), None), "export the folder again: chemtag-train export --int8");
    let listed = std::fs::read_to_string(format!("{SHIPPED}.sha256")).unwrap();
    let hash = ModelFiles::read(&SHIPPED.into()).unwrap().hash();
    assert_eq!(listed, format!("{hash}  chemtag-small.int8.safetensors\n"), "renew it with sha256sum");
}

#[cfg(feature = "embedded-model")]
#[test]
fn the_program_carries_what_ships() {
    let [embedded, file] = [Tagger::load_default().unwrap(), Tagger::load(SHIPPED).unwrap()];
    assert_eq!(embedded.model().hash(), file.model().hash());
    assert!(embedded.model().backend().describe().starts_with("int8, cpu, "));
    let batch = batch(&[40, 9], 24_000, 1);
    let [embedded, file] = [embedded, file].map(|tagger| bits(&tagger.model().backend().emissions(&batch).unwrap()));
    assert_eq!(embedded, file);
}

#[test]
fn one_file_holds_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::read(&DEFAULT.into()).unwrap();
    let bytes = to_file(&files).unwrap();
    assert!(bytes.len() <= 24_000_000, "{} bytes", bytes.len());
    let path = folder.path().join("model.int8.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let read = ModelFiles::read(&path.as_path().into()).unwrap();
    assert_eq!(to_file(&read).unwrap(), bytes, "made again of itself it is the same");

    let batch = batch(&[20, 9], 24_000, 1);
    let from_file = Tagger::load(&path).unwrap();
    assert!(from_file.model().backend().describe().starts_with("int8, cpu, "), "the file's numbers decide");
    let quantised = integers(&files, Kernel::best()).emissions(&batch).unwrap();
    assert_eq!(bits(&from_file.model().backend().emissions(&batch).unwrap()), bits(&quantised));
    assert_eq!(from_file.model().config(), Tagger::load(DEFAULT).unwrap().model().config());
    assert_eq!(from_file.model().crf(), Tagger::load(DEFAULT).unwrap().model().crf());

    // The reference reads it too: what is left between the two is the rounding of activations.
    let config = from_file.model().config();
    let (floats, _) = CandleBackend::load(&bytes, "file", config, Device::Cpu, Precision::F32).unwrap();
    let floats = floats.emissions(&batch).unwrap();
    let pairs = floats.tags.as_flattened().iter().zip(quantised.tags.as_flattened());
    let (mut distance, mut size) = (0., 0.);
    for (a, b) in pairs {
        distance += (a - b).powi(2);
        size += a.powi(2);
    }
    assert!((distance / size).sqrt() < 0.1, "root mean square distance {distance} of {size}");
}

#[test]
fn damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), 1, 32, 5);
    let bytes = to_file(&ModelFiles::read(&folder.path().into()).unwrap()).unwrap();
    let path = folder.path().join("m.safetensors");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Tagger::load(&path).err().unwrap();
        assert!(matches!(error, Error::Model { .. } | Error::Shape { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("m.safetensors"), "{message}");
        message
    };
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(error(&bytes[..length]).contains("not a whole safetensors file"), "cut at {length}");
    }
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    assert!(error(&replaced("chemtag-int8", "chemtag-int9")).contains("no metadata of the format"));
    assert!(error(&replaced(r#""format_version":"1""#, r#""format_version":"2""#)).contains("format_version is 2"));
    assert!(error(&replaced("q_lin.weight_scale", "q_lin.weight_scolx")).contains("weight_scale is missing"));
    let mut with_low = bytes.clone();
    *with_low.last_mut().unwrap() = 0x80;
    assert!(error(&with_low).contains("holds -128"));
    // A folder's own weights are no self-contained file.
    assert!(error(&std::fs::read(folder.path().join("model.safetensors")).unwrap()).contains("no metadata"));
}

#[test]
fn integers_are_for_the_cpu_and_kernels_for_those_that_have_them() {
    let options = LoadOptions { device: Device::Cuda(0), precision: Precision::Int8 };
    let error = Tagger::load_with("tests/fixtures/tiny-model", options).err().unwrap().to_string();
    assert!(error.contains("computed on the CPU"), "{error}");
    let anywhere = LoadOptions { device: Device::Auto, precision: Precision::Int8 };
    let tagger = Tagger::load_with("tests/fixtures/tiny-model", anywhere).unwrap();
    assert!(tagger.model().backend().describe().starts_with("int8, cpu"));
}
