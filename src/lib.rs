//! chemtag finds the names of chemicals in scientific text.

mod backend;
pub mod batch;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decode;
mod entity;
mod error;
pub mod model;
mod pipeline;
mod reader;
mod registry;
pub mod sequence;
mod source;
mod tagger;
pub mod text;
pub mod tokenizer;

pub use backend::{Backend, CandleBackend, Device, Emissions, Precision};
pub use entity::{Entity, Offsets};
pub use error::{Error, Result};
pub use reader::TagReader;
pub use registry::{Preload, Progress, Registry, Stage, get, preload};
pub use source::{ModelFiles, ModelSource, OnPortion};
pub use tagger::{LoadOptions, Model, TagOptions, Tagger};
