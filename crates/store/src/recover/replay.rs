//! Records applied again, in lsn order.

use std::collections::{BTreeSet, VecDeque};

use impasto_region::{
    BufId, Extent, Frames, Span,
    layout::{Geometry, Superblock},
};

use super::{
    COUNTS_END, Corruption, StoredValue,
    cut::{Cut, Known},
    walk::FoundCommit,
};
use crate::{
    LogInfo, Lsn, Store,
    flight::Flight,
    format::{LogOffset, Record, RecordValue, SegmentHeader, extents, padded, records},
    logs::{Entry, Log, Logs},
    reclaim::Reclaim,
    reserve::{Bodies, drain_promise},
    space::Space,
    store::extents_of,
    tail::{Segment, Tail, Writer},
};

/// The logs as far as they are replayed.
///
/// The oldest segments are gone with records that are dead, so a log may first be seen in the
/// middle, and have holes there. That all of them are dead shows at the end: what is left starts
/// where the last trim or state says.
#[derive(Debug)]
pub(super) struct Replay {
    logs: Vec<Seen>,
    logs_lsn: Lsn,
    scratch: Vec<Extent>,
}

#[derive(Debug, Default)]
struct Seen {
    log: Log,
    /// The highest `first` that a trim or a state says.
    first: u64,
    named: bool,
}

impl Seen {
    /// The record `next` comes next. Those before it that were not seen are dead.
    fn skip_to(&mut self, next: u64) -> Result<(), &'static str> {
        if !(1..COUNTS_END).contains(&next) {
            return Err("the sequence number is out of range");
        }
        let log = &mut self.log;
        if log.first == log.next && next >= log.next {
            (log.first, log.next) = (next, next);
        }
        if log.next == next { Ok(()) } else { Err("the sequence number is not the next one") }
    }

    /// Records below `first` are dead.
    fn drop_below(&mut self, first: u64, scratch: &mut Vec<Extent>) -> Result<(), &'static str> {
        self.first = self.first.max(first);
        self.log.kill_below(first);
        while self.log.pop_dead(scratch).is_some() {}
        if self.log.next < first { self.skip_to(first) } else { Ok(()) }
    }
}

impl Seen {
    /// Returns true if the log has no record, or none that says all, of the state it has now.
    fn complete(&mut self, known: Option<&Known>, unused: impl FnOnce() -> Box<str>) -> bool {
        let Self { log, first, named } = self;
        let mut changed = !*named || log.first != *first;
        if !*named {
            let name = known.and_then(|known| known.name.clone());
            log.name = name.unwrap_or_else(unused);
        }
        let next = known.map_or(1, |known| known.next).clamp(1, COUNTS_END - 1);
        if log.is_empty() && next > log.next {
            (log.first, log.next, changed) = (next, next, true);
        }
        (*named, *first) = (true, log.first);
        changed
    }
}

fn unused_name(id: u32, in_use: &BTreeSet<Box<str>>) -> Box<str> {
    let names = (0..).map(|n| match n {
        0 => format!("lost-log-{id}"),
        n => format!("lost-log-{id}-{n}"),
    });
    let mut names = names.map(String::into_boxed_str).filter(|name| !in_use.contains(name));
    names.next().expect("there are more names than logs")
}

impl Replay {
    pub(super) fn new() -> Self {
        Self { logs: Vec::new(), logs_lsn: Lsn(0), scratch: Vec::new() }
    }

    pub(super) fn commit(
        &mut self,
        commit: &FoundCommit,
        frames: &Frames,
    ) -> Result<(), Corruption> {
        let mut lsn = commit.first_lsn;
        for record in records(commit.records(frames)) {
            let record = record.map_err(|error| Corruption::Record { lsn, error })?;
            let result = self.record(lsn, record, commit.records_span().at);
            result.map_err(|what| Corruption::Contradiction { lsn, what })?;
            lsn.0 += 1;
        }
        Ok(())
    }

