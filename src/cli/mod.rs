//! The command line's arguments -> the library's calls, its answers on standard output, messages on standard error, an exit code.
//! One file for each command; what they write is defined in docs/formats.md.

mod bench;
mod document;
mod info;
mod progress;
mod record;
mod table;
mod tag;
mod terminal;

use std::io::{self, ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use chemtag::{Device, Error, LoadOptions, ModelSource};
use clap::{Args, Parser, Subcommand};

/// Finds the names of chemicals in scientific text.
#[derive(Parser)]
#[command(name = "chemtag", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tag files or standard input.
    ///
    /// Writes a table where standard output is a terminal, else JSON Lines: one record for each input.
    ///
    /// Exit code: 0 if all inputs were tagged, 1 if an input or the model could not be read, 2 for a wrong command line.
    Tag(tag::Arguments),
    /// Describe the model and the engine that runs it.
    Info(info::Arguments),
    /// Measure how fast this machine tags with the model: single sequences, sentences, and whole text.
    Bench(bench::Arguments),
}

/// Which model, and what runs it.
#[derive(Args)]
struct ModelArguments {
    /// Folder that holds config.json, tokenizer.json and model.safetensors, or one self-contained .safetensors file [default: the model inside
    /// this program, if it has one].
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:NUMBER. auto is the first GPU if there is one.
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Auto)]
    device: Device,
    /// Threads on the CPU [default: one for each core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl ModelArguments {
    fn source(&self) -> ModelSource {
        match &self.model {
            Some(folder) => folder.into(),
            None => ModelSource::Embedded,
        }
    }

    fn load_options(&self) -> LoadOptions {
        LoadOptions { device: self.device, ..LoadOptions::default() }
    }

    fn threads(&self) -> Option<usize> {
        self.threads.map(NonZeroUsize::get)
    }
}

/// What ends a command before its work is done.
enum Failure {
    /// The model or the tagger.
    Library(Error),
    /// Standard output.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Library(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    chemtag::on_warning(report);
    let result = match Arguments::parse().command {
        Command::Tag(arguments) => tag::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(code) => code,
        // Whoever reads has had enough, as `head` after its lines: nothing went wrong.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            report(&format!("cannot write the output: {error}"));
            ExitCode::FAILURE
        }
        Err(Failure::Library(error)) => {
            report(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Writes a message to standard error, on one line and safe for a terminal.
fn report(message: &str) {
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "chemtag: {}", terminal::visible(message));
}
