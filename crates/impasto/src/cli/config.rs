//! `impasto serve --config FILE`: TOML with the names of the options, read by their own parsers.
//!
//! What the file says is put in front of what the command line says, except where that says it too.

use std::{ffi::OsString, fmt::Write, fs, path::Path, process::ExitCode};

use clap::{ArgMatches, Command, CommandFactory, parser::ValueSource};
use toml::de::{DeTable, DeValue};

use super::{Cli, Failure, tell};

/// Options that a file cannot set.
const NOT_IN_FILES: [&str; 4] = ["config", "check-config", "help", "version"];

/// What is in effect, for `--check-config`.
#[derive(Debug, Default)]
pub(super) struct Settings(String);

impl Settings {
    /// Says that all is well.
    pub(super) fn tell(&self) -> Result<ExitCode, Failure> {
        tell("# ok");
        tell(self.0.trim_end());
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the command line with what its `--config` file says besides, or what is wrong with the
/// file.
pub(super) fn merge(args: Vec<OsString>) -> Result<(Vec<OsString>, Settings), String> {
    // What is wrong with the command line is told when it is parsed for good.
    let Ok(matches) = Cli::command().try_get_matches_from(&args) else {
        return Ok((args, Settings::default()));
    };
    let Some(("serve", serve)) = matches.subcommand() else {
        return Ok((args, Settings::default()));
    };
    let Some(path) = serve.get_one::<std::path::PathBuf>("config") else {
        return Ok((args, Settings(settings(serve, serve, None))));
    };
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let file = from_file(path, &text)?;
    let mut merged = args;
    let behind = merged.iter().position(|arg| arg == "serve").map_or(merged.len(), |at| at + 1);
    let said = |name: &str| {
        let id = id_of(name);
        serve.value_source(&id) == Some(ValueSource::CommandLine)
    };
    let more = file.into_iter().filter(|(name, _)| !said(name)).flat_map(|(_, words)| words);
    merged.splice(behind..behind, more.map(OsString::from).collect::<Vec<_>>());
    let all = Cli::command()
        .try_get_matches_from(&merged)
        .map_err(|error| format!("{}: {}", path.display(), first_line(&error.to_string())))?;
    let settings = match all.subcommand() {
        Some((_, all)) => Settings(settings(all, serve, Some(path))),
        None => Settings::default(),
    };
    Ok((merged, settings))
}

/// Returns each key of a file, and what it is on the command line.
fn from_file(path: &Path, text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let place = |at: usize| {
        let line = text[..at.min(text.len())].matches('\n').count() + 1;
        format!("{}:{line}", path.display())
    };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        format!("{}: {}", place(at), first_line(error.message()))
    })?;
    let serve = serve_command();
    let known: Vec<_> = serve
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|name| !NOT_IN_FILES.contains(name))
        .collect();
    let mut options = Vec::new();
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let here = || place(key.span().start);
        if !known.contains(&name) {
            return Err(format!(
                "{}: there is no option `{name}`; there are {}",
                here(),
                known.join(", ")
            ));
        }
        let words = words(&serve, name, value.get_ref())
            .and_then(|words| try_out(name, words))
            .map_err(|wrong| format!("{}: {name}: {wrong}", here()))?;
        options.push((name.to_owned(), words));
    }
    Ok(options)
}

/// Returns what a key and its value are on the command line.
fn words(serve: &Command, name: &str, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let flag = format!("--{name}");
    let argument = serve.get_arguments().find(|arg| arg.get_long() == Some(name));
    let is_switch = argument.is_some_and(|arg| !arg.get_action().takes_values());
    match value {
        DeValue::Boolean(on) if is_switch => Ok(if *on { vec![flag] } else { Vec::new() }),
        _ if is_switch => Err("write true or false".into()),
        DeValue::Array(values) => {
            let each = values.iter().map(|value| words(serve, name, value.get_ref()));
            Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
        }
        // In one word: what starts with a dash is a value all the same.
        DeValue::String(text) => Ok(vec![format!("{flag}={text}")]),
        DeValue::Integer(number) if number.radix() == 10 => {
            Ok(vec![format!("{flag}={}", number.as_str())])
        }
        _ => Err("write a text in quotes, or a number".into()),
    }
}

