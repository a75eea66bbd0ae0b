//! A machine whose power fails: simulated hardware below the real loop, store and media.

use std::{
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use impasto_media::{CommitId, Disk, Event, Medium, Pmem, Profile, Ticket};
use impasto_region::{
    Extent, Frames, Span,
    layout::{BLOCK_BYTES, Geometry, MediumKind, Superblock},
};
use impasto_ring::{LoopPeer, LoopPort};
use impasto_server::{
    Enter, Parts, Shared, SharedParts, Worker,
    config::{Options, landing_bufs},
    start,
};
use impasto_sim::{Fate, Model, Power, Rng, SimDev, SimLines, fill};

use crate::canary::{self, Canary};

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

/// What the loop waits on. The device goes on a little, or not at all: so several commits get in
/// flight.
#[derive(Debug)]
pub(crate) struct Io(Option<(SimDev, Rng)>);

impl Enter for Io {
    type Waker = ();

    fn waker(&self) -> io::Result<()> {
        Ok(())
    }

    fn wake(&mut self, _waker: &()) {}

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        if let Some((dev, rng)) = &mut self.0
            && (timeout.is_none() || rng.once_in(2))
        {
            dev.step();
        }
        Ok(true)
    }
}

/// Any medium.
pub(crate) struct Any(Box<dyn Medium<Io>>);

impl Medium<Io> for Any {
    fn profile(&self) -> Profile {
        self.0.profile()
    }

    fn accepts_commit(&self, bytes: u64) -> bool {
        self.0.accepts_commit(bytes)
    }

    fn commit(&mut self, io: &mut Io, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]) {
        self.0.commit(io, frames, id, log, kept);
    }

    fn write(&mut self, io: &mut Io, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.0.write(io, frames, ticket, spans);
    }

    fn persist(&mut self, io: &mut Io, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.0.persist(io, frames, ticket, spans);
    }

    fn abandon(&mut self, io: &mut Io, ticket: Ticket) {
        self.0.abandon(io, ticket);
    }

    fn read(&mut self, io: &mut Io, frames: &mut Frames, ticket: Ticket, spans: &[Span]) {
        self.0.read(io, frames, ticket, spans);
    }

    fn poll(&mut self, io: &mut Io, frames: &mut Frames) -> Option<Event> {
        self.0.poll(io, frames)
    }
}

enum Cells {
    Lines(SimLines),
    Dev(SimDev),
}

impl Cells {
    fn are_idle(&self) -> bool {
        match self {
            Self::Lines(_) => true,
            Self::Dev(dev) => dev.in_flight() == 0,
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
    fn new(image: &Image, hardware: Hardware, canary: Canary, seed: u64) -> Self {
        let power = Power::new();
        let bytes = image.0.to_vec();
        match hardware {
            Hardware::Pmem => {
                let mut frames = Frames::anonymous(geometry(), 0).unwrap();
                fill(&mut frames, &bytes);
                let lines = SimLines::new(bytes, power.clone());
                let seam = canary::lines(canary, lines.clone());
                let medium = canary::medium(canary, Pmem::new(seam, MediumKind::Pmem));
                let cells = Cells::Lines(lines);
                Self { power, cells, io: Io(None), medium: Any(medium), frames }
            }
            Hardware::Disk(model) => {
                let frames = Frames::anonymous(geometry(), landing_bufs(geometry())).unwrap();
                let dev = SimDev::new(bytes, seed, model, power.clone());
                let seam = canary::dev(canary, dev.clone());
                let medium = canary::medium(canary, Disk::new(seam));
                let (cells, io) = (Cells::Dev(dev.clone()), Io(Some((dev, Rng::new(seed)))));
                Self { power, cells, io, medium: Any(medium), frames }
            }
        }
    }
}

/// A served region.
pub(crate) struct Machine {
    pub(crate) power: Power,
    pub(crate) peer: LoopPeer,
    cells: Cells,
    worker: Worker<Io, LoopPort, Any>,
}

impl Machine {
    /// Starts the server on what stands in `image`.
    pub(crate) fn start(
        image: &Image,
        hardware: Hardware,
        canary: Canary,
        seed: u64,
    ) -> Result<Self, String> {
        let superblock = image.superblock()?;
        let Bench { power, cells, mut io, mut medium, mut frames } =
            Bench::new(image, hardware, canary, seed);
        let store = if canary == Canary::KeepEpoch && superblock.epoch > 0 {
            canary::start_in_old_epoch(&mut io, &mut medium, &mut frames, superblock)?
        } else {
            let started = start(&mut io, &mut medium, &mut frames, superblock);
            started.map_err(|error| error.to_string())?.0
        };
        let is_on = power.clone();
        let port = LoopPort::with_power(256, Rc::new(move || is_on.is_on()));
        let peer = port.peer();
        let now = Instant::now();
        let clock: Box<dyn FnMut() -> Instant> = Box::new(move || now);
        let geometry = geometry();
        let options = Options::default();
        let shared = Shared::new(SharedParts { medium, frames, store, geometry, options });
        let worker = Worker::new(Parts { io, port, shared, clock, busy_poll: false })
            .expect("a worker joins");
        Ok(Self { power, peer, cells, worker })
    }

    /// Crashes the start itself at its `site`; `None` if it has fewer.
    pub(crate) fn crash_in_start(
        image: &Image,
        hardware: Hardware,
        canary: Canary,
        seed: u64,
        site: u64,
        fate: Fate,
    ) -> Option<Image> {
        let superblock = image.superblock().expect("a region that was not damaged");
        let Bench { power, cells, mut io, mut medium, mut frames } =
            Bench::new(image, hardware, canary, seed);
        power.cut_at(site);
        let started = start(&mut io, &mut medium, &mut frames, superblock);
        assert!(started.is_ok(), "a region that was not damaged starts: {started:?}");
        (!power.is_on()).then(|| cells.crash(fate))
    }

    pub(crate) fn turn(&mut self) {
        self.worker.turn(Some(Duration::ZERO)).expect("the loop goes on");
    }

    /// Turns until nothing happens any more.
    pub(crate) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..10_000 {
            let before = self.power.sites();
            let arrivals = self.peer.has_arrivals();
            self.turn();
            let idle = !arrivals && self.power.sites() == before && self.cells.are_idle();
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet > 3 {
                return;
            }
        }
        panic!("the server does not come to rest");
    }

    /// Lets the cut take place, if it was set to the next site.
    pub(crate) fn pass_a_site(&mut self) {
        let client = crate::client::Client::open(&self.peer);
        client.send(b"POST /v1/logs/last HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
        self.settle();
    }

    /// Returns what the crash leaves, if there was one.
    pub(crate) fn crash(&self, fate: Fate) -> Option<Image> {
        (!self.power.is_on()).then(|| self.cells.crash(fate))
    }
}
