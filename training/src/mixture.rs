//! Several models and documents -> the mentions of their mixture: the mean of their distributions over tag paths, in which a span's posterior is
//! the mean of its posteriors. A mention is a span that is likelier than not, of which no two can overlap.
//! Each model reads with its own tokenizer; they meet at words, which all cut alike.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use chemtag::batch::{Batch, packs};
use chemtag::model::crf::Posteriors;
use chemtag::sequence::{Sequence, Sequencer};
use chemtag::{Device, LoadOptions, Model, ModelFiles};
use rayon::prelude::*;

use crate::corpus::Document;
use crate::error::{Error, Result};
use crate::evaluate::{Options, cut};

/// A mention is likelier than this.
const LIKELIER_THAN_NOT: f64 = 0.5;

/// Models that speak with one voice.
pub struct Mixture {
    models: Vec<Model>,
}

/// A document's sentences as byte ranges of words.
type Sentences = Vec<Vec<Range<usize>>>;

/// What one model says of words next to each other.
struct Stretch {
    /// Their place among the document's words.
    first: usize,
    posteriors: Posteriors,
}

impl Mixture {
    /// Loads models onto a device.
    ///
    /// # Errors
    /// If a folder holds no model or there is none.
    pub fn load(folders: &[PathBuf], device: Device) -> Result<Self> {
        let load = |folder: &PathBuf| -> Result<Model> {
            Ok(Model::load(&ModelFiles::read(&folder.into())?, LoadOptions { device, ..LoadOptions::default() })?)
        };
        let models: Vec<Model> = folders.iter().map(load).collect::<Result<_>>()?;
        match models.is_empty() {
            true => Err(Error::Setting("there is no model to mix".into())),
            false => Ok(Self { models }),
        }
    }

    /// The mentions of each document, as byte ranges in order.
    ///
    /// # Errors
    /// If a device fails.
    pub fn tag(&self, documents: &[Document], options: &Options) -> Result<Vec<Vec<Range<usize>>>> {
        let cut: Vec<Sentences> = documents.par_iter().map(|document| cut(document, options)).collect();
        let mut of_models: Vec<Vec<Vec<Stretch>>> = Vec::new();
        for model in &self.models {
            of_models.push(read(model, documents, &cut, options)?);
        }
        let found = cut.iter().enumerate().map(|(index, sentences)| {
            let stretches: Vec<&[Stretch]> = of_models.iter().map(|documents| documents[index].as_slice()).collect();
            let words: Vec<&Range<usize>> = sentences.iter().flatten().collect();
            let spans = likely_spans(&stretches).into_iter();
            spans.map(|span| words[span.start].start..words[span.end - 1].end).collect()
        });
        Ok(found.collect())
    }
}

/// What a model says of each document.
fn read(model: &Model, documents: &[Document], cut: &[Sentences], options: &Options) -> Result<Vec<Vec<Stretch>>> {
    let pieces = model.tokenizer();
    let room = model.config().tagger.sequence_pieces;
    let mut sequencer = Sequencer::new(pieces.cls(), pieces.sep(), room, options.lone_sentences);
    for (document, sentences) in documents.iter().zip(cut) {
        for sentence in sentences {
            for word in sentence {
                sequencer.push_word(word.clone(), &pieces.pieces(&document.text[word.clone()]));
            }
            sequencer.end_sentence();
        }
        sequencer.end_document();
    }
    let sequences = sequencer.take_ready();
    let length = |sequence: &Sequence| sequence.piece_ids.len();
    let emissions = |pack: &[Sequence]| -> Result<_> {
        let mut batch = Batch::default();
        for sequence in pack {
            batch.push(&sequence.piece_ids, &sequence.word_starts);
        }
        Ok(model.backend().emissions(&batch)?.tags)
    };
    let packs = packs(&sequences, length, model.backend().token_budget());
    let tags: Vec<_> = match model.backend().takes_turns() {
        true => packs.into_iter().map(emissions).collect::<Result<_>>()?,
        false => packs.into_par_iter().map(emissions).collect::<Result<_>>()?,
    };
    let tags = tags.concat();

    let mut stretches: Vec<Vec<Stretch>> = documents.iter().map(|_| Vec::new()).collect();
    let mut next_word = vec![0; documents.len()];
    // Windows of one sentence are read together.
    let (mut row, mut joined) = (0, Vec::new());
    for sequence in &sequences {
        let core = sequence.core();
        joined.extend_from_slice(&tags[row + core.start..row + core.end]);
        row += sequence.words.len();
        if !sequence.continues {
            let document = sequence.document as usize;
            let posteriors = model.crf().posteriors(&joined);
            stretches[document].push(Stretch { first: next_word[document], posteriors });
            next_word[document] += joined.len();
            joined.clear();
        }
    }
    Ok(stretches)
}

