//! Every order of what two workers do, as loom finds them: `cargo xtask loom`.
//!
//! Under loom a pool checks every buffer (`is_taken`): one that is handed out twice comes back
//! twice, and panics. Magazines of 2 buffers, and few buffers, bring all ways within reach: served
//! by the magazine, by the depot, by somebody else's magazine.

use loom::{sync::mpsc, thread};

use super::*;

const MAGAZINE_BUFS: usize = 2;

fn pool(bufs: u32) -> SharedPool {
    SharedPool::with_magazines(BufId(7)..BufId(7 + bufs), 2, MAGAZINE_BUFS)
}

/// Takes `count` buffers if they can be had.
fn take(cache: &mut PoolCache, count: usize) -> Option<Vec<BufId>> {
    let mut out = vec![BufId(u32::MAX); count];
    cache.take(&mut out).then_some(out)
}

fn work(mut cache: PoolCache, counts: &[usize]) {
    for count in counts {
        if let Some(bufs) = take(&mut cache, *count) {
            cache.give(&bufs);
        }
    }
}

/// A buffer handed out twice is payload overwritten; one lost is missing until the next start.
#[test]
fn no_buffer_is_handed_out_twice_or_lost() {
    loom::model(|| {
        let pool = pool(4);
        let (one, other) = (pool.cache(), pool.cache());
        let thread = thread::spawn(move || work(one, &[1, 3, 1]));
        work(other, &[2, 1]);
        thread.join().unwrap();
        assert_all_are_there(&pool, 4);
    });
}

/// As above. With three, two search at the same time what the third moves; it has no magazine.
#[test]
fn nor_by_three() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let pool = pool(4);
        let [one, other, third] = [(); 3].map(|()| pool.cache());
        let threads =
            [thread::spawn(move || work(one, &[1, 3])), thread::spawn(move || work(other, &[2]))];
        work(third, &[2]);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_all_are_there(&pool, 4);
    });
}

fn assert_all_are_there(pool: &SharedPool, count: u32) {
    let mut all = take(&mut pool.cache(), count as usize).expect("no buffer is lost");
    all.sort_unstable();
    assert!(all.into_iter().eq((7..7 + count).map(BufId)));
}

/// Two workers that each got a part of what they need would wait for each other.
#[test]
fn of_two_that_want_most_of_the_pool_one_gets_all_it_wants() {
    loom::model(|| {
        let pool = pool(3);
        let (mut one, mut other) = (pool.cache(), pool.cache());
        // A buffer in a magazine is as good as one in the depot.
        let buf = take(&mut one, 1).unwrap();
        one.give(&buf);
        let thread = thread::spawn(move || (take(&mut one, 2), one));
        let mine = take(&mut other, 2);
        let (theirs, one) = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        assert_eq!(pool.free_bufs(), 1);
        other.give(&mine.or(theirs).unwrap());
        drop(one);
        assert_eq!(pool.free_bufs(), 3);
    });
}

/// A worker that moves one buffer to and fro hides no other: a take finds those that stay free.
#[test]
fn what_is_free_all_the_time_is_found() {
    loom::model(|| {
        let pool = pool(3);
        let (mut one, mut other) = (pool.cache(), pool.cache());
        let first = take(&mut one, 1).unwrap();
        let thread = thread::spawn(move || {
            one.give(&first);
            let again = take(&mut one, 1);
            if let Some(again) = again {
                one.give(&again);
            }
            one
        });
        let mine = take(&mut other, 2).expect("two of three stay free");
        other.give(&mine);
        let one = thread.join().unwrap();
        assert_eq!(pool.free_bufs(), 3);
        drop(one);
    });
}

/// While one searches, what it has in its hands is not lost to another that searches, too.
#[test]
fn two_that_search_at_the_same_time_both_find() {
    loom::model(|| {
        let pool = SharedPool::with_magazines(BufId(7)..BufId(9), 1, MAGAZINE_BUFS);
        let mut sleeper = pool.cache();
        let both = take(&mut sleeper, 2).unwrap();
        sleeper.give(&both);
        let [mut one, mut other] = [(); 2].map(|()| pool.cache());
        let thread = thread::spawn(move || take(&mut one, 1));
        let mine = take(&mut other, 1);
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() && theirs.is_some() && mine != theirs);
    });
}

/// Alloc on one core, free on another: the giver's magazine overflows, the taker's runs dry.
#[test]
fn one_takes_and_another_gives() {
    loom::model(|| {
        let pool = pool(3);
        let (mut taker, mut giver) = (pool.cache(), pool.cache());
        let (send, receive) = mpsc::channel();
        let thread = thread::spawn(move || {
            while let Some(bufs) = receive.recv().unwrap() {
                giver.give(&[bufs]);
            }
            giver
        });
        for _ in 0..5 {
            if let Some(bufs) = take(&mut taker, 1) {
                send.send(Some(bufs[0])).unwrap();
            }
        }
        // Loom's channel does not tell that its other end is gone.
        send.send(None).unwrap();
        let _giver = thread.join().unwrap();
        assert!(take(&mut taker, 3).is_some());
    });
}

/// A worker that ends while another takes leaves all it had, and its magazine, to the others.
#[test]
fn a_dropped_cache_leaves_nothing_behind() {
    loom::model(|| {
        let pool = pool(3);
        let (mut one, mut other) = (pool.cache(), pool.cache());
        let bufs = take(&mut one, 2).unwrap();
        let thread = thread::spawn(move || {
            one.give(&bufs);
            drop(one);
        });
        if let Some(bufs) = take(&mut other, 2) {
            other.give(&bufs);
        }
        thread.join().unwrap();
        drop(other);
        assert_eq!(pool.0.depot.lock().free.len(), 3);
        assert!(pool.cache().own.is_some() && pool.cache().own.is_some());
    });
}
