//! `chemtag completions` and `chemtag man`: what a shell and `man` know of the command line, made from its definition.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Failure;

/// Arguments of `chemtag completions`.
#[derive(Args)]
pub struct CompletionArguments {
    /// bash, elvish, fish, powershell or zsh.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Arguments of `chemtag man`.
#[derive(Args)]
pub struct ManArguments {
    /// Write a page for chemtag and one for each of its commands into this folder, instead of chemtag's own to standard output.
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Writes a shell's completions to standard output.
pub fn completions(arguments: &CompletionArguments) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    let mut command = super::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, env!("CARGO_PKG_NAME"), &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes pages of the manual.
pub fn man(arguments: &ManArguments) -> Result<ExitCode, Failure> {
    let command = super::Arguments::command();
    match &arguments.output {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(command, folder)?;
        }
        None => clap_mangen::Man::new(command).render(&mut io::stdout().lock())?,
    }
    Ok(ExitCode::SUCCESS)
}
