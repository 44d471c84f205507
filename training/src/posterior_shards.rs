//! Teachers' posteriors of a text <-> files: nine f16 numbers a word and its class distribution, for documents read in runs of sentences and
//! for documents read sentence by sentence. Written once by `label`, they teach any number of students that read the text with the same tokenizer.
//! Each file holds a range of documents and says which text and which teachers it belongs to.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use chemtag::batch::packs;
use chemtag::model::crf::{PairMarginals, TAGS, restore_marginals};
use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::aligned_text::{AlignedText, TextSequence};
use crate::columns::{self, Column};
use crate::error::{Error, Result};
use crate::teacher::{Ensemble, WordPosteriors};

/// Numbers of a word's pair marginals.
const PAIRS: usize = TAGS * TAGS;
/// Names of the columns of each way to read: pair marginals and classes.
const COLUMNS: [[&str; 2]; 2] = [["pairs", "classes"], ["sentence_pairs", "sentence_classes"]];
const METADATA: &str = "posteriors";

/// What a file belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    /// Fingerprint of the text, which is also that of its sequences.
    text: String,
    /// SHA-256 of each teacher's files.
    teachers: Vec<String>,
    /// Names of the classes.
    classes: Vec<String>,
    /// Documents of each file but the last.
    shard_documents: usize,
    /// Number of files.
    shards: usize,
}

impl Origin {
    fn new(text: &AlignedText, ensemble: &Ensemble, shard_documents: usize) -> Result<Self> {
        Ok(Self {
            text: text.fingerprint(),
            teachers: ensemble.hashes(),
            classes: ensemble.classes()?.to_vec(),
            shard_documents,
            shards: text.documents().div_ceil(shard_documents),
        })
    }

    /// Documents of a file.
    fn documents(&self, shard: usize, text: &AlignedText) -> Range<usize> {
        shard * self.shard_documents..((shard + 1) * self.shard_documents).min(text.documents())
    }
}

/// How a text is labelled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Documents of a file.
    #[arg(long, default_value_t = 20_000)]
    pub shard_documents: usize,
    /// Most pieces that the teachers read at once.
    #[arg(long, default_value_t = 163_840)]
    pub batch_pieces: usize,
}

fn path(folder: &Path, shard: usize) -> PathBuf {
    folder.join(format!("posteriors-{shard:05}.safetensors"))
}

/// The files of a folder, in order.
///
/// # Errors
/// If the folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", folder, e);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<_>>()?;
    let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned).unwrap_or_default();
    files.retain(|path| name(path).starts_with("posteriors-") && name(path).ends_with(".safetensors"));
    files.sort();
    Ok(files)
}

/// Writes the posteriors of a text. Files that are there and belong to it stay. `on_shard` is told after each file: files done, all files.
///
/// # Errors
/// If a file of another text or other teachers is there, a device fails or a file cannot be written.
pub fn label(
    text: &AlignedText,
    ensemble: &Ensemble,
    settings: Settings,
    folder: &Path,
    on_shard: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let Settings { shard_documents, batch_pieces } = settings;
    if shard_documents == 0 || batch_pieces == 0 {
        return Err(Error::Setting("a file holds at least one document, and a batch one piece".into()));
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io("write", folder, e))?;
    let origin = Origin::new(text, ensemble, shard_documents)?;
    for shard in 0..origin.shards {
        let path = path(folder, shard);
        if path.exists() {
            read_origin(&columns::load(&path)?).and_then(|found| check(&path, &found, &origin))?;
        } else {
            let documents = origin.documents(shard, text);
            let mut parts = Vec::new();
            for (lone, names) in COLUMNS.into_iter().enumerate() {
                let [pairs, classes] = read_documents(text, ensemble, documents.clone(), lone == 1, batch_pieces)?;
                parts.push((names[0], Column::halves(pairs)));
                parts.push((names[1], Column::halves(classes)));
            }
            let json = serde_json::to_string(&origin).map_err(|e| Error::Setting(e.to_string()))?;
            columns::save(&path, parts, Some(HashMap::from([(METADATA.to_string(), json)])))?;
        }
        on_shard(shard + 1, origin.shards);
    }
    Ok(())
}

/// Pair marginals and classes of documents, which are read one way. Words that no sequence holds stay zero.
fn read_documents(
    text: &AlignedText,
    ensemble: &Ensemble,
    documents: Range<usize>,
    lone: bool,
    batch_pieces: usize,
) -> Result<[Vec<f16>; 2]> {
    let words = text.words(documents.clone());
    let count = (words.end - words.start) as usize;
    let classes = ensemble.classes()?.len();
    let mut numbers = [vec![f16::ZERO; count * PAIRS], vec![f16::ZERO; count * classes]];
    let sequences: Vec<TextSequence> = documents.flat_map(|document| text.sequences(document, lone)).collect();
    for pack in packs(&sequences, |sequence| sequence.pieces.len() + 2, batch_pieces) {
        let posteriors = ensemble.posteriors(&ensemble.batches(text, pack))?;
        let mut row = 0;
        for sequence in pack {
            let first = (sequence.words.start - words.start) as usize;
            let length = (sequence.words.end - sequence.words.start) as usize;
            let pairs = posteriors.pairs[row..row + length].iter().flatten().flatten();
            for (kept, &p) in numbers[0][first * PAIRS..].iter_mut().zip(pairs) {
                *kept = f16::from_f64(p);
            }
            let distributions = &posteriors.classes[row * classes..(row + length) * classes];
            for (kept, &p) in numbers[1][first * classes..].iter_mut().zip(distributions) {
                *kept = f16::from_f32(p);
            }
            row += length;
        }
    }
    Ok(numbers)
}

