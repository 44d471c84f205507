//! The command line's arguments -> the library's calls; one file for each command.

pub mod calibrate;
pub mod curve;
pub mod distill;
mod distillation;
pub mod evaluate;
pub mod export;
pub mod finetune;
pub mod label;
pub mod prepare;
pub mod prepare_text;
pub mod pretrain;
pub mod start;
mod text_files;
pub mod vocab;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use chemtag::Device;
use chemtag::model::config::ModelConfig;
use chemtag::tokenizer::WordPieces;
use chemtag_training::augment::Augmentation;
use chemtag_training::corpus::{self, Document, TypeFilter};
use chemtag_training::dataset::{Dataset, Reading};
use chemtag_training::encoder_folder::EncoderFolder;
use chemtag_training::error::{Error, Result};
use chemtag_training::provenance::Sources;
use chemtag_training::ranks::{self, Rank};
use indicatif::{ProgressBar, ProgressStyle};

/// CHEMDNER's classes (Krallinger et al. 2015, table 2), the class head's outputs unless told otherwise.
const CLASSES: &str = "SYSTEMATIC,TRIVIAL,FORMULA,ABBREVIATION,FAMILY,IDENTIFIER,MULTIPLE";

/// What the bar of a training run shows.
const STEPS: &str = "{bar:30} step {pos}/{len}  {msg}  {per_sec}  {eta} left";

/// A bar of this form; its length is set when it is known.
fn progress_bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// A corpus on the command line: `FILE` or `FILE:TYPE,TYPE=CLASS,...`.
#[derive(Debug, Clone)]
pub struct CorpusArgument {
    path: PathBuf,
    /// Types that are mentions, with the class that each teaches; `None`: all, each teaching the class of its own name.
    types: Option<Vec<(String, Option<String>)>>,
}

impl FromStr for CorpusArgument {
    type Err = Error;

    fn from_str(argument: &str) -> Result<Self> {
        let (path, types) = match argument.split_once(':') {
            None => (argument, None),
            Some((path, list)) => {
                let types = list.split(',').map(|entry| match entry.split_once('=') {
                    Some((label, class)) => (label.trim().to_string(), Some(class.trim().to_string())),
                    None => (entry.trim().to_string(), None),
                });
                (path, Some(types.collect::<Vec<_>>()))
            }
        };
        if path.is_empty() || types.iter().flatten().any(|(label, _)| label.is_empty()) {
            return Err(Error::Setting(format!("\"{argument}\" is not FILE or FILE:TYPE,TYPE=CLASS,...")));
        }
        Ok(Self { path: path.into(), types })
    }
}

impl CorpusArgument {
    /// The name of the folder that the file lies in: files of one corpus lie together.
    fn name(&self) -> String {
        let folder = self.path.parent().and_then(Path::file_name).unwrap_or(self.path.as_os_str());
        folder.to_string_lossy().into_owned()
    }

