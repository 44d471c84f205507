//! Folders of trained models -> their posteriors of a text's words: the mean of their pair marginals, which is exact for the mixture of their
//! distributions over tag paths (Wang et al. 2021, arXiv 2010.05010), and the mean of their class distributions.
//! Each has its own encoder, tokenizer and CRF; they meet at words.

use std::path::PathBuf;

use chemtag::batch::Batch;
use chemtag::model::config::ModelConfig;
use chemtag::model::crf::{Crf, PairMarginals, TAGS};
use chemtag::tokenizer::WordPieces;
use chemtag::{Device, Emissions, LoadOptions, Model, ModelFiles};
use rayon::prelude::*;

use crate::aligned_text::{AlignedText, TextSequence};
use crate::columns::fingerprint;
use crate::error::{Error, Result};

/// What is known of each word of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WordPosteriors {
    /// Pair marginals with the word before, [words, 3, 3].
    pub pairs: Vec<PairMarginals>,
    /// Distribution of the classes, [words, classes] row by row; empty without classes.
    pub classes: Vec<f32>,
}

/// Teachers that speak with one voice.
pub struct Ensemble {
    teachers: Vec<Teacher>,
}

struct Teacher {
    folder: String,
    files: ModelFiles,
    model: Model,
    /// Fingerprint of its tokenizer.
    tokenizer: String,
    /// Which of the texts it reads.
    text: usize,
}

impl Ensemble {
    /// Loads models onto a device, in f16 on a GPU.
    ///
    /// # Errors
    /// If a folder holds no model, there is none, or their classes differ.
    pub fn load(folders: &[PathBuf], device: Device) -> Result<Self> {
        let load = |folder: &PathBuf| -> Result<Teacher> {
            let files = ModelFiles::read(&folder.into())?;
            let model = Model::load(&files, LoadOptions { device, ..LoadOptions::default() })?;
            let folder = folder.display().to_string();
            Ok(Teacher { folder, model, tokenizer: fingerprint(&[&files.tokenizer]), text: 0, files })
        };
        let teachers: Vec<Teacher> = folders.iter().map(load).collect::<Result<_>>()?;
        let ensemble = Self { teachers };
        let classes = ensemble.classes()?;
        match ensemble.teachers.iter().find(|teacher| teacher.model.config().tagger.classes != classes) {
            Some(other) => Err(Error::Setting(format!(
                "teacher {} has the classes [{}], the first one [{}]: teachers of one student must have the same",
                other.folder,
                other.model.config().tagger.classes.join(", "),
                classes.join(", ")
            ))),
            None => Ok(ensemble),
        }
    }

    fn first(&self) -> Result<&Teacher> {
        self.teachers.first().ok_or_else(|| Error::Setting("there is no teacher".into()))
    }

    /// Files and configuration of the first teacher, and which of the texts it reads.
    ///
    /// # Errors
    /// If there is no teacher.
    pub fn first_files(&self) -> Result<(&ModelFiles, &ModelConfig, usize)> {
        self.first().map(|teacher| (&teacher.files, teacher.model.config(), teacher.text))
    }

    /// Names of the classes that the teachers tell apart.
    ///
    /// # Errors
    /// If there is no teacher.
    pub fn classes(&self) -> Result<&[String]> {
        Ok(&self.first()?.model.config().tagger.classes)
    }

    /// SHA-256 of each model's files.
    pub fn hashes(&self) -> Vec<String> {
        self.teachers.iter().map(|teacher| teacher.model.hash().to_string()).collect()
    }

