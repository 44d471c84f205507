//! Sequences with their emissions, in order -> mentions: the best path of the CRF and the posterior of each of its spans.
//! Windows of one long sentence are joined here. A sentence without end is decoded in stretches that are cut only where no mention is.

use std::ops::Range;

use crate::model::crf::{Crf, TAGS, Tag};
use crate::sequence::Sequence;

/// A stretch of joined windows is decoded when it has this many words.
const LONGEST_STRETCH: usize = 4096;

/// A mention by words' byte ranges, not yet tied to a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    /// Which document of the run it stands in.
    pub document: u32,
    /// Its bytes in the document.
    pub range: Range<usize>,
    /// Exact posterior of the span.
    pub posterior: f64,
    /// The class head's best class for its first word.
    pub class: Option<usize>,
}

/// Joins windows and decodes.
pub struct Decoder {
    crf: Crf,
    /// `None`: the spans of the best path. Else the best spans whose posterior reaches it.
    threshold: Option<f32>,
    words: Vec<Range<usize>>,
    emissions: Vec<[f32; TAGS]>,
    class_logits: Vec<f32>,
    found: Vec<Mention>,
}

impl Decoder {
    /// `threshold`: `None` for the spans of the best path, else the smallest posterior of a span.
    pub fn new(crf: Crf, threshold: Option<f32>) -> Self {
        Self { crf, threshold, words: Vec::new(), emissions: Vec::new(), class_logits: Vec::new(), found: Vec::new() }
    }

    /// The next sequence of the run with the emissions and class logits of its words.
    pub fn push(&mut self, sequence: &Sequence, emissions: &[[f32; TAGS]], class_logits: &[f32], classes: usize) {
        let core = sequence.core();
        self.words.extend_from_slice(&sequence.words[core.clone()]);
        self.emissions.extend_from_slice(&emissions[core.clone()]);
        self.class_logits.extend_from_slice(&class_logits[core.start * classes..core.end * classes]);
        if !sequence.continues {
            self.decode(sequence.document, classes, true);
        } else if self.words.len() >= LONGEST_STRETCH {
            self.decode(sequence.document, classes, false);
        }
    }

    /// The mentions found since the last call, in the order of the text.
    pub fn take_found(&mut self) -> Vec<Mention> {
        std::mem::take(&mut self.found)
    }

    /// First byte of the words that wait for the rest of their sentence.
    pub fn pending_start(&self) -> Option<usize> {
        self.words.first().map(|word| word.start)
    }

    /// Decodes the words held; unless they are `whole`, those after the last word that is surely outside of mentions stay.
    fn decode(&mut self, document: u32, classes: usize, whole: bool) {
        let path = self.crf.viterbi(&self.emissions);
        let posteriors = || self.crf.posteriors(&self.emissions);
        let spans: Vec<(Range<usize>, f64)> = match self.threshold {
            // Of a text without mentions nothing more is asked.
            None if path.iter().all(|&tag| tag == Tag::O) => Vec::new(),
            None => {
                let posteriors = posteriors();
                crate::model::crf::spans(&path).map(|s| (s.clone(), posteriors.span(s.start, s.end))).collect()
            }
            Some(least) => {
                let best = posteriors().best_spans(f64::from(least));
                best.into_iter().map(|s| (s.start..s.end, s.posterior)).collect()
            }
        };
        let end = if whole { self.words.len() } else { self.cut(&path, &spans) };
        for (span, posterior) in spans.into_iter().filter(|(span, _)| span.end <= end) {
            self.found.push(Mention {
                document,
                range: self.words[span.start].start..self.words[span.end - 1].end,
                posterior,
                class: best_class(&self.class_logits[span.start * classes..(span.start + 1) * classes]),
            });
        }
        self.words.drain(..end);
        self.emissions.drain(..end);
        self.class_logits.drain(..end * classes);
    }

    /// The last word of the second half that no mention holds; the whole length where there is none.
    fn cut(&self, path: &[Tag], spans: &[(Range<usize>, f64)]) -> usize {
        let mut free: Vec<bool> = path.iter().map(|&tag| tag == Tag::O).collect();
        for (span, _) in spans {
            free[span.clone()].fill(false);
        }
        (path.len() / 2..path.len()).rev().find(|&word| free[word]).unwrap_or(path.len())
    }
}

fn best_class(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)))
}
