//! A command line and the TOML file that it names by `--recipe` -> the options in force: keys of the file become arguments before the user's own.
//! A setting is defined once, at its clap argument: names, types, defaults and help are read from there, and clap's parsers check the values.
//! The format is TOML 1.0 (toml.io), with one key for each long option.

mod listing;

use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// Ids of the options that every command has beside its own.
const RECIPE: &str = "recipe";
const PRINT_RECIPE: &str = "print_recipe";
/// Names less like each other than this are no misspellings of each other (clap's own measure and bound).
const ALIKE: f64 = 0.7;

/// What a command line and its recipe ask for.
pub struct Invocation {
    /// The options in force.
    pub matches: ArgMatches,
    /// The same as a recipe, in which each has its help beside it.
    pub recipe: String,
    /// Whether the recipe is to be printed and nothing else done.
    pub print: bool,
}

/// Reads a command line, the program's name first. `command` has one subcommand for each thing to do and no options of its own.
///
/// An option of the command line takes the place of the recipe's, a list as a whole; options that exclude it leave the recipe, too.
///
/// ```
/// use chemtag_training::recipe;
/// use clap::{Arg, Command, value_parser};
///
/// let steps = Arg::new("steps").long("steps").default_value("10").value_parser(value_parser!(u32)).help("How many.");
/// let command = Command::new("program").subcommand(Command::new("walk").arg(steps));
/// let invocation = recipe::read(&command, &["program", "walk", "--steps", "3"].map(Into::into))?;
/// assert!(invocation.recipe.ends_with("# How many.\nsteps = 3\n"));
/// # Ok::<_, chemtag_training::error::Error>(())
/// ```
///
/// # Errors
/// [`Error::CommandLine`] for what clap refuses, help included; [`Error::Recipe`] if the file has an unknown key or a value that its option
/// does not take.
pub fn read(command: &Command, arguments: &[OsString]) -> Result<Invocation> {
    let command = with_recipe_options(command.clone());
    // What the user gave, whether or not it is enough by itself; what is wrong with it is told below.
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(arguments);
    let asked = lenient.as_ref().ok().and_then(|matches| matches.subcommand());
    let mut built = command.clone();
    built.build();
    let known = asked.and_then(|(name, given)| Some((built.find_subcommand(name)?, given)));
    let Some((subcommand, given)) = known else {
        return Err(match command.try_get_matches_from(arguments) {
            Err(error) => error.into(),
            Ok(_) => Error::Setting("the command line names no command".into()),
        });
    };

    let path = given.try_get_one::<PathBuf>(RECIPE).ok().flatten();
    let entries = match path {
        Some(path) => entries(path, subcommand, given)?,
        None => Vec::new(),
    };
    // No flag has a value where clap gave up early.
    let print = given.try_get_one::<bool>(PRINT_RECIPE).ok().flatten() == Some(&true);
    // A recipe is often printed to be filled in.
    let command = match print {
        true => command.mut_subcommand(subcommand.get_name(), |s| s.mut_args(|argument| argument.required(false))),
        false => command,
    };
    let (before, after) = arguments.split_at(arguments.len().min(2));
    let all = before.iter().chain(entries.iter().flat_map(|entry| &entry.arguments)).chain(after);
    let matches = command.try_get_matches_from(all).map_err(|error| match path {
        Some(path) => explain(error, path, &entries),
        None => error.into(),
    })?;
    let (_, options) =
        matches.subcommand().ok_or_else(|| Error::Setting("the command line names no command".into()))?;
    Ok(Invocation { recipe: listing::listing(subcommand, options)?, print, matches })
}

/// The command with `--recipe` and `--print-recipe` for each of its subcommands.
pub fn with_recipe_options(command: Command) -> Command {
    let recipe = Arg::new(RECIPE)
        .long("recipe")
        .value_name("FILE.toml")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Read options from this file: learning_rate = 2e-4 for --learning-rate 2e-4. Those given here take their place.");
    let print = Arg::new(PRINT_RECIPE)
        .long("print-recipe")
        .action(ArgAction::SetTrue)
        .help("Print all options as a recipe, with their help, and do nothing else.");
    command.mut_subcommands(|command| command.arg(recipe.clone()).arg(print.clone()))
}

/// What a recipe says of one option.
struct Entry {
    key: String,
    line: usize,
    /// `--option=value`, several for a list.
    arguments: Vec<OsString>,
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Number { whole: bool },
    Text,
}

impl Kind {
    fn of(argument: &Arg) -> Self {
        if !argument.get_action().takes_values() {
            return Self::Flag;
        }
        let id = argument.get_value_parser().type_id();
        let whole = [
            TypeId::of::<u8>(),
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
            TypeId::of::<i64>(),
        ];
        match () {
            () if whole.iter().any(|number| id == *number) => Self::Number { whole: true },
            () if id == TypeId::of::<f32>() || id == TypeId::of::<f64>() => Self::Number { whole: false },
            () => Self::Text,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Number { whole: true } => "a whole number",
            Self::Number { whole: false } => "a number",
            Self::Text => "a string",
        }
    }
}

