//! `chemtag-train`: one command per stage of training.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Make the encoder that pre-training begins with: of random weights, with another vocabulary, with more layers.
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
    /// Score a model, or several together, on an annotated corpus: strict spans.
    Evaluate(commands::evaluate::Arguments),
    /// Write a trained model as it is published: only what taggers need, with its name, version and licence; or the mean of several.
    Export(commands::export::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Prepare(arguments) => commands::prepare::run(&arguments),
        Command::Vocab(arguments) => commands::vocab::run(&arguments),
        Command::Start(arguments) => commands::start::run(&arguments),
        Command::PrepareText(arguments) => commands::prepare_text::run(&arguments),
        Command::Pretrain(arguments) => commands::pretrain::run(&arguments),
        Command::Finetune(arguments) => commands::finetune::run(&arguments),
        Command::Label(arguments) => commands::label::run(&arguments),
        Command::Distill(arguments) => commands::distill::run(&arguments),
        Command::Evaluate(arguments) => commands::evaluate::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chemtag-train: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// Two arguments of one name, say, would fail only when their command is called.
    #[test]
    fn the_command_line_fits_together() {
        super::Arguments::command().debug_assert();
    }
}
