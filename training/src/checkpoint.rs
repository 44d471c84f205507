//! A run's state -> one file, from which the run goes on as if it had never stopped: variables, moments, best weights, progress.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::provenance::Sources;

/// A number that comes back from JSON to the last bit. serde_json's reader may be off by one unit in the last place, unless all crates of
/// the build share a feature of it; so the bits are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Exact(pub f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(number: Exact) -> Self {
        number.0.to_bits()
    }
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The run's settings as JSON: a checkpoint serves only the run that wrote it.
    pub settings: String,
    /// What the run reads.
    #[serde(default)]
    pub sources: Sources,
    /// Steps done, over all epochs.
    pub step: usize,
    /// Bytes of the metrics file that belong to these steps.
    pub metrics_bytes: u64,
    /// Best devel F1 so far, in percent, and its epoch.
    pub best: Option<(Exact, usize)>,
    /// Sum of the losses since the epoch began: spans, classes, words.
    pub epoch_sums: [Exact; 3],
}

impl Progress {
    /// Of a run with these settings that has not begun.
    pub fn fresh(settings: &str, sources: &Sources) -> Self {
        Self {
            settings: settings.into(),
            sources: sources.clone(),
            step: 0,
            metrics_bytes: 0,
            best: None,
            epoch_sums: [Exact(0.); 3],
        }
    }
}

const PROGRESS: &str = "progress";

/// Writes the checkpoint.
///
/// # Errors
/// If the file cannot be written; an earlier checkpoint stays then.
pub fn save(path: &Path, progress: &Progress, parameters: &Parameters, optimizer: &Optimizer) -> Result<()> {
    let mut tensors: BTreeMap<String, Tensor> =
        parameters.values(DType::F32)?.into_iter().map(|(name, value)| (format!("value.{name}"), value)).collect();
    for (name, moment) in optimizer.state()? {
        tensors.insert(name, moment.to_device(&Device::Cpu)?);
    }
    let json = serde_json::to_string(progress).map_err(|e| Error::Setting(e.to_string()))?;
    let metadata = HashMap::from([(PROGRESS.to_string(), json)]);
    let file = safetensors::serialize(tensors.iter(), Some(metadata)).map_err(|e| Error::Setting(e.to_string()))?;
    write_atomically(path, &file)
}

/// Reads a checkpoint into the run that has these settings and reads these files. Returns `None` if there is no checkpoint.
///
/// # Errors
/// If the file is damaged, another run's, or does not fit the model.
pub fn restore(
    path: &Path,
    settings: &str,
    sources: &Sources,
    parameters: &Parameters,
    optimizer: &mut Optimizer,
) -> Result<Option<Progress>> {
    let file = match std::fs::read(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let refused = |reason: String| Error::Checkpoint { path: path.into(), reason };
    let (_, metadata) =
        safetensors::SafeTensors::read_metadata(&file).map_err(|e| refused(format!("is damaged ({e})")))?;
    let json =
        metadata.metadata().as_ref().and_then(|m| m.get(PROGRESS)).ok_or_else(|| refused("is no checkpoint".into()))?;
    let progress: Progress = serde_json::from_str(json).map_err(|e| refused(format!("is damaged ({e})")))?;
    if progress.settings != settings {
        return Err(refused(format!(
            "belongs to a run with other settings: remove the folder or go on with these\n  {}\ninstead of\n  {settings}",
            progress.settings
        )));
    }
    if let Some(difference) = progress.sources.difference(sources) {
        return Err(refused(format!(
            "belongs to a run on other data: {difference}; take the data that it began with, or write to another folder"
        )));
    }
    let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu)?;
    let values = tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("value.")?.to_string(), t.clone())));
    let unfit =
        |e: Error| refused(format!("does not fit the model ({e}): remove the folder or start from the same encoder"));
    parameters.set(&values.collect()).map_err(unfit)?;
    optimizer.restore(progress.step, &tensors).map_err(unfit)?;
    Ok(Some(progress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// A sum that comes back changed in its last bit gives other metrics; a best score so changed lets an equal epoch count as better.
    #[test]
    fn progress_comes_back_to_the_last_bit() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for step in 0..10_000 {
            let progress = Progress {
                settings: "{}".into(),
                sources: Sources::default(),
                step,
                metrics_bytes: random.random(),
                best: Some((Exact(100. * random.random::<f64>()), step)),
                epoch_sums: std::array::from_fn(|_| Exact(1e4 * random.random::<f64>())),
            };
            let json = serde_json::to_string(&progress).unwrap();
            assert_eq!(serde_json::from_str::<Progress>(&json).unwrap(), progress, "{json}");
        }
    }
}
