//! `disk`: a commit is one write; bodies are writes, then a sync.
//!
//! ```text
//! commit           write (Dsync) ---------------------------------------> Committed
//! write, persist   write, write, .. all completed -> written -> sync ---> Persisted
//! write, abandon   write, write, .. all completed ----------------------> Abandoned
//! read             read, read, ..   a failed one again, by block -------> Read
//! ```
//!
//! One sync is in flight at a time. It covers the tickets that were *written* when it was issued,
//! and no other: what completes behind its back waits for the next one (D1).
//!
//! After each call, whatever waits waits for something in flight: the `I` on which that completes
//! is polled, and goes on with it, whoever began it.

mod lane;

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    sync::Arc,
};

use impasto_region::{
    Extent, Frames, Span,
    layout::{BLOCK_BYTES, MediumKind},
};

use self::lane::{
    ALONE_AFTER_BYTES, BYTES_IN_FLIGHT_MAX, BYTES_IN_FLIGHT_MAX_ALONE, Lane, OP_BYTES_MAX,
    assert_blocks,
};
use crate::{CommitId, Dev, DevToken, Durability, Event, Medium, MediumError, Profile, Ticket};

/// The medium of an ordinary disk, over a [`Dev`].
#[derive(Debug)]
pub struct Disk<D> {
    dev: D,
    events: VecDeque<Event>,

    /// In flight.
    commits: Vec<(DevToken, CommitId)>,
    /// Bytes of the commit started last.
    commit_bytes_last: u64,

    /// Of bodies and superblocks.
    writes: Lane,
    /// Bytes of `writes` that completed since a commit was last started.
    bytes_since_commit: u64,
    /// The last commit came soon after the one before.
    has_commits_around: bool,
    /// By ticket in use.
    stages: HashMap<Ticket, Stage>,
    /// Tickets whose writes have completed, and that no sync covers yet.
    written: Vec<Ticket>,
    /// Tickets that the sync in flight covers.
    syncing: Vec<Ticket>,
    sync: Option<DevToken>,

    reads: Lane,
    /// By [`Medium::read`] that has not ended: what of it could not be read.
    readings: HashMap<Ticket, Option<Unreadable>>,

    /// The first write or sync that failed: from then on nothing is believed (D7).
    failure: Option<Arc<io::Error>>,
}

/// How far a ticket is that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// More may follow.
    Open,
    /// All of it was begun; writes are in flight or wait.
    Persisting,
    /// All of it was written; a sync is in flight or wanted.
    Written,
    /// Writes are in flight that nobody wants any more.
    Abandoned,
}

#[derive(Debug)]
struct Unreadable {
    blocks: u64,
    at: u64,
    first: io::Error,
}

impl<I, D: Dev<I>> Medium<I> for Disk<D> {
    fn profile(&self) -> Profile {
        Profile {
            kind: MediumKind::Disk,
            inline_max: INLINE_MAX,
            keeps_landed: false,
            commits_max: COMMITS_MAX,
        }
    }

    /// A second or third write is worth it if it carries at least half of what the last one did:
    /// with one in flight the connections split into two groups that wait for each other, and many
    /// small ones cost more flushes than they save time.
    fn accepts_commit(&self, bytes: u64) -> bool {
        match self.commits.len() {
            0 => true,
            COMMITS_MAX.. => false,
            _ => bytes >= self.commit_bytes_last / 2,
        }
    }

