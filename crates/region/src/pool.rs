//! The pool: which buffers of a region are free.
//!
//! ```text
//! order   | 7 0 3 |  5 2   | 1 4 6 8 9 ... |     segments, in three runs
//!           none  |  some  |  all four          of their buffers are free
//!                 ^ split  ^ whole
//! ```
//!
//! A segment changes its run by one swap at the boundary, so every operation takes constant time
//! per buffer and nothing is allocated after construction.

mod shared;

use std::{fmt, mem};

pub use shared::{PoolCache, SharedPool};

use crate::{
    BufId, SegmentId,
    layout::{BUFS_PER_SEGMENT, Geometry},
};

/// The free buffers of a region.
///
/// Derived state (D5): recovery starts with a full pool and claims what the log names. A single
/// buffer comes from a segment that is already split, so that whole segments stay whole as long as
/// they can.
///
/// ```
/// use impasto_region::{BufId, Pool, layout::Geometry};
/// let mut pool = Pool::new(Geometry::new(16 << 20).expect("a region's size"));
/// let mut bufs = [BufId(0); 6];
/// assert!(pool.take(&mut bufs));
/// assert_eq!((pool.free_bufs(), pool.free_segments()), (54, 13));
/// pool.give(&bufs);
/// assert_eq!(pool.free_segments(), 15);
/// ```
pub struct Pool {
    /// Every segment once: without a free buffer, split, whole.
    order: Box<[SegmentId]>,
    /// By segment: its index in `order`.
    place: Box<[u32]>,
    /// By segment: bit `n` is set if its `n`-th buffer is free.
    free: Box<[u8]>,
    /// Index of the first split segment in `order`.
    split: u32,
    /// Index of the first whole segment in `order`.
    whole: u32,
    free_bufs: u32,
}

impl Pool {
    /// Returns the pool of a region in which every buffer is free.
    pub fn new(geometry: Geometry) -> Self {
        let segments = geometry.segments();
        Self {
            order: (0..segments).map(SegmentId).collect(),
            place: (0..segments).collect(),
            free: vec![WHOLE; segments as usize].into_boxed_slice(),
            split: 0,
            whole: 0,
            free_bufs: geometry.bufs(),
        }
    }

    /// Takes a segment whose four buffers are free, or returns `None` if there is none.
    pub fn take_segment(&mut self) -> Option<SegmentId> {
        let segment = *self.order.get(self.whole as usize)?;
        self.set(segment, 0);
        Some(segment)
    }

    /// Gives back the four buffers of `segment`.
    ///
    /// # Panics
    /// If one of them is free already, or the region has no such segment.
    pub fn give_segment(&mut self, segment: SegmentId) {
        assert!(self.free[segment.0 as usize] == 0, "{segment:?} is given back once");
        self.set(segment, WHOLE);
    }

    /// Fills `out` with buffers: all of it, or none of it and returns false.
    pub fn take(&mut self, out: &mut [BufId]) -> bool {
        if out.len() > self.free_bufs as usize {
            return false;
        }
        for buf in out {
            let at = if self.split < self.whole { self.whole - 1 } else { self.whole };
            let segment = self.order[at as usize];
            let free = self.free[segment.0 as usize];
            *buf = BufId(segment.first_buf().0 + free.trailing_zeros());
            self.set(segment, free & (free - 1));
        }
        true
    }

    /// Gives back `bufs`. A segment whose four buffers are free is whole again.
    ///
    /// # Panics
    /// If one is free already, or the region has no such buffer.
    pub fn give(&mut self, bufs: &[BufId]) {
        for &buf in bufs {
            let free = self.free[buf.segment().0 as usize];
            assert!(free & bit(buf) == 0, "{buf:?} is given back once");
            self.set(buf.segment(), free | bit(buf));
        }
    }

    /// Marks a buffer as in use: recovery found bytes in it that live.
    ///
    /// Returns false if it was in use already or the region has no such buffer.
    pub fn claim(&mut self, buf: BufId) -> bool {
        let free = self.free.get(buf.segment().0 as usize).copied().unwrap_or(0);
        let claimed = free & bit(buf) != 0;
        if claimed {
            self.set(buf.segment(), free & !bit(buf));
        }
        claimed
    }

