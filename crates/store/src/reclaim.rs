//! Space comes back from the log's front.
//!
//! The log shrinks from its oldest segment. A segment is dead when no append in it is live and no
//! log's state stands in it. State moves rarely, so it would pin its segment for ever: when nothing
//! else is left in the oldest segment, the state is appended again at the tail.
//!
//! A trim may kill millions of records. It takes effect at once, and what they held is freed a part
//! at a time, by the calls that follow. A crash in between costs nothing: recovery frees the rest.

use std::collections::VecDeque;

use impasto_region::{
    Extent,
    layout::{SEGMENT_BYTES, Superblock},
};

use crate::{
    Lsn, Sink, Store,
    format::{log_record, padded},
    space::Need,
    tail::{Placing, Room},
};

/// Most bytes of state moved in one call: a bound on the time of a turn. Many, so that the padding
/// of their commit is at most 1/32 of them: less than what makes moving pay, or moved states would
/// be worth moving again, for ever.
const BYTES_PER_CALL: u64 = 128 << 10;
/// Most dead records and extents of them freed in one call: likewise, about 0.1 ms.
const DEAD_PER_CALL: usize = 8192;
/// Most logs looked at in one call, once one was moved.
const LOGS_PER_CALL: u32 = 4096;

/// How much of the log is live, and how far the front was searched for state.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// Bytes of live records in the log, states and trims included.
    live_bytes: u64,
    /// The first log that may have its state in the front segment.
    cursor: u32,
    /// Logs with dead records whose space is not freed yet.
    dead: VecDeque<u32>,
    /// Extents of the record being freed.
    extents: Vec<Extent>,
}

impl Reclaim {
    pub(crate) fn append_added(&mut self, bytes: u64) {
        self.live_bytes += bytes;
    }

    pub(crate) fn append_died(&mut self, bytes: u64) {
        self.live_bytes -= bytes;
    }

    pub(crate) fn state_added(&mut self, bytes: u64) {
        self.live_bytes += padded(bytes);
    }

    fn trim_died(&mut self) {
        self.live_bytes -= 24;
    }
}

impl Store {
    /// Frees what trims have killed, and moves state off the log's front, if that sets space free.
    /// Called once per turn, before [`seal`](Self::seal); does a bounded part of the work.
    ///
    /// # Durability
    /// Volatile, as [`apply`](Self::apply): the front is freed when what was moved is durable (D4).
    pub fn reclaim(&mut self, sink: &mut impl Sink) {
        self.free_dead();
        // What was dead at the start, too: if nothing can be appended, no commit will set it free.
        self.advance();
        let Some(end) = self.front_to_move() else {
            return;
        };
        let mut moved = 0;
        for looked in 0..self.logs.len() {
            let enough = moved >= BYTES_PER_CALL || moved > 0 && looked >= LOGS_PER_CALL;
            if enough || self.tail.segments[0].state == 0 {
                break;
            }
            let log = self.reclaim.cursor % self.logs.len();
            let state = self.logs.get(log);
            if state.state < end || state.trim.is_some_and(|trim| trim < end) {
                let Some(bytes) = self.move_state(log, sink) else {
                    break;
                };
                moved += bytes;
            }
            self.reclaim.cursor = (log + 1) % self.logs.len();
        }
    }

    /// Returns true if trims have killed more than was freed so far: there is work for the next
    /// [`reclaim`](Self::reclaim), which need not wait for anything.
    pub fn is_freeing(&self) -> bool {
        !self.reclaim.dead.is_empty()
    }

    /// The records of a log below `first` are dead. Few of them are freed at once.
    pub(crate) fn kill_below(&mut self, id: u32, first: u64) {
        let log = self.logs.get_mut(id);
        if !log.has_dead() {
            self.reclaim.dead.push_back(id);
        }
        log.kill_below(first);
        self.free_dead();
    }

