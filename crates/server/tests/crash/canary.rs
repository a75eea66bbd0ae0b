//! Canaries: each breaks one rule at a seam or a medium, and the checker must see it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use impasto_media::{CommitId, Dev, DevToken, Durability, Event, Lines, Medium, Profile, Ticket};
use impasto_region::{Extent, Frames, Span, layout::Superblock};
use impasto_server::Enter;
use impasto_sim::{SimDev, SimLines};
use impasto_store::{Recovery, Step, Store};

use crate::machine::{Any, Io};

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Canary {
    /// None.
    None,
    /// D1: payload that is kept where it landed is not flushed.
    DropPayloadFlush,
    /// D1, D3: the fences between and behind payload and record are missing.
    DropFences,
    /// D3: commits are reported when they start.
    ReplyEarly,
    /// D8: the oldest commit is reported whenever any completes.
    IgnoreHoles,
    /// D1: syncs do nothing.
    DropSyncs,
    /// D6: a start goes on with the epoch that it finds.
    KeepEpoch,
}

pub(crate) fn lines(canary: Canary, lines: SimLines) -> impl Lines + 'static {
    Fenceless { lines, drops: canary == Canary::DropFences }
}

pub(crate) fn dev(canary: Canary, dev: SimDev) -> impl Dev<Io> + 'static {
    Syncless { dev, drops: canary == Canary::DropSyncs, done: VecDeque::new() }
}

pub(crate) fn medium(canary: Canary, medium: impl Medium<Io> + 'static) -> Box<dyn Medium<Io>> {
    let (early, holes) = (VecDeque::new(), BTreeMap::new());
    Box::new(Liar { medium, canary, early, holes })
}

struct Fenceless {
    lines: SimLines,
    drops: bool,
}

impl Lines for Fenceless {
    fn flush(&mut self, frames: &Frames, span: Span) {
        self.lines.flush(frames, span);
    }

    fn fence(&mut self, frames: &Frames) {
        if !self.drops {
            self.lines.fence(frames);
        }
    }
}

struct Syncless {
    dev: SimDev,
    drops: bool,
    done: VecDeque<DevToken>,
}

impl Dev<Io> for Syncless {
    fn write(&mut self, io: &mut Io, frames: &Frames, span: Span, how: Durability) -> DevToken {
        self.dev.write(io, frames, span, how)
    }

    fn sync(&mut self, io: &mut Io) -> DevToken {
        if !self.drops {
            return Dev::<Io>::sync(&mut self.dev, io);
        }
        // Numbers that the device does not reach.
        let token = DevToken(u64::MAX - self.done.len() as u64);
        self.done.push_back(token);
        token
    }

    fn read(&mut self, io: &mut Io, frames: &mut Frames, span: Span) -> DevToken {
        self.dev.read(io, frames, span)
    }

    fn poll(&mut self, io: &mut Io, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)> {
        self.done.pop_front().map(|token| (token, Ok(()))).or_else(|| self.dev.poll(io, frames))
    }
}

/// A medium that says what is not so.
struct Liar<M> {
    medium: M,
    canary: Canary,
    /// Commits to be reported before they are durable.
    early: VecDeque<CommitId>,
    /// Commits in flight that were not reported.
    holes: BTreeMap<CommitId, ()>,
}

impl<M: Medium<Io>> Medium<Io> for Liar<M> {
    fn profile(&self) -> Profile {
        self.medium.profile()
    }

    fn accepts_commit(&self, bytes: u64) -> bool {
        self.medium.accepts_commit(bytes)
    }

    fn commit(&mut self, io: &mut Io, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]) {
        let kept = if self.canary == Canary::DropPayloadFlush { &[] } else { kept };
        self.medium.commit(io, frames, id, log, kept);
        match self.canary {
            Canary::ReplyEarly => self.early.push_back(id),
            Canary::IgnoreHoles => drop(self.holes.insert(id, ())),
            _ => {}
        }
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
        if let Some(id) = self.early.pop_front() {
            return Some(Event::Committed(id, Ok(())));
        }
        loop {
            let event = self.medium.poll(io, frames)?;
            match (self.canary, event) {
                (Canary::ReplyEarly, Event::Committed(..)) => {}
                (Canary::IgnoreHoles, Event::Committed(_, result)) => {
                    let (oldest, ()) = self.holes.pop_first().expect("a commit was in flight");
                    return Some(Event::Committed(oldest, result));
                }
                (_, event) => return Some(event),
            }
        }
    }
}

/// As `impasto_server::start`, but for D6.
pub(crate) fn start_in_old_epoch(
    io: &mut Io,
    medium: &mut Any,
    frames: &mut Frames,
    superblock: Superblock,
) -> Result<Store, String> {
    let mut recovery = Recovery::new(superblock);
    while let Step::Read(spans) = recovery.step(frames).map_err(|lie| lie.to_string())? {
        medium.read(io, frames, Ticket(0), &spans);
        while medium.poll(io, frames).is_none() {
            Enter::enter(io, None).map_err(|error| error.to_string())?;
        }
    }
    let mut recovered = recovery.finish(frames).map_err(|lie| lie.to_string())?;
    recovered.superblock.epoch = superblock.epoch;
    Ok(recovered.into_store())
}