    /// Marks the four buffers of a segment as in use: recovery found a part of the log in it.
    ///
    /// Returns false, and changes nothing, if one was in use already or the region has no such
    /// segment.
    pub fn claim_segment(&mut self, segment: SegmentId) -> bool {
        let claimed = self.free.get(segment.0 as usize) == Some(&WHOLE);
        if claimed {
            self.set(segment, 0);
        }
        claimed
    }

    /// Returns the number of free buffers, those of whole segments included.
    pub fn free_bufs(&self) -> u32 {
        self.free_bufs
    }

    /// Returns the number of segments whose four buffers are free.
    pub fn free_segments(&self) -> u32 {
        self.segments() - self.whole
    }

    /// Sets which buffers of `segment` are free and moves it to the run where it belongs.
    fn set(&mut self, segment: SegmentId, free: u8) {
        let before = mem::replace(&mut self.free[segment.0 as usize], free);
        self.free_bufs = self.free_bufs + free.count_ones() - before.count_ones();
        for _ in run(before)..run(free) {
            self.raise(segment);
        }
        for _ in run(free)..run(before) {
            self.lower(segment);
        }
    }

    /// Moves `segment` to the next run: the boundary below it passes it.
    fn raise(&mut self, segment: SegmentId) {
        let place = self.place[segment.0 as usize];
        let boundary = if place < self.split { &mut self.split } else { &mut self.whole };
        *boundary -= 1;
        let last = *boundary;
        self.swap(place, last);
    }

    /// Moves `segment` to the run before.
    fn lower(&mut self, segment: SegmentId) {
        let place = self.place[segment.0 as usize];
        let boundary = if place >= self.whole { &mut self.whole } else { &mut self.split };
        let first = *boundary;
        *boundary += 1;
        self.swap(place, first);
    }

    fn swap(&mut self, one: u32, other: u32) {
        self.order.swap(one as usize, other as usize);
        for place in [one, other] {
            let segment = self.order[place as usize];
            self.place[segment.0 as usize] = place;
        }
    }

    fn segments(&self) -> u32 {
        u32::try_from(self.order.len()).expect("made from a u32")
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("segments", &self.segments())
            .field("free_segments", &self.free_segments())
            .field("free_bufs", &self.free_bufs)
            .finish()
    }
}

/// All four buffers of a segment are free.
const WHOLE: u8 = (1 << BUFS_PER_SEGMENT) - 1;

const fn bit(buf: BufId) -> u8 {
    1 << (buf.0 % BUFS_PER_SEGMENT)
}

