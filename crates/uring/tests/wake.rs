//! Rings that wake each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use impasto_uring::{Owner, Token, Uring, Waker};

/// So long nothing here takes; a lost wake-up fails instead of hanging.
const LONG: Duration = Duration::from_secs(10);

fn assert_silent(io: &mut Uring) {
    for owner in [Owner::Port, Owner::Dev, Owner::Loop] {
        assert!(io.completion(owner).is_none(), "nobody is told of a wake-up");
    }
}

/// Without the message, a worker that waits would sleep over what another has done for it; without
/// the look at messages that came before the wait, every lost race would stop one of them.
#[test]
fn two_waiting_rings_wake_each_other() {
    const ROUNDS: u32 = 2000;
    let turn = Arc::new(AtomicU32::new(0));
    let (to_first, from_second) = mpsc::channel::<Waker>();
    let (to_second, from_first) = mpsc::channel::<Waker>();
    let ends = [(0, to_second, from_second), (1, to_first, from_first)];
    let threads = ends.map(|(number, tell, hear)| {
        let turn = Arc::clone(&turn);
        thread::spawn(move || {
            let mut io = Uring::new(8).unwrap();
            tell.send(io.waker().unwrap()).unwrap();
            let other = hear.recv().unwrap();
            for round in (number..ROUNDS).step_by(2) {
                while turn.load(Ordering::Acquire) != round {
                    let start = Instant::now();
                    io.enter(Some(LONG)).unwrap();
                    assert!(start.elapsed() < LONG, "nobody woke us in round {round}");
                }
                turn.store(round + 1, Ordering::Release);
                // The message goes with the wait for the answer.
                io.wake(&other);
                io.wake(&other);
            }
            io.enter(Some(Duration::ZERO)).unwrap();
            assert_silent(&mut io);
            assert_eq!(io.in_flight(), 0);
            // A ring that is gone is woken above without harm.
            other
        })
    });
    for thread in threads {
        drop(thread.join().unwrap());
    }
}

/// Without the note, a message reaped while entries are still being submitted would not end the
/// wait that follows in the same call.
#[test]
fn a_wake_up_during_submission_ends_the_wait_behind_it() {
    let (mut io, mut other) = (Uring::new(2).unwrap(), Uring::new(2).unwrap());
    other.wake(&io.waker().unwrap());
    other.enter(Some(Duration::ZERO)).unwrap();
    // More than the ring has entries, and none of them ends.
    for value in 0..8 {
        io.timer(Token { owner: Owner::Port, value }, Duration::from_secs(3600));
    }
    let start = Instant::now();
    io.enter(Some(LONG)).unwrap();
    assert!(start.elapsed() < LONG, "it slept over the message");
    assert_silent(&mut io);
}

/// Without the mark, messages to a ring that is gone would gather in the kernel, and its waker
/// would keep what it holds.
#[test]
fn a_ring_that_is_gone_is_left_alone() {
    let gone = Uring::new(2).unwrap();
    let waker = gone.waker().unwrap();
    drop(gone);
    let mut io = Uring::new(2).unwrap();
    io.wake(&waker);
    assert_eq!(io.in_flight(), 0);
    io.enter(Some(Duration::ZERO)).unwrap();
    assert_silent(&mut io);
}

/// Without an end of their own, wake-ups would be waited for in `drop` until patience is over, or
/// fill the table of operations.
#[test]
fn wake_ups_end_with_the_enter_that_sends_them() {
    let (mut io, other) = (Uring::new(2).unwrap(), Uring::new(2).unwrap());
    let wakers = [(); 5].map(|()| other.waker().unwrap());
    for _ in 0..100 {
        for waker in &wakers {
            io.wake(waker);
        }
        assert_eq!(io.in_flight(), 5);
        io.enter(Some(Duration::ZERO)).unwrap();
        assert_eq!(io.in_flight(), 0);
    }
    io.wake(&wakers[0]);
    let start = Instant::now();
    drop(io);
    assert!(start.elapsed() < Duration::from_secs(4), "a drop waits 5 s for what never ends");
    // The messages wait in a ring that nobody looks at: it still works.
    drop(other);
}
