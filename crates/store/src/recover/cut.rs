//! Where a damaged log is cut, and what is lost with that: for `repair`.
//!
//! The log ends before the first damage. What stands behind it is void as soon as the next epoch
//! starts there (D6). Two things of it are needed all the same. Reclamation appends a log's state
//! again before it frees the segment that it stood in, so the state of a log whose records are kept
//! may stand behind the cut; and the numbers that an empty log gives out go on where they were. So
//! such states are appended behind the cut, in a segment of their own that nothing else stands in:
//! the region changes from damaged to repaired when that segment's header is written, which is one
//! sector.

use std::collections::BTreeMap;

use impasto_region::{
    Extent, Frames, SegmentId, Span,
    layout::{BLOCK_BYTES, SEGMENT_BYTES, Superblock},
};

use super::{
    COUNTS_END, Corruption, Recovered, Recovery, Stage,
    survey::FoundWhat,
    walk::{Behind, Walk},
};
use crate::{
    FramesSink, Lsn, Store,
    format::{HEAD_BYTES, Record, RecordValue, extents, padded, records},
    store::extents_of,
};

/// What is lost by cutting a log.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The first lsn that is.
    pub first: Lsn,
    /// The last one that was acknowledged, or can still be read.
    pub last: Lsn,
    /// Records that can still be read, in their order.
    pub records: Vec<LostRecord>,
    /// Ranges of lsn, both ends included, of which nothing can be read.
    pub unreadable: Vec<(Lsn, Lsn)>,
    /// Segments of the log with the damage, or behind it.
    pub segments: Vec<SegmentId>,
}

/// A record that is lost by cutting the log, and can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRecord {
    /// Its lsn.
    pub lsn: Lsn,
    /// Number of its log.
    pub log: u32,
    /// What it says.
    pub what: FoundWhat,
    /// Where its value is, if it has one.
    pub extents: Vec<Extent>,
    /// The value's CRC-64/NVME.
    pub checksum: u64,
}

/// What has to be written to a region whose log was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// States that the rest of the log lacks.
    pub states: Option<States>,
    /// The superblock: written last.
    pub superblock: Superblock,
}

/// States to be appended: they stand in the frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States {
    /// Commits, durable before the header is written.
    pub commits: Vec<Span>,
    /// The header of their segment, durable before the superblock is written.
    pub header: Span,
}

/// Why the states of a cut log cannot be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unrepairable {
    /// They do not fit one segment.
    #[error("the states of {logs} logs would have to be written at once, more than fit a segment")]
    TooManyStates {
        /// Number of logs.
        logs: usize,
    },
    /// There is no segment for them.
    #[error("the region has no free segment for the states of its logs")]
    NoSegment,
}

/// What is known of a log from behind the cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) name: Option<Box<str>>,
    pub(super) next: u64,
}

/// What a recovery knows that has cut its log.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut {
    pub(super) known: BTreeMap<u32, Known>,
    /// The number of logs that the rest of the log names by number.
    pub(super) named: u32,
    /// Logs whose state has to be appended.
    pub(super) restate: Vec<u32>,
    /// Logs that have lost their names, by those that were made up for them.
    pub(super) renamed: Vec<Box<str>>,
    /// Segments in which something stands that is lost.
    occupied: Vec<SegmentId>,
}

/// Most bytes of states in one segment: two commits.
const STATES_BYTES_MAX: u64 = 900 << 10;

impl Recovery {
    /// Ends the log before its first damage, whatever was acknowledged, after
    /// [`step`](Self::step) has refused to: from here on it is as if it had said
    /// [`Step::Done`](super::Step::Done). Returns what is lost.
    ///
    /// # Errors
    /// [`Corruption`] that cutting does not end: what stands there was not damaged, but written by
    /// another version, or by mistake.
    pub fn cut(&mut self, frames: &Frames) -> Result<Lost, Corruption> {
        let superblock = self.superblock;
        let mut walk = Walk::new(&superblock, &self.heads, frames);
        walk.learn_first_commits(superblock.first_needed);
        let (mut commits, mut end) = walk.commits(superblock.first_needed)?;
        let attested = walk.attested(&commits, end, &self.suspects);
        let found = walk.epoch();
        let (epoch, runs) = walk.runs_behind(end, &self.suspects, found);
        if !runs.is_empty() {
            runs.iter().for_each(|commit| walk.learn(commit));
            (commits, end) = walk.commits(superblock.first_needed)?;
        }
        let mut lost = Lost {
            first: end.lsn,
            last: attested,
            records: Vec::new(),
            unreadable: Vec::new(),
            segments: Vec::new(),
        };
        if let Some(at) = end.at.checked_sub(BLOCK_BYTES) {
            lost.segments.extend(u32::try_from(at / SEGMENT_BYTES).map(SegmentId));
        }
        walk.each_behind(end, &self.suspects, &mut |behind| {
            if behind.is_of_a_repair(&self.suspects, found)
                || behind.commit.first_lsn.0 >= COUNTS_END
            {
                return;
            }
            let Behind { segment, at, commit, records: bytes } = behind;
            lost.segments.push(segment);
            for (lsn, record) in (commit.first_lsn.0..).zip(records(bytes)) {
                let Ok(record) = record else { break };
                lost.records.push(LostRecord::new(Lsn(lsn), record, at));
            }
        });
        lost.segments.sort_unstable();
        lost.segments.dedup();
        lost.sort();
        let heads = self.heads.iter().map(|head| head.segment);
        let values = lost.records.iter().flat_map(|record| &record.extents);
        let values = values.map(|extent| extent.buf.segment());
        let occupied = heads.chain(self.suspects.iter().copied()).chain(values).collect();
        self.cut = Some(Cut {
            known: lost.known(),
            named: 0,
            restate: Vec::new(),
            renamed: Vec::new(),
            occupied,
        });
        // The newer superblock may be lost, and be of one run more, of which nothing is seen here.
        (self.superblock.epoch, self.epochs_skipped) = (epoch, 1);
        self.segments = walk.segments(end);
        self.unwitnessed = commits.len();
        (self.attested, self.commits, self.end) = (Lsn(end.lsn.0 - 1), commits, end);
        self.stage = Stage::Done;
        Ok(lost)
    }
}

