//! Servers that are compared, each a process of its own: this program, started again.
//!
//! `serve` is Impasto put together from its parts: on `shm` or `disk`, as it is or without what
//! makes bytes durable, with slower memory, with an account of its time. All come from the same
//! code, so nothing else differs. `discard` does nothing with what it receives: no server can
//! receive faster over the same connections.

mod staged;

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{self, ExitCode},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use impasto::{
    epoll::Epoll,
    media::{CpuLines, Disk, FileDev, Files, Medium, Pmem},
    region::{
        Frames, Region,
        layout::{Geometry, MediumKind},
    },
    ring::{Gate, Limits, Listener, SocketPort, Sockets, listen},
    server::{self, Enter, Parts, Shared, SharedParts, Worker, config},
    uring::Uring,
};

use crate::{
    cli::{self, Failure, tell},
    client,
    lines::{Charged, Delayed},
    stages::{self, Account},
};
use staged::Staged;

/// Options of the hidden `impasto-bench serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Directory of the region, on tmpfs for `shm`
    #[arg(long)]
    data: PathBuf,
    /// Size of the region
    #[arg(long, value_parser = cli::size)]
    size: u64,
    /// What makes records durable
    #[arg(long, value_enum, default_value_t = MediumArg::Shm)]
    medium: MediumArg,
    /// How to wait for packets and for the disk
    #[arg(long, value_enum, default_value_t = IoArg::Uring)]
    io: IoArg,
    /// Never wait, but look for packets all the time
    #[arg(long)]
    busy_poll: bool,
    /// Threads that serve
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Leave out flushes and fences: nothing is durable, all else is done
    #[arg(long)]
    without_flush: bool,
    /// Nanoseconds that each fence takes longer
    #[arg(long, value_name = "NS", default_value_t = 0, conflicts_with = "without_flush")]
    fence_delay: u64,
    /// Say on another port where the time goes
    #[arg(long)]
    stages: bool,
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MediumArg {
    Shm,
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum IoArg {
    Uring,
    Epoll,
}

/// What a worker waits on, one for each.
trait Io: Enter<Waker: Send> + Sockets<Waker: Send + Sync> + Files + Sized {
    fn open() -> Result<Self, Failure>;
}

impl Io for Uring {
    fn open() -> Result<Self, Failure> {
        Ok(Self::new(RING_ENTRIES)?)
    }
}

impl Io for Epoll {
    fn open() -> Result<Self, Failure> {
        Ok(Self::new()?)
    }
}

impl<I: Io> Io for Staged<I> {
    fn open() -> Result<Self, Failure> {
        Ok(Self::new(I::open()?))
    }
}

/// Serves until it is killed.
pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode, Failure> {
    let never = match (args.io, args.stages) {
        (IoArg::Uring, false) => serve_by::<Uring>(args)?,
        (IoArg::Epoll, false) => serve_by::<Epoll>(args)?,
        (IoArg::Uring, true) => serve_by::<Staged<Uring>>(args)?,
        (IoArg::Epoll, true) => serve_by::<Staged<Epoll>>(args)?,
    };
    match never {}
}

fn serve_by<I: Io>(args: &ServeArgs) -> Result<Infallible, Failure> {
    let on_disk = args.medium == MediumArg::Disk;
    if on_disk && (args.without_flush || args.fence_delay > 0) {
        return Err("a disk has no fences to delay or to leave out".into());
    }
    client::raise_descriptors();
    let listener =
        listen(args.http).map_err(|error| format!("cannot listen on {}: {error}", args.http))?;
    let geometry = Geometry::try_from(args.size)?;
    let kind = if on_disk { MediumKind::Disk } else { MediumKind::Shm };
    Region::create(&args.data, geometry, kind, &mut |_| {})?;
    let region = Region::open(&args.data)?;
    let account = stages::open(args.stages, args.http)?;
    stages::charge_to(account.clone());
    let serve = Serve { args, region: &region, listener, account };
    if on_disk {
        let landing = config::landing_bufs(geometry, args.workers) * args.workers;
        let frames = Frames::anonymous(geometry, landing)?;
        serve.run::<I, _>(Disk::new(FileDev::new(region.open_direct()?)), frames)
    } else {
        let delay = Duration::from_nanos(args.fence_delay);
        let lines = (!args.without_flush).then(|| Delayed::new(CpuLines::detect(), delay));
        serve.run::<I, _>(Pmem::new(Charged(lines), kind), Frames::shared(region.file(), geometry)?)
    }
}

/// A region about to be served.
struct Serve<'a> {
    args: &'a ServeArgs,
    region: &'a Region,
    listener: TcpListener,
    account: Option<Arc<Account>>,
}

