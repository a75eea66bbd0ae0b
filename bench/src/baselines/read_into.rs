//! No copy: each receive goes straight into the mapped region, as with `-N` of PASTE's own sample
//! server, and records name their values where they landed.
//!
//! ```text
//! recv into the landing file -> append: a record that names the value
//! persist: flush values -> flush records -> one fence
//! ```
//!
//! One fence is enough: a record has the checksum of its value. Landing and log are a file each, so
//! that one can be looked at while the other is written. A request that comes in pieces is put
//! together in ordinary memory, and copied.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use impasto::{
    media::{CpuLines, Lines},
    region::{
        Frames, Region, Span,
        layout::{BLOCK_BYTES, BUF_BYTES, MediumKind},
    },
};
use rustix::net::{RecvFlags, recv};

use super::{
    Start,
    engine::{Connection, Engine, RECEIVE_BYTES, Taken, Variant},
    logs::Place,
    memory::Memory,
    record::{EXTENT, Record},
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
    let memory = Memory::new(&regions[1])?;
    start.serve(ReadInto {
        memory,
        lines,
        landing: Rc::new(RefCell::new(Frames::shared(regions[0].file(), geometry)?)),
        next: 0,
        capacity: u64::from(geometry.bufs()) * BUF,
        landed: (0, 0, 0),
        kept: Vec::new(),
        _regions: regions,
    })
}

impl Variant for ReadInto {
    type State = ();

    fn take(engine: &mut Engine<Self>, connection: &mut Connection<()>) -> Result<Taken, Failure> {
        if connection.has_rest() {
            return engine.take(connection);
        }
        let landing = Rc::clone(&engine.variant.landing);
        let span = engine.variant.next_span();
        let mut loan = landing.borrow_mut().loan_span(span);
        let received = recv(&connection.stream, loan.bytes_mut(), RecvFlags::empty());
        landing.borrow_mut().settle_span(loan);
        engine.stages.charge(Stage::Receive);
        match received {
            Ok((_, 0)) => Ok(Taken::Over),
            Ok((_, count)) => {
                let landing = landing.borrow();
                let bytes = &landing.bytes(span)[..count];
                engine.variant.has_landed(bytes);
                engine.answer_first(connection, bytes)
            }
            Err(error) => Ok(Taken::of(error)),
        }
    }

    fn append(&mut self, record: &Record<'_>, _stages: &mut Stages) -> Result<u64, Failure> {
        let body = record.body();
        let (address, len, landed_at) = self.landed;
        // Only what landed last is looked at: a value from elsewhere was put together there.
        let Some(lead) = body.as_ptr().addr().checked_sub(address).filter(|lead| *lead < len)
        else {
            return Ok(self.memory.append(record));
        };
        let at = landed_at + lead as u64;
        let offset = at % self.capacity;
        let extent = [offset / BUF, offset % BUF, body.len() as u64];
        let mut bytes = [0; EXTENT];
        for (field, value) in bytes.chunks_exact_mut(4).zip(extent) {
            field.copy_from_slice(&value.to_le_bytes()[..4]);
        }
        self.memory.append_parts(&record.head().keep(), &bytes);
        self.keep(Span::new(BLOCK_BYTES + offset, body.len() as u64));
        Ok(at | LANDED)
    }

    fn persist(&mut self, stages: &mut Stages) -> Result<(), Failure> {
        let landing = self.landing.borrow();
        for span in self.kept.drain(..) {
            self.lines.flush(&landing, span);
        }
        self.memory.persist(&mut self.lines, stages);
        Ok(())
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if place.at & LANDED == 0 {
            return Ok(self.memory.read(place, out));
        }
        let at = place.at & !LANDED;
        let offset = BLOCK_BYTES + at % self.capacity;
        let is_there = self.next <= at + self.capacity;
        if is_there {
            let span = Span::new(offset, u64::from(place.len));
            out.extend_from_slice(self.landing.borrow().bytes(span));
        }
        Ok(is_there)
    }
}

impl ReadInto {
    /// Returns where the next receive goes: into one buffer, since an extent is of one.
    fn next_span(&mut self) -> Span {
        let mut room = BUF - self.next % BUF;
        if room < ROOM_MIN {
            (self.next, room) = (self.next + room, BUF);
        }
        let offset = BLOCK_BYTES + self.next % self.capacity;
        Span::new(offset, room.min(RECEIVE_BYTES as u64))
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

/// Marks what is in the landing file.
const LANDED: u64 = 1 << 63;
const BUF: u64 = BUF_BYTES as u64;
const LINE: u64 = 64;
/// With less room than most requests take, the next buffer is begun.
const ROOM_MIN: u64 = 4096;