/// Parses an option alone, so that what is wrong with it can be said with its line.
fn try_out(name: &str, words: Vec<String>) -> Result<Vec<String>, String> {
    let line = ["impasto", "serve"].map(str::to_owned).into_iter().chain(words.clone());
    match Cli::command().try_get_matches_from(line) {
        Ok(_) => Ok(words),
        Err(error) => {
            let text = first_line(&error.to_string());
            // "invalid value 'x' for '--size <SIZE>': why"
            let why =
                text.split_once(&format!("'--{name}")).and_then(|(_, rest)| rest.split_once(": "));
            Err(why.map_or_else(|| text.clone(), |(_, why)| why.to_owned()))
        }
    }
}

fn serve_command() -> Command {
    let cli = Cli::command();
    let serve = cli.get_subcommands().find(|command| command.get_name() == "serve");
    serve.expect("there is a command `serve`").clone()
}

fn id_of(name: &str) -> String {
    name.replace('-', "_")
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Returns all options as a file would have them, and who has said so.
fn settings(all: &ArgMatches, said: &ArgMatches, path: Option<&Path>) -> String {
    let mut text = String::new();
    let serve = serve_command();
    let names = serve.get_arguments().filter_map(|arg| arg.get_long());
    for name in names.filter(|name| !NOT_IN_FILES.contains(name)) {
        let id = id_of(name);
        let Ok(Some(raw)) = all.try_get_raw(&id) else { continue };
        let values: Vec<_> = raw.map(|value| written(&value.to_string_lossy())).collect();
        let value = match &values[..] {
            [] => continue,
            [value] => value.clone(),
            values => format!("[{}]", values.join(", ")),
        };
        let by = match (all.value_source(&id), said.value_source(&id), path) {
            (_, Some(ValueSource::CommandLine), _) => "the command line".to_owned(),
            (Some(ValueSource::CommandLine), _, Some(path)) => path.display().to_string(),
            _ => "default".to_owned(),
        };
        let _never = writeln!(text, "{:<32} # {by}", format!("{name} = {value}"));
    }
    text
}

/// Returns a value as TOML.
fn written(value: &str) -> String {
    let bare = matches!(value, "true" | "false") || value.parse::<u32>().is_ok();
    if bare { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        from_file(Path::new("impasto.toml"), text).unwrap_err()
    }

    #[test]
    fn keys_are_the_options_of_serve() {
        let text = "# A comment\ndata = \"/d\"\nworkers = 2\nbusy-poll = true\nsize = \"1GiB\"\n";
        let options = from_file(Path::new("impasto.toml"), text).unwrap();
        let words: Vec<_> = options.into_iter().flat_map(|(_, words)| words).collect();
        assert_eq!(words, ["--data=/d", "--workers=2", "--busy-poll", "--size=1GiB"]);
        let off = from_file(Path::new("impasto.toml"), "busy-poll = false").unwrap();
        assert_eq!(off, [("busy-poll".to_owned(), Vec::new())]);
    }

    /// A key that nobody reads is a setting that its author believes in.
    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let text = wrong("data = \"/d\"\n\nsise = \"1GiB\"\n");
        assert!(
            text.starts_with("impasto.toml:3: there is no option `sise`; there are data, size")
        );
        let text = wrong("size = \"8MiB\"");
        assert!(text.starts_with("impasto.toml:1: size: a region cannot have 8 MiB"), "{text}");
        let text = wrong("workers = 2\nbusy-poll = \"yes\"");
        assert_eq!(text, "impasto.toml:2: busy-poll: write true or false");
        let text = wrong("workers = 1.5");
        assert_eq!(text, "impasto.toml:1: workers: write a text in quotes, or a number");
        assert!(wrong("data = \"/d\"\nsize = \n").starts_with("impasto.toml:2: "));
        assert!(wrong("size = \"1GiB\"\nsize = \"2GiB\"\n").starts_with("impasto.toml:2: "));
        assert!(wrong("config = \"other.toml\"").contains("there is no option `config`"));
    }
}
