//! Bodies in parts: written as they fill, then persisted or abandoned.

use super::*;

/// D1: the parts that were written long ago need the sync as much as the last one.
#[test]
fn a_body_in_parts_is_synced_when_its_last_part_is_written() {
    let mut bench = Bench::new();
    let (a, b, c) = (blocks(1, 1), blocks(3, 1), blocks(5, 1));
    bench.write(1, &[a]);
    bench.write(1, &[b]);
    bench.dev.complete(HandOp::Write(a));
    assert_eq!(bench.events(), "", "a ticket that is only written to has no event");
    assert_eq!(bench.dev.in_flight(), [HandOp::Write(b)], "and no sync");

    bench.persist(1, &[c]);
    bench.dev.complete(HandOp::Write(c));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight(), [HandOp::Write(b)]);
    bench.dev.complete(HandOp::Write(b));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight(), [HandOp::Sync]);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P1");
}

/// Nothing else completes that a poll could start the sync at: a loop that went to wait would never
/// come back.
#[test]
fn a_persist_of_what_is_written_already_starts_its_sync() {
    let mut bench = Bench::new();
    bench.write(1, &[blocks(1, 1)]);
    bench.dev.complete(HandOp::Write(blocks(1, 1)));
    assert_eq!(bench.events(), "");
    bench.persist(1, &[]);
    assert_eq!(bench.dev.in_flight(), [HandOp::Sync]);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P1");
}

/// D1: the sync in flight may have been issued before a part of the ticket completed. It covers no
/// ticket either that is still written to.
#[test]
fn a_sync_covers_only_tickets_that_were_written_when_it_was_issued() {
    let mut bench = Bench::new();
    for ticket in 1..=3 {
        bench.write(ticket, &[blocks(10 * ticket, 1)]);
    }
    bench.dev.complete(HandOp::Write(blocks(10, 1)));
    bench.persist(1, &[]);
    assert_eq!(bench.events(), "");
    bench.dev.complete(HandOp::Write(blocks(20, 1)));
    bench.persist(2, &[]);
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight(), [HandOp::Write(blocks(30, 1)), HandOp::Sync]);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P1");
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P2");
    bench.dev.complete(HandOp::Write(blocks(30, 1)));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight(), [], "ticket 3 was not persisted");
}

/// D4: a write in flight would land on whatever the blocks hold next. What has not started never
/// does.
#[test]
fn an_abandoned_ticket_ends_when_nothing_of_it_is_in_flight() {
    let mut bench = Bench::new();
    let first = OPS_MAX as u64;
    let spans: Vec<Span> = (0..first + 5).map(|block| blocks(2 * block, 1)).collect();
    bench.write(1, &spans);
    bench.abandon(1);
    for block in 0..first {
        assert_eq!(bench.events(), "");
        assert_eq!(bench.dev.in_flight().len() as u64, first - block);
        bench.dev.complete(HandOp::Write(blocks(2 * block, 1)));
    }
    assert_eq!(bench.events(), "A1");
    assert_eq!(bench.dev.in_flight(), [], "no sync is made for it");
}

#[test]
fn a_ticket_of_which_nothing_is_in_flight_is_abandoned_at_once() {
    let mut bench = Bench::new();
    bench.abandon(1);
    assert_eq!(bench.events(), "A1");

    bench.write(2, &[blocks(1, 1)]);
    bench.dev.complete(HandOp::Write(blocks(1, 1)));
    assert_eq!(bench.events(), "");
    bench.abandon(2);
    assert_eq!(bench.events(), "A2");

    // All of it waits.
    let spans: Vec<Span> = (0..OPS_MAX as u64).map(|block| blocks(2 * block, 1)).collect();
    bench.write(3, &spans);
    bench.write(4, &[blocks(900, 1)]);
    bench.write(5, &[blocks(910, 1)]);
    bench.abandon(4);
    assert_eq!(bench.events(), "A4");
    bench.dev.complete(HandOp::Write(spans[0]));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight().last(), Some(&HandOp::Write(blocks(910, 1))));
}

