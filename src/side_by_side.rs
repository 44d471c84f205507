//! Several tasks -> their results, each task in a thread of its own if there can be one: the parts of loading a model.
//! Not rayon's threads: one of those that waits for a load could be given the task to wait for itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

/// Runs `other` while this thread runs `own`; after it where no thread can be started, as in WebAssembly. A panic in either goes on in the caller.
pub fn both<A: Send, B>(other: impl Fn() -> A + Sync, own: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| match Builder::new().name("chemtag-load".into()).spawn_scoped(scope, &other) {
        Ok(thread) => {
            let ours = own();
            (thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), ours)
        }
        Err(_) => {
            let ours = own();
            (other(), ours)
        }
    })
}

/// The results of `make(0)` to `make(count - 1)`, in order, made by as many threads as there are cores.
pub fn all<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let result = make(index);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Fewer threads give the same.
            let _ = Builder::new().name("chemtag-load".into()).spawn_scoped(scope, work);
        }
        work();
    });
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_and_results_are_in_order() {
        let (left, right) = both(|| 6 * 7, || "own");
        assert_eq!((left, right), (42, "own"));
        let runs = AtomicUsize::new(0);
        let squares = all(100, |i| {
            runs.fetch_add(1, Ordering::Relaxed);
            i * i
        });
        assert!(squares.iter().enumerate().all(|(i, &square)| square == i * i) && squares.len() == 100);
        assert_eq!(runs.into_inner(), 100);
        assert!(all(0, |i| i).is_empty());
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let other = std::panic::catch_unwind(|| both(|| panic!("other"), || 1).1);
        assert_eq!(other.unwrap_err().downcast_ref::<&str>(), Some(&"other"));
        assert!(std::panic::catch_unwind(|| all(3, |i| assert_ne!(i, 1))).is_err());
    }
}