/// Spans of words whose mean posterior is above one half, in order. One of the models must say so, or their mean could not.
fn likely_spans(of_models: &[&[Stretch]]) -> Vec<Range<usize>> {
    let stretches = of_models.iter().flat_map(|stretches| stretches.iter());
    let candidates: BTreeSet<(usize, usize)> = stretches
        .flat_map(|stretch| {
            let spans = stretch.posteriors.spans_at_least(LIKELIER_THAN_NOT).into_iter();
            spans.map(|span| (stretch.first + span.start, stretch.first + span.end))
        })
        .collect();
    let mean = |start: usize, end: usize| {
        let posterior = |stretches: &&[Stretch]| {
            let of_word = stretches.partition_point(|stretch| stretch.first <= start).checked_sub(1)?;
            let Stretch { first, posteriors } = stretches.get(of_word)?;
            // 0 for a span that goes beyond what was read together.
            Some(posteriors.span(start - first, end - first))
        };
        of_models.iter().filter_map(posterior).sum::<f64>() / of_models.len() as f64
    };
    let likely = candidates.into_iter().filter(|&(start, end)| mean(start, end) > LIKELIER_THAN_NOT);
    likely.map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chemtag::model::crf::{Crf, Tag};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// All paths of a short sequence that a CRF allows.
    fn paths(words: usize) -> Vec<Vec<Tag>> {
        let mut paths = vec![Vec::new()];
        for _ in 0..words {
            let longer = |path: &Vec<Tag>| {
                let next = [Tag::O, Tag::B, Tag::I].into_iter().filter(|tag| tag.may_follow(path.last().copied()));
                next.map(|tag| [&path[..], &[tag]].concat()).collect::<Vec<_>>()
            };
            paths = paths.iter().flat_map(longer).collect();
        }
        paths
    }

    /// Every span's mean probability, summed over all paths of each model.
    fn slow(crf: &Crf, of_models: &[Vec<[f32; 3]>]) -> Vec<Range<usize>> {
        let words = of_models[0].len();
        let mut means = std::collections::BTreeMap::new();
        for emissions in of_models {
            let whole = crf.log_partition(emissions);
            for path in paths(words) {
                let probability = (crf.path_score(emissions, &path) - whole).exp();
                for span in chemtag::model::crf::spans(&path) {
                    *means.entry((span.start, span.end)).or_insert(0.) += probability / of_models.len() as f64;
                }
            }
        }
        means.into_iter().filter(|(_, mean)| *mean > 0.5).map(|((start, end), _)| start..end).collect()
    }

    #[test]
    fn mentions_are_those_of_all_paths() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let crf = Crf::default();
        let mut found = 0;
        for _ in 0..200 {
            let mut emissions = || (0..5).map(|_| std::array::from_fn(|_| random.random_range(-3. ..3.))).collect();
            let of_models: Vec<Vec<[f32; 3]>> = (0..3).map(|_| emissions()).collect();
            let expected = slow(&crf, &of_models);
            let stretch = |emissions: &Vec<[f32; 3]>| vec![Stretch { first: 0, posteriors: crf.posteriors(emissions) }];
            let stretches: Vec<Vec<Stretch>> = of_models.iter().map(stretch).collect();
            let stretches: Vec<&[Stretch]> = stretches.iter().map(Vec::as_slice).collect();
            assert_eq!(likely_spans(&stretches), expected);
            found += expected.len();
        }
        assert!(found > 100, "{found} spans are too few to tell");
    }

    /// One model reads all words together, another in two stretches, across whose border it knows no mention.
    #[test]
    fn models_may_read_in_other_stretches() {
        let crf = Crf::default();
        let sure = [[-9., 9., 0.], [-9., 0., 9.], [9., 0., 0.], [-9., 9., 0.], [9., 0., 0.]];
        let whole = [Stretch { first: 0, posteriors: crf.posteriors(&sure) }];
        let of = |range: Range<usize>| Stretch { first: range.start, posteriors: crf.posteriors(&sure[range]) };
        let [after, inside] = [[of(0..3), of(3..5)], [of(0..1), of(1..5)]];
        assert_eq!(likely_spans(&[&whole, &after, &inside]), [0..2, 3..4]);
        assert_eq!(likely_spans(&[&whole, &inside, &inside]), [0..1, 1..2, 3..4]);
        assert!(likely_spans(&[&whole, &[]]).is_empty());
    }
}
