//! A pool for several workers: a depot, and a magazine for each of them.
//!
//! ```text
//!  worker 0              worker 1              worker 2
//!  PoolCache             PoolCache             PoolCache
//! [ magazine ]          [ magazine ]          [ magazine ]     a lock each, on its own line
//!       \                     |                     /
//!        `------------- [   depot   ] -------------'           one lock
//! ```
//!
//! A worker takes from its own magazine and gives to it; only half a magazine at a time, or a bulk
//! larger than that, goes through the depot. So the depot's lock is paid for once in many buffers,
//! also where one worker takes and another gives. Depot and magazine are those of J. Bonwick and
//! J. Adams, *Magazines and Vmem*, USENIX ATC 2001; one magazine of which halves move stands for
//! their two.
//!
//! A magazine has a lock, which its worker nearly always finds free, for the sake of the others: a
//! take that would fail empties all magazines first. A worker that sleeps starves nobody.
//!
//! **Order of locks:** the depot's, then one magazine's. Buffers move between the two under both
//! locks, so whoever holds the depot's finds each buffer that stays free.

#![forbid(unsafe_code)]

use std::{fmt, ops::Range};

use self::sync::{Arc, AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};
use crate::BufId;

/// Free buffers that several workers share, each through its [`PoolCache`].
///
/// The set of buffers is fixed, and nothing is allocated after construction.
///
/// ```
/// use impasto_region::{BufId, SharedPool};
/// let pool = SharedPool::new(BufId(60)..BufId(64), 2);
/// let (mut one, mut other) = (pool.cache(), pool.cache());
/// let mut bufs = [BufId(0); 3];
/// assert!(one.take(&mut bufs));
/// assert!(!other.take(&mut [BufId(0); 2]));
/// other.give(&bufs);
/// assert_eq!(pool.free_bufs(), 4);
/// ```
#[derive(Clone)]
pub struct SharedPool(Arc<Shared>);

/// A worker's way to a [`SharedPool`]. Its buffers return to the pool when it is dropped.
pub struct PoolCache {
    shared: Arc<Shared>,
    /// Index of its magazine, if there was one left.
    own: Option<usize>,
}

impl SharedPool {
    /// Returns a pool in which all of `bufs` are free, for `caches` workers.
    ///
    /// A magazine holds at most 128 buffers, and all of them together at most half of the pool.
    /// Where that leaves less than 8 for each there are none, and every call goes to the depot: a
    /// small pool has none to lay aside.
    pub fn new(bufs: Range<BufId>, caches: usize) -> Self {
        let count = (bufs.start.0..bufs.end.0).len();
        Self::with_magazines(bufs, caches, magazine_bufs(count, caches))
    }

    fn with_magazines(bufs: Range<BufId>, caches: usize, magazine_bufs: usize) -> Self {
        let free: Vec<BufId> = (bufs.start.0..bufs.end.0).map(BufId).collect();
        let magazines = if magazine_bufs > 0 { caches } else { 0 };
        let checked = if is_checked(free.len()) { free.len() } else { 0 };
        Self(Arc::new(Shared {
            bufs,
            magazine_bufs,
            is_taken: (0..checked).map(|_| AtomicBool::new(false)).collect(),
            depot: Line::new(Depot { free, idle: (0..magazines).rev().collect() }),
            magazines: (0..magazines)
                .map(|_| Line::new(Vec::with_capacity(magazine_bufs)))
                .collect(),
        }))
    }

    /// Returns the way to this pool for one more worker. Those above the number that was announced
    /// have no magazine.
    pub fn cache(&self) -> PoolCache {
        let own = self.0.depot.lock().idle.pop();
        PoolCache { shared: Arc::clone(&self.0), own }
    }

    /// Returns the number of free buffers, those in magazines included. It is rough while others
    /// take and give: what they move meanwhile may be counted twice or not at all.
    pub fn free_bufs(&self) -> usize {
        let depot = self.0.depot.lock();
        let cached: usize = self.0.magazines.iter().map(|magazine| magazine.lock().len()).sum();
        depot.free.len() + cached
    }
}

impl PoolCache {
    /// Fills `out` with buffers: all of it, or none of it and returns false.
    ///
    /// It fails only if fewer than `out.len()` buffers are free from its start to its end, wherever
    /// they are: in the depot or in anybody's magazine. Against a give or take of another worker
    /// that runs at the same time it may fail or not.
    pub fn take(&mut self, out: &mut [BufId]) -> bool {
        let from_magazine = self.magazine().is_some_and(|magazine| pop(&mut magazine.lock(), out));
        let is_filled = from_magazine || self.take_from_depot(out);
        if is_filled {
            self.shared.mark_taken(out);
        }
        is_filled
    }

    /// Gives back `bufs`, whoever took them.
    ///
    /// # Panics
    /// If one is not of this pool, or is free already. The latter is noticed at once in debug
    /// builds, and in pools of up to 256 buffers, the landing buffers of a server among them; in
    /// larger ones not before more come back than there are.
    pub fn give(&mut self, bufs: &[BufId]) {
        self.shared.mark_free(bufs);
        if let Some(magazine) = self.magazine() {
            let mut magazine = magazine.lock();
            if bufs.len() <= self.shared.magazine_bufs - magazine.len() {
                magazine.extend_from_slice(bufs);
                return;
            }
        }
        let mut depot = self.shared.depot.lock();
        if let Some(magazine) = self.magazine() {
            // What is left makes room for gives and serves takes, until the depot is needed again.
            let mut magazine = magazine.lock();
            let stays = magazine.len().min(self.shared.magazine_bufs / 2);
            depot.free.extend(magazine.drain(stays..));
        }
        let room = depot.free.capacity() - depot.free.len();
        assert!(bufs.len() <= room, "no more buffers come back than there are");
        depot.free.extend_from_slice(bufs);
    }

