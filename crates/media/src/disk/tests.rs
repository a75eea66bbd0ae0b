//! `Disk` over a device that a test drives by hand.

mod bodies;
mod lanes;

use std::{cell::RefCell, rc::Rc};

use impasto_region::{SpanLoan, layout::Geometry};

use super::{
    lane::{BYTES_IN_FLIGHT_MAX, OPS_MAX},
    *,
};

/// What a loop waits on; an operation completes on the one that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Io(u32);

/// A device whose operations complete when the test says so.
#[derive(Clone, Debug, Default)]
struct HandDev(Rc<RefCell<Hand>>);

#[derive(Debug, Default)]
struct Hand {
    tokens: u64,
    /// In flight.
    ops: Vec<(Io, DevToken, HandOp)>,
    done: Vec<(Io, DevToken, io::Result<()>)>,
    loans: HashMap<DevToken, SpanLoan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandOp {
    Commit(Span),
    Write(Span),
    Sync,
    Read(Span),
}

/// What a read leaves in its frames.
const READ: u8 = 0x5a;

impl HandDev {
    fn start(&self, io: Io, op: HandOp) -> DevToken {
        let mut hand = self.0.borrow_mut();
        hand.tokens += 1;
        let token = DevToken(hand.tokens);
        hand.ops.push((io, token, op));
        token
    }

    fn in_flight(&self) -> Vec<HandOp> {
        self.0.borrow().ops.iter().map(|(.., op)| *op).collect()
    }

    fn in_flight_on(&self, io: Io) -> Vec<HandOp> {
        let hand = self.0.borrow();
        hand.ops.iter().filter(|(on, ..)| *on == io).map(|(.., op)| *op).collect()
    }

    fn complete_with(&self, op: HandOp, result: io::Result<()>) {
        let mut hand = self.0.borrow_mut();
        let index = hand.ops.iter().position(|(.., other)| *other == op);
        let (io, token, _) = hand.ops.remove(index.expect("the operation is in flight"));
        hand.done.push((io, token, result));
    }

    fn complete(&self, op: HandOp) {
        self.complete_with(op, Ok(()));
    }

    fn fail(&self, op: HandOp) {
        self.complete_with(op, Err(io::Error::from_raw_os_error(5)));
    }
}

impl Dev<Io> for HandDev {
    fn write(&mut self, io: &mut Io, _: &Frames, span: Span, durability: Durability) -> DevToken {
        let op = match durability {
            Durability::Dsync => HandOp::Commit(span),
            Durability::Plain => HandOp::Write(span),
        };
        self.start(*io, op)
    }

    fn sync(&mut self, io: &mut Io) -> DevToken {
        self.start(*io, HandOp::Sync)
    }

    fn read(&mut self, io: &mut Io, frames: &mut Frames, span: Span) -> DevToken {
        let token = self.start(*io, HandOp::Read(span));
        self.0.borrow_mut().loans.insert(token, frames.loan_span(span));
        token
    }

    fn poll(&mut self, io: &mut Io, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)> {
        let mut hand = self.0.borrow_mut();
        let index = hand.done.iter().position(|(on, ..)| on == io)?;
        let (_, token, result) = hand.done.remove(index);
        if let Some(loan) = hand.loans.remove(&token) {
            let bytes = vec![READ; usize::try_from(loan.span().len).unwrap()];
            frames.fill_span(loan, &bytes);
        }
        Some((token, result))
    }
}

struct Bench {
    dev: HandDev,
    disk: Disk<HandDev>,
    frames: Frames,
    /// Who calls.
    io: Io,
}

impl Bench {
    fn new() -> Self {
        let dev = HandDev::default();
        let frames = Frames::anonymous(Geometry::new(128 << 20).unwrap(), 0).unwrap();
        Self { disk: Disk::new(dev.clone()), dev, frames, io: Io(0) }
    }

    fn commit(&mut self, id: u64, log: Span) {
        self.disk.commit(&mut self.io, &self.frames, CommitId(id), log, &[]);
    }

