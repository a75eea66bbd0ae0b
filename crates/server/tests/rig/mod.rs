//! A worker over a port in memory and a simulated medium, and clients of it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use impasto_media::{CommitId, Disk, Event, Medium, Pmem, Profile, Ticket};
use impasto_region::{
    BufId, Extent, Frames, Span,
    layout::{Geometry, MediumKind, Superblock},
};
use impasto_ring::{FlowId, LoopPeer, LoopPort, Port, Ring, Sent, Transmit};
use impasto_server::{
    Enter, Parts, Shared, SharedParts, Step, Worker,
    config::{Options, landing_bufs},
    start,
};
use impasto_sim::{Fate, Model, Power, Rng, SimDev, SimLines};

pub const MIB: u64 = 1 << 20;

/// What the rig waits on: the simulated disk. Time stands still until a test lets it pass, or
/// stops.
pub struct Steps {
    dev: SimDev,
    now: Rc<Cell<Instant>>,
    /// True if the last turn would have waited for a packet.
    waits: Rc<Cell<bool>>,
    /// True while every wait takes its time, at once.
    flies: Rc<Cell<bool>>,
    /// What was told of requests.
    passed: Rc<RefCell<Vec<Step>>>,
}

impl Enter for Steps {
    type Waker = ();

    fn waker(&self) -> io::Result<()> {
        Ok(())
    }

    fn wake(&mut self, _waker: &()) {}

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.waits.set(self.dev.in_flight() == 0 && timeout != Some(Duration::ZERO));
        if self.flies.get() && self.dev.in_flight() == 0 {
            self.now.set(self.now.get() + timeout.unwrap_or_default());
        }
        self.dev.step();
        Ok(true)
    }

    fn passed(&mut self, step: Step) {
        self.passed.borrow_mut().push(step);
    }
}

/// One of the media, so that a test runs on each.
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub enum AnyMedium {
    Disk(Disk<SimDev>),
    Shm(Pmem<SimLines>),
}

macro_rules! each {
    ($self:ident, $medium:ident => $call:expr) => {
        match $self {
            AnyMedium::Disk($medium) => $call,
            AnyMedium::Shm($medium) => $call,
        }
    };
}

impl Medium<Steps> for AnyMedium {
    fn profile(&self) -> Profile {
        each!(self, medium => Medium::<Steps>::profile(medium))
    }

    fn accepts_commit(&self, bytes: u64) -> bool {
        each!(self, medium => Medium::<Steps>::accepts_commit(medium, bytes))
    }

    fn commit(
        &mut self,
        io: &mut Steps,
        frames: &Frames,
        id: CommitId,
        log: Span,
        kept: &[Extent],
    ) {
        each!(self, medium => medium.commit(io, frames, id, log, kept));
    }

    fn write(&mut self, io: &mut Steps, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        each!(self, medium => medium.write(io, frames, ticket, spans));
    }

    fn persist(&mut self, io: &mut Steps, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        each!(self, medium => medium.persist(io, frames, ticket, spans));
    }

    fn abandon(&mut self, io: &mut Steps, ticket: Ticket) {
        each!(self, medium => medium.abandon(io, ticket));
    }

    fn read(&mut self, io: &mut Steps, frames: &mut Frames, ticket: Ticket, spans: &[Span]) {
        each!(self, medium => medium.read(io, frames, ticket, spans));
    }

    fn poll(&mut self, io: &mut Steps, frames: &mut Frames) -> Option<Event> {
        each!(self, medium => medium.poll(io, frames))
    }
}

/// What a test sees of the port.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    /// While true, transmits do not end: a client that does not read.
    pub stalls: Rc<Cell<bool>>,
    /// Bytes transmitted in all.
    pub transmitted: Rc<Cell<u64>>,
    /// Spans that flows were directed to in all.
    pub directed: Rc<Cell<u64>>,
    /// Transmits in all.
    pub transmits: Rc<Cell<u64>>,
}

/// The port in memory, with a tap.
pub struct TapPort(LoopPort, Tap);

impl Port<Steps> for TapPort {
    fn receive(&mut self, io: &mut Steps, frames: &mut Frames) {
        self.0.receive(io, frames);
    }

    fn ring(&mut self) -> &mut Ring {
        Port::<Steps>::ring(&mut self.0)
    }

    fn transmit(&mut self, io: &mut Steps, frames: &Frames, flow: FlowId, transmit: Transmit) {
        let bytes: u64 = transmit
            .parts
            .iter()
            .map(|part| match part {
                impasto_ring::Part::Bytes { len, .. } => u64::from(*len),
                impasto_ring::Part::Stored(extent) => u64::from(extent.len),
            })
            .sum();
        self.1.transmitted.set(self.1.transmitted.get() + bytes);
        self.1.transmits.set(self.1.transmits.get() + 1);
        self.0.transmit(io, frames, flow, transmit);
    }

