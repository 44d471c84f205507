//! `chemtag run`: a corpus -> a folder of results, with progress on standard error and a summary at the end ([`chemtag::corpus`]).

use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chemtag::Tagger;
use chemtag::corpus::{self, CorpusFiles, Event, RunOptions, Summary};
use chemtag::format::{Format, OffsetUnit, WriteOptions};
use clap::Args;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::input::{InputArguments, MentionArguments, expected};
use super::reading::ReadingArguments;
use super::{Failure, ModelArguments, report};

/// Where standard error is no terminal, a line says so often how far the run is.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Arguments of `chemtag run`.
#[derive(Args)]
pub struct Arguments {
    /// Files, folders (read to any depth: files whose names say a format) and patterns such as 'folder/**/*.xml.gz'.
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<PathBuf>,
    /// Folder of the results: for each file one of the same name, with the format's behind it.
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Documents tagged at the same time [default: one for each core; 2 on a GPU].
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    mentions: MentionArguments,
    #[command(flatten)]
    reading: ReadingArguments,
    /// Format of the results: jsonl, csv, tsv, conll, brat, bioc-xml, bioc-json, pubtator or html.
    #[arg(long, value_name = "FORMAT", default_value = "jsonl", value_parser = written_format)]
    to: Format,
    /// Compress results by gzip.
    #[arg(long)]
    gzip: bool,
    /// What offsets count in jsonl, csv and tsv: chars, bytes or utf16.
    #[arg(long, value_name = "UNIT", default_value = "chars")]
    offsets: OffsetUnit,
    /// Count names: names.tsv, and report.html with plots, in the folder of the results.
    #[arg(long)]
    stats: bool,
    /// Forget what an earlier run into the same folder has finished.
    #[arg(long)]
    restart: bool,
}

fn written_format(name: &str) -> Result<Format, String> {
    let format = Format::from_str(name).ok().filter(|format| format.is_written());
    format.ok_or_else(|| expected(Format::written_names()))
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let files = CorpusFiles::find(&arguments.inputs, arguments.input.from, &arguments.output)?;
    if files.passed_over > 0 {
        let names = if files.passed_over == 1 { "file whose name says" } else { "files whose names say" };
        report(&format!("passed over {} {names} no format: --from names one for all", files.passed_over));
    }
    let options = RunOptions {
        from: arguments.input.from,
        read: arguments.input.read_options(),
        keep_going: arguments.input.keep_going,
        reading: arguments.reading.reading()?,
        to: arguments.to,
        write: WriteOptions { offsets: arguments.offsets },
        gzip: arguments.gzip,
        workers: arguments.workers.map_or(0, NonZeroUsize::get),
        statistics: arguments.stats,
        restart: arguments.restart,
    };
    let tagger = Tagger::load_with(arguments.model.source(), arguments.model.load_options())?;
    let tagger = tagger.with_options(arguments.mentions.tag_options(arguments.model.threads()))?;
    let progress = Progress::new(files.files.iter().map(|file| file.bytes).sum());
    let result = corpus::run(&tagger, &files.files, &arguments.output, &options, &|event| progress.observe(&event));
    let counts = progress.end();
    let summary = result?;
    for line in lines(&summary, &counts, tagger.model().activity().pieces) {
        report(&line);
    }
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The summary for reading.
fn lines(summary: &Summary, counts: &Counts, pieces: u64) -> [String; 2] {
    let seconds = counts.started.elapsed().as_secs_f64().max(f64::EPSILON);
    let Summary { files, documents, mentions, malformed, failed, .. } = summary;
    [
        format!(
            "{mentions} mentions in {documents} documents of {files} files; {} files failed, {malformed} malformed records passed over",
            failed.len()
        ),
        format!(
            "tagged {} documents now, {} files had been finished before; {seconds:.1} s, {:.1} documents/s, {:.0} word pieces/s",
            counts.documents,
            counts.finished_files,
            counts.documents as f64 / seconds,
            pieces as f64 / seconds
        ),
    ]
}

/// What was done so far.
struct Counts {
    started: Instant,
    last_report: Instant,
    finished_files: usize,
    documents: u64,
    /// Bytes that this run is to read, and those read.
    total: u64,
    read: u64,
}

/// A bar on standard error where that is a terminal, else a line now and then.
struct Progress {
    bar: ProgressBar,
    lines: bool,
    counts: Mutex<Counts>,
}

impl Progress {
    fn new(total: u64) -> Self {
        let lines = !io::stderr().is_terminal();
        let template = "{bar:30} {bytes} of {total_bytes}, {eta} left ({msg})";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if lines { ProgressBar::hidden() } else { ProgressBar::new(total).with_style(style) };
        let above = bar.clone();
        chemtag::on_warning(move |message| above.suspend(|| report(message)));
        let now = Instant::now();
        let counts = Counts { started: now, last_report: now, finished_files: 0, documents: 0, total, read: 0 };
        Self { bar, lines, counts: Mutex::new(counts) }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn observe(&self, event: &Event) {
        let mut counts = self.counts();
        match event {
            Event::Finished { files, bytes } => {
                counts.finished_files = *files;
                counts.total -= bytes;
                self.bar.set_length(counts.total);
            }
            Event::Read(bytes) => {
                counts.read += bytes;
                self.bar.set_position(counts.read);
            }
            Event::Tagged(documents) => {
                counts.documents += documents;
                let rate = counts.documents as f64 / counts.started.elapsed().as_secs_f64().max(f64::EPSILON);
                self.bar.set_message(format!("{} documents, {rate:.1}/s", counts.documents));
                if self.lines && counts.last_report.elapsed() >= REPORT_EVERY {
                    counts.last_report = Instant::now();
                    report(&counts.line(rate));
                }
            }
            Event::Malformed(error) | Event::Failed(error) => self.bar.suspend(|| report(&error.to_string())),
            _ => {}
        }
    }

    fn end(self) -> Counts {
        self.bar.finish_and_clear();
        self.counts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Counts {
    /// How far the run is, and how long the rest takes if it goes on like this.
    fn line(&self, rate: f64) -> String {
        let left = self.total.saturating_sub(self.read) as f64 / self.read.max(1) as f64;
        let left = self.started.elapsed().mul_f64(left.min(1e6));
        format!(
            "{} of {}, {} documents, {rate:.1}/s, {} left",
            HumanBytes(self.read),
            HumanBytes(self.total),
            self.documents,
            HumanDuration(left)
        )
    }
}
