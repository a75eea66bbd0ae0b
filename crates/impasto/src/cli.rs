//! The commands of `impasto`: one file each, and what they share.

mod adopt;
mod args;
mod banner;
mod budget;
mod check;
mod config;
mod create;
mod create_command;
mod damage;
mod inspect;
mod manual;
mod medium;
mod memory;
mod reader;
mod repair;
mod serve;
mod style;
mod verify;
mod version;

use std::{
    env,
    error::Error,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::{Parser, Subcommand};
use impasto::region::{self, Examined};
use indicatif::{ProgressBar, ProgressStyle};

/// Durable network storage: a reply leaves when the data is durable, not before.
#[derive(Debug, Parser)]
#[command(name = "impasto", version, after_help = OVERVIEW)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve append-only logs over HTTP, from a directory that is made if it is missing
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(serve::Args),
    /// Make a region, without serving it
    #[command(after_help = CREATE_EXAMPLES)]
    Create(create_command::Args),
    /// Show what stands in a region, and where; nobody may be serving it
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(inspect::Args),
    /// Read everything in a region and check it, without changing anything
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(verify::Args),
    /// Copy a region to another medium, checked: how what was served on shm becomes durable
    #[command(after_help = ADOPT_NOTES)]
    Adopt(adopt::Args),
    /// Tell what a damaged region takes to be opened again, and what is lost; with --apply, do it
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair(repair::Args),
    /// Measure what a packet's parts cost on this machine, and how many cores a line takes
    #[command(after_help = BUDGET_EXAMPLES)]
    Budget(budget::Args),
    /// Tell the version, the format, and what this machine offers
    #[command(after_help = VERSION_EXAMPLES)]
    Version(version::Args),
    /// Write the manual pages
    #[command(after_help = MAN_EXAMPLES)]
    Man(manual::ManArgs),
    /// Write what a shell needs to complete these commands
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(manual::CompletionsArgs),
}

const OVERVIEW: &str = "\
Try it:
  impasto serve
  curl -i --data-binary hello http://127.0.0.1:8080/v1/logs/greetings
  curl http://127.0.0.1:8080/v1/logs/greetings/1

Exit codes:
  0  all is well; for `serve`: it was stopped by SIGINT or SIGTERM, cleanly
  1  something went wrong; the text on stderr says what, and what to do
  2  the command line, or the --config file, was wrong
  3  damage was found";

const SERVE_EXAMPLES: &str = "\
Try it:
  impasto serve
  curl -i --data-binary hello http://127.0.0.1:8080/v1/logs/greetings
  curl http://127.0.0.1:8080/v1/logs/greetings/1

A --config file has the names of these options:
  data = \"/var/lib/impasto\"
  size = \"64GiB\"
  busy-poll = true

Exit codes:
  0  stopped by SIGINT (Ctrl-C) or SIGTERM, cleanly: requests under way get 10 s to finish
  1  stopped by a second signal, which does not wait: what was acknowledged is there all the same
  1  something went wrong; the text on stderr says what, and what to do
  2  the command line, or the --config file, was wrong
  3  the region is damaged: the text on stderr says where";

const CREATE_EXAMPLES: &str = "\
Examples:
  impasto create --data /var/lib/impasto --size 64GiB
  impasto create --data /dev/shm/impasto --medium shm

Exit codes:
  0  the region is made, and durable
  1  there is one already, or it could not be made; then nothing is left behind
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
const INSPECT_EXAMPLES: &str = "\
Examples:
  impasto inspect /var/lib/impasto
  impasto inspect --json /var/lib/impasto | jq .buffers

Exit codes:
  0  all that was looked at is whole; values are not (`impasto verify` does that)
  1  there is no region, or it cannot be read, or is in use
  2  the command line was wrong
  3  damage was found";

const VERIFY_EXAMPLES: &str = "\
Examples:
  impasto verify /var/lib/impasto
  impasto verify --json /var/lib/impasto | jq .damage

Exit codes:
  0  every checksum holds
  1  there is no region, or it cannot be read, or is in use
  2  the command line was wrong
  3  damage was found: it is named on stdout";

const REPAIR_EXAMPLES: &str = "\
Examples:
  impasto repair /var/lib/impasto
  impasto repair --export ./lost --apply /var/lib/impasto

