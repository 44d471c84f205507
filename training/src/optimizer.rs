//! Gradients -> the next values of the variables: AdamW (Loshchilov and Hutter 2019, algorithm 2) with clipping by global norm,
//! a rate for each group of variables, a running average of the values (Polyak and Juditsky 1992), and a state that a checkpoint can keep.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor, Var};

use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean of the squares.
    pub epsilon: f64,
    /// Share of a matrix taken off it per unit of rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub clip_norm: f64,
    /// Decay of the running average of the values; it is shorter during the first steps. 0 for no averaging.
    pub average_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 1., average_decay: 0. }
    }
}

/// Learning rate at a step: linear warm-up, the peak for a while, then a linear decay to 2 % of the peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Steps of the whole run.
    pub steps: usize,
    /// Share of the steps that warm up.
    pub warmup: f64,
    /// Share of the steps after which the rate begins to fall, if it has reached its peak; 0 for a line from the peak at the first step to the end.
    pub flat: f64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        let progress = step as f64 / self.steps as f64;
        let rise = (step + 1) as f64 / (self.warmup * self.steps as f64).max(1.);
        let fall = ((1. - progress) / (1. - self.flat)).min(1.);
        self.peak * rise.min(1.) * fall.max(0.02)
    }
}

/// Variables of one rate and one decay, laid end to end: a step is a dozen operations on long vectors instead of a dozen for each variable.
struct Group {
    /// Factor on the rate.
    scale: f64,
    /// Whether weights decay: matrices do, biases and LayerNorms do not.
    decays: bool,
    names: Vec<String>,
    variables: Vec<Var>,
    /// 1 where values are trained, 0 where they are frozen (u8); `None` if all are trained.
    trained: Option<Tensor>,
    /// The variables' values, filled up with zeros to whole rows of [`ROW`].
    values: Tensor,
    mean: Tensor,
    square: Tensor,
    average: Tensor,
}

/// Sums run over rows of this many numbers first: candle sums all of a tensor in one block.
const ROW: usize = 4096;

/// `tensors` end to end, filled up to rows.
fn flatten(tensors: &[Tensor]) -> Result<Tensor> {
    let first = tensors.first().ok_or_else(|| Error::Setting("there is nothing to train".into()))?;
    let mut flat: Vec<Tensor> = tensors.iter().map(|t| t.detach().flatten_all()).collect::<candle_core::Result<_>>()?;
    let length: usize = flat.iter().map(Tensor::elem_count).sum();
    flat.push(Tensor::zeros(length.next_multiple_of(ROW) - length, first.dtype(), first.device())?);
    Ok(Tensor::cat(&flat, 0)?.reshape(((), ROW))?)
}

/// The variables with their moments, on candle's operations.
struct Groups {
    settings: AdamW,
    step: usize,
    /// Norm of the last step's gradients.
    norm: f64,
    groups: Vec<Group>,
}

/// The variables with their moments.
pub struct Optimizer(Engine);

enum Engine {
    Groups(Groups),
    #[cfg(feature = "cuda")]
    Fused(Box<crate::fused_optimizer::FusedAdamW>),
}