    /// Frees dead records, a bounded number. D4: not before the last trim of their log is durable,
    /// which is that one that killed them, or came after it.
    fn free_dead(&mut self) {
        let mut extents = std::mem::take(&mut self.reclaim.extents);
        let mut left = DEAD_PER_CALL;
        while let Some(&id) = self.reclaim.dead.front().filter(|_| left > 0) {
            let log = self.logs.get_mut(id);
            let Some(entry) = log.pop_dead(&mut extents) else {
                self.reclaim.dead.pop_front();
                continue;
            };
            left = left.saturating_sub(1 + extents.len());
            self.reclaim.append_died(entry.record_bytes());
            if !entry.inline {
                self.space.kill(&extents, log.trimmed);
            }
            let segment = self.tail.segment_of(entry.lsn);
            segment.live -= 1;
            segment.died = segment.died.max(log.trimmed);
        }
        self.reclaim.extents = extents;
    }

    /// Returns the end of the front segment if its state is all that keeps it, and moving it pays:
    /// at least two segments' worth of the log is dead, more than the front and the tail can have,
    /// and beyond that twice the padding that moving leaves.
    fn front_to_move(&self) -> Option<Lsn> {
        let end = self.tail.front_end()?;
        let front = &self.tail.segments[0];
        let dead = (self.tail.segments.len() as u64 * SEGMENT_BYTES)
            .saturating_sub(self.reclaim.live_bytes);
        let least = 2 * SEGMENT_BYTES + self.reclaim.live_bytes / 16;
        let pays = front.live == 0 && front.state > 0 && dead >= least;
        (pays && !self.read_only).then_some(end)
    }

    /// Appends the state of `log` again, and returns its bytes; `None` if there is no room for it
    /// now.
    pub(crate) fn move_state(&mut self, log: u32, sink: &mut impl Sink) -> Option<u64> {
        let state = self.logs.get(log);
        let (record, bytes) = log_record(log, state.first, state.next, &state.name);
        let needed = padded(bytes as u64);
        let placing = Placing { need: Need::Move, bytes: needed, fulfils: 0, promises: 0 };
        if self.tail.room(placing, &self.space) != Room::Here {
            return None;
        }
        self.tail.open(needed, &mut self.space);
        let (lsn, at) = self.tail.place(bytes as u64, sink);
        sink.put(at, &record[..bytes]);
        self.tail.segment_of(lsn).state += 1;
        let state = self.logs.get_mut(log);
        let old = std::mem::replace(&mut state.state, lsn);
        let trim = state.trim.take();
        // After a repair it may have had none.
        if old > Lsn(0) {
            self.state_died(old, lsn);
        }
        if let Some(trim) = trim {
            self.state_died(trim, lsn);
            self.reclaim.trim_died();
        }
        Some(needed)
    }

    /// More is durable: sets free what died by now.
    pub(crate) fn advance(&mut self) {
        let durable = self.durable();
        self.space.advance(durable);
        self.tail.retire_front(durable);
        self.tail.give_retired(&mut self.space);
    }

    /// Returns a superblock to be persisted, so that freed segments of the log can be used again;
    /// `None` if none wait for it, or the last one is still under way.
    pub fn superblock_wanted(&mut self) -> Option<Superblock> {
        let wanted = self.tail.wants_superblock() && !self.superblock_in_flight && !self.read_only;
        wanted.then(|| {
            self.superblock_in_flight = true;
            self.next_superblock(false)
        })
    }

    /// The superblock of that generation is durable.
    pub fn superblock_durable(&mut self, generation: u64) {
        debug_assert_eq!(generation, self.superblock.generation, "one at a time");
        self.superblock_in_flight = false;
        self.tail.needed_durable(self.superblock.first_needed);
        self.tail.give_retired(&mut self.space);
    }

    /// Returns the superblock of a clean stop: it bears witness for the last commits.
    ///
    /// # Panics
    /// If a commit is open or in flight, or a superblock is.
    pub fn clean_superblock(&mut self) -> Superblock {
        assert!(self.flight.is_empty() && self.tail.open_bytes() == 0, "everything is durable");
        assert!(!self.superblock_in_flight, "one superblock at a time");
        self.next_superblock(true)
    }

    fn next_superblock(&mut self, clean: bool) -> Superblock {
        self.superblock.generation += 1;
        self.superblock.clean = clean;
        self.superblock.first_needed = self.tail.first_needed();
        self.superblock.durable_lsn = self.durable().0;
        self.superblock
    }

    /// Returns how much of the region is in use, for people.
    pub fn free_bytes(&self) -> u64 {
        u64::from(self.space.free_bufs()) * u64::from(impasto_region::layout::BUF_BYTES)
    }
}
