//! What recovery has found, for people: the log's segments and its newest records.

use impasto_region::{Frames, SegmentId};

use super::{Recovered, Recovery, Stage};
use crate::{
    LogInfo, Lsn,
    format::{Record, RecordValue, extents, records},
};

/// The log as it was found.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Its segments, the oldest first.
    pub segments: Vec<LogSegment>,
    /// The newest records, the newest first.
    pub recent: Vec<FoundRecord>,
    /// The lsn that the next record gets.
    pub next_lsn: Lsn,
    /// The log offset at which it ends.
    pub end_offset: u64,
}

/// A segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSegment {
    /// Its place in the region.
    pub segment: SegmentId,
    /// Its place in the log.
    pub chain: u64,
    /// The run that began it.
    pub epoch: u64,
    /// Lsn of the first record in it.
    pub first_lsn: Lsn,
    /// Number of commits.
    pub commits: u64,
    /// Number of their records, live or not.
    pub records: u64,
    /// Bytes of the commits, without what fills them up to whole blocks or lines.
    pub bytes: u64,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// Its lsn.
    pub lsn: Lsn,
    /// Number of its log, an index of [`Recovered::logs`].
    pub log: u32,
    /// What it says.
    pub what: FoundWhat,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundWhat {
    /// A log of that name starts, or has these records.
    State {
        /// Its name.
        name: Box<str>,
        /// Its first sequence number.
        first: u64,
        /// The one that comes next.
        next: u64,
    },
    /// A value was appended.
    Append {
        /// Its sequence number.
        seq: u64,
        /// Its length.
        bytes: u32,
        /// The number of extents that it stands in; 0 if it stands in the record.
        extents: usize,
    },
    /// Records below `first` were trimmed.
    Trim {
        /// The first sequence number that stayed.
        first: u64,
    },
}

impl FoundWhat {
    pub(super) fn of(record: Record<'_>) -> (u32, Self) {
        match record {
            Record::Log { log, first, next, name } => {
                (log, Self::State { name: name.into(), first, next })
            }
            Record::Append { log, seq, len, value, .. } => {
                let extents = match value {
                    RecordValue::Inline { .. } => 0,
                    RecordValue::Kept(list) => extents(list).count(),
                };
                (log, Self::Append { seq, bytes: len, extents })
            }
            Record::Trim { log, first } => (log, Self::Trim { first }),
        }
    }
}

impl Recovery {
    /// Describes the log and its newest `recent` records.
    ///
    /// # Panics
    /// If [`step`](Self::step) has not said [`Step::Done`](super::Step::Done).
    pub fn survey(&self, frames: &Frames, recent: usize) -> Survey {
        assert!(matches!(self.stage, Stage::Done), "recovery is done");
        let mut segments: Vec<_> = self
            .segments
            .iter()
            .map(|head| LogSegment {
                segment: head.segment,
                chain: head.chain,
                epoch: head.epoch,
                first_lsn: head.first_lsn,
                commits: 0,
                records: 0,
                bytes: 0,
            })
            .collect();
        for commit in &self.commits {
            let chain = commit.offset.chain();
            let behind = segments.partition_point(|segment| segment.chain < chain);
            let segment = segments.get_mut(behind).expect("a commit stands in a segment");
            segment.commits += 1;
            segment.records += commit.last_lsn.0 + 1 - commit.first_lsn.0;
            segment.bytes += commit.span().len;
        }
        Survey {
            segments,
            recent: self.recent(frames, recent),
            next_lsn: self.end.lsn,
            end_offset: self.end.offset.0,
        }
    }

    fn recent(&self, frames: &Frames, count: usize) -> Vec<FoundRecord> {
        let mut newest = Vec::new();
        for commit in self.commits.iter().rev() {
            if newest.len() >= count {
                break;
            }
            let found = records(commit.records(frames)).flatten();
            let mut found: Vec<_> = (commit.first_lsn.0..)
                .zip(found)
                .map(|(lsn, record)| {
                    let (log, what) = FoundWhat::of(record);
                    FoundRecord { lsn: Lsn(lsn), log, what }
                })
                .collect();
            found.reverse();
            newest.append(&mut found);
        }
        newest.truncate(count);
        newest
    }
}

impl Recovered {
    /// Returns the named logs, in the order of their numbers.
    pub fn logs(&self) -> impl Iterator<Item = (&str, LogInfo)> {
        self.parts.logs()
    }
}
