//! The one way from text to mentions: sentences -> words -> pieces -> sequences -> packed batches -> emissions -> decoded mentions.
//! While the device reads one round of batches, the CPU's threads make the words of the next one and decode the one before. Text may come in
//! any number of portions; memory holds a few rounds and what waits for them, and results have the order of the text whatever the threads.

use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::activity::Work;
use crate::decode::{Decoder, Mention};
use crate::engine::{Engine, Round};
use crate::error::Result;
use crate::portion::{PORTION_BYTES, Portion, PreparedWords};
use crate::sequence::{Sequence, Sequencer};
use crate::tagger::{Model, TagOptions};

/// Scientific text has more bytes than this for each piece, so that a stretch of a round's size gives about one round.
const BYTES_OF_PIECE: usize = 4;
/// A larger stretch would only take memory: it keeps more threads busy than there are.
const LONGEST_STRETCH: usize = 4 * 1024 * 1024;
/// A thread decodes at least so many sequences at once.
const LEAST_DECODED: usize = 16;

/// One run over documents, in order.
pub struct Pipeline {
    model: Arc<Model>,
    pool: Option<Arc<ThreadPool>>,
    threshold: Option<f32>,
    /// Pieces of a batch that were asked for.
    token_budget: usize,
    /// Batches of a round.
    parallel: usize,
    threads: usize,
    sequencer: Sequencer,
    waiting: Vec<Sequence>,
    waiting_pieces: usize,
    engine: Engine,
    computed: Vec<Round>,
    decoder: Decoder,
    found: Vec<Mention>,
}