    /// `base`: where the records of the commit start in the region.
    fn record(&mut self, lsn: Lsn, record: Record<'_>, base: u64) -> Result<(), &'static str> {
        match record {
            Record::Log { log, first, next, name } => {
                self.logs_lsn = lsn;
                self.state(log, first, next, name, lsn)
            }
            Record::Append { log, seq, checksum, len, value } => {
                let seen = self.seen(log);
                seen.skip_to(seq)?;
                match value {
                    RecordValue::Inline { at } => {
                        let entry = Entry::new(lsn, checksum, len, true, false);
                        let span = Span::new(base + at, u64::from(len));
                        seen.log.push(entry, extents_of(span));
                    }
                    RecordValue::Kept(list) => {
                        let entry = Entry::new(lsn, checksum, len, false, true);
                        seen.log.push(entry, extents(list));
                    }
                }
                Ok(())
            }
            Record::Trim { log, first } => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let seen = self.seen(log);
                (seen.log.trim, seen.log.changed) = (Some(lsn), lsn);
                seen.drop_below(first, &mut scratch)?;
                self.scratch = scratch;
                Ok(())
            }
        }
    }

    fn state(
        &mut self,
        log: u32,
        first: u64,
        next: u64,
        name: &str,
        lsn: Lsn,
    ) -> Result<(), &'static str> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !name.bytes().all(is_of_name) {
            return Err("a log's name has other characters than names have");
        }
        if first > next {
            return Err("a log starts behind its end");
        }
        let seen = self.seen(log);
        if seen.named && *seen.log.name != *name {
            return Err("a log changes its name");
        }
        seen.skip_to(next)?;
        seen.drop_below(first, &mut scratch)?;
        seen.named = true;
        seen.log.name = name.into();
        (seen.log.state, seen.log.trim, seen.log.changed) = (lsn, None, lsn);
        self.scratch = scratch;
        Ok(())
    }

    fn seen(&mut self, log: u32) -> &mut Seen {
        let index = log as usize;
        if index >= self.logs.len() {
            self.logs.resize_with(index + 1, Seen::default);
        }
        &mut self.logs[index]
    }

    /// Gives logs that were cut a name and a start if these stood behind the cut, and empty ones
    /// the next number that is known. The log lacks the states of those that change.
    pub(super) fn complete(&mut self, cut: &mut Cut) {
        let known = &cut.known;
        let in_use: BTreeSet<_> = self.logs.iter().map(|seen| seen.log.name.clone()).collect();
        // A log of which nothing is left may get another number: no record names it.
        let here = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
        let gone = known.range(here..).map(|(_, known)| known);
        let gone: Vec<_> = gone.filter(|known| known.name.is_some()).collect();
        self.logs.resize_with(self.logs.len() + gone.len(), Seen::default);
        cut.named = here;
        for (id, seen) in (0..).zip(&mut self.logs) {
            let known =
                if id < here { known.get(&id) } else { gone.get((id - here) as usize).copied() };
            let renamed = &mut cut.renamed;
            let made_up = || {
                let name = unused_name(id, &in_use);
                renamed.push(name.clone());
                name
            };
            if seen.complete(known, made_up) {
                cut.restate.push(id);
            }
        }
    }

    /// Derives space and counters from what is live (D5). `end` is the next lsn.
    pub(super) fn finish(
        self,
        heads: &[SegmentHeader],
        geometry: Geometry,
        end: Lsn,
    ) -> Result<Parts, Corruption> {
        let bad = |what| Corruption::Contradiction { lsn: Lsn(end.0 - 1), what };
        if self.logs.iter().any(|seen| !seen.named) {
            return Err(bad("a log has records and no name"));
        }
        if self.logs.iter().any(|seen| seen.log.first != seen.first) {
            return Err(bad("a log lacks records that were not trimmed"));
        }
        let logs = self.logs.into_iter().map(|seen| seen.log).collect();
        let logs = Logs::from_logs(logs).ok_or_else(|| bad("two logs have one name"))?;
        let mut parts = Parts {
            logs,
            logs_lsn: self.logs_lsn,
            space: Space::new(geometry, Lsn(end.0 - 1)),
            segments: heads.iter().map(|head| Segment::new(head.segment, head.first_lsn)).collect(),
            reclaim: Reclaim::default(),
            next_lsn: end,
        };
        if !heads.iter().all(|head| parts.space.claim_log(head.segment)) {
            return Err(bad("two parts of the log stand in one segment"));
        }
        parts.count().map_err(bad)?;
        Ok(parts)
    }
}

