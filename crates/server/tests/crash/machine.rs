//! A machine whose power fails: simulated hardware below the real loop, store and media.

use std::{cell::RefCell, io, rc::Rc, time::Instant};

use impasto_media::{CommitId, Disk, Event, Medium, Pmem, Profile, Ticket};
use impasto_region::{
    Extent, Frames, Span,
    layout::{BLOCK_BYTES, Geometry, MediumKind, Superblock},
};
use impasto_ring::{LoopPeer, LoopPort};
use impasto_server::{
    Parts, Shared, SharedParts, Worker,
    config::{Options, landing_bufs},
    start,
};
use impasto_sim::{Fate, Model, Power, Rng, SimDev, SimLines, fill};

use crate::{
    canary::{self, Canary},
    client::Client,
    wires::{Io, Routed, Wired},
};

const REGION_BYTES: u64 = 16 << 20;

/// What the region stands on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hardware {
    Pmem,
    Disk(Model),
}

impl Hardware {
    const fn medium(self) -> MediumKind {
        match self {
            Self::Pmem => MediumKind::Pmem,
            Self::Disk(_) => MediumKind::Disk,
        }
    }
}

/// A machine, and who serves on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) hardware: Hardware,
    pub(crate) canary: Canary,
    pub(crate) workers: usize,
    pub(crate) seed: u64,
}

/// The bytes of a region without power.
#[derive(Clone)]
pub(crate) struct Image(Rc<Vec<u8>>);

impl Image {
    pub(crate) fn fresh(hardware: Hardware) -> Self {
        let superblock = Superblock::fresh(geometry(), hardware.medium());
        let mut bytes = vec![0; usize::try_from(REGION_BYTES).unwrap()];
        let block = superblock.encode();
        bytes[..block.len()].copy_from_slice(&block);
        Self(Rc::new(bytes))
    }

    /// Of two valid copies the higher generation holds (D9).
    fn superblock(&self) -> Result<Superblock, String> {
        let copies = [0, 1].map(|copy| {
            let at = usize::try_from(geometry().superblock(copy).at).unwrap();
            let block = &self.0[at..at + usize::try_from(BLOCK_BYTES).unwrap()];
            Superblock::decode(block, copy).ok()
        });
        let valid = copies.into_iter().flatten();
        valid.max_by_key(|copy| copy.generation).ok_or_else(|| "no superblock".into())
    }
}

fn geometry() -> Geometry {
    Geometry::new(REGION_BYTES).unwrap()
}

/// Any medium; notes what its commits keep where it landed.
pub(crate) struct Any {
    medium: Box<dyn Medium<Io>>,
    kept: Rc<RefCell<Vec<Extent>>>,
}

impl Medium<Io> for Any {
    fn profile(&self) -> Profile {
        self.medium.profile()
    }

    fn accepts_commit(&self, bytes: u64) -> bool {
        self.medium.accepts_commit(bytes)
    }

    fn commit(&mut self, io: &mut Io, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]) {
        self.kept.borrow_mut().extend_from_slice(kept);
        self.medium.commit(io, frames, id, log, kept);
    }

    fn write(&mut self, io: &mut Io, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.medium.write(io, frames, ticket, spans);
    }

    fn persist(&mut self, io: &mut Io, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.medium.persist(io, frames, ticket, spans);
    }

    fn abandon(&mut self, io: &mut Io, ticket: Ticket) {
        self.medium.abandon(io, ticket);
    }

    fn read(&mut self, io: &mut Io, frames: &mut Frames, ticket: Ticket, spans: &[Span]) {
        self.medium.read(io, frames, ticket, spans);
    }

    fn poll(&mut self, io: &mut Io, frames: &mut Frames) -> Option<Event> {
        self.medium.poll(io, frames)
    }
}

enum Cells {
    Lines(SimLines),
    Dev(SimDev),
}

impl Cells {
    /// Lets the hardware go on; returns false if nothing is under way.
    fn step(&self) -> bool {
        match self {
            Self::Lines(_) => false,
            Self::Dev(dev) => dev.step(),
        }
    }

    /// What comes now is done by the CPU of this worker.
    fn run_on(&self, worker: usize) {
        if let Self::Lines(lines) = self {
            lines.run_on(worker);
        }
    }

    fn crash(&self, fate: Fate) -> Image {
        let bytes = match self {
            // The live image was copied at the cut; these frames are not looked at.
            Self::Lines(lines) => lines.crash(fate, &Frames::anonymous(geometry(), 0).unwrap()),
            Self::Dev(dev) => dev.crash(fate),
        };
        Image(Rc::new(bytes))
    }
}

/// Hardware with power, before the server is started on it.
struct Bench {
    power: Power,
    cells: Cells,
    io: Io,
    medium: Any,
    frames: Frames,
}

impl Bench {
    fn new(image: &Image, setup: Setup) -> Self {
        let Setup { hardware, canary, workers, seed } = setup;
        let power = Power::new();
        let bytes = image.0.to_vec();
        let kept = Rc::default();
        let drops_wakes = canary == Canary::DropWakes;
        match hardware {
            Hardware::Pmem => {
                let mut frames = Frames::anonymous(geometry(), 0).unwrap();
                fill(&mut frames, &bytes);
                let lines = SimLines::new(bytes, power.clone());
                let seam = canary::lines(canary, lines.clone());
                let medium = canary::medium(canary, Pmem::new(seam, MediumKind::Pmem));
                let (cells, io) = (Cells::Lines(lines), Io::new(None, drops_wakes));
                Self { power, cells, io, medium: Any { medium, kept }, frames }
            }
            Hardware::Disk(model) => {
                let workers = u32::try_from(workers).unwrap();
                let bufs = landing_bufs(geometry(), workers) * workers;
                let frames = Frames::anonymous(geometry(), bufs).unwrap();
                let dev = SimDev::new(bytes, seed, model, power.clone());
                let seam = canary::dev(canary, Routed(dev.clone()));
                let medium = canary::medium(canary, Disk::new(seam));
                let (cells, io) = (Cells::Dev(dev.clone()), Io::new(Some(dev), drops_wakes));
                Self { power, cells, io, medium: Any { medium, kept }, frames }
            }
        }
    }
}

