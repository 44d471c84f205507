//! The model: what comes in is a packed batch, what goes out are tags and their probabilities.

pub mod crf;