    /// # Panics
    /// If `kept` is not empty, `log` is not whole blocks or longer than a commit can be, or
    /// `commits_max` are in flight.
    fn commit(&mut self, io: &mut I, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]) {
        assert!(kept.is_empty(), "payload is not kept where it landed on disk");
        assert!(log.len <= COMMIT_BYTES_MAX, "a commit is one write, {log:?} is too long");
        assert!(self.commits.len() < COMMITS_MAX, "at most {COMMITS_MAX} commits are in flight");
        assert_blocks(log);
        if let Err(error) = self.standing() {
            self.events.push_back(Event::Committed(id, Err(error)));
            return;
        }
        let token = self.dev.write(io, frames, log, Durability::Dsync);
        self.commits.push((token, id));
        self.commit_bytes_last = log.len;
        // One that comes alone leaves the bodies their pace: most often it is the record of one.
        self.has_commits_around = self.bytes_since_commit < ALONE_AFTER_BYTES;
        self.bytes_since_commit = 0;
    }

    /// # Panics
    /// If a persist or abandon of `ticket` has not ended, or a span is not whole blocks.
    fn write(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.enter_stage(ticket, Stage::Open);
        self.push_writes(ticket, spans);
        self.start_writes(io, frames);
    }

    /// # Panics
    /// If a persist or abandon of `ticket` has not ended, or a span is not whole blocks.
    fn persist(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        let before = self.enter_stage(ticket, Stage::Persisting);
        self.push_writes(ticket, spans);
        if before.is_none() && self.writes.is_idle(ticket) {
            // There is nothing of it that a sync could cover.
            let result = self.standing();
            self.persisted(ticket, result);
        } else {
            self.settle(ticket);
        }
        self.start_writes(io, frames);
        // If all of it was written before, no completion may come that a poll could do it at.
        self.start_sync(io);
    }

    /// # Panics
    /// If a persist or abandon of `ticket` has not ended.
    fn abandon(&mut self, _io: &mut I, ticket: Ticket) {
        self.enter_stage(ticket, Stage::Abandoned);
        self.writes.drop_waiting(ticket);
        self.settle(ticket);
    }

    /// # Panics
    /// If `ticket` is in use, or a span is not whole blocks.
    fn read(&mut self, io: &mut I, frames: &mut Frames, ticket: Ticket, spans: &[Span]) {
        let before = self.readings.insert(ticket, None);
        assert!(before.is_none(), "{ticket:?} is in use");
        for span in spans {
            self.reads.push(ticket, *span, OP_BYTES_MAX);
        }
        if self.reads.is_idle(ticket) {
            self.end_reading(ticket);
        }
        self.start_reads(io, frames);
    }

    fn poll(&mut self, io: &mut I, frames: &mut Frames) -> Option<Event> {
        while let Some((token, result)) = self.dev.poll(io, frames) {
            self.complete(frames, token, result);
        }
        self.start_writes(io, frames);
        self.start_reads(io, frames);
        // After all completions, so that one sync covers as many persists as can be.
        self.start_sync(io);
        self.events.pop_front()
    }
}

impl<D> Disk<D> {
    /// Returns the medium on `dev`.
    pub fn new(dev: D) -> Self {
        Self {
            dev,
            events: VecDeque::new(),
            commits: Vec::with_capacity(COMMITS_MAX),
            commit_bytes_last: 0,
            writes: Lane::new(),
            bytes_since_commit: ALONE_AFTER_BYTES,
            has_commits_around: false,
            stages: HashMap::new(),
            written: Vec::new(),
            syncing: Vec::new(),
            sync: None,
            reads: Lane::new(),
            readings: HashMap::new(),
            failure: None,
        }
    }

    /// Returns the stage that `ticket` was in, if it was in use.
    fn enter_stage(&mut self, ticket: Ticket, stage: Stage) -> Option<Stage> {
        let before = self.stages.insert(ticket, stage);
        assert!(matches!(before, None | Some(Stage::Open)), "{ticket:?} is in use: {before:?}");
        before
    }

    fn push_writes(&mut self, ticket: Ticket, spans: &[Span]) {
        // D7: a failed medium is not written to.
        if self.failure.is_none() {
            for span in spans {
                self.writes.push(ticket, *span, OP_BYTES_MAX);
            }
        }
    }

    fn start_writes<I>(&mut self, io: &mut I, frames: &Frames)
    where
        D: Dev<I>,
    {
        let bytes_in_flight_max = self.write_bytes_in_flight_max();
        while let Some(span) = self.writes.next(bytes_in_flight_max) {
            let token = self.dev.write(io, frames, span, Durability::Plain);
            self.writes.started(token);
        }
    }

    /// Few bytes while commits follow each other, until none is in flight and none has followed for
    /// a while; else many.
    const fn write_bytes_in_flight_max(&self) -> u64 {
        let is_over = self.commits.is_empty() && self.bytes_since_commit >= ALONE_AFTER_BYTES;
        if !self.has_commits_around || is_over {
            BYTES_IN_FLIGHT_MAX_ALONE
        } else {
            BYTES_IN_FLIGHT_MAX
        }
    }

    fn start_sync<I>(&mut self, io: &mut I)
    where
        D: Dev<I>,
    {
        if self.sync.is_none() && !self.written.is_empty() {
            mem::swap(&mut self.written, &mut self.syncing);
            self.sync = Some(self.dev.sync(io));
        }
    }

    fn start_reads<I>(&mut self, io: &mut I, frames: &mut Frames)
    where
        D: Dev<I>,
    {
        // A span is on loan once: who wants it, too, waits.
        while let Some(span) = self.reads.next(BYTES_IN_FLIGHT_MAX)
            && !self.reads.is_in_flight(span)
        {
            let token = self.dev.read(io, frames, span);
            self.reads.started(token);
        }
    }

