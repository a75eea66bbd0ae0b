//! The index: named logs, and where their records are. Derived from the log (D5).

use std::collections::{HashMap, VecDeque};

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

/// A named log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) name: Box<str>,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// Bytes of the values.
    pub(crate) bytes: u64,
    /// The newest record that is about this log.
    pub(crate) changed: Lsn,
    /// The record that holds its name, `first` and `next`; re-appended before its segment is
    /// freed.
    pub(crate) state: Lsn,
    /// The trim after `state`, if there is one.
    pub(crate) trim: Option<Lsn>,
    entries: VecDeque<Entry>,
    /// Extents of the entries, in their order.
    extents: VecDeque<Extent>,
    /// Number of the first of `extents`.
    extents_first: u32,
}

impl Log {
    pub(crate) fn info(&self) -> LogInfo {
        let records = self.next - self.first;
        LogInfo { first: self.first, next: self.next, records, bytes: self.bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Appends the record `next`.
    pub(crate) fn push(&mut self, mut entry: Entry, extents: impl Iterator<Item = Extent>) {
        let before = self.extents.len();
        entry.extents_at = self.extents_first.wrapping_add(count(before));
        self.extents.extend(extents);
        entry.extents = u16::try_from(self.extents.len() - before).expect("at most 1,024");
        self.bytes += u64::from(entry.len);
        self.changed = entry.lsn;
        self.next += 1;
        self.entries.push_back(entry);
    }

    /// Removes the record `first`, and leaves its extents in `out`.
    pub(crate) fn pop(&mut self, out: &mut Vec<Extent>) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        out.clear();
        out.extend(self.extents.drain(..usize::from(entry.extents)));
        self.extents_first = self.extents_first.wrapping_add(u32::from(entry.extents));
        self.bytes -= u64::from(entry.len);
        self.first += 1;
        Some(entry)
    }

    /// Returns the record `seq`, if it is there.
    pub(crate) fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// Leaves the extents of `entry` in `out`.
    pub(crate) fn extents(&self, entry: Entry, out: &mut Vec<Extent>) {
        let start = entry.extents_at.wrapping_sub(self.extents_first) as usize;
        out.clear();
        out.extend(self.extents.range(start..start + usize::from(entry.extents)));
    }

    /// Returns the records with their sequence numbers.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, Entry)> + '_ {
        (self.first..).zip(self.entries.iter().copied())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "extent numbers wrap by design")]
const fn count(len: usize) -> u32 {
    len as u32
}

/// All logs, by name and by number.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    by_name: HashMap<Box<str>, u32>,
    logs: Vec<Log>,
}

impl Logs {
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
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
        (by_name.len() == logs.len()).then_some(Self { by_name, logs })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter()
    }
}
