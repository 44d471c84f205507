//! Words' hidden states and the corpus of each -> what that corpus' annotators would add to the emissions: a linear head for each corpus on top of the common one.
//! Annotators differ in what they mark; where a corpus says so in its own head, the common head need not. (Daumé 2007, "Frustratingly easy domain adaptation",
//! with linear heads.) The corpora's heads have the mean zero, so that the common head alone, which is what a model keeps, is their average.

use candle_core::{DType, Tensor, Var};
use chemtag::model::crf::TAGS;

use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// Weights `[corpora * 3, hidden]` and biases `[corpora * 3]` of all heads. They begin as zeros.
pub const CORPUS_HEADS: [&str; 2] = ["corpus_heads.weights", "corpus_heads.biases"];

/// The heads among a model's variables.
pub struct CorpusHeads<'p> {
    weights: &'p Var,
    biases: &'p Var,
}

impl<'p> CorpusHeads<'p> {
    /// `None` if the model is trained without.
    pub fn of(parameters: &'p Parameters) -> Option<Self> {
        let [weights, biases] = CORPUS_HEADS.map(|name| parameters.variables().get(name));
        Some(Self { weights: weights?, biases: biases? })
    }

    /// Number of corpora.
    pub fn corpora(&self) -> usize {
        self.biases.elem_count() / TAGS
    }

    /// What to add to the emissions, `[words, 3]`. `words`: hidden states `[words, hidden]` in f32; `corpora`: the corpus of each word.
    ///
    /// # Errors
    /// If a corpus has no head or the device fails.
    pub fn correction(&self, words: &Tensor, corpora: &[u8]) -> Result<Tensor> {
        let count = self.corpora();
        let mut chosen = vec![0f32; corpora.len() * count];
        for (row, &corpus) in chosen.chunks_mut(count.max(1)).zip(corpora) {
            let place = row.get_mut(usize::from(corpus));
            *place.ok_or_else(|| Error::Setting(format!("corpus {corpus} has no head, there are {count}")))? = 1.;
        }
        let chosen = Tensor::from_vec(chosen, (corpora.len(), count, 1), words.device())?;
        let hidden = words.dim(1)?;
        let weights = centred(&self.weights.as_tensor().reshape((count, TAGS, hidden))?)?;
        let biases = centred(&self.biases.as_tensor().reshape((count, TAGS))?)?;
        let all = words.to_dtype(DType::F32)?.matmul(&weights.reshape((count * TAGS, hidden))?.t()?)?;
        let all = all.reshape((corpora.len(), count, TAGS))?.broadcast_add(&biases)?;
        Ok(all.broadcast_mul(&chosen)?.sum(1)?)
    }
}

/// Less the mean over the first axis.
fn centred(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor.broadcast_sub(&tensor.mean_keepdim(0)?)
}
