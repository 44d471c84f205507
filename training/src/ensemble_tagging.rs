//! Several trained models and documents -> the mentions that they find together: the mean of their posteriors, word by word, read as one Markov chain, and its most
//! probable path. Each model cuts the words into its own pieces and sequences.
//! The pair marginals of a mixture of CRFs are the mean of theirs (Wang et al. 2021, arXiv 2010.05010); the chain is the one distribution of first order that has them.

use chemtag::batch::{Batch, packs};
use chemtag::model::crf::{PairMarginals, TAGS, Tag, spans, tag_marginals};
use chemtag::sequence::Sequence;
use chemtag::{Emissions, Model};

use crate::corpus::Document;
use crate::dataset::sequences;
use crate::error::Result;
use crate::score::Predicted;
use crate::teacher::{WordPosteriors, add_classes};

/// Pieces that a model reads at once.
const BATCH_PIECES: usize = 16_384;

/// A mention that several models found together: bytes of its document, and the most probable class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// Index into the models' classes; `None` if they have none.
    pub class: Option<usize>,
}

/// What models of the same classes find in each document, and the number of pieces that they read. Documents keep the words that they come with.
///
/// # Errors
/// If a device fails or a model's emissions are not finite.
pub fn tag_together(
    models: &[&Model],
    documents: &[Document],
    lone_sentences: bool,
) -> Result<(Vec<Vec<Found>>, usize)> {
    let share = 1. / models.len().max(1) as f64;
    let mut means: Vec<WordPosteriors> = vec![WordPosteriors::default(); documents.len()];
    let mut words = vec![Vec::new(); documents.len()];
    let mut pieces = 0;
    for model in models {
        // Words that a document comes with are one sentence.
        let room = model.config().tagger.sequence_pieces;
        let cut = |document: &Document| {
            sequences(document, lone_sentences && document.words.is_none(), model.tokenizer(), room)
        };
        let cut: Vec<Vec<Sequence>> = documents.iter().map(cut).collect();
        let all: Vec<&Sequence> = cut.iter().flatten().collect();
        pieces += all.iter().map(|sequence| sequence.piece_ids.len()).sum::<usize>();
        let mut read = read(model, &all)?.into_iter();
        for (document, sequences) in cut.iter().enumerate() {
            let own: Vec<Emissions> = read.by_ref().take(sequences.len()).collect();
            add(&mut means[document], model, sequences, own, share)?;
            let core = |sequence: &Sequence| sequence.words[sequence.core()].to_vec();
            words[document] = sequences.iter().flat_map(core).collect();
        }
    }
    let found = means.iter().zip(&words).map(|(mean, words): (_, &Vec<std::ops::Range<usize>>)| {
        let path = most_probable_path(&mean.pairs);
        let classes = mean.classes.len() / words.len().max(1);
        let found = spans(&path).map(|span| Found {
            start: words[span.start].start,
            end: words[span.end - 1].end,
            class: highest(&mean.classes[span.start * classes..(span.start + 1) * classes]),
        });
        found.collect()
    });
    Ok((found.collect(), pieces))
}

/// As [`crate::score::Scores`] takes it.
pub fn predicted<'c>(found: &[Found], classes: &'c [String]) -> Vec<Predicted<'c>> {
    let class = |found: &Found| classes.get(found.class?).map(String::as_str);
    found.iter().map(|found| (found.start..found.end, class(found))).collect()
}

/// Emissions of the words that each sequence speaks for.
fn read(model: &Model, sequences: &[&Sequence]) -> Result<Vec<Emissions>> {
    let mut all = Vec::with_capacity(sequences.len());
    for pack in packs(sequences, |sequence| sequence.piece_ids.len(), BATCH_PIECES) {
        let mut batch = Batch::default();
        for sequence in pack {
            batch.push(&sequence.piece_ids, &sequence.word_starts);
        }
        let emissions = model.backend().emissions(&batch)?;
        let classes = emissions.classes;
        for (sequence, first) in pack.iter().zip(&batch.cu_words) {
            let first = *first as usize;
            let core = first + sequence.lead..first + sequence.words.len() - sequence.trail;
            all.push(Emissions {
                tags: emissions.tags[core.clone()].to_vec(),
                class_logits: emissions.class_logits[core.start * classes..core.end * classes].to_vec(),
                classes,
            });
        }
    }
    Ok(all)
}

