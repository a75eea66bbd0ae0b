//! One thread against a model, then real threads.

use std::{
    collections::BTreeSet,
    sync::{
        atomic::{AtomicU32, AtomicUsize},
        mpsc,
    },
    thread,
};

use super::*;
use crate::testing::Rng;

const FIRST: u32 = 60;

fn bufs(count: u32) -> Range<BufId> {
    BufId(FIRST)..BufId(FIRST + count)
}

fn take(cache: &mut PoolCache, count: usize) -> Option<Vec<BufId>> {
    let mut out = vec![BufId(u32::MAX); count];
    cache.take(&mut out).then_some(out)
}

const fn works_on_any_thread<T: Send>() {}
const fn is_shared<T: Send + Sync>() {}
const _: () = works_on_any_thread::<PoolCache>();
const _: () = is_shared::<SharedPool>();

/// Magazines that hold most of a small pool would have its workers search each other all the time.
#[test]
fn all_magazines_hold_at_most_half_of_the_pool() {
    for (count, caches, expected) in [
        (4, 2, 0),
        (64, 16, 0),
        (64, 4, 8),
        (64, 2, 16),
        (64, 1, 32),
        (512, 2, 128),
        (100_000, 16, 128),
        (0, 0, 0),
    ] {
        assert_eq!(magazine_bufs(count, caches), expected, "{count} for {caches}");
    }
}

/// A part of a bulk would be lost by a caller that sees `false`.
#[test]
fn bulk_is_all_or_nothing() {
    for count in [5, 600] {
        let pool = SharedPool::new(bufs(count), 2);
        let (mut one, mut other) = (pool.cache(), pool.cache());
        let some = take(&mut one, 2).unwrap();
        assert_eq!(take(&mut other, count as usize - 1), None);
        assert_eq!(pool.free_bufs(), count as usize - 2);
        let rest = take(&mut other, count as usize - 2).unwrap();
        assert_eq!(take(&mut one, 1), None);
        assert_eq!(take(&mut one, 0), Some(vec![]));
        one.give(&rest);
        other.give(&some);
        assert_eq!(pool.free_bufs(), count as usize);
    }
}

/// Without the search, buffers in the magazine of a worker that sleeps would starve all others.
#[test]
fn a_take_finds_what_others_have_in_their_magazines() {
    let pool = SharedPool::with_magazines(bufs(24), 3, 8);
    let mut caches = [(); 3].map(|()| pool.cache());
    for cache in &mut caches {
        let some = take(cache, 4).unwrap();
        cache.give(&some);
    }
    assert!(pool.0.depot.lock().free.len() < 24);
    assert!(take(&mut caches[1], 24).is_some());
}

/// The lock that magazines are there to avoid would be taken every time again.
#[test]
fn half_a_magazine_passes_the_depot_at_a_time() {
    let pool = SharedPool::with_magazines(bufs(64), 2, 8);
    let (mut one, mut other) = (pool.cache(), pool.cache());
    let in_depot = || pool.0.depot.lock().free.len();
    let mut visits = 0;
    let mut seen = in_depot();
    for _ in 0..64 {
        let buf = take(&mut one, 1).unwrap();
        visits += usize::from(in_depot() != seen);
        seen = in_depot();
        other.give(&buf);
        visits += usize::from(in_depot() != seen);
        seen = in_depot();
    }
    assert!((24..=28).contains(&visits), "{visits}");
}

/// What a worker that ends had in its magazine would be missing until the next start.
#[test]
fn a_dropped_cache_leaves_its_buffers_and_its_magazine() {
    let pool = SharedPool::with_magazines(bufs(24), 1, 8);
    for _ in 0..3 {
        let mut cache = pool.cache();
        assert!(cache.magazine().is_some() && pool.cache().magazine().is_none());
        let some = take(&mut cache, 8).unwrap();
        cache.give(&some);
        drop(cache);
        assert_eq!(pool.0.depot.lock().free.len(), 24);
    }
}

/// Two owners would overwrite each other's payload.
#[test]
#[should_panic(expected = "given back once")]
fn a_buffer_given_back_twice_is_a_broken_invariant() {
    let pool = SharedPool::new(bufs(64), 2);
    let (mut one, mut other) = (pool.cache(), pool.cache());
    let some = take(&mut one, 2).unwrap();
    one.give(&some);
    other.give(&some[1..]);
}

#[test]
#[should_panic(expected = "given back once")]
fn a_buffer_that_nobody_took_is_not_given_back() {
    SharedPool::new(bufs(4), 2).cache().give(&[BufId(FIRST)]);
}

#[test]
#[should_panic(expected = "its own pool")]
fn a_buffer_of_another_pool_is_refused() {
    SharedPool::new(bufs(4), 2).cache().give(&[BufId(FIRST - 1)]);
}

/// After a panic in one worker the others go on, or end in their own way.
#[test]
fn a_pool_outlives_a_panic() {
    let pool = SharedPool::new(bufs(64), 2);
    let mut one = pool.cache();
    let panicked = thread::spawn(move || one.give(&[BufId(FIRST)])).join();
    assert!(panicked.is_err());
    assert!(take(&mut pool.cache(), 64).is_some());
}

