//! No copy: each receive goes straight into the mapped region, as with `-N` of PASTE's own sample
//! server, and records name their values where they landed.
//!
//! ```text
//! recv into the landing file -> append: a record that names the value
//! persist: flush values -> flush records -> one fence
//! ```
//!
//! One fence is enough: a record has the checksum of its value. Landing and log are a file each, so
//! that one can be looked at while the other is written. What comes of a long value first is copied
//! to the place where the rest is received then; a short one that comes in pieces is put together
//! in ordinary memory.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use impasto::{
    media::{CpuLines, Lines},
    region::{
        Checksum, Frames, Region, Span,
        layout::{BLOCK_BYTES, BUF_BYTES, MediumKind},
    },
};
use rustix::net::{RecvFlags, recv};

use super::{
    Start,
    engine::{Connection, Engine, Taken, Variant},
    http::{self, BODY_MAX, Parsed},
    logs::Place,
    memory::{self, Memory},
    record::{EXTENT, Head, Record},
};
use crate::{
    cli::Failure,
    lines::Delayed,
    stages::{Stage, Stages},
};

#[derive(Debug)]
struct ReadInto {
    memory: Memory,
    lines: Delayed<CpuLines>,
    /// Looked at while the rest of this is changed.
    landing: Rc<RefCell<Frames>>,
    /// Where the next receive goes, in the landing file: it grows over all rounds.
    next: u64,
    capacity: u64,
    /// Where the last receive went: its address, its length, and where in the landing file.
    landed: (usize, usize, u64),
    /// Values to be flushed.
    kept: Vec<Span>,
    /// With the locks.
    _regions: [Region; 2],
}

pub(super) fn serve(start: Start) -> Result<Infallible, Failure> {
    let [landing, log] =
        ["landing", "log"].map(|name| start.region_at(&start.dir.join(name), MediumKind::Shm));
    let regions = [landing?, log?];
    let geometry = start.geometry;
    let lines = Delayed::new(CpuLines::detect(), start.fence_delay);
    let memory = Memory::new(&regions[1], memory::touched(&regions[1])?);
    start.serve(ReadInto {
        memory,
        lines,
        landing: Rc::new(RefCell::new(memory::touched(&regions[0])?)),
        next: 0,
        capacity: u64::from(geometry.bufs()) * BUF,
        landed: (0, 0, 0),
        kept: Vec::new(),
        _regions: regions,
    })
}

impl Variant for ReadInto {
    type State = Option<Long>;

    fn take(
        engine: &mut Engine<Self>,
        connection: &mut Connection<Option<Long>>,
    ) -> Result<Taken, Failure> {
        if let Some(long) = connection.state.take() {
            return take_long(engine, connection, long);
        }
        if !connection.rest.is_empty() {
            return engine.take(connection);
        }
        let landing = Rc::clone(&engine.variant.landing);
        let span = engine.variant.next_span();
        let mut loan = landing.borrow_mut().loan_span(span);
        let received = recv(&connection.stream, loan.bytes_mut(), RecvFlags::empty());
        landing.borrow_mut().settle_span(loan);
        engine.stages.charge(Stage::Receive);
        let taken = match received {
            Ok((_, 0)) => Taken::Over,
            Ok((_, count)) => {
                let landing = landing.borrow();
                let bytes = &landing.bytes(span)[..count];
                engine.variant.has_landed(bytes);
                engine.answer_first(connection, bytes)?
            }
            Err(error) => Taken::of(error),
        };
        if taken == Taken::GoesOn && connection.missing >= LONG {
            begin_long(engine, connection)?;
        }
        Ok(taken)
    }

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        let body = record.body();
        let (address, len, landed_at) = self.landed;
        // Only what landed last is looked at: a value from elsewhere was put together there.
        let Some(lead) = body.as_ptr().addr().checked_sub(address).filter(|lead| *lead < len)
        else {
            return Ok(self.memory.append(record));
        };
        Ok(self.name(record.head(), landed_at + lead as u64, body.len() as u64))
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        let landing = self.landing.borrow();
        for span in self.kept.drain(..) {
            self.lines.flush(&landing, span);
        }
        self.memory.persist(&mut self.lines, stages);
        Ok(())
    }

    fn empty(&mut self) {
        // The landing file goes round all the same: a long value may be on its way into it.
        self.memory.begin_anew();
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if place.at & LANDED == 0 {
            return Ok(self.memory.read(place, out));
        }
        let at = place.at & !LANDED;
        let is_there = self.next <= at + self.capacity;
        if is_there {
            let span = self.span(at, u64::from(place.len));
            out.extend_from_slice(self.landing.borrow().bytes(span));
        }
        Ok(is_there)
    }
}