/// A worker with sockets.
type Own<I, M> = Worker<I, SocketPort<I>, M>;

impl Serve<'_> {
    fn run<I: Io, M: Medium<I> + Send>(
        self,
        mut medium: M,
        mut frames: Frames,
    ) -> Result<Infallible, Failure> {
        let Self { args, region, listener, account } = self;
        let superblock = *region.superblock();
        let (geometry, workers) = (superblock.geometry, args.workers);
        let mut io = I::open()?;
        let (store, _) = server::start(&mut io, &mut medium, &mut frames, superblock)?;
        let options = config::Options::default();
        let address = listener.local_addr()?;
        let shared = Shared::new(SharedParts { medium, frames, workers, store, geometry, options });
        let gate = Arc::new(Gate::new(Limits::default().flows_max));
        let worker = |mut io: I, listeners: Vec<Listener>| -> Result<Own<I, M>, Failure> {
            let port = shared.with_frames(|frames| {
                SocketPort::with_gate(&mut io, frames, listeners, Limits::default(), &gate)
            })?;
            let (clock, shared) = (Box::new(Instant::now), shared.clone());
            Ok(Worker::new(Parts { io, port, shared, clock, busy_poll: args.busy_poll })?)
        };
        let first = worker(io, vec![listener.into()])?;
        thread::scope(|scope| {
            let (joined, joins) = mpsc::channel();
            for _ in 1..workers {
                let (joined, account, worker) = (joined.clone(), account.clone(), &worker);
                scope.spawn(move || {
                    stages::charge_to(account);
                    let worker = I::open().and_then(|io| worker(io, Vec::new()));
                    let worker = worker.unwrap_or_else(|failure| end(&failure));
                    // Who is not waited for any more has ended the process.
                    let _heard = joined.send(());
                    turn_for_ever(worker)
                });
            }
            for _ in 1..workers {
                joins.recv()?;
            }
            tell(&format!("listening  http://{address}"));
            turn_for_ever(first)
        })
    }
}

fn turn_for_ever<I: Io, M: Medium<I>>(mut worker: Own<I, M>) -> ! {
    loop {
        if let Err(error) = worker.turn(None) {
            end(&error.into());
        }
    }
}

/// Ends the process: other workers would wait for what this one has started.
fn end(failure: &Failure) -> ! {
    let _closed = writeln!(io::stderr(), "impasto-bench: {failure}");
    process::exit(1)
}

/// As `impasto serve` has.
const RING_ENTRIES: u32 = 1024;

/// Options of the hidden `impasto-bench discard`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiscardArgs {
    /// Length of a request, head and body: it is not looked at
    #[arg(long)]
    request_bytes: usize,
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

/// Receives and discards until it is killed.
pub(crate) fn discard(args: &DiscardArgs) -> Result<ExitCode, Failure> {
    let listener = TcpListener::bind(args.http)?;
    tell(&format!("listening  http://{}", listener.local_addr()?));
    loop {
        let (stream, _) = listener.accept()?;
        let request_bytes = args.request_bytes;
        thread::spawn(move || {
            // A client that has gone is no failure.
            let _gone = discard_all(stream, request_bytes);
        });
    }
}

fn discard_all(mut stream: TcpStream, request_bytes: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut scratch = vec![0; DISCARD_BYTES];
    let mut left = request_bytes;
    loop {
        let wanted = left.min(scratch.len());
        let read = stream.read(&mut scratch[..wanted])?;
        if read == 0 {
            return Ok(());
        }
        left -= read;
        if left == 0 {
            stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")?;
            left = request_bytes;
        }
    }
}

/// What one read takes: as much as one of Impasto's landing buffers.
const DISCARD_BYTES: usize = 256 << 10;