    /// The file's name without folder and extension.
    fn stem(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What its file's name has after it.
    fn types(&self) -> String {
        let Some(types) = &self.types else { return "all".into() };
        let entry = |(label, class): &(String, Option<String>)| match class {
            Some(class) => format!("{label}={class}"),
            None => label.clone(),
        };
        types.iter().map(entry).collect::<Vec<_>>().join(",")
    }

    /// Whether it is a data set that `prepare` made.
    fn is_prepared(&self) -> bool {
        self.types.is_none() && self.path.extension().is_some_and(|extension| extension == "safetensors")
    }

    /// The class index that a label teaches.
    fn class_of(&self, label: &str, classes: &[String]) -> Option<u8> {
        let given = self.types.iter().flatten().find(|(known, _)| known == label);
        let class = given.and_then(|(_, class)| class.as_deref()).unwrap_or(label);
        classes.iter().position(|known| known == class).map(|index| index as u8)
    }

    /// The corpus with the mentions of its types.
    fn documents(&self) -> Result<Vec<Document>> {
        let filter = match &self.types {
            None => TypeFilter::all(),
            Some(types) => types.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>().join(",").parse()?,
        };
        corpus::read(&self.path, &filter)
    }

    fn add_to(
        &self,
        dataset: &mut Dataset,
        reading: Reading,
        augmentation: &Augmentation,
        pieces: &WordPieces,
        config: &ModelConfig,
    ) -> Result<()> {
        let classes = &config.tagger.classes;
        for (_, class) in self.types.iter().flatten() {
            if let Some(class) = class
                && !classes.contains(class)
            {
                return Err(Error::Setting(format!("\"{class}\" is none of the classes {}", classes.join(", "))));
            }
        }
        let mut documents = self.documents()?;
        documents.extend(augmentation.variants(&documents, 0));
        let room = config.tagger.sequence_pieces;
        dataset.add(&self.name(), &documents, reading, pieces, room, |label| self.class_of(label, classes));
        Ok(())
    }
}

/// Notes corpora among a run's sources.
fn add_corpora(sources: &mut Sources, option: &str, corpora: &[CorpusArgument]) -> Result<()> {
    corpora.iter().try_for_each(|corpus| sources.add_file(option, &corpus.path))?;
    if !corpora.is_empty() {
        sources.add_option(option, corpora.iter().map(CorpusArgument::types).collect::<Vec<_>>().join("; "));
    }
    Ok(())
}

/// Reads corpora, or one data set that `prepare` made.
fn read_dataset(
    corpora: &[CorpusArgument],
    reading: Reading,
    augmentation: &Augmentation,
    pieces: &WordPieces,
    config: &ModelConfig,
) -> Result<Dataset> {
    if let [file] = corpora
        && file.is_prepared()
    {
        return Dataset::load(&file.path);
    }
    let mut dataset = Dataset::default();
    for corpus in corpora {
        corpus.add_to(&mut dataset, reading, augmentation, pieces, config)?;
    }
    Ok(dataset)
}

/// Reads devel sets: annotated corpora both ways, or each file that `prepare` made as it is.
fn read_devel(corpora: &[CorpusArgument], reading: Reading, start: &Start) -> Result<Vec<(String, Dataset)>> {
    let none = Augmentation::default();
    let read = |corpora, reading| read_dataset(corpora, reading, &none, &start.pieces, &start.config);
    if corpora.iter().all(CorpusArgument::is_prepared) {
        return corpora.iter().map(|file| Ok((file.stem(), read(std::slice::from_ref(file), reading)?))).collect();
    }
    Ok(vec![
        ("documents".into(), read(corpora, Reading::Documents)?),
        ("sentences".into(), read(corpora, Reading::Sentences)?),
    ])
}

/// Where a training loop computes.
#[derive(clap::Args)]
pub struct DeviceArguments {
    /// Where to compute: auto, cpu, cuda, cuda:NUMBER.
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Share each step among this many GPUs of this machine, cuda:0 and the next ones, through NCCL; CUDA_VISIBLE_DEVICES chooses others.
    #[arg(long, value_name = "N", conflicts_with = "device", value_parser = clap::value_parser!(u8).range(1..))]
    gpus: Option<u8>,
}

impl DeviceArguments {
    /// Where to load what is read before ranks begin: on the device of a run that has one.
    fn before_ranks(&self) -> Device {
        self.gpus.map_or(self.device, |_| Device::Cpu)
    }

