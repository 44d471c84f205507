//! The pipeline between text and device, on a stand-in for the engine: order under many threads, batches that do not fit the device, errors in
//! the midst, readers that stop early, callers that are threads of rayon.

mod prose;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chemtag::batch::Batch;
use chemtag::{Backend, Emissions, Entity, Error, Model, Result, TagOptions, Tagger};
use prose::prose;
use rayon::prelude::*;

/// A device that calls a word a chemical if its first piece has an even number, and remembers what it was given.
#[derive(Default)]
struct Device {
    /// Pieces that it has memory for; 0: any number.
    room: usize,
    /// It fails at this call; 0: never.
    fails_at: usize,
    panics: bool,
    turns: bool,
    calls: AtomicUsize,
    largest: AtomicUsize,
    refused: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    left: AtomicBool,
}

struct OnDevice(Arc<Device>);

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.0.left.store(true, Ordering::SeqCst);
    }
}

impl Backend for OnDevice {
    fn emissions(&self, batch: &Batch) -> Result<Emissions> {
        let device = &self.0;
        let call = device.calls.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(!device.panics, "a bug of the engine");
        if call == device.fails_at {
            return Err(Error::Device("the cable is out".into()));
        }
        if device.room > 0 && batch.pieces() > device.room {
            device.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Error::OutOfMemory("full".into()));
        }
        device.largest.fetch_max(batch.pieces(), Ordering::SeqCst);
        device.most_at_once.fetch_max(device.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Not all take the same time, so that what overtakes would be seen.
        std::thread::sleep(std::time::Duration::from_micros(50 * (batch.pieces() as u64 % 7)));
        let even = |start: &u32| batch.piece_ids[*start as usize].is_multiple_of(2);
        let tags = batch.word_starts.iter().map(|start| if even(start) { [0., 4., 1.] } else { [4., 0., -1.] });
        let emissions = Emissions { tags: tags.collect(), ..Emissions::default() };
        device.at_once.fetch_sub(1, Ordering::SeqCst);
        Ok(emissions)
    }

    fn takes_turns(&self) -> bool {
        self.0.turns
    }

    fn describe(&self) -> String {
        "a stand-in".into()
    }
}

fn tagger(device: Device, threads: usize, token_budget: usize) -> (Tagger, Arc<Device>) {
    let device = Arc::new(device);
    let fixture = Tagger::load("tests/fixtures/tiny-model").unwrap();
    let (config, pieces, crf) = (fixture.model().config(), fixture.model().tokenizer(), fixture.model().crf());
    let backend = Box::new(OnDevice(device.clone()));
    let tagger = Tagger::from_model(Arc::new(Model::from_parts(config.clone(), pieces.clone(), crf.clone(), backend)));
    let options = TagOptions { threads: Some(threads), token_budget, ..TagOptions::default() };
    (tagger.with_options(options).unwrap(), device)
}

fn texts() -> Vec<String> {
    let mut texts: Vec<String> = (0..300).map(|i| prose(i * 37 % 200, i as u64)).collect();
    texts.insert(100, prose(60_000, 1000));
    texts.insert(30, prose(20_000, 1001).replace(". ", " "));
    texts
}

fn places(entities: &[Vec<Entity>]) -> Vec<Vec<(usize, usize, f32)>> {
    let of_text = |found: &Vec<Entity>| found.iter().map(|e| (e.start, e.end, e.score)).collect();
    entities.iter().map(of_text).collect()
}

/// What one call for each text gives, with one thread and all of a text in one batch.
fn expected(texts: &[&str]) -> Vec<Vec<(usize, usize, f32)>> {
    let (tagger, _) = tagger(Device::default(), 1, 10_000_000);
    let found: Vec<_> = texts.iter().map(|text| tagger.tag(text).unwrap()).collect();
    assert!(found.iter().map(Vec::len).sum::<usize>() > 5000);
    places(&found)
}

#[test]
fn results_have_the_texts_order_whatever_the_threads() {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected = expected(&texts);
    for (threads, token_budget, turns) in
        [(1, 500, false), (8, 100, false), (3, 2048, false), (8, 4000, true), (1, 700, true)]
    {
        let (tagger, device) = tagger(Device { turns, ..Device::default() }, threads, token_budget);
        assert_eq!(places(&tagger.tag_batch(&texts).unwrap()), expected, "{threads} threads, {token_budget} pieces");
        let streamed: Vec<Entity> = tagger.tag_reader(texts[100].as_bytes()).collect::<Result<_>>().unwrap();
        assert_eq!(places(&[streamed])[0], expected[100]);
        assert!(device.largest.load(Ordering::SeqCst) <= token_budget);
        assert!(device.most_at_once.load(Ordering::SeqCst) <= if turns { 1 } else { threads });
        let activity = tagger.model().activity();
        assert!(activity.pieces > 150_000 && activity.text.as_nanos() > 0 && activity.decoding.as_nanos() > 0);
    }
}