    fn sent(&mut self) -> Option<Sent> {
        if self.1.stalls.get() { None } else { Port::<Steps>::sent(&mut self.0) }
    }

    fn pause(&mut self, io: &mut Steps, flow: FlowId) {
        self.0.pause(io, flow);
    }

    fn stop(&mut self, io: &mut Steps, flow: FlowId) {
        self.0.stop(io, flow);
    }

    fn direct(&mut self, io: &mut Steps, frames: &mut Frames, flow: FlowId, span: Span) {
        self.1.directed.set(self.1.directed.get() + 1);
        self.0.direct(io, frames, flow, span);
    }

    fn resume(&mut self, io: &mut Steps, flow: FlowId) {
        self.0.resume(io, flow);
    }

    fn shut(&mut self, io: &mut Steps, flow: FlowId) {
        self.0.shut(io, flow);
    }

    fn close(&mut self, io: &mut Steps, flow: FlowId) {
        self.0.close(io, flow);
    }

    fn stop_accepting(&mut self, io: &mut Steps) {
        self.0.stop_accepting(io);
    }

    fn drained(&mut self) -> Option<BufId> {
        Port::<Steps>::drained(&mut self.0)
    }

    fn provide(&mut self, io: &mut Steps, frames: &mut Frames, buf: BufId) {
        self.0.provide(io, frames, buf);
    }
}

/// A server.
pub struct Rig {
    pub worker: Worker<Steps, TapPort, AnyMedium>,
    shared: Shared<AnyMedium, ()>,
    pub peer: LoopPeer,
    pub dev: SimDev,
    pub tap: Tap,
    lines: SimLines,
    now: Rc<Cell<Instant>>,
    waits: Rc<Cell<bool>>,
    flies: Rc<Cell<bool>>,
    /// What was told of requests since a test has last taken it.
    pub passed: Rc<RefCell<Vec<Step>>>,
}

const STEP: Duration = Duration::from_millis(900);

pub const MEDIA: [MediumKind; 2] = [MediumKind::Disk, MediumKind::Shm];

impl Rig {
    /// Serves a new region of `mib` MiB.
    pub fn new(kind: MediumKind, mib: u64) -> Self {
        Self::with_options(kind, mib, Options::default())
    }

    /// Serves a new region of `mib` MiB with `options`.
    pub fn with_options(kind: MediumKind, mib: u64, options: Options) -> Self {
        let (image, superblock) = Self::fresh(kind, mib);
        Self::serve(image, superblock, options)
    }

    fn fresh(kind: MediumKind, mib: u64) -> (Vec<u8>, Superblock) {
        let geometry = Geometry::new(mib * MIB).unwrap();
        let superblock = Superblock::fresh(geometry, kind);
        let mut image = vec![0; usize::try_from(geometry.region_bytes()).unwrap()];
        image[..4096].copy_from_slice(&superblock.encode());
        (image, superblock)
    }

    /// Serves the region in `image`, whose superblock is given.
    pub fn on(image: Vec<u8>, superblock: Superblock) -> Self {
        Self::serve(image, superblock, Options::default())
    }

    fn serve(image: Vec<u8>, superblock: Superblock, options: Options) -> Self {
        let geometry = superblock.geometry;
        let bufs = landing_bufs(geometry, 1);
        let dev = SimDev::new(image.clone(), 1, Model::ALL[0], Power::new());
        let lines = SimLines::new(image.clone(), Power::new());
        let (mut medium, mut frames) = match superblock.medium {
            MediumKind::Disk => {
                let medium = AnyMedium::Disk(Disk::new(dev.clone()));
                (medium, Frames::anonymous(geometry, bufs).unwrap())
            }
            kind => {
                let mut frames = Frames::anonymous(geometry, 0).unwrap();
                impasto_sim::fill(&mut frames, &image);
                (AnyMedium::Shm(Pmem::new(lines.clone(), kind)), frames)
            }
        };
        let now = Rc::new(Cell::new(Instant::now()));
        let (waits, flies, passed) = (Rc::default(), Rc::default(), Rc::default());
        let mut io = Steps {
            dev: dev.clone(),
            now: Rc::clone(&now),
            waits: Rc::clone(&waits),
            flies: Rc::clone(&flies),
            passed: Rc::clone(&passed),
        };
        let (store, _report) = start(&mut io, &mut medium, &mut frames, superblock).unwrap();
        let (port, tap) = (LoopPort::new(256), Tap::default());
        let peer = port.peer();
        let clock = Rc::clone(&now);
        let shared =
            Shared::new(SharedParts { medium, frames, workers: 1, store, geometry, options });
        let worker = Worker::new(Parts {
            io,
            port: TapPort(port, tap.clone()),
            shared: shared.clone(),
            clock: Box::new(move || clock.get()),
            busy_poll: false,
        })
        .unwrap();
        Self { worker, shared, peer, dev, tap, lines, now, waits, flies, passed }
    }

