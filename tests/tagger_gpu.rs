//! The tagger on an NVIDIA GPU: what the CPU finds, from many threads at once, and with too little memory. Where there is no GPU or no default
//! model, tests say so and pass.
#![cfg(feature = "cuda")]

use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};
use chemtag::{Device, Entity, LoadOptions, Precision, TagOptions, Tagger};

const MODEL: &str = "models/chemtag-small.int8.safetensors";

/// Tests take the GPU's memory by turns: one of them fills it.
static TURN: Mutex<()> = Mutex::new(());

fn on(device: Device) -> Option<Tagger> {
    // Floats on both: what 8-bit integers change is another test's matter.
    let precision = if device == Device::Cpu { Precision::F32 } else { Precision::Auto };
    let options = LoadOptions { device, precision };
    match Tagger::load_with(MODEL, options) {
        Ok(tagger) => Some(tagger),
        Err(error) => {
            println!("not run: {error}");
            None
        }
    }
}

fn text(repeats: usize) -> String {
    let abstracts = std::fs::read_to_string("examples/abstract.txt").unwrap();
    format!("{}\n\n", abstracts.trim_end()).repeat(repeats)
}

/// The same mentions; 16-bit floats may move a score, and a border where the model itself wavers.
fn assert_alike(a: &[Entity], b: &[Entity]) {
    let of = |found: &[Entity]| found.iter().map(|e| (e.start, e.end)).collect::<Vec<_>>();
    let (a_places, b_places) = (of(a), of(b));
    let same = a_places.iter().filter(|place| b_places.binary_search(place).is_ok()).count();
    assert!(100 * same >= 99 * a.len().max(b.len()), "{same} of {} and {}", a.len(), b.len());
    for entity in a {
        if let Ok(other) = b_places.binary_search(&(entity.start, entity.end)) {
            assert!((entity.score - b[other].score).abs() < 0.05, "{entity:?} {:?}", b[other]);
        }
    }
}

#[test]
fn the_gpu_finds_what_the_cpu_finds() {
    let _turn = TURN.lock();
    let (Some(gpu), Some(cpu)) = (on(Device::Cuda(0)), on(Device::Cpu)) else { return };
    assert!(gpu.model().backend().describe().starts_with("candle, cuda:0"), "{}", gpu.model().backend().describe());
    let text = text(4);
    let expected = cpu.tag(&text).unwrap();
    assert!(expected.len() > 40);
    assert_alike(&gpu.tag(&text).unwrap(), &expected);
    let streamed: Vec<Entity> = gpu.tag_reader(text.as_bytes()).collect::<chemtag::Result<_>>().unwrap();
    assert_alike(&streamed, &expected);
}

#[test]
fn many_batches_and_threads_give_the_same() {
    let _turn = TURN.lock();
    // Loaded in one thread, used in others: its weights must be there.
    let Some(gpu) = std::thread::spawn(|| on(Device::Cuda(0))).join().unwrap() else { return };
    let text = text(300);
    let whole = gpu.tag(&text).unwrap();
    let small = gpu.with_options(TagOptions { token_budget: 3000, threads: Some(8), ..TagOptions::default() }).unwrap();
    assert_alike(&small.tag(&text).unwrap(), &whole);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_alike(&small.clone().tag(&text).unwrap(), &whole));
        }
    });
}

#[test]
fn batches_shrink_where_memory_is_short() {
    let _turn = TURN.lock();
    let (Some(gpu), Some(other)) = (on(Device::Cuda(0)), on(Device::Cuda(0))) else { return };
    let text = text(2500);
    let expected = other.tag(&text).unwrap();
    drop(other);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = heard.clone();
    chemtag::on_warning(move |message| ears.lock().unwrap().push(message.to_string()));
    // All of the memory but 3 GB is taken; half a million pieces at once would need more.
    let device = Device::Cuda(0).open().unwrap();
    let stream = device.as_cuda_device().unwrap().cuda_stream();
    stream.synchronize().unwrap();
    let mut hogs = Vec::new();
    while stream.context().mem_get_info().unwrap().0 > 3 << 30 {
        hogs.push(Tensor::zeros(256 << 20, DType::U8, &device).unwrap());
        stream.synchronize().unwrap();
    }
    let large = gpu.with_options(TagOptions { token_budget: 2_000_000, ..TagOptions::default() }).unwrap();
    let found = large.tag(&text).unwrap();
    drop(hogs);
    assert_alike(&found, &expected);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.iter().filter(|message| message.contains("too little memory free")).count(), 1, "{heard:?}");
}

#[test]
fn a_gpu_that_is_not_there_is_named_with_those_that_are() {
    let _turn = TURN.lock();
    if Device::Cuda(0).open().is_err() {
        println!("no GPU: not run");
        return;
    }
    let message = Device::Cuda(99).open().unwrap_err().to_string();
    assert!(message.starts_with("cuda:99 cannot be used: there "), "{message}");
}
