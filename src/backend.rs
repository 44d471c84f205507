//! What runs the network: a packed batch -> emission scores and class logits of its words.

use crate::batch::Batch;
use crate::device::Device;
use crate::error::Result;
use crate::model::crf::TAGS;

/// What fits the caches of one core.
pub(crate) const CPU_TOKEN_BUDGET: usize = 2048;

/// What the heads say of each word of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Emissions {
    /// Scores of O, B and I for each word.
    pub tags: Vec<[f32; TAGS]>,
    /// [words, classes] logits, row by row; empty without a class head.
    pub class_logits: Vec<f32>,
    /// Number of classes.
    pub classes: usize,
}

impl Emissions {
    /// Appends those of the words that follow.
    pub fn append(&mut self, mut next: Emissions) {
        self.tags.append(&mut next.tags);
        self.class_logits.append(&mut next.class_logits);
        self.classes = next.classes;
    }
}

/// A batch that a backend has made ready for its device.
pub struct Prepared {
    pub(crate) batch: Batch,
    #[cfg(feature = "cuda")]
    pub(crate) inputs: Option<crate::cuda::inputs::HostInputs>,
}

impl Prepared {
    /// The batch itself.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }
}

impl From<Batch> for Prepared {
    fn from(batch: Batch) -> Self {
        Self {
            batch,
            #[cfg(feature = "cuda")]
            inputs: None,
        }
    }
}

/// An engine that holds a model's weights.
pub trait Backend: Send + Sync {
    /// Reads a batch; an empty one gives empty emissions.
    ///
    /// # Errors
    /// If the device fails; [`OutOfMemory`](crate::Error::OutOfMemory) if it has no memory for a batch of this size, which the tagger takes as a wish for smaller ones.
    fn emissions(&self, batch: &Batch) -> Result<Emissions>;

    /// Does on the CPU what can be done before the device is free, in any thread.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    fn prepare(&self, batch: Batch) -> Result<Prepared> {
        Ok(batch.into())
    }

    /// Reads a batch that this engine has prepared.
    ///
    /// # Errors
    /// As [`Backend::emissions`].
    fn compute(&self, prepared: Prepared) -> Result<Emissions> {
        self.emissions(prepared.batch())
    }

    /// Pieces of a batch that suit the device: large enough to keep it busy.
    fn token_budget(&self) -> usize {
        CPU_TOKEN_BUDGET
    }

    /// Whether batches that come at the same time wait for each other, as on a GPU. Else each is computed by one thread of the CPU.
    fn takes_turns(&self) -> bool {
        false
    }

    /// Name for messages: engine, device and number format.
    fn describe(&self) -> String;
}

/// Number format of weights and hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// What the model's file holds on the CPU: 8-bit integers if it holds those, else f32. On a GPU f16.
    #[default]
    Auto,
    /// 8-bit integers (CPU): the integer engine ([`crate::int8`]). A file of floats is quantised while it is loaded.
    Int8,
    /// 32-bit floats.
    F32,
    /// 16-bit floats (GPU).
    F16,
    /// 16-bit brain floats (GPU).
    Bf16,
}

impl Precision {
    /// The format that `Auto` stands for on a resolved device; on the CPU the model's file decides.
    pub(crate) fn resolved(self, device: Device) -> Self {
        match (self, device) {
            (Precision::Auto, Device::Cuda(_)) => Precision::F16,
            (named, _) => named,
        }
    }
}
