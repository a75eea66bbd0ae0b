//! The index: named logs, and where their records are. Derived from the log (D5).

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
};

use impasto_region::Extent;

use crate::{
    LogInfo, Lsn,
    format::{EXTENT_BYTES, HEAD_BYTES, padded},
};

/// A record of a named log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) lsn: Lsn,
    pub(crate) checksum: u64,
    pub(crate) len: u32,
    /// It stands in its record, so its extents are the log's.
    pub(crate) inline: bool,
    /// Its bytes were not seen since the start: they have to be read, or at least verified.
    pub(crate) unread: bool,
    extents: u16,
    /// Number of its first extent, counted from the log's first extent ever; wraps.
    extents_at: u32,
}

impl Entry {
    pub(crate) const fn new(lsn: Lsn, checksum: u64, len: u32, inline: bool, unread: bool) -> Self {
        Self { lsn, checksum, len, inline, unread, extents: 0, extents_at: 0 }
    }

    /// Returns the bytes that the entry's record takes in the log.
    pub(crate) const fn record_bytes(&self) -> u64 {
        let tail =
            if self.inline { self.len as u64 } else { self.extents as u64 * EXTENT_BYTES as u64 };
        padded(HEAD_BYTES as u64 + tail)
    }
}

/// An entry as it is kept: the sum tells its length, and that of all that a trim leaves, too.
#[derive(Clone, Copy, Debug)]
struct Kept {
    lsn: Lsn,
    checksum: u64,
    /// Bytes of the log's values before it, since the index was made.
    before: u64,
    extents_at: u32,
    extents: u16,
    inline: bool,
    unread: bool,
}

/// A named log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) name: Box<str>,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// The newest record that is about this log.
    pub(crate) changed: Lsn,
    /// The record that holds its name, `first` and `next`; re-appended before its segment is
    /// freed.
    pub(crate) state: Lsn,
    /// The trim after `state`, if there is one.
    pub(crate) trim: Option<Lsn>,
    /// The last trim of this run.
    pub(crate) trimmed: Lsn,
    entries: VecDeque<Kept>,
    /// The first of `entries` that are dead: nobody finds them, their space is still to be freed.
    dead: usize,
    /// Bytes of all values since the index was made.
    appended: u64,
    /// Extents of the entries, in their order.
    extents: VecDeque<Extent>,
    /// Number of the first of `extents`.
    extents_first: u32,
}

impl Log {
    pub(crate) fn info(&self) -> LogInfo {
        let records = self.next - self.first;
        let bytes = self.appended - self.before(self.dead);
        LogInfo { first: self.first, next: self.next, records, bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Appends the record `next`.
    pub(crate) fn push(&mut self, entry: Entry, extents: impl Iterator<Item = Extent>) {
        let Entry { lsn, checksum, len, inline, unread, .. } = entry;
        let earlier = self.extents.len();
        let extents_at = self.extents_first.wrapping_add(count(earlier));
        self.extents.extend(extents);
        let extents = u16::try_from(self.extents.len() - earlier).expect("at most 1,024");
        let before = self.appended;
        let kept = Kept { lsn, checksum, before, extents_at, extents, inline, unread };
        self.entries.push_back(kept);
        self.appended += u64::from(len);
        self.changed = lsn;
        self.next += 1;
    }

    /// The records below `first`, at most all there are, are dead: from now on there are none such.
    pub(crate) fn kill_below(&mut self, first: u64) {
        let first = first.min(self.next);
        if first > self.first {
            self.dead += usize::try_from(first - self.first).expect("they are in memory");
            self.first = first;
        }
    }

    /// Returns true if [`pop_dead`](Self::pop_dead) has one.
    pub(crate) const fn has_dead(&self) -> bool {
        self.dead > 0
    }

    /// Removes the oldest dead record, and leaves its extents in `out`.
    pub(crate) fn pop_dead(&mut self, out: &mut Vec<Extent>) -> Option<Entry> {
        self.dead = self.dead.checked_sub(1)?;
        let entry = self.at(0);
        self.entries.pop_front();
        out.clear();
        out.extend(self.extents.drain(..usize::from(entry.extents)));
        self.extents_first = self.extents_first.wrapping_add(u32::from(entry.extents));
        Some(entry)
    }

    /// Returns the record `seq`, if it is there.
    pub(crate) fn entry(&self, seq: u64) -> Option<Entry> {
        self.index(seq).map(|index| self.at(index))
    }

    /// The value of the record `seq`, if it is still there, has been seen.
    pub(crate) fn seen(&mut self, seq: u64) {
        if let Some(index) = self.index(seq) {
            self.entries[index].unread = false;
        }
    }

    fn index(&self, seq: u64) -> Option<usize> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?.checked_add(self.dead)?;
        (index < self.entries.len()).then_some(index)
    }

    fn at(&self, index: usize) -> Entry {
        let Kept { lsn, checksum, before, extents_at, extents, inline, unread } =
            self.entries[index];
        let len = u32::try_from(self.before(index + 1) - before).expect("a value has a u32");
        Entry { lsn, checksum, len, inline, unread, extents, extents_at }
    }

    fn before(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(self.appended, |entry| entry.before)
    }

    /// Leaves the extents of `entry` in `out`.
    pub(crate) fn extents(&self, entry: Entry, out: &mut Vec<Extent>) {
        let start = entry.extents_at.wrapping_sub(self.extents_first) as usize;
        out.clear();
        out.extend(self.extents.range(start..start + usize::from(entry.extents)));
    }

    /// Returns the records with their sequence numbers.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, Entry)> + '_ {
        (self.first..).zip((self.dead..self.entries.len()).map(|index| self.at(index)))
    }
}

