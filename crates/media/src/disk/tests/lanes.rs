//! What is in flight and what waits: bounds, turns, and several loops.

use super::*;

/// 64 MiB.
fn long() -> Span {
    blocks(8, 16_384)
}

fn bytes(ops: &[HandOp]) -> u64 {
    let len = |op: &HandOp| match op {
        HandOp::Write(span) | HandOp::Read(span) => span.len,
        HandOp::Commit(_) | HandOp::Sync => 0,
    };
    ops.iter().map(len).sum()
}

/// A commit that stands behind all of a long body in the device answers nobody for as long as that
/// takes.
#[test]
fn what_bodies_have_in_flight_is_bounded_by_bytes_and_holds_back_no_commit() {
    let mut bench = Bench::new();
    bench.commit(0, blocks(2, 1));
    bench.dev.complete(HandOp::Commit(blocks(2, 1)));
    assert_eq!(bench.events(), "C0");
    bench.commit(1, blocks(1, 1));
    bench.persist(1, &[long()]);
    let mut left = long().len;
    while left > 0 {
        let ops = bench.dev.in_flight();
        assert_eq!(bytes(&ops), left.min(BYTES_IN_FLIGHT_MAX));
        assert!(ops.contains(&HandOp::Commit(blocks(1, 1))));
        let oldest = *ops.iter().find(|op| matches!(op, HandOp::Write(_))).unwrap();
        left -= bytes(&[oldest]);
        bench.dev.complete(oldest);
        assert_eq!(bench.events(), "");
    }
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P1");
}

/// Completes writes, the first first, until `count` bytes are, and returns the most bytes that were
/// in flight after one of them.
fn complete_writes(bench: &mut Bench, count: u64) -> u64 {
    let (mut completed, mut most) = (0, 0);
    while completed < count {
        let ops = bench.dev.in_flight();
        let first = *ops.iter().find(|op| matches!(op, HandOp::Write(_))).unwrap();
        bench.dev.complete(first);
        assert_eq!(bench.events(), "");
        completed += bytes(&[first]);
        most = most.max(bytes(&bench.dev.in_flight()));
    }
    assert_eq!(completed, count);
    most
}

/// The few bytes that a commit bears beside it do not keep a fast device busy.
#[test]
fn writes_without_commits_have_more_in_flight() {
    let mut bench = Bench::new();
    bench.persist(1, &[long()]);
    assert_eq!(bytes(&bench.dev.in_flight()), BYTES_IN_FLIGHT_MAX_ALONE);
    assert_eq!(complete_writes(&mut bench, 16 << 20), BYTES_IN_FLIGHT_MAX_ALONE);
}

/// What is in flight when the first commits come cannot be helped; what is added behind it would
/// hold back the next ones.
#[test]
fn writes_have_little_in_flight_while_commits_follow_each_other() {
    let mut bench = Bench::new();
    bench.persist(1, &[long()]);
    let commit = |bench: &mut Bench, id| {
        bench.commit(id, blocks(1 + id, 1));
        bench.dev.complete(HandOp::Commit(blocks(1 + id, 1)));
        assert_eq!(bench.events(), format!("C{id}"));
    };
    // One alone changes nothing.
    commit(&mut bench, 0);
    complete_writes(&mut bench, ALONE_AFTER_BYTES - OP_BYTES_MAX);
    assert_eq!(bytes(&bench.dev.in_flight()), BYTES_IN_FLIGHT_MAX_ALONE);
    commit(&mut bench, 1);
    let surplus = BYTES_IN_FLIGHT_MAX_ALONE - BYTES_IN_FLIGHT_MAX;
    complete_writes(&mut bench, ALONE_AFTER_BYTES - OP_BYTES_MAX);
    commit(&mut bench, 2);
    complete_writes(&mut bench, surplus - (ALONE_AFTER_BYTES - OP_BYTES_MAX));
    assert_eq!(bytes(&bench.dev.in_flight()), BYTES_IN_FLIGHT_MAX, "none was added");
    // One that follows begins the pause anew.
    commit(&mut bench, 3);
    let pause = ALONE_AFTER_BYTES - OP_BYTES_MAX;
    assert_eq!(complete_writes(&mut bench, pause), BYTES_IN_FLIGHT_MAX);
    assert_eq!(complete_writes(&mut bench, OP_BYTES_MAX), BYTES_IN_FLIGHT_MAX_ALONE);
}

/// A commit that the device holds back for that long would be held back by four times as much.
#[test]
fn writes_have_little_in_flight_until_the_last_commit_ends() {
    let mut bench = Bench::new();
    bench.commit(0, blocks(1, 1));
    bench.commit(1, blocks(2, 1));
    bench.persist(1, &[long()]);
    assert_eq!(complete_writes(&mut bench, 2 * ALONE_AFTER_BYTES), BYTES_IN_FLIGHT_MAX);
    for (id, event) in [(1, "C1"), (0, "C0")] {
        assert_eq!(bytes(&bench.dev.in_flight()), BYTES_IN_FLIGHT_MAX);
        bench.dev.complete(HandOp::Commit(blocks(1 + id, 1)));
        assert_eq!(bench.events(), event);
    }
    assert_eq!(bytes(&bench.dev.in_flight()), BYTES_IN_FLIGHT_MAX_ALONE);
}

