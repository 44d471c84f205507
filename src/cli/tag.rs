//! `chemtag tag`: documents of files or of standard input -> one record or one table for each, in order.
//! Small documents share batches; a long one is tagged alone, in portions, so that the bar moves.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chemtag::format::{self, Document, Format, OffsetUnit, Record, WriteOptions, Writer};
use chemtag::reading::{Note, Reading};
use chemtag::{Activity, Entity, Error, Tagger};
use clap::{Args, CommandFactory, error::ErrorKind};

use super::input::{InputArguments, MentionArguments, expected};
use super::progress::Progress;
use super::reading::ReadingArguments;
use super::table::Table;
use super::{Failure, ModelArguments};

/// Files are gathered until they hold this many bytes of text: some hundred batches, so that the last, partly filled one costs little.
const GROUP_BYTES: usize = 1 << 20;
/// For a GPU, whose batches are larger: a second's work.
const GROUP_BYTES_OF_GPU: usize = 16 << 20;

/// And so many documents, however short: what waits for a batch stays small.
const GROUP_DOCUMENTS: usize = 4096;
/// What `--to` calls the form for reading, which is no file format.
const TABLE: &str = "table";

/// Arguments of `chemtag tag`.
#[derive(Args)]
pub struct Arguments {
    /// Files, compressed by gzip or Zstandard or not; - is standard input, which is also read if no file is named.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    mentions: MentionArguments,
    #[command(flatten)]
    reading: ReadingArguments,
    /// Form of the output: table, jsonl, csv, tsv, conll, brat, bioc-xml, bioc-json, pubtator or html [default: table on a terminal, what the
    /// output's name says, else jsonl].
    #[arg(long, value_name = "FORMAT")]
    to: Option<Form>,
    /// Write to this file, which appears when it is whole, instead of standard output; compressed if its name ends in .gz; a folder for brat.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What offsets count in jsonl, csv and tsv: chars, bytes or utf16.
    #[arg(long, value_name = "UNIT", default_value = "chars")]
    offsets: OffsetUnit,
    /// No colours in tables. The environment variable NO_COLOR does the same.
    #[arg(long)]
    no_color: bool,
    /// Say on standard error what computes, and at the end how fast it was and which part of it took the time.
    #[arg(long)]
    verbose: bool,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// For reading: the lines with mentions, highlighted, and a table.
    Table,
    /// A file format.
    File(Format),
}

impl FromStr for Form {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let format = Format::from_str(name).ok().filter(|format| format.is_written());
        match format {
            _ if name == TABLE => Ok(Form::Table),
            Some(format) => Ok(Form::File(format)),
            None => Err(expected([TABLE].into_iter().chain(Format::written_names()))),
        }
    }
}

/// Whether a name on the command line stands for standard input.
pub fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == format::STANDARD_INPUT
}

impl Arguments {
    /// Where the output goes, and in which form; ends the program with code 2 if that is contradictory.
    fn form(&self) -> Form {
        let refuse =
            |message: &str| -> ! { super::Arguments::command().error(ErrorKind::ArgumentConflict, message).exit() };
        match (self.to, &self.output) {
            (Some(Form::Table), Some(_)) => {
                refuse("the table is for reading on standard output: name another form with --to")
            }
            (Some(form), _) => form,
            (None, None) if io::stdout().is_terminal() => Form::Table,
            (None, None) => Form::File(Format::JsonLines),
            (None, Some(path)) => match Format::of_path(path).filter(|format| format.is_written()) {
                Some(format) => Form::File(format),
                None => refuse("the output's name says no format: name it with --to"),
            },
        }
    }

