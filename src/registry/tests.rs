//! What only the inside of the registry shows: that all who ask during a load are on board before it ends.

use std::sync::mpsc::channel;

use super::*;

/// Eight threads ask for the same model, and `read` runs once all of them wait for it.
fn outcomes_of_eight(registry: &Registry, opened: std::sync::mpsc::Sender<()>) -> Vec<Error> {
    let (source, options) = (ModelSource::from("no/such/folder"), LoadOptions::default());
    let errors: Vec<Error> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| registry.get(source.clone(), options).err().unwrap())).collect();
        let all_wait = || lock(&registry.inner.loading).values().any(|load| load.interested() == 8);
        while !all_wait() {
            std::thread::yield_now();
        }
        drop(opened);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(lock(&registry.inner.loading).is_empty());
    errors
}

fn all_share_one(errors: &[Error]) -> bool {
    let address = |error: &Error| std::ptr::from_ref(error.root());
    errors.iter().all(|error| matches!(error, Error::Shared(_)) && address(error) == address(&errors[0]))
}

#[test]
fn a_failed_load_is_one_error_for_all_who_wait() {
    let (opened, gate) = channel();
    let (gate, reads) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let count = reads.clone();
    let registry = Registry::with_reader(move |source, on_portion| {
        count.fetch_add(1, Ordering::SeqCst);
        let _: Result<(), _> = gate.lock().unwrap().recv();
        ModelFiles::read_in_portions(source, on_portion)
    });
    let errors = outcomes_of_eight(&registry, opened);
    assert!(all_share_one(&errors));
    assert!(matches!(errors[0].root(), Error::Read { .. }));
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    assert!(registry.get("no/such/folder", LoadOptions::default()).is_err());
    assert_eq!(reads.load(Ordering::SeqCst), 2, "the next call tries again");
}

#[test]
fn a_panic_is_one_error_for_all_who_wait() {
    let (opened, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let registry = Registry::with_reader(move |_, _| {
        let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
        panic!("reader broke")
    });
    let errors = outcomes_of_eight(&registry, opened);
    assert!(all_share_one(&errors));
    assert!(errors[0].to_string().contains("no/such/folder panicked (reader broke)"), "{}", errors[0]);
    assert_eq!(registry.loads(), 0);
}

#[test]
fn paths_are_absolute() {
    let folder = std::env::current_dir().unwrap().join("some/model");
    assert_eq!(absolute("some/model".into()), ModelSource::Folder(folder));
    assert_eq!(absolute("".into()), ModelSource::Folder("".into()));
}