impl Pipeline {
    /// A run on a model; `pool`: its threads, rayon's own if not given.
    pub fn new(model: &Arc<Model>, options: &TagOptions, pool: Option<&Arc<ThreadPool>>) -> Self {
        let (backend, pieces) = (model.backend(), model.tokenizer());
        let room = model.config().tagger.sequence_pieces;
        let threads = pool.map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads());
        let asked = options.token_budget;
        Self {
            token_budget: if asked == TagOptions::BUDGET_OF_DEVICE { backend.token_budget() } else { asked },
            parallel: if backend.takes_turns() { 1 } else { threads },
            threads,
            sequencer: Sequencer::new(pieces.cls(), pieces.sep(), room, options.lone_sentences),
            waiting: Vec::new(),
            waiting_pieces: 0,
            engine: Engine::new(model.clone(), pool.cloned()),
            computed: Vec::new(),
            decoder: Decoder::new(model.crf().clone(), options.threshold),
            found: Vec::new(),
            threshold: options.threshold,
            pool: pool.cloned(),
            model: model.clone(),
        }
    }

    /// Bytes of text that make about one round.
    pub fn stretch_bytes(&self) -> usize {
        (self.round_pieces().saturating_mul(BYTES_OF_PIECE)).clamp(4 * PORTION_BYTES, LONGEST_STRETCH)
    }

    /// The next portions of the run's documents.
    pub fn read<'t>(&mut self, portions: impl Iterator<Item = Portion<'t>> + Send) -> Result<()> {
        let mut portions = portions.peekable();
        while portions.peek().is_some() {
            let words = self.prepare_and_decode(&mut portions);
            for words in words {
                let (model, sequencer) = (self.model.clone(), &mut self.sequencer);
                let ready = model.counters().timed(Work::Text, || {
                    words.give(sequencer);
                    sequencer.take_ready()
                });
                self.waiting_pieces += ready.iter().map(|sequence| sequence.piece_ids.len()).sum::<usize>();
                self.waiting.extend(ready);
                while self.waiting_pieces > self.round_pieces() {
                    self.submit(true)?;
                }
            }
        }
        Ok(())
    }

    /// Reads and decodes all that is whole.
    pub fn finish(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            self.submit(false)?;
        }
        while let Some(round) = self.engine.receive()? {
            self.computed.push(round);
        }
        self.decode();
        Ok(())
    }

    /// The mentions decoded since the last call, in the order of the text.
    pub fn take_found(&mut self) -> Vec<Mention> {
        std::mem::take(&mut self.found)
    }

    /// First byte of the present document that is still to be decoded.
    pub fn pending_start(&self) -> Option<usize> {
        let computed = self.computed.first().and_then(Round::start);
        let waiting = self.waiting.first().map(|sequence| sequence.words[sequence.lead].start);
        let begun = self.decoder.pending_start().or(computed).or(self.engine.pending_start()).or(waiting);
        begun.or(self.sequencer.pending_start())
    }

    fn budget(&self) -> usize {
        self.token_budget.min(self.model.highest_token_budget())
    }

    fn round_pieces(&self) -> usize {
        self.budget().saturating_mul(self.parallel)
    }

    /// Cuts the next stretch of text into words with pieces and decodes what is computed, both on all threads.
    fn prepare_and_decode<'t>(
        &mut self,
        portions: &mut (impl Iterator<Item = Portion<'t>> + Send),
    ) -> Vec<PreparedWords> {
        let model = self.model.clone();
        let (counters, pieces) = (model.counters(), model.tokenizer());
        let prepare = |group: &Vec<Portion>| counters.timed(Work::Text, || PreparedWords::new(group, pieces));
        let mut left = self.stretch_bytes();
        let mut groups = std::iter::from_fn(|| counters.timed(Work::Text, || next_group(portions, &mut left)));
        let Some(first) = groups.next() else { return Vec::new() };
        let Some(second) = groups.next() else {
            self.decode();
            return vec![prepare(&first)];
        };
        let pool = self.pool.clone();
        let both = || {
            let prepare_all = || {
                let groups = [first, second].into_iter().chain(groups).enumerate().par_bridge();
                groups.map(|(place, group)| (place, prepare(&group))).collect::<Vec<_>>()
            };
            rayon::join(prepare_all, || self.decode())
        };
        let (mut words, ()) = match &pool {
            Some(pool) => pool.install(both),
            None => both(),
        };
        words.sort_unstable_by_key(|(place, _)| *place);
        words.into_iter().map(|(_, words)| words).collect()
    }

    /// Gives the engine as many sequences as fill the batches of one round; `more` of them will follow.
    fn submit(&mut self, more: bool) -> Result<()> {
        let budget = self.budget();
        let (mut count, mut batches, mut in_batch) = (0, 1, 0);
        for sequence in &self.waiting {
            let pieces = sequence.piece_ids.len();
            if in_batch > 0 && in_batch + pieces > budget {
                (batches, in_batch) = (batches + 1, 0);
            }
            if batches > self.parallel {
                break;
            }
            in_batch += pieces;
            count += 1;
        }
        let rest = self.waiting.split_off(count);
        let sequences = std::mem::replace(&mut self.waiting, rest);
        self.waiting_pieces -= sequences.iter().map(|sequence| sequence.piece_ids.len()).sum::<usize>();
        let round = self.model.counters().timed(Work::Text, || Round::new(&self.model, sequences, budget))?;
        self.computed.extend(self.engine.submit(round, more)?);
        Ok(())
    }

    /// Decodes what is computed.
    fn decode(&mut self) {
        for round in std::mem::take(&mut self.computed) {
            self.decode_round(&round);
        }
    }

    /// Windows of one sentence are decoded together; all else, by several threads if it is worth it.
    fn decode_round(&mut self, round: &Round) {
        let Round { sequences, emissions, .. } = round;
        let crf = self.model.crf();
        let new = || Decoder::new(crf.clone(), self.threshold);
        let most = sequences.len().div_ceil(4 * self.threads).max(LEAST_DECODED);
        let mut parts: Vec<(Decoder, &[Sequence], usize)> = Vec::new();
        let (mut rest, mut word) = (sequences.as_slice(), 0);
        let mut decoder = std::mem::replace(&mut self.decoder, new());
        while !rest.is_empty() {
            let ends = (most.min(rest.len())..rest.len()).find(|&end| !rest[end - 1].continues);
            let (part, after) = rest.split_at(ends.unwrap_or(rest.len()));
            parts.push((std::mem::replace(&mut decoder, new()), part, word));
            word += part.iter().map(|sequence| sequence.words.len()).sum::<usize>();
            rest = after;
        }
        let decode = |(mut decoder, part, mut word): (Decoder, &[Sequence], usize)| {
            self.model.counters().timed(Work::Decoding, || {
                for sequence in part {
                    let end = word + sequence.words.len();
                    let logits = &emissions.class_logits[word * emissions.classes..end * emissions.classes];
                    decoder.push(sequence, &emissions.tags[word..end], logits, emissions.classes);
                    word = end;
                }
                decoder
            })
        };
        let decoders: Vec<Decoder> = match parts.len() {
            0 | 1 => parts.into_iter().map(decode).collect(),
            _ => {
                let all = || parts.into_par_iter().map(decode).collect();
                match &self.pool {
                    Some(pool) => pool.install(all),
                    None => all(),
                }
            }
        };
        for mut decoder in decoders {
            self.found.append(&mut decoder.take_found());
            self.decoder = decoder;
        }
    }
}

/// Portions that one thread takes at once, as long as bytes are left of the stretch.
fn next_group<'t>(portions: &mut impl Iterator<Item = Portion<'t>>, left: &mut usize) -> Option<Vec<Portion<'t>>> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while bytes < PORTION_BYTES && *left > 0 {
        let Some(portion) = portions.next() else { break };
        bytes += portion.bytes();
        // A document without text takes a place, too.
        *left = left.saturating_sub(portion.bytes().max(1));
        group.push(portion);
    }
    (!group.is_empty()).then_some(group)
}
