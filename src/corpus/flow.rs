//! Files -> their outputs: a thread that reads documents, workers that tag them, and the caller's thread, which writes in the order of the files.
//! Between them is a bounded number of groups of documents: who reads waits for who tags, and both for who writes. A group never holds documents of two files,
//! so that what is computed together, and with it the last digit of a float, does not depend on which files were finished before.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::inputs::CorpusFile;
use super::journal::{Finished, Journal, Stamp, cannot_write};
use super::names::Statistics;
use super::{Event, FailedFile, RunOptions};
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::format::{self, Document, Writer};
use crate::reading::Note;
use crate::tagger::{TagOptions, Tagger};

/// Bytes of text that a worker takes at once: some thirty batches, so that the last, partly filled one costs little.
const GROUP_BYTES: usize = 256 * 1024;
/// For a GPU, whose batches are larger.
const GROUP_BYTES_OF_GPU: usize = 8 << 20;
/// And so many documents, however short.
const GROUP_DOCUMENTS: usize = 4096;
/// On a GPU one worker's text is made ready while the other's is computed.
const WORKERS_OF_GPU: usize = 2;

/// Some documents of one file.
struct Group {
    /// Place among all groups.
    number: u64,
    /// Index of the file.
    file: usize,
    documents: Vec<Document>,
    /// Records passed over before or among the documents.
    malformed: u64,
    /// Set in the last group of a file: the file's stamp from before it was read, or why it could not be read to its end.
    end: Option<Result<Stamp>>,
}

/// A group and what was found in each of its documents.
type Tagged = (Group, Result<Vec<(Vec<Entity<'static>>, Vec<Note>)>>);

/// Tags files and notes each one when its output is whole; gives those that failed.
pub(super) fn tag_files(
    tagger: &Tagger,
    files: &[&CorpusFile],
    journal: &mut Journal,
    options: &RunOptions,
    output_of: impl Fn(&str) -> PathBuf,
    observer: &(dyn Fn(Event) + Sync),
) -> Result<Vec<FailedFile>> {
    let taggers = Taggers::new(tagger, options.workers)?;
    let workers = taggers.workers.len();
    let stopped = AtomicBool::new(false);
    let (permit, permits) = channel();
    for _ in 0..2 * workers + 2 {
        // The receiver lives.
        let _ = permit.send(());
    }
    let (give, groups) = channel();
    let groups = Mutex::new(groups);
    let (give_tagged, tagged) = channel();
    thread::scope(|scope| {
        let reader = Reader { files, options, observer, groups: give, permits, stopped: &stopped, number: 0 };
        let most_bytes = taggers.group_bytes;
        scope.spawn(move || reader.read(most_bytes));
        for tagger in &taggers.workers {
            let (give_tagged, groups, taggers, stopped) = (give_tagged.clone(), &groups, &taggers, &stopped);
            scope.spawn(move || {
                let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(group) = next()
                    && !stopped.load(Ordering::Relaxed)
                {
                    let tag = || taggers.tag(tagger, &group.documents, options);
                    let (found, panic) = match catch_unwind(AssertUnwindSafe(tag)) {
                        Ok(found) => (found, None),
                        // The writer ends and lets all others end before the panic goes on in the caller.
                        Err(panic) => (Err(Error::Option("a worker panicked".into())), Some(panic)),
                    };
                    let taken = give_tagged.send((group, found)).is_ok();
                    if let Some(panic) = panic {
                        resume_unwind(panic);
                    }
                    if !taken {
                        break;
                    }
                }
            });
        }
        drop(give_tagged);
        let mut outputs = Outputs { files, journal, options, output_of, observer, open: None, failed: Vec::new() };
        let written = outputs.write_all(&tagged, &permit);
        // Whatever ended it, nobody is to wait for permits or read on.
        stopped.store(true, Ordering::Relaxed);
        drop(permit);
        written.map(|()| outputs.failed)
    })
}

/// A tagger for each worker, and one that has all threads.
struct Taggers {
    workers: Vec<Tagger>,
    /// For long documents, which are read as a stream.
    whole: Tagger,
    group_bytes: usize,
}

impl Taggers {
    fn new(tagger: &Tagger, workers: usize) -> Result<Self> {
        let on_gpu = tagger.model().backend().takes_turns();
        let count = match workers {
            0 if on_gpu => WORKERS_OF_GPU,
            0 => tagger.options().threads.unwrap_or_else(rayon::current_num_threads),
            count => count,
        };
        let with_threads = |threads| tagger.with_options(TagOptions { threads, ..tagger.options().clone() });
        // From one without threads of its own: two workers must not share the pool of the tagger that was given.
        let shared = with_threads(None)?;
        let alone = || shared.with_options(TagOptions { threads: Some(1), ..shared.options().clone() });
        let workers = (0..count).map(|_| if on_gpu { Ok(shared.clone()) } else { alone() }).collect::<Result<_>>()?;
        let whole = if on_gpu { shared } else { with_threads(Some(count))? };
        Ok(Self { workers, whole, group_bytes: if on_gpu { GROUP_BYTES_OF_GPU } else { GROUP_BYTES } })
    }

    fn tag(
        &self,
        tagger: &Tagger,
        documents: &[Document],
        options: &RunOptions,
    ) -> Result<Vec<(Vec<Entity<'static>>, Vec<Note>)>> {
        let read = |document: &Document, entities| {
            let (entities, notes) = options.reading.read(document, entities);
            (entities.into_iter().map(Entity::into_owned).collect(), notes)
        };
        if let [document] = documents
            && document.is_long()
        {
            return Ok(vec![read(document, self.whole.tag_long_document(document, |_| ())?)]);
        }
        let references: Vec<&Document> = documents.iter().collect();
        let found = tagger.tag_documents(&references)?;
        Ok(documents.iter().zip(found).map(|(document, entities)| read(document, entities)).collect())
    }
}

/// Reads files and gives groups of their documents.
struct Reader<'r> {
    files: &'r [&'r CorpusFile],
    options: &'r RunOptions,
    observer: &'r (dyn Fn(Event) + Sync),
    groups: Sender<Group>,
    permits: Receiver<()>,
    stopped: &'r AtomicBool,
    number: u64,
}

