//! The tagger: a model, loaded once and shared, and the options of its use. Text in, [`Entity`] out.

use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::ThreadPool;

use crate::activity::{Activity, Counters};
use crate::backend::{Backend, Precision};
#[cfg(feature = "candle")]
use crate::candle_backend::CandleBackend;
use crate::decode::Mention;
use crate::device::Device;
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::int8::{IntegerBackend, Kernel};
use crate::model::config::ModelConfig;
use crate::model::crf::Crf;
use crate::pipeline::Pipeline;
use crate::portion::{Content, Portion, document_portions};
use crate::reader::TagReader;
use crate::side_by_side::both;
use crate::source::{ModelFiles, ModelSource};
use crate::tokenizer::WordPieces;
use crate::warnings::warn;

/// Where and how a model is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LoadOptions {
    /// Where to compute.
    pub device: Device,
    /// Number format of the weights.
    pub precision: Precision,
}

impl LoadOptions {
    /// The same with what `Auto` stands for on this machine, but for what depends on the model's file.
    pub(crate) fn resolved(self) -> Self {
        // Integers are computed on the CPU alone.
        let integers_anywhere = self.precision == Precision::Int8 && self.device == Device::Auto;
        let device = if integers_anywhere { Device::Cpu } else { self.device.resolved() };
        Self { device, precision: self.precision.resolved(device) }
    }

    /// The same with what `Auto` stands for, for a file whose weights are 8-bit integers or not.
    pub(crate) fn resolved_for(self, int8: bool) -> Self {
        let Self { device, precision } = self.resolved();
        match (precision, int8) {
            (Precision::Auto, true) => Self { device, precision: Precision::Int8 },
            (Precision::Auto, false) if cfg!(feature = "candle") => Self { device, precision: Precision::F32 },
            (Precision::Auto, false) => Self { device, precision: Precision::Int8 },
            _ => Self { device, precision },
        }
    }
}

/// How a tagger reads.
#[derive(Debug, Clone, PartialEq)]
pub struct TagOptions {
    /// `None`: the mentions on the model's best path. `Some(p)`: the best mentions that do not overlap and whose score is at least `p`,
    /// so that a low value finds more than the best path holds and a high one less.
    pub threshold: Option<f32>,
    /// Most word pieces that the model reads at once; larger is faster on a GPU and takes more memory.
    /// [`TagOptions::BUDGET_OF_DEVICE`]: what suits the device, 2,048 on the CPU and 65,536 on a GPU. If a GPU has too little memory, batches get
    /// smaller by themselves.
    pub token_budget: usize,
    /// Threads; `None` for those of the process's rayon pool.
    pub threads: Option<usize>,
    /// Read every sentence alone instead of with its neighbours. Slightly less precise.
    pub lone_sentences: bool,
}

impl TagOptions {
    /// As many pieces at once as suit the device.
    pub const BUDGET_OF_DEVICE: usize = usize::MAX;
}

impl Default for TagOptions {
    fn default() -> Self {
        Self { threshold: None, token_budget: Self::BUDGET_OF_DEVICE, threads: None, lone_sentences: false }
    }
}

/// A loaded model: configuration, tokenizer, CRF and the engine with the weights.
pub struct Model {
    config: ModelConfig,
    tokenizer: Arc<WordPieces>,
    crf: Crf,
    backend: Box<dyn Backend>,
    classes: Vec<Arc<str>>,
    hash: String,
    counters: Counters,
    /// Pieces that the device has room for, as far as is known.
    highest_token_budget: AtomicUsize,
}

impl Model {
    /// Loads a model from its files.
    ///
    /// # Errors
    /// If a file is damaged or does not fit the others, or the device cannot be used.
    pub fn load(files: &ModelFiles, options: LoadOptions) -> Result<Self> {
        let tokenizer =
            |vocab_size| Ok(Arc::new(WordPieces::from_json(&files.tokenizer, &files.names[1], vocab_size)?));
        let load = || Self::load_with_tokenizer(files, String::new(), options, tokenizer);
        let (hash, model) = both(|| files.hash(), load);
        Ok(Self { hash, ..model? })
    }

    /// As [`Model::load`], for files whose hash is known; `tokenizer` gives the tokenizer for a vocabulary of some size.
    pub(crate) fn load_with_tokenizer(
        files: &ModelFiles,
        hash: String,
        options: LoadOptions,
        tokenizer: impl Fn(usize) -> Result<Arc<WordPieces>> + Sync,
    ) -> Result<Self> {
        let config = ModelConfig::from_json(&files.config, &files.names[0])?;
        let engine = || Self::load_engine(files, &config, options);
        let (tokenizer, engine) = both(|| tokenizer(config.encoder.vocab_size), engine);
        let (tokenizer, (backend, crf)) = (tokenizer?, engine?);
        Ok(Self { hash, ..Self::from_parts(config, tokenizer, crf, backend) })
    }

