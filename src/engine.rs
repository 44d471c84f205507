//! Rounds of sequences -> their emissions, in order: the part of the pipeline that the device does. A thread of its own keeps the device busy
//! while the CPU is at the text before and the mentions behind; a run of one round does without it.
//! Where the device's memory is too small for a batch, batches get smaller, and the same sequences are read again.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::activity::Work;
use crate::backend::{Emissions, Prepared};
use crate::batch::{Batch, packs};
use crate::error::{Error, Result};
use crate::sequence::Sequence;
use crate::tagger::Model;

/// Rounds given to the thread and not yet taken back: one is computed while the next one waits.
const IN_FLIGHT: usize = 2;

/// Neighbouring sequences that the device reads at the same time, and then what it says of them.
pub struct Round {
    pub sequences: Vec<Sequence>,
    /// Number of sequences of each batch, and the batch.
    batches: Vec<(usize, Prepared)>,
    /// Of all words of the sequences, once the round is computed.
    pub emissions: Emissions,
}

impl Round {
    /// Packs sequences into batches of at most `budget` pieces.
    pub fn new(model: &Model, sequences: Vec<Sequence>, budget: usize) -> Result<Self> {
        let batches = packs(&sequences, pieces, budget)
            .into_iter()
            .map(|pack| Ok((pack.len(), model.backend().prepare(Batch::pack(pack))?)))
            .collect::<Result<_>>()?;
        Ok(Self { sequences, batches, emissions: Emissions::default() })
    }

    /// First byte of the words that it speaks for.
    pub fn start(&self) -> Option<usize> {
        self.sequences.first().map(|sequence| sequence.words[sequence.lead].start)
    }
}

fn pieces(sequence: &Sequence) -> usize {
    sequence.piece_ids.len()
}

/// What computes rounds; a clone of it goes to the thread.
#[derive(Clone)]
struct Computer {
    model: Arc<Model>,
    pool: Option<Arc<ThreadPool>>,
    /// Nobody wants the results any more.
    stopped: Arc<AtomicBool>,
}

impl Computer {
    fn compute(&self, mut round: Round) -> Result<Round> {
        let mut rest = round.sequences.as_slice();
        let batches: Vec<(&[Sequence], Prepared)> = std::mem::take(&mut round.batches)
            .into_iter()
            .map(|(count, prepared)| {
                let (batch, after) = rest.split_at(count);
                rest = after;
                (batch, prepared)
            })
            .collect();
        let all = || -> Result<Vec<Emissions>> {
            if self.model.backend().takes_turns() || batches.len() == 1 {
                batches.into_iter().map(|(sequences, prepared)| self.read(sequences, prepared)).collect()
            } else {
                batches.into_par_iter().map(|(sequences, prepared)| self.read(sequences, prepared)).collect()
            }
        };
        let computed = self.model.counters().timed(Work::Encoder, || match &self.pool {
            Some(pool) if !self.model.backend().takes_turns() => pool.install(all),
            _ => all(),
        })?;
        for emissions in computed {
            match round.emissions.tags.is_empty() {
                true => round.emissions = emissions,
                false => round.emissions.append(emissions),
            }
        }
        self.model.counters().add_pieces(round.sequences.iter().map(pieces).sum());
        Ok(round)
    }

    /// Reads a batch, in parts if it is too large for the device.
    fn read(&self, sequences: &[Sequence], prepared: Prepared) -> Result<Emissions> {
        if self.stopped.load(Ordering::Relaxed) {
            return Ok(Emissions::default());
        }
        let (size, words) = (prepared.batch().pieces(), prepared.batch().words());
        let backend = self.model.backend();
        match backend.compute(prepared) {
            Err(error) if error.is_out_of_memory() && sequences.len() > 1 => {
                let budget = self.model.lower_token_budget(size / 2);
                let mut read = Emissions::default();
                for part in packs(sequences, pieces, budget.min(size / 2)) {
                    read.append(self.read(part, backend.prepare(Batch::pack(part))?)?);
                }
                Ok(read)
            }
            Err(error) if error.is_out_of_memory() => Err(Error::OutOfMemory(format!(
                "{} has no room for a single sequence of {size} word pieces ({error}): end other programs that use its memory, or use the device cpu",
                backend.describe()
            ))),
            Ok(read) if read.tags.len() != words || read.class_logits.len() != words * read.classes => {
                let found = (read.tags.len(), read.class_logits.len(), read.classes);
                Err(Error::Device(format!(
                    "{} gave emissions, class logits and classes {found:?} for {words} words",
                    backend.describe()
                )))
            }
            other => other,
        }
    }
}