impl ReadInto {
    /// Writes down a value that is in the landing file; an extent of it is in one buffer.
    fn name(&mut self, head: Head, at: u64, len: u64) -> u64 {
        let mut extents = [0; EXTENT * EXTENTS_MAX];
        let (mut extents_len, mut done) = (0, 0);
        for extent in extents.chunks_exact_mut(EXTENT) {
            let offset = (at + done) % self.capacity;
            let part = (len - done).min(BUF - offset % BUF);
            let fields = [offset / BUF, offset % BUF, part];
            for (field, value) in extent.chunks_exact_mut(4).zip(fields) {
                field.copy_from_slice(&value.to_le_bytes()[..4]);
            }
            (extents_len, done) = (extents_len + EXTENT, done + part);
            if done == len {
                break;
            }
        }
        self.memory.append_parts(&head.keep(extents_len), &extents[..extents_len]);
        self.keep(self.span(at, len));
        at | LANDED
    }

    fn span(&self, at: u64, len: u64) -> Span {
        Span::new(BLOCK_BYTES + at % self.capacity, len)
    }

    /// Sets room aside for a long value, in one piece.
    fn reserve(&mut self, len: u64) -> u64 {
        if self.next % self.capacity + len > self.capacity {
            self.next = self.next.next_multiple_of(self.capacity);
        }
        let at = self.next;
        self.next += len.next_multiple_of(LINE);
        at
    }

    /// Returns where the next receive goes: into one buffer, since an extent is of one.
    fn next_span(&mut self) -> Span {
        let mut room = BUF - self.next % BUF;
        if room < ROOM_MIN {
            (self.next, room) = (self.next + room, BUF);
        }
        self.span(self.next, room)
    }

    /// Notes what has come into that span.
    fn has_landed(&mut self, bytes: &[u8]) {
        self.landed = (bytes.as_ptr().addr(), bytes.len(), self.next);
        // On lines of its own: these will be written back.
        self.next += (bytes.len() as u64).next_multiple_of(LINE);
    }

    /// Has a value flushed; two in the same line as one, so that it is written back once.
    fn keep(&mut self, span: Span) {
        match self.kept.last_mut() {
            Some(last) if span.at / LINE <= last.end() / LINE && span.at >= last.at => {
                last.len = span.end() - last.at;
            }
            _ => self.kept.push(span),
        }
    }
}

/// A long value on its way into the landing file.
#[derive(Debug)]
struct Long {
    path: String,
    at: u64,
    done: u64,
    len: u64,
}

/// Finds room for a long value whose beginning has come.
fn begin_long(
    engine: &mut Engine<ReadInto>,
    connection: &mut Connection<Option<Long>>,
) -> Result<(), Failure> {
    let Parsed::Head(head) = http::parse(&connection.rest) else { return Ok(()) };
    if head.method == "POST" {
        engine.open(head.path)?;
        let (begin, len) = (&connection.rest[head.len..], head.body_len as u64);
        let at = engine.variant.reserve(len);
        let (path, done) = (head.path.to_owned(), begin.len() as u64);
        let span = engine.variant.span(at, done);
        engine.variant.landing.borrow_mut().store(span.at, begin);
        connection.state = Some(Long { path, at, done, len });
        connection.rest.clear();
    }
    Ok(())
}

/// Receives more of a long value, and answers when that is all.
fn take_long(
    engine: &mut Engine<ReadInto>,
    connection: &mut Connection<Option<Long>>,
    mut long: Long,
) -> Result<Taken, Failure> {
    let landing = Rc::clone(&engine.variant.landing);
    let span = engine.variant.span(long.at + long.done, long.len - long.done);
    let mut loan = landing.borrow_mut().loan_span(span);
    let received = recv(&connection.stream, loan.bytes_mut(), RecvFlags::empty());
    landing.borrow_mut().settle_span(loan);
    engine.stages.charge(Stage::Receive);
    let taken = match received {
        Ok((_, 0)) => Taken::Over,
        Ok((_, count)) => {
            long.done += count as u64;
            Taken::GoesOn
        }
        Err(error) => Taken::of(error),
    };
    // Who takes a whole round of the file for a value finds others in its place.
    if taken == Taken::Over || engine.variant.next > long.at + engine.variant.capacity {
        return Ok(Taken::Over);
    }
    if long.done < long.len {
        connection.state = Some(long);
        return Ok(taken);
    }
    let checksum = Checksum::of(landing.borrow().bytes(engine.variant.span(long.at, long.len)));
    let log = engine.logs.find(&long.path).expect("it was opened with the head");
    let len = usize::try_from(long.len)?;
    let head = Head::append(log.number, log.next(), checksum, len);
    let at = engine.variant.name(head, long.at, long.len);
    engine.answered += 1;
    engine.note(&long.path, Place::new(at, checksum, len), &mut connection.replies);
    Ok(taken)
}

/// Marks what is in the landing file.
const LANDED: u64 = 1 << 63;
const BUF: u64 = BUF_BYTES as u64;
const LINE: u64 = 64;
/// With less room than most requests take, the next buffer is begun.
const ROOM_MIN: u64 = 4096;
/// If so much of a value is missing it is worth a place of its own.
const LONG: usize = 16 << 10;
/// Of the longest value.
const EXTENTS_MAX: usize = BODY_MAX / BUF_BYTES as usize + 1;
