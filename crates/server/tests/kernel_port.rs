//! The worker on real sockets and a real file, by io_uring and by epoll.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use impasto_epoll::Epoll;
use impasto_media::{CpuLines, Disk, FileDev, Files, Medium, Pmem};
use impasto_region::{
    Checksum, Frames, Region,
    layout::{Geometry, MediumKind},
};
use impasto_ring::{Limits, SocketPort, Sockets, listen};
use impasto_server::{
    Enter, Parts, Shared, SharedParts, Worker,
    config::{Options, landing_bufs},
    start,
};
use impasto_uring::Uring;

/// What the worker waits on.
trait Io: Enter + Sockets + Files {
    fn make() -> Self;
}

impl Io for Uring {
    fn make() -> Self {
        Self::new(256).unwrap()
    }
}

impl Io for Epoll {
    fn make() -> Self {
        Self::new().unwrap()
    }
}

/// A worker in a thread of its own.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    fn start<I: Io>(dir: &Path, kind: MediumKind) -> Self {
        if !Region::exists(dir).unwrap() {
            let geometry = Geometry::new(16 << 20).unwrap();
            Region::create(dir, geometry, kind, &mut |_| {}).unwrap();
        }
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, dir) = (Arc::clone(&stop), dir.to_owned());
        let thread = std::thread::spawn(move || {
            let region = Region::open(&dir).unwrap();
            let geometry = region.superblock().geometry;
            match kind {
                MediumKind::Disk => {
                    let file: File = region.open_direct().unwrap();
                    let frames = Frames::anonymous(geometry, landing_bufs(geometry, 1)).unwrap();
                    serve::<I>(&region, listener, Disk::new(FileDev::new(file)), frames, &stopped);
                }
                _ => {
                    let frames = Frames::shared(region.file(), geometry).unwrap();
                    let medium = Pmem::new(CpuLines::detect(), kind);
                    serve::<I>(&region, listener, medium, frames, &stopped);
                }
            }
        });
        Self { address, stop, thread }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // A connection wakes the loop, unless it was awake and listens no more.
        let _woken = TcpStream::connect(self.address);
        self.thread.join().unwrap();
    }
}

fn serve<I: Io>(
    region: &Region,
    listener: std::net::TcpListener,
    mut medium: impl Medium<I>,
    mut frames: Frames,
    stop: &AtomicBool,
) {
    let superblock = *region.superblock();
    let mut io = I::make();
    let (store, _report) = start(&mut io, &mut medium, &mut frames, superblock).unwrap();
    let port = SocketPort::new(&mut io, &frames, [listener], Limits::default()).unwrap();
    let clock = Box::new(Instant::now);
    let geometry = superblock.geometry;
    let options = Options::default();
    let shared = Shared::new(SharedParts { medium, frames, workers: 1, store, geometry, options });
    let mut worker = Worker::new(Parts { io, port, shared, clock, busy_poll: false }).unwrap();
    worker.run(stop).unwrap();
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut byte = [0; 4096];
        let count = stream.read(&mut byte).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&byte[..count]);
    }
    bytes
}