    fn documents(&self, path: &Path) -> chemtag::Result<format::Documents> {
        let (options, from) = (self.input.read_options(), self.input.from);
        if is_standard_input(path) {
            return format::reader(io::stdin(), format::STANDARD_INPUT, from.unwrap_or(Format::Text), &options);
        }
        format::open(path, from, &options)
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut paths = arguments.files.clone();
    if paths.is_empty() {
        paths.push(format::STANDARD_INPUT.into());
    }
    if paths.iter().filter(|path| is_standard_input(path)).count() > 1 {
        let mut command = super::Arguments::command();
        command.error(ErrorKind::ArgumentConflict, "- is named twice, but standard input can be read only once").exit();
    }
    let form = arguments.form();
    let options = arguments.mentions.tag_options(arguments.model.threads());
    let reading = arguments.reading.reading()?;
    let tagger = Tagger::load_with(arguments.model.source(), arguments.model.load_options())?.with_options(options)?;
    let engine = tagger.model().backend().describe();
    let progress = Progress::new(&paths, arguments.input.from, &engine);
    if arguments.verbose {
        progress.report(&engine);
    }
    let started = Instant::now();
    let output = Output::new(arguments, form, &tagger)?;
    let mut run = Run { tagger: &tagger, reading, output, progress: &progress, group: Vec::new(), group_bytes: 0 };
    let (mut unreadable, mut malformed) = (false, 0usize);
    'inputs: for path in &paths {
        let documents = match arguments.documents(path) {
            Ok(documents) => documents,
            Err(error) => {
                progress.report(&error.to_string());
                unreadable = true;
                continue;
            }
        };
        for document in documents {
            match document {
                Ok(document) => run.take(document)?,
                Err(error) => {
                    progress.report(&error.to_string());
                    if !matches!(error, Error::Malformed { .. }) {
                        unreadable = true;
                        continue;
                    }
                    malformed += 1;
                    if !arguments.input.keep_going {
                        break 'inputs;
                    }
                }
            }
        }
    }
    run.tag_group()?;
    let stopped = malformed > 0 && !arguments.input.keep_going;
    // A file that lacks records does not get its name; what was written to standard output was complete records.
    if !(stopped && arguments.output.is_some()) {
        run.output.finish()?;
    }
    if malformed > 0 && arguments.input.keep_going {
        progress.report(&format!(
            "passed over {malformed} malformed {}",
            if malformed == 1 { "record" } else { "records" }
        ));
    }
    if arguments.verbose {
        progress.report(&speed(tagger.model().activity(), started.elapsed().as_secs_f64()));
    }
    Ok(match (stopped, unreadable) {
        (true, _) => ExitCode::from(2),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
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

/// What documents go through.
struct Run<'r, 'm> {
    tagger: &'m Tagger,
    reading: Reading,
    output: Output<'m>,
    progress: &'r Progress,
    /// Documents that wait to share batches.
    group: Vec<Document>,
    group_bytes: usize,
}

impl Run<'_, '_> {
    fn take(&mut self, document: Document) -> Result<(), Failure> {
        let most_bytes = if self.tagger.model().backend().takes_turns() { GROUP_BYTES_OF_GPU } else { GROUP_BYTES };
        let bytes = document.text.len();
        if document.is_long() {
            self.tag_group()?;
            return self.tag_long(&document);
        }
        self.group_bytes += bytes;
        self.group.push(document);
        if self.group_bytes >= most_bytes || self.group.len() >= GROUP_DOCUMENTS {
            self.tag_group()?;
        }
        Ok(())
    }

    fn tag_group(&mut self) -> Result<(), Failure> {
        self.group_bytes = 0;
        let group = std::mem::take(&mut self.group);
        let documents: Vec<&Document> = group.iter().collect();
        let found = self.tagger.tag_documents(&documents)?;
        self.progress.advance(group.iter().map(|document| document.text.len()).sum());
        for (document, entities) in documents.into_iter().zip(found) {
            self.write(document, entities)?;
        }
        Ok(())
    }

    /// Reads the text from memory as a stream: the same entities, but what waits for its batch stays small and progress shows.
    fn tag_long(&mut self, document: &Document) -> Result<(), Failure> {
        let entities = self.tagger.tag_long_document(document, |bytes| self.progress.advance(bytes))?;
        self.write(document, entities)
    }

    fn write<'t>(&mut self, document: &'t Document, entities: Vec<Entity<'t>>) -> Result<(), Failure> {
        let (entities, notes) = self.reading.read(document, entities);
        Ok(self.output.write(document, &entities, &notes)?)
    }
}

/// Standard output or a file, in the form asked for.
enum Output<'m> {
    Table { out: BufWriter<io::StdoutLock<'static>>, unit: OffsetUnit, table: Table<'m> },
    File(Box<dyn Writer>),
}

impl<'m> Output<'m> {
    fn new(arguments: &Arguments, form: Form, tagger: &'m Tagger) -> Result<Self, Error> {
        let options = WriteOptions { offsets: arguments.offsets };
        let out = BufWriter::new(io::stdout().lock());
        Ok(match (form, &arguments.output) {
            (Form::File(format), None) => Output::File(format::writer(format, out, options)?),
            (Form::File(format), Some(path)) => Output::File(format::create(path, format, options)?),
            (Form::Table, _) => {
                let classes = &tagger.model().config().tagger.classes;
                let table = Table::for_standard_output(classes, arguments.no_color);
                Output::Table { out, unit: arguments.offsets, table }
            }
        })
    }

    /// Writes what was found in a document, all of it: whoever reads gets each record as soon as it is there.
    fn write(&mut self, document: &Document, entities: &[Entity], notes: &[Note]) -> io::Result<()> {
        match self {
            Output::File(writer) => writer.write(document, entities, notes),
            Output::Table { out, unit, table } => {
                table.write(out, document, entities, &Record::new(document, entities, notes, *unit))?;
                out.flush()
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Output::File(writer) => writer.finish(),
            Output::Table { out, .. } => out.flush(),
        }
    }
}