/// Bytes that the index takes for a record in one piece; while a log grows, up to twice as many.
pub const INDEX_BYTES_PER_RECORD: usize = size_of::<Kept>() + size_of::<Extent>();

#[expect(clippy::cast_possible_truncation, reason = "extent numbers wrap by design")]
const fn count(len: usize) -> u32 {
    len as u32
}

/// All logs, by name and by number.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    by_name: HashMap<Box<str>, u32>,
    logs: Vec<Log>,
    /// The log that was found last, by number: requests come in rows, and a hash that no peer can
    /// foresee takes longer than to compare a name.
    last: Cell<u32>,
}

impl Logs {
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let last = self.last.get();
        if self.logs.get(last as usize).is_some_and(|log| *log.name == *name) {
            return Some(last);
        }
        let found = self.by_name.get(name).copied();
        self.last.set(found.unwrap_or(last));
        found
    }

    pub(crate) fn len(&self) -> u32 {
        count(self.logs.len())
    }

    pub(crate) fn get(&self, log: u32) -> &Log {
        &self.logs[log as usize]
    }

    pub(crate) fn get_mut(&mut self, log: u32) -> &mut Log {
        &mut self.logs[log as usize]
    }

    /// Adds an empty log whose state stands in the record `lsn`.
    pub(crate) fn create(&mut self, name: &str, lsn: Lsn) -> u32 {
        let log = self.len();
        self.by_name.insert(name.into(), log);
        let (first, next) = (1, 1);
        let (state, changed) = (lsn, lsn);
        self.logs.push(Log { name: name.into(), first, next, state, changed, ..Log::default() });
        log
    }

    /// Recovery: takes logs by number; `None` if two have one name.
    pub(crate) fn from_logs(logs: Vec<Log>) -> Option<Self> {
        let by_name: HashMap<_, _> =
            (0..).zip(&logs).map(|(n, log)| (log.name.clone(), n)).collect();
        (by_name.len() == logs.len()).then_some(Self { by_name, logs, last: Cell::default() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log that was found last is looked at first: a name that is taken for its neighbour's is
    /// a record in another's log.
    #[test]
    fn many_logs_are_found_by_their_names_in_any_order() {
        let names: Vec<String> = (0..1000).map(|n| format!("log{n}")).collect();
        let mut logs = Logs::default();
        assert_eq!(logs.find("log0"), None);
        for (n, name) in (0..).zip(&names) {
            assert_eq!(logs.find(name), None, "{name} is not there yet");
            assert_eq!(logs.create(name, Lsn(1)), n);
            // The one that was found last is another than the one that was made last.
            assert_eq!(logs.find("log0"), Some(0));
            assert_eq!(logs.find(name), Some(n));
        }
        for step in [1, 7, 999] {
            for n in (0..1000).map(|n| n * step % 1000) {
                assert_eq!(logs.find(&names[n]), u32::try_from(n).ok());
                assert_eq!(logs.find(&names[n]), u32::try_from(n).ok(), "and once more");
                assert_eq!(logs.find("log"), None, "a part of a name is none");
            }
        }
        let again = Logs::from_logs(logs.logs.into_iter().rev().collect()).unwrap();
        assert_eq!((again.find("log0"), again.find("log999")), (Some(999), Some(0)));
    }
}
