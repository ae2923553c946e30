//! Renders a command line: one chapter for each command, one row for each flag.
//!
//! All text about a flag is its help.

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Command};

use crate::reference::{code, sentence, table};

/// The flags that clap adds to every command.
const BUILT_IN: [&str; 2] = ["help", "version"];

/// Renders the chapters of a program and all its commands.
#[must_use]
pub fn commands(mut command: Command) -> String {
    command.build();
    let mut text = String::new();
    chapters(&command, &mut text);
    text
}

fn chapters(command: &Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
    let about = command.get_about().map(|about| sentence(&about.to_string())).unwrap_or_default();
    let mut paragraphs = vec![format!("## {name}"), about, format!("```text\n{usage}\n```")];
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !BUILT_IN.contains(&argument.get_id().as_str()));
    let rows: Vec<_> = arguments.map(row).collect();
    paragraphs.push(table(&["flag", "default", "description"], &rows));
    paragraphs.extend(command.get_after_help().map(ToString::to_string));
    for paragraph in paragraphs.iter().filter(|paragraph| !paragraph.is_empty()) {
        *text += &format!("{}\n\n", paragraph.trim_end());
    }
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        chapters(command, text);
    }
}

fn row(argument: &Arg) -> Vec<String> {
    let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
    let default = if argument.is_required_set() {
        "required".to_owned()
    } else if takes_value(argument) {
        defaults.map(|value| code(&value)).collect::<Vec<_>>().join(", ")
    } else {
        String::new()
    };
    vec![name(argument), default, description(argument)]
}

fn takes_value(argument: &Arg) -> bool {
    !matches!(argument.get_action(), ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count)
}

fn name(argument: &Arg) -> String {
    let names = argument.get_value_names().map(|names| names.join(" "));
    let names = names.unwrap_or_else(|| argument.get_id().as_str().to_uppercase());
    let value = if takes_value(argument) { names } else { String::new() };
    let short = argument.get_short().map(|short| format!("`-{short}`"));
    let long = argument.get_long().map(|long| format!("`{}`", format!("--{long} {value}").trim_end()));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    if flags.is_empty() { code(&value) } else { flags.join(", ") }
}

fn description(argument: &Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let help = help.map(|help| sentence(&help.to_string().replace('\n', " "))).unwrap_or_default();
    let variable = argument.get_env().map(|name| format!("Also the variable `{}`.", name.to_string_lossy()));
    let values =
        if takes_value(argument) { possible_values(&argument.get_possible_values()) } else { String::new() };
    let parts = [help, values].into_iter().chain(variable).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

fn possible_values(values: &[PossibleValue]) -> String {
    let name = |value: &PossibleValue| code(value.get_name());
    if values.iter().all(|value| value.get_help().is_none()) {
        let names: Vec<String> = values.iter().map(name).collect();
        return if names.is_empty() { String::new() } else { format!("One of {}.", names.join(", ")) };
    }
    let sentences = values.iter().map(|value| {
        let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
        sentence(&format!("{}{help}", name(value)))
    });
    sentences.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_has_its_default_variable_and_values() {
        let kinds = [PossibleValue::new("a").help("The first"), PossibleValue::new("b")];
        let command = Command::new("tool").about("does it").subcommand(
            Command::new("run")
                .arg(
                    Arg::new("kind")
                        .short('k')
                        .long("kind")
                        .default_value("a")
                        .value_parser(kinds)
                        .help("which"),
                )
                .arg(Arg::new("node").long("node").value_name("NAME").env("NODE_NAME").help("where"))
                .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue).help("says nothing"))
                .arg(Arg::new("FILE").required(true).help("what to read")),
        );
        let text = commands(command);
        for line in [
            "## tool run",
            "| `-k`, `--kind KIND` | `a` | Which. `a`: The first. `b`. |",
            "| `--node NAME` | | Where. Also the variable `NODE_NAME`. |",
            "| `--quiet` | | Says nothing. |",
            "| `FILE` | required | What to read. |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("--help"), "{text}");
    }
}
