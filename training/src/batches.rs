//! Examples -> the batches of one epoch: examples of similar length together, up to a number of pieces, in random order.
//! The seed and the epoch's number determine everything, so that an interrupted run meets the same batches again.

use chemtag::batch::packs;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Lengths are drawn apart by up to this many pieces before sorting, so that batches differ from epoch to epoch.
const JITTER: f64 = 8.;

/// Indices of the examples of each batch. `lengths` are the examples' pieces; a batch holds up to `budget` pieces, at least one example.
pub fn epoch_batches(lengths: &[usize], budget: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64 + 1);
    let mut order: Vec<(f64, usize)> =
        lengths.iter().enumerate().map(|(i, &length)| (length as f64 + random.random::<f64>() * JITTER, i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let packs = packs(&order, |&(_, i)| lengths[i], budget);
    let mut batches: Vec<Vec<usize>> = packs.into_iter().map(|pack| pack.iter().map(|&(_, i)| i).collect()).collect();
    batches.shuffle(&mut random);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_once_within_the_budget() {
        let lengths: Vec<usize> = (0..500).map(|i| 3 + i * 7919 % 250).collect();
        let batches = epoch_batches(&lengths, 1000, 1, 0);
        let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        assert!(batches.iter().all(|b| b.iter().map(|&i| lengths[i]).sum::<usize>() <= 1000));
        let pieces: usize = lengths.iter().sum();
        assert!(batches.len() < pieces / 1000 + pieces / 4000 + 2, "batches are nearly full: {}", batches.len());
    }

    #[test]
    fn the_seed_and_the_epoch_determine_the_batches() {
        let lengths = vec![10; 100];
        assert_eq!(epoch_batches(&lengths, 50, 1, 3), epoch_batches(&lengths, 50, 1, 3));
        assert_ne!(epoch_batches(&lengths, 50, 1, 3), epoch_batches(&lengths, 50, 1, 4));
        assert_ne!(epoch_batches(&lengths, 50, 1, 3), epoch_batches(&lengths, 50, 2, 3));
    }

    #[test]
    fn an_example_beyond_the_budget_goes_alone() {
        assert_eq!(epoch_batches(&[100, 2], 50, 0, 0).len(), 2);
        assert!(epoch_batches(&[], 50, 0, 0).is_empty());
    }
}