impl Optimizer {
    /// For a model's parameters; `scale` gives the factor on the learning rate for a tensor's name.
    ///
    /// # Errors
    /// If the device fails.
    pub fn of(settings: AdamW, parameters: &Parameters, scale: impl Fn(&str) -> f64) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(fused) = crate::fused_optimizer::FusedAdamW::new(settings, parameters, &scale)? {
            return Ok(Self(Engine::Fused(Box::new(fused))));
        }
        Self::new(settings, parameters.variables(), scale)
    }

    /// For variables by their names, on candle's operations; `scale` gives the factor on the learning rate for a name.
    ///
    /// # Errors
    /// If there are no variables or the device fails.
    pub fn new(settings: AdamW, variables: &BTreeMap<String, Var>, scale: impl Fn(&str) -> f64) -> Result<Self> {
        let mut kinds: Vec<(f64, bool)> = Vec::new();
        let mut members: Vec<(Vec<String>, Vec<Var>)> = Vec::new();
        for (name, variable) in variables {
            let kind = (scale(name), variable.rank() > 1);
            let group = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
                kinds.push(kind);
                members.push(Default::default());
                kinds.len() - 1
            });
            members[group].0.push(name.clone());
            members[group].1.push(variable.clone());
        }
        let groups = kinds.into_iter().zip(members).map(|((scale, decays), (names, variables))| {
            let values = flatten(&variables.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>())?;
            let zeros = values.zeros_like()?;
            let (mean, square, average) = (zeros.clone(), zeros, values.clone());
            Ok(Group { scale, decays, names, variables, trained: None, mean, square, average, values })
        });
        let groups = groups.collect::<Result<_>>()?;
        Ok(Self(Engine::Groups(Groups { settings, step: 0, norm: 0., groups })))
    }

    /// One step at learning rate `rate`; `gradient` gives a variable's. A variable without one has a gradient of zero. Gradients whose norm is
    /// not finite change nothing.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the norm is not finite; on a GPU [`Optimizer::check_finite`] says so later, so that a step need not wait.
    pub fn step(&mut self, gradient: impl Fn(&Var) -> Option<Tensor>, rate: f64) -> Result<()> {
        match &mut self.0 {
            Engine::Groups(groups) => groups.step(gradient, rate),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => fused.step(gradient, rate),
        }
    }

    /// From now on only tensors of which `trained` is true change. Moments follow the gradients of all, so that a tensor which is trained
    /// again later takes steps of the usual size from the first one on.
    ///
    /// # Errors
    /// If the device fails.
    pub fn train_only(&mut self, trained: impl Fn(&str) -> bool) -> Result<()> {
        match &mut self.0 {
            Engine::Groups(groups) => groups.groups.iter_mut().try_for_each(|group| group.train_only(&trained)),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => fused.train_only(trained),
        }
    }

    /// Waits for the steps so far.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the gradients of one were not finite.
    pub fn check_finite(&self) -> Result<()> {
        match &self.0 {
            Engine::Groups(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => {
                let report = fused.report()?;
                match report.bad_steps {
                    0 => Ok(()),
                    _ => Err(Error::Diverged { step: report.steps as usize }),
                }
            }
        }
    }

    /// Global norm of the last step's gradients before clipping; waits for it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn norm(&self) -> Result<f64> {
        match &self.0 {
            Engine::Groups(groups) => Ok(groups.norm),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => Ok(f64::from(fused.report()?.norm)),
        }
    }

    /// Gives the variables the running average of their values, to evaluate or keep it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn show_average(&self) -> Result<()> {
        match &self.0 {
            Engine::Groups(groups) => groups.groups.iter().try_for_each(|group| group.write_variables(&group.average)),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => fused.show_average(),
        }
    }

    /// Gives the variables their own values again.
    ///
    /// # Errors
    /// If the device fails.
    pub fn show_values(&self) -> Result<()> {
        match &self.0 {
            Engine::Groups(groups) => groups.groups.iter().try_for_each(|group| group.write_variables(&group.values)),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => fused.show_values(),
        }
    }

    /// The moments and averages, for a checkpoint.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        match &self.0 {
            Engine::Groups(groups) => Ok(groups.state()),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => fused.state(),
        }
    }

    /// Goes on after `step` steps from a checkpoint's moments and averages and the values that the variables have now.
    ///
    /// # Errors
    /// If a moment is missing or of another length.
    pub fn restore(&mut self, step: usize, tensors: &HashMap<String, Tensor>) -> Result<()> {
        match &mut self.0 {
            Engine::Groups(groups) => groups.restore(step, tensors),
            #[cfg(feature = "cuda")]
            Engine::Fused(fused) => fused.restore(step, tensors),
        }
    }
}