    fn write(&mut self, ticket: u64, spans: &[Span]) {
        self.disk.write(&mut self.io, &self.frames, Ticket(ticket), spans);
    }

    fn persist(&mut self, ticket: u64, spans: &[Span]) {
        self.disk.persist(&mut self.io, &self.frames, Ticket(ticket), spans);
    }

    fn abandon(&mut self, ticket: u64) {
        self.disk.abandon(&mut self.io, Ticket(ticket));
    }

    fn read(&mut self, ticket: u64, spans: &[Span]) {
        self.disk.read(&mut self.io, &mut self.frames, Ticket(ticket), spans);
    }

    fn poll(&mut self) -> Option<Event> {
        self.disk.poll(&mut self.io, &mut self.frames)
    }

    fn accepts(&self, bytes: u64) -> bool {
        Medium::<Io>::accepts_commit(&self.disk, bytes)
    }

    /// Returns all events: C commit, P persist, A abandon, R read; `!` for an error.
    fn events(&mut self) -> String {
        let mut events = Vec::new();
        while let Some(event) = self.poll() {
            let (kind, number, ok) = match event {
                Event::Committed(id, result) => ('C', id.0, result.is_ok()),
                Event::Persisted(ticket, result) => ('P', ticket.0, result.is_ok()),
                Event::Abandoned(ticket) => ('A', ticket.0, true),
                Event::Read(ticket, result) => ('R', ticket.0, result.is_ok()),
            };
            events.push(format!("{kind}{number}{}", if ok { "" } else { "!" }));
        }
        events.join(" ")
    }
}

fn blocks(first: u64, count: u64) -> Span {
    Span::new(first * BLOCK_BYTES, count * BLOCK_BYTES)
}

/// D1: a sync says nothing about a write that completed after it was issued. A `Disk` that took the
/// sync in flight for its own would let a record name a body that is in the device's cache.
#[test]
fn a_sync_issued_before_the_last_body_write_completed_does_not_count() {
    let mut bench = Bench::new();
    let (a, b, c) = (blocks(1, 1), blocks(3, 1), blocks(5, 1));
    bench.persist(1, &[a]);
    bench.persist(2, &[b, c]);
    bench.dev.complete(HandOp::Write(a));
    bench.dev.complete(HandOp::Write(b));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight(), [HandOp::Write(c), HandOp::Sync]);

    bench.dev.complete(HandOp::Write(c));
    assert_eq!(bench.events(), "");
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P1");
    assert_eq!(bench.dev.in_flight(), [HandOp::Sync]);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P2");
    assert_eq!(bench.dev.in_flight(), []);
}

/// Both completions may be seen by the same poll; the order of the queue must not matter.
#[test]
fn a_write_that_completes_together_with_a_sync_needs_another_sync() {
    let mut bench = Bench::new();
    let (a, b) = (blocks(1, 1), blocks(2, 1));
    bench.persist(1, &[a]);
    bench.persist(2, &[b]);
    bench.dev.complete(HandOp::Write(a));
    assert_eq!(bench.events(), "");
    bench.dev.complete(HandOp::Write(b));
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P1");
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P2");
}

/// A sync per body would make many small bodies as slow as the flushes of the device.
#[test]
fn one_sync_covers_all_that_was_written() {
    let mut bench = Bench::new();
    for ticket in 1..=3 {
        bench.persist(ticket, &[blocks(ticket, 1)]);
        bench.dev.complete(HandOp::Write(blocks(ticket, 1)));
    }
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight(), [HandOp::Sync]);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events().split(' ').count(), 3);
}

#[test]
fn a_commit_is_one_durable_write_and_waits_for_no_sync() {
    let mut bench = Bench::new();
    let log = blocks(1, 129);
    bench.commit(0, log);
    assert_eq!(bench.dev.in_flight(), [HandOp::Commit(log)]);
    bench.dev.complete(HandOp::Commit(log));
    assert_eq!(bench.events(), "C0");
    assert_eq!(bench.dev.in_flight(), []);
}