#[test]
fn batches_shrink_until_they_fit_the_device() {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected = expected(&texts);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = heard.clone();
    chemtag::on_warning(move |message| ears.lock().unwrap().push(message.to_string()));
    for turns in [true, false] {
        let (tagger, device) = tagger(Device { room: 700, turns, ..Device::default() }, 4, 10_000);
        assert_eq!(places(&tagger.tag_batch(&texts).unwrap()), expected);
        assert!(device.largest.load(Ordering::SeqCst) > 300);
        let refused = device.refused.load(Ordering::SeqCst);
        assert!(refused > 0);
        assert_eq!(places(&tagger.tag_batch(&texts).unwrap()), expected);
        assert_eq!(device.refused.load(Ordering::SeqCst), refused, "what did not fit is not tried again");
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        let about_memory = heard.iter().filter(|message| message.contains("too little memory")).count();
        assert_eq!(about_memory, 1, "{heard:?}");
    }
}

#[test]
fn a_sequence_that_does_not_fit_alone_is_an_error() {
    let (tagger, _) = tagger(Device { room: 20, turns: true, ..Device::default() }, 2, 1000);
    let error = tagger.tag_batch(&[&prose(5000, 1)]).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    let message = error.to_string();
    assert!(
        message.starts_with("a stand-in has no room for a single sequence of ") && message.contains("(full)"),
        "{message}"
    );
}

#[test]
fn an_error_in_the_midst_ends_the_run() {
    let text = prose(50_000, 2);
    for (fails_at, turns) in [(1, true), (30, true), (1, false), (30, false)] {
        let (tagger, device) = tagger(Device { fails_at, turns, ..Device::default() }, 4, 500);
        let error = tagger.tag_batch(&[&text]).unwrap_err();
        assert_eq!(error.to_string(), "the cable is out");
        device.calls.store(0, Ordering::SeqCst);
        let mut reader = tagger.tag_reader(text.as_bytes());
        let error = reader.find_map(|found| found.err()).unwrap();
        assert_eq!(error.to_string(), "the cable is out");
        assert!(reader.next().is_none(), "nothing comes after an error");
        drop(reader);
        drop(tagger);
        assert!(device.left.load(Ordering::SeqCst), "no thread holds the model any more");
    }
}

#[test]
fn who_stops_reading_leaves_no_thread_behind() {
    let text = prose(100_000, 3);
    for turns in [true, false] {
        let (tagger, device) = tagger(Device { turns, ..Device::default() }, 4, 200);
        let mut reader = tagger.tag_reader(text.as_bytes());
        assert!(reader.next().unwrap().is_ok());
        drop(reader);
        let calls = device.calls.load(Ordering::SeqCst);
        assert!(calls < 600, "{calls} batches of more than 1200 were read before anybody asked for them");
        drop(tagger);
        assert!(device.left.load(Ordering::SeqCst), "no thread holds the model any more");
        assert_eq!(device.calls.load(Ordering::SeqCst), calls);
    }
}

#[test]
fn a_panic_of_the_engine_reaches_the_caller() {
    for (turns, words) in [(true, 50_000), (false, 50_000), (true, 10)] {
        let (tagger, device) = tagger(Device { turns, panics: true, ..Device::default() }, 2, 500);
        let text = prose(words, 4);
        let call = std::panic::AssertUnwindSafe(|| tagger.tag(&text).map(|found| found.len()));
        let panic = std::panic::catch_unwind(call).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug of the engine"));
        drop(tagger);
        assert!(device.left.load(Ordering::SeqCst));
    }
}

/// Emissions for other words than were asked for.
struct Confused;

impl Backend for Confused {
    fn emissions(&self, _batch: &Batch) -> Result<Emissions> {
        Ok(Emissions { tags: vec![[0.; 3]; 3], ..Emissions::default() })
    }

    fn describe(&self) -> String {
        "confused".into()
    }
}

#[test]
fn an_engine_that_answers_for_other_words_is_an_error() {
    let fixture = Tagger::load("tests/fixtures/tiny-model").unwrap();
    let (config, pieces, crf) = (fixture.model().config(), fixture.model().tokenizer(), fixture.model().crf());
    let model = Model::from_parts(config.clone(), pieces.clone(), crf.clone(), Box::new(Confused));
    let error = Tagger::from_model(Arc::new(model)).tag("benzene in ethanol at 20 °C").unwrap_err();
    assert!(error.to_string().starts_with("confused gave emissions"), "{error}");
}

#[test]
fn threads_of_rayon_may_call() {
    let texts: Vec<String> = (0..16).map(|i| prose(3000, i)).collect();
    let references: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected = expected(&references);
    for turns in [true, false] {
        // The pool of the caller is that of the batches: were its threads to wait for them, none would be left to compute.
        let (tagger, _) = tagger(Device { turns, ..Device::default() }, 2, 500);
        let shared = tagger.with_options(TagOptions { threads: None, ..tagger.options().clone() }).unwrap();
        for tagger in [tagger, shared] {
            let found: Vec<Vec<Entity>> = references.par_iter().map(|text| tagger.tag(text).unwrap()).collect();
            assert_eq!(places(&found), expected);
            // A reader that began outside of them and ends in one.
            let mut reader = tagger.tag_reader(references[0].as_bytes());
            let first = reader.next().unwrap().unwrap();
            let rest = std::thread::scope(|_| rayon::scope(|_| reader.collect::<Result<Vec<Entity>>>().unwrap()));
            let all: Vec<Entity> = std::iter::once(first).chain(rest).collect();
            assert_eq!(places(&[all])[0], expected[0]);
        }
    }
}