impl Lost {
    /// Brings the records in order, and finds what is missing between them.
    fn sort(&mut self) {
        self.records.retain(|record| record.lsn >= self.first);
        self.records.sort_unstable_by_key(|record| record.lsn);
        self.records.dedup_by_key(|record| record.lsn);
        let mut next = self.first;
        for record in &self.records {
            if record.lsn > next {
                self.unreadable.push((next, Lsn(record.lsn.0 - 1)));
            }
            next = Lsn(record.lsn.0 + 1);
        }
        if next <= self.last {
            self.unreadable.push((next, self.last));
        }
        self.last = self.last.max(Lsn(next.0 - 1));
    }

    fn known(&self) -> BTreeMap<u32, Known> {
        let mut logs: BTreeMap<u32, Known> = BTreeMap::new();
        for record in &self.records {
            let known = logs.entry(record.log).or_default();
            let next = match &record.what {
                FoundWhat::State { name, next, .. } => {
                    known.name = Some(name.clone());
                    *next
                }
                FoundWhat::Append { seq, .. } => seq.saturating_add(1),
                FoundWhat::Trim { first } => *first,
            };
            known.next = known.next.max(next);
        }
        logs
    }
}

impl LostRecord {
    /// `base`: where the records of its commit start in the region.
    fn new(lsn: Lsn, record: Record<'_>, base: u64) -> Self {
        let (extents, checksum) = match record {
            Record::Append { checksum, len, value, .. } => match value {
                RecordValue::Inline { at } => {
                    (extents_of(Span::new(base + at, u64::from(len))).collect(), checksum)
                }
                RecordValue::Kept(list) => (extents(list).collect(), checksum),
            },
            _ => (Vec::new(), 0),
        };
        let (log, what) = FoundWhat::of(record);
        Self { lsn, log, what, extents, checksum }
    }
}

impl Recovered {
    /// Returns the name of a lost record's log, if it is known.
    pub fn log_of(&self, lost: &LostRecord) -> Option<&str> {
        let cut = self.cut.as_ref()?;
        if lost.log < cut.named {
            return self.logs().nth(lost.log as usize).map(|(name, _)| name);
        }
        cut.known.get(&lost.log)?.name.as_deref()
    }

    /// Returns the names that were made up for logs whose own are lost.
    pub fn names_made_up(&self) -> impl Iterator<Item = &str> {
        self.cut.iter().flat_map(|cut| &cut.renamed).map(|name| &**name)
    }

    /// Returns how many states of logs a repair appends.
    pub fn states_to_append(&self) -> usize {
        self.cut.as_ref().map_or(0, |cut| cut.restate.len())
    }

    /// Makes what has to be written to the region, after [`Recovery::cut`], and leaves it in its
    /// frames.
    ///
    /// # Errors
    /// [`Unrepairable`], and nothing is to be written.
    ///
    /// # Durability
    /// None: the caller writes [`Repair`] in its order, each part durable before the next. A crash
    /// in between leaves a region that is damaged as before, or repaired.
    pub fn into_repair(mut self, frames: &mut Frames) -> Result<Repair, Unrepairable> {
        let cut = self.cut.take().unwrap_or_default();
        let mut superblock = self.superblock;
        superblock.clean = true;
        if cut.restate.is_empty() {
            return Ok(Repair { states: None, superblock });
        }
        let names = self.logs().map(|(name, _)| name.len()).collect::<Vec<_>>();
        let bytes = cut.restate.iter().map(|&log| HEAD_BYTES + names[log as usize]);
        if bytes.map(|bytes| padded(bytes as u64)).sum::<u64>() > STATES_BYTES_MAX {
            return Err(Unrepairable::TooManyStates { logs: cut.restate.len() });
        }
        let mut store = self.into_store();
        let spans = store.restate(&cut, frames).ok_or(Unrepairable::NoSegment)?;
        superblock.durable_lsn = store.last_lsn().0;
        let head = Span::new(spans[0].at, BLOCK_BYTES);
        let first = Span::new(head.end(), spans[0].len - BLOCK_BYTES);
        let commits = [first].into_iter().chain(spans[1..].iter().copied()).collect();
        Ok(Repair { states: Some(States { commits, header: head }), superblock })
    }
}

impl Store {
    /// Appends the states of logs in a segment of its own, and returns its commits; `None` if there
    /// is no such segment.
    fn restate(&mut self, cut: &Cut, frames: &mut Frames) -> Option<Vec<Span>> {
        // What is lost is still there if the repair does not come to its end.
        let mut spared: Vec<_> = cut.occupied.clone();
        spared.retain(|&segment| self.space.claim_log(segment));
        while !self.space.has_segment() {
            self.space.give_log(spared.pop()?);
        }
        self.tail.end_segment();
        let mut sink = FramesSink::new(frames, &[]);
        let mut spans = Vec::new();
        for &log in &cut.restate {
            while self.move_state(log, &mut sink).is_none() {
                spans.push(self.seal(&mut sink)?.span);
            }
        }
        spans.push(self.seal(&mut sink)?.span);
        Some(spans)
    }
}
