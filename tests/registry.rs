//! The registry as its users see it: one model however many ask, loads in the background, changed and damaged files, cancellation.

mod random_model;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::time::{Duration, Instant};

use chemtag::{Device, Error, LoadOptions, ModelFiles, Precision, Preload, Registry, Result, Stage, Tagger};
use rayon::prelude::*;
use tempfile::TempDir;

const AUTO: LoadOptions = LoadOptions { device: Device::Auto, precision: Precision::Auto };

fn tiny(seed: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    random_model::write(folder.path(), 1, 32, seed);
    folder
}

/// A registry that counts how often it reads a model.
fn counting() -> (Registry, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let count = reads.clone();
    let registry = Registry::with_reader(move |source, on_portion| {
        count.fetch_add(1, Ordering::SeqCst);
        ModelFiles::read_in_portions(source, on_portion)
    });
    (registry, reads)
}

/// A registry whose every read takes four portions of 25 bytes each, of which each waits for a go.
struct Slow {
    registry: Registry,
    /// A reader takes one before each portion. Dropped: all readers run on.
    go: Option<Sender<()>>,
    /// Gets what the reader was told after each portion: whether to go on.
    told: Receiver<bool>,
}

impl Slow {
    fn new() -> Self {
        let ((go, gate), (tell, told)) = (channel(), channel());
        let (gate, tell) = (Mutex::new(gate), Mutex::new(tell));
        let registry = Registry::with_reader(move |source, on_portion| {
            for portion in 1..=4 {
                // A dropped sender is a go, too.
                let _ = gate.lock().unwrap().recv();
                let answer = on_portion(25 * portion, Some(100));
                let _ = tell.lock().unwrap().send(answer.is_ok());
                answer?;
            }
            ModelFiles::read(source)
        });
        Self { registry, go: Some(go), told }
    }

