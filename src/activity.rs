//! What a model's taggers have done so far: pieces read, and the time that each stage took.
//! Stages run at the same time, each on threads of its own, so that their times may add up to more than what has passed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use web_time::Instant;

/// Work done on a model since it was loaded, by all of its taggers.
///
/// Divided by the time that has passed, `encoder` is the share of it in which the device had work, and `text` and `decoding` are the number of
/// CPU threads that were busy with those. Copies to and from the device count as the encoder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Activity {
    /// Word pieces read, `[CLS]` and `[SEP]` included.
    pub pieces: u64,
    /// Sentences, words, pieces and sequences; the sum over threads.
    pub text: Duration,
    /// Emissions of batches.
    pub encoder: Duration,
    /// From emissions to mentions; the sum over threads.
    pub decoding: Duration,
}

/// Which stage a time belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Text,
    Encoder,
    Decoding,
}

/// Counts for [`Activity`], from any thread.
#[derive(Default)]
pub(crate) struct Counters {
    pieces: AtomicU64,
    nanoseconds: [AtomicU64; 3],
}

impl Counters {
    /// So many more pieces are read.
    pub fn add_pieces(&self, pieces: usize) {
        self.pieces.fetch_add(pieces as u64, Ordering::Relaxed);
    }

    /// Does some work and counts the time that it takes.
    pub fn timed<T>(&self, work: Work, doing: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = doing();
        self.nanoseconds[work as usize].fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }

    /// All so far.
    pub fn read(&self) -> Activity {
        let time = |work: Work| Duration::from_nanos(self.nanoseconds[work as usize].load(Ordering::Relaxed));
        Activity {
            pieces: self.pieces.load(Ordering::Relaxed),
            text: time(Work::Text),
            encoder: time(Work::Encoder),
            decoding: time(Work::Decoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_time() {
        let counters = Counters::default();
        let pause = || std::thread::sleep(Duration::from_millis(2));
        assert_eq!(counters.timed(Work::Text, || 7), 7);
        counters.timed(Work::Decoding, pause);
        counters.add_pieces(3);
        counters.add_pieces(4);
        let activity = counters.read();
        assert_eq!((activity.pieces, activity.encoder), (7, Duration::ZERO));
        assert!(activity.decoding >= Duration::from_millis(2));
    }
}
