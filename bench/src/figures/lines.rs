//! The lines: which servers, which windows, which ratios.

use std::env;

use tempfile::TempDir;

use super::{
    Args,
    report::{Aim, CellReport, Figure, Line},
};
use crate::{
    cli::Failure,
    client::{Limit, Plan, Trim},
    load::trim,
    process::{Server, impasto_takes},
    protocol::Request,
    raw::{RawFile, Sync},
    rounds::{Cell, Measurer, Rounds, Visit},
    statistics::Random,
};

/// What all lines share.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) args: &'a Args,
    /// Size of a region for long bodies.
    pub(super) body_region: u64,
}

impl Bench<'_> {
    /// `shm` against the same server with flush and fence left out.
    pub(super) fn shm(&self, measurer: &mut Measurer) -> Result<Line, Failure> {
        const NAME: &str = "shm: 1 KiB POST, against the same server without flush and fence";
        let dirs = [self.args.bed.memory()?, self.args.bed.memory()?];
        let durable = self.args.bed.own(&["serve"], &dirs[0], &[])?;
        let skipped = self.args.bed.own(&["serve"], &dirs[1], &["--without-flush"])?;
        let servers = [("shm", &durable), ("skipped", &skipped)];
        let cells: Vec<Cell<'_>> = CONNECTIONS
            .into_iter()
            .flat_map(|connections| servers.map(|(name, server)| (name, server, connections)))
            .map(|(name, server, connections)| self.append_cell(name, server, connections))
            .collect();
        let rounds = measurer.measure("shm", &cells)?;
        let mut figures = Vec::new();
        for (index, connections) in CONNECTIONS.into_iter().enumerate() {
            let pair = [2 * index, 2 * index + 1];
            figures.push(Figure {
                name: format!("requests/s, shm/skipped, {connections} connections"),
                found: rounds.across(pair, |[shm, skip]| shm.requests_rate / skip.requests_rate),
                aim: Aim::AtLeast(0.95),
            });
            figures.push(Figure {
                name: format!("CPU/request, shm/skipped, {connections} connections"),
                found: rounds.across(pair, |[shm, skip]| shm.server_us / skip.server_us),
                aim: Aim::None,
            });
        }
        Ok(line(NAME, &cells, &rounds, figures))
    }

    /// `disk` against `shm`, and against the disk itself.
    pub(super) fn disk(&self, measurer: &mut Measurer) -> Result<Line, Failure> {
        const NAME: &str = "disk: 1 KiB POST, against shm and against the raw disk";
        let (memory, disk) = (self.args.bed.memory()?, self.args.bed.disk()?);
        let (args, region) = (self.args, self.args.bed.region);
        let shm_server = self.impasto(&memory, "shm", region, &[], &[args.bed.server_core])?;
        let disk_server = self.impasto(&disk, "disk", region, &[], &[args.bed.server_core])?;
        let file = RawFile::create(&disk.path().join("raw"), RAW_BYTES)?;
        let cells = [
            self.append_cell("disk", &disk_server, 100),
            self.append_cell("shm", &shm_server, 100),
            self.append_cell("disk", &disk_server, 1),
            self.append_cell("shm", &shm_server, 1),
            Cell {
                name: "raw 4 KiB overwrite".into(),
                visit: Visit::Overwrite {
                    file: &file,
                    by: Sync::Direct,
                    core: args.bed.server_core,
                    time: args.bed.window,
                },
                wait_max: args.wait / 100.0,
                block: 0,
            },
        ];
        let rounds = measurer.measure("disk", &cells)?;
        let figures = vec![
            Figure {
                name: "requests/s, disk/shm, 100 connections".into(),
                found: rounds.across([0, 1], |[disk, shm]| disk.requests_rate / shm.requests_rate),
                aim: Aim::AtLeast(0.6),
            },
            Figure {
                name: "p50, (disk - shm)/raw overwrite, 1 connection".into(),
                found: rounds
                    .across([2, 3, 4], |[disk, shm, raw]| (disk.p50_us - shm.p50_us) / raw.p50_us),
                aim: Aim::AtMost(1.2),
            },
        ];
        Ok(line(NAME, &cells, &rounds, figures))
    }

    /// Long bodies on `disk`, against the disk and against the loopback.
    pub(super) fn bodies(&self, measurer: &mut Measurer) -> Result<Line, Failure> {
        const NAME: &str = "bodies: long POST, 4 at once, against the raw disk and the loopback";
        let disk = self.args.bed.disk()?;
        let (args, cores) = (self.args, [self.args.bed.server_core]);
        let server = self.impasto(&disk, "disk", self.body_region, &[], &cores)?;
        let file = RawFile::create(&disk.path().join("raw"), RAW_BYTES)?;
        // The same requests to both: the length of one is what the receiver goes by.
        let body = Random::new(args.body).bytes(usize::try_from(args.body)?);
        let upload = Request::new("POST", server.address(), LOG, &body).expect_status(201);
        let request_bytes = upload.len_bytes().to_string();
        let discard = ["discard", "--request-bytes", &request_bytes].map(str::to_owned);
        let receiver = Server::start(&env::current_exe()?, &discard, &cores)?;
        receiver.pause()?;
        let requests = (BODY_WINDOW_BYTES / args.body.max(1)).clamp(8, 100_000);
        let cell = |name: &str, server, trim| {
            let mut plan = self.args.bed.plan(server, 4, upload.clone(), trim);
            plan.limit = Limit::Requests(requests);
            self.cell(name, server, plan)
        };
        let cells = [
            cell("disk", &server, self.trim(&server, self.body_region)),
            cell("receive and discard", &receiver, None),
            Cell {
                name: "raw sequential write".into(),
                visit: Visit::Sequential { file: &file, core: args.bed.server_core },
                wait_max: f64::INFINITY,
                block: 0,
            },
        ];
        let rounds = measurer.measure("bodies", &cells)?;
        let figures = vec![
            Figure {
                name: "MB/s, disk/lesser of raw write and receive".into(),
                found: rounds.across([0, 1, 2], |[disk, receive, raw]| {
                    disk.bytes_rate / receive.bytes_rate.min(raw.bytes_rate)
                }),
                aim: Aim::AtLeast(0.7),
            },
            Figure {
                name: "MB/s, receive/raw write".into(),
                found: rounds.across([1, 2], |[receive, raw]| receive.bytes_rate / raw.bytes_rate),
                aim: Aim::None,
            },
        ];
        Ok(line(NAME, &cells, &rounds, figures))
    }

    /// Two workers against one.
    pub(super) fn workers(&self, measurer: &mut Measurer) -> Result<Line, Failure> {
        const NAME: &str = "workers: 1 KiB POST on shm, two workers against one";
        if !impasto_takes("--workers")? {
            let skipped = Some("this server has no --workers".to_owned());
            return Ok(Line { name: NAME, cells: Vec::new(), figures: Vec::new(), skipped });
        }
        let args = self.args;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let is_free = |core: &usize| *core != args.bed.server_core && *core != args.bed.client_core;
        let spare = (0..cores).find(is_free);
        let two_cores = [args.bed.server_core, spare.unwrap_or(args.bed.client_core)];
        let (one_dir, two_dir) = (self.args.bed.memory()?, self.args.bed.memory()?);
        let workers = |count| ["--workers", count];
        let (region, core) = (args.bed.region, args.bed.server_core);
        let one = self.impasto(&one_dir, "shm", region, &workers("1"), &[core])?;
        let two = self.impasto(&two_dir, "shm", region, &workers("2"), &two_cores)?;
        let mut cells =
            [self.append_cell("1 worker", &one, 32), self.append_cell("2 workers", &two, 32)];
        if spare.is_none() {
            // The second worker shares the client's core: it has to wait, and CPU time knows.
            cells[1].wait_max = f64::INFINITY;
        }
        let rounds = measurer.measure("workers", &cells)?;
        let figures = vec![Figure {
            name: "CPU/request, two workers/one, 32 connections".into(),
            found: rounds.across([1, 0], |[two, one]| two.server_us / one.server_us),
            aim: Aim::AtMost(1.15),
        }];
        Ok(line(NAME, &cells, &rounds, figures))
    }

    /// `shm` by epoll, against what one would write by hand, and beside it by io_uring.
    pub(super) fn epoll(&self, measurer: &mut Measurer) -> Result<Line, Failure> {
        const NAME: &str = "epoll: 1 KiB POST on shm, against an epoll server written by hand";
        let dirs = [self.args.bed.memory()?, self.args.bed.memory()?, self.args.bed.memory()?];
        let (region, cores) = (self.args.bed.region, [self.args.bed.server_core]);
        let serve =
            |dir, io| self.impasto(dir, "shm", region, &["--workers", "1", "--io", io], &cores);
        let (epoll, uring) = (serve(&dirs[0], "epoll")?, serve(&dirs[1], "uring")?);
        let baseline = self.args.bed.own(&["baseline", "v1b"], &dirs[2], &[])?;
        let servers = [("epoll", &epoll), ("by hand", &baseline), ("io_uring", &uring)];
        let cells: Vec<Cell<'_>> = CONNECTIONS
            .into_iter()
            .flat_map(|connections| servers.map(|(name, server)| (name, server, connections)))
            .map(|(name, server, connections)| self.append_cell(name, server, connections))
            .collect();
        let rounds = measurer.measure("epoll", &cells)?;
        let mut figures = Vec::new();
        for (index, connections) in CONNECTIONS.into_iter().enumerate() {
            let [epoll, hand, uring] = [0, 1, 2].map(|server| 3 * index + server);
            figures.push(Figure {
                name: format!("requests/s, epoll/by hand, {connections} connections"),
                found: rounds.across([epoll, hand], |[a, b]| a.requests_rate / b.requests_rate),
                aim: Aim::AtLeast(0.95),
            });
            figures.push(Figure {
                name: format!("CPU/request, epoll/by hand, {connections} connections"),
                found: rounds.across([epoll, hand], |[a, b]| a.server_us / b.server_us),
                aim: Aim::None,
            });
            figures.push(Figure {
                name: format!("requests/s, epoll/io_uring, {connections} connections"),
                found: rounds.across([epoll, uring], |[a, b]| a.requests_rate / b.requests_rate),
                aim: Aim::None,
            });
        }
        Ok(line(NAME, &cells, &rounds, figures))
    }

    /// Starts `impasto serve` with the arguments that were given for it, too.
    fn impasto(
        &self,
        dir: &TempDir,
        medium: &str,
        region: u64,
        more: &[&str],
        cores: &[usize],
    ) -> Result<Server, Failure> {
        let given = self.args.server_arg.iter().map(String::as_str);
        let more: Vec<&str> = more.iter().copied().chain(given).collect();
        self.args.bed.impasto(dir, medium, region, &more, cores)
    }

    fn append_cell<'s>(&self, name: &str, server: &'s Server, connections: usize) -> Cell<'s> {
        let body = Random::new(BODY_BYTES as u64).bytes(BODY_BYTES);
        let request = Request::new("POST", server.address(), LOG, &body).expect_status(201);
        let trim = self.trim(server, self.args.bed.region);
        let plan = self.args.bed.plan(server, connections, request, trim);
        self.cell(&format!("{name}, {connections}"), server, plan)
    }

    fn cell<'s>(&self, name: &str, server: &'s Server, plan: Plan) -> Cell<'s> {
        let wait_max = self.args.wait / 100.0;
        let visit = Visit::Load { server, plan: plan.into() };
        Cell { name: name.to_owned(), visit, wait_max, block: 0 }
    }

    /// Returns the trim of a log when an eighth of its region was appended.
    fn trim(&self, server: &Server, region: u64) -> Option<Trim> {
        Some(trim(server.address(), LOG, region / 8))
    }
}

fn line(name: &'static str, cells: &[Cell<'_>], rounds: &Rounds, figures: Vec<Figure>) -> Line {
    Line { name, cells: CellReport::of(cells, rounds), figures, skipped: None }
}

const LOG: &str = "/v1/logs/figures";
const BODY_BYTES: usize = 1024;
const CONNECTIONS: [usize; 3] = [8, 32, 100];
/// The raw file: more than a disk's own cache would swallow, and less than a second's work.
const RAW_BYTES: u64 = 256 << 20;
/// What a window of long bodies moves, unless 8 of them are more.
const BODY_WINDOW_BYTES: u64 = 256 << 20;
