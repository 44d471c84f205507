//! `chemtag tag`: files or standard input -> one record or one table for each, in order.
//! Small files share batches; a long one is tagged alone, in portions, so that the bar moves.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chemtag::{Activity, Entity, TagOptions, Tagger};
use clap::{Args, CommandFactory, ValueEnum, error::ErrorKind};

use super::document::{Document, is_standard_input};
use super::progress::Progress;
use super::record::{OffsetUnit, Record};
use super::table::Table;
use super::{Failure, ModelArguments};

/// Files are gathered until they hold this many bytes of text: some hundred batches, so that the last, partly filled one costs little.
const GROUP_BYTES: usize = 1 << 20;
/// For a GPU, whose batches are larger: a second's work.
const GROUP_BYTES_OF_GPU: usize = 16 << 20;

/// Arguments of `chemtag tag`.
#[derive(Args)]
pub struct Arguments {
    /// Text files in UTF-8; - is standard input, which is also read if no file is named.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Find all mentions whose probability is at least P (above 0, at most 1): a low P finds more than the model's single best
    /// reading holds, a high one less [default: the best reading].
    #[arg(long, value_name = "P", value_parser = threshold)]
    threshold: Option<f32>,
    /// Read every sentence alone instead of with its neighbours. Slightly less precise.
    #[arg(long)]
    sentences: bool,
    /// Form of the output [default: table on a terminal, else jsonl].
    #[arg(long, value_name = "FORM")]
    to: Option<Form>,
    /// What offsets count.
    #[arg(long, value_name = "UNIT", default_value = "chars")]
    offsets: OffsetUnit,
    /// Replace bytes that are not UTF-8 by U+FFFD instead of refusing the file; offsets then count in the replaced text.
    #[arg(long)]
    lossy: bool,
    /// No colours in tables. The environment variable NO_COLOR does the same.
    #[arg(long)]
    no_color: bool,
    /// Say on standard error what computes, and at the end how fast it was and which part of it took the time.
    #[arg(long)]
    verbose: bool,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For reading: the lines with mentions, highlighted, and a table.
    Table,
    /// JSON Lines: one record for each input.
    Jsonl,
}

fn threshold(argument: &str) -> Result<f32, String> {
    match argument.parse() {
        Ok(threshold) if threshold > 0.0 && threshold <= 1.0 => Ok(threshold),
        _ => Err("expected a number above 0 and at most 1".into()),
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut paths = arguments.files.clone();
    if paths.is_empty() {
        paths.push("-".into());
    }
    if paths.iter().filter(|path| is_standard_input(path)).count() > 1 {
        let mut command = super::Arguments::command();
        command.error(ErrorKind::ArgumentConflict, "- is named twice, but standard input can be read only once").exit();
    }
    let options = TagOptions {
        threshold: arguments.threshold,
        threads: arguments.model.threads(),
        lone_sentences: arguments.sentences,
        ..TagOptions::default()
    };
    let tagger = Tagger::load_with(arguments.model.source(), arguments.model.load_options())?.with_options(options)?;
    let engine = tagger.model().backend().describe();
    let most_bytes = if tagger.model().backend().takes_turns() { GROUP_BYTES_OF_GPU } else { GROUP_BYTES };
    let progress = Progress::new(&paths, &engine);
    if arguments.verbose {
        progress.report(&engine);
    }
    let started = Instant::now();
    let mut output = Output::new(arguments, &tagger);
    let mut unreadable = false;
    let mut group = Vec::new();
    let mut group_bytes = 0;
    for path in &paths {
        let document = match Document::read(path, arguments.lossy) {
            Ok(document) => document,
            Err(message) => {
                progress.report(&message);
                unreadable = true;
                continue;
            }
        };
        if document.body().len() >= GROUP_BYTES {
            tag_group(&tagger, &std::mem::take(&mut group), &mut output, &progress)?;
            tag_long(&tagger, &document, &mut output, &progress)?;
            group_bytes = 0;
        } else {
            group_bytes += document.body().len();
            group.push(document);
            if group_bytes >= most_bytes {
                tag_group(&tagger, &std::mem::take(&mut group), &mut output, &progress)?;
                group_bytes = 0;
            }
        }
    }
    tag_group(&tagger, &group, &mut output, &progress)?;
    if arguments.verbose {
        progress.report(&speed(tagger.model().activity(), started.elapsed().as_secs_f64()));
    }
    Ok(if unreadable { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What was done in so many seconds.
fn speed(activity: Activity, seconds: f64) -> String {
    let share = |time: Duration| time.as_secs_f64() / seconds.max(f64::EPSILON);
    format!(
        "{} word pieces in {seconds:.3} s, {:.0} a second; the encoder worked for {:.0} % of the time, {:.2} threads on the text, {:.2} on decoding",
        activity.pieces,
        activity.pieces as f64 / seconds.max(f64::EPSILON),
        100. * share(activity.encoder),
        share(activity.text),
        share(activity.decoding)
    )
}

fn tag_group(tagger: &Tagger, group: &[Document], output: &mut Output, progress: &Progress) -> Result<(), Failure> {
    let texts: Vec<&str> = group.iter().map(Document::body).collect();
    let found = tagger.tag_batch(&texts)?;
    progress.advance(group.iter().map(|document| document.text().len()).sum());
    for (document, entities) in group.iter().zip(&found) {
        output.write(document, entities)?;
    }
    Ok(())
}

/// Reads the text from memory as a stream: the same entities, but what waits for its batch stays small and progress shows.
fn tag_long(tagger: &Tagger, document: &Document, output: &mut Output, progress: &Progress) -> Result<(), Failure> {
    let reader = progress.counting(document.body().as_bytes());
    let entities: Vec<Entity> = tagger.tag_reader(reader).collect::<chemtag::Result<_>>()?;
    output.write(document, &entities)?;
    Ok(())
}

/// Standard output in the form asked for.
struct Output<'m> {
    out: BufWriter<io::StdoutLock<'static>>,
    unit: OffsetUnit,
    /// `None`: JSON Lines.
    table: Option<Table<'m>>,
}

impl<'m> Output<'m> {
    fn new(arguments: &Arguments, tagger: &'m Tagger) -> Self {
        let out = io::stdout().lock();
        let form = arguments.to.unwrap_or(if out.is_terminal() { Form::Table } else { Form::Jsonl });
        let classes = &tagger.model().config().tagger.classes;
        let table = (form == Form::Table).then(|| Table::for_standard_output(classes, arguments.no_color));
        Self { out: BufWriter::new(out), unit: arguments.offsets, table }
    }

    /// Writes what was found in a document, all of it: whoever reads gets each record as soon as it is there.
    fn write(&mut self, document: &Document, entities: &[Entity]) -> io::Result<()> {
        let record = Record::new(document, entities, self.unit);
        match &mut self.table {
            Some(table) => table.write(&mut self.out, document, entities, &record)?,
            None => record.write_json(&mut self.out)?,
        }
        self.out.flush()
    }
}
