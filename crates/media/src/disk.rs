//! `disk`: a commit is one write; bodies are writes, then a sync.
//!
//! ```text
//! commit    write (Dsync) ---------------------------------------------> Committed
//! persist   write, write, .. all completed -> written -> sync ---------> Persisted
//! read      read, read, ..   a failed one once more, block by block ---> Read
//! ```
//!
//! One sync is in flight at a time. It covers the tickets that were *written* when it was issued,
//! and no other: what completes behind its back waits for the next one (D1).

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    sync::Arc,
};

use impasto_region::{
    Extent, Frames, Span,
    layout::{BLOCK_BYTES, MediumKind},
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

    /// In flight, as are `reads`: at most [`OPS_MAX`] each; the others wait.
    writes: Vec<(DevToken, Ticket)>,
    writes_waiting: VecDeque<(Ticket, Span)>,
    /// By persist that has not ended: how many of its writes have not.
    writes_left: HashMap<Ticket, u64>,
    /// Persists whose writes have completed, and that no sync covers yet.
    written: Vec<Ticket>,
    /// Persists that the sync in flight covers.
    syncing: Vec<Ticket>,
    sync: Option<DevToken>,

    reads: Vec<(DevToken, (Ticket, Span))>,
    reads_waiting: VecDeque<(Ticket, Span)>,
    readings: HashMap<Ticket, Reading>,

    /// The first write or sync that failed: from then on nothing is believed (D7).
    failure: Option<Arc<io::Error>>,
}

