//! `impasto serve`, `impasto verify`, `impasto adopt`.

mod adopt;
mod args;
mod banner;
mod create;
mod medium;
mod memory;
mod serve;
mod verify;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Durable network storage: a reply leaves when the data is durable, not before.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve append-only logs over HTTP, from a directory that is made if it is missing
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(serve::Args),
    /// Read everything in a region and check it, without changing anything
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Args),
    /// Copy a region to another medium, checked: how what was served on shm becomes durable
    #[command(after_help = ADOPT_NOTES)]
    Adopt(adopt::Args),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well; for `serve`: it was stopped by SIGINT or SIGTERM, cleanly
  1  something went wrong; the text on stderr says what, and what to do
  2  the command line was wrong
  3  `verify` or `adopt` found damage";

const SERVE_EXAMPLES: &str = "\
Try it:
  impasto serve
  curl -i --data-binary hello http://127.0.0.1:8080/v1/logs/greetings
  curl http://127.0.0.1:8080/v1/logs/greetings/1

Exit codes:
  0  stopped by SIGINT (Ctrl-C) or SIGTERM, cleanly: requests under way get 10 s to finish
  1  stopped by a second signal, which does not wait: what was acknowledged is there all the same
  1  something went wrong; the text on stderr says what, and what to do
  2  the command line was wrong";

const ADOPT_NOTES: &str = "\
Try it:
  impasto adopt /dev/shm/impasto --data ./impasto-data
  impasto serve --data ./impasto-data

It is also how a region goes to another medium after a crash. SOURCE is not changed, unless --data
is the same directory: then the copy takes its place. Until the copy is whole and durable there is
none, whenever it is interrupted. It has the uuid of SOURCE, which is the same region, then: go on
with one of them only.

Exit codes:
  0  the copy is there
  1  something went wrong; the text on stderr says what, and what to do
  2  the command line was wrong
  3  SOURCE is damaged, stdout says where; there is no copy";

/// What went wrong, said to a person.
type Failure = Box<dyn Error + Send + Sync>;

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Adopt(args) => adopt::run(&args),
    };
    done.unwrap_or_else(|failure| {
        say(&format!("impasto: {}", with_causes(failure.as_ref())));
        ExitCode::FAILURE
    })
}

/// Writes a line for a person to stderr.
fn say(line: &str) {
    let _closed = writeln!(io::stderr(), "{line}");
}

/// Writes a line of a result to stdout.
fn tell(line: &str) {
    // Nobody reads it? Then nobody misses it.
    let _closed = writeln!(io::stdout(), "{line}");
}

/// Returns the text of an error and of what caused it, where it does not say that itself.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A help text with a broken definition panics when it is first asked for.
    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let io = io::Error::other("the disk is on fire");
        assert_eq!(with_causes(&io), "the disk is on fire");
        let region =
            impasto::region::Error::Io { action: "open", path: "/data/region".into(), error: io };
        assert_eq!(with_causes(&region), "cannot open /data/region: the disk is on fire");
    }
}