    fn take_from_depot(&self, out: &mut [BufId]) -> bool {
        let mut depot = self.shared.depot.lock();
        let (others, own) = self.shared.magazines.split_at(self.own.unwrap_or(0));
        for magazine in own.iter().chain(others) {
            if depot.free.len() >= out.len() {
                break;
            }
            depot.free.append(&mut magazine.lock());
        }
        let is_filled = pop(&mut depot.free, out);
        if is_filled && let Some(magazine) = self.magazine() {
            let mut magazine = magazine.lock();
            let room = (self.shared.magazine_bufs / 2).saturating_sub(magazine.len());
            // When few are left they stay where others find them without a search.
            let stays = depot.free.len() - room.min(depot.free.len() / 2);
            magazine.extend(depot.free.drain(stays..));
        }
        is_filled
    }

    fn magazine(&self) -> Option<&Line<Magazine>> {
        self.own.map(|own| &self.shared.magazines[own])
    }
}

impl Drop for PoolCache {
    fn drop(&mut self) {
        let mut depot = self.shared.depot.lock();
        if let Some(own) = self.own {
            depot.free.append(&mut self.shared.magazines[own].lock());
            depot.idle.push(own);
        }
    }
}

struct Shared {
    bufs: Range<BufId>,
    /// How many buffers a magazine can hold.
    magazine_bufs: usize,
    depot: Line<Depot>,
    magazines: Box<[Line<Magazine>]>,
    /// By buffer, if this pool is checked: whether somebody has it.
    is_taken: Box<[AtomicBool]>,
}

struct Depot {
    /// A stack with room for all buffers.
    free: Vec<BufId>,
    /// Magazines that no cache has.
    idle: Vec<usize>,
}

/// A stack of free buffers.
type Magazine = Vec<BufId>;

/// What a lock guards, apart from what others read or lock meanwhile. Processors fetch lines of 64
/// bytes in pairs.
#[repr(align(128))]
struct Line<T>(Mutex<T>);

impl<T> Line<T> {
    fn new(guarded: T) -> Self {
        Self(Mutex::new(guarded))
    }

    /// What it guards is never left half changed, so one that is poisoned may be taken.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn mark_taken(&self, bufs: &[BufId]) {
        if self.is_checked() {
            // Relaxed, as below: the owners of a buffer are ordered by the locks.
            bufs.iter().for_each(|buf| self.is_taken(*buf).store(true, Ordering::Relaxed));
        }
    }

    fn mark_free(&self, bufs: &[BufId]) {
        let ours = self.bufs.start.0..self.bufs.end.0;
        let are_ours = bufs.iter().fold(true, |are_ours, buf| are_ours & ours.contains(&buf.0));
        assert!(are_ours, "a buffer returns to its own pool, of {:?}", self.bufs);
        if self.is_checked() {
            for buf in bufs {
                let was_taken = self.is_taken(*buf).swap(false, Ordering::Relaxed);
                assert!(was_taken, "{buf:?} is given back once");
            }
        }
    }

    fn is_checked(&self) -> bool {
        !self.is_taken.is_empty()
    }

    fn is_taken(&self, buf: BufId) -> &AtomicBool {
        &self.is_taken[(buf.0 - self.bufs.start.0) as usize]
    }
}

impl fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PoolCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCache").field("own", &self.own).field("shared", &self.shared).finish()
    }
}

/// Takes no lock: it may be called by whoever holds one.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("bufs", &self.bufs)
            .field("magazines", &self.magazines.len())
            .field("magazine_bufs", &self.magazine_bufs)
            .finish_non_exhaustive()
    }
}

/// Half of it is a bulk of 64.
const MAGAZINE_BUFS_MAX: usize = 128;
/// Below it the depot is needed so often that a magazine only adds a second lock.
const MAGAZINE_BUFS_MIN: usize = 8;

/// Returns how many buffers a magazine holds in a pool of `bufs` buffers.
fn magazine_bufs(bufs: usize, caches: usize) -> usize {
    let fair = bufs / (2 * caches.max(1));
    if fair < MAGAZINE_BUFS_MIN { 0 } else { fair.min(MAGAZINE_BUFS_MAX) }
}

/// Pools up to this size notice in every build that a buffer is given back twice. It takes about
/// 3 ns for each buffer, more than all the rest with a bulk of 64, which a small pool does not see.
const CHECKED_BUFS_MAX: usize = 256;

fn is_checked(bufs: usize) -> bool {
    bufs <= CHECKED_BUFS_MAX || cfg!(any(debug_assertions, loom))
}

/// Moves the top of `stack` to `out`: fills it, or does nothing and returns false.
fn pop(stack: &mut Vec<BufId>, out: &mut [BufId]) -> bool {
    let Some(rest) = stack.len().checked_sub(out.len()) else {
        return false;
    };
    out.copy_from_slice(&stack[rest..]);
    stack.truncate(rest);
    true
}

/// What loom puts in the place of std, to run every order of what threads do.
mod sync {
    pub(super) use std::sync::PoisonError;
    #[cfg(not(loom))]
    pub(super) use std::sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    };

    #[cfg(loom)]
    pub(super) use loom::sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    };
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
mod tests;