    /// Takes so many turns that whatever can happen has happened.
    pub fn run(&mut self) {
        for _ in 0..12 {
            self.worker.turn(Some(Duration::ZERO)).unwrap();
        }
    }

    /// Takes turns until one would wait for a packet.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.worker.turn(None).unwrap();
            if self.waits.get() {
                return;
            }
        }
        panic!("the loop does not come to rest");
    }

    /// Returns the region as the next start finds it, with its superblock.
    pub fn image(&self, kind: MediumKind) -> (Vec<u8>, Superblock) {
        let image = match kind {
            MediumKind::Disk => self.dev.crash(Fate::Nothing),
            _ => self.shared.with_frames(|frames| self.lines.crash(Fate::Nothing, frames)),
        };
        let last = image.len() - 4096;
        let copies = [(0, &image[..4096]), (1, &image[last..])];
        let valid = copies.into_iter().filter_map(|(copy, at)| Superblock::decode(at, copy).ok());
        let superblock = valid.max_by_key(|superblock| superblock.generation).unwrap();
        (image, superblock)
    }

    /// Stops cleanly.
    pub fn stop(&mut self) -> io::Result<()> {
        self.flies.set(true);
        self.worker.stop()
    }

    /// Stops, and serves the same region again.
    pub fn restart(mut self, kind: MediumKind) -> Self {
        self.stop().unwrap();
        let (image, superblock) = self.image(kind);
        assert!(superblock.clean);
        Self::on(image, superblock)
    }

    /// Takes turns until all that was started is done.
    pub fn finish(&mut self) {
        self.settle();
        while self.peer.has_arrivals() {
            self.settle();
        }
        // The last turn may have started something.
        self.settle();
    }

    /// Lets time pass, without a standstill.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now.get() + time;
        while self.now.get() < until {
            self.now.set(until.min(self.now.get() + STEP));
            self.worker.turn(Some(Duration::ZERO)).unwrap();
        }
        self.run();
    }

    /// Lets time pass at once, as if the process had been stopped.
    pub fn stand_still(&mut self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.run();
    }

    pub fn open(&mut self) -> FlowId {
        let flow = self.peer.open().unwrap();
        self.run();
        flow
    }

    /// Sends, and returns what comes back.
    pub fn talk(&mut self, flow: FlowId, request: impl AsRef<[u8]>) -> Vec<u8> {
        self.peer.push(flow, request.as_ref());
        self.run();
        self.peer.take_sent(flow)
    }

    /// Sends one request on a new flow, and returns its reply.
    pub fn once(&mut self, request: impl AsRef<[u8]>) -> Reply {
        let flow = self.open();
        self.peer.push(flow, request.as_ref());
        self.finish();
        let answer = self.peer.take_sent(flow);
        let mut replies = replies(&answer);
        assert_eq!(replies.len(), 1, "{}", String::from_utf8_lossy(&answer));
        self.peer.reset(flow);
        self.run();
        replies.remove(0)
    }

    /// Appends, and returns the reply.
    pub fn append(&mut self, log: &str, value: &[u8]) -> Reply {
        self.once(post(log, value))
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the value of a field.
    pub fn field(&self, name: &str) -> &str {
        let value = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(": ").map(str::len);
        let found = self.head.lines().find_map(|line| Some((line, value(line)?)));
        found.map_or("", |(line, len)| &line[line.len() - len..])
    }

    pub fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line == field)
    }
}

/// Returns the replies, each with its body.
pub fn replies(bytes: &[u8]) -> Vec<Reply> {
    replies_to(bytes, |_| true)
}

/// Returns the replies; `has_body` says of the n-th whether its body follows.
pub fn replies_to(mut bytes: &[u8], has_body: impl Fn(usize) -> bool) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let len = len.map_or(0, |len| len.parse().unwrap());
        let len = if has_body(replies.len()) { len } else { 0 };
        bytes = &bytes[end + 4..];
        replies.push(Reply { status, head, body: bytes[..len].to_vec() });
        bytes = &bytes[len..];
    }
    replies
}

/// A request to append `value`.
pub fn post(log: &str, value: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/logs/{log} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        value.len()
    );
    [head.as_bytes(), value].concat()
}

/// A request without a body.
pub fn ask(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: rig\r\n\r\n")
}

/// A value of `len` bytes that is not like another.
pub fn value(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap() ^ salt).collect()
}

/// Returns numbers from the seed of this run, which is printed.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
pub fn seed() -> Rng {
    let seed = std::env::var("IMPASTO_SEED").map_or(1, |text| text.parse().unwrap());
    println!("IMPASTO_SEED={seed}");
    Rng::new(seed)
}