    fn load_engine(files: &ModelFiles, config: &ModelConfig, options: LoadOptions) -> Result<(Box<dyn Backend>, Crf)> {
        let (weights, file) = (&files.weights, &files.names[2]);
        let LoadOptions { device, precision } = options.resolved_for(files.is_int8()?);
        if precision == Precision::Int8 {
            if device != Device::Cpu {
                let reason =
                    format!("8-bit integers are computed on the CPU, not on {device}: use another precision there");
                return Err(Error::Option(reason));
            }
            let (backend, crf) = IntegerBackend::load(weights, file, config, Kernel::from_environment()?)?;
            Ok((Box::new(backend), crf))
        } else {
            float_backend(weights, file, config, device, precision)
        }
    }

    /// Puts a model together from its parts, such as a network in training.
    pub fn from_parts(config: ModelConfig, tokenizer: Arc<WordPieces>, crf: Crf, backend: Box<dyn Backend>) -> Self {
        let classes = config.tagger.classes.iter().map(|class| class.as_str().into()).collect();
        Self {
            config,
            tokenizer,
            crf,
            backend,
            classes,
            hash: String::new(),
            counters: Counters::default(),
            highest_token_budget: AtomicUsize::new(usize::MAX),
        }
    }

    /// The model's `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's tokenizer, which models with the same `tokenizer.json` share if they come from one [`Registry`](crate::Registry).
    pub fn tokenizer(&self) -> &Arc<WordPieces> {
        &self.tokenizer
    }

    /// The model's CRF.
    pub fn crf(&self) -> &Crf {
        &self.crf
    }

    /// The engine that holds the weights.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What all taggers on this model have done so far, and the time of each stage.
    pub fn activity(&self) -> Activity {
        self.counters.read()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Most pieces of a batch, as far as the device's memory is known.
    pub(crate) fn highest_token_budget(&self) -> usize {
        self.highest_token_budget.load(Ordering::Relaxed)
    }

    /// From now on at most `budget` pieces; returns how many it is. The first time, it warns.
    pub(crate) fn lower_token_budget(&self, budget: usize) -> usize {
        let budget = budget.max(1);
        let before = self.highest_token_budget.fetch_min(budget, Ordering::Relaxed);
        if before == usize::MAX {
            warn(&format!(
                "{} has too little memory free for {} word pieces at once: going on with {budget}, and less if need be",
                self.backend.describe(),
                2 * budget
            ));
        }
        before.min(budget)
    }

    /// SHA-256 of the model's files ([`ModelFiles::hash`]); empty for a model that was put together from parts.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The engine for floats.
#[cfg(feature = "candle")]
fn float_backend(
    weights: &[u8],
    file: &str,
    config: &ModelConfig,
    device: Device,
    precision: Precision,
) -> Result<(Box<dyn Backend>, Crf)> {
    let (backend, weights) = CandleBackend::load(weights, file, config, device, precision)?;
    Ok((Box::new(backend), crate::model::load_crf(&weights)?))
}

#[cfg(not(feature = "candle"))]
fn float_backend(
    _: &[u8],
    file: &str,
    _: &ModelConfig,
    _: Device,
    precision: Precision,
) -> Result<(Box<dyn Backend>, Crf)> {
    let reason =
        format!("{precision:?} needs the tensor library, which this build does not have: load with 8-bit integers");
    Err(Error::Model { file: file.into(), reason })
}

/// Finds chemicals in text. A clone shares the model and costs next to nothing; all threads may use one tagger at once.
///
/// [`Tagger::load`] reads a copy of the model for itself. Where several parts of a program want a tagger, ask [`chemtag::get`](crate::get) or
/// a [`Registry`](crate::Registry): they load each model once for all, and [`chemtag::preload`](crate::preload) does so in the background.
///
/// ```no_run
/// # fn main() -> chemtag::Result<()> {
/// let tagger = chemtag::Tagger::load("models/chemtag-small.int8.safetensors")?;
/// let text = "Aspirin was dissolved in tetrahydrofuran (THF).";
/// for entity in tagger.tag(text)? {
///     println!("{} {}..{} {:.3}", entity.text, entity.start, entity.end, entity.score);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tagger {
    model: Arc<Model>,
    options: TagOptions,
    pool: Option<Arc<ThreadPool>>,
}

impl Tagger {
    /// Loads a model on the best device there is.
    ///
    /// # Errors
    /// If a file is missing, damaged or does not fit the others.
    pub fn load(source: impl Into<ModelSource>) -> Result<Self> {
        Self::load_with(source, LoadOptions::default())
    }

    /// Loads the default model that this program carries.
    ///
    /// # Errors
    /// [`Error::NoEmbeddedModel`] if it was built without the feature `embedded-model`.
    pub fn load_default() -> Result<Self> {
        Self::load(ModelSource::Embedded)
    }

