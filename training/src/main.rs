//! `chemtag-train`: one command per stage of training.

mod commands;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use chemtag_training::error::{Error, Result};
use chemtag_training::recipe;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Trains and scores chemtag's models.
#[derive(Parser)]
#[command(name = "chemtag-train", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn annotated corpora into one data set file of piece ids and tags, to train where the corpora are not.
    Prepare(commands::prepare::Arguments),
    /// Learn a vocabulary of word pieces from text.
    Vocab(commands::vocab::Arguments),
    /// Make the encoder that pre-training begins with: of random weights, with another vocabulary, with more layers, wider.
    Start(commands::start::Arguments),
    /// Turn unlabelled text into one file of piece ids, to pre-train and distil where the text is not.
    PrepareText(commands::prepare_text::Arguments),
    /// Train an encoder further on unlabelled text, as a masked language model.
    Pretrain(commands::pretrain::Arguments),
    /// Fine-tune an encoder with a CRF and a class head on annotated corpora. What distillation takes as teachers is made so, too.
    #[command(visible_alias = "teacher")]
    Finetune(commands::finetune::Arguments),
    /// Write trained models' posteriors of unlabelled text to files, to distil several students from them.
    Label(commands::label::Arguments),
    /// Teach a small model the answers of trained ones on unlabelled text.
    Distill(commands::distill::Arguments),
    /// Score a model on an annotated corpus: strict spans.
    Evaluate(commands::evaluate::Arguments),
    /// Draw the devel F1 of several runs over a number by which they differ.
    Curve(commands::curve::Arguments),
    /// Find the temperature at which a model's posteriors mean what they say.
    Calibrate(commands::calibrate::Arguments),
    /// Write a trained model as it is published: only what taggers need, with its name, version and licence; or the mean of several.
    Export(commands::export::Arguments),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::CommandLine(error)) => error.exit(),
        Err(error) => {
            eprintln!("chemtag-train: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> Result<()> {
    let invocation = recipe::read(&Arguments::command(), arguments)?;
    if invocation.print {
        let printed = std::io::stdout().write_all(invocation.recipe.as_bytes());
        return printed.map_err(|e| Error::io("write", Path::new("standard output"), e));
    }
    match Arguments::from_arg_matches(&invocation.matches)?.command {
        Command::Prepare(arguments) => commands::prepare::run(&arguments),
        Command::Vocab(arguments) => commands::vocab::run(&arguments),
        Command::Start(arguments) => commands::start::run(&arguments),
        Command::PrepareText(arguments) => commands::prepare_text::run(&arguments),
        Command::Pretrain(arguments) => commands::pretrain::run(&arguments, invocation.recipe),
        Command::Finetune(arguments) => commands::finetune::run(&arguments, invocation.recipe),
        Command::Label(arguments) => commands::label::run(&arguments),
        Command::Distill(arguments) => commands::distill::run(&arguments, invocation.recipe),
        Command::Evaluate(arguments) => commands::evaluate::run(&arguments),
        Command::Curve(arguments) => commands::curve::run(&arguments),
        Command::Calibrate(arguments) => commands::calibrate::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> recipe::Invocation {
        let words: Vec<OsString> = ["chemtag-train"].iter().chain(words).map(OsString::from).collect();
        recipe::read(&Arguments::command(), &words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// Two arguments of one name, say, would fail only when their command is called.
    #[test]
    fn the_command_line_fits_together() {
        recipe::with_recipe_options(Arguments::command()).debug_assert();
    }

    #[test]
    fn the_printed_recipe_of_each_command_gives_the_same_settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("printed.toml");
        for command in Arguments::command().get_subcommands() {
            let printed = read(&[command.get_name(), "--print-recipe"]).recipe;
            printed.parse::<toml::Table>().unwrap();
            std::fs::write(&file, &printed).unwrap();
            let again = read(&[command.get_name(), "--recipe", file.to_str().unwrap(), "--print-recipe"]);
            assert_eq!(again.recipe, printed);
        }
        let required = ["pretrain", "--encoder", "e", "--text", "t", "--out", "o"];
        let recipe =
            read(&[&required[..], &["--learning-rate", "1e-5", "--seed", "18446744073709551615"]].concat()).recipe;
        std::fs::write(&file, &recipe).unwrap();
        let again = read(&["pretrain", "--recipe", file.to_str().unwrap()]);
        let Command::Pretrain(arguments) = Arguments::from_arg_matches(&again.matches).unwrap().command else {
            panic!("another command");
        };
        let expected =
            chemtag_training::pretrain::Settings { learning_rate: 1e-5, seed: u64::MAX, ..Default::default() };
        assert_eq!(arguments.settings, expected);
    }

    /// Each example's name begins with its command's.
    #[test]
    fn the_example_recipes_fit_their_commands() {
        let commands = Arguments::command();
        let commands: Vec<&str> = commands.get_subcommands().map(|command| command.get_name()).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut used = std::collections::BTreeSet::new();
        let entries = [folder.clone(), folder.join("chemtag-small")].map(|folder| std::fs::read_dir(folder).unwrap());
        let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let of = commands.iter().filter(|command| stem.starts_with(**command)).max_by_key(|command| command.len());
            let command = of.unwrap_or_else(|| panic!("{stem} is no command"));
            let invocation = read(&[command, "--recipe", path.to_str().unwrap()]);
            Arguments::from_arg_matches(&invocation.matches).unwrap();
            used.insert(*command);
        }
        assert_eq!(used.len(), commands.len(), "a command has no example: {used:?} of {commands:?}");
    }
}