#[test]
fn commits_start_by_count_and_by_half_of_the_last() {
    let mut bench = Bench::new();
    assert!(bench.accepts(64));
    bench.commit(0, blocks(1, 8));
    assert!(!bench.accepts(4 * BLOCK_BYTES - 1));
    assert!(bench.accepts(4 * BLOCK_BYTES));
    bench.commit(1, blocks(9, 4));
    assert!(bench.accepts(2 * BLOCK_BYTES), "the last one counts, not the longest");
    bench.commit(2, blocks(13, 100));
    assert!(!bench.accepts(512 << 10), "three are in flight");
    bench.dev.complete(HandOp::Commit(blocks(9, 4)));
    assert_eq!(bench.events(), "C1");
    assert!(!bench.accepts(49 * BLOCK_BYTES));
    assert!(bench.accepts(50 * BLOCK_BYTES));
}

/// D8 is the store's: the medium reports what the device did, in the device's order.
#[test]
fn commits_are_reported_in_the_order_of_their_completion() {
    let mut bench = Bench::new();
    for id in 0..3 {
        bench.commit(id, blocks(1 + id, 1));
    }
    for id in [2, 0, 1] {
        bench.dev.complete(HandOp::Commit(blocks(1 + id, 1)));
    }
    assert_eq!(bench.events(), "C2 C0 C1");
}

/// D7: after a failed sync the kernel and the device may have dropped what it was to harden and
/// report the next sync as done. Nothing that was in flight may be believed.
#[test]
fn after_a_failed_sync_nothing_is_believed_but_reads_go_on() {
    let mut bench = Bench::new();
    bench.persist(1, &[blocks(1, 1)]);
    bench.dev.complete(HandOp::Write(blocks(1, 1)));
    assert_eq!(bench.events(), "");
    bench.persist(2, &[blocks(2, 1)]);
    bench.persist(3, &[blocks(3, 1), blocks(5, 1)]);
    bench.dev.complete(HandOp::Write(blocks(2, 1)));
    bench.commit(0, blocks(9, 1));
    bench.dev.fail(HandOp::Sync);
    assert_eq!(bench.events(), "P2! P1!");

    bench.dev.complete(HandOp::Commit(blocks(9, 1)));
    bench.dev.complete(HandOp::Write(blocks(3, 1)));
    assert_eq!(bench.events(), "C0!");
    bench.dev.complete(HandOp::Write(blocks(5, 1)));
    assert_eq!(bench.events(), "P3!");

    bench.commit(1, blocks(10, 1));
    bench.persist(4, &[blocks(5, 1)]);
    assert_eq!(bench.dev.in_flight(), [], "a failed medium is not written to");
    assert_eq!(bench.events(), "C1! P4!");
    bench.read(5, &[blocks(6, 1)]);
    bench.dev.complete(HandOp::Read(blocks(6, 1)));
    assert_eq!(bench.events(), "R5");
}

/// D7, with writes that have not started: they never do, and their persist ends when the others
/// have.
#[test]
fn a_failed_write_ends_the_writes_that_wait() {
    let mut bench = Bench::new();
    let first = OPS_MAX as u64;
    let spans: Vec<Span> = (0..first + 5).map(|block| blocks(2 * block, 1)).collect();
    bench.persist(1, &spans);
    bench.persist(2, &[blocks(900, 1)]);
    assert_eq!(bench.dev.in_flight().len(), OPS_MAX);
    bench.dev.fail(HandOp::Write(blocks(0, 1)));
    assert_eq!(bench.events(), "P2!");
    for block in 1..first {
        bench.dev.complete(HandOp::Write(blocks(2 * block, 1)));
    }
    assert_eq!(bench.events(), "P1!");
    assert_eq!(bench.dev.in_flight(), []);
}

