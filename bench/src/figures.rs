//! `impasto-bench figures`: Impasto against the figures that it has to reach.
//!
//! Each line starts its servers, all at once, on one core, visits them from another in rounds, and
//! says what came of it next to what was wanted. A trimmer runs throughout.

mod lines;
mod reading;
mod report;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use crate::{
    bed::{self, Bed},
    cli::{self, Failure, tell},
    machine::Machine,
    process,
    rounds::Measurer,
};
use report::Verdict;

/// Options of `impasto-bench figures`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bed: Bed,
    /// Rounds that count
    #[arg(long, default_value = "40", value_parser = cli::positive)]
    rounds: usize,
    /// Measure only this line; may be said more than once
    #[arg(long, value_enum)]
    only: Vec<LineName>,
    /// Most of a window, in percent, that server or client may wait for a CPU
    #[arg(long, default_value_t = 5.0)]
    wait: f64,
    /// Length of a long body; regions for these have room for 16 of them
    #[arg(long, default_value = "64MiB", value_parser = cli::size)]
    body: u64,
    /// More arguments for `impasto serve`, each with its own --server-arg
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// File for all numbers [default: figures.json beside this program]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LineName {
    /// shm against the same server without flush and fence
    Shm,
    /// disk against shm, and against the raw disk
    Disk,
    /// long bodies on disk against the raw disk and the loopback
    Bodies,
    /// two workers against one
    Workers,
    /// shm by epoll against an epoll server written by hand
    Epoll,
    /// `verify` and `inspect` against sequential reading of the region
    Verify,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let seed = args.bed.seed();
    let bench = lines::Bench {
        args,
        body_region: args.bed.region.max(16 * args.body).next_multiple_of(1 << 20),
    };
    let mut measurer = Measurer::new(seed, args.rounds)?;
    let machine = Machine::look(seed);
    tell(&machine.to_string());
    let names = if args.only.is_empty() { LineName::value_variants() } else { &args.only };
    if names.iter().any(|name| *name != LineName::Shm) {
        // Said now, not after the first line's minute.
        process::impasto()?;
    }
    let mut lines = Vec::new();
    for name in names {
        let line = match name {
            LineName::Shm => bench.shm(&mut measurer)?,
            LineName::Disk => bench.disk(&mut measurer)?,
            LineName::Bodies => bench.bodies(&mut measurer)?,
            LineName::Workers => bench.workers(&mut measurer)?,
            LineName::Epoll => bench.epoll(&mut measurer)?,
            LineName::Verify => bench.reading(seed)?,
        };
        tell(&format!("\n{}", line.to_string().trim_end()));
        lines.push(line);
    }
    let path = match &args.json {
        Some(path) => path.clone(),
        None => bed::beside()?.join("figures.json"),
    };
    fs::write(&path, report::to_json(&machine, &lines))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    tell(&format!("\nall numbers: {}", path.display()));
    let good = |verdict| matches!(verdict, Verdict::Reached | Verdict::NoAim);
    let all_good = lines.iter().flat_map(|line| &line.figures).all(|figure| good(figure.verdict()));
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
