//! The options in force -> a recipe that gives them again: every option with its help as a comment, its value, and those without one commented out.

use clap::{Arg, ArgMatches, Command};

use super::{Kind, exclude, is_given, is_list, settings};
use crate::error::{Error, Result};

/// Columns of a comment.
const WIDTH: usize = 100;

/// The recipe of a command's options, `command` built.
pub(super) fn listing(command: &Command, matches: &ArgMatches) -> Result<String> {
    let name = command.get_name();
    let mut text = format!(
        "# chemtag-train {name} --recipe FILE.toml\n# Paths are relative to the folder in which the command is called. Options of the command line take the place of these.\n"
    );
    for (key, argument) in settings(command) {
        text.push('\n');
        comment(&help(argument), &mut text);
        let value = value(argument, matches)?;
        // Of options that exclude each other, only what was given.
        let excluded = || settings(command).any(|(_, other)| exclude(command, argument, other));
        match value {
            Some(value) if is_given(matches, argument) || !excluded() => text.push_str(&format!("{key} = {value}\n")),
            Some(value) => text.push_str(&format!("# {key} = {value}\n")),
            None => text.push_str(&format!("# {key} = {}\n", placeholder(argument))),
        }
    }
    Ok(text)
}

/// What an option's comment says.
fn help(argument: &Arg) -> String {
    let mut help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    if argument.get_action().takes_values() {
        let names: Vec<String> = argument.get_possible_values().iter().map(|value| value.get_name().into()).collect();
        if !names.is_empty() {
            help.push_str(&format!(" One of {}.", names.join(", ")));
        }
    }
    if argument.is_required_set() {
        help.push_str(" Must be given.");
    }
    help
}

/// Adds a comment, broken into lines between words.
fn comment(help: &str, text: &mut String) {
    let mut column = 0;
    for word in help.split_whitespace() {
        let length = word.chars().count();
        if column == 0 || column + 1 + length > WIDTH {
            text.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + length;
    }
    text.push('\n');
}

/// The value in TOML; `None` where there is none.
fn value(argument: &Arg, matches: &ArgMatches) -> Result<Option<String>> {
    let id = argument.get_id().as_str();
    let kind = Kind::of(argument);
    if kind == Kind::Flag {
        return Ok(Some(matches.get_flag(id).to_string()));
    }
    let Some(raw) = matches.get_raw(id) else { return Ok(None) };
    let mut values = Vec::new();
    for value in raw {
        let text = value.to_str().ok_or_else(|| {
            Error::Setting(format!("the value of {argument} is {value:?}, but a recipe can only hold Unicode"))
        })?;
        let number = |number: Option<String>| number.unwrap_or_else(|| text.into());
        values.push(match kind {
            // As TOML writes it: `1`, not `+1` or `01`; `0.5`, not `.5`.
            Kind::Number { whole: true } => number(text.parse::<i128>().ok().map(|n| n.to_string())),
            Kind::Number { whole: false } => number(text.parse::<f64>().ok().map(|n| format!("{n:?}"))),
            _ => toml::Value::from(text).to_string(),
        });
    }
    Ok(match (is_list(argument), values.as_slice()) {
        (false, _) => values.pop(),
        (true, [] | [_]) => Some(format!("[{}]", values.join(", "))),
        (true, _) => Some(format!("[\n    {},\n]", values.join(",\n    "))),
    })
}

/// What stands for a value that is not given.
fn placeholder(argument: &Arg) -> String {
    let name = argument.get_value_names().and_then(|names| names.first()).map_or("VALUE", |name| name.as_str());
    let one = match Kind::of(argument) {
        Kind::Text => format!("\"{name}\""),
        _ => name.to_string(),
    };
    if is_list(argument) { format!("[{one}]") } else { one }
}