#[test]
fn what_reads_have_in_flight_is_bounded_by_bytes() {
    let mut bench = Bench::new();
    bench.read(1, &[long()]);
    let mut left = long().len;
    while left > 0 {
        let ops = bench.dev.in_flight();
        assert_eq!(bytes(&ops), left.min(BYTES_IN_FLIGHT_MAX));
        left -= bytes(&ops[..1]);
        bench.dev.complete(ops[0]);
        assert_eq!(bench.events(), if left == 0 { "R1" } else { "" });
    }
}

/// In the order of their arrival, a body of 100 KB would take as long as the one of 64 MiB before
/// it.
#[test]
fn a_short_body_waits_for_one_operation_of_each_long_one() {
    let mut bench = Bench::new();
    bench.persist(1, &[long()]);
    bench.persist(2, &[blocks(20_000, 2048)]);
    bench.persist(3, &[blocks(30_000, 25)]);
    let mut ended = 0;
    while !bench.dev.in_flight().contains(&HandOp::Write(blocks(30_000, 25))) {
        bench.dev.complete(bench.dev.in_flight()[0]);
        assert_eq!(bench.events(), "");
        ended += 1;
    }
    assert!(ended <= 3, "{ended} operations ended before it started");
}

#[test]
fn a_short_read_waits_for_one_operation_of_a_long_one() {
    let mut bench = Bench::new();
    bench.read(1, &[long()]);
    bench.read(2, &[blocks(30_000, 1)]);
    for _ in 0..2 {
        bench.dev.complete(bench.dev.in_flight()[0]);
        assert_eq!(bench.events(), "");
    }
    assert!(bench.dev.in_flight().contains(&HandOp::Read(blocks(30_000, 1))));
}

/// A body arrives in small parts; while the device is busy an operation for each would be many
/// system calls and device commands for the same bytes.
#[test]
fn parts_that_adjoin_and_wait_are_written_together() {
    let mut bench = Bench::new();
    bench.write(1, &[blocks(8, BYTES_IN_FLIGHT_MAX_ALONE / BLOCK_BYTES)]);
    let busy = bench.dev.in_flight();
    let per_op = OP_BYTES_MAX / BLOCK_BYTES;
    for part in 0..=per_op {
        bench.write(2, &[blocks(20_000 + part, 1)]);
    }
    bench.write(2, &[blocks(30_000, 1)]);
    assert_eq!(bench.dev.in_flight(), busy);
    for op in busy {
        bench.dev.complete(op);
    }
    assert_eq!(bench.events(), "");
    let written = [(20_000, per_op), (20_000 + per_op, 1), (30_000, 1)];
    let written = written.map(|(first, count)| HandOp::Write(blocks(first, count)));
    assert_eq!(bench.dev.in_flight(), written);
}

/// Were what waits left to the loop that asked for it, it could wait for ever: that loop has
/// nothing in flight that would wake it.
#[test]
fn the_loop_on_which_something_completes_goes_on_with_what_others_wait_for() {
    let mut bench = Bench::new();
    let (one, other) = (Io(1), Io(2));
    let (a, b) = (blocks(8, BYTES_IN_FLIGHT_MAX_ALONE / BLOCK_BYTES), blocks(9000, 1));
    bench.io = one;
    bench.persist(1, &[a]);
    let busy = bench.dev.in_flight();
    bench.io = other;
    bench.persist(2, &[b]);
    assert_eq!(bench.dev.in_flight_on(other), []);
    bench.dev.complete(busy[0]);
    assert_eq!(bench.events(), "", "nothing has completed on this one");
    assert_eq!(bench.dev.in_flight_on(other), []);
    bench.io = one;
    assert_eq!(bench.events(), "");
    assert!(bench.dev.in_flight_on(one).contains(&HandOp::Write(b)));

    bench.dev.complete(HandOp::Write(b));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight_on(one).last(), Some(&HandOp::Sync));
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P2", "who polls gets the events of all");
}

/// D1: one sync at a time holds over all loops, and a ticket's writes and its sync need not be on
/// the same one.
#[test]
fn a_sync_covers_what_completed_on_other_loops() {
    let mut bench = Bench::new();
    let (one, other) = (Io(1), Io(2));
    let (a, b) = (blocks(1, 1), blocks(3, 1));
    bench.io = one;
    bench.persist(1, &[a]);
    bench.io = other;
    bench.persist(2, &[b]);
    bench.dev.complete(HandOp::Write(a));
    bench.io = one;
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight_on(one), [HandOp::Sync]);

    bench.io = other;
    bench.dev.complete(HandOp::Write(b));
    assert_eq!(bench.events(), "");
    assert_eq!(bench.dev.in_flight_on(other), []);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "", "the sync completes on the loop that started it");
    bench.io = one;
    assert_eq!(bench.events(), "P1");
    assert_eq!(bench.dev.in_flight_on(one), [HandOp::Sync]);
    bench.dev.complete(HandOp::Sync);
    assert_eq!(bench.events(), "P2");
}
