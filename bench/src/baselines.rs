//! The servers that Impasto is compared with, by the list of PASTE's own evaluation: from what does
//! nothing to make a record durable, over what one would write by hand, to stores one would use.
//!
//! All share one engine ([`engine`]: epoll, one thread), parser, reply, record and checksum; a
//! variant, in a file of its own, is what it does otherwise. They do for an append what Impasto
//! does, and no more: they recover nothing, and keep no slow or broken client from anything. What
//! has no room left writes over its oldest records: whoever appends trims.

mod engine;
mod fdatasync;
mod group;
mod http;
mod kcm;
mod logs;
mod memory;
mod msync;
mod none;
mod read_into;
mod record;
mod redb;
mod splice;
mod sqlite;
mod v1;
mod v1b;
mod zerocopy;

use std::{
    convert::Infallible,
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use impasto::region::{
    Region,
    layout::{Geometry, MediumKind},
};
use socket2::{Domain, Socket, Type};

use crate::{
    cli::{self, Failure, tell},
    client,
    stages::{self, Account, Stages},
};
use engine::{Engine, Variant};

/// A server to compare with.
#[derive(Debug)]
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    pub(crate) medium: Medium,
    probe: fn() -> Option<String>,
    serve: fn(Start) -> Result<Infallible, Failure>,
}

/// Where a baseline keeps records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Medium {
    /// Nowhere: they are lost with the process.
    None,
    /// In a file on tmpfs, which stands for persistent memory; only these have fences to delay.
    Memory,
    /// On a disk: they survive a power failure, as on Impasto's `disk`.
    Disk,
}

/// All of them, in the order in which they are told.
pub(crate) const ALL: &[Baseline] = &[
    baseline("none", "epoll, nothing kept: the ceiling of epoll", Medium::None, none::serve),
    baseline("v1", "copy, flush, fence and write per request", Medium::Memory, v1::serve),
    baseline("v1b", "copy; one flush and fence per batch", Medium::Memory, v1b::serve::<false>),
    baseline("read-into", "recv into the region, no copy", Medium::Memory, read_into::serve),
    baseline("zerocopy", "v1b, replies by MSG_ZEROCOPY", Medium::Memory, zerocopy::serve),
    baseline(
        "fdatasync",
        "append to a file, fdatasync per request",
        Medium::Disk,
        fdatasync::serve,
    ),
    baseline("group", "one O_DIRECT | O_DSYNC write per batch", Medium::Disk, group::serve),
    baseline("msync", "copy to a mapped file, msync per batch", Medium::Disk, msync::serve),
    baseline("splice", "socket to file, fdatasync per batch", Medium::Disk, splice::serve),
    Baseline {
        probe: sqlite::unavailable,
        ..baseline(
            "sqlite",
            "SQLite, WAL, FULL, a batch a transaction",
            Medium::Disk,
            sqlite::serve,
        )
    },
    baseline("redb", "redb, Immediate, a batch a transaction", Medium::Disk, redb::serve),
    Baseline {
        probe: kcm::unavailable,
        ..baseline("kcm", "requests framed in the kernel", Medium::None, kcm::serve)
    },
];

const fn baseline(
    name: &'static str,
    about: &'static str,
    medium: Medium,
    serve: fn(Start) -> Result<Infallible, Failure>,
) -> Baseline {
    Baseline { name, about, medium, probe: || None, serve }
}

impl Baseline {
    /// Returns why this machine cannot run it, if so.
    pub(crate) fn unavailable(&self) -> Option<String> {
        (self.probe)()
    }
}

/// Returns a baseline.
pub(crate) fn named(name: &str) -> Result<&'static Baseline, String> {
    ALL.iter().find(|baseline| baseline.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|baseline| baseline.name).collect();
        format!("no baseline `{name}`; there are {}", names.join(", "))
    })
}

/// Says what there is, line by line.
fn list() -> String {
    let mut text = String::from("Baselines:");
    for Baseline { name, about, medium, .. } in ALL {
        text.push_str(&format!("\n  {name:<10}{:<8}{about}", format!("{medium:?}").to_lowercase()));
    }
    text
}

