//! A run's state -> one file, from which the run goes on as if it had never stopped: variables, moments, best weights, progress.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The run's settings as JSON: a checkpoint serves only the run that wrote it.
    pub settings: String,
    /// Steps done, over all epochs.
    pub step: usize,
    /// Bytes of the metrics file that belong to these steps.
    pub metrics_bytes: u64,
    /// Best devel F1 so far, in percent, and its epoch.
    pub best: Option<(f64, usize)>,
    /// Sum of the losses since the epoch began: spans, classes, words.
    pub epoch_sums: [f64; 3],
}

const PROGRESS: &str = "progress";

/// Writes the checkpoint.
///
/// # Errors
/// If the file cannot be written; an earlier checkpoint stays then.
pub fn save(path: &Path, progress: &Progress, parameters: &Parameters, optimizer: &Optimizer) -> Result<()> {
    let mut tensors: BTreeMap<String, Tensor> =
        parameters.values(DType::F32)?.into_iter().map(|(name, value)| (format!("value.{name}"), value)).collect();
    for (name, moment) in optimizer.state() {
        tensors.insert(name, moment.to_device(&Device::Cpu)?);
    }
    let json = serde_json::to_string(progress).map_err(|e| Error::Setting(e.to_string()))?;
    let metadata = HashMap::from([(PROGRESS.to_string(), json)]);
    let file = safetensors::serialize(tensors.iter(), Some(metadata)).map_err(|e| Error::Setting(e.to_string()))?;
    write_atomically(path, &file)
}

/// Reads a checkpoint into the run that has these settings. Returns `None` if there is no checkpoint.
///
/// # Errors
/// If the file is damaged or another run's.
pub fn restore(
    path: &Path,
    settings: &str,
    parameters: &Parameters,
    optimizer: &mut Optimizer,
) -> Result<Option<Progress>> {
    let file = match std::fs::read(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let damaged = |reason: String| Error::Checkpoint { path: path.into(), reason };
    let (_, metadata) =
        safetensors::SafeTensors::read_metadata(&file).map_err(|e| damaged(format!("is damaged ({e})")))?;
    let json =
        metadata.metadata().as_ref().and_then(|m| m.get(PROGRESS)).ok_or_else(|| damaged("is no checkpoint".into()))?;
    let progress: Progress = serde_json::from_str(json).map_err(|e| damaged(format!("is damaged ({e})")))?;
    if progress.settings != settings {
        return Err(damaged(format!(
            "belongs to a run with other settings: remove the folder or go on with these\n  {}\ninstead of\n  {settings}",
            progress.settings
        )));
    }
    let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu)?;
    let values = tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("value.")?.to_string(), t.clone())));
    parameters.set(&values.collect())?;
    optimizer.restore(progress.step, &tensors)?;
    Ok(Some(progress))
}
