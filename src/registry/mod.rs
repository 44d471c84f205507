//! Source and options -> a tagger on the one model of this process that has that content, device and number format.
//! A model is loaded by whoever asks first, once for all who ask meanwhile, and freed when its last tagger is dropped.
//! Content is known by SHA-256, which is remembered while the file system says that the files are unchanged.

mod load;
mod preload;
mod shared;
mod stamp;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

pub use self::load::{Progress, Stage};
pub use self::preload::Preload;

use self::load::{Load, Outcome};
use self::shared::Shared;
use self::stamp::Stamp;
use crate::error::{Error, Result};
use crate::source::{ModelFiles, ModelSource, OnPortion, kept, sha256};
use crate::tagger::{LoadOptions, Model, Tagger};
use crate::tokenizer::WordPieces;

/// A tagger on the process's one copy of a model, on the best device there is; [`Registry::get`] of the global registry.
///
/// # Errors
/// As [`Registry::get`].
///
/// ```no_run
/// let tagger = chemtag::get("models/chemtag-small.int8.safetensors")?; // loads the model
/// let another = chemtag::get("models/chemtag-small.int8.safetensors")?; // shares it
/// # Ok::<(), chemtag::Error>(())
/// ```
pub fn get(source: impl Into<ModelSource>) -> Result<Tagger> {
    Registry::global().get(source, LoadOptions::default())
}

/// Starts to load a model in the background, on the best device there is; [`Registry::preload`] of the global registry.
///
/// ```no_run
/// let model = chemtag::preload("models/chemtag-small.int8.safetensors"); // returns at once
/// // ... what the program does before it needs the tagger ...
/// let tagger = model.wait()?; // waits only for what is left of the load
/// # Ok::<(), chemtag::Error>(())
/// ```
pub fn preload(source: impl Into<ModelSource>) -> Preload {
    Registry::global().preload(source, LoadOptions::default())
}

/// The models that a process holds, each once.
///
/// * One model for each content, device and number format, however many taggers there are and by whichever path the files are named.
/// * Callers that ask while it is being loaded wait for that load. If it fails, all of them get the error, and the next call tries again.
/// * Files are read again only if inode, size or times of one of them have changed; a second call reads none.
/// * The model is freed when the last [`Tagger`] on it is dropped. A [`Preload`] holds it, too.
/// * Models with the same `tokenizer.json` share the tokenizer and its cache of words.
///
/// ```
/// use chemtag::{LoadOptions, Registry};
///
/// let registry = Registry::new();
/// match registry.get("no/such/folder", LoadOptions::default()) {
///     Ok(tagger) => println!("{} chemicals", tagger.tag("Aspirin in ethanol.")?.len()),
///     Err(error) => assert!(error.to_string().contains("config.json")),
/// }
/// assert_eq!(registry.loads(), 0);
/// # Ok::<(), chemtag::Error>(())
/// ```
pub struct Registry {
    inner: Arc<Inner>,
}

type Reader = dyn Fn(&ModelSource, OnPortion) -> Result<ModelFiles> + Send + Sync;

/// What the registry shares with the threads of its preloads.
struct Inner {
    reader: Box<Reader>,
    /// Content of each source at its last reading. Sources are absolute.
    known: Mutex<HashMap<ModelSource, Known>>,
    loading: Mutex<HashMap<Request, Arc<Load>>>,
    /// By content, with resolved options.
    models: Shared<(String, LoadOptions), Model>,
    /// By hash of `tokenizer.json` and size of the vocabulary that it was checked against.
    tokenizers: Shared<(String, usize), WordPieces>,
    loads: AtomicUsize,
}

/// What a source held when it was read.
struct Known {
    stamp: Stamp,
    hash: String,
    int8: bool,
}

/// What is asked for. Who asks after the files have changed does not join a load of the old ones.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Request {
    source: ModelSource,
    stamp: Option<Stamp>,
    options: LoadOptions,
}

