//! A model's sizes -> batches that every engine can be timed on: one short and one long sequence, and the sentences of scientific text.
//! Their lengths in word pieces were counted on open-access articles (`workload/lengths.json`); the pieces are made up, and every one begins a
//! word, so that all of every layer is computed. Two ways to batch sentences: sorted by length, as fits padding best, and as they come.

use std::time::Instant;

use crate::backend::Backend;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::config::EncoderConfig;

const LENGTHS: &str = include_str!("workload/lengths.json");
/// Most pieces of a sorted batch, were it padded; sequences of an unsorted one.
const SORTED_PIECES: usize = 2048;
const UNSORTED_SEQUENCES: usize = 16;

/// Batches to be read one after another.
pub struct Workload {
    /// Short name: A32, A256 (one sequence), B-sorted or B-unsorted (sentences).
    pub name: &'static str,
    /// What it is, in words.
    pub description: String,
    /// The batches.
    pub batches: Vec<Batch>,
    /// Whether it is measured in milliseconds a run, or else in pieces a second.
    pub in_milliseconds: bool,
}

impl Workload {
    /// The four workloads for an encoder; what is longer than its sequences may be is cut to that.
    ///
    /// # Errors
    /// None with the lengths that this library carries.
    pub fn all(config: &EncoderConfig) -> Result<Vec<Self>> {
        Self::of_lengths(LENGTHS, "src/workload/lengths.json", config)
    }

    /// As [`Workload::all`], with sentences of other lengths in word pieces: `{"lengths": [29, 25, …]}`; `file` names them in messages.
    ///
    /// # Errors
    /// [`Error::Option`] if it is no such JSON, or holds no lengths.
    pub fn of_lengths(json: &str, file: &str, config: &EncoderConfig) -> Result<Vec<Self>> {
        let wrong = |reason: String| Error::Option(format!("{file}: {reason}"));
        let lengths: serde_json::Value = serde_json::from_str(json).map_err(|e| wrong(e.to_string()))?;
        let lengths: Vec<usize> =
            serde_json::from_value(lengths["lengths"].clone()).map_err(|e| wrong(e.to_string()))?;
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(wrong("expected {\"lengths\": [29, 25, …]}, none of them 0".into()));
        }
        let (vocabulary, longest) = (config.vocab_size, config.max_positions);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length.min(longest)).collect();
        let mut ascending = lengths.clone();
        ascending.sort_unstable();
        let (mut sorted, mut first) = (Vec::new(), 0);
        for end in 1..=ascending.len() {
            if end == ascending.len() || (end + 1 - first) * ascending[end] > SORTED_PIECES {
                sorted.push(batch(&ascending[first..end], vocabulary));
                first = end;
            }
        }
        let one = |name, length: usize| {
            let length = length.min(longest);
            let description = format!("one sequence of {length} word pieces");
            Self { name, description, batches: vec![batch(&[length], vocabulary)], in_milliseconds: true }
        };
        let sentences = |name, description: &str, batches| Self {
            name,
            description: description.into(),
            batches,
            in_milliseconds: false,
        };
        let unsorted = lengths.chunks(UNSORTED_SEQUENCES).map(|lengths| batch(lengths, vocabulary)).collect();
        Ok(vec![
            one("A32", 32),
            one("A256", 256),
            sentences("B-sorted", "sentences sorted by length", sorted),
            sentences("B-unsorted", "sentences as they come", unsorted),
        ])
    }

    /// Word pieces of a run.
    pub fn pieces(&self) -> usize {
        self.batches.iter().map(Batch::pieces).sum()
    }

    /// The seconds of one run.
    ///
    /// # Errors
    /// As [`Backend::emissions`].
    pub fn time(&self, backend: &dyn Backend) -> Result<f64> {
        let started = Instant::now();
        for batch in &self.batches {
            std::hint::black_box(backend.emissions(batch)?);
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// The figure of a run that took so many seconds, to be read with [`Workload::unit`].
    pub fn figure(&self, seconds: f64) -> f64 {
        if self.in_milliseconds { (seconds * 1e6).round() / 1e3 } else { (self.pieces() as f64 / seconds).round() }
    }

    /// What its figures count.
    pub fn unit(&self) -> &'static str {
        if self.in_milliseconds { "ms" } else { "pieces/s" }
    }
}

/// Sequences of made-up pieces (a linear congruential generator, so that all programs read the same).
fn batch(lengths: &[usize], vocabulary: usize) -> Batch {
    let mut batch = Batch::default();
    let mut state = 1u32;
    for &length in lengths {
        let mut id = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % vocabulary as u32
        };
        let ids: Vec<u32> = (0..length).map(|_| id()).collect();
        batch.push(&ids, &(0..length as u32).collect::<Vec<_>>());
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ModelConfig;

    #[test]
    fn lengths_of_others_are_looked_at() {
        let json = serde_json::json!({"model_type": "distilbert", "vocab_size": 100, "dim": 32, "n_layers": 1, "n_heads": 4,
            "hidden_dim": 64, "max_position_embeddings": 64, "chemtag": {"sequence_pieces": 50}});
        let config = ModelConfig::from_json(json.to_string().as_bytes(), "config.json").unwrap().encoder;
        let all = Workload::of_lengths(r#"{"lengths": [7, 100, 3]}"#, "l.json", &config).unwrap();
        assert_eq!([all[2].pieces(), all[3].pieces()], [7 + 64 + 3; 2]);
        assert_eq!(all[2].batches[0].cu_seqlens, [0, 3, 10, 74]);
        for wrong in ["{}", "[1]", r#"{"lengths": []}"#, r#"{"lengths": [4, 0]}"#, r#"{"lengths": ["4"]}"#, ""] {
            let message = Workload::of_lengths(wrong, "l.json", &config).err().unwrap().to_string();
            assert!(message.contains("l.json: "), "{message}");
        }
    }

    #[test]
    fn all_sentences_are_read_in_both_orders_and_fit_the_model() {
        for positions in [64, 512] {
            let json = serde_json::json!({"model_type": "distilbert", "vocab_size": 100, "dim": 32, "n_layers": 1, "n_heads": 4,
                "hidden_dim": 64, "max_position_embeddings": positions, "chemtag": {"sequence_pieces": 50}});
            let config = ModelConfig::from_json(json.to_string().as_bytes(), "config.json").unwrap();
            let all = Workload::all(&config.encoder).unwrap();
            assert_eq!(
                all.iter().map(|workload| workload.name).collect::<Vec<_>>(),
                ["A32", "A256", "B-sorted", "B-unsorted"]
            );
            assert_eq!([all[0].pieces(), all[1].pieces()], [32, positions.min(256)]);
            let lengths = |workload: &Workload| -> Vec<u32> {
                let of_batch =
                    |batch: &Batch| batch.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).collect::<Vec<_>>();
                workload.batches.iter().flat_map(of_batch).collect()
            };
            let (sorted, mut unsorted) = (lengths(&all[2]), lengths(&all[3]));
            assert!(sorted.is_sorted() && !unsorted.is_sorted());
            unsorted.sort_unstable();
            assert_eq!(sorted, unsorted);
            assert!(*sorted.last().unwrap() as usize <= positions);
            for batch in all.iter().flat_map(|workload| &workload.batches) {
                let longest = batch.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap() as usize;
                assert!(
                    batch.sequences() == 1
                        || longest * batch.sequences() <= SORTED_PIECES.max(longest * UNSORTED_SEQUENCES)
                );
                assert_eq!(batch.words(), batch.pieces());
            }
        }
    }
}