impl Groups {
    fn step(&mut self, gradient: impl Fn(&Var) -> Option<Tensor>, rate: f64) -> Result<()> {
        let mut flat = Vec::with_capacity(self.groups.len());
        let mut squares = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let own = group.variables.iter().map(|variable| match gradient(variable) {
                Some(gradient) => Ok(gradient),
                None => variable.as_tensor().zeros_like(),
            });
            let gradient = flatten(&own.collect::<candle_core::Result<Vec<_>>>()?)?;
            squares.push(gradient.sqr()?.sum(1)?.sum_all()?);
            flat.push(gradient);
        }
        self.norm = f64::from(Tensor::stack(&squares, 0)?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?).sqrt();
        if !self.norm.is_finite() {
            return Err(Error::Diverged { step: self.step });
        }
        let AdamW { beta1, beta2, epsilon, weight_decay, clip_norm, average_decay } = self.settings;
        let clip = (clip_norm / (self.norm + 1e-6)).min(1.);
        self.step += 1;
        let decay = average_decay.min((1. + self.step as f64) / (10. + self.step as f64));
        let correct1 = 1. - beta1.powi(self.step as i32);
        let correct2 = 1. - beta2.powi(self.step as i32);
        for (group, gradient) in self.groups.iter_mut().zip(flat) {
            group.mean = ((&group.mean * beta1)? + (&gradient * ((1. - beta1) * clip))?)?;
            group.square = ((&group.square * beta2)? + (gradient.sqr()? * ((1. - beta2) * clip * clip))?)?;
            let rate = rate * group.scale;
            let root = ((&group.square / correct2)?.sqrt()? + epsilon)?;
            let change = ((&group.mean / root)? * (rate / correct1))?;
            let kept = if group.decays { 1. - rate * weight_decay } else { 1. };
            let next = ((&group.values * kept)? - change)?;
            group.values = match &group.trained {
                None => next,
                Some(trained) => trained.where_cond(&next, &group.values)?,
            };
            if average_decay > 0. {
                group.average = ((&group.average * decay)? + (&group.values * (1. - decay))?)?;
            }
            group.write_variables(&group.values)?;
        }
        Ok(())
    }

    fn state(&self) -> BTreeMap<String, Tensor> {
        let all = |(i, group): (usize, &Group)| {
            [("mean", &group.mean), ("square", &group.square), ("average", &group.average)]
                .map(|(kind, tensor)| (format!("optimizer.{kind}.{i}"), tensor.clone()))
        };
        self.groups.iter().enumerate().flat_map(all).collect()
    }

    fn restore(&mut self, step: usize, tensors: &HashMap<String, Tensor>) -> Result<()> {
        self.step = step;
        for (i, group) in self.groups.iter_mut().enumerate() {
            group.values = flatten(&group.variables.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>())?;
            let find = |kind: &str| -> Result<Tensor> {
                let name = format!("optimizer.{kind}.{i}");
                let tensor = tensors.get(&name).ok_or_else(|| Error::Setting(format!("{name} is missing")))?;
                if tensor.shape() != group.values.shape() {
                    return Err(Error::Setting(format!("{name} belongs to another model")));
                }
                Ok(tensor.to_device(group.values.device())?)
            };
            (group.mean, group.square, group.average) = (find("mean")?, find("square")?, find("average")?);
        }
        Ok(())
    }
}

impl Group {
    fn train_only(&mut self, trained: impl Fn(&str) -> bool) -> Result<()> {
        let which: Vec<bool> = self.names.iter().map(|name| trained(name)).collect();
        self.trained = None;
        if which.contains(&false) {
            let of_variable = |(variable, &trained): (&Var, &bool)| {
                Tensor::full(u8::from(trained), variable.shape(), variable.device())
            };
            let parts = self.variables.iter().zip(&which).map(of_variable);
            self.trained = Some(flatten(&parts.collect::<candle_core::Result<Vec<_>>>()?)?);
        }
        Ok(())
    }

    /// Copies values to the variables that the network reads.
    fn write_variables(&self, values: &Tensor) -> Result<()> {
        let values = values.flatten_all()?;
        let mut first = 0;
        for variable in &self.variables {
            let count = variable.elem_count();
            variable.set(&values.narrow(0, first, count)?.reshape(variable.shape())?)?;
            first += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
