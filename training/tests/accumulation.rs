//! Gradients of a batch in parts, on one rank and on several, against those of the undivided batch: masked language model and CRF.

mod support;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use candle_core::{Device, Var};
use chemtag::model::config::Architecture;
use chemtag::model::dropout::Dropout;
use chemtag_training::accumulation::{GradientMean, Gradients};
use chemtag_training::dataset::Example;
use chemtag_training::error::Result;
use chemtag_training::loss::{LabelledBatch, loss_and_gradients};
use chemtag_training::masked_lm;
use chemtag_training::masking::MaskedBatch;
use chemtag_training::parameters::{Parameters, Task};
use chemtag_training::ranks::{self, Rank};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

type ByName = HashMap<String, Vec<f32>>;

fn parameters(task: Task) -> Result<Parameters> {
    let config = support::config(Architecture::DistilBert, 2, 2, 8);
    let checkpoint = support::checkpoint(&config.encoder, 1);
    let parameters = Parameters::from_checkpoint(&checkpoint, "generated", config, task, 2, &Device::Cpu)?;
    // Heads at their first, small values would let little of the gradient through to the encoder.
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for (_, variable) in parameters.variables().iter().filter(|(name, _)| !name.contains("bert.")) {
        variable.set(&support::normal(variable.dims(), 0., 0.5, &mut random))?;
    }
    Ok(parameters)
}

/// Adds the gradients of some sequences to a mean.
type AddPart<'a> = dyn Fn(&Parameters, Range<usize>, &mut GradientMean) -> Result<()> + Sync + 'a;

/// Sequences `0..count` of a task, computed in parts on ranks: what each rank has in the end.
fn gradients(task: Task, add: &AddPart, count: usize, ranks: usize, accumulate: usize) -> Result<Vec<ByName>> {
    let found = Mutex::new(Vec::new());
    let sequences: Vec<usize> = (0..count).collect();
    let step = |rank: &Rank, _: chemtag::Device, _: &Device| -> Result<()> {
        let parameters = parameters(task)?;
        let mut mean = GradientMean::new(&parameters);
        for part in rank.share(accumulate)?.cut(&sequences, |_| 10) {
            let first = part.before.len();
            add(&parameters, first..first + part.sequences.len(), &mut mean)?;
        }
        let gradients = mean.finish(rank)?;
        found.lock().unwrap().push(by_name(&parameters, &gradients));
        Ok(())
    };
    match ranks {
        0 => step(&Rank::ALONE, chemtag::Device::Cpu, &Device::Cpu)?,
        _ => ranks::run(&vec![chemtag::Device::Cpu; ranks], step)?,
    }
    Ok(found.into_inner().unwrap())
}

fn by_name(parameters: &Parameters, gradients: &Gradients) -> ByName {
    let numbers = |variable: &Var| {
        gradients.get(variable).map_or(Vec::new(), |g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    parameters.variables().iter().map(|(name, variable)| (name.clone(), numbers(variable))).collect()
}

/// Holds divided steps against the undivided one.
fn check(task: Task, add: &AddPart, count: usize) -> Result<()> {
    let whole = &gradients(task, add, count, 0, 1)?[0];
    assert!(whole.values().all(|numbers| !numbers.is_empty()));
    let largest = whole.values().flatten().fold(0f32, |a, b| a.max(b.abs()));
    assert!(largest > 1e-2, "{largest} is next to nothing");
    // The last has more parts than sequences: a rank has nothing to compute.
    for (ranks, accumulate) in [(0, 3), (1, 1), (2, 1), (2, 3), (count + 1, 1)] {
        let found = gradients(task, add, count, ranks, accumulate)?;
        assert_eq!(found.len(), ranks.max(1));
        for (name, expected) in whole {
            for numbers in &found {
                assert_eq!(numbers, &found[0], "ranks have different gradients");
                for (a, b) in numbers[name].iter().zip(expected) {
                    assert!((a - b).abs() < 1e-5, "{name} on {ranks} ranks in {accumulate} parts: {a} {b}");
                }
                assert_eq!(numbers[name].len(), expected.len());
            }
        }
    }
    Ok(())
}

#[test]
fn masked_lm_parts_count_by_their_predictions() -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    // The shares that are predicted differ much.
    let sequences: Vec<(Vec<u32>, Vec<u32>)> = (0..9usize)
        .map(|i| {
            let pieces: Vec<u32> = (0..4 + 2 * i).map(|_| random.random_range(0..44)).collect();
            let rows = (0..pieces.len() as u32).filter(|row| *row == 1 || row % (1 + i as u32) == 0).collect();
            (pieces, rows)
        })
        .collect();
    let add = |parameters: &Parameters, range: Range<usize>, mean: &mut GradientMean| {
        let mut masked = MaskedBatch::default();
        for (pieces, rows) in &sequences[range] {
            let start = masked.batch.pieces() as u32;
            masked.batch.push(pieces, &[]);
            masked.rows.extend(rows.iter().map(|row| start + row));
            masked.targets.extend(rows.iter().map(|row| (7 * row + pieces.len() as u32) % 44));
        }
        let encoder = parameters.encoder()?;
        let (_, found) = masked_lm::loss_and_gradients(parameters, &encoder, &masked, &mut Dropout::new(0.))?;
        mean.add(|variable| found.get(variable).cloned(), masked.rows.len())
    };
    check(Task::MaskedLm, &add, sequences.len())
}

#[test]
fn tagging_parts_count_by_their_words() -> Result<()> {
    let examples: Vec<Example> = support::examples(11, 5).examples;
    let add = |parameters: &Parameters, range: Range<usize>, mean: &mut GradientMean| {
        let labelled = LabelledBatch::pack(&examples[range], &[]);
        let network = parameters.network()?;
        let (_, found) = loss_and_gradients(parameters, &network, &labelled, &mut Dropout::new(0.), 0.5)?;
        mean.add(|variable| found.get(variable).cloned(), labelled.tags.len())
    };
    check(Task::Tagging, &add, examples.len())
}
