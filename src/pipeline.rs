//! The one way from text to mentions: sentences -> words -> pieces -> sequences -> packed batches -> emissions -> decoded mentions.
//! Text may come in any number of portions; memory holds only what waits for its batch.

use std::ops::Range;

use rayon::prelude::*;

use crate::backend::Emissions;
use crate::batch::{Batch, packs};
use crate::decode::{Decoder, Mention};
use crate::error::Result;
use crate::sequence::{Sequence, Sequencer};
use crate::tagger::{Model, TagOptions};
use crate::text::{Sentence, words};

/// One run over documents, in order.
pub struct Pipeline<'m> {
    model: &'m Model,
    token_budget: usize,
    /// Batches that are read at the same time.
    parallel: usize,
    sequencer: Sequencer,
    waiting: Vec<Sequence>,
    waiting_pieces: usize,
    decoder: Decoder,
}

impl<'m> Pipeline<'m> {
    pub fn new(model: &'m Model, options: &TagOptions) -> Self {
        let room = model.config().tagger.sequence_pieces;
        let pieces = model.tokenizer();
        Self {
            model,
            token_budget: options.token_budget,
            parallel: rayon::current_num_threads(),
            sequencer: Sequencer::new(pieces.cls(), pieces.sep(), room, options.lone_sentences),
            waiting: Vec::new(),
            waiting_pieces: 0,
            decoder: Decoder::new(model.crf().clone(), options.threshold),
        }
    }

    /// The next sentence; `text` is the portion that `sentence` counts in, which begins at byte `offset` of the document.
    pub fn push_sentence(&mut self, text: &str, sentence: &Sentence, offset: usize) -> Result<()> {
        let start = sentence.range.start;
        let words = words(&text[sentence.range.clone()]).map(|word| start + word.start..start + word.end);
        self.push_words(text, words, offset);
        if !sentence.continues {
            self.sequencer.end_sentence();
        }
        self.run_if_full()
    }

    /// The next words of a sentence, in order.
    pub fn push_words(&mut self, text: &str, words: impl Iterator<Item = Range<usize>>, offset: usize) {
        for word in words {
            let pieces = self.model.tokenizer().pieces(&text[word.clone()]);
            self.sequencer.push_word(offset + word.start..offset + word.end, &pieces);
        }
    }

    /// The document is whole; what is pushed next belongs to another one, whose offsets start at 0 again.
    pub fn end_document(&mut self) -> Result<()> {
        self.sequencer.end_document();
        self.run_if_full()
    }

    /// The mentions decoded since the last call, in the order of the text.
    pub fn take_found(&mut self) -> Vec<Mention> {
        self.decoder.take_found()
    }

    /// First byte of the present document that is still to be decoded.
    pub fn pending_start(&self) -> Option<usize> {
        let waiting = self.waiting.first().map(|sequence| sequence.words[sequence.lead].start);
        self.decoder.pending_start().or(waiting).or(self.sequencer.pending_start())
    }

    /// Reads and decodes all sequences that are whole.
    pub fn run(&mut self) -> Result<()> {
        let sequences = std::mem::take(&mut self.waiting);
        self.waiting_pieces = 0;
        let packs = packs(&sequences, |sequence| sequence.piece_ids.len(), self.token_budget);
        let emissions: Vec<Emissions> = match packs.as_slice() {
            [one] => vec![self.model.backend().emissions(&Batch::pack(*one))?],
            many => many
                .par_iter()
                .map(|pack| self.model.backend().emissions(&Batch::pack(*pack)))
                .collect::<Result<_>>()?,
        };
        for (pack, read) in packs.iter().zip(&emissions) {
            let mut word = 0;
            for sequence in *pack {
                let end = word + sequence.words.len();
                let logits = &read.class_logits[word * read.classes..end * read.classes];
                self.decoder.push(sequence, &read.tags[word..end], logits, read.classes);
                word = end;
            }
        }
        Ok(())
    }

    /// Takes over the sequences that are whole; reads them once they fill the batches of all threads.
    fn run_if_full(&mut self) -> Result<()> {
        let ready = self.sequencer.take_ready();
        self.waiting_pieces += ready.iter().map(|sequence| sequence.piece_ids.len()).sum::<usize>();
        self.waiting.extend(ready);
        if self.waiting_pieces >= self.token_budget * self.parallel {
            self.run()?;
        }
        Ok(())
    }
}