/// In one thread a take succeeds if, and only if, enough are free, wherever they are.
#[test]
fn random_takes_and_gives_agree_with_a_set() {
    let mut rng = Rng::from_env("random_takes_and_gives_agree_with_a_set");
    for _ in 0..60 {
        let (count, workers) = (1 + rng.below_u32(300), 1 + rng.index(5));
        let bulk_max = 1 + rng.index(300);
        let magazine_bufs = rng.index(20);
        let pool = SharedPool::with_magazines(bufs(count), workers, magazine_bufs);
        let room = pool.0.depot.lock().free.capacity();
        // One more than there are magazines.
        let mut caches: Vec<_> = (0..=workers).map(|_| pool.cache()).collect();
        let mut used = BTreeSet::new();
        for _ in 0..500 {
            let index = rng.index(caches.len());
            match rng.below(8) {
                0 => caches[index] = pool.cache(),
                1..=3 => {
                    let fits = |bulk: usize| used.len() + bulk <= count as usize;
                    let bulk = rng.index(bulk_max + 1);
                    let taken = take(&mut caches[index], bulk);
                    assert_eq!(taken.is_some(), fits(bulk));
                    taken.into_iter().flatten().for_each(|buf| assert!(used.insert(buf)));
                }
                _ => {
                    let some = rng.below(4);
                    let bulk = rng.index(bulk_max + 1);
                    let chosen: Vec<_> =
                        used.iter().copied().filter(|_| rng.below(4) == some).take(bulk).collect();
                    caches[index].give(&chosen);
                    chosen.iter().for_each(|buf| assert!(used.remove(buf)));
                }
            }
            assert_eq!(pool.free_bufs(), count as usize - used.len());
            assert!(used.iter().all(|buf| (FIRST..FIRST + count).contains(&buf.0)));
        }
        drop(caches);
        let depot = pool.0.depot.lock();
        assert_eq!(depot.free.len(), count as usize - used.len());
        // The data path allocates nothing.
        assert_eq!(depot.free.capacity(), room);
        let is_fixed = |magazine: &Line<Magazine>| magazine.lock().capacity() == magazine_bufs;
        assert!(pool.0.magazines.iter().all(is_fixed));
    }
}

/// Who has each buffer, as its owners say: 0 for nobody.
struct Owners(Vec<AtomicU32>);

impl Owners {
    fn new(count: u32) -> Self {
        Self((0..count).map(|_| AtomicU32::new(0)).collect())
    }

    fn change(&self, bufs: &[BufId], from: u32, to: u32) {
        for buf in bufs {
            let owner = &self.0[(buf.0 - FIRST) as usize];
            assert_eq!(owner.swap(to, Ordering::Relaxed), from, "{buf:?}");
        }
    }
}

/// Landing buffers are taken by the worker whose port needs them, and given back by the one that
/// lets go of their last byte. With fewer than the taker wants, a buffer that is stuck in the
/// giver's magazine would end this test never.
#[test]
fn one_takes_and_another_gives() {
    for (count, bulk, rounds) in
        [(4, 1, 20_000), (64, 16, 5_000), (64, 64, 2_000), (512, 64, 5_000)]
    {
        let pool = SharedPool::new(bufs(count), 2);
        let (mut taker, mut giver) = (pool.cache(), pool.cache());
        let owners = Owners::new(count);
        let (send, receive) = mpsc::channel::<Vec<BufId>>();
        thread::scope(|scope| {
            scope.spawn(|| {
                for bufs in receive {
                    owners.change(&bufs, 1, 0);
                    giver.give(&bufs);
                }
            });
            let owners = &owners;
            scope.spawn(move || {
                for _ in 0..rounds {
                    let taken = loop {
                        if let Some(taken) = take(&mut taker, bulk) {
                            break taken;
                        }
                        thread::yield_now();
                    };
                    owners.change(&taken, 0, 1);
                    send.send(taken).unwrap();
                }
            });
        });
        assert_eq!(pool.free_bufs(), count as usize);
    }
}

/// Few buffers and many workers: each takes at random, gives what it or its neighbour took.
#[test]
fn many_workers_share_few_buffers() {
    const WORKERS: usize = 8;
    let mut rng = Rng::from_env("many_workers_share_few_buffers");
    for count in [4, 16, 64, 300] {
        let pool = SharedPool::new(bufs(count), WORKERS);
        let owners = Owners::new(count);
        let takes = AtomicUsize::new(0);
        let (sends, receives): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|_| mpsc::channel::<Vec<BufId>>()).unzip();
        thread::scope(|scope| {
            for (index, receive) in receives.into_iter().enumerate() {
                let mut rng = rng.fork();
                let (mut cache, next) = (pool.cache(), sends[(index + 1) % WORKERS].clone());
                let (owners, takes) = (&owners, &takes);
                scope.spawn(move || {
                    let give = |cache: &mut PoolCache, bufs: Vec<BufId>| {
                        owners.change(&bufs, 1, 0);
                        cache.give(&bufs);
                    };
                    for _ in 0..2_000 {
                        if let Some(taken) = take(&mut cache, 1 + rng.index(8)) {
                            owners.change(&taken, 0, 1);
                            takes.fetch_add(1, Ordering::Relaxed);
                            if rng.below(2) == 0 {
                                give(&mut cache, taken);
                            } else {
                                next.send(taken).unwrap();
                            }
                        }
                        receive.try_iter().for_each(|bufs| give(&mut cache, bufs));
                    }
                    drop(next);
                    receive.iter().for_each(|bufs| give(&mut cache, bufs));
                });
            }
            drop(sends);
        });
        assert!(takes.into_inner() > 0);
        assert_eq!(pool.0.depot.lock().free.len(), count as usize);
        owners.change(&bufs_of(count), 0, 0);
    }
}

fn bufs_of(count: u32) -> Vec<BufId> {
    (FIRST..FIRST + count).map(BufId).collect()
}
