//! `impasto-bench compare`: Impasto beside what one would write without it.
//!
//! Each workload is a group of cells, every contender at every point. All contenders of a group are
//! up at once, each stopped but while it is visited; each round visits every cell once, in a random
//! order, and ratios are taken within a round.

mod agree;
mod journal;
mod pictures;
mod results;
mod variants;
mod workloads;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    baselines::Medium,
    bed::{self, Bed},
    cli::{self, Failure, tell},
    machine::Machine,
    process::Server,
    raw::{RawFile, Sync},
    rounds::{Cell, Measurer, Rounds, Visit},
};
use journal::Journal;
use results::Group;
use variants::{Contender, Missing, Variant};
use workloads::{Ask, Extent, NAMES, Workload};

/// Options of `impasto-bench compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bed: Bed,
    /// Measure what README quotes: 2 minutes
    #[arg(long)]
    quick: bool,
    /// Measure only these workloads: `post,sizes`
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD")]
    only: Vec<String>,
    /// Measure only these servers, and what they are compared with: `v1,group`
    #[arg(long, value_delimiter = ',', value_name = "SERVER")]
    servers: Vec<String>,
    /// Rounds that count
    #[arg(long, default_value = "12", value_parser = cli::positive)]
    rounds: usize,
    /// Most of a window, in percent, that client or server may wait for a CPU; the disk's kernel
    /// threads run on the server's
    #[arg(long, default_value_t = 25.0)]
    wait: f64,
    /// Go on with what was interrupted
    #[arg(long)]
    resume: bool,
    /// Say whether the ratios agree with those of this file, within 5 %
    #[arg(long, value_name = "JSON")]
    agree: Option<PathBuf>,
    /// Where tables, pictures and the journal go [default: `compare` beside this program]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Say what there is to measure, and measure nothing
    #[arg(long)]
    list: bool,
}

impl Args {
    /// Returns true if servers are needed.
    pub(crate) fn measures(&self) -> bool {
        !self.list
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let (workloads, missing) = chosen(args)?;
    let before = args.agree.as_deref().map(read_json).transpose()?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => bed::beside()?.join("compare"),
    };
    fs::create_dir_all(&out).map_err(|error| format!("cannot make {}: {error}", out.display()))?;

    let seed = args.bed.seed();
    let machine = Machine::look(seed);
    tell(&machine.to_string());
    let method = method(args, &workloads);
    let of_machine = machine.to_json();
    let mut identity = json!({ "method": method });
    for name in ["machine", "kernel", "commit", "programs"] {
        identity[name] = of_machine[name].clone();
    }
    let path = out.join("journal.jsonl");
    let mut journal = if args.resume {
        Journal::resume(&path, &identity)?
    } else {
        Journal::create(&path, &identity)?
    };
    missing.iter().for_each(|Missing { name, why }| tell(&format!("skipped  {name}: {why}")));
    let left: Duration = workloads.iter().map(|workload| time(args, workload, &journal)).sum();
    tell(&format!("time     about {} min; interrupted, it goes on with --resume", minutes(left)));