/// Options that a recipe may set, each with its key.
fn settings(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let own = |argument: &&Arg| !["help", "version", RECIPE, PRINT_RECIPE].contains(&argument.get_id().as_str());
    command.get_arguments().filter(own).map(|argument| (argument.get_id().as_str(), argument))
}

/// Whether an option may be given several times.
fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// Whether two options cannot be given together. clap knows it of the one that says so.
fn exclude(command: &Command, one: &Arg, other: &Arg) -> bool {
    let says =
        |one: &Arg, other: &Arg| command.get_arg_conflicts_with(one).iter().any(|a| a.get_id() == other.get_id());
    says(one, other) || says(other, one)
}

/// Whether the user, not a default, says what an option is.
fn is_given(matches: &ArgMatches, argument: &Arg) -> bool {
    matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
}

/// The entries of a recipe that the command line leaves in force, in the order of the file.
fn entries(path: &Path, command: &Command, given: &ArgMatches) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let line_of = |byte: usize| 1 + text.bytes().take(byte).filter(|&b| b == b'\n').count();
    let refused = |line: usize, reason: String| Error::Recipe { path: path.into(), line, reason };
    let table = DeTable::parse(&text).map_err(|e| {
        refused(e.span().map_or(1, |span| line_of(span.start)), format!("is not TOML: {}", e.message()))
    })?;

    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(key.span().start);
        let key = key.get_ref().as_ref();
        let Some((_, argument)) = settings(command).find(|(known, _)| *known == key) else {
            return Err(refused(line, unknown(key, command)));
        };
        let arguments =
            arguments(argument, value.get_ref()).map_err(|reason| refused(line, format!("{key}: {reason}")))?;
        let replaced = |other: &Arg| other.get_id() == argument.get_id() || exclude(command, argument, other);
        if !settings(command).any(|(_, other)| is_given(given, other) && replaced(other)) {
            entries.push(Entry { key: key.into(), line, arguments });
        }
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

/// What to say of a key that no option has.
fn unknown(key: &str, command: &Command) -> String {
    let alike = settings(command).map(|(known, _)| (strsim::jaro(key, known), known));
    let nearest = alike.filter(|(alike, _)| *alike > ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((_, known)) => format!("unknown key \"{key}\"; did you mean \"{known}\"?"),
        None => format!(
            "unknown key \"{key}\"; `chemtag-train {} --print-recipe` prints those that there are",
            command.get_name()
        ),
    }
}

/// A value as arguments, or what is wrong with it.
fn arguments(argument: &Arg, value: &DeValue) -> Result<Vec<OsString>, String> {
    let option = argument.get_long().unwrap_or_default();
    let kind = Kind::of(argument);
    let one = |value: &DeValue| -> Result<OsString, String> {
        let text = match (kind, value) {
            (Kind::Text, DeValue::String(text)) => text.to_string(),
            (Kind::Number { .. }, DeValue::Integer(number)) => i128::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("{number} is no number"))?
                .to_string(),
            (Kind::Number { .. }, DeValue::Float(number)) => number.as_str().into(),
            _ => return Err(format!("expected {}, found {}", kind.expected(), found(value))),
        };
        Ok(format!("--{option}={text}").into())
    };
    match (kind, value) {
        (Kind::Flag, DeValue::Boolean(false)) => Ok(Vec::new()),
        (Kind::Flag, DeValue::Boolean(true)) => Ok(vec![format!("--{option}").into()]),
        (Kind::Flag, other) => Err(format!("expected true or false, found {}", found(other))),
        (_, DeValue::Array(values)) if is_list(argument) => values.iter().map(|value| one(value.get_ref())).collect(),
        (_, value) => Ok(vec![one(value)?]),
    }
}

/// A value as messages name it.
fn found(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date or time".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// clap's error about a value that the recipe gave, by key and line; any other as it is.
fn explain(error: clap::Error, path: &Path, entries: &[Entry]) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // "--name <VALUE>" or "--name <VALUE>...".
    let option = text(ContextKind::InvalidArg).and_then(|argument| argument.split(' ').next());
    let of_option = |entry: &&Entry| Some(entry.key.as_str()) == option.map(|o| o[2..].replace('-', "_")).as_deref();
    let Some(entry) = entries.iter().find(of_option) else { return error.into() };
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let reason = match (error.kind(), error.get(ContextKind::ValidValue), std::error::Error::source(&error)) {
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(valid)), _) => format!("is none of {}", valid.join(", ")),
        (ErrorKind::ValueValidation, _, Some(source)) => format!("is refused: {source}"),
        _ => return error.into(),
    };
    Error::Recipe { path: path.into(), line: entry.line, reason: format!("{}: \"{value}\" {reason}", entry.key) }
}

#[cfg(test)]
mod tests;
