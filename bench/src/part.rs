//! Servers that `figures` compares, each a process of its own: this program, started again.
//!
//! `serve` is Impasto put together from its parts on `shm`, as it is or without what makes bytes
//! durable. Both come from the same code, so nothing else differs. `discard` does nothing with what
//! it receives: no server can receive faster over the same connections.

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Instant,
};

use impasto::{
    media::{CpuLines, Lines, Pmem},
    region::{
        Frames, Region,
        layout::{Geometry, MediumKind},
    },
    ring::{Limits, UringPort, listen},
    server::{self, Parts, Shared, SharedParts, Worker, config},
    uring::Uring,
};

use crate::{
    cli::{self, Failure, tell},
    lines::NoLines,
};

/// Options of the hidden `impasto-bench serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Directory of the region, on tmpfs
    #[arg(long)]
    data: PathBuf,
    /// Size of the region
    #[arg(long, value_parser = cli::size)]
    size: u64,
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Leave out flushes and fences: nothing is durable, all else is done
    #[arg(long)]
    without_flush: bool,
}

/// Serves until it is killed.
pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode, Failure> {
    let geometry = Geometry::try_from(args.size)?;
    Region::create(&args.data, geometry, MediumKind::Shm, &mut |_| {})?;
    let region = Region::open(&args.data)?;
    let never = if args.without_flush {
        serve_on(args, &region, NoLines)?
    } else {
        serve_on(args, &region, CpuLines::detect())?
    };
    match never {}
}

fn serve_on<L: Lines>(args: &ServeArgs, region: &Region, lines: L) -> Result<Infallible, Failure> {
    let mut io = Uring::new(RING_ENTRIES)?;
    let superblock = *region.superblock();
    let geometry = superblock.geometry;
    let mut medium = Pmem::new(lines, superblock.medium);
    let mut frames = Frames::shared(region.file(), geometry)?;
    let (store, _) = server::start(&mut io, &mut medium, &mut frames, superblock)?;
    let listener = listen(args.http)?;
    let address = listener.local_addr()?;
    let limits = Limits::default();
    let port = UringPort::new(&mut io, &frames, [listener], limits)?;
    let clock = Box::new(Instant::now);
    let options = config::Options::default();
    let shared = Shared::new(SharedParts { medium, frames, workers: 1, store, geometry, options });
    let mut worker = Worker::new(Parts { io, port, shared, clock, busy_poll: false })?;
    tell(&format!("listening  http://{address}"));
    loop {
        worker.turn(None)?;
    }
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
