//! The command line's arguments -> the library's calls, its answers on standard output, messages on standard error, an exit code.
//! One file for each command; what they write is defined in docs/formats.md.

mod bench;
mod info;
mod input;
#[cfg(feature = "hub")]
mod models;
mod progress;
mod reading;
mod run;
mod shell;
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
    /// Writes a table where standard output is a terminal, else JSON Lines: one record for each document.
    ///
    /// Exit code: 0 if all inputs were tagged, 1 if an input or the model could not be read, 2 for a wrong command line or a record that
    /// is not what its format says.
    Tag(tag::Arguments),
    /// Tag a corpus: files, folders and patterns into a folder of results, one for each file.
    ///
    /// A run that was ended goes on where it was, if it is started again with the same arguments, and comes to the same files.
    ///
    /// Exit code: 0 if every file was tagged, 1 if a file failed or the run could not go on, 2 for a wrong command line.
    Run(run::Arguments),
    /// Describe the model and the engine that runs it.
    Info(info::Arguments),
    /// Models fetched from Hugging Face's hub or another site.
    #[cfg(feature = "hub")]
    Models(models::Arguments),
    /// Measure how fast this machine tags with the model: single sequences, sentences, and whole text.
    Bench(bench::Arguments),
    /// Write completions for a shell to standard output.
    ///
    /// bash: chemtag completions bash > ~/.local/share/bash-completion/completions/chemtag
    Completions(shell::CompletionArguments),
    /// Write the manual's page.
    Man(shell::ManArguments),
}

/// Which model, and what runs it.
#[derive(Args)]
struct ModelArguments {
    /// Folder that holds config.json, tokenizer.json and model.safetensors, or one self-contained .safetensors file, or one elsewhere,
    /// hf://OWNER/NAME or https://… [default: the model inside this program, if it has one].
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
        Command::Run(arguments) => run::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        #[cfg(feature = "hub")]
        Command::Models(arguments) => models::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments),
        Command::Man(arguments) => shell::man(&arguments),
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
