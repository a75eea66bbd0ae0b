//! `impasto serve`: opens or creates the region, listens, and serves until it is told to stop.

mod io;
mod limits;
mod listeners;
mod notify;
mod workers;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use impasto::{
    media::{CpuLines, Disk, FileDev, Medium, Pmem},
    region::{
        Frames, Region,
        layout::{BUF_BYTES, Geometry, MediumKind},
    },
    server::{
        self, Shared, SharedParts, StartError,
        config::{self, Options, VALUE_BYTES_MAX, workers_max},
    },
    store::{BadRecord, Corruption, Recovery},
};

use super::{
    Failure,
    args::{self, MediumArg},
    banner::Banner,
    create::{self, Wanted},
    damage::Refused,
    medium,
    memory::{self, Sum},
    tell,
};
use io::{Chosen, Io, IoArg};
use listeners::Listeners;
pub(super) use listeners::Place;
use workers::{Served, Stop};

/// Options of `impasto serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file with these options, in TOML: `size = "1GiB"`; what stands here comes before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say what is in effect, or what is wrong with it, and serve nothing
    #[arg(long)]
    check_config: bool,
    /// Directory of the region, the file that holds all records; or a /dev/dax, which is the region
    #[arg(long, value_name = "DIR", default_value = "./impasto-data")]
    data: PathBuf,
    /// Size of the region, fixed when it is created: a multiple of 1MiB, at least 16MiB
    /// [default for a new region: 1GiB]
    #[arg(long, value_parser = args::size)]
    size: Option<Geometry>,
    /// What makes records durable
    #[arg(long, value_enum, default_value_t = MediumArg::Auto)]
    medium: MediumArg,
    /// Memory that the region, and what is received for it, may take: all of it, in this version
    /// [default: what it needs]
    #[arg(long, value_name = "SIZE", value_parser = args::bytes)]
    memory: Option<u64>,
    /// Address to listen on, can be given several times; there is no access control, so mind who
    /// can reach it [default: 127.0.0.1:8080, if no other socket is given]
    #[arg(long, value_name = "HOST:PORT", value_parser = args::address)]
    http: Vec<SocketAddr>,
    /// Unix socket to listen on, can be given several times
    #[arg(long, value_name = "PATH")]
    unix: Vec<PathBuf>,
    /// Threads that serve, 1 to 64 [default: one for each core, if the region has room for them]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(WORKERS_MAX)))]
    workers: Option<u32>,
    /// How to wait for packets and for the disk
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    io: IoArg,
    /// Never wait, but look for packets all the time: takes all of a core for each worker
    #[arg(long)]
    busy_poll: bool,
    /// Most connections at a time; the next ones wait
    #[arg(long, value_name = "N", default_value_t = 16384,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Longest record that is taken, up to 64MiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = value_max)]
    value_max: u32,
    /// Origin whose pages may send requests from a browser, as https://example.org; `*` for all
    /// pages; may be said several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Time after which a connection without a request is closed; 0 for never
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = args::time)]
    idle_timeout: Duration,
    /// Time that a client has for the head of a request, and for its first request
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = args::some_time)]
    header_timeout: Duration,
    /// Time that a client may send nothing in the middle of a body, or take nothing of a reply
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = args::some_time)]
    body_timeout: Duration,
    /// Say what is served as one line of JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Returns true if nothing is to be served.
    pub(super) const fn is_check(&self) -> bool {
        self.check_config
    }

    fn options(&self) -> Options {
        Options {
            value_bytes_max: self.value_max,
            idle: (!self.idle_timeout.is_zero()).then_some(self.idle_timeout),
            head: self.header_timeout,
            body: self.body_timeout,
            allow_origin: self.allow_origin.clone(),
        }
    }

    /// Returns how many workers serve a region: as many as were asked for, or one for each core.
    fn workers(&self, geometry: Geometry, medium: MediumKind) -> Result<u32, Failure> {
        let most = match medium {
            MediumKind::Disk => WORKERS_MAX,
            MediumKind::Shm | MediumKind::Pmem => workers_max(geometry).min(WORKERS_MAX),
        };
        let Some(asked) = self.workers else {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            return Ok(u32::try_from(cores).unwrap_or(u32::MAX).min(most));
        };
        if asked > most {
            let size = args::size_text(geometry.region_bytes());
            return Err(format!(
                "a region of {size} in memory has room for what {most} workers receive, not \
                 {asked}: say --workers {most}, or create a larger one"
            )
            .into());
        }
        Ok(asked)
    }
}

/// Parses `--value-max`.
fn value_max(text: &str) -> Result<u32, String> {
    let bytes = args::bytes(text)?;
    let fits = u32::try_from(bytes).ok().filter(|bytes| *bytes <= VALUE_BYTES_MAX);
    fits.ok_or_else(|| "a record is at most 64MiB".into())
}