#[test]
fn the_first_failure_is_the_one_that_is_reported() {
    let mut bench = Bench::new();
    bench.commit(0, blocks(1, 1));
    let full = io::Error::from(io::ErrorKind::StorageFull);
    bench.dev.complete_with(HandOp::Commit(blocks(1, 1)), Err(full));
    assert_eq!(bench.events(), "C0!");
    bench.commit(1, blocks(2, 1));
    let event = bench.poll();
    let Some(Event::Committed(_, Err(error))) = event else { panic!("{event:?}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("the medium has failed"), "{error}");
}

/// Without the second try one unreadable sector would cost everything that was asked for with it.
#[test]
fn an_unreadable_block_costs_one_block() {
    let mut bench = Bench::new();
    let span = blocks(16, 3);
    bench.read(1, &[span, blocks(40, 1)]);
    bench.dev.complete(HandOp::Read(blocks(40, 1)));
    bench.dev.fail(HandOp::Read(span));
    assert_eq!(bench.events(), "");
    bench.dev.complete(HandOp::Read(blocks(18, 1)));
    bench.dev.fail(HandOp::Read(blocks(17, 1)));
    bench.dev.complete(HandOp::Read(blocks(16, 1)));
    let event = bench.poll();
    let Some(Event::Read(Ticket(1), Err(error))) = event else { panic!("{event:?}") };
    assert!(error.to_string().starts_with("unreadable blocks: 1, the first at 0x11000"));
    for (block, byte) in [(16, READ), (17, 0), (18, READ), (40, READ)] {
        let bytes = bench.frames.bytes(blocks(block, 1));
        assert!(bytes.iter().all(|other| *other == byte), "block {block}");
    }
}

#[test]
fn frames_of_a_read_in_flight_are_on_loan() {
    let mut bench = Bench::new();
    bench.read(1, &[blocks(1, 2)]);
    assert!(!bench.frames.is_settled(blocks(2, 1)));
    bench.dev.complete(HandOp::Read(blocks(1, 2)));
    assert_eq!(bench.events(), "R1");
    assert!(bench.frames.is_settled(blocks(2, 1)));
}

/// Two flows may ask for the same value: frames are on loan once, so the second read has to wait.
#[test]
fn a_read_of_a_span_being_read_waits_for_it() {
    let mut bench = Bench::new();
    bench.read(1, &[blocks(1, 2)]);
    bench.read(2, &[blocks(2, 2)]);
    assert_eq!(bench.dev.in_flight(), [HandOp::Read(blocks(1, 2))]);
    bench.dev.complete(HandOp::Read(blocks(1, 2)));
    assert_eq!(bench.events(), "R1");
    bench.dev.complete(HandOp::Read(blocks(2, 2)));
    assert_eq!(bench.events(), "R2");
}

#[test]
fn long_spans_are_several_operations() {
    let mut bench = Bench::new();
    let per_op = OP_BYTES_MAX / BLOCK_BYTES;
    let span = blocks(1, 2 * per_op + 3);
    bench.persist(1, &[span]);
    let parts = [blocks(1, per_op), blocks(1 + per_op, per_op), blocks(1 + 2 * per_op, 3)];
    assert_eq!(bench.dev.in_flight(), parts.map(HandOp::Write));
    for part in parts {
        bench.dev.complete(HandOp::Write(part));
    }
    bench.read(2, &[span]);
    assert_eq!(bench.dev.in_flight(), parts.map(HandOp::Read));
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let mut bench = Bench::new();
    bench.persist(1, &[]);
    bench.read(2, &[]);
    assert_eq!(bench.events(), "P1 R2");
    assert_eq!(bench.dev.in_flight(), []);
}

#[test]
#[should_panic(expected = "is in use")]
fn a_ticket_is_used_once_at_a_time() {
    let mut bench = Bench::new();
    bench.persist(1, &[blocks(1, 1)]);
    bench.persist(1, &[blocks(2, 1)]);
}
