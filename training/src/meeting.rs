//! Ranks of a run as threads of one process -> a place where they meet: each brings numbers, all leave with the sums. A rank that ends
//! otherwise than all the others, by an error, a panic or too early, ends the waiting of all with an error instead of leaving them there.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Where the ranks of one run meet.
pub struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Meetings that all have come to.
    round: u64,
    /// What each rank has brought to the next one.
    brought: Vec<Option<Vec<f64>>>,
    /// Sums of the last one. They stay until the next one is complete, when all must have read them.
    sums: Arc<Vec<f64>>,
    /// The first rank that failed, and why.
    failure: Option<(usize, Error)>,
    /// A rank that has done its work.
    left: Option<usize>,
}

impl State {
    /// The rank that nobody should wait for any more.
    fn missing(&self) -> Option<usize> {
        self.failure.as_ref().map(|(rank, _)| *rank).or(self.left)
    }
}

impl Meeting {
    /// For so many ranks.
    pub fn new(ranks: usize) -> Self {
        let state = State {
            round: 0,
            brought: (0..ranks).map(|_| None).collect(),
            sums: Arc::default(),
            failure: None,
            left: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Nothing that holds the lock can panic half way, so a poisoned state is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sums over ranks of `numbers`, as many from each rank, added in the order of the ranks: all get the same to the last bit.
    ///
    /// # Errors
    /// [`Error::OtherRank`] if another rank has failed or left; also if ranks bring different amounts.
    pub fn sum(&self, rank: usize, numbers: Vec<f64>) -> Result<Arc<Vec<f64>>> {
        let mut state = self.state();
        let round = state.round;
        let Some(place) = state.brought.get_mut(rank) else {
            return Err(Error::Setting(format!("rank {rank} is none of this run's")));
        };
        *place = Some(numbers);
        if state.brought.iter().all(Option::is_some) {
            let mut brought = state.brought.iter_mut().filter_map(Option::take);
            let mut sums = brought.next().unwrap_or_default();
            for numbers in brought {
                if numbers.len() != sums.len() {
                    return Err(Error::Setting(format!("ranks add {} and {} numbers", sums.len(), numbers.len())));
                }
                for (sum, number) in sums.iter_mut().zip(numbers) {
                    *sum += number;
                }
            }
            state.sums = Arc::new(sums);
            state.round += 1;
            self.changed.notify_all();
            return Ok(state.sums.clone());
        }
        loop {
            if state.round != round {
                return Ok(state.sums.clone());
            }
            if let Some(rank) = state.missing() {
                return Err(Error::OtherRank { rank });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`Meeting::sum`].
    pub fn wait(&self, rank: usize) -> Result<()> {
        self.sum(rank, Vec::new()).map(drop)
    }

    /// For a rank that waits for its device.
    ///
    /// # Errors
    /// [`Error::OtherRank`] if a rank has failed.
    pub fn check(&self) -> Result<()> {
        match &self.state().failure {
            Some((rank, _)) => Err(Error::OtherRank { rank: *rank }),
            None => Ok(()),
        }
    }

    /// A rank's work has ended. The first error of all ranks is kept; those that follow from it say nothing new.
    pub fn end(&self, rank: usize, result: Result<()>) {
        let mut state = self.state();
        match result {
            Ok(()) => state.left = Some(rank),
            Err(error) if state.failure.is_none() => state.failure = Some((rank, error)),
            Err(_) => (),
        }
        self.changed.notify_all();
    }

    /// The rank that failed first, and its error.
    pub fn into_failure(self) -> Option<(usize, Error)> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `work` on each rank's own thread.
    fn ranks<T: Send>(count: usize, work: impl Fn(&Meeting, usize) -> T + Sync) -> (Vec<T>, Meeting) {
        let meeting = Meeting::new(count);
        let results = std::thread::scope(|scope| {
            let work = &work;
            let meeting = &meeting;
            let threads: Vec<_> = (0..count).map(|rank| scope.spawn(move || work(meeting, rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        (results, meeting)
    }

    #[test]
    fn all_get_the_sums_of_every_round() {
        let (found, _) = ranks(4, |meeting, rank| {
            let sums = |round: usize| meeting.sum(rank, vec![rank as f64, round as f64]).unwrap();
            (0..500).all(|round| sums(round)[..] == [6., 4. * round as f64])
        });
        assert_eq!(found, [true; 4]);
    }

    #[test]
    fn nobody_waits_for_a_rank_that_failed_or_left() {
        for (end, failed) in [(Err(Error::Diverged { step: 1 }), true), (Ok(()), false)] {
            let end = Mutex::new(Some(end));
            let (found, meeting) = ranks(3, |meeting, rank| {
                meeting.wait(rank).unwrap();
                if rank == 1 {
                    meeting.end(rank, end.lock().unwrap().take().unwrap());
                    return None;
                }
                let error = meeting.wait(rank).unwrap_err();
                let rank_of_error = match error {
                    Error::OtherRank { rank } => rank,
                    other => panic!("{other}"),
                };
                meeting.end(rank, Err(error));
                Some(rank_of_error)
            });
            let failure = meeting.into_failure();
            if failed {
                assert_eq!(found, [Some(1), None, Some(1)]);
                assert!(matches!(failure, Some((1, Error::Diverged { step: 1 }))));
            } else {
                // One of the two that wait may see the other end first.
                assert!(found[0].is_some() && found[2].is_some());
                assert!(matches!(failure, Some((_, Error::OtherRank { .. }))));
            }
        }
    }
}
