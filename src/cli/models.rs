//! `chemtag models`: models that were fetched from a hub or another site and are kept on this machine: fetch, list, check, remove.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use chemtag::hub::{Address, Hub, KeptModel};
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::terminal::visible;
use super::{Failure, report};

/// Arguments of `chemtag models`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the models that are kept, and the folder in which they are.
    List,
    /// Fetch a model and print its path: hf://OWNER/NAME[@REVISION][/FILE] or https://…/FILE.safetensors, with #sha256=HEX behind it if wanted.
    Get {
        /// Where the model is.
        #[arg(value_name = "ADDRESS")]
        address: Address,
    },
    /// Remove a model that is kept.
    Rm {
        /// Where it was fetched from.
        #[arg(value_name = "ADDRESS")]
        address: Address,
    },
    /// Read all files that are kept and compare their SHA-256 with what was fetched; exit code 1 if one differs.
    Verify,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let hub = Hub::from_environment()?;
    let mut out = io::stdout().lock();
    match &arguments.command {
        Command::List => {
            let models = hub.list()?;
            for model in &models {
                write_model(&mut out, model)?;
            }
            if models.is_empty() {
                report(&format!("no models are kept in {}", hub.cache().display()));
            }
        }
        Command::Get { address } => {
            let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
            let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            let source = hub.fetch(address, &mut |done, total| {
                bar.set_length(total.unwrap_or(done));
                bar.set_position(done);
                Ok(())
            })?;
            bar.finish_and_clear();
            writeln!(out, "{}", visible(&source.to_string()))?;
        }
        Command::Rm { address } => {
            if !hub.remove(address)? {
                report(&format!("{address} is not kept in {}", hub.cache().display()));
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Verify => {
            let mut whole = true;
            for model in hub.list()? {
                for file in model.verify()? {
                    whole = false;
                    report(&format!(
                        "{}: {file} is missing or not what was fetched: chemtag models rm {0}, then fetch it again",
                        model.address
                    ));
                }
            }
            return Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_model(out: &mut impl Write, model: &KeptModel) -> io::Result<()> {
    writeln!(out, "{}  {}", visible(&model.address), visible(&model.folder.display().to_string()))?;
    for (name, file) in &model.files {
        writeln!(out, "  {:>10}  {}  {}", HumanBytes(file.bytes).to_string(), file.sha256, visible(name))?;
    }
    Ok(())
}