impl Registry {
    /// The registry of the whole process, which [`get`] and [`preload`] use.
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<Registry> = LazyLock::new(Registry::new);
        &GLOBAL
    }

    /// A registry of its own, which shares nothing with others.
    pub fn new() -> Self {
        Self::with_reader(ModelFiles::read_in_portions)
    }

    /// A registry whose files come through `reader` instead of [`ModelFiles::read_in_portions`]: from a store, a cache, or a test.
    /// It gets folders as absolute paths, calls its second argument as data come in, and stops with that one's error. It may block. It
    /// must not ask this registry for the model that it reads.
    pub fn with_reader(
        reader: impl Fn(&ModelSource, OnPortion<'_>) -> Result<ModelFiles> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                reader: Box::new(reader),
                known: Mutex::default(),
                loading: Mutex::default(),
                models: Shared::default(),
                tokenizers: Shared::default(),
                loads: AtomicUsize::new(0),
            }),
        }
    }

    /// A tagger on the process's one copy of a model, with the default [`TagOptions`](crate::TagOptions). Loads the model if nobody
    /// holds it; waits if it is being loaded.
    ///
    /// # Errors
    /// If a file is missing, damaged or does not fit the others, or the device cannot be used: as [`Error::Shared`], whose
    /// [`root`](Error::root) is the error itself. [`Error::LoaderPanicked`] if the reader panics.
    pub fn get(&self, source: impl Into<ModelSource>, options: LoadOptions) -> Result<Tagger> {
        tagger_of(self.inner.obtain(source.into(), options, |_| ()))
    }

    /// Starts to load a model in the background and returns at once. [`Registry::get`] of the same model waits for the same load.
    pub fn preload(&self, source: impl Into<ModelSource>, options: LoadOptions) -> Preload {
        let source = source.into();
        let handle = Preload::new(source.to_string());
        let (inner, request) = (self.inner.clone(), handle.request().clone());
        let thread = std::thread::Builder::new().name("chemtag-preload".into());
        let started = thread.spawn(move || {
            let outcome = inner.obtain(source, options, |load| request.follow(load));
            request.settle(outcome);
        });
        if let Err(error) = started {
            let reason = format!("cannot start a thread to load the model ({error}): load it with Registry::get");
            handle.request().settle(Err(Arc::new(Error::Option(reason))));
        }
        handle
    }

    /// How many models this registry has loaded so far; what was already in memory and what failed does not count.
    pub fn loads(&self) -> usize {
        self.inner.loads.load(Ordering::Relaxed)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    /// The model, from memory or by a load, of which `joined` is told before it is waited for.
    fn obtain(&self, source: ModelSource, options: LoadOptions, joined: impl FnOnce(&Arc<Load>)) -> Outcome {
        let source = absolute(source);
        let request = Request { stamp: Stamp::of(&source), source, options: options.resolved() };
        if let Some(model) = self.living(&request) {
            return Ok(model);
        }
        let (load, leads) = self.join(&request);
        joined(&load);
        if leads {
            self.lead(&request, &load);
        }
        load.wait()
    }

    /// The model, if its files are unchanged since they were read and somebody holds it.
    fn living(&self, request: &Request) -> Option<Arc<Model>> {
        let key = match lock(&self.known).get(&request.source) {
            Some(known) if Some(&known.stamp) == request.stamp.as_ref() => {
                (known.hash.clone(), request.options.resolved_for(known.int8))
            }
            _ => return None,
        };
        self.models.living(&key)
    }

    /// The load of a request that is under way, else a new one for the caller to lead.
    fn join(&self, request: &Request) -> (Arc<Load>, bool) {
        let mut loading = lock(&self.loading);
        match loading.get(request) {
            Some(load) if load.join() => (load.clone(), false),
            _ => {
                let load = Arc::new(Load::new(request.source.to_string()));
                loading.insert(request.clone(), load.clone());
                (load, true)
            }
        }
    }

    /// Loads for all who joined. Whatever happens, they get an outcome.
    fn lead(&self, request: &Request, load: &Arc<Load>) {
        // What a panic can leave half done lies in this call alone: the registry's own maps change in single steps.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.load(request, load))).unwrap_or_else(|panic| {
            Err(Error::LoaderPanicked { model: request.source.to_string(), message: panic_message(&*panic) })
        });
        load.settle(outcome.map_err(Arc::new));
        let mut loading = lock(&self.loading);
        if loading.get(request).is_some_and(|current| Arc::ptr_eq(current, load)) {
            loading.remove(request);
        }
    }

    fn load(&self, request: &Request, load: &Load) -> Result<Arc<Model>> {
        // A load may have ended between the caller's look and its becoming the leader.
        if let Some(model) = self.living(request) {
            return Ok(model);
        }
        load.report(Stage::Reading)?;
        let files = (self.reader)(&request.source, &mut |done, total| load.report_bytes(done, total))?;
        load.report(Stage::Hashing)?;
        let (hash, int8) = (files.hash(), files.is_int8()?);
        let options = request.options.resolved_for(int8);
        // The stamp is older than the reading: files that have changed meanwhile have another one, and are read again.
        if let Some(stamp) = &request.stamp {
            lock(&self.known).insert(request.source.clone(), Known { stamp: stamp.clone(), hash: hash.clone(), int8 });
        }
        load.report(Stage::Building)?;
        // Two paths with the same content meet here: the second waits for the first one's model. Nothing below runs on rayon's threads, or
        // one that waits for a load could be given the task to wait for itself.
        self.models.get_or_make((hash.clone(), options), || {
            let tokenizer = |vocab_size| {
                let key = (sha256(&[&files.tokenizer]), vocab_size);
                let tokenizer = self.tokenizers.get_or_make(key, || {
                    Ok(Arc::new(WordPieces::from_json(&files.tokenizer, &files.names[1], vocab_size)?))
                })?;
                load.report(Stage::Building)?;
                Ok(tokenizer)
            };
            let model = Model::load_with_tokenizer(&files, hash, options, tokenizer)?;
            self.loads.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(model))
        })
    }
}

/// A path that means the same wherever the process goes.
fn absolute(source: ModelSource) -> ModelSource {
    match source {
        ModelSource::Folder(path) => ModelSource::Folder(std::path::absolute(&path).unwrap_or(path)),
        ModelSource::File(path) => ModelSource::File(std::path::absolute(&path).unwrap_or(path)),
        ModelSource::Embedded => ModelSource::Embedded,
        // The files of one that was fetched before have a stamp, so that they are not read again.
        ModelSource::Remote(address) => kept(&address).unwrap_or(ModelSource::Remote(address)),
    }
}

/// A cancellation is given as it is, since callers ask for that one; other errors are shared.
fn tagger_of(outcome: Outcome) -> Result<Tagger> {
    outcome.map(Tagger::from_model).map_err(|error| match &*error {
        Error::Cancelled { model } => Error::Cancelled { model: model.clone() },
        _ => Error::Shared(error),
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").into()
}

/// Locks, after a panic too: what these locks guard is changed in single steps and always whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