    /// Of each tokenizer that teachers read with: its fingerprint, itself, and the most pieces of a sequence that they all can read, `[CLS]`
    /// and `[SEP]` not counted.
    pub fn tokenizers(&self) -> Vec<(&str, &WordPieces, usize)> {
        let mut tokenizers: Vec<(&str, &WordPieces, usize)> = Vec::new();
        for teacher in &self.teachers {
            let room = teacher.model.config().encoder.max_positions - 2;
            match tokenizers.iter_mut().find(|(known, ..)| *known == teacher.tokenizer) {
                Some((.., smallest)) => *smallest = room.min(*smallest),
                None => tokenizers.push((&teacher.tokenizer, teacher.model.tokenizer(), room)),
            }
        }
        tokenizers
    }

    /// Lets each teacher read the text that its tokenizer cut.
    ///
    /// # Errors
    /// If there is none for one of them.
    pub fn read_from(&mut self, text: &AlignedText) -> Result<()> {
        for teacher in &mut self.teachers {
            teacher.text = text.of_tokenizer(&teacher.tokenizer).ok_or_else(|| {
                Error::Setting(format!(
                    "no text was prepared with the tokenizer of teacher {}: prepare the same files with `prepare-text --encoder {0}` and name the result too",
                    teacher.folder
                ))
            })?;
        }
        Ok(())
    }

    /// Sequences as each text has them; a text that no teacher reads gives an empty batch.
    pub fn batches(&self, text: &AlignedText, sequences: &[TextSequence]) -> Vec<Batch> {
        let read = |index| self.teachers.iter().any(|teacher| teacher.text == index);
        let batch = |index| if read(index) { text.batch(index, sequences) } else { Batch::default() };
        (0..text.texts()).map(batch).collect()
    }

    /// The mean of the teachers' CRFs: where a student's begins.
    pub fn mean_crf(&self) -> Crf {
        let share = 1. / self.teachers.len().max(1) as f32;
        let mut mean = Crf::default();
        for crf in self.teachers.iter().map(|teacher| teacher.model.crf()) {
            let sums = mean.transitions.iter_mut().chain([&mut mean.start, &mut mean.end]);
            for (sums, scores) in sums.zip(crf.transitions.iter().chain([&crf.start, &crf.end])) {
                for (sum, score) in sums.iter_mut().zip(scores) {
                    *sum += share * score;
                }
            }
        }
        mean
    }

    /// The posteriors of the words of [`Ensemble::batches`].
    ///
    /// # Errors
    /// If a device fails or a teacher's emissions are not finite.
    pub fn posteriors(&self, batches: &[Batch]) -> Result<WordPosteriors> {
        let mut mean = WordPosteriors::default();
        let share = 1. / self.teachers.len().max(1) as f64;
        for teacher in &self.teachers {
            let missing = || Error::Setting(format!("the batch lacks the text of teacher {}", teacher.folder));
            let batch = batches.get(teacher.text).ok_or_else(missing)?;
            let emissions = teacher.model.backend().emissions(batch)?;
            let pairs = teacher.model.crf().batch_pair_marginals(&emissions.tags, &batch.cu_words)?;
            mean.pairs.resize(pairs.len(), [[0.; TAGS]; TAGS]);
            mean.pairs.par_iter_mut().zip(&pairs).for_each(|(sums, own)| {
                for (sum, p) in sums.as_flattened_mut().iter_mut().zip(own.as_flattened()) {
                    *sum += share * p;
                }
            });
            add_classes(&mut mean.classes, &emissions, share as f32);
        }
        Ok(mean)
    }
}

/// Adds a share of the distributions that the logits stand for.
fn add_classes(sums: &mut Vec<f32>, emissions: &Emissions, share: f32) {
    if emissions.classes == 0 {
        return;
    }
    sums.resize(emissions.class_logits.len(), 0.);
    let rows = sums.par_chunks_mut(emissions.classes).zip(emissions.class_logits.par_chunks(emissions.classes));
    rows.for_each(|(sums, logits)| {
        let highest = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let total: f32 = logits.iter().map(|x| (x - highest).exp()).sum();
        for (sum, x) in sums.iter_mut().zip(logits) {
            *sum += share * (x - highest).exp() / total;
        }
    });
}
