//! A disk that completes its operations in an order of its own, and fails as it is told.
//!
//! Fault model. What a crash leaves is said in `platter.rs`. Here:
//! - Operations complete in any order, chosen by seed, when the harness lets the device make a
//!   [`step`](SimDev::step).
//! - The chosen write fails with `EIO`, the chosen sync fails with `EIO`; a sector is unreadable,
//!   or a bit of it is read flipped, until it is written again.
//! - The start and the completion of each operation is a site. After the cut operations still
//!   complete, so that the server does not hang, but change nothing that a crash finds.
//!
//! Checked, by panic, because a real device would corrupt silently: the bytes of a write do not
//! change while it is in flight, and two writes in flight do not overlap.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    rc::Rc,
};

use impasto_media::{Dev, DevToken, Durability};
use impasto_region::{Frames, Span, SpanLoan, layout::BLOCK_BYTES};

use crate::{
    Fate, Model, Power, Rng,
    platter::{Platter, SECTOR_BYTES, Write},
};

/// A simulated disk; clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDev(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    power: Power,
    rng: Rng,
    platter: Platter,
    faults: Faults,
    tokens: u64,
    writes: u64,
    syncs: u64,
    in_flight: Vec<(DevToken, Op)>,
    completed: VecDeque<Completed>,
    /// The writes in flight at the cut.
    at_cut: Option<Vec<Write>>,
}

#[derive(Debug)]
enum Op {
    Write(Write, Durability),
    Sync {
        number: u64,
        /// How many writes had completed when it was issued.
        covers: u64,
    },
    Read(SpanLoan),
}

#[derive(Debug)]
struct Completed {
    token: DevToken,
    what: What,
    result: io::Result<()>,
}

#[derive(Debug)]
enum What {
    Write(Write),
    Sync,
    Read(SpanLoan, Vec<u8>),
}

#[derive(Debug, Default)]
struct Faults {
    writes: BTreeSet<u64>,
    syncs: BTreeSet<u64>,
    /// Offsets of sectors.
    unreadable: BTreeSet<u64>,
    /// By offset of the byte.
    flipped: BTreeMap<u64, u8>,
}

impl SimDev {
    /// Returns a disk that holds `image`.
    ///
    /// # Panics
    /// If `image` is not whole blocks.
    pub fn new(image: Vec<u8>, seed: u64, model: Model, power: Power) -> Self {
        assert!((image.len() as u64).is_multiple_of(BLOCK_BYTES), "a disk is whole blocks");
        Self(Rc::new(RefCell::new(State {
            power,
            rng: Rng::new(seed),
            platter: Platter::new(image, model),
            faults: Faults::default(),
            tokens: 0,
            writes: 0,
            syncs: 0,
            in_flight: Vec::new(),
            completed: VecDeque::new(),
            at_cut: None,
        })))
    }

    /// Completes at least one operation, if any is in flight; returns whether one was.
    pub fn step(&self) -> bool {
        let mut state = self.0.borrow_mut();
        if !state.complete_one() {
            return false;
        }
        while state.rng.once_in(2) && state.complete_one() {}
        true
    }

    /// Completes all operations in flight.
    pub fn complete_all(&self) {
        let mut state = self.0.borrow_mut();
        while state.complete_one() {}
    }

    /// Returns how many operations are in flight.
    pub fn in_flight(&self) -> usize {
        self.0.borrow().in_flight.len()
    }

    /// As [`Dev::poll`], of the operations that are `wanted`: so that each loop takes what it has
    /// started, where there are several.
    pub fn poll_of(
        &self,
        frames: &mut Frames,
        wanted: impl Fn(DevToken) -> bool,
    ) -> Option<(DevToken, io::Result<()>)> {
        let mut state = self.0.borrow_mut();
        let index = state.completed.iter().position(|done| wanted(done.token))?;
        let Completed { token, what, result } = state.completed.remove(index)?;
        match what {
            What::Write(Write { span, bytes, .. }) => {
                let unchanged = *frames.bytes(span) == *bytes;
                assert!(unchanged, "the bytes of {span:?} changed while their write was in flight");
            }
            What::Sync => {}
            What::Read(loan, bytes) => frames.fill_span(loan, &bytes),
        }
        Some((token, result))
    }

    /// Returns true if an operation that is `wanted` has completed and was not polled.
    pub fn has_completed(&self, wanted: impl Fn(DevToken) -> bool) -> bool {
        self.0.borrow().completed.iter().any(|done| wanted(done.token))
    }

    /// Makes a write fail with `EIO`; the first one to start on this disk is number 0.
    pub fn fail_write(&self, number: u64) {
        self.0.borrow_mut().faults.writes.insert(number);
    }

    /// Makes a sync fail with `EIO`; the first one to start on this disk is number 0.
    pub fn fail_sync(&self, number: u64) {
        self.0.borrow_mut().faults.syncs.insert(number);
    }

    /// Makes the sector at offset `at` unreadable until it is written.
    pub fn lose_sector(&self, at: u64) {
        let sector = at / SECTOR_BYTES * SECTOR_BYTES;
        self.0.borrow_mut().faults.unreadable.insert(sector);
    }

    /// Makes reads return the byte at offset `at` with the bits of `mask` flipped until it is
    /// written.
    pub fn flip(&self, at: u64, mask: u8) {
        self.0.borrow_mut().faults.flipped.insert(at, mask);
    }