    let mut measurer = Measurer::new(seed, args.rounds)?;
    let mut groups = Vec::new();
    for workload in &workloads {
        let group = measure(args, workload, &mut measurer, &mut journal)?;
        tell(&format!("\n{}", group.to_string().trim_end()));
        groups.push(group);
    }
    tell(NOTES);
    let (dropped, failed) = groups
        .iter()
        .map(Group::lost_windows)
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    tell(&format!("{dropped} windows were dropped because of waiting, {failed} failed"));
    let json = results::to_json(&machine, method, &groups);
    let path = out.join("compare.json");
    fs::write(&path, format!("{json:#}\n"))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    pictures::draw(&out, &machine, &groups)?;
    tell(&format!("all numbers: {}; pictures beside it", path.display()));
    let agrees = before.map_or(Ok(true), |before| agree::tell_agreement(&before, &json))?;
    let is_good = agrees && failed == 0 && groups.iter().all(|group| group.is_whole(args.rounds));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const NOTES: &str = "
A ratio above 1: the reference (impasto-shm, impasto-disk) does better: the other takes so many
times the CPU for a request, the reference answers so many times the requests. Medians of rounds,
[quartiles]. *: the client was over 85 % busy: requests/s say what it can do, not the server.";

/// Returns what is measured, and why some of what there is cannot be.
fn chosen(args: &Args) -> Result<(Vec<Workload>, Vec<Missing>), Failure> {
    let (variants, missing) = variants::all();
    let known: Vec<&str> = variants.iter().map(|variant| variant.name).collect();
    for name in &args.servers {
        if let Some(Missing { name, why }) = missing.iter().find(|missing| missing.name == name) {
            return Err(format!("{name} cannot run here: {why}").into());
        }
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            return Err(format!("there is no server {name:?}; known are: {known}").into());
        }
    }
    let references: Vec<&str> = variants
        .iter()
        .filter(|variant| args.servers.iter().any(|name| name == variant.name))
        .map(|variant| variant.reference())
        .collect();
    let is_wanted = |variant: &&Variant| {
        let is_named = args.servers.iter().any(|name| name == variant.name);
        is_named || references.contains(&variant.name)
    };
    let quick = |variant: &&Variant| QUICK.contains(&variant.name);
    let variants: Vec<Variant> = match (args.servers.is_empty(), args.quick) {
        (false, _) => variants.iter().filter(is_wanted).copied().collect(),
        (true, true) => variants.iter().filter(quick).copied().collect(),
        (true, false) => variants,
    };
    let extent = if args.quick { Extent::Quick } else { Extent::Full };
    let names: Vec<&str> = match (args.only.as_slice(), args.quick) {
        ([], true) => vec!["post", "depth"],
        ([], false) => NAMES.iter().map(|(name, _)| *name).collect(),
        (only, _) => only.iter().map(String::as_str).collect(),
    };
    let mut workloads = Vec::new();
    for name in names {
        let workload = workloads::workload(name, extent, &variants).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("there is no workload {name:?}; known are: {}", known.join(", "))
        })?;
        if !workload.contenders.is_empty() {
            workloads.push(workload);
        }
    }
    if workloads.is_empty() {
        return Err("none of these servers does any of these workloads".into());
    }
    Ok((workloads, missing))
}

/// What README quotes.
const QUICK: [&str; 7] =
    ["impasto-shm", "impasto-off", "none", "v1", "v1b", "impasto-disk", "group"];

fn list() {
    tell("workloads");
    for (name, about) in NAMES {
        tell(&format!("  {name:<20} {about}"));
    }
    tell("servers");
    let (variants, missing) = variants::all();
    for Variant { name, about, .. } in variants {
        tell(&format!("  {name:<20} {about}"));
    }
    for Missing { name, why } in missing {
        tell(&format!("  {name:<20} not here: {why}"));
    }
}

/// Returns what has to be the same for windows to be of one measurement.
fn method(args: &Args, workloads: &[Workload]) -> Value {
    let workloads = workloads.iter().map(|workload| {
        let names = workload.contenders.iter().map(ToString::to_string);
        let points = workload.points.iter().map(ToString::to_string);
        json!({
            "name": workload.name,
            "servers": names.collect::<Vec<_>>(),
            "loads": points.collect::<Vec<_>>(),
        })
    });
    json!({
        "rounds": args.rounds,
        "window_seconds": args.bed.window.as_secs_f64(),
        "warm_up_seconds": args.bed.warm_up.as_secs_f64(),
        "wait_max_percent": args.wait,
        "region_bytes": args.bed.region,
        "places": args.bed.places(),
        "server_core": args.bed.server_core,
        "client_core": args.bed.client_core,
        "workloads": workloads.collect::<Vec<_>>(),
    })
}

/// Returns about how long a workload still takes.
fn time(args: &Args, workload: &Workload, journal: &Journal) -> Duration {
    let missing = args.rounds.saturating_sub(journal.rounds(workload.name).len());
    if missing == 0 {
        return Duration::ZERO;
    }
    let cells = workload.contenders.len() * workload.points.len();
    let windows = u32::try_from((missing + 2) * cells).unwrap_or(u32::MAX);
    let servers = u32::try_from(workload.contenders.len()).unwrap_or(u32::MAX);
    (args.bed.window + args.bed.warm_up + BETWEEN) * windows + START * servers
}

