//! Unlabelled text and a teacher's posteriors -> what a student learns of them: the divergence of its distribution over tag paths (structural
//! knowledge distillation, Wang et al. 2021, arXiv 2010.05010), and of its classes where the teacher sees a mention begin.
//! The student may read some pieces as `[MASK]`; the teacher reads the whole text.

use candle_core::backprop::GradStore;
use chemtag::batch::Batch;
use chemtag::model::Network;
use chemtag::model::crf::Crf;
use chemtag::model::dropout::Dropout;

use crate::aligned_text::{AlignedText, TextSequence};
use crate::error::Result;
use crate::loss::{Losses, distillation_loss_and_gradients, mask_pieces};
use crate::parameters::Parameters;
use crate::stage::Objective;
use crate::teacher::{Ensemble, WordPosteriors};

/// Where the teachers' posteriors come from.
#[derive(Clone, Copy)]
pub enum Targets<'a> {
    /// The teachers read each batch.
    Live(&'a Ensemble),
}

impl Targets<'_> {
    /// Names of the teachers' classes.
    ///
    /// # Errors
    /// If there is no teacher.
    pub fn classes(&self) -> Result<&[String]> {
        match self {
            Self::Live(ensemble) => ensemble.classes(),
        }
    }

    /// SHA-256 of each teacher's files.
    pub fn hashes(&self) -> Vec<String> {
        match self {
            Self::Live(ensemble) => ensemble.hashes(),
        }
    }

    /// The mean of the teachers' CRFs, where it is known.
    pub fn mean_crf(&self) -> Option<Crf> {
        match self {
            Self::Live(ensemble) => Some(ensemble.mean_crf()),
        }
    }
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
}

impl Objective for Structural<'_> {
    type Prepared = Prepared;

    fn names(&self) -> [&'static str; 2] {
        ["divergence", "class_divergence"]
    }

    fn prepare(&self, sequences: &[TextSequence], step: usize) -> Result<Prepared> {
        let mut batch = self.text.batch(0, sequences);
        let targets = match self.targets {
            Targets::Live(ensemble) => {
                let read = ensemble.texts();
                let of_text = |text: usize| match text {
                    0 if read.contains(&0) => batch.clone(),
                    _ if read.contains(&text) => self.text.batch(text, sequences),
                    _ => Batch::default(),
                };
                PreparedTargets::Unread((0..self.text.texts()).map(of_text).collect())
            }
        };
        if let Some(PieceMasking { mask, share, seed }) = self.masking {
            mask_pieces(&mut batch, mask, share, seed, step as u64);
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
        let target: WordPosteriors = match (targets, self.targets) {
            (PreparedTargets::Unread(batches), Targets::Live(ensemble)) => ensemble.posteriors(&batches)?,
        };
        distillation_loss_and_gradients(parameters, &self.network, &batch, &target, dropout, self.class_weight)
    }
}
