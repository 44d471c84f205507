//! Options of reading a document as a whole -> what the library is to read ([`Reading`]).

use std::path::PathBuf;
use std::sync::Arc;

use chemtag::reading::{Lexicon, Reading};
use clap::Args;

use super::input::probability;

/// What is read from a document beyond its mentions.
#[derive(Args)]
pub struct ReadingArguments {
    /// Link abbreviations with the names that the document defines them by: tetrahydrofuran (THF).
    #[arg(long, help_heading = "Reading")]
    abbreviations: bool,
    /// Find names again elsewhere in the document that were found with a probability of at least P.
    #[arg(long, value_name = "P", num_args = 0..=1, require_equals = true, default_missing_value = "0.9", value_parser = probability, help_heading = "Reading")]
    repeat: Option<f32>,
    /// Give each mention its normalised name, and the same number to all mentions of one name.
    #[arg(long, help_heading = "Reading")]
    groups: bool,
    /// Read formulas to elements and amounts.
    #[arg(long, help_heading = "Reading")]
    formulas: bool,
    /// Look names up in a table: NAME, a tab and IDENTIFIER on each line.
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    lexicon: Option<PathBuf>,
}

impl ReadingArguments {
    /// What they ask for.
    ///
    /// # Errors
    /// If the lexicon cannot be read.
    pub fn reading(&self) -> chemtag::Result<Reading> {
        Ok(Reading {
            abbreviations: self.abbreviations,
            repetition: self.repeat,
            groups: self.groups,
            formulas: self.formulas,
            lexicon: self.lexicon.as_deref().map(Lexicon::read).transpose()?.map(Arc::new),
        })
    }
}