/// Nobody takes groups any more.
struct Stopped;

impl Reader<'_> {
    fn read(mut self, most_bytes: usize) {
        for index in 0..self.files.len() {
            if self.read_file(index, most_bytes).is_err() {
                break;
            }
        }
    }

    fn read_file(&mut self, index: usize, most_bytes: usize) -> Result<(), Stopped> {
        let RunOptions { from, read, keep_going, .. } = self.options;
        let file = self.files[index];
        let counter = Arc::new(AtomicU64::new(0));
        let (mut documents, mut bytes, mut malformed) = (Vec::new(), 0, 0);
        let opened = Stamp::of(&file.path)
            .and_then(|stamp| Ok((stamp, format::open_as(&file.path, &file.name, *from, read, &counter)?)));
        let end = match opened {
            Err(error) => Err(error),
            Ok((stamp, found)) => {
                let mut end = Ok(stamp);
                for document in found {
                    (self.observer)(Event::Read(counter.swap(0, Ordering::Relaxed)));
                    let document = match document {
                        Ok(document) => document,
                        Err(error) if *keep_going && matches!(error, Error::Malformed { .. }) => {
                            (self.observer)(Event::Malformed(&error));
                            malformed += 1;
                            continue;
                        }
                        Err(error) => {
                            end = Err(error);
                            break;
                        }
                    };
                    // A long one is a group of its own.
                    let full = bytes >= most_bytes || documents.len() >= GROUP_DOCUMENTS;
                    if !documents.is_empty() && (full || document.is_long()) {
                        self.give(index, std::mem::take(&mut documents), std::mem::take(&mut malformed), None)?;
                        bytes = 0;
                    }
                    bytes += if document.is_long() { most_bytes } else { document.text.len() };
                    documents.push(document);
                }
                (self.observer)(Event::Read(counter.swap(0, Ordering::Relaxed)));
                end
            }
        };
        self.give(index, documents, malformed, Some(end))
    }

    fn give(
        &mut self,
        file: usize,
        documents: Vec<Document>,
        malformed: u64,
        end: Option<Result<Stamp>>,
    ) -> Result<(), Stopped> {
        self.permits.recv().map_err(|_| Stopped)?;
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Stopped);
        }
        let group = Group { number: self.number, file, documents, malformed, end };
        self.number += 1;
        self.groups.send(group).map_err(|_| Stopped)
    }
}

