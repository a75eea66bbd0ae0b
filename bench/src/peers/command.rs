//! `impasto-bench peers`: Impasto beside the peers that are installed here.
//!
//! All that promise the same are up at once, stopped but for the one that is visited. Ratios are
//! taken within a round.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::builder::PossibleValuesParser;

use super::{
    ALL, Found, Keeps, Peer, Running, Start,
    report::{self, Row, Table},
};
use crate::{
    bed::{self, Bed},
    cli::{self, Failure, tell},
    client::{self, Limit, Plan},
    load::trim,
    machine::Machine,
    process::{Server, impasto},
    protocol::Request,
    raw::{RawFile, Sync},
    rounds::{Cell, Measurer, Rounds, Visit, WARM_ROUNDS},
    statistics::Random,
};

/// Options of `impasto-bench peers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bed: Bed,
    /// Measure only these: `redis,etcd`
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,100", value_parser = cli::positive)]
    connections: Vec<usize>,
    /// Numbers of requests on the way on each of them
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = cli::positive)]
    pipeline: Vec<usize>,
    /// Length of a value
    #[arg(long, default_value = "1024", value_parser = cli::size)]
    size: u64,
    /// Rounds that count
    #[arg(long, default_value = "40", value_parser = cli::positive)]
    rounds: usize,
    /// Two minutes: fewer rounds, shorter windows, 1 and 32 connections
    #[arg(long, conflicts_with_all = ["rounds", "connections", "window", "warm_up"])]
    quick: bool,
    /// Most of a window, in percent, that server or client may wait for a CPU; the disk's kernel
    /// threads run on the server's
    #[arg(long, default_value_t = 25.0)]
    wait: f64,
    /// Measure nothing: start each, ask for its settings, send 200 requests, and stop it
    #[arg(long)]
    check: bool,
    /// How many seconds a peer may take to come up
    #[arg(long, default_value = "60", value_parser = cli::seconds)]
    patience: Duration,
    /// Fail if a peer is not installed
    #[arg(long)]
    deny_skips: bool,
    /// File for all numbers [default: peers.json beside this program]
    #[arg(long)]
    json: Option<PathBuf>,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ALL.map(|peer| peer.name))
}

