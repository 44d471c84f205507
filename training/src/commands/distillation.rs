//! What `distill` and `label` share: the student's folder, its teachers, and the text as all their tokenizers have cut it.

use std::ops::Range;
use std::path::PathBuf;

use chemtag::Device;
use chemtag_training::aligned_text::{AlignedText, CutText};
use chemtag_training::columns::fingerprint;
use chemtag_training::encoder_folder::EncoderFolder;
use chemtag_training::error::{Error, Result};
use chemtag_training::provenance::Sources;
use chemtag_training::teacher::Ensemble;
use chemtag_training::text::TextSet;

use super::{ModelArguments, Start, add_encoder};

/// Who learns what from whom.
#[derive(clap::Args)]
pub struct School {
    /// Folder of the encoder or model that learns, as `--encoder` of `finetune`; or hub:OWNER/NAME.
    #[arg(long, value_name = "DIR")]
    student: String,
    #[command(flatten)]
    model: ModelArguments,
    /// Folders of trained models; several form an ensemble.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    teacher: Vec<PathBuf>,
    /// Texts made by `prepare-text`; one that is named twice is read twice in each pass. For teachers with other tokenizers name the same text as prepared with theirs, too.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
}

impl School {
    /// The student's weights (safetensors) and their name in messages.
    pub(super) fn weights(&self) -> Result<(Vec<u8>, String)> {
        EncoderFolder::open(&self.student)?.weights()
    }

    /// Notes what a run reads of this among its sources.
    pub(super) fn add_to(&self, sources: &mut Sources) -> Result<()> {
        add_encoder(sources, "student", &EncoderFolder::open(&self.student)?)?;
        self.model.add_to(sources);
        self.teacher.iter().try_for_each(|folder| sources.add_model("teacher", folder))?;
        self.text.iter().try_for_each(|path| sources.add_file("text", path))
    }

    /// The student with its teachers' classes, the teachers, and the text that they read.
    pub(super) fn read(&self, device: Device) -> Result<(Start, Ensemble, AlignedText)> {
        let mut ensemble = Ensemble::load(&self.teacher, device)?;
        let student =
            self.model.apply(Start::read(&EncoderFolder::open(&self.student)?)?, ensemble.classes()?.to_vec())?;
        let text = self.read_text(&student, &ensemble)?;
        ensemble.read_from(&text)?;
        Ok((student, ensemble, text))
    }

    /// The teachers on another device, to read this text.
    pub(super) fn teachers(&self, device: Device, text: &AlignedText) -> Result<Ensemble> {
        let mut ensemble = Ensemble::load(&self.teacher, device)?;
        ensemble.read_from(text)?;
        Ok(ensemble)
    }

    /// Loads the files and puts those of one tokenizer together, in the order in which they are named.
    fn read_text(&self, student: &Start, ensemble: &Ensemble) -> Result<AlignedText> {
        let own = fingerprint(&[&student.tokenizer]);
        let mut kinds = vec![(own.as_str(), &student.pieces, student.config.tagger.sequence_pieces)];
        for (tokenizer, pieces, room) in ensemble.tokenizers() {
            if tokenizer == own {
                kinds[0].2 = room.min(kinds[0].2);
            } else {
                kinds.push((tokenizer, pieces, room));
            }
        }
        let mut sets: Vec<TextSet> = kinds.iter().map(|_| TextSet::default()).collect();
        // Of each tokenizer, the documents of each file, and of those that are named again.
        let mut places: Vec<Vec<(&PathBuf, Range<usize>)>> = vec![Vec::new(); kinds.len()];
        let mut again: Vec<Vec<Range<usize>>> = vec![Vec::new(); kinds.len()];
        for path in &self.text {
            let known = |(kind, places): (usize, &Vec<(&PathBuf, Range<usize>)>)| {
                places.iter().find(|(known, _)| *known == path).map(|(_, documents)| (kind, documents.clone()))
            };
            if let Some((kind, documents)) = places.iter().enumerate().find_map(known) {
                again[kind].push(documents);
                continue;
            }
            let set = TextSet::load(path)?;
            // Files that do not say their tokenizer are taken for the student's; pieces that it does not have betray others.
            let kind = match set.tokenizer() {
                "" => Some(0),
                known => kinds.iter().position(|(tokenizer, ..)| *tokenizer == known),
            };
            let kind = kind.ok_or_else(|| Error::Dataset {
                path: path.clone(),
                reason: "was prepared with a tokenizer that neither the student nor a teacher has".into(),
            })?;
            let first = sets[kind].documents();
            places[kind].push((path, first..first + set.documents()));
            sets[kind].append(&set.with_tokenizer(kinds[kind].0));
        }
        if sets[0].documents() == 0 {
            return Err(Error::Setting("none of the texts was prepared with the student's tokenizer".into()));
        }
        let texts = sets.into_iter().zip(kinds).filter(|(set, _)| set.documents() > 0);
        let texts = texts.map(|(set, (_, pieces, room))| CutText::new(set, pieces, room)).collect::<Result<_>>()?;
        let mut text = AlignedText::new(texts)?;
        if places.iter().zip(&again).any(|(places, again_there)| !places.is_empty() && *again_there != again[0]) {
            return Err(Error::Setting(
                "a text is named more often for one tokenizer than for another: name it equally often, in the same order".into(),
            ));
        }
        again.swap_remove(0).into_iter().try_for_each(|documents| text.read_again(documents))?;
        if text.left_out() > 0 {
            eprintln!("{} sentences are left out, as the tokenizers see other words in them", text.left_out());
        }
        Ok(text)
    }
}
