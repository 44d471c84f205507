//! The step of a run -> which layers are trained: at first only what stands on the encoder, then one layer after another from the top down, the
//! embeddings last (gradual unfreezing: Howard and Ruder 2018, ULMFiT, section 3.3; for distillation Mukherjee and Awadallah 2020, XtremeDistil).

use crate::error::{Error, Result};
use crate::optimizer::Optimizer;
use crate::parameters::{Parameters, prefix};

/// A schedule of thawing.
pub struct Unfreezing {
    prefix: &'static str,
    /// Layers and embeddings.
    blocks: usize,
    /// Steps until everything is trained.
    steps: f64,
    /// Blocks that the optimiser trains now.
    thawed: Option<usize>,
}

impl Unfreezing {
    /// Everything is trained after this share of the steps; with 0 from the start.
    ///
    /// # Errors
    /// If the share does not lie between 0 and 1.
    pub fn new(parameters: &Parameters, steps: usize, share: f64) -> Result<Self> {
        if !(0. ..=1.).contains(&share) {
            return Err(Error::Setting(format!(
                "the share of steps that thaw is {share}, but must lie between 0 and 1"
            )));
        }
        let config = parameters.config();
        let blocks = config.encoder.layers + 1;
        Ok(Self { prefix: prefix(config), blocks, steps: steps as f64 * share, thawed: None })
    }

    /// Blocks that are trained at a step, counted from the top.
    fn thawed(&self, step: usize) -> usize {
        let share = (step as f64 / self.steps).min(1.);
        if self.steps > 0. { (share * self.blocks as f64) as usize } else { self.blocks }
    }

    /// Tells the optimiser if another layer is trained from this step on.
    ///
    /// # Errors
    /// If the device fails.
    pub fn before_step(&mut self, optimizer: &mut Optimizer, step: usize) -> Result<()> {
        let thawed = self.thawed(step);
        if self.thawed.replace(thawed) == Some(thawed) {
            return Ok(());
        }
        let frozen = self.blocks - thawed;
        optimizer.train_only(|name| block(name, self.prefix).is_none_or(|block| block >= frozen))
    }
}

/// 0 for the embeddings, 1 for the first layer, and so on; `None` for what stands on the encoder.
fn block(name: &str, prefix: &str) -> Option<usize> {
    let name = name.strip_prefix(prefix)?;
    match name.split_once(".layer.") {
        Some((_, layer)) => layer.split('.').next()?.parse::<usize>().ok().map(|layer| layer + 1),
        None => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_from_the_embeddings() {
        for (name, expected) in [
            ("distilbert.embeddings.LayerNorm.weight", Some(0)),
            ("distilbert.transformer.layer.0.sa_layer_norm.bias", Some(1)),
            ("distilbert.transformer.layer.11.ffn.lin1.weight", Some(12)),
            ("classifier.weight", None),
            ("crf.transitions", None),
        ] {
            assert_eq!(block(name, "distilbert."), expected, "{name}");
        }
        assert_eq!(block("bert.encoder.layer.3.output.dense.weight", "bert."), Some(4));
    }

    #[test]
    fn layers_thaw_evenly_from_the_top() {
        let of = |share: f64| Unfreezing { prefix: "", blocks: 4, steps: 100. * share, thawed: None };
        let half: Vec<usize> = [0, 12, 13, 24, 25, 38, 49, 50, 99].map(|step| of(0.5).thawed(step)).into();
        assert_eq!(half, [0, 0, 1, 1, 2, 3, 3, 4, 4]);
        assert_eq!(of(0.).thawed(0), 4);
        assert_eq!(of(1.).thawed(99), 3);
    }
}