/// Measures, or checks, and says how it went.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let run = Run::new(args);
    let (found, skipped) = run.find();
    if found.is_empty() {
        return Err("none of them is installed".into());
    }
    let all_good = if args.check { run.check(&found) } else { run.measure(&found)? };
    let is_denied = skipped > 0 && args.deny_skips;
    Ok(if all_good && !is_denied { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A peer that is installed here.
type Installed = (Peer, Found);

/// The options, with what `--quick` makes of them.
struct Run<'a> {
    args: &'a Args,
    bed: Bed,
    connections: Vec<usize>,
    rounds: usize,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args) -> Self {
        let mut run = Self {
            args,
            bed: args.bed.clone(),
            connections: args.connections.clone(),
            rounds: args.rounds,
        };
        if args.quick {
            run.connections = vec![1, 32];
            run.rounds = 12;
            run.bed.window = Duration::from_millis(100);
            run.bed.warm_up = Duration::from_millis(30);
        }
        run
    }

    /// Returns the peers that are wanted and installed, and how many are not.
    fn find(&self) -> (Vec<Installed>, usize) {
        let only = &self.args.only;
        let is_wanted = |peer: &Peer| only.is_empty() || only.iter().any(|name| name == peer.name);
        let (mut found, mut skipped) = (Vec::new(), 0);
        for peer in ALL.into_iter().filter(is_wanted) {
            match (peer.find)() {
                Some(here) => found.push((peer, here)),
                None => {
                    skipped += 1;
                    tell(&format!("skipped: {} is not installed: {}", peer.name, peer.install));
                }
            }
        }
        (found, skipped)
    }

    fn start(&self, (peer, found): &Installed, keeps: Keeps) -> Result<Running, Failure> {
        let start = Start {
            cores: &[self.bed.server_core],
            connections: self.connections.iter().copied().max().unwrap_or(1),
            size: self.args.size,
            patience: self.args.patience,
        };
        let dir = match keeps {
            Keeps::Durable => self.bed.disk()?,
            Keeps::Nothing => self.bed.memory()?,
        };
        Running::start(*peer, found.clone(), keeps, dir, &start)
    }

    /// Starts each peer, alone, sends it some requests, and stops it. Returns true if all was well.
    fn check(&self, found: &[Installed]) -> bool {
        let mut all_good = true;
        for (peer, here) in found {
            for keeps in peer.keeps {
                let name = format!("{} {}, {keeps}", peer.name, here.version);
                match self.check_one(&(*peer, here.clone()), *keeps) {
                    Ok(setting) => tell(&format!("{name}: ok: {setting}")),
                    Err(why) => {
                        all_good = false;
                        tell(&format!("{name}: failed: {why}"));
                    }
                }
            }
        }
        all_good
    }

    fn check_one(&self, installed: &Installed, keeps: Keeps) -> Result<String, Failure> {
        let running = self.start(installed, keeps)?;
        running.server.resume()?;
        let plan = self.plan_of(&running, CHECK_CONNECTIONS, 2);
        let plan = Plan { limit: Limit::Requests(CHECK_REQUESTS), ..plan };
        let outcome = client::run(&plan)?;
        if outcome.errors.total() > 0 || outcome.requests < CHECK_REQUESTS {
            let why = running.server.last_words();
            return Err(format!("{} requests, {}; {why}", outcome.requests, outcome.errors).into());
        }
        let setting = running.setting.clone();
        running.stop()?;
        Ok(setting)
    }

    /// Returns true if all was well.
    fn measure(&self, found: &[Installed]) -> Result<bool, Failure> {
        // Said now, not after the peers have come up.
        impasto()?;
        let seed = self.bed.seed();
        let machine = Machine::look(seed);
        tell(&machine.to_string());
        let mut measurer = Measurer::new(seed, self.rounds)?;
        let mut tables = Vec::new();
        for keeps in [Keeps::Durable, Keeps::Nothing] {
            let can = found.iter().filter(|(peer, _)| peer.keeps.contains(&keeps));
            let can: Vec<&Installed> = can.collect();
            if !can.is_empty() {
                let table = self.table(&mut measurer, &can, keeps)?;
                tell(&format!("\n{}", table.to_string().trim_end()));
                tables.push(table);
            }
        }
        let path = match &self.args.json {
            Some(path) => path.clone(),
            None => bed::beside()?.join("peers.json"),
        };
        fs::write(&path, report::to_json(&machine, &tables))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        tell(&format!("\nall numbers: {}", path.display()));
        Ok(tables.iter().all(Table::is_whole))
    }

    /// Measures all that promise the same.
    fn table(
        &self,
        measurer: &mut Measurer,
        installed: &[&Installed],
        keeps: Keeps,
    ) -> Result<Table, Failure> {
        let (dir, medium) = match keeps {
            Keeps::Durable => (self.bed.disk()?, "disk"),
            Keeps::Nothing => (self.bed.memory()?, "shm"),
        };
        let cores = [self.bed.server_core];
        let more = ["--workers", "1"];
        let impasto = self.bed.impasto(&dir, medium, self.bed.region, &more, &cores)?;
        let raw = match keeps {
            Keeps::Durable => Some(RawFile::create(&dir.path().join("raw"), RAW_BYTES)?),
            Keeps::Nothing => None,
        };
        let (mut running, mut missing) = (Vec::new(), Vec::new());
        for installed in installed {
            match self.start(installed, keeps) {
                Ok(peer) => running.push(peer),
                Err(why) => {
                    let line = format!("{}: not measured: {why}", installed.0.name);
                    tell(&line);
                    missing.push(line);
                }
            }
        }
        let ours = format!("impasto {medium}");
        let (cells, raw_cell) = self.cells(&impasto, &ours, &running, raw.as_ref());
        tell(&self.time_of(cells.len(), keeps));
        let rounds = measurer.measure(&keeps.to_string(), &cells)?;
        missing.extend(running.iter().filter_map(Running::obituary));
        let mut servers = vec![(ours, format!("medium {medium}"))];
        servers.extend(running.iter().map(|peer| (peer.title(), peer.setting.clone())));
        let rows = self.rows(&servers, &rounds, raw_cell);
        let title = format!("{keeps}: writes of {} B", self.args.size);
        Ok(Table { title, servers, rows, missing })
    }

    /// Returns how long a measurement takes.
    fn time_of(&self, cells: usize, keeps: Keeps) -> String {
        let windows = cells * (WARM_ROUNDS + self.rounds);
        let seconds = windows as f64 * (self.bed.window + self.bed.warm_up).as_secs_f64();
        format!("{keeps}: {cells} cells, {windows} windows, about {seconds:.0} s")
    }

    /// Under each load first Impasto, then every peer; behind all the raw disk.
    fn cells<'s>(
        &self,
        impasto: &'s Server,
        ours: &str,
        running: &'s [Running],
        raw: Option<&'s RawFile>,
    ) -> (Vec<Cell<'s>>, Option<usize>) {
        let wait_max = self.args.wait / 100.0;
        let mut cells = Vec::new();
        for (block, (connections, pipeline)) in self.loads().enumerate() {
            let plan = self.plan_of_impasto(impasto, connections, pipeline).into();
            let visit = Visit::Load { server: impasto, plan };
            cells.push(Cell { name: ours.to_owned(), visit, wait_max, block });
            cells.extend(running.iter().map(|peer| {
                let plan = self.plan_of(peer, connections, pipeline).into();
                let wait_max = if peer.peer.crowded { f64::INFINITY } else { wait_max };
                let visit = Visit::Load { server: &peer.server, plan };
                Cell { name: peer.peer.name.into(), visit, wait_max, block }
            }));
        }
        let raw_cell = raw.map(|file| {
            let core = self.bed.server_core;
            let visit = Visit::Overwrite { file, by: Sync::Direct, core, time: self.bed.window };
            cells.push(Cell { name: RAW.into(), visit, wait_max, block: 0 });
            cells.len() - 1
        });
        (cells, raw_cell)
    }

    /// Returns the loads: connections, and requests on the way on each.
    fn loads(&self) -> impl Iterator<Item = (usize, usize)> {
        let pipelines = self.args.pipeline.iter().copied();
        pipelines.flat_map(|depth| self.connections.iter().map(move |count| (*count, depth)))
    }

    fn rows(
        &self,
        servers: &[(String, String)],
        rounds: &Rounds,
        raw_cell: Option<usize>,
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, (connections, pipeline)) in self.loads().enumerate() {
            let first = index * servers.len();
            let load = match (connections, pipeline) {
                (1, 1) => "1 connection".to_owned(),
                (count, 1) => format!("{count} connections"),
                (count, depth) => format!("{count} conn., depth {depth}"),
            };
            for (offset, (name, _)) in servers.iter().enumerate() {
                let cell = first + offset;
                rows.push(Row::of(load.clone(), name.clone(), rounds, cell, Some(first)));
            }
        }
        if let Some(cell) = raw_cell {
            rows.push(Row::of("the disk itself".into(), RAW.into(), rounds, cell, None));
        }
        rows
    }

    fn plan_of_impasto(&self, server: &Server, connections: usize, pipeline: usize) -> Plan {
        let body = Random::new(self.args.size).bytes(self.size());
        let request = Request::new("POST", server.address(), LOG, &body).expect_status(201);
        let trim = trim(server.address(), LOG, self.bed.region / 8);
        let plan = self.bed.plan(server, connections, request, Some(trim));
        Plan { pipeline, ..plan }
    }

    fn plan_of(&self, peer: &Running, connections: usize, pipeline: usize) -> Plan {
        let work = peer.writes(self.size());
        Plan { pipeline, ..self.bed.load(&peer.server, connections, work) }
    }

    fn size(&self) -> usize {
        usize::try_from(self.args.size).expect("a value fits into memory")
    }
}

const LOG: &str = "/v1/logs/peers";
const RAW: &str = "raw 4 KiB overwrite";
/// More than a disk's own cache would swallow, and less than a second's work.
const RAW_BYTES: u64 = 256 << 20;
const CHECK_CONNECTIONS: usize = 4;
const CHECK_REQUESTS: u64 = 200;
