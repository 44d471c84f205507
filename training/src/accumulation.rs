//! A step's batch in parts -> the gradient of the undivided batch: parts are computed one after another, on GPUs with less memory, or side by
//! side by the ranks of a run, and their gradients added, each weighted by what its mean is taken over (predicted pieces, words).
//! Data-parallel synchronous SGD as in Goyal et al. 2017, section 3 (remark 2: gradients are normalised by the whole batch, not by each part).

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor, TensorId, Var};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::ranks::Rank;

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'s, S> {
    /// Its number in the step, from 0, over all ranks.
    pub number: usize,
    /// Sequences of the parts before it.
    pub before: &'s [S],
    /// Its own, at least one.
    pub sequences: &'s [S],
}

/// Which of a step's parts a rank computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Number of its first part.
    first: usize,
    /// Parts that it computes.
    own: usize,
    /// Parts of the whole step, over all ranks.
    total: usize,
}

impl Share {
    /// The share of rank `rank` of `ranks`, each of which computes `accumulate` parts.
    ///
    /// # Errors
    /// If `accumulate` is 0.
    pub fn new(rank: usize, ranks: usize, accumulate: usize) -> Result<Self> {
        if accumulate == 0 {
            return Err(Error::Setting("a step is computed in 0 parts: --accumulate must be at least 1".into()));
        }
        Ok(Self { first: rank * accumulate, own: accumulate, total: ranks * accumulate })
    }

    /// Number of its first part.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Parts of a whole step, over all ranks.
    pub fn parts(&self) -> usize {
        self.total
    }

    /// This rank's parts of a step, as [`parts`] cuts it. Parts without sequences are left out.
    pub fn cut<'s, S>(&self, sequences: &'s [S], pieces: impl Fn(&S) -> usize) -> Vec<Part<'s, S>> {
        let mut end = 0;
        let mut cut = Vec::with_capacity(self.own);
        for (number, own) in parts(sequences, pieces, self.total).into_iter().enumerate() {
            if (self.first..self.first + self.own).contains(&number) && !own.is_empty() {
                cut.push(Part { number, before: &sequences[..end], sequences: own });
            }
            end += own.len();
        }
        cut
    }

    /// A run's settings as JSON, with the number of parts if there are several: they decide about the run's random numbers. Two GPUs give the
    /// curve of one GPU with `--accumulate 2`, and go on from its checkpoints.
    ///
    /// # Errors
    /// If the settings are not an object.
    pub fn record(&self, settings: &impl Serialize) -> Result<String> {
        let mut record = serde_json::to_value(settings).map_err(|e| Error::Setting(e.to_string()))?;
        if self.total > 1 {
            record["parts"] = self.total.into();
        }
        Ok(record.to_string())
    }
}

/// Cuts a step's sequences into `count` runs of neighbours with about as many pieces each; a sequence belongs to the part that its middle
/// falls into. Where there are fewer sequences than parts, some parts are empty.
///
/// ```
/// use chemtag_training::accumulation::parts;
///
/// assert_eq!(parts(&[30, 40, 30, 90, 10], |&pieces| pieces, 2), [&[30, 40, 30][..], &[90, 10]]);
/// assert_eq!(parts(&[7], |&pieces| pieces, 3), [&[][..], &[7], &[]]);
/// ```
pub fn parts<S>(sequences: &[S], pieces: impl Fn(&S) -> usize, count: usize) -> Vec<&[S]> {
    let total: usize = sequences.iter().map(&pieces).sum();
    let mut parts = Vec::with_capacity(count);
    let (mut first, mut end, mut before) = (0, 0, 0);
    for part in 1..count {
        // Twice the middle of the next sequence against twice the border of this part.
        while let Some(sequence) = sequences.get(end)
            && (2 * before + pieces(sequence)) * count < 2 * total * part
        {
            before += pieces(sequence);
            end += 1;
        }
        parts.push(&sequences[first..end]);
        first = end;
    }
    parts.push(&sequences[first..]);
    parts
}

/// Seed of the dropout of a part of a step; that of part 0 is the undivided step's.
pub fn dropout_seed(seed: u64, step: usize, part: usize) -> u64 {
    // The golden ratio's bits keep neighbouring seeds apart, the shift a part from later steps.
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(step as u64).wrapping_add((part as u64) << 40)
}

/// Adds the gradients of a step's parts.
pub struct GradientMean<'a> {
    variables: &'a BTreeMap<String, Var>,
    device: &'a Device,
    /// The first part's gradients and weight, until another part follows: a step of one part costs nothing.
    first: Option<(Vec<Option<Tensor>>, f64)>,
    /// Weighted sum of the gradients, all variables end to end in the order of their names, and the sum of the weights: [elements + 1], f32.
    sum: Option<Tensor>,
}

impl<'a> GradientMean<'a> {
    /// No part yet.
    pub fn new(parameters: &'a Parameters) -> Self {
        Self { variables: parameters.variables(), device: parameters.device(), first: None, sum: None }
    }

    /// Adds a part: the gradients of a mean over `weight` pieces or words. A variable without one has a gradient of zero.
    ///
    /// # Errors
    /// If the device fails.
    pub fn add(&mut self, gradient: impl Fn(&Var) -> Option<Tensor>, weight: usize) -> Result<()> {
        let gradients = (self.variables.values().map(gradient).collect(), weight as f64);
        if self.first.is_none() && self.sum.is_none() {
            self.first = Some(gradients);
            return Ok(());
        }
        self.add_first()?;
        self.add_to_sum(gradients)
    }