/// Most workers.
const WORKERS_MAX: u32 = 64;

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // What may be refused is asked for before a region is created, which takes time and space.
    match io::choose(args.io)? {
        Chosen::Uring(io) => run_on(args, io, "io_uring"),
        Chosen::Epoll(io, how) => run_on(args, io, &how),
    }
}

fn run_on(args: &Args, mut io: impl Io, how: &str) -> Result<ExitCode, Failure> {
    let wanted =
        Wanted { dir: &args.data, size: args.size, medium: args.medium, memory: args.memory };
    // The region first, if there is one: waiting for its lock is waiting for all that a killed
    // server has left behind, its address included.
    let found = if Region::exists(&args.data)? { Some(create::open(wanted)?) } else { None };
    let (geometry, medium) = match &found {
        Some(region) => (region.superblock().geometry, region.medium()),
        None => (create::size(wanted)?, medium::choose(args.medium, &args.data, None)?),
    };
    let workers = args.workers(geometry, medium)?;
    if medium == MediumKind::Disk {
        // On other media they are in the region.
        let landing = config::landing_bufs(geometry, workers) * workers;
        memory::check(geometry, u64::from(landing) * u64::from(BUF_BYTES), args.memory)?;
    }
    let flows_max = limits::connections(args.connections, workers)?;
    let listeners = Listeners::open(&args.http, &args.unix)?;
    let region = match found {
        Some(region) => region,
        None => create::open(wanted)?,
    };
    io.hold(region.lock())?;
    let flush = None;
    let mut serve = Serve { args, region: &region, listeners, workers, flows_max, how, flush };
    match region.medium() {
        MediumKind::Disk => {
            let medium = Disk::new(FileDev::new(region.open_direct()?));
            let bufs = config::landing_bufs(geometry, workers) * workers;
            let frames = Frames::anonymous(geometry, bufs).map_err(no_memory)?;
            serve.run(io, medium, frames)?;
        }
        kind @ (MediumKind::Shm | MediumKind::Pmem) => {
            let caches_persist = kind == MediumKind::Pmem && region.caches_persist();
            let lines = if caches_persist { CpuLines::fence_only() } else { CpuLines::detect() };
            serve.flush = lines.name();
            serve.run(io, Pmem::new(lines, kind), region.map()?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says why a region is not served, and what to do.
fn refusal(dir: &Path, error: &StartError) -> Failure {
    let dir = dir.display();
    match error {
        StartError::Corruption(Corruption::Record {
            error: BadRecord::Kind { .. } | BadRecord::Flags { .. },
            ..
        }) => format!("cannot serve {dir}: {error}").into(),
        StartError::Corruption(_) => Refused(format!(
            "cannot serve {dir}: {error}; `impasto repair {dir}` tells what can be done"
        ))
        .into(),
        _ => format!("cannot serve {dir}: {error}").into(),
    }
}

fn no_memory(error: std::io::Error) -> Failure {
    format!("cannot map the region into memory: {error}").into()
}

/// A region about to be served.
struct Serve<'a> {
    args: &'a Args,
    region: &'a Region,
    listeners: Listeners,
    workers: u32,
    flows_max: usize,
    /// How it waits.
    how: &'a str,
    /// What lines are flushed with, where they need it.
    flush: Option<&'static str>,
}

impl Serve<'_> {
    /// Recovers the region and serves it until a signal.
    fn run<I: Io, M: Medium<I> + Send>(
        self,
        mut io: I,
        mut medium: M,
        mut frames: Frames,
    ) -> Result<(), Failure> {
        let Self { args, region, mut listeners, workers, flows_max, how, flush } = self;
        let superblock = *region.superblock();
        let geometry = superblock.geometry;
        let start = Instant::now();
        let mut recovery = Recovery::new(superblock);
        if region.damaged_copy().is_some() {
            recovery = recovery.beside_damage();
        }
        let (store, report) = server::start_from(&mut io, &mut medium, &mut frames, recovery)
            .map_err(|error| refusal(&args.data, &error))?;
        let sockets = listeners.take();
        let banner = Banner {
            medium: region.medium(),
            flush,
            dir: &args.data,
            region_bytes: geometry.region_bytes(),
            entries: report.records,
            recovery: start.elapsed(),
            io: how,
            workers,
            connections: (flows_max, args.connections as usize),
            places: &listeners.places,
            memory: Sum::new(geometry, region.medium(), workers, report.records),
            copy_on_write: region.copy_on_write(),
        };
        let options = args.options();
        let parts = SharedParts { medium, frames, workers, store, geometry, options };
        let served: Served<'_, I, M> = Served {
            shared: Shared::new(parts),
            region,
            workers,
            busy_poll: args.busy_poll,
            stall_max: args.body_timeout,
            flows_max,
        };
        let stop = Stop::new()?;
        let ready = || {
            tell(&if args.json { banner.to_json() } else { banner.to_string() });
            notify::ready(&banner.status());
        };
        let look = || served.shared.with_frames(|_| ());
        notify::watched(look, || served.run(io, sockets, &stop, ready))
    }
}