/// What a store is made of.
#[derive(Debug)]
pub(super) struct Parts {
    logs: Logs,
    logs_lsn: Lsn,
    space: Space,
    segments: VecDeque<Segment>,
    reclaim: Reclaim,
    next_lsn: Lsn,
}

impl Parts {
    fn count(&mut self) -> Result<(), &'static str> {
        let mut extents = Vec::new();
        for log in self.logs.iter() {
            let name_bytes = log.name.len();
            self.reclaim.state_added((crate::format::HEAD_BYTES + name_bytes) as u64);
            // The state of a log that was cut is still to be appended.
            if log.state > Lsn(0) {
                segment_of(&mut self.segments, log.state)?.state += 1;
            }
            if let Some(trim) = log.trim {
                self.reclaim.state_added(padded(crate::format::TRIM_BYTES as u64));
                segment_of(&mut self.segments, trim)?.state += 1;
            }
            for (_, entry) in log.entries() {
                segment_of(&mut self.segments, entry.lsn)?.live += 1;
                self.reclaim.append_added(entry.record_bytes());
                log.extents(entry, &mut extents);
                if !entry.inline && !extents.iter().all(|&extent| self.space.claim(extent)) {
                    return Err("a value is kept where there is none");
                }
            }
        }
        Ok(())
    }

    pub(super) fn used_bufs(&self) -> impl Iterator<Item = BufId> {
        self.space.used_bufs()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = StoredValue<'_>> {
        self.logs.iter().flat_map(|log| {
            log.entries().map(move |(seq, entry)| {
                let mut extents = Vec::new();
                log.extents(entry, &mut extents);
                let (checksum, loaded) = (entry.checksum, !entry.unread);
                StoredValue { log: &log.name, seq, checksum, extents, loaded }
            })
        })
    }

    pub(super) fn logs(&self) -> impl Iterator<Item = (&str, LogInfo)> {
        self.logs.iter().map(|log| (&*log.name, log.info()))
    }

    pub(super) fn into_store(self, superblock: Superblock, at: LogOffset) -> Store {
        let writer = Writer {
            uuid: superblock.uuid.into_bytes(),
            align: superblock.commit_align,
            epoch: superblock.epoch,
            start_lsn: Lsn(superblock.start_lsn),
            start_offset: LogOffset(superblock.start_offset),
        };
        let first_needed = superblock.first_needed;
        let mut tail = Tail::new(writer, self.next_lsn, at, first_needed, self.segments);
        let filled = self.logs.iter().filter(|log| !log.is_empty()).count() as u64;
        tail.promise(filled * drain_promise(&tail));
        Store {
            superblock,
            superblock_in_flight: false,
            read_only: false,
            logs: self.logs,
            logs_lsn: self.logs_lsn,
            space: self.space,
            tail,
            flight: Flight::new(Lsn(self.next_lsn.0 - 1)),
            reclaim: self.reclaim,
            bodies: Bodies::default(),
            kept_open: Vec::new(),
            kept_sealed: Vec::new(),
            found: Vec::new(),
        }
    }
}

fn segment_of(segments: &mut VecDeque<Segment>, lsn: Lsn) -> Result<&mut Segment, &'static str> {
    let behind = segments.partition_point(|segment| segment.first_lsn <= lsn);
    let segment = behind.checked_sub(1).and_then(|index| segments.get_mut(index));
    segment.ok_or("a live record stands in no segment of the log")
}
