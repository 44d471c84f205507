//! One load under way: who leads it reports each portion and stage and settles the outcome; who waits for it gets the same outcome.
//! It goes on while anybody is interested. When the last one leaves, the leader learns so at its next report and stops.
//! The method is known as single flight, here with a count of those on board.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::lock;
use crate::error::{Error, Result};
use crate::tagger::Model;

/// What a load came to; all who waited for it get the same.
pub(super) type Outcome = Result<Arc<Model>, Arc<Error>>;

/// What a load is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// It has not begun.
    Queued,
    /// The files are being read.
    Reading,
    /// The files' hash is being computed, which tells whether the model is in memory already.
    Hashing,
    /// Tokenizer and network are being built from the files.
    Building,
    /// The model is there.
    Ready,
    /// The load ended with an error, cancellation included.
    Failed,
}

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of the model's files that have been read; 0 for a model that was in memory already.
    pub bytes_done: u64,
    /// Bytes of the model's files, once they are known.
    pub bytes_total: Option<u64>,
    /// What is being done.
    pub stage: Stage,
}

impl Progress {
    /// Of a load that has not begun.
    pub(super) const QUEUED: Self = Self { bytes_done: 0, bytes_total: None, stage: Stage::Queued };

    /// The same bytes at the end of the load.
    pub(super) fn at_end(self, outcome: &Outcome) -> Self {
        Self { stage: if outcome.is_ok() { Stage::Ready } else { Stage::Failed }, ..self }
    }
}

pub(super) struct Load {
    /// The model's name in messages.
    model: String,
    state: Mutex<State>,
    settled: Condvar,
}

struct State {
    interested: usize,
    /// The leader has seen that nobody is interested: too late to join.
    abandoned: bool,
    progress: Progress,
    outcome: Option<Outcome>,
}

impl Load {
    /// A load that one is interested in: its leader.
    pub(super) fn new(model: String) -> Self {
        let state = State { interested: 1, abandoned: false, progress: Progress::QUEUED, outcome: None };
        Self { model, state: Mutex::new(state), settled: Condvar::new() }
    }

    /// One more is interested; false if the load has ended or is about to end for want of interest.
    pub(super) fn join(&self) -> bool {
        let mut state = lock(&self.state);
        let open = !state.abandoned && state.outcome.is_none();
        state.interested += usize::from(open);
        open
    }

    /// One who is interested is so no longer.
    pub(super) fn leave(&self) {
        lock(&self.state).interested -= 1;
    }

    /// The leader says where it stands.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if nobody is interested any more.
    pub(super) fn report(&self, stage: Stage) -> Result<()> {
        self.advance(|progress| progress.stage = stage)
    }

    /// As [`Load::report`], for bytes read.
    pub(super) fn report_bytes(&self, done: u64, total: Option<u64>) -> Result<()> {
        self.advance(|progress| *progress = Progress { bytes_done: done, bytes_total: total, stage: Stage::Reading })
    }

    fn advance(&self, change: impl FnOnce(&mut Progress)) -> Result<()> {
        let mut state = lock(&self.state);
        state.abandoned |= state.interested == 0;
        if state.abandoned {
            return Err(Error::Cancelled { model: self.model.clone() });
        }
        change(&mut state.progress);
        Ok(())
    }

    pub(super) fn progress(&self) -> Progress {
        lock(&self.state).progress
    }

    /// The leader gives the outcome to all who wait.
    pub(super) fn settle(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        state.progress = state.progress.at_end(&outcome);
        state.outcome = Some(outcome);
        self.settled.notify_all();
    }

    pub(super) fn wait(&self) -> Outcome {
        let mut state = lock(&self.state);
        loop {
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Load {
        pub(in crate::registry) fn interested(&self) -> usize {
            lock(&self.state).interested
        }
    }

    fn cancelled(result: Result<()>) -> bool {
        matches!(result, Err(Error::Cancelled { model }) if model == "m")
    }

    #[test]
    fn it_goes_on_while_one_is_interested() {
        let load = Load::new("m".into());
        assert!(load.join());
        load.leave();
        load.report_bytes(5, Some(9)).unwrap();
        assert_eq!(load.progress(), Progress { bytes_done: 5, bytes_total: Some(9), stage: Stage::Reading });
        load.leave();
        // Somebody came before the leader noticed.
        assert!(load.join());
        load.report(Stage::Building).unwrap();
        load.leave();
        assert!(cancelled(load.report(Stage::Hashing)));
        assert!(!load.join());
        assert!(cancelled(load.report_bytes(9, None)), "a reader that ignores the error is told again");
        assert_eq!(load.progress().bytes_done, 5);
    }

    #[test]
    fn all_who_wait_get_the_outcome() {
        let load = Load::new("m".into());
        let error = Arc::new(Error::NoEmbeddedModel);
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| load.wait())).collect();
            load.settle(Err(error.clone()));
            for waiter in waiters {
                assert!(Arc::ptr_eq(&waiter.join().unwrap().err().unwrap(), &error));
            }
        });
        assert!(!load.join(), "who comes after a failure tries again");
        assert_eq!(load.progress().stage, Stage::Failed);
    }
}
