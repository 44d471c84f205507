//! chemtag finds the names of chemicals in scientific text.
//!
//! ```
//! # fn main() -> chemtag::Result<()> {
//! let tagger = chemtag::get("models/chemtag-small.int8.safetensors")?;
//! for entity in tagger.tag("Aspirin was dissolved in tetrahydrofuran (THF).")? {
//!     println!("{} {}..{} {:?} {:.3}", entity.text, entity.start, entity.end, entity.class, entity.score);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`get`] gives every caller the one model of the process and [`preload`] loads it in the background ([`Registry`]); a [`Tagger`] is cheap to clone and tags
//! strings, batches and streams of any length. Every [`Entity`] has byte offsets into the caller's own text.

mod activity;
mod backend;
pub mod batch;
#[cfg(all(feature = "wasm", target_arch = "wasm32"))]
mod bert_tokenizer;
#[cfg(feature = "candle")]
mod candle_backend;
mod contents;
#[cfg(feature = "corpus")]
pub mod corpus;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decode;
mod device;
mod engine;
mod entity;
mod error;
#[cfg(feature = "formats")]
pub mod format;
pub mod formula;
#[cfg(feature = "hub")]
pub mod hub;
pub mod int8;
pub mod model;
mod pipeline;
mod portion;
mod reader;
#[cfg(feature = "formats")]
pub mod reading;
mod registry;
#[cfg(any(feature = "formats", feature = "hub"))]
mod replacement;
pub mod sequence;
mod side_by_side;
mod source;
mod tagger;
pub mod text;
pub mod tokenizer;
mod warnings;
#[cfg(all(feature = "wasm", target_arch = "wasm32"))]
pub mod wasm;
mod word_cache;
#[cfg(feature = "cli")]
pub mod workload;

pub use activity::Activity;
pub use backend::{Backend, Emissions, Precision, Prepared};
#[cfg(feature = "candle")]
pub use candle_backend::CandleBackend;
pub use contents::Contents;
pub use device::Device;
pub use entity::{Entity, Offsets};
pub use error::{Error, Result};
pub use reader::TagReader;
pub use registry::{Preload, Progress, Registry, Stage, get, preload};
pub use source::{ModelFiles, ModelSource, OnPortion};
pub use tagger::{LoadOptions, Model, TagOptions, Tagger};
pub use warnings::on_warning;

/// The examples of README.md, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