/// Adds a model's share to a document's posteriors.
fn add(
    mean: &mut WordPosteriors,
    model: &Model,
    sequences: &[Sequence],
    emissions: Vec<Emissions>,
    share: f64,
) -> Result<()> {
    let mut joined = Emissions::default();
    // Windows of one sentence are decoded together.
    let mut runs = vec![0];
    for (sequence, emissions) in sequences.iter().zip(emissions) {
        joined.append(emissions);
        if !sequence.continues {
            runs.push(joined.tags.len() as u32);
        }
    }
    let mut pairs = model.crf().batch_pair_marginals(&joined.tags, &runs)?;
    for &first in &runs {
        // Where a model begins anew, it holds the words on both sides for independent.
        if let Some([before, here]) = (first as usize).checked_sub(1).and_then(|i| pairs.get_mut(i..i + 2)) {
            let (before, own) = (tag_marginals(before), tag_marginals(here));
            *here = before.map(|a| own.map(|b| a * b));
        }
    }
    mean.pairs.resize(pairs.len(), [[0.; TAGS]; TAGS]);
    for (sum, p) in mean.pairs.as_flattened_mut().as_flattened_mut().iter_mut().zip(pairs.as_flattened().as_flattened())
    {
        *sum += share * p;
    }
    add_classes(&mut mean.classes, &joined, share as f32);
    Ok(())
}

/// The most probable path of a Markov chain by its pair marginals, `[words, 3, 3]`; tags of one word before tags of the next. (Viterbi 1967.)
pub fn most_probable_path(pairs: &[PairMarginals]) -> Vec<Tag> {
    // O stands for what comes before the first word.
    let mut before = [1., 0., 0.];
    let mut best = [0., f64::NEG_INFINITY, f64::NEG_INFINITY];
    let mut from: Vec<[usize; TAGS]> = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let mut next = [f64::NEG_INFINITY; TAGS];
        let mut choice = [0; TAGS];
        for (a, row) in pair.iter().enumerate() {
            for (b, &p) in row.iter().enumerate() {
                let score = best[a] + (p / before[a]).ln();
                if p > 0. && score > next[b] {
                    (next[b], choice[b]) = (score, a);
                }
            }
        }
        before = tag_marginals(pair);
        from.push(choice);
        best = next;
    }
    let mut tag = highest(&best).unwrap_or(0);
    let mut path = vec![Tag::O; pairs.len()];
    for (place, choice) in path.iter_mut().zip(&from).rev() {
        *place = Tag::ALL[tag];
        tag = choice[tag];
    }
    path
}

/// Index of the first highest number.
fn highest<N: PartialOrd>(numbers: &[N]) -> Option<usize> {
    let better = |best: usize, next: usize| if numbers[next] > numbers[best] { next } else { best };
    (0..numbers.len()).reduce(better)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chemtag::model::crf::Crf;
    use proptest::prelude::*;

    fn crf(numbers: &[f32]) -> Crf {
        let mut numbers = numbers.iter().copied();
        let mut row = || [(); TAGS].map(|()| numbers.next().unwrap());
        Crf { start: row(), end: row(), transitions: [row(), row(), row()] }
    }

    proptest! {
        /// A CRF is a Markov chain: the path of its own marginals is its best path.
        #[test]
        fn of_one_crf_it_is_the_best_path(
            scores in prop::collection::vec(-2f32..2., 15), emissions in prop::collection::vec([-3f32..3., -3f32..3., -3f32..3.], 0..12),
        ) {
            let crf = crf(&scores);
            let pairs = crf.batch_pair_marginals(&emissions, &[0, emissions.len() as u32]).unwrap();
            prop_assert_eq!(most_probable_path(&pairs), crf.viterbi(&emissions));
        }

        /// Of two CRFs: no path of the chain that their mean marginals make is more probable, all paths tried one by one.
        #[test]
        fn of_two_crfs_no_path_is_more_probable(
            scores in prop::collection::vec(-2f32..2., 30), emissions in prop::collection::vec([-3f32..3., -3f32..3., -3f32..3.], 2..7),
        ) {
            let words = emissions.len() as u32;
            let [first, second] = [&scores[..15], &scores[15..]].map(|s| crf(s).batch_pair_marginals(&emissions, &[0, words]).unwrap());
            let pairs: Vec<PairMarginals> = first.iter().zip(&second)
                .map(|(x, y)| std::array::from_fn(|a| std::array::from_fn(|b| (x[a][b] + y[a][b]) / 2.)))
                .collect();
            let probability = |path: &[usize]| -> f64 {
                let step = |i: usize| match i {
                    0 => pairs[0][0][path[0]],
                    _ => pairs[i][path[i - 1]][path[i]] / pairs[i][path[i - 1]].iter().sum::<f64>().max(1e-300),
                };
                (0..path.len()).map(step).product()
            };
            let path: Vec<usize> = most_probable_path(&pairs).into_iter().map(|tag| tag as usize).collect();
            let found = probability(&path);
            prop_assert!(found > 0.);
            for number in 0..3usize.pow(words) {
                let other: Vec<usize> = (0..words).map(|i| number / 3usize.pow(i) % 3).collect();
                prop_assert!(probability(&other) <= found * (1. + 1e-9), "{:?} {:?}", other, path);
            }
        }
    }
}
