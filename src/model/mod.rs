//! The network: configuration, names of tensors, CRF; and, on candle (feature `candle`), weights, encoder and heads. The latter is the reference
//! that the other engines are held to, what training trains, and the way to a GPU.

#[cfg(feature = "candle")]
pub mod attention;
pub mod config;
pub mod crf;
#[cfg(feature = "candle")]
pub mod dropout;
#[cfg(feature = "candle")]
pub mod encoder;
#[cfg(feature = "candle")]
pub mod fake_quantisation;
#[cfg(feature = "candle")]
pub mod gather;
#[cfg(feature = "candle")]
pub mod gradient;
#[cfg(feature = "candle")]
pub mod layout;
pub mod names;
#[cfg(feature = "candle")]
mod network;
#[cfg(feature = "candle")]
pub mod weights;

#[cfg(feature = "candle")]
pub use network::{HeadOutput, Network, load_crf};