/// What is written, file by file.
struct Outputs<'o, F> {
    files: &'o [&'o CorpusFile],
    journal: &'o mut Journal,
    options: &'o RunOptions,
    output_of: F,
    observer: &'o (dyn Fn(Event) + Sync),
    /// The file at which the run is.
    open: Option<Output>,
    failed: Vec<FailedFile>,
}

struct Output {
    part: PathBuf,
    writer: Box<dyn Writer>,
    documents: u64,
    mentions: u64,
    malformed: u64,
    statistics: Option<Statistics>,
    /// Why the format cannot hold a document of the file.
    failed: Option<Error>,
}

impl<F: Fn(&str) -> PathBuf> Outputs<'_, F> {
    /// Puts groups in order and writes them; each one written is a permit to read another.
    fn write_all(&mut self, tagged: &Receiver<Tagged>, permit: &Sender<()>) -> Result<()> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (group, found) in tagged {
            waiting.insert(group.number, (group, found));
            while let Some((group, found)) = waiting.remove(&next) {
                self.write(group, found?)?;
                next += 1;
                // The reader may be done.
                let _ = permit.send(());
            }
        }
        Ok(())
    }

    fn write(&mut self, group: Group, found: Vec<(Vec<Entity>, Vec<Note>)>) -> Result<()> {
        let file = self.files[group.file];
        let mut output = match self.open.take() {
            Some(output) => output,
            None => self.begin(group.file)?,
        };
        output.malformed += group.malformed;
        for (document, (entities, notes)) in group.documents.iter().zip(&found) {
            if output.failed.is_some() {
                break;
            }
            if let Err(error) = output.writer.write(document, entities, notes) {
                let cannot = cannot_write(&(self.output_of)(&file.name), &error);
                match error.kind() {
                    std::io::ErrorKind::InvalidInput | std::io::ErrorKind::AlreadyExists => {
                        output.failed = Some(cannot)
                    }
                    _ => return Err(cannot),
                }
                break;
            }
            output.documents += 1;
            output.mentions += entities.len() as u64;
            if let Some(statistics) = &mut output.statistics {
                statistics.count(entities, notes);
            }
        }
        (self.observer)(Event::Tagged(group.documents.len() as u64));
        match group.end {
            None => self.open = Some(output),
            Some(end) => self.finish(file, output, end)?,
        }
        Ok(())
    }

    fn begin(&self, index: usize) -> Result<Output> {
        let (part, options) = (self.journal.part(index), self.options);
        let part = if options.gzip { part.with_extension("gz") } else { part };
        Ok(Output {
            writer: format::create(&part, options.to, options.write)?,
            part,
            documents: 0,
            mentions: 0,
            malformed: 0,
            statistics: options.statistics.then(Statistics::default),
            failed: None,
        })
    }

    fn finish(&mut self, file: &CorpusFile, output: Output, end: Result<Stamp>) -> Result<()> {
        let Output { part, mut writer, documents, mentions, malformed, statistics, failed } = output;
        let stamp = match (failed, end) {
            (None, Ok(stamp)) => stamp,
            (Some(error), _) | (None, Err(error)) => {
                (self.observer)(Event::Failed(&error));
                self.failed.push(FailedFile { file: file.name.clone(), error: error.to_string() });
                drop(writer);
                return self.journal.forget(&part, &(self.output_of)(&file.name));
            }
        };
        let output = (self.output_of)(&file.name);
        writer.finish().map_err(|e| cannot_write(&output, &e))?;
        drop(writer);
        let done = Finished { file: file.name.clone(), stamp, written: 0, documents, mentions, malformed, statistics };
        self.journal.finish(&part, &output, done)
    }
}