Afterwards the region opens, every record that it shows verifies or answers 500, and the log ends
before the first damage. What is lost is listed, with and without --apply.

Exit codes:
  0  nothing was damaged; with --apply: what is listed was done
  1  it cannot be repaired, and nothing was changed; the text on stderr says why
  2  the command line was wrong
  3  without --apply: damage was found, and nothing was changed";

const BUDGET_EXAMPLES: &str = "\
Examples:
  impasto budget --rate 100G
  impasto budget --rate 40G --frame 84 --json | jq .lines

The articles are by Jonathan Corbet: \"Improving Linux networking performance\", 2015,
lwn.net/Articles/629155, and \"Memory management for 400Gb/s interfaces\", 2019,
lwn.net/Articles/787754.

Exit codes:
  0  measured; what this machine cannot do says why in its row
  1  nothing could be measured; the text on stderr says why
  2  the command line was wrong";

const VERSION_EXAMPLES: &str = "\
Examples:
  impasto version
  impasto version --json | jq -r .version";

const MAN_EXAMPLES: &str = "\
Examples:
  impasto man | man -l -
  impasto man /usr/local/share/man/man1";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  impasto completions bash > /etc/bash_completion.d/impasto
  impasto completions fish > ~/.config/fish/completions/impasto.fish";

/// What went wrong, said to a person.
type Failure = Box<dyn Error + Send + Sync>;

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let (args, settings) = match config::merge(env::args_os().collect()) {
        Ok(merged) => merged,
        Err(wrong) => {
            say(&format!("impasto: {wrong}"));
            return ExitCode::from(WRONG);
        }
    };
    let done = match Cli::parse_from(args).command {
        Command::Serve(args) if args.is_check() => settings.tell(),
        Command::Serve(args) => serve::run(&args),
        Command::Create(args) => create_command::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Adopt(args) => adopt::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Budget(args) => budget::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Man(args) => manual::man(&args),
        Command::Completions(args) => manual::completions(&args),
    };
    let code = done.unwrap_or_else(|failure| {
        say(&format!("impasto: {}", with_causes(failure.as_ref())));
        if damage::is_damage(&failure) { damage::DAMAGED.into() } else { ExitCode::FAILURE }
    });
    if UNTOLD.load(Ordering::Relaxed) { ExitCode::FAILURE } else { code }
}

/// Set when a part of a result could not be written.
static UNTOLD: AtomicBool = AtomicBool::new(false);

/// Exit code for what was asked in the wrong way, as clap has it.
const WRONG: u8 = 2;

/// Writes a line for a person to stderr.
fn say(line: &str) {
    let _closed = writeln!(io::stderr(), "{line}");
}

/// Writes a line of a result to stdout.
fn tell(line: &str) {
    let told = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    match told {
        // Nobody reads it? Then nobody misses it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) if !UNTOLD.swap(true, Ordering::Relaxed) => {
            say(&format!("impasto: cannot write to stdout: {error}"));
        }
        _ => {}
    }
}

/// Writes a result for a script to stdout.
fn tell_json(result: &impl serde::Serialize) -> Result<(), Failure> {
    tell(&serde_json::to_string_pretty(result)?);
    Ok(())
}

/// Returns a bar that shows on a terminal how many bytes were read, of so many at most.
fn bar(message: &'static str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(message);
    let template = "{msg} {bar:30} {bytes} of at most {total_bytes}, {binary_bytes_per_sec}";
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.expect("the template is well-formed"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Opens a region that is at rest.
fn examine(
    dir: &Path,
    open: fn(&Path) -> Result<Examined, region::Error>,
) -> Result<Examined, Failure> {
    open(dir).map_err(|error| match error {
        region::Error::InUse { dir, pid } => {
            let who = pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
            let dir = dir.display();
            format!(
                "{dir} is in use by {who}: stop it first; of a running server GET /v1/region tells"
            )
            .into()
        }
        other => other.into(),
    })
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
        let region = region::Error::Io { action: "open", path: "/data/region".into(), error: io };
        assert_eq!(with_causes(&region), "cannot open /data/region: the disk is on fire");
    }
}