/// Returns the run of `order` that a segment with these free buffers belongs to.
const fn run(free: u8) -> u32 {
    match free {
        0 => 0,
        WHOLE => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::Rng;

    fn pool() -> Pool {
        Pool::new(Geometry::new(16 << 20).unwrap())
    }

    /// Without the runs a stream of single buffers would break up every segment, and the log would
    /// find none.
    #[test]
    fn single_buffers_come_from_split_segments() {
        let mut pool = pool();
        let mut bufs = [BufId(0); 5];
        assert!(pool.take(&mut bufs));
        assert_eq!(bufs.map(|buf| buf.0), [0, 1, 2, 3, 4]);
        pool.give(&bufs[1..2]);
        assert_eq!(pool.free_segments(), 13);
        let mut more = [BufId(0); 4];
        assert!(pool.take(&mut more));
        assert_eq!(pool.free_segments(), 13);
    }

    /// A part of a bulk would be lost by a caller that sees `false`.
    #[test]
    fn bulk_is_all_or_nothing() {
        let mut pool = pool();
        let mut bufs = vec![BufId(0); 61];
        assert!(!pool.take(&mut bufs));
        assert_eq!((pool.free_bufs(), pool.free_segments()), (60, 15));
        assert!(pool.take(&mut bufs[..60]));
        assert!(!pool.take(&mut bufs[..1]));
        assert!(pool.take(&mut []));
        assert_eq!(pool.take_segment(), None);
    }

    /// Recovery meets a buffer once per extent in it; it must not count it twice.
    #[test]
    fn claims_count_once_and_stay_in_the_region() {
        let mut pool = pool();
        assert!(pool.claim(BufId(5)));
        assert!(!pool.claim(BufId(5)));
        assert!(!pool.claim_segment(SegmentId(1)));
        assert!(pool.claim_segment(SegmentId(2)));
        assert!(!pool.claim(BufId(60)));
        assert!(!pool.claim(BufId(u32::MAX)));
        assert!(!pool.claim_segment(SegmentId(15)));
        assert_eq!((pool.free_bufs(), pool.free_segments()), (55, 13));
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_buffer_given_back_twice_is_a_broken_invariant() {
        pool().give(&[BufId(7)]);
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_segment_given_back_twice_is_a_broken_invariant() {
        let mut pool = pool();
        assert!(pool.claim(BufId(0)));
        pool.give_segment(SegmentId(0));
    }

    /// A buffer handed out twice is payload overwritten; one lost is space that never returns.
    /// Compares with sets, operation by operation.
    #[test]
    fn no_buffer_is_handed_out_twice_or_lost() {
        let mut rng = Rng::from_env("no_buffer_is_handed_out_twice_or_lost");
        for _ in 0..20 {
            let geometry = Geometry::new((16 + rng.below(20)) << 20).unwrap();
            let mut pool = Pool::new(geometry);
            let mut used = BTreeSet::new();
            for _ in 0..2_000 {
                step(&mut rng, geometry, &mut pool, &mut used);
                check(geometry, &pool, &used);
            }
        }
    }

    fn step(rng: &mut Rng, geometry: Geometry, pool: &mut Pool, used: &mut BTreeSet<BufId>) {
        let segment_bufs = |segment: SegmentId| {
            let first = segment.first_buf().0;
            (first..first + BUFS_PER_SEGMENT).map(BufId)
        };
        match rng.below(6) {
            0 => {
                if let Some(segment) = pool.take_segment() {
                    assert!(segment_bufs(segment).all(|buf| used.insert(buf)));
                }
            }
            1 => {
                let mut out = vec![BufId(u32::MAX); rng.index(12)];
                let fits = used.len() + out.len() <= geometry.bufs() as usize;
                assert_eq!(pool.take(&mut out), fits);
                assert!(!fits || out.iter().all(|&buf| used.insert(buf)));
            }
            2 | 3 => {
                let count = rng.index(12);
                let some = rng.below(4);
                let chosen: Vec<_> =
                    used.iter().copied().filter(|_| rng.below(4) == some).take(count).collect();
                pool.give(&chosen);
                chosen.iter().for_each(|buf| assert!(used.remove(buf)));
            }
            4 => {
                let segment = SegmentId(rng.below_u32(geometry.segments()));
                if segment_bufs(segment).all(|buf| used.contains(&buf)) {
                    pool.give_segment(segment);
                    segment_bufs(segment).for_each(|buf| assert!(used.remove(&buf)));
                } else {
                    let whole = segment_bufs(segment).all(|buf| !used.contains(&buf));
                    assert_eq!(pool.claim_segment(segment), whole);
                    used.extend(segment_bufs(segment).filter(|_| whole));
                }
            }
            _ => {
                let buf = BufId(rng.below_u32(geometry.bufs()));
                assert_eq!(pool.claim(buf), used.insert(buf));
            }
        }
    }

    fn check(geometry: Geometry, pool: &Pool, used: &BTreeSet<BufId>) {
        assert_eq!(pool.free_bufs() as usize, geometry.bufs() as usize - used.len());
        let mut split = 0;
        let mut whole = 0;
        for segment in 0..geometry.segments() {
            let first = segment * BUFS_PER_SEGMENT;
            let free = (first..first + BUFS_PER_SEGMENT)
                .filter(|&buf| !used.contains(&BufId(buf)))
                .count();
            split += u32::from((1..4).contains(&free));
            whole += u32::from(free == 4);
        }
        assert_eq!(pool.free_segments(), whole);
        assert_eq!(pool.whole - pool.split, split);
    }
}
