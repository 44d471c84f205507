//! Unlabelled text and a teacher's posteriors -> what a student learns of them: the divergence of its distribution over tag paths (structural
//! knowledge distillation, Wang et al. 2021, arXiv 2010.05010), and of its classes where the teacher sees a mention begin.
//! The student may read some pieces as `[MASK]`; the teacher reads the whole text.

use candle_core::backprop::GradStore;
use chemtag::batch::Batch;
use chemtag::model::Network;
use chemtag::model::dropout::Dropout;

use crate::accumulation::Part;
use crate::aligned_text::{AlignedText, TextSequence};
use crate::error::Result;
use crate::loss::{Losses, distillation_loss_and_gradients, mask_pieces};
use crate::parameters::Parameters;
use crate::posterior_shards::PosteriorShards;
use crate::stage::Objective;
use crate::teacher::{Ensemble, WordPosteriors};

/// Where the teachers' posteriors come from.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// The teachers.
    pub ensemble: &'a Ensemble,
    /// What they said of the text; `None`: they read each batch.
    pub kept: Option<&'a PosteriorShards>,
}

/// Pieces that the student does not see.
#[derive(Debug, Clone, Copy)]
pub struct PieceMasking {
    /// Id of `[MASK]`.
    pub mask: u32,
    /// Share of the pieces.
    pub share: f64,
    /// Seed of the draw.
    pub seed: u64,
}

/// The objective of the structural stage.
pub struct Structural<'a> {
    /// The student.
    pub network: Network,
    /// Text of the student and of its teachers.
    pub text: &'a AlignedText,
    /// What the teachers say of it.
    pub targets: Targets<'a>,
    /// Weight of the classes' divergence beside the spans'.
    pub class_weight: f64,
    /// What the student does not see; `None`: it reads all.
    pub masking: Option<PieceMasking>,
}

/// A batch on its way to the student.
pub struct Prepared {
    /// What the student reads.
    batch: Batch,
    targets: PreparedTargets,
}

enum PreparedTargets {
    /// What the teachers shall read, by text.
    Unread(Vec<Batch>),
    /// What they said.
    Known(WordPosteriors),
}

impl Objective for Structural<'_> {
    type Prepared = Prepared;

    fn names(&self) -> [&'static str; 2] {
        ["divergence", "class_divergence"]
    }

    fn prepare(&self, part: &Part<TextSequence>, step: usize) -> Result<Prepared> {
        let mut batch = self.text.batch(0, part.sequences);
        let targets = match self.targets.kept {
            Some(shards) => PreparedTargets::Known(shards.posteriors(part.sequences)?),
            None => PreparedTargets::Unread(self.targets.ensemble.batches(self.text, part.sequences)),
        };
        if let Some(PieceMasking { mask, share, seed }) = self.masking {
            let before = part.before.iter().map(|sequence| sequence.pieces.len()).sum();
            mask_pieces(&mut batch, mask, share, seed, step as u64, before);
        }
        Ok(Prepared { batch, targets })
    }

    fn words(&self, prepared: &Prepared) -> usize {
        prepared.batch.words()
    }

    fn gradients(
        &self,
        parameters: &Parameters,
        prepared: Prepared,
        dropout: &mut Dropout,
    ) -> Result<(Losses, GradStore)> {
        let Prepared { batch, targets } = prepared;
        let target = match targets {
            PreparedTargets::Known(posteriors) => posteriors,
            PreparedTargets::Unread(batches) => self.targets.ensemble.posteriors(&batches)?,
        };
        distillation_loss_and_gradients(parameters, &self.network, &batch, &target, dropout, self.class_weight)
    }
}