/// Between two windows: a server is woken, connected to, trimmed, stopped.
const BETWEEN: Duration = Duration::from_millis(40);
/// A region is created.
const START: Duration = Duration::from_millis(500);

fn minutes(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() / 60.0)
}

fn read_json(path: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text)
        .map_err(|error| format!("{} is no result of a comparison: {error}", path.display()))?)
}

/// Measures the rounds of a workload that the journal lacks.
fn measure(
    args: &Args,
    workload: &Workload,
    measurer: &mut Measurer,
    journal: &mut Journal,
) -> Result<Group, Failure> {
    let floor: &[&'static str] =
        if workload.contenders.iter().any(is_on_disk) { &FLOOR } else { &[] };
    let kept = journal.rounds(workload.name);
    if kept.len() >= args.rounds {
        return Ok(Group::of(workload, floor, &Rounds::of_before(kept)));
    }
    let servers: Vec<_> =
        workload.contenders.iter().map(|contender| up(args, workload, contender)).collect();
    for failure in servers.iter().filter_map(|server| server.as_ref().err()) {
        tell(&format!("failed   {failure}"));
    }
    let raw = if floor.is_empty() { None } else { Some(raw_file(args)?) };
    let wait_max = args.wait / 100.0;
    let mut cells = Vec::new();
    for (block, point) in workload.points.iter().enumerate() {
        for (server, contender) in servers.iter().zip(&workload.contenders) {
            // Accepting and closing, io_uring's own threads wait for the server's core.
            let is_crowded = contender.is_crowded() || point.ask == Ask::Short;
            let wait_max = if is_crowded { f64::INFINITY } else { wait_max };
            let visit = match server {
                Ok((server, _)) => {
                    Visit::Load { server, plan: Box::new(point.plan(&args.bed, server)) }
                }
                Err(failure) => Visit::Nothing(failure.to_string()),
            };
            cells.push(Cell { name: format!("{contender}, {point}"), visit, wait_max, block });
        }
    }
    let overwrites = raw
        .iter()
        .flat_map(|(file, _)| [(FLOOR[0], file, Sync::Direct), (FLOOR[1], file, Sync::Fdatasync)]);
    for (name, file, by) in overwrites {
        let (core, time) = (args.bed.server_core, args.bed.window);
        let visit = Visit::Overwrite { file, by, core, time };
        let block = workload.points.len();
        cells.push(Cell { name: name.to_owned(), visit, wait_max, block });
    }
    let mut keep = |round: &_| journal.keep(workload.name, round);
    let rounds = measurer.go_on(workload.name, &cells, Rounds::of_before(kept), &mut keep)?;
    Ok(Group::of(workload, floor, &rounds))
}

/// Makes a file on the disk that is measured; it goes with its directory.
fn raw_file(args: &Args) -> Result<(RawFile, TempDir), Failure> {
    let dir = args.bed.disk()?;
    Ok((RawFile::create(&dir.path().join("raw"), RAW_BYTES)?, dir))
}

/// Starts a contender, has it store what is read, and stops it until it is measured.
fn up(
    args: &Args,
    workload: &Workload,
    contender: &Contender,
) -> Result<(Server, TempDir), Failure> {
    let up = contender.start(&args.bed)?;
    up.0.resume()?;
    // Once: all points of a workload read the same record.
    if let Some(point) = workload.points.first() {
        point.prepare(&up.0).map_err(|failure| format!("{contender}: {failure}"))?;
    }
    up.0.pause()?;
    Ok(up)
}

fn is_on_disk(contender: &Contender) -> bool {
    contender.variant.medium == Medium::Disk
}

/// The disk without a server.
const FLOOR: [&str; 2] =
    ["4 KiB overwritten with O_DIRECT | O_DSYNC", "4 KiB overwritten, fdatasync"];
const RAW_BYTES: u64 = 64 << 20;