/// Options of the hidden `impasto-bench baseline`.
#[derive(Debug, clap::Args)]
#[command(after_help = list())]
pub(crate) struct Args {
    /// Which one
    #[arg(value_parser = named)]
    baseline: &'static Baseline,
    /// Directory of its files, on tmpfs for those in memory
    #[arg(long)]
    data: PathBuf,
    /// Size of its files
    #[arg(long, value_parser = cli::size)]
    size: u64,
    /// Nanoseconds that each fence takes longer; for those in memory
    #[arg(long, value_name = "NS", default_value_t = 0)]
    fence_delay: u64,
    /// Threads, each with a log of its own and its share of connections; not on a disk
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Say on another port where the time goes
    #[arg(long)]
    stages: bool,
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

/// Serves until it is killed.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Args { baseline, .. } = *args;
    if let Some(why) = baseline.unavailable() {
        return Err(format!("{}: {why}", baseline.name).into());
    }
    if args.fence_delay > 0 && baseline.medium != Medium::Memory {
        return Err(format!("{} has no fences to delay", baseline.name).into());
    }
    if args.workers > 1 && baseline.medium == Medium::Disk {
        return Err(format!("{} has one worker", baseline.name).into());
    }
    client::raise_descriptors();
    let geometry = Geometry::try_from(args.size)?;
    let first = listen(args.http, args.workers)?;
    let address = first.local_addr()?;
    let account = stages::open(args.stages, address)?;
    let ready = Arc::new(Barrier::new(usize::from(args.workers)));
    let start = |worker: u16, listener| Start {
        // Beside each other, not one in the other's.
        dir: if args.workers == 1 { args.data.clone() } else { args.data.join(worker.to_string()) },
        geometry,
        fence_delay: Duration::from_nanos(args.fence_delay),
        account: account.clone(),
        listener,
        is_first: worker == 0,
        ready: Arc::clone(&ready),
    };
    for worker in 1..args.workers {
        let start = start(worker, listen(address, args.workers)?);
        thread::spawn(move || {
            let Err(failure) = (baseline.serve)(start);
            // The others would be measured as if they were all.
            let _closed = writeln!(io::stderr(), "impasto-bench: {failure}");
            process::exit(1)
        });
    }
    match (baseline.serve)(start(0, first))? {}
}

/// Listens, beside other workers if there are several: the kernel spreads connections by a hash.
fn listen(address: SocketAddr, workers: u16) -> Result<TcpListener, Failure> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(workers > 1)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|error: io::Error| format!("cannot listen on {address}: {error}").into())
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// What a variant starts with.
#[derive(Debug)]
struct Start {
    dir: PathBuf,
    geometry: Geometry,
    fence_delay: Duration,
    account: Option<Arc<Account>>,
    listener: TcpListener,
    /// The one that says that all are there.
    is_first: bool,
    ready: Arc<Barrier>,
}

impl Start {
    /// Makes a file as Impasto has, allocated and, on a disk, written, and returns it with its
    /// lock.
    fn region(&self, medium: MediumKind) -> Result<Region, Failure> {
        self.region_at(&self.dir, medium)
    }

    fn region_at(&self, dir: &Path, medium: MediumKind) -> Result<Region, Failure> {
        if let Some(parent) = dir.parent() {
            create_dir(parent)?;
        }
        Region::create(dir, self.geometry, medium, &mut |_| {})?;
        Ok(Region::open(dir)?)
    }

    /// Makes the directory, and returns it.
    fn dir(&self) -> Result<&Path, Failure> {
        create_dir(&self.dir)?;
        Ok(&self.dir)
    }

    /// Lets `variant` serve.
    fn serve(self, variant: impl Variant) -> Result<Infallible, Failure> {
        self.ready.wait();
        if self.is_first {
            tell(&format!("listening  http://{}", self.listener.local_addr()?));
        }
        Engine::new(variant, Stages::from(self.account)).serve(&self.listener)
    }
}

fn create_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir)
        .map_err(|error| format!("cannot create {}: {error}", dir.display()).into())
}
