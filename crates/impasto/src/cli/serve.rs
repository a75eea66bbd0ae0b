//! `impasto serve`: puts the parts together, says what they are, and serves until a signal.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use impasto::{
    media::{CpuLines, Disk, Medium, Pmem, UringDev},
    region::{
        Frames, Region,
        layout::{Geometry, MediumKind},
    },
    ring::{Limits, UringPort, listen},
    server::{self, Parts, Shared, SharedParts, Worker, config},
    uring::{Fd, Owner, Token, Uring},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};

use super::{
    Failure,
    args::{self, MediumArg},
    banner::Banner,
    create::{self, Wanted},
    tell,
};

/// Options of `impasto serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the region, the file that holds all records
    #[arg(long, value_name = "DIR", default_value = "./impasto-data")]
    data: PathBuf,
    /// Size of the region, fixed when it is created: a multiple of 1MiB, at least 16MiB
    /// [default for a new region: 1GiB]
    #[arg(long, value_parser = args::size)]
    size: Option<Geometry>,
    /// What makes records durable
    #[arg(long, value_enum, default_value_t = MediumArg::Auto)]
    medium: MediumArg,
    /// Address to listen on; there is no access control, so mind who can reach it
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        value_parser = args::address
    )]
    http: SocketAddr,
}

/// Operations that one system call submits; more of them wait for their turn.
const RING_ENTRIES: u32 = 1024;

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // Whatever may be refused is asked for before a region is created, which takes time and space.
    let mut io = Uring::new(RING_ENTRIES)?;
    let wanted = Wanted { dir: &args.data, size: args.size, medium: args.medium.kind() };
    // The region first, if there is one: waiting for its lock is waiting for all that a killed
    // server has left behind, its address included.
    let found = if Region::exists(&args.data)? { Some(create::open(wanted)?) } else { None };
    let listener = listen(args.http).map_err(|error| {
        format!("cannot listen on {}: {error}; choose another --http", args.http)
    })?;
    let region = match found {
        Some(region) => region,
        None => create::open(wanted)?,
    };
    io.hold(region.lock())?;
    let geometry = region.superblock().geometry;
    match region.superblock().medium {
        MediumKind::Disk => {
            let medium = Disk::new(UringDev::new(region.open_direct()?));
            let frames =
                Frames::anonymous(geometry, config::landing_bufs(geometry)).map_err(no_memory)?;
            serve(args, &region, listener, io, medium, frames)?;
        }
        kind @ (MediumKind::Shm | MediumKind::Pmem) => {
            let medium = Pmem::new(CpuLines::detect(), kind);
            let frames = Frames::shared(region.file(), geometry).map_err(no_memory)?;
            serve(args, &region, listener, io, medium, frames)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn no_memory(error: io::Error) -> Failure {
    format!("cannot map the region into memory: {error}").into()
}

/// Recovers the region and serves it until a signal.
fn serve<M: Medium<Uring>>(
    args: &Args,
    region: &Region,
    listener: TcpListener,
    mut io: Uring,
    mut medium: M,
    mut frames: Frames,
) -> Result<(), Failure> {
    let superblock = *region.superblock();
    let start = Instant::now();
    let (store, report) = server::start(&mut io, &mut medium, &mut frames, superblock)
        .map_err(|error| format!("cannot serve {}: {error}", args.data.display()))?;
    let banner = Banner {
        medium: superblock.medium,
        dir: &args.data,
        region_bytes: superblock.geometry.region_bytes(),
        entries: report.records,
        recovery: start.elapsed(),
        http: listener.local_addr()?,
    };
    let limits = Limits { flows_max: config::FLOWS_MAX, ..Limits::default() };
    let port = UringPort::new(&mut io, &frames, [listener], limits)?;
    let geometry = superblock.geometry;
    let clock = Box::new(Instant::now);
    let options = config::Options::default();
    let shared = Shared::new(SharedParts { medium, frames, store, geometry, options });
    let mut worker = Worker::new(Parts { io, port, shared, clock })?;
    let stop = Stop::new()?;
    tell(&banner.to_string());

    worker.io().poll(STOP, &stop.wake);
    while !stop.is_asked() {
        worker.turn(None)?;
    }
    worker.stop()?;
    Ok(())
}

const STOP: Token = Token { owner: Owner::Loop, value: 0 };

/// A clean stop, asked for by SIGINT or SIGTERM. The second signal ends the process at once.
struct Stop {
    asked: Arc<AtomicBool>,
    /// Can be read once a signal has come: one between a look at `asked` and the wait is not lost.
    wake: Fd,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (wake, signalled) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal does not see the flag that it sets itself.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
            pipe::register(signal, signalled.try_clone()?)?;
        }
        let wake = Fd::from(std::os::fd::OwnedFd::from(wake));
        Ok(Self { asked, wake })
    }

    fn is_asked(&self) -> bool {
        // Acquire: pairs with the store in the signal's handler.
        self.asked.load(Ordering::Acquire)
    }
}
