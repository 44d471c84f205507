//! The integer engine: the encoder in 8-bit integers on any CPU, the same bits everywhere.
//! In: a packed batch. Out: emissions and class logits of its words. Weights are signed bytes with a scale for each output channel,
//! activations 7 bits with a scale and a zero point for each row, made while it computes; see docs/quantization.md.
//! Method: integer inference after Jacob et al. (2018), arXiv 1712.05877, with dynamic ranges.

mod artefact;
mod attention;
mod backend;
mod checkpoint;
mod elementary;
mod forward;
mod groups;
mod kernel;
mod matrix;
mod network;
mod product;
#[cfg(test)]
pub(crate) mod reference;
mod rows;
mod vector;

pub(crate) use artefact::configuration_and_tokenizer;
pub use artefact::to_file;
pub use backend::IntegerBackend;
pub(crate) use checkpoint::Checkpoint;
pub use kernel::{Kernel, VARIABLE};
pub use matrix::quantise_weights;
#[cfg(feature = "candle")]
pub(crate) use matrix::{LARGEST_ACTIVATION, LARGEST_WEIGHT};
#[cfg(feature = "candle")]
pub(crate) use rows::LEAST_RANGE;
