//! `impasto-bench breakdown`: where the time of a request goes, from the client's write to its read
//! of the reply, per medium and variant. The central figure of Honda et al., netdev 2.2, measured
//! here: 40 us of network, 2 us of flushing, more than 1 ms of a disk.
//!
//! One connection. Each server says what it has charged its time to; the network is what is left of
//! the round trip that the client saw.

mod report;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use tempfile::TempDir;

use crate::{
    baselines::{self, Baseline, Medium},
    bed::{self, Bed},
    cli::{self, Failure, tell},
    client::{Limit, Plan, Work},
    load::trim,
    machine::Machine,
    process::Server,
    protocol::Request,
    rounds::{Cell, Measurer, Rounds, Visit},
    statistics::Random,
};
use report::{Report, Row};

/// Options of `impasto-bench breakdown`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bed: Bed,
    /// Rounds that count
    #[arg(long, default_value = "40", value_parser = cli::positive)]
    rounds: usize,
    /// A quarter of the rounds
    #[arg(long)]
    quick: bool,
    /// Measure only these variants, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Nanoseconds that each fence takes longer, as with slower memory
    #[arg(long, value_name = "NS", default_value_t = 0)]
    fence_delay: u64,
    /// Most of a window, in percent, that server or client may wait for a CPU; on disk, where the
    /// kernel's threads need the server's core, five times as much
    #[arg(long, default_value_t = 5.0)]
    wait: f64,
    /// Directory for the pictures: breakdown and breakdown-memory, .svg and .png
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// File for all numbers [default: breakdown.json beside this program]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A server whose time is told.
#[derive(Clone, Debug)]
struct Variant {
    name: String,
    about: String,
    medium: Medium,
    /// The command of this program that is the server, and its options.
    command: Vec<&'static str>,
    /// Why this machine cannot run it.
    unavailable: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let variants = chosen(&args.only)?;
    let seed = args.bed.seed();
    let rounds = if args.quick { args.rounds.div_ceil(4) } else { args.rounds };
    let mut measurer = Measurer::new(seed, rounds)?;
    let machine = Machine::look(seed);
    tell(&machine.to_string());
    let started: Vec<Started> = variants.iter().map(|variant| start(args, variant)).collect();
    let cells: Vec<Cell<'_>> = started
        .iter()
        .zip(&variants)
        .filter_map(|(started, variant)| {
            let (server, _) = started.as_ref().ok()?;
            Some(cell(args, variant, server))
        })
        .collect();
    let measured = measurer.measure("breakdown", &cells)?;
    let report =
        Report { rows: rows(variants, &started, &measured), fence_delay: args.fence_delay };
    drop(cells);
    drop(started);
    tell(&format!("\n{report}"));
    let path = match &args.json {
        Some(path) => path.clone(),
        None => bed::beside()?.join("breakdown.json"),
    };
    fs::write(&path, report.to_json(&machine))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    tell(&format!("\nall numbers: {}", path.display()));
    if let Some(dir) = &args.plot {
        fs::create_dir_all(dir)
            .map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        for (name, picture) in report.pictures(&machine) {
            for path in picture.write(&dir.join(name))? {
                tell(&format!("picture:     {}", path.display()));
            }
        }
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns all variants, or those that are wanted.
fn chosen(only: &[String]) -> Result<Vec<Variant>, Failure> {
    let all = all();
    if let Some(unknown) = only.iter().find(|name| all.iter().all(|known| known.name != **name)) {
        let names: Vec<&str> = all.iter().map(|variant| variant.name.as_str()).collect();
        return Err(format!("no variant `{unknown}`; there are {}", names.join(", ")).into());
    }
    let wanted = |variant: &Variant| only.is_empty() || only.contains(&variant.name);
    Ok(all.into_iter().filter(wanted).collect())
}

fn all() -> Vec<Variant> {
    let own = |(name, about, medium, options): &(&str, &str, Medium, &[&'static str])| Variant {
        name: (*name).to_owned(),
        about: (*about).to_owned(),
        medium: *medium,
        command: [&["serve", "--medium", medium_name(*medium)], *options].concat(),
        unavailable: None,
    };
    let other = |baseline: &Baseline| Variant {
        name: baseline.name.to_owned(),
        about: format!("{}: {}", baseline.name, baseline.about),
        medium: baseline.medium,
        command: vec!["baseline", baseline.name],
        unavailable: baseline.unavailable(),
    };
    let mut all: Vec<Variant> =
        OWN.iter().map(own).chain(baselines::ALL.iter().map(other)).collect();
    // Those that do the same stand side by side.
    all.sort_by_key(|variant| variant.medium);
    all
}

/// Impasto: name, what it is, medium, options.
const OWN: &[(&str, &str, Medium, &[&str])] = &[
    ("impasto-off", "Impasto, nothing flushed", Medium::Memory, &["--without-flush"]),
    ("impasto-shm", "Impasto, shm", Medium::Memory, &[]),
    ("impasto-shm-poll", "Impasto, shm, busy poll", Medium::Memory, &["--busy-poll"]),
    ("impasto-shm-epoll", "Impasto, shm, epoll", Medium::Memory, &["--io", "epoll"]),
    ("impasto-disk", "Impasto, disk", Medium::Disk, &[]),
    ("impasto-disk-poll", "Impasto, disk, busy poll", Medium::Disk, &["--busy-poll"]),
    ("impasto-disk-epoll", "Impasto, disk, epoll", Medium::Disk, &["--io", "epoll"]),
];

const fn medium_name(medium: Medium) -> &'static str {
    match medium {
        Medium::None => "none",
        Medium::Memory => "shm",
        Medium::Disk => "disk",
    }
}

/// A server, and the directory that goes with it; or why there is none.
type Started = Result<(Server, TempDir), String>;

fn start(args: &Args, variant: &Variant) -> Started {
    if let Some(why) = &variant.unavailable {
        return Err(why.clone());
    }
    let delay = args.fence_delay.to_string();
    let mut more = vec!["--stages"];
    let has_fences =
        variant.medium == Medium::Memory && !variant.command.contains(&"--without-flush");
    if args.fence_delay > 0 && has_fences {
        more.extend(["--fence-delay", &delay]);
    }
    let started = || {
        let dir = if variant.medium == Medium::Disk { args.bed.disk() } else { args.bed.memory() }?;
        let server = args.bed.own(&variant.command, &dir, &more)?;
        Ok((server, dir))
    };
    started().map_err(|failure: Failure| failure.to_string())
}

fn cell<'s>(args: &Args, variant: &Variant, server: &'s Server) -> Cell<'s> {
    let body = Random::new(BODY_BYTES as u64).bytes(BODY_BYTES);
    let request = Request::new("POST", server.address(), LOG, &body).expect_status(201);
    let request = request.padded_to(REQUEST_BYTES).expect("the head is shorter than the rest");
    let mut plan = Box::new(args.bed.plan(server, 1, request, None));
    // Servers charge all requests: so none is sent that does not count.
    plan.limit = Limit::Time(args.bed.warm_up + args.bed.window);
    plan.warm_up = Duration::ZERO;
    let trim = trim(server.address(), LOG, 0).request;
    let after = Plan {
        limit: Limit::Requests(1),
        patience: plan.patience,
        cores: plan.cores.clone(),
        ..Plan::new(server.address(), Work::Same(trim))
    };
    let wait_max = args.wait / 100.0 * if variant.medium == Medium::Disk { 5.0 } else { 1.0 };
    let visit = Visit::Stages { server, plan, after: after.into() };
    Cell { name: variant.name.clone(), visit, wait_max, block: 0 }
}

fn rows(variants: Vec<Variant>, started: &[Started], rounds: &Rounds) -> Vec<Row> {
    let mut cell = 0;
    let row = |(variant, started): (Variant, &Started)| match started {
        Ok(_) => {
            cell += 1;
            Row::measured(variant, rounds, cell - 1)
        }
        Err(why) => Row::skipped(variant, why.lines().next().unwrap_or_default().to_owned()),
    };
    variants.into_iter().zip(started).map(row).collect()
}

/// The request of the seeds' published run.
const REQUEST_BYTES: usize = 1156;
const BODY_BYTES: usize = 1024;
const LOG: &str = "/v1/logs/breakdown";