fn serves_and_serves_again<I: Io>(dir: &Path, kind: MediumKind) {
    let value: Vec<u8> =
        (0..300_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    let server = Server::start::<I>(dir, kind);
    let mut stream = server.connect();
    for (seq, len) in (1..).zip([0, 10, 3000, 300_000]) {
        write!(stream, "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n")
            .unwrap();
        stream.write_all(&value[..len]).unwrap();
        let reply = String::from_utf8(read_until(&mut stream, b"\r\n\r\n")).unwrap();
        assert!(reply.starts_with("HTTP/1.1 201 Created\r\n"), "{reply}");
        assert!(reply.contains(&format!("Location: /v1/logs/log/{seq}\r\n")), "{reply}");
    }
    // Pipelined over many receives.
    let small =
        "POST /v1/logs/many HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".repeat(5000);
    let mut reader = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || stream.write_all(small.as_bytes()).map(|()| stream));
    let tag = format!("5000-{:016x}", Checksum::of(b"hello"));
    let last =
        format!("Location: /v1/logs/many/5000\r\nETag: \"{tag}\"\r\nContent-Length: 0\r\n\r\n");
    read_until(&mut reader, last.as_bytes());
    let mut stream = sender.join().unwrap().unwrap();
    // A client that is early refused sees the answer.
    let mut refused = server.connect();
    write!(refused, "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nContent-Length: 70000000\r\n\r\n")
        .unwrap();
    let sent = refused.write_all(&vec![0; 900_000]);
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(sent.is_ok() && answer.starts_with("HTTP/1.1 413 "), "{answer}");
    drop(refused);
    write!(stream, "GET /v1/logs/many HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    read_until(&mut stream, b"{\"first\":1,\"next\":5001,\"records\":5000,\"bytes\":25000}\n");
    server.stop();

    let server = Server::start::<I>(dir, kind);
    let mut stream = server.connect();
    write!(stream, "GET /v1/logs/log/4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply.ends_with(&value) && reply.starts_with(b"HTTP/1.1 200 OK\r\n"));
    drop(stream);
    server.stop();
}

/// The request behind a body that came straight into its blocks, bodies that break off in the
/// middle of it, and more of them than may at a time.
fn directed_bodies_are_taken_and_given_up<I: Io>(dir: &Path, kind: MediumKind) {
    const BYTES: usize = 700_000;
    let value: Vec<u8> = (0..=248).cycle().take(BYTES).collect();
    let head = format!("POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nContent-Length: {BYTES}\r\n\r\n");
    let post = [head.as_bytes(), &value].concat();
    let server = Server::start::<I>(dir, kind);
    let half = |before: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(before).unwrap();
        stream.write_all(&post[..500_000]).unwrap();
        stream
    };
    for _ in 0..10 {
        let [ended, mut broken] = [b"", &b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"[..]].map(half);
        ended.shutdown(Shutdown::Write).unwrap();
        // Closed with a reply unread, a connection is reset.
        assert_eq!(broken.peek(&mut [0]).unwrap(), 1);
        broken.write_all(&value[..50_000]).unwrap();
    }
    let two = [&post[..], b"GET /v1/logs/log HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    for _ in 0..5 {
        let mut stream = server.connect();
        stream.write_all(&two).unwrap();
        read_until(&mut stream, b"}\n");
    }
    let mut streams: Vec<_> = (0..100).map(|_| server.connect()).collect();
    // Only some find room in 16 MiB: the others are told, and what they send is discarded.
    let mut taken = 5;
    for from in (0..post.len()).step_by(50_000) {
        let part = &post[from..post.len().min(from + 50_000)];
        streams.retain_mut(|stream| stream.write_all(part).is_ok());
    }
    for stream in &mut streams {
        let mut status = [0; 12];
        let is_answered = stream.read_exact(&mut status).is_ok();
        taken += usize::from(is_answered && &status == b"HTTP/1.1 201");
    }
    assert!(taken > 5 + 3, "{taken}");
    drop(streams);
    let mut stopped = half(b"");
    let stopped = std::thread::spawn(move || stopped.read_to_end(&mut Vec::new()));
    server.stop();
    // Closed with bytes unread, a connection may be reset.
    let _end = stopped.join().unwrap();

    let server = Server::start::<I>(dir, kind);
    for seq in 1..=taken {
        let mut stream = server.connect();
        write!(stream, "GET /v1/logs/log/{seq} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        assert!(reply.ends_with(&value), "{seq} of {taken} on {kind:?}");
    }
    server.stop();
}

/// Runs a scenario over everything that a worker may wait on, on each medium.
macro_rules! on_each {
    ($scenario:ident) => {
        mod $scenario {
            use super::*;

            fn on_disk<I: Io>() {
                let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
                super::$scenario::<I>(&dir.path().join("region"), MediumKind::Disk);
            }

            fn in_memory<I: Io>() {
                let dir = tempfile::tempdir_in("/dev/shm").unwrap();
                super::$scenario::<I>(&dir.path().join("region"), MediumKind::Shm);
            }

            #[test]
            fn on_disk_by_uring() {
                on_disk::<Uring>();
            }

            #[test]
            fn on_disk_by_epoll() {
                on_disk::<Epoll>();
            }

            #[test]
            fn in_memory_by_uring() {
                in_memory::<Uring>();
            }

            #[test]
            fn in_memory_by_epoll() {
                in_memory::<Epoll>();
            }
        }
    };
}

on_each!(serves_and_serves_again);
on_each!(directed_bodies_are_taken_and_given_up);
