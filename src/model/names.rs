//! Names of a checkpoint's tensors, as every engine reads them: Hugging Face's for DistilBERT and BERT, pytorch-crf's for the CRF.
//! `classifier` is Hugging Face's name for a token classifier's head. A `distilbert.` or `bert.` prefix may be there or not.

use super::config::Architecture;

/// Span head: linear from the hidden state of a word's first piece to O, B, I.
pub const SPAN_HEAD: &str = "classifier";
/// Class head: linear from the same hidden state to the classes.
pub const CLASS_HEAD: &str = "class_classifier";
/// Score of each tag at the first word, `[3]`.
pub const CRF_START: &str = "crf.start_transitions";
/// Score of each tag at the last word, `[3]`.
pub const CRF_END: &str = "crf.end_transitions";
/// Score of each pair of neighbouring tags, [from, to].
pub const CRF_TRANSITIONS: &str = "crf.transitions";
/// Prefixes that Hugging Face's task models put before the encoder's tensors.
pub(crate) const PREFIXES: [&str; 3] = ["", "distilbert.", "bert."];
pub(crate) const WORD_EMBEDDINGS: &str = "embeddings.word_embeddings.weight";

/// Tensor names below one layer: DistilBERT's and BERT's.
pub(crate) struct LayerNames {
    /// Before the layer's number.
    pub layer: &'static str,
    /// Query, key, value, attention output, feed-forward in and out.
    pub linear: [&'static str; 6],
    /// After the attention and after the feed-forward network.
    pub norm: [&'static str; 2],
}

const DISTILBERT: LayerNames = LayerNames {
    layer: "transformer.layer",
    linear: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"],
    norm: ["sa_layer_norm", "output_layer_norm"],
};

const BERT: LayerNames = LayerNames {
    layer: "encoder.layer",
    linear: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
    norm: ["attention.output.LayerNorm", "output.LayerNorm"],
};

impl LayerNames {
    /// Those of one architecture.
    pub(crate) fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::DistilBert => DISTILBERT,
            Architecture::Bert => BERT,
        }
    }
}