    /// Returns the disk as the next start may find it. If the power has not been cut, it is cut
    /// now, for this answer only.
    pub fn crash(&self, fate: Fate) -> Vec<u8> {
        let state = self.0.borrow();
        match &state.at_cut {
            Some(in_flight) => state.platter.crash(fate, in_flight),
            None => state.platter.crash(fate, &state.writes_in_flight()),
        }
    }
}

impl<I> Dev<I> for SimDev {
    fn write(&mut self, _: &mut I, frames: &Frames, span: Span, how: Durability) -> DevToken {
        let mut state = self.0.borrow_mut();
        state.assert_inside(span);
        let mut others = state.writes_in_flight().into_iter().map(|other| other.span);
        let other = others.find(|other| other.overlaps(span));
        assert!(other.is_none(), "{span:?} overlaps a write in flight: {other:?}");
        let write = Write { number: state.writes, span, bytes: frames.bytes(span).into() };
        state.writes += 1;
        state.start(Op::Write(write, how))
    }

    fn sync(&mut self, _: &mut I) -> DevToken {
        let mut state = self.0.borrow_mut();
        let (number, covers) = (state.syncs, state.platter.completed());
        state.syncs += 1;
        state.start(Op::Sync { number, covers })
    }

    fn read(&mut self, _: &mut I, frames: &mut Frames, span: Span) -> DevToken {
        let mut state = self.0.borrow_mut();
        state.assert_inside(span);
        state.start(Op::Read(frames.loan_span(span)))
    }

    fn poll(&mut self, _: &mut I, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)> {
        self.poll_of(frames, |_| true)
    }
}

impl State {
    fn assert_inside(&self, span: Span) {
        let whole = span.at.is_multiple_of(BLOCK_BYTES) && span.len.is_multiple_of(BLOCK_BYTES);
        assert!(whole && span.len > 0, "{span:?} is not whole blocks");
        assert!(span.end() <= self.platter.bytes(), "{span:?} is behind the end of the disk");
    }

    fn writes_in_flight(&self) -> Vec<Write> {
        let writes = self.in_flight.iter().filter_map(|(_, op)| match op {
            Op::Write(write, _) => Some(write.clone()),
            Op::Sync { .. } | Op::Read(_) => None,
        });
        writes.collect()
    }

    /// Passes a site; returns true if the operation there takes effect.
    fn site(&mut self) -> bool {
        let is_on = self.power.site();
        if !is_on && self.at_cut.is_none() {
            self.at_cut = Some(self.writes_in_flight());
        }
        is_on
    }

    fn start(&mut self, op: Op) -> DevToken {
        // What starts after the cut is not in `at_cut`, and has no other effect.
        self.site();
        let token = DevToken(self.tokens);
        self.tokens += 1;
        self.in_flight.push((token, op));
        token
    }

    fn complete_one(&mut self) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let is_on = self.site();
        let index = self.rng.index(self.in_flight.len());
        let (token, op) = self.in_flight.swap_remove(index);
        let (what, result) = match op {
            Op::Write(write, durability) => {
                let result = self.complete_write(&write, durability, is_on);
                (What::Write(write), result)
            }
            Op::Sync { number, covers } => (What::Sync, self.complete_sync(number, covers, is_on)),
            Op::Read(loan) => {
                let (bytes, result) = self.complete_read(loan.span());
                (What::Read(loan, bytes), result)
            }
        };
        self.completed.push_back(Completed { token, what, result });
        true
    }

    fn complete_write(
        &mut self,
        write: &Write,
        durability: Durability,
        is_on: bool,
    ) -> io::Result<()> {
        if !is_on {
            self.platter.show(write);
            return Ok(());
        }
        if self.faults.writes.remove(&write.number) {
            self.platter.fail_write(write, &mut self.rng);
            return Err(eio());
        }
        self.platter.write(write, durability);
        self.faults.heal(write.span);
        Ok(())
    }

    fn complete_sync(&mut self, number: u64, covers: u64, is_on: bool) -> io::Result<()> {
        if !is_on {
            return Ok(());
        }
        if self.faults.syncs.remove(&number) {
            self.platter.fail_sync(covers);
            return Err(eio());
        }
        self.platter.sync(covers);
        Ok(())
    }

    fn complete_read(&self, span: Span) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = self.platter.read(span).to_vec();
        if self.faults.unreadable.range(span.at..span.end()).next().is_some() {
            // A failed read may leave anything behind.
            bytes.fill(0xee);
            return (bytes, Err(eio()));
        }
        for (at, mask) in self.faults.flipped.range(span.at..span.end()) {
            let index = usize::try_from(at - span.at).expect("a span fits memory");
            bytes[index] ^= mask;
        }
        (bytes, Ok(()))
    }
}

impl Faults {
    fn heal(&mut self, span: Span) {
        let inside = |at: &u64| span.overlaps(Span::new(*at, 1));
        self.unreadable.retain(|at| !inside(at));
        self.flipped.retain(|at, _| !inside(at));
    }
}

fn eio() -> io::Error {
    const EIO: i32 = 5;
    io::Error::from_raw_os_error(EIO)
}

#[cfg(test)]
mod tests;