    /// Loads a model as `options` say.
    ///
    /// # Errors
    /// As [`Tagger::load`]; also if the device cannot be used.
    pub fn load_with(source: impl Into<ModelSource>, options: LoadOptions) -> Result<Self> {
        let files = ModelFiles::read(&source.into())?;
        Ok(Self::from_model(Arc::new(Model::load(&files, options)?)))
    }

    /// A tagger on a model that is loaded already.
    pub fn from_model(model: Arc<Model>) -> Self {
        Self { model, options: TagOptions::default(), pool: None }
    }

    /// The same model with other options.
    ///
    /// # Errors
    /// [`Error::Option`] if a value makes no sense or the threads cannot be started.
    pub fn with_options(&self, options: TagOptions) -> Result<Self> {
        if let Some(threshold) = options.threshold
            && !(threshold > 0. && threshold <= 1.)
        {
            return Err(Error::Option(format!("the threshold is {threshold}, but must be above 0 and at most 1")));
        }
        if options.token_budget == 0 {
            return Err(Error::Option("the token budget is 0, but must be at least 1".into()));
        }
        let pool = match options.threads {
            None => None,
            Some(0) => return Err(Error::Option("the number of threads is 0, but must be at least 1".into())),
            same if same == self.options.threads => self.pool.clone(),
            Some(threads) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                Some(Arc::new(pool.map_err(|e| Error::Option(format!("cannot start {threads} threads: {e}")))?))
            }
        };
        Ok(Self { model: self.model.clone(), options, pool })
    }

    /// The options in force.
    pub fn options(&self) -> &TagOptions {
        &self.options
    }

    /// The model, shared with all clones.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The chemicals in a text, in order.
    ///
    /// # Errors
    /// If the device fails, out of memory included.
    pub fn tag<'t>(&self, text: &'t str) -> Result<Vec<Entity<'t>>> {
        Ok(self.tag_batch(&[text])?.pop().unwrap_or_default())
    }

    /// The chemicals in each of several texts. Texts share batches, which is faster than one call for each; the result is the same.
    ///
    /// # Errors
    /// As [`Tagger::tag`].
    pub fn tag_batch<'t>(&self, texts: &[&'t str]) -> Result<Vec<Vec<Entity<'t>>>> {
        self.run(texts, texts.iter().flat_map(|text| document_portions(text)))
    }

    /// The chemicals in each of several sentences that are split into words already, as in CoNLL files: byte ranges in order.
    ///
    /// # Errors
    /// [`Error::Option`] if a range is no part of its text, empty, or before the one before it; else as [`Tagger::tag`].
    pub fn tag_words<'t>(&self, texts: &[&'t str], words: &[&[Range<usize>]]) -> Result<Vec<Vec<Entity<'t>>>> {
        if texts.len() != words.len() {
            return Err(Error::Option(format!("there are {} texts, but words of {}", texts.len(), words.len())));
        }
        for (text, words) in texts.iter().zip(words) {
            let mut end = 0;
            for word in *words {
                if word.start < end || word.is_empty() || text.get(word.clone()).is_none() {
                    return Err(Error::Option(format!("{word:?} is no word of a text of {} bytes", text.len())));
                }
                end = word.end;
            }
        }
        self.run(
            texts,
            texts.iter().zip(words).map(|(text, words)| Portion {
                text,
                offset: 0,
                content: Content::Words(words),
                ends_document: true,
            }),
        )
    }

    /// Runs the portions of documents through one pipeline.
    pub(crate) fn run<'t, 'p>(
        &self,
        texts: &[&'t str],
        portions: impl Iterator<Item = Portion<'p>> + Send,
    ) -> Result<Vec<Vec<Entity<'t>>>> {
        let mut pipeline = self.pipeline();
        pipeline.read(portions)?;
        pipeline.finish()?;
        let found = pipeline.take_found();
        let mut entities: Vec<Vec<Entity>> = texts.iter().map(|_| Vec::new()).collect();
        for mention in found {
            let document = mention.document as usize;
            let text = Cow::Borrowed(&texts[document][mention.range.clone()]);
            entities[document].push(self.entity(mention, text));
        }
        Ok(entities)
    }

    /// The chemicals in one document that is read as it comes, in bounded memory however long it is.
    ///
    /// Offsets count bytes from the start of the stream. Results are those of [`Tagger::tag`] on the whole text.
    pub fn tag_reader<R: Read>(&self, reader: R) -> TagReader<'_, R> {
        TagReader::new(self, reader)
    }

    /// A new run with the tagger's options, on its own threads if it has any.
    pub(crate) fn pipeline(&self) -> Pipeline {
        Pipeline::new(&self.model, &self.options, self.pool.as_ref())
    }

    pub(crate) fn entity<'t>(&self, mention: Mention, text: Cow<'t, str>) -> Entity<'t> {
        Entity {
            start: mention.range.start,
            end: mention.range.end,
            text,
            class: mention.class.and_then(|class| self.model.classes.get(class).cloned()),
            score: mention.posterior as f32,
        }
    }
}
