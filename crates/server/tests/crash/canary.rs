//! Canaries: each breaks one rule at a seam or a medium, and the checker must see it.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    io,
};

use impasto_media::{CommitId, Dev, DevToken, Durability, Event, Lines, Medium, Profile, Ticket};
use impasto_region::{Extent, Frames, Span, layout::Superblock};
use impasto_server::Enter;
use impasto_sim::SimLines;
use impasto_store::{Recovery, Step, Store};

use crate::{
    machine::Any,
    wires::{Io, Routed},
};

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
    /// D3: whoever can go on is not told.
    DropWakes,
    /// D1: fences are another worker's than the flushes before them.
    FenceElsewhere,
    /// D4: commits that keep nothing, which is to say trims, are reported before they are durable.
    TrimEarly,
    /// D6: a start goes on with the epoch that it finds.
    KeepEpoch,
}

pub(crate) fn lines(canary: Canary, lines: SimLines) -> impl Lines + 'static {
    Fenceless { lines, canary }
}

pub(crate) fn dev(canary: Canary, dev: Routed) -> impl Dev<Io> + 'static {
    Syncless { dev, drops: canary == Canary::DropSyncs, done: VecDeque::new() }
}

pub(crate) fn medium(canary: Canary, medium: impl Medium<Io> + 'static) -> Box<dyn Medium<Io>> {
    let (early, holes) = (VecDeque::new(), BTreeMap::new());
    Box::new(Liar { medium, canary, early, holes, late: None, is_late: Cell::default() })
}

struct Fenceless {
    lines: SimLines,
    canary: Canary,
}

impl Lines for Fenceless {
    fn flush(&mut self, frames: &Frames, span: Span) {
        self.lines.flush(frames, span);
    }

    fn fence(&mut self, frames: &Frames) {
        match self.canary {
            Canary::DropFences => {}
            Canary::FenceElsewhere => {
                let cpu = self.lines.run_on(usize::MAX);
                self.lines.fence(frames);
                self.lines.run_on(cpu);
            }
            _ => self.lines.fence(frames),
        }
    }
}

struct Syncless {
    dev: Routed,
    drops: bool,
    done: VecDeque<DevToken>,
}

impl Dev<Io> for Syncless {
    fn write(&mut self, io: &mut Io, frames: &Frames, span: Span, how: Durability) -> DevToken {
        self.dev.write(io, frames, span, how)
    }

    fn sync(&mut self, io: &mut Io) -> DevToken {
        if !self.drops {
            return self.dev.sync(io);
        }
        // Numbers that the device does not reach.
        let token = DevToken(u64::MAX - self.done.len() as u64);
        self.done.push_back(token);
        io.wake_self();
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
    /// Commits in flight: those that were not reported, or those that were.
    holes: BTreeMap<CommitId, ()>,
    /// A commit that was reported and not started.
    late: Option<(CommitId, Span)>,
    /// The next commit waits for it.
    is_late: Cell<bool>,
}

impl<M: Medium<Io>> Medium<Io> for Liar<M> {
    fn profile(&self) -> Profile {
        self.medium.profile()
    }

    fn accepts_commit(&self, bytes: u64) -> bool {
        // Else the next commit would bear false witness (D2), and that is another rule.
        self.is_late.set(self.late.is_some());
        !self.is_late.get() && self.medium.accepts_commit(bytes)
    }

    fn commit(&mut self, io: &mut Io, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]) {
        if self.canary == Canary::TrimEarly && kept.is_empty() {
            self.late = Some((id, log));
            self.early.push_back(id);
            return;
        }
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
        if self.is_late.take()
            && let Some((id, log)) = self.late.take()
        {
            self.medium.commit(io, frames, id, log, &[]);
            self.holes.insert(id, ());
            io.wake_self();
        }
        if let Some(id) = self.early.pop_front() {
            return Some(Event::Committed(id, Ok(())));
        }
        loop {
            let event = self.medium.poll(io, frames)?;
            match (self.canary, event) {
                (Canary::ReplyEarly, Event::Committed(..)) => {}
                (Canary::TrimEarly, Event::Committed(id, _))
                    if self.holes.remove(&id).is_some() => {}
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