fn read_origin(columns: &columns::Columns) -> Result<Origin> {
    serde_json::from_str(&columns.metadata(METADATA)?).map_err(|e| columns.damaged(&e.to_string()))
}

/// Refuses a file of another origin.
fn check(path: &Path, found: &Origin, wanted: &Origin) -> Result<()> {
    let reason = if found.text != wanted.text {
        "holds posteriors of another text, or of the same text in sequences of another length"
    } else if found.teachers != wanted.teachers || found.classes != wanted.classes {
        "holds other teachers' posteriors"
    } else if found != wanted {
        "belongs to a text that was labelled in files of another length"
    } else {
        return Ok(());
    };
    Err(Error::Dataset { path: path.into(), reason: format!("{reason}: label the text into another folder") })
}

/// A text's posteriors, in memory.
pub struct PosteriorShards {
    origin: Origin,
    /// First word of each file.
    starts: Vec<u64>,
    /// Pair marginals and classes of each file and way to read.
    numbers: Vec<[[Vec<f16>; 2]; 2]>,
}

impl PosteriorShards {
    /// Reads all files of a folder, 32 bytes for each word and way to read if there are seven classes.
    ///
    /// # Errors
    /// If a file is missing, damaged, or of another text or other teachers.
    pub fn load(folder: &Path, text: &AlignedText, ensemble: &Ensemble) -> Result<Self> {
        let first = read_origin(&columns::load(&path(folder, 0))?)?;
        let origin = Origin::new(text, ensemble, first.shard_documents.max(1))?;
        let mut shards = Self { starts: Vec::new(), numbers: Vec::new(), origin };
        for shard in 0..shards.origin.shards {
            let path = path(folder, shard);
            let columns = columns::load(&path)?;
            check(&path, &read_origin(&columns)?, &shards.origin)?;
            let words = text.words(shards.origin.documents(shard, text));
            let count = (words.end - words.start) as usize;
            let read = |[pairs, classes]: [&str; 2]| -> Result<[Vec<f16>; 2]> {
                let numbers = [columns.halves(pairs)?, columns.halves(classes)?];
                if numbers.each_ref().map(Vec::len) != [count * PAIRS, count * shards.origin.classes.len()] {
                    return Err(columns.damaged(&format!("its columns are not those of {count} words")));
                }
                Ok(numbers)
            };
            let numbers = [read(COLUMNS[0])?, read(COLUMNS[1])?];
            shards.starts.push(words.start);
            shards.numbers.push(numbers);
        }
        Ok(shards)
    }

    /// The posteriors of sequences of the text.
    ///
    /// # Errors
    /// If what was kept of one is no distribution over tag paths.
    pub fn posteriors(&self, sequences: &[TextSequence]) -> Result<WordPosteriors> {
        let classes = self.origin.classes.len();
        let of_sequence = |sequence: &TextSequence| -> Result<(Vec<PairMarginals>, Vec<f32>)> {
            let shard = self.starts.partition_point(|&start| start <= sequence.words.start).saturating_sub(1);
            let first = (sequence.words.start - self.starts[shard]) as usize;
            let length = (sequence.words.end - sequence.words.start) as usize;
            let [pairs, distributions] = &self.numbers[shard][usize::from(sequence.lone)];
            let pairs = pairs[first * PAIRS..(first + length) * PAIRS].as_chunks::<PAIRS>().0.iter();
            let pair = |numbers: &[f16; PAIRS]| -> PairMarginals {
                std::array::from_fn(|from| std::array::from_fn(|to| f64::from(numbers[from * TAGS + to])))
            };
            let mut pairs: Vec<PairMarginals> = pairs.map(pair).collect();
            restore_marginals(&mut pairs)?;
            let distributions = &distributions[first * classes..(first + length) * classes];
            let mut distributions: Vec<f32> = distributions.iter().map(|p| p.to_f32()).collect();
            // Exact again after rounding.
            for row in distributions.chunks_mut(classes.max(1)) {
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|p| *p /= sum);
            }
            Ok((pairs, distributions))
        };
        let parts: Vec<_> = sequences.par_iter().map(of_sequence).collect::<Result<_>>()?;
        let mut all = WordPosteriors::default();
        for (pairs, classes) in parts {
            all.pairs.extend(pairs);
            all.classes.extend(classes);
        }
        Ok(all)
    }
}
