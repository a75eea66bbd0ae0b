//! `impasto-bench figures`: Impasto against the figures that it has to reach.
//!
//! Each line starts its servers, all at once, on one core, visits them from another in rounds, and
//! says what came of it next to what was wanted. A trimmer runs throughout.

mod lines;
mod reading;
mod report;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;

use crate::{
    cli::{self, Failure, tell},
    machine::Machine,
    process,
    rounds::Measurer,
};
use report::Verdict;

/// Options of `impasto-bench figures`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds that count
    #[arg(long, default_value = "40", value_parser = cli::positive)]
    rounds: usize,
    /// Measure only this line; may be said more than once
    #[arg(long, value_enum)]
    only: Vec<LineName>,
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Length of a window in seconds
    #[arg(long, default_value = "0.2", value_parser = cli::seconds)]
    window: Duration,
    /// Load before each window, in seconds
    #[arg(long, default_value = "0.05", value_parser = cli::seconds)]
    warm_up: Duration,
    /// Most of a window, in percent, that server or client may wait for a CPU
    #[arg(long, default_value_t = 5.0)]
    wait: f64,
    /// Size of regions; those for long bodies have room for 16 of them
    #[arg(long, default_value = "256MiB", value_parser = cli::size)]
    region: u64,
    /// Length of a long body
    #[arg(long, default_value = "64MiB", value_parser = cli::size)]
    body: u64,
    /// More arguments for `impasto serve`, each with its own --server-arg
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// Where regions on disk are made [default: beside this program]
    #[arg(long)]
    disk_dir: Option<PathBuf>,
    /// Where regions in memory are made
    #[arg(long, default_value = "/dev/shm")]
    memory_dir: PathBuf,
    /// Order of the windows [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
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
    let beside = env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
    let seed = args.seed.unwrap_or_else(clock);
    let bench = lines::Bench {
        args,
        disk_dir: args.disk_dir.clone().unwrap_or_else(|| beside.clone()),
        body_region: args.region.max(16 * args.body).next_multiple_of(1 << 20),
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
    let path = args.json.clone().unwrap_or_else(|| beside.join("figures.json"));
    fs::write(&path, report::to_json(&machine, &lines))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    tell(&format!("\nall numbers: {}", path.display()));
    let good = |verdict| matches!(verdict, Verdict::Reached | Verdict::NoAim);
    let all_good = lines.iter().flat_map(|line| &line.figures).all(|figure| good(figure.verdict()));
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
