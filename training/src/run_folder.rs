//! A run and its output folder: what is there already is read, checked and gone on from; settings.json, run.json, recipe.toml, metrics.jsonl,
//! loss.svg, f1.svg and checkpoint.safetensors are written. Only a run's first rank has the folder.
//! Every file but metrics.jsonl is there whole or not at all, and that one is cut back to its checkpoint: a run may end at any moment.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::accumulation::Share;
use crate::checkpoint::{self, Progress};
use crate::curves;
use crate::error::{Error, Result};
use crate::files::{remove_leftovers, write_atomically};
use crate::machine::device_name;
use crate::metrics::Metrics;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::plot::Plot;
use crate::provenance::{Provenance, RunRecord, Start};
use crate::ranks::Rank;

/// What a run says of itself when it opens its folder.
pub struct Opening<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The settings that determine the run, as JSON.
    pub settings: &'a str,
    /// Seed of all that is random.
    pub seed: u64,
    /// Where it comes from.
    pub provenance: &'a Provenance,
    /// Which of the run's ranks this is.
    pub rank: &'a Rank<'a>,
    /// What of each step it computes.
    pub share: Share,
    /// Steps of the whole run.
    pub steps: usize,
    /// Names of the losses in its lines of metrics.
    pub losses: &'a [&'static str],
}

/// The folder of a run, open for writing.
pub struct RunFolder {
    folder: PathBuf,
    metrics: Metrics,
    /// Lines of metrics so far.
    lines: Vec<Value>,
    losses: Vec<&'static str>,
    /// `None` if the run was done before it was started.
    record: Option<RunRecord>,
}

impl RunFolder {
    /// Creates the folder, or goes on from the checkpoint in it: parameters, optimiser and progress are then those of the checkpoint. Only the
    /// first rank gets the folder; no rank returns before all have read.
    ///
    /// # Errors
    /// If the checkpoint is damaged or of another run, which leaves the folder as it was; if the folder cannot be written.
    pub fn open(
        opening: Opening,
        parameters: &Parameters,
        optimizer: &mut Optimizer,
    ) -> Result<(Progress, Option<Self>)> {
        let Opening { folder, settings, seed, provenance, rank, share, steps, losses } = opening;
        std::fs::create_dir_all(folder).map_err(|e| Error::io("write", folder, e))?;
        let restored =
            checkpoint::restore(&checkpoint_path(folder), settings, &provenance.sources, parameters, optimizer)?;
        let progress = restored.unwrap_or_else(|| Progress::fresh(settings, &provenance.sources));
        // Before the first rank writes, all have read.
        rank.wait()?;
        if !rank.is_first() {
            return Ok((progress, None));
        }
        remove_leftovers(folder)?;
        write_atomically(&folder.join("settings.json"), settings.as_bytes())?;
        let mut record = None;
        if progress.step < steps {
            write_atomically(&folder.join("recipe.toml"), provenance.recipe.as_bytes())?;
            let start = Start::now(
                progress.step,
                device_name(parameters.device(), rayon::current_num_threads()),
                rank.count(),
                share.parts(),
            );
            let begun = RunRecord::begin(folder, provenance, seed, start);
            begun.write()?;
            record = Some(begun);
        }
        let (metrics, lines) = Metrics::open(&folder.join("metrics.jsonl"), progress.metrics_bytes)?;
        Ok((progress, Some(Self { folder: folder.into(), metrics, lines, losses: losses.into(), record })))
    }

    /// Adds a line of metrics.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_metrics(&mut self, line: Value) -> Result<()> {
        self.metrics.write(&line)?;
        self.lines.push(line);
        Ok(())
    }

    /// Draws the curves as far as they have come.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn draw(&self) -> Result<()> {
        let write = |name: &str, plot: Option<Plot>| match plot {
            Some(plot) => write_atomically(&self.folder.join(name), plot.svg()?.as_bytes()),
            None => Ok(()),
        };
        write("loss.svg", curves::losses(&self.lines, &self.losses))?;
        write("f1.svg", curves::devel_f1(&self.lines))
    }

    /// Writes the checkpoint and draws the curves.
    ///
    /// # Errors
    /// If a file cannot be written; the checkpoint before this one stays then.
    pub fn save(&self, progress: &mut Progress, parameters: &Parameters, optimizer: &Optimizer) -> Result<()> {
        progress.metrics_bytes = self.metrics.bytes();
        checkpoint::save(&checkpoint_path(&self.folder), progress, parameters, optimizer)?;
        self.draw()
    }

    /// Notes in run.json that the run is done.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        let Some(record) = &mut self.record else { return Ok(()) };
        record.finish();
        record.write()
    }
}

fn checkpoint_path(folder: &Path) -> PathBuf {
    folder.join("checkpoint.safetensors")
}
