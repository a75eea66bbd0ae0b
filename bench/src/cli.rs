//! The commands of `impasto-bench`, and the processes that these start.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{Parser, Subcommand};

use crate::{baselines, breakdown, check, compare, figures, load, micro, part, peers, process};

#[derive(Debug, Parser)]
#[command(name = "impasto-bench", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send requests to a server, check every reply, and say how long they took
    Load(load::Args),
    /// Measure Impasto beside what one would write without it
    Compare(compare::Args),
    /// Compare this load generator with wrk, redis-benchmark and memtier_benchmark
    Check(check::Args),
    /// Say where the time of a request goes, per medium and variant, as a table and a picture
    Breakdown(breakdown::Args),
    /// Measure Impasto against the figures that it has to reach
    Figures(figures::Args),
    /// Measure Impasto beside other servers that are installed here
    Peers(peers::Args),
    /// Measure parts by themselves: the packet's path, the pool, flushes, copies, checksums
    Micro(micro::Args),
    /// Start a program, and end it with all that it has forked (what starts every server)
    #[command(hide = true)]
    Keep(process::KeepArgs),
    /// Remove directories when what has made them has ended (what cleans up after SIGKILL)
    #[command(hide = true)]
    Sweep(process::SweepArgs),
    /// Become a program that ends with its parent (what `keep` starts)
    #[command(hide = true)]
    Launch(process::LaunchArgs),
    /// Serve, put together from Impasto's parts (what `figures` compares)
    #[command(hide = true)]
    Serve(part::ServeArgs),
    /// Receive, discard and answer (what `figures` compares)
    #[command(hide = true)]
    Discard(part::DiscardArgs),
    /// Serve as others would (what `compare` compares)
    #[command(hide = true)]
    Baseline(baselines::Args),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  measured, without an error
  1  a reply was not as expected, a figure was not reached, or something went wrong
  2  the command line was wrong";

/// What went wrong, said to a person.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Does what the command line says.
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    let needs_server = match &command {
        Command::Compare(args) => args.measures(),
        Command::Figures(_) | Command::Peers(_) => true,
        _ => false,
    };
    let built = if needs_server { process::build_impasto() } else { Ok(()) };
    let done = built.and_then(|()| run_command(command));
    done.unwrap_or_else(|failure| {
        let _closed = writeln!(io::stderr(), "impasto-bench: {failure}");
        ExitCode::FAILURE
    })
}

fn run_command(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Load(args) => load::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Breakdown(args) => breakdown::run(&args),
        Command::Figures(args) => figures::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Keep(args) => process::keep(&args),
        Command::Sweep(args) => process::sweep(&args),
        Command::Micro(args) => micro::run(&args),
        Command::Launch(args) => process::launch(&args),
        Command::Serve(args) => part::serve(&args),
        Command::Discard(args) => part::discard(&args),
        Command::Baseline(args) => baselines::run(&args),
    }
}

/// Writes a line of a result to stdout.
pub(crate) fn tell(line: &str) {
    // Nobody reads it? Then nobody misses it.
    let _closed = writeln!(io::stdout(), "{line}");
}

/// Parses a number of bytes: `1024`, `64MiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<ByteSize>().map(|size| size.as_u64());
    parsed.map_err(|_| "write it like 1024 or 64MiB".into())
}

/// Parses a time in seconds: `5`, `0.2`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "write it in seconds, like 5 or 0.2".into())
}

/// Parses a number above 0.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "a number above 0".into())
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
    fn words_are_read_as_people_write_them() {
        assert_eq!(size("1KiB"), Ok(1024));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(size("much").is_err() && seconds("-1").is_err() && seconds("NaN").is_err());
        assert!(positive("0").is_err());
    }
}
