//! A model that is loaded in the background: asked for early, waited for late, watched and cancelled in between.
//! What comes in is the request of [`Registry::preload`](super::Registry::preload); what goes out is its tagger.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::load::{Load, Outcome, Progress};
use super::{lock, tagger_of};
use crate::error::{Error, Result};
use crate::tagger::Tagger;

/// A handle on a model that is being loaded in the background, made by [`Registry::preload`](super::Registry::preload).
///
/// It keeps the model in memory. Dropping it neither blocks nor cancels: the load ends, and the model stays if somebody else holds it by then.
/// All methods may be called from several threads at once.
///
/// ```
/// use std::time::Duration;
///
/// let model = chemtag::preload("no/such/folder");
/// // ... the program starts up here ...
/// match model.wait_timeout(Duration::from_secs(60)) {
///     None => println!("still loading: {:?}", model.progress()),
///     Some(Ok(tagger)) => println!("{} chemicals", tagger.tag("Aspirin in ethanol.")?.len()),
///     Some(Err(error)) => assert!(error.to_string().contains("config.json")),
/// }
/// assert!(model.is_ready());
/// # Ok::<(), chemtag::Error>(())
/// ```
pub struct Preload {
    shared: Arc<Request>,
}

/// What the handle and its thread share.
pub(super) struct Request {
    model: String,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// The load that the thread leads or waits for, once there is one.
    load: Option<Arc<Load>>,
    /// Where the load stood when it was let go.
    progress: Progress,
    outcome: Option<Outcome>,
}

impl Preload {
    /// A handle whose outcome its thread gives through [`Preload::request`].
    pub(super) fn new(model: String) -> Self {
        let state = State { load: None, progress: Progress::QUEUED, outcome: None };
        Self { shared: Arc::new(Request { model, state: Mutex::new(state), ended: Condvar::new() }) }
    }

    pub(super) fn request(&self) -> &Arc<Request> {
        &self.shared
    }

    /// How far the load is.
    pub fn progress(&self) -> Progress {
        let state = lock(&self.shared.state);
        state.load.as_ref().map_or(state.progress, |load| load.progress())
    }

    /// Whether [`Preload::wait`] would return at once, with a tagger or an error.
    pub fn is_ready(&self) -> bool {
        lock(&self.shared.state).outcome.is_some()
    }

    /// Waits for the load's end. Every call gives a tagger on the same model, or the same error.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after [`Preload::cancel`]; else as [`Registry::get`](super::Registry::get).
    pub fn wait(&self) -> Result<Tagger> {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(outcome) = &state.outcome {
                return tagger_of(outcome.clone());
            }
            state = self.shared.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the load's end, but no longer than `limit`; `None` if it has not ended by then.
    pub fn wait_timeout(&self, limit: Duration) -> Option<Result<Tagger>> {
        let state = lock(&self.shared.state);
        let waited = self.shared.ended.wait_timeout_while(state, limit, |state| state.outcome.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.outcome.clone().map(tagger_of)
    }

    /// Gives the load up: who waits on this handle gets [`Error::Cancelled`] at once, and the thread stops at the next portion of a file or the
    /// next stage. If somebody else has asked for the same model, the load goes on for them. Does nothing to a load that has ended.
    pub fn cancel(&self) {
        self.shared.end(Err(Arc::new(Error::Cancelled { model: self.shared.model.clone() })), true);
    }
}

impl Request {
    /// The thread has found the load that gives the outcome, and has been counted as interested in it.
    pub(super) fn follow(&self, load: &Arc<Load>) {
        let mut state = lock(&self.state);
        match state.outcome {
            // Cancelled before it began.
            Some(_) => load.leave(),
            None => state.load = Some(load.clone()),
        }
    }

    /// The thread has the outcome.
    pub(super) fn settle(&self, outcome: Outcome) {
        self.end(outcome, false);
    }

    /// The first end counts. The load is let go: a handle that was cancelled must not keep the model that others got.
    fn end(&self, outcome: Outcome, leave: bool) {
        let mut state = lock(&self.state);
        if state.outcome.is_some() {
            return;
        }
        if let Some(load) = state.load.take() {
            state.progress = load.progress();
            if leave {
                load.leave();
            }
        }
        state.progress = state.progress.at_end(&outcome);
        state.outcome = Some(outcome);
        self.ended.notify_all();
    }
}