struct Thread {
    rounds: SyncSender<Round>,
    results: Receiver<Result<Round>>,
    handle: JoinHandle<()>,
}

/// Computes rounds in the order in which they are given.
pub struct Engine {
    computer: Computer,
    thread: Option<Thread>,
    /// First byte of each round that the thread has.
    in_flight: VecDeque<Option<usize>>,
}

impl Engine {
    /// An engine without a thread as yet; `pool`: the threads of a CPU's batches, rayon's own if not given.
    pub fn new(model: Arc<Model>, pool: Option<Arc<ThreadPool>>) -> Self {
        let computer = Computer { model, pool, stopped: Arc::default() };
        Self { computer, thread: None, in_flight: VecDeque::new() }
    }

    /// Gives it a round, of which more will follow or not, and takes back the oldest one that it has, if it has enough to do without.
    pub fn submit(&mut self, round: Round, more: bool) -> Result<Option<Round>> {
        if self.thread.is_none() && more && rayon::current_thread_index().is_none() {
            self.start();
        }
        // A thread of rayon computes here: were it to wait, there might be none left for the work that it waits for.
        if self.thread.is_none() {
            return self.computer.compute(round).map(Some);
        }
        let oldest = if self.in_flight.len() == IN_FLIGHT { self.receive()? } else { None };
        let start = round.start();
        if let Some(thread) = &self.thread
            && thread.rounds.send(round).is_ok()
        {
            self.in_flight.push_back(start);
            return Ok(oldest);
        }
        // The thread has ended early: an error among its results says why.
        while self.receive()?.is_some() {}
        Err(self.end())
    }

    /// Waits for the oldest round that it has; `None` if it has none.
    pub fn receive(&mut self) -> Result<Option<Round>> {
        if self.in_flight.is_empty() {
            return Ok(None);
        }
        match self.thread.as_ref().and_then(|thread| wait(&thread.results)) {
            Some(result) => {
                self.in_flight.pop_front();
                result.map(Some)
            }
            None => Err(self.end()),
        }
    }

    /// First byte of the rounds that it has.
    pub fn pending_start(&self) -> Option<usize> {
        self.in_flight.front().copied().flatten()
    }

    fn start(&mut self) {
        let (rounds, given) = sync_channel::<Round>(IN_FLIGHT);
        let (give_back, results) = channel();
        let computer = self.computer.clone();
        let work = move || {
            for round in given {
                let result = computer.compute(round);
                let failed = result.is_err();
                if give_back.send(result).is_err() || failed {
                    return;
                }
            }
        };
        // Without a thread all is computed where it is asked for.
        let started = std::thread::Builder::new().name("chemtag-engine".into()).spawn(work).ok();
        self.thread = started.map(|handle| Thread { rounds, results, handle });
    }

    /// Waits for the end of the thread, which goes on with its panic here if there was one.
    fn end(&mut self) -> Error {
        self.in_flight.clear();
        if let Some(Thread { rounds, results, handle }) = self.thread.take() {
            drop((rounds, results));
            if let Err(panic) = handle.join() {
                resume_unwind(panic);
            }
        }
        Error::Device("the thread that computes has ended after an error".into())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.computer.stopped.store(true, Ordering::Relaxed);
        if let Some(Thread { rounds, results, handle }) = self.thread.take() {
            drop((rounds, results));
            // Its panic has nobody left to go to.
            let _ = handle.join();
        }
    }
}

/// The next result, `None` if none can come. A thread of rayon does other work meanwhile, which may be what it waits for.
fn wait(results: &Receiver<Result<Round>>) -> Option<Result<Round>> {
    while rayon::current_thread_index().is_some() {
        match results.try_recv() {
            Ok(result) => return Some(result),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            match results.recv_timeout(Duration::from_millis(1)) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
    results.recv().ok()
}