    fn complete(&mut self, frames: &mut Frames, token: DevToken, result: io::Result<()>) {
        if let Some(id) = take(&mut self.commits, token) {
            let result = self.believe(result);
            self.events.push_back(Event::Committed(id, result));
        } else if let Some((ticket, span)) = self.writes.completed(token) {
            self.bytes_since_commit += span.len;
            // If it failed, so has the medium, and with it the ticket.
            let _failed = self.believe(result);
            self.settle(ticket);
        } else if let Some((ticket, span)) = self.reads.completed(token) {
            self.end_read(frames, ticket, span, result);
        } else {
            let sync = self.sync.take();
            assert_eq!(sync, Some(token), "a completion belongs to an operation in flight");
            self.end_sync(result);
        }
    }

    /// Goes on with `ticket` if nothing of it is in flight or waits.
    fn settle(&mut self, ticket: Ticket) {
        if !self.writes.is_idle(ticket) {
            return;
        }
        match self.stages.get(&ticket) {
            Some(Stage::Persisting) => match self.standing() {
                Ok(()) => {
                    self.stages.insert(ticket, Stage::Written);
                    self.written.push(ticket);
                }
                failed => self.persisted(ticket, failed),
            },
            Some(Stage::Abandoned) => {
                self.stages.remove(&ticket);
                self.events.push_back(Event::Abandoned(ticket));
            }
            // More may follow; a sync ends it; it has ended.
            Some(Stage::Open | Stage::Written) | None => {}
        }
    }

    fn end_sync(&mut self, result: io::Result<()>) {
        // If it failed, so have the tickets that it covers: `fail` reports them.
        let _failed = self.believe(result);
        while let Some(ticket) = self.syncing.pop() {
            self.persisted(ticket, Ok(()));
        }
    }

    fn persisted(&mut self, ticket: Ticket, result: io::Result<()>) {
        self.stages.remove(&ticket);
        self.events.push_back(Event::Persisted(ticket, result));
    }

    fn end_read(
        &mut self,
        frames: &mut Frames,
        ticket: Ticket,
        span: Span,
        result: io::Result<()>,
    ) {
        if let Err(error) = result {
            if span.len > BLOCK_BYTES {
                // One unreadable sector costs its block, not the span.
                self.reads.push(ticket, span, BLOCK_BYTES);
            } else {
                frames.store(span.at, &ZEROES);
                let unreadable = self.readings.get_mut(&ticket).expect("it has not ended");
                let none = Unreadable { blocks: 0, at: span.at, first: error };
                unreadable.get_or_insert(none).blocks += 1;
            }
        }
        if self.reads.is_idle(ticket) {
            self.end_reading(ticket);
        }
    }

    fn end_reading(&mut self, ticket: Ticket) {
        let unreadable = self.readings.remove(&ticket).expect("a read ends once");
        let result = match unreadable {
            None => Ok(()),
            Some(Unreadable { blocks, at, first }) => {
                Err(MediumError::Unreadable { blocks, at, first }.into())
            }
        };
        self.events.push_back(Event::Read(ticket, result));
    }

    /// Returns `result`, or an error if anything has failed before.
    fn believe(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = result
            && self.failure.is_none()
        {
            self.fail(error);
        }
        self.standing()
    }

    fn standing(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |first| Err(MediumError::failed(first)))
    }

    /// D7: gives up all that is not durable. What is in flight ends when it completes: until then
    /// the device may look at its frames.
    fn fail(&mut self, error: io::Error) {
        self.failure = Some(Arc::new(error));
        while let Some(ticket) = self.writes.waits() {
            self.writes.drop_waiting(ticket);
            self.settle(ticket);
        }
        while let Some(ticket) = self.written.pop().or_else(|| self.syncing.pop()) {
            let failed = self.standing();
            self.persisted(ticket, failed);
        }
    }
}

/// Most commits in flight (D2: bounds what recovery has to search).
const COMMITS_MAX: usize = 3;
/// The longest commit, with the segment header before it.
const COMMIT_BYTES_MAX: u64 = (512 << 10) + BLOCK_BYTES;
/// The longest value that is copied beside its record.
const INLINE_MAX: u32 = 64 << 10;

static ZEROES: [u8; 4096] = [0; 4096];
const _: () = assert!(ZEROES.len() as u64 == BLOCK_BYTES);

/// Removes the operation that `token` names.
fn take<T>(ops: &mut Vec<(DevToken, T)>, token: DevToken) -> Option<T> {
    let index = ops.iter().position(|(op, _)| *op == token)?;
    Some(ops.swap_remove(index).1)
}

#[cfg(test)]
mod tests;
