//! The data path does not allocate: counted by the allocator, over real sockets.
//!
//! `IMPASTO_REQUESTS` is the number of counted requests.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that says what it counted")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
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
    ring::{Limits, SocketPort, Sockets, listen},
    server::{self, Enter, Parts, Shared, SharedParts, Worker, config},
    uring::Uring,
};

const CONNECTIONS: u64 = 32;
/// Of each connection.
const WARM_UP: u64 = 2_000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// What the clients tell the server's thread, and the other way round.
#[derive(Default)]
struct Signals {
    counts: AtomicBool,
    stop: AtomicBool,
}

/// Stops the server also when a client has panicked, so that the test ends.
struct StopOnDrop<'a>(&'a Signals);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

fn serve<I: Enter + Sockets, M: Medium<I>>(
    mut io: I,
    region: &Region,
    mut medium: M,
    mut frames: Frames,
    signals: &Signals,
    ready: impl FnOnce(SocketAddr),
) {
    let superblock = *region.superblock();
    let (store, _) = server::start(&mut io, &mut medium, &mut frames, superblock).unwrap();
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let port = SocketPort::new(&mut io, &frames, [listener], Limits::default()).unwrap();
    let (clock, geometry) = (Box::new(Instant::now), superblock.geometry);
    let options = config::Options::default();
    let shared = Shared::new(SharedParts { medium, frames, workers: 1, store, geometry, options });
    let mut worker = Worker::new(Parts { io, port, shared, clock, busy_poll: false }).unwrap();
    ready(address);
    while !signals.stop.load(Ordering::Acquire) {
        let counts = signals.counts.load(Ordering::Acquire);
        let turn = || worker.turn(Some(Duration::from_millis(50))).unwrap();
        let counted = allocation_counter::measure(turn).count_total;
        // Relaxed: a number, read when the thread has ended.
        ALLOCATIONS.fetch_add(if counts { counted } else { 0 }, Ordering::Relaxed);
    }
    worker.stop().unwrap();
}

/// Appends, reads, describes and trims: `WARM_UP` requests, and when all connections are warm,
/// `requests`.
fn load(address: SocketAddr, connection: u64, requests: u64, warm: &Barrier) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let log = format!("log-{connection}");
    let mut reply = vec![0; 16 << 10];
    let mut last: u64 = 0;
    for n in 0..WARM_UP + requests {
        if n == WARM_UP {
            warm.wait();
            warm.wait();
        }
        let request = match n % 8 {
            // What stays behind would keep the log space of those who are not done.
            _ if n + 1 == WARM_UP + requests => {
                format!("DELETE /v1/logs/{log}?before={} HTTP/1.1\r\nHost: h\r\n\r\n", last + 1)
                    .into_bytes()
            }
            0..5 => {
                let len = [100, 600, 1024, 1400, 5000][usize::try_from(n % 5).unwrap()];
                let head = format!(
                    "POST /v1/logs/{log} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n"
                );
                [head.into_bytes(), vec![b'v'; len]].concat()
            }
            5 | 6 => format!("GET /v1/logs/{log}/{last} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes(),
            _ if n % 64 == 63 => {
                format!("DELETE /v1/logs/{log}?before={last} HTTP/1.1\r\nHost: h\r\n\r\n")
                    .into_bytes()
            }
            _ => format!("GET /v1/logs/{log} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes(),
        };
        stream.write_all(&request).unwrap();
        let mut got = 0;
        while !is_whole(&reply[..got]) {
            let more = stream.read(&mut reply[got..]).unwrap();
            assert!(more > 0, "the server closed");
            got += more;
        }
        assert!(reply.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&reply[..got]));
        if reply.starts_with(b"HTTP/1.1 201") {
            let text = String::from_utf8_lossy(&reply[..got]).into_owned();
            let etag = text.split("ETag: \"").nth(1).unwrap();
            last = etag.split('-').next().unwrap().parse().unwrap();
        }
    }
}

fn is_whole(reply: &[u8]) -> bool {
    let Some(head) = reply.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let text = std::str::from_utf8(&reply[..head]).unwrap();
    let len = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    reply.len() >= head + 4 + len.map_or(0, |len| len.parse::<usize>().unwrap())
}

fn allocations_per_request(serve_on: impl FnOnce(&Signals, &dyn Fn(SocketAddr)) + Send) -> f64 {
    let requests: u64 =
        std::env::var("IMPASTO_REQUESTS").map_or(200_000, |text| text.parse().unwrap());
    let signals = Arc::new(Signals::default());
    let (send, receive) = std::sync::mpsc::channel();
    ALLOCATIONS.store(0, Ordering::Relaxed);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve_on(&signals, &|address| send.send(address).unwrap()));
        let address = receive.recv().unwrap();
        let stop = StopOnDrop(&signals);
        let warm = Barrier::new(usize::try_from(CONNECTIONS).unwrap() + 1);
        thread::scope(|scope| {
            for connection in 0..CONNECTIONS {
                let warm = &warm;
                scope.spawn(move || load(address, connection, requests / CONNECTIONS, warm));
            }
            warm.wait();
            signals.counts.store(true, Ordering::Release);
            warm.wait();
        });
        drop(stop);
        server.join().unwrap();
    });
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    println!("{allocations} allocations in {requests} requests");
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = allocations as f64 / requests as f64;
    rate
}

fn on_disk<I: Enter + Sockets + Files>(make: fn() -> I) -> f64 {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    Region::create(dir.path(), geometry(), MediumKind::Disk, &mut |_| {}).unwrap();
    allocations_per_request(|signals, ready| {
        let region = Region::open(dir.path()).unwrap();
        let medium = Disk::new(FileDev::new(region.open_direct().unwrap()));
        let landing = config::landing_bufs(geometry(), 1);
        let frames = Frames::anonymous(geometry(), landing).unwrap();
        serve(make(), &region, medium, frames, signals, ready);
    })
}

fn in_memory<I: Enter + Sockets>(make: fn() -> I) -> Option<f64> {
    let dir = tempfile::tempdir_in("/dev/shm").ok()?;
    Region::create(dir.path(), geometry(), MediumKind::Shm, &mut |_| {}).unwrap();
    Some(allocations_per_request(|signals, ready| {
        let region = Region::open(dir.path()).unwrap();
        let medium = Pmem::new(CpuLines::detect(), MediumKind::Shm);
        let frames = Frames::shared(region.file(), geometry()).unwrap();
        serve(make(), &region, medium, frames, signals, ready);
    }))
}

fn geometry() -> Geometry {
    Geometry::try_from(64 << 20).unwrap()
}

/// An allocation per request is a lock and a cache miss per request. One test, as the count is one.
#[test]
fn requests_do_not_allocate() {
    let (uring, epoll) = (|| Uring::new(1024).unwrap(), || Epoll::new().unwrap());
    for (name, rate) in [("io_uring", on_disk(uring)), ("epoll", on_disk(epoll))] {
        assert!(rate < 0.001, "disk by {name}: {rate} allocations per request");
    }
    for (name, rate) in [("io_uring", in_memory(uring)), ("epoll", in_memory(epoll))] {
        let Some(rate) = rate else {
            eprintln!("skipped: no /dev/shm");
            return;
        };
        assert!(rate < 0.001, "shm by {name}: {rate} allocations per request");
    }
}