    /// Calls `train` for each rank, with its device's name and the device.
    fn train(&self, train: impl Fn(&Rank, Device, &candle_core::Device) -> Result<()> + Sync) -> Result<()> {
        match self.gpus {
            None => train(&Rank::ALONE, self.device, &self.device.open()?),
            Some(count) => {
                let devices: Vec<Device> = (0..usize::from(count)).map(Device::Cuda).collect();
                ranks::run(&devices, train)
            }
        }
    }
}

/// An encoder to start from.
#[derive(clap::Args)]
pub struct EncoderArgument {
    /// Folder of the encoder to start from: config.json, tokenizer.json (or vocab.txt), model.safetensors (or pytorch_model.bin); or hub:OWNER/NAME.
    #[arg(long, value_name = "DIR")]
    encoder: String,
}

/// An encoder's folder and what the tagger on it shall be.
#[derive(clap::Args)]
pub struct EncoderArguments {
    #[command(flatten)]
    folder: EncoderArgument,
    /// The class head's outputs; an empty list for none.
    #[arg(long, value_name = "CLASS,...", default_value = CLASSES)]
    classes: String,
    #[command(flatten)]
    model: ModelArguments,
}

/// What a model's `config.json` says beside the encoder's sizes and the classes.
#[derive(clap::Args)]
pub struct ModelArguments {
    /// Most pieces of a sequence of neighbouring sentences, `[CLS]` and `[SEP]` not counted.
    #[arg(long, value_name = "N", default_value_t = 250)]
    sequence_pieces: usize,
    /// The model's name.
    #[arg(long, default_value = "chemtag")]
    name: String,
    /// The model's version.
    #[arg(long, value_name = "VERSION", default_value = "0.1.0")]
    model_version: String,
    /// The weights' licence (SPDX).
    #[arg(long, default_value = "Apache-2.0")]
    license: String,
}

/// What a folder to start from holds.
struct Start {
    config: ModelConfig,
    tokenizer: Vec<u8>,
    pieces: WordPieces,
}

impl Start {
    /// Reads a folder's configuration and tokenizer.
    fn read(folder: &EncoderFolder) -> Result<Self> {
        let (json, name) = folder.config()?;
        let config = ModelConfig::from_json(&json, &name)?;
        let (tokenizer, name) = folder.tokenizer()?;
        let pieces = WordPieces::from_json(&tokenizer, &name, config.encoder.vocab_size)?;
        Ok(Self { config, tokenizer, pieces })
    }
}

/// Notes an encoder's files among a run's sources.
fn add_encoder(sources: &mut Sources, option: &str, folder: &EncoderFolder) -> Result<()> {
    folder.files().iter().try_for_each(|path| sources.add_file(option, path))
}

impl EncoderArgument {
    /// Notes the encoder's files among a run's sources.
    fn add_to(&self, sources: &mut Sources) -> Result<()> {
        add_encoder(sources, "encoder", &EncoderFolder::open(&self.encoder)?)
    }

    /// The weights (safetensors) and their name in messages.
    fn weights(&self) -> Result<(Vec<u8>, String)> {
        EncoderFolder::open(&self.encoder)?.weights()
    }

    fn read(&self) -> Result<Start> {
        Start::read(&EncoderFolder::open(&self.encoder)?)
    }
}

impl EncoderArguments {
    /// Notes what a run reads of this among its sources.
    fn add_to(&self, sources: &mut Sources) -> Result<()> {
        self.folder.add_to(sources)?;
        sources.add_option("classes", self.classes.clone());
        self.model.add_to(sources);
        Ok(())
    }

    /// The weights (safetensors) and their name in messages.
    fn weights(&self) -> Result<(Vec<u8>, String)> {
        self.folder.weights()
    }

    fn read(&self) -> Result<Start> {
        let classes = self.classes.split(',').map(|class| class.trim().to_string());
        self.model.apply(self.folder.read()?, classes.filter(|class| !class.is_empty()).collect())
    }
}

impl ModelArguments {
    /// Notes among a run's sources what decides how they are cut.
    fn add_to(&self, sources: &mut Sources) {
        sources.add_option("sequence-pieces", self.sequence_pieces.to_string());
    }

    /// The same start with this description.
    fn apply(&self, mut start: Start, classes: Vec<String>) -> Result<Start> {
        let tagger = &mut start.config.tagger;
        tagger.sequence_pieces = self.sequence_pieces;
        tagger.classes = classes;
        tagger.name = self.name.clone();
        tagger.version = self.model_version.clone();
        tagger.license = self.license.clone();
        // Checks the length against the encoder's.
        start.config = ModelConfig::from_json(start.config.to_json().to_string().as_bytes(), "--sequence-pieces")?;
        Ok(start)
    }
}