/// A [`Medium::read`] that has not ended.
#[derive(Debug, Default)]
struct Reading {
    /// How many of its device reads have not ended.
    left: u64,
    unreadable: Option<Unreadable>,
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
    }

    /// # Panics
    /// If `ticket` is in use, or a span is not whole blocks.
    fn persist(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        let waiting = self.writes_waiting.len();
        if self.failure.is_none() {
            let pieces = spans.iter().flat_map(|span| pieces(*span, OP_BYTES_MAX));
            self.writes_waiting.extend(pieces.map(|piece| (ticket, piece)));
        }
        let left = (self.writes_waiting.len() - waiting) as u64;
        let before = self.writes_left.insert(ticket, left);
        assert!(before.is_none(), "{ticket:?} is in use");
        if left == 0 {
            let result = self.standing();
            self.persisted(ticket, result);
        }
        self.start_writes(io, frames);
    }

    /// # Panics
    /// If `ticket` is in use, or a span is not whole blocks.
    fn read(&mut self, io: &mut I, frames: &mut Frames, ticket: Ticket, spans: &[Span]) {
        let waiting = self.reads_waiting.len();
        let pieces = spans.iter().flat_map(|span| pieces(*span, OP_BYTES_MAX));
        self.reads_waiting.extend(pieces.map(|piece| (ticket, piece)));
        let left = (self.reads_waiting.len() - waiting) as u64;
        let before = self.readings.insert(ticket, Reading { left, unreadable: None });
        assert!(before.is_none(), "{ticket:?} is in use");
        if left == 0 {
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
            events: VecDeque::with_capacity(OPS_MAX),
            commits: Vec::with_capacity(COMMITS_MAX),
            commit_bytes_last: 0,
            writes: Vec::with_capacity(OPS_MAX),
            writes_waiting: VecDeque::new(),
            writes_left: HashMap::new(),
            written: Vec::new(),
            syncing: Vec::new(),
            sync: None,
            reads: Vec::with_capacity(OPS_MAX),
            reads_waiting: VecDeque::new(),
            readings: HashMap::new(),
            failure: None,
        }
    }

    fn start_writes<I>(&mut self, io: &mut I, frames: &Frames)
    where
        D: Dev<I>,
    {
        while self.writes.len() < OPS_MAX
            && let Some((ticket, span)) = self.writes_waiting.pop_front()
        {
            let token = self.dev.write(io, frames, span, Durability::Plain);
            self.writes.push((token, ticket));
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
        while self.reads.len() < OPS_MAX
            && let Some(&(ticket, span)) = self.reads_waiting.front()
        {
            // A span is on loan once: who wants it, too, waits.
            if self.reads.iter().any(|(_, (_, other))| other.overlaps(span)) {
                break;
            }
            self.reads_waiting.pop_front();
            let token = self.dev.read(io, frames, span);
            self.reads.push((token, (ticket, span)));
        }
    }

    fn complete(&mut self, frames: &mut Frames, token: DevToken, result: io::Result<()>) {
        if let Some(id) = take(&mut self.commits, token) {
            let result = self.believe(result);
            self.events.push_back(Event::Committed(id, result));
        } else if let Some(ticket) = take(&mut self.writes, token) {
            // If it failed, so has the medium, and with it the persist.
            let _failed = self.believe(result);
            self.end_write(ticket);
        } else if let Some((ticket, span)) = take(&mut self.reads, token) {
            self.end_read(frames, ticket, span, result);
        } else {
            let sync = self.sync.take();
            assert_eq!(sync, Some(token), "a completion belongs to an operation in flight");
            self.end_sync(result);
        }
    }

    fn end_write(&mut self, ticket: Ticket) {
        let left = self.writes_left.get_mut(&ticket).expect("a write belongs to a persist");
        *left -= 1;
        if *left > 0 {
            return;
        }
        match self.standing() {
            Ok(()) => self.written.push(ticket),
            failed => self.persisted(ticket, failed),
        }
    }

    fn end_sync(&mut self, result: io::Result<()>) {
        // If it failed, so have the persists that it covers: `fail` reports them.
        let _failed = self.believe(result);
        while let Some(ticket) = self.syncing.pop() {
            self.persisted(ticket, Ok(()));
        }
    }

    fn persisted(&mut self, ticket: Ticket, result: io::Result<()>) {
        self.writes_left.remove(&ticket);
        self.events.push_back(Event::Persisted(ticket, result));
    }

    fn end_read(
        &mut self,
        frames: &mut Frames,
        ticket: Ticket,
        span: Span,
        result: io::Result<()>,
    ) {
        let reading = self.readings.get_mut(&ticket).expect("a device read belongs to a read");
        reading.left -= 1;
        if let Err(error) = result {
            if span.len > BLOCK_BYTES {
                // One unreadable sector costs its block, not the span.
                for block in pieces(span, BLOCK_BYTES) {
                    self.reads_waiting.push_back((ticket, block));
                    reading.left += 1;
                }
            } else {
                frames.store(span.at, &ZEROES);
                let none = Unreadable { blocks: 0, at: span.at, first: error };
                reading.unreadable.get_or_insert(none).blocks += 1;
            }
        }
        if reading.left == 0 {
            self.end_reading(ticket);
        }
    }

    fn end_reading(&mut self, ticket: Ticket) {
        let reading = self.readings.remove(&ticket).expect("a read ends once");
        let result = match reading.unreadable {
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
        for (ticket, _) in mem::take(&mut self.writes_waiting) {
            self.end_write(ticket);
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
/// Longer reads and body writes are several.
const OP_BYTES_MAX: u64 = 1 << 20;
/// Most body writes in flight, and most reads; a commit is not held back by them.
const OPS_MAX: usize = 32;

static ZEROES: [u8; 4096] = [0; 4096];
const _: () = assert!(ZEROES.len() as u64 == BLOCK_BYTES);

fn assert_blocks(span: Span) {
    let whole = span.at.is_multiple_of(BLOCK_BYTES) && span.len.is_multiple_of(BLOCK_BYTES);
    assert!(whole, "{span:?} is not whole blocks");
}

/// Returns `span` in pieces of at most `bytes`.
fn pieces(span: Span, bytes: u64) -> impl Iterator<Item = Span> {
    assert_blocks(span);
    (0..span.len.div_ceil(bytes)).map(move |index| {
        let at = span.at + index * bytes;
        Span::new(at, bytes.min(span.end() - at))
    })
}

/// Removes the operation that `token` names.
fn take<T>(ops: &mut Vec<(DevToken, T)>, token: DevToken) -> Option<T> {
    let index = ops.iter().position(|(op, _)| *op == token)?;
    Some(ops.swap_remove(index).1)
}

#[cfg(test)]
mod tests;