/// The blocks of an abandoned body are the next body's, and so may be its ticket.
#[test]
fn a_ticket_is_used_again_after_its_event() {
    let mut bench = Bench::new();
    bench.write(1, &[blocks(1, 1)]);
    bench.abandon(1);
    bench.dev.complete(HandOp::Write(blocks(1, 1)));
    assert_eq!(bench.events(), "A1");
    for _ in 0..2 {
        bench.write(1, &[blocks(1, 1)]);
        bench.persist(1, &[]);
        bench.dev.complete(HandOp::Write(blocks(1, 1)));
        assert_eq!(bench.events(), "");
        bench.dev.complete(HandOp::Sync);
        assert_eq!(bench.events(), "P1");
    }
}

#[test]
#[should_panic(expected = "is in use")]
fn a_ticket_that_is_being_persisted_is_not_abandoned() {
    let mut bench = Bench::new();
    bench.persist(1, &[blocks(1, 1)]);
    bench.abandon(1);
}

#[test]
#[should_panic(expected = "is in use")]
fn an_abandoned_ticket_is_not_written_to_before_its_event() {
    let mut bench = Bench::new();
    bench.write(1, &[blocks(1, 1)]);
    bench.abandon(1);
    bench.write(1, &[blocks(3, 1)]);
}

/// D7, in each state that a ticket can be in: all end, none is believed, and none ends while the
/// device may still look at its frames.
#[test]
fn a_failed_medium_ends_every_ticket_when_nothing_of_it_is_in_flight() {
    let mut bench = Bench::new();
    let block = |ticket| blocks(10 * ticket, 1);
    // 9 is being synced; 1 is in flight and open, 2 persisted, 3 abandoned; 4 wants the next sync.
    bench.persist(9, &[block(9)]);
    bench.dev.complete(HandOp::Write(block(9)));
    assert_eq!(bench.events(), "");
    for ticket in 1..=4 {
        bench.write(ticket, &[block(ticket)]);
    }
    bench.persist(2, &[]);
    bench.abandon(3);
    bench.dev.complete(HandOp::Write(block(4)));
    bench.persist(4, &[]);
    assert_eq!(bench.events(), "");
    // 5 is in flight and waits, 6 and 7 only wait.
    let rest = OPS_MAX as u64 - 3;
    let spans: Vec<Span> = (0..rest + 5).map(|index| blocks(1000 + 2 * index, 1)).collect();
    bench.write(5, &spans);
    bench.write(6, &[block(6)]);
    bench.persist(7, &[block(7)]);
    assert_eq!(bench.dev.in_flight().len(), OPS_MAX + 1, "with the sync");

    bench.dev.fail(HandOp::Sync);
    assert_eq!(bench.events(), "P7! P4! P9!");
    bench.write(1, &[blocks(2000, 1)]);
    bench.write(8, &[blocks(2010, 1)]);
    bench.persist(8, &[]);
    assert_eq!(bench.events(), "P8!");
    bench.abandon(6);
    assert_eq!(bench.events(), "A6");
    bench.persist(1, &[]);
    bench.abandon(5);
    assert_eq!(bench.events(), "");
    for ticket in 1..=3 {
        bench.dev.complete(HandOp::Write(block(ticket)));
    }
    assert_eq!(bench.events(), "P1! P2! A3");
    for span in &spans[..OPS_MAX - 3] {
        assert_eq!(bench.events(), "");
        bench.dev.complete(HandOp::Write(*span));
    }
    assert_eq!(bench.events(), "A5");
    bench.abandon(10);
    assert_eq!(bench.events(), "A10");
    assert_eq!(bench.dev.in_flight(), [], "a failed medium is not written to");
}

/// D7: the part that failed belongs to a body that nobody wants; the device has failed all the
/// same.
#[test]
fn a_failed_write_of_an_abandoned_ticket_fails_the_medium() {
    let mut bench = Bench::new();
    bench.write(1, &[blocks(1, 1)]);
    bench.abandon(1);
    bench.persist(2, &[blocks(3, 1)]);
    bench.dev.fail(HandOp::Write(blocks(1, 1)));
    assert_eq!(bench.events(), "A1");
    bench.dev.complete(HandOp::Write(blocks(3, 1)));
    assert_eq!(bench.events(), "P2!");
}