    fn add_first(&mut self) -> Result<()> {
        self.first.take().map_or(Ok(()), |gradients| self.add_to_sum(gradients))
    }

    fn add_to_sum(&mut self, (gradients, weight): (Vec<Option<Tensor>>, f64)) -> Result<()> {
        let mut flat = Vec::with_capacity(gradients.len() + 1);
        for (variable, gradient) in self.variables.values().zip(gradients) {
            flat.push(match gradient {
                Some(gradient) => gradient.detach().flatten_all()?,
                None => Tensor::zeros(variable.elem_count(), DType::F32, self.device)?,
            });
        }
        flat.push(Tensor::ones(1, DType::F32, self.device)?);
        let weighted = (Tensor::cat(&flat, 0)? * weight)?;
        self.sum = Some(match self.sum.take() {
            Some(sum) => (sum + weighted)?,
            None => weighted,
        });
        Ok(())
    }

    /// The gradients of the mean over all parts, those of other ranks included. A rank without a part adds nothing, but takes part.
    ///
    /// # Errors
    /// If the device fails or another rank has failed.
    pub fn finish(mut self, rank: &Rank) -> Result<Gradients> {
        if rank.is_alone()
            && let Some((gradients, _)) = self.first.take_if(|_| self.sum.is_none())
        {
            let by_id = |(variable, gradient): (&Var, Option<Tensor>)| Some((variable.as_tensor().id(), gradient?));
            return Ok(Gradients(self.variables.values().zip(gradients).filter_map(by_id).collect()));
        }
        self.add_first()?;
        let elements = self.variables.values().map(|variable| variable.elem_count()).sum();
        let sum = match self.sum.take() {
            Some(sum) => sum,
            None => Tensor::zeros(elements + 1, DType::F32, self.device)?,
        };
        let sum = rank.sum_buffer(sum)?;
        let mean = sum.narrow(0, 0, elements)?.broadcast_div(&sum.narrow(0, elements, 1)?)?;
        let (mut gradients, mut start) = (HashMap::new(), 0);
        for variable in self.variables.values() {
            let count = variable.elem_count();
            gradients.insert(variable.as_tensor().id(), mean.narrow(0, start, count)?.reshape(variable.shape())?);
            start += count;
        }
        Ok(Gradients(gradients))
    }
}

/// Gradients of a step by variable.
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// A variable's gradient; `None` if it is zero.
    pub fn get(&self, variable: &Var) -> Option<Tensor> {
        self.0.get(&variable.as_tensor().id()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_everything_once_and_about_the_same() {
        let lengths: Vec<usize> = (0..200).map(|i| 3 + i * 7919 % 120).collect();
        let total: usize = lengths.iter().sum();
        for count in [1, 2, 3, 7, 8] {
            let parts = parts(&lengths, |&pieces| pieces, count);
            assert_eq!(parts.concat(), lengths);
            assert_eq!(parts.len(), count);
            for part in parts {
                let pieces: usize = part.iter().sum();
                assert!(pieces.abs_diff(total / count) <= 122, "{pieces} of {total} in one of {count} parts");
            }
        }
        assert!(parts(&[], |&pieces: &usize| pieces, 2).iter().all(|part| part.is_empty()));
    }

    #[test]
    fn ranks_share_the_parts_of_accumulation() -> Result<()> {
        let lengths = [5, 9, 2, 8, 8, 1, 7, 3, 9];
        let whole = Share::new(0, 1, 4)?.cut(&lengths, |&pieces| pieces);
        let mut shared = Share::new(0, 2, 2)?.cut(&lengths, |&pieces| pieces);
        shared.extend(Share::new(1, 2, 2)?.cut(&lengths, |&pieces| pieces));
        assert_eq!(shared, whole);
        for (number, part) in whole.iter().enumerate() {
            assert_eq!(part.number, number);
            assert!(
                [part.before, part.sequences].concat().iter().eq(&lengths[..part.before.len() + part.sequences.len()])
            );
        }
        let last = Part { number: 1, before: &[][..], sequences: &[7][..] };
        assert_eq!(Share::new(1, 2, 1)?.cut(&[7], |&pieces| pieces), [last]);
        assert!(Share::new(0, 2, 1)?.cut(&[7], |&pieces| pieces).is_empty());
        assert!(Share::new(0, 1, 0).is_err());
        Ok(())
    }

    #[test]
    fn the_record_of_an_undivided_run_is_its_settings() -> Result<()> {
        #[derive(Serialize)]
        struct Settings {
            rate: f64,
        }
        let settings = Settings { rate: 2e-4 };
        assert_eq!(Share::new(0, 1, 1)?.record(&settings)?, r#"{"rate":0.0002}"#);
        assert_eq!(Share::new(1, 2, 1)?.record(&settings)?, Share::new(0, 1, 2)?.record(&settings)?);
        assert_eq!(Share::new(0, 2, 3)?.record(&settings)?, r#"{"rate":0.0002,"parts":6}"#);
        Ok(())
    }

    #[test]
    fn seeds_differ_between_steps_and_parts() {
        let mut seeds: Vec<u64> =
            (0..50).flat_map(|step| (0..50).map(move |part| dropout_seed(3, step, part))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 2500);
    }
}