    /// Lets the reader through one portion and says whether it was told to go on.
    fn portion(&self) -> bool {
        self.go.as_ref().unwrap().send(()).unwrap();
        self.told.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

fn same(a: &Tagger, b: &Tagger) -> bool {
    Arc::ptr_eq(a.model(), b.model())
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited for a minute until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_cancelled(result: Result<Tagger>) -> bool {
    matches!(result, Err(Error::Cancelled { .. }))
}

#[test]
fn first_calls_of_64_threads_load_once() {
    let model = tiny(1);
    let (registry, reads) = counting();
    let barrier = Barrier::new(64);
    let taggers: Vec<Tagger> = std::thread::scope(|scope| {
        let call = || {
            barrier.wait();
            registry.get(model.path(), AUTO).unwrap()
        };
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(call)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(taggers.iter().all(|tagger| same(tagger, &taggers[0])));
    assert_eq!((registry.loads(), reads.load(Ordering::SeqCst)), (1, 1));
    // Nothing but the taggers holds the model.
    assert_eq!(Arc::strong_count(taggers[0].model()), 64);
    assert_eq!(taggers[0].tag("benzene in ethanol.").unwrap(), taggers[63].tag("benzene in ethanol.").unwrap());
}

#[test]
fn calls_from_rayons_threads_do_not_wait_for_each_other() {
    let model = tiny(1);
    let registry = Registry::new();
    let taggers: Vec<Tagger> = (0..64).into_par_iter().map(|_| registry.get(model.path(), AUTO).unwrap()).collect();
    assert_eq!((taggers.len(), registry.loads()), (64, 1));
}

#[test]
fn a_second_call_reads_nothing_and_takes_less_than_a_millisecond() {
    let model = tiny(1);
    let (registry, reads) = counting();
    let first = registry.get(model.path(), AUTO).unwrap();
    let mut times: Vec<Duration> = (0..1001)
        .map(|_| {
            let begin = Instant::now();
            let again = registry.get(model.path(), AUTO).unwrap();
            let time = begin.elapsed();
            assert!(same(&first, &again));
            time
        })
        .collect();
    times.sort();
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    assert!(times[500] < Duration::from_millis(1), "median {:?}", times[500]);
}

#[test]
fn equal_content_is_one_model_whatever_its_path() {
    let (one, two) = (tiny(1), tiny(1));
    let (registry, reads) = counting();
    let paths = [one.path(), two.path()];
    let taggers: Vec<Tagger> = std::thread::scope(|scope| {
        let registry = &registry;
        let threads = paths.map(|path| scope.spawn(move || registry.get(path, AUTO).unwrap()));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(same(&taggers[0], &taggers[1]));
    assert_eq!((registry.loads(), reads.load(Ordering::SeqCst)), (1, 2));
    // Both paths are known now.
    for path in paths {
        assert!(same(&taggers[0], &registry.get(path, AUTO).unwrap()));
    }
    assert_eq!(reads.load(Ordering::SeqCst), 2);
}

#[test]
fn auto_is_what_it_stands_for() {
    let model = tiny(1);
    let registry = Registry::new();
    let auto = registry.get(model.path(), AUTO).unwrap();
    let named = match Device::Auto.open().unwrap().is_cpu() {
        true => LoadOptions { device: Device::Cpu, precision: Precision::F32 },
        false => LoadOptions { device: Device::Cuda(0), precision: Precision::F16 },
    };
    assert!(same(&auto, &registry.get(model.path(), named).unwrap()));
    assert_eq!(registry.loads(), 1);
}

#[test]
fn models_with_the_same_tokenizer_file_share_it() {
    let (one, two) = (tiny(1), tiny(2));
    let registry = Registry::new();
    let [a, b] = [one.path(), two.path()].map(|path| registry.get(path, AUTO).unwrap());
    assert!(!same(&a, &b));
    assert_ne!(a.model().hash(), b.model().hash());
    assert!(Arc::ptr_eq(a.model().tokenizer(), b.model().tokenizer()));
    assert!(!Arc::ptr_eq(a.model().tokenizer(), Tagger::load(one.path()).unwrap().model().tokenizer()));
}

#[test]
fn a_changed_file_is_another_model() {
    let model = tiny(1);
    let (registry, reads) = counting();
    let old = registry.get(model.path(), AUTO).unwrap();
    random_model::write(model.path(), 1, 32, 2);
    let new = registry.get(model.path(), AUTO).unwrap();
    assert!(!same(&old, &new));
    assert_eq!(new.model().hash(), ModelFiles::read(&model.path().into()).unwrap().hash());
    assert_eq!((registry.loads(), reads.load(Ordering::SeqCst)), (2, 2));
    // Written anew with the content that is in memory: read, but not loaded.
    random_model::write(model.path(), 1, 32, 1);
    assert!(same(&old, &registry.get(model.path(), AUTO).unwrap()));
    assert_eq!((registry.loads(), reads.load(Ordering::SeqCst)), (2, 3));
}

#[test]
fn who_asks_after_a_change_does_not_get_what_was_read_before() {
    let model = tiny(1);
    let mut slow = Slow::new();
    let before = slow.registry.preload(model.path(), AUTO);
    assert!(slow.portion());
    random_model::write(model.path(), 1, 32, 2);
    let after = slow.registry.preload(model.path(), AUTO);
    slow.go = None;
    assert_eq!(after.wait().unwrap().model().hash(), ModelFiles::read(&model.path().into()).unwrap().hash());
    before.wait().unwrap();
    assert!(same(&after.wait().unwrap(), &slow.registry.get(model.path(), AUTO).unwrap()));
}

#[test]
fn a_damaged_model_is_an_error_until_it_is_repaired() {
    let model = tiny(1);
    let weights = model.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let registry = Registry::new();
    for _ in 0..2 {
        let error = registry.get(model.path(), AUTO).err().unwrap();
        assert!(matches!(error.root(), Error::Model { file, .. } if file.ends_with("model.safetensors")), "{error}");
    }
    std::fs::remove_file(&weights).unwrap();
    let error = registry.get(model.path(), AUTO).err().unwrap();
    assert!(matches!(error.root(), Error::Read { path, .. } if *path == weights), "{error}");
    assert_eq!(registry.loads(), 0);
    std::fs::write(&weights, whole).unwrap();
    registry.get(model.path(), AUTO).unwrap();
    assert_eq!(registry.loads(), 1);
}

#[test]
fn a_panic_of_the_reader_is_an_error_and_the_next_call_loads() {
    let model = tiny(1);
    let calls = AtomicUsize::new(0);
    let registry = Registry::with_reader(move |source, on_portion| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => panic!("first read"),
        1 => panic!("read number {}", 2),
        _ => ModelFiles::read_in_portions(source, on_portion),
    });
    for expected in ["first read", "read number 2"] {
        let error = registry.preload(model.path(), AUTO).wait().err().unwrap();
        assert!(matches!(error.root(), Error::LoaderPanicked { message, .. } if message == expected), "{error}");
    }
    registry.get(model.path(), AUTO).unwrap();
    assert_eq!(registry.loads(), 1);
}

#[test]
fn the_last_tagger_frees_the_model() {
    let model = tiny(1);
    let (registry, reads) = counting();
    let tagger = registry.get(model.path(), AUTO).unwrap();
    let (weak, tokenizer) = (Arc::downgrade(tagger.model()), Arc::downgrade(tagger.model().tokenizer()));
    let clone = tagger.clone();
    drop(tagger);
    assert!(weak.upgrade().is_some());
    drop(clone);
    assert!(weak.upgrade().is_none() && tokenizer.upgrade().is_none());
    registry.get(model.path(), AUTO).unwrap();
    assert_eq!((registry.loads(), reads.load(Ordering::SeqCst)), (2, 2));
}

#[test]
fn a_preload_shows_its_progress_and_hides_the_whole_load() {
    let model = tiny(1);
    let slow = Slow::new();
    let preload = slow.registry.preload(model.path(), AUTO);
    // Each portion waits for a go of this thread, so what follows happens while the model is being read.
    assert!(preload.wait_timeout(Duration::ZERO).is_none());
    for portion in 1..=3 {
        assert!(slow.portion());
        let progress = preload.progress();
        assert_eq!((progress.bytes_done, progress.bytes_total), (25 * portion, Some(100)));
        assert_eq!((progress.stage, preload.is_ready()), (Stage::Reading, false));
    }
    assert!(slow.portion());
    eventually("the model is loaded", || preload.is_ready());
    let progress = preload.progress();
    assert_eq!((progress.bytes_done, progress.stage), (100, Stage::Ready));
    // Whoever asks now waits for nothing: the reader would block, and is not called.
    let first = preload.wait().unwrap();
    assert!(same(&first, &slow.registry.get(model.path(), AUTO).unwrap()));
    assert!(same(&first, &preload.wait_timeout(Duration::ZERO).unwrap().unwrap()));
    let again = slow.registry.preload(model.path(), AUTO);
    assert!(same(&first, &again.wait().unwrap()));
    assert_eq!((again.progress().bytes_done, again.progress().stage), (0, Stage::Ready));
    assert_eq!(slow.registry.loads(), 1);
    assert!(slow.told.try_recv().is_err());
}

#[test]
fn get_waits_for_the_preload_under_way() {
    let model = tiny(1);
    let mut slow = Slow::new();
    let preload = slow.registry.preload(model.path(), AUTO);
    assert!(slow.portion());
    slow.go = None;
    let tagger = slow.registry.get(model.path(), AUTO).unwrap();
    assert!(same(&tagger, &preload.wait().unwrap()));
    assert_eq!((slow.registry.loads(), slow.told.try_iter().count()), (1, 3));
}

#[test]
fn a_handle_keeps_the_model_and_lets_it_go() {
    let model = tiny(1);
    let registry = Registry::new();
    let preload = registry.preload(model.path(), AUTO);
    let weak: Weak<_> = Arc::downgrade(preload.wait().unwrap().model());
    assert!(weak.upgrade().is_some());
    preload.cancel();
    assert!(weak.upgrade().is_some() && preload.wait().is_ok(), "a load that has ended cannot be cancelled");
    drop(preload);
    // The thread may be a few instructions from its end.
    eventually("the model is freed", || weak.upgrade().is_none());
}

#[test]
fn dropping_the_handle_neither_cancels_nor_blocks() {
    let model = tiny(1);
    let slow = Slow::new();
    let preload = slow.registry.preload(model.path(), AUTO);
    assert!(slow.portion());
    drop(preload);
    assert!((0..3).all(|_| slow.portion()));
    eventually("the model is loaded", || slow.registry.loads() == 1);
}

#[test]
fn cancel_stops_the_reading_and_answers_at_once() {
    let model = tiny(1);
    let mut slow = Slow::new();
    let preload = slow.registry.preload(model.path(), AUTO);
    assert!(slow.portion());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| preload.wait());
        preload.cancel();
        // The reader still waits for its go, and yet:
        assert!(is_cancelled(waiter.join().unwrap()));
    });
    assert_eq!((preload.progress().bytes_done, preload.progress().stage), (25, Stage::Failed));
    assert!(!slow.portion(), "the reader is told to stop at the next portion");
    preload.cancel();
    assert!(is_cancelled(preload.wait()));
    assert_eq!(slow.registry.loads(), 0);
    // The next call loads.
    slow.go = None;
    slow.registry.get(model.path(), AUTO).unwrap();
    assert_eq!(slow.registry.loads(), 1);
}

#[test]
fn cancel_before_the_reading_begins_is_kept() {
    let model = tiny(1);
    let (registry, _) = counting();
    // Cancelled at any moment between the thread's start and the end of its load.
    for spin in 0..200 {
        let preload = registry.preload(model.path(), AUTO);
        (0..spin * 20).for_each(|_| std::hint::spin_loop());
        preload.cancel();
        match preload.wait() {
            Ok(tagger) => assert_eq!(tagger.model().config().encoder.hidden, 32),
            error => assert!(is_cancelled(error)),
        }
    }
    registry.get(model.path(), AUTO).unwrap();
}

#[test]
fn a_cancelled_load_goes_on_for_others() {
    let model = tiny(1);
    let mut slow = Slow::new();
    let cancelled = slow.registry.preload(model.path(), AUTO);
    assert!(slow.portion());
    let other = slow.registry.preload(model.path(), AUTO);
    eventually("the other one has joined", || other.progress().stage == Stage::Reading);
    cancelled.cancel();
    assert!(is_cancelled(cancelled.wait()));
    assert!(slow.portion());
    slow.go = None;
    let tagger = other.wait().unwrap();
    assert_eq!(slow.registry.loads(), 1);
    assert!(is_cancelled(cancelled.wait()));
    // The cancelled handle does not keep the model.
    let weak = Arc::downgrade(tagger.model());
    drop((tagger, other));
    eventually("the model is freed", || weak.upgrade().is_none());
}

#[test]
fn the_global_registry_is_one() {
    let model = tiny(9);
    let preload: Preload = chemtag::preload(model.path());
    let path: &Path = model.path();
    assert!(same(&preload.wait().unwrap(), &chemtag::get(path).unwrap()));
    assert!(same(&preload.wait().unwrap(), &Registry::global().get(path, AUTO).unwrap()));
}