/// A served region.
pub(crate) struct Machine {
    pub(crate) power: Power,
    cells: Cells,
    workers: Vec<Worker<Io, Wired, Any>>,
    /// The clients' side of each worker.
    peers: Vec<LoopPeer>,
    kept: Rc<RefCell<Vec<Extent>>>,
    /// Draws who goes on next.
    rng: Rng,
}

impl Machine {
    /// Starts the server on what stands in `image`.
    pub(crate) fn start(image: &Image, setup: Setup) -> Result<Self, String> {
        let superblock = image.superblock()?;
        let Bench { power, cells, mut io, mut medium, mut frames } = Bench::new(image, setup);
        let store = if setup.canary == Canary::KeepEpoch && superblock.epoch > 0 {
            canary::start_in_old_epoch(&mut io, &mut medium, &mut frames, superblock)?
        } else {
            let started = start(&mut io, &mut medium, &mut frames, superblock);
            started.map_err(|error| error.to_string())?.0
        };
        let kept = Rc::clone(&medium.kept);
        let (geometry, options) = (geometry(), Options::default());
        let workers = u32::try_from(setup.workers).expect("a few");
        let shared = Shared::new(SharedParts { medium, frames, workers, store, geometry, options });
        let (mut workers, mut peers) = (Vec::new(), Vec::new());
        let now = Instant::now();
        for _ in 0..setup.workers {
            let is_on = power.clone();
            let port = LoopPort::with_power(256, Rc::new(move || is_on.is_on()));
            let peer = port.peer();
            peers.push(peer.clone());
            let (port, shared, clock) = (Wired(port), shared.clone(), Box::new(move || now));
            let io = io.serving(peer);
            let worker = Worker::new(Parts { io, port, shared, clock, busy_poll: false });
            workers.push(worker.expect("a worker joins"));
        }
        let rng = Rng::new(setup.seed ^ 0x3c3c);
        Ok(Self { power, cells, workers, peers, kept, rng })
    }

    /// Crashes the start itself at its `site`; `None` if it has fewer.
    pub(crate) fn crash_in_start(
        image: &Image,
        setup: Setup,
        site: u64,
        fate: Fate,
    ) -> Option<Image> {
        let superblock = image.superblock().expect("a region that was not damaged");
        let Bench { power, cells, mut io, mut medium, mut frames } = Bench::new(image, setup);
        power.cut_at(site);
        let started = start(&mut io, &mut medium, &mut frames, superblock);
        assert!(started.is_ok(), "a region that was not damaged starts: {started:?}");
        (!power.is_on()).then(|| cells.crash(fate))
    }

    /// Returns the clients' side of the worker that serves the client of this number.
    pub(crate) fn peer_of(&self, client: usize) -> &LoopPeer {
        &self.peers[client % self.peers.len()]
    }

    /// Returns the clients' side of one of the workers.
    pub(crate) fn any_peer(&mut self) -> LoopPeer {
        let index = self.rng.index(self.peers.len());
        self.peers[index].clone()
    }

    /// Lets the hardware go on a little, or not at all, and a worker that does not wait take a
    /// turn. Returns false if nothing can happen any more, unless somebody asks for something.
    pub(crate) fn turn(&mut self) -> bool {
        let has_stepped = self.rng.once_in(2) && self.cells.step();
        let (count, first) = (self.workers.len(), self.rng.index(self.workers.len()));
        let mut drawn = (first..first + count).map(|worker| worker % count);
        drawn.any(|worker| self.turn_of(worker)) || has_stepped || self.cells.step()
    }

    /// Returns false if the worker waits.
    fn turn_of(&mut self, worker: usize) -> bool {
        self.cells.run_on(worker);
        match self.workers[worker].turn(None) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("the loop does not go on: {error}"),
        }
    }

    /// Turns until nothing happens any more.
    pub(crate) fn settle(&mut self) {
        let went_on = (0..10_000).take_while(|_| self.turn()).count();
        assert!(went_on < 10_000, "the server does not come to rest");
    }

    /// Lets the cut take place, if it was set to the next site.
    pub(crate) fn pass_a_site(&mut self) {
        let client = Client::open(self.peer_of(0));
        client.send(b"POST /v1/logs/last HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
        self.settle();
    }

    /// Returns what the crash leaves, if there was one.
    pub(crate) fn crash(&self, fate: Fate) -> Option<Image> {
        (!self.power.is_on()).then(|| self.cells.crash(fate))
    }

    /// Returns what commits have kept where it landed, in their order.
    pub(crate) fn kept(&self) -> Vec<Extent> {
        self.kept.borrow().clone()
    }

    /// Stops the only worker cleanly.
    pub(crate) fn stop(&mut self) {
        let [worker] = &mut self.workers[..] else { panic!("one worker would wait for another") };
        worker.stop().expect("nothing is left to wait for");
    }
}
