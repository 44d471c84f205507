//! A model and annotated corpora -> the temperature that makes its posteriors mean what they say. Dividing emissions and transitions by one number
//! leaves the best path as it is and makes every posterior less sure, or surer.
//! Guo, Pleiss, Sun and Weinberger 2017 (arXiv 1706.04599), section 4.2, for the posteriors of predicted spans.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chemtag::batch::Batch;
use chemtag::{Backend, Emissions, Model, Tagger};

use crate::calibration::Calibration;
use crate::corpus::Document;
use crate::error::{Error, Result};
use crate::evaluate::{Options, evaluate};

/// Temperatures from one to the other are tried.
const RANGE: [f64; 2] = [0.25, 8.];
/// Golden-section steps; the interval shrinks to 0.618 of itself in each, to a thousandth of the temperature in all.
const STEPS: usize = 17;

/// A corpus, read in one way.
pub struct Reading<'a> {
    /// Its name.
    pub name: String,
    /// Its documents.
    pub documents: &'a [Document],
    /// How they are read.
    pub options: Options,
}

/// What was found for a reading at the first and at the best temperature.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The reading's name.
    pub name: String,
    /// Posteriors as the model gives them.
    pub before: Calibration,
    /// Posteriors at the temperature.
    pub after: Calibration,
}

/// Finds the temperature with the smallest log loss of predicted spans, in the mean over the readings, each of which counts alike.
///
/// # Errors
/// If nothing is predicted in one of the readings, or the device fails.
pub fn fit(tagger: &Tagger, readings: &[Reading]) -> Result<(f64, Vec<Fitted>)> {
    let heard = Arc::new(Mutex::new(HashMap::new()));
    let at = |temperature: f64| -> Result<Vec<Calibration>> {
        let cooled = cooled(tagger, temperature, &heard)?;
        let read = |reading: &Reading| -> Result<Calibration> {
            Ok(evaluate(&cooled, reading.documents, &reading.options, None)?.calibration)
        };
        readings.iter().map(read).collect()
    };
    let loss = |logarithm: f64| -> Result<f64> {
        let mut sum = 0.;
        for (calibration, reading) in at(logarithm.exp())?.iter().zip(readings) {
            sum += calibration.log_loss().ok_or_else(|| {
                Error::Setting(format!("the model predicts nothing in {}: it has no posteriors to fit", reading.name))
            })?;
        }
        Ok(sum)
    };
    if readings.is_empty() {
        return Err(Error::Setting("there is no corpus to fit a temperature to".into()));
    }
    let temperature = golden_section(RANGE.map(f64::ln), loss)?.exp();
    let names = readings.iter().map(|reading| reading.name.clone());
    let fitted = names.zip(at(1.)?.into_iter().zip(at(temperature)?));
    Ok((temperature, fitted.map(|(name, (before, after))| Fitted { name, before, after }).collect()))
}

/// Where a function with one valley in an interval is smallest (Kiefer 1953).
fn golden_section([mut low, mut high]: [f64; 2], mut f: impl FnMut(f64) -> Result<f64>) -> Result<f64> {
    let ratio = (5f64.sqrt() - 1.) / 2.;
    let mut inner = [high - ratio * (high - low), low + ratio * (high - low)];
    let mut values = [f(inner[0])?, f(inner[1])?];
    for _ in 0..STEPS {
        if values[0] < values[1] {
            high = inner[1];
            inner = [high - ratio * (high - low), inner[0]];
            values = [f(inner[0])?, values[0]];
        } else {
            low = inner[0];
            inner = [inner[1], low + ratio * (high - low)];
            values = [values[1], f(inner[1])?];
        }
    }
    Ok((low + high) / 2.)
}

/// Emissions by the pieces of their batch.
type Heard = Arc<Mutex<HashMap<Vec<u32>, Emissions>>>;

/// The same model at another temperature. The network reads a batch once and is not asked again.
fn cooled(tagger: &Tagger, temperature: f64, heard: &Heard) -> Result<Tagger> {
    let model = tagger.model();
    let mut crf = model.crf().clone();
    let scores = crf.start.iter_mut().chain(&mut crf.end).chain(crf.transitions.as_flattened_mut());
    scores.for_each(|score| *score = (f64::from(*score) / temperature) as f32);
    let backend = Cooled { model: model.clone(), temperature, heard: heard.clone() };
    let model = Model::from_parts(model.config().clone(), model.tokenizer().clone(), crf, Box::new(backend));
    Ok(Tagger::from_model(Arc::new(model)).with_options(tagger.options().clone())?)
}

struct Cooled {
    model: Arc<Model>,
    temperature: f64,
    heard: Heard,
}

impl Backend for Cooled {
    fn emissions(&self, batch: &Batch) -> chemtag::Result<Emissions> {
        let known = self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(&batch.piece_ids).cloned();
        let mut emissions = match known {
            Some(emissions) => emissions,
            None => {
                let emissions = self.model.backend().emissions(batch)?;
                let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.insert(batch.piece_ids.clone(), emissions.clone());
                emissions
            }
        };
        for score in emissions.tags.as_flattened_mut() {
            *score = (f64::from(*score) / self.temperature) as f32;
        }
        Ok(emissions)
    }

    fn token_budget(&self) -> usize {
        self.model.backend().token_budget()
    }

    fn takes_turns(&self) -> bool {
        self.model.backend().takes_turns()
    }

    fn describe(&self) -> String {
        self.model.backend().describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_valley_is_found() {
        for bottom in [-1.2, 0.3, 2.] {
            let found = golden_section([-1.4, 2.1], |x| Ok((x - bottom).powi(2) + 1.)).unwrap();
            assert!((found - bottom).abs() < 2e-3, "{found} for {bottom}");
        }
    }
}
