//! Recovery: from what stands on the medium to the state at the last acknowledgement, or later (D2,
//! D5, D6).
//!
//! It asks for reads and looks at frames, and does nothing else, so crashing in it and starting
//! again gives the same (D6). The steps are those of docs/format.md, "What recovery makes of it".

mod cut;
mod rebuild;
mod replay;
mod survey;
mod walk;

use std::collections::HashMap;

use impasto_region::{
    BufId, Checksum, Extent, Frames, SegmentId, Span,
    layout::{BLOCK_BYTES, Geometry, MediumKind, SEGMENT_BYTES, Superblock},
};

use crate::{
    BadRecord, Lsn, Store,
    format::{
        CommitHeader, FIRST_POSITION, LogOffset, Record, RecordValue, SegmentHeader, extents,
        records,
    },
};
use cut::Cut;
pub use cut::{Lost, LostRecord, Repair, States, Unrepairable};
pub use rebuild::{Rebuild, Rebuilt};
use replay::Replay;
pub use survey::{FoundRecord, FoundWhat, LogSegment, Survey};
use walk::{FoundCommit, Walk};

/// Segments whose heads are asked for in one step.
const HEADS_PER_STEP: u32 = 128;
/// Header of the segment, and the first block of its first commit.
const HEAD_BYTES: u64 = 2 * BLOCK_BYTES;
/// Chain numbers end below it: log offsets have 64 bits.
const CHAINS_END: u64 = u64::MAX / SEGMENT_BYTES;
/// No lsn and no epoch gets there by counting: one that is there was not written by a log.
const COUNTS_END: u64 = 1 << 62;

/// Why a region is not opened: it does not hold what was acknowledged, or nobody here can read it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// Acknowledged records are missing.
    #[error(
        "records {lsn} to {attested} were acknowledged as durable, but the commit at byte {at:#x} \
         of the region (log offset {offset:#x}) is damaged"
    )]
    Missing {
        /// The first that is missing.
        lsn: Lsn,
        /// The last that a witness names.
        attested: Lsn,
        /// Where its commit should stand in the log.
        offset: u64,
        /// Where that is in the region.
        at: u64,
    },
    /// A segment that holds acknowledged records is missing.
    #[error(
        "records {lsn} to {attested} were acknowledged as durable, but segment {chain} of the log \
         is missing: its header is damaged"
    )]
    MissingSegment {
        /// The first that is missing.
        lsn: Lsn,
        /// The last that a witness names.
        attested: Lsn,
        /// The segment's chain number.
        chain: u64,
    },
    /// A valid commit does not continue the log.
    #[error("the commit at log offset {offset:#x} starts with record {found}, not with {expected}")]
    Order {
        /// Where it stands in the log.
        offset: u64,
        /// Lsn of its first record.
        found: Lsn,
        /// The lsn that follows the one before.
        expected: Lsn,
    },
    /// A record of a valid commit cannot be read.
    #[error("record {lsn}: {error}")]
    Record {
        /// Its lsn.
        lsn: Lsn,
        /// What is wrong with it.
        error: BadRecord,
    },
    /// A record does not fit what stands before it.
    #[error("record {lsn} contradicts the log before it: {what}")]
    Contradiction {
        /// Its lsn.
        lsn: Lsn,
        /// What does not fit.
        what: &'static str,
    },
}

/// What recovery wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bring these spans into their frames, then step again. What cannot be read reads as zeroes.
    Read(Vec<Span>),
    /// Nothing: [`Recovery::finish`].
    Done,
}

#[derive(Debug)]
enum Stage {
    Start,
    /// Heads of the segments from `asked` on are in their frames.
    Heads {
        asked: u32,
    },
    /// All log segments are.
    Logs,
    /// The values of commits without a witness are.
    Values,
    Done,
}

/// Recovery under way.
#[derive(Debug)]
pub struct Recovery {
    superblock: Superblock,
    stage: Stage,
    /// Valid segment headers, later sorted by chain number and epoch.
    heads: Vec<SegmentHeader>,
    /// Those of the log, the oldest first.
    segments: Vec<SegmentHeader>,
    /// Segments without a valid header whose second block looks like a first commit.
    suspects: Vec<SegmentId>,
    commits: Vec<FoundCommit>,
    end: walk::End,
    /// The highest lsn that has a witness.
    attested: Lsn,
    /// Index of the first commit without a witness.
    unwitnessed: usize,
    /// Epochs that may have been given out without a trace.
    epochs_skipped: u64,
    /// Set if the log was cut.
    cut: Option<Cut>,
}

impl Recovery {
    /// Starts from the region's superblock.
    pub fn new(superblock: Superblock) -> Self {
        Self {
            superblock,
            stage: Stage::Start,
            heads: Vec::new(),
            segments: Vec::new(),
            suspects: Vec::new(),
            commits: Vec::new(),
            end: walk::End::default(),
            attested: Lsn(0),
            unwitnessed: 0,
            epochs_skipped: 0,
            cut: None,
        }
    }

    /// Says on which medium the region is served next, if not on that of the last run: the log then
    /// goes on in a new segment, if the medium wants commits aligned otherwise.
    #[must_use]
    pub fn on(mut self, medium: MediumKind) -> Self {
        self.superblock.medium = medium;
        self.superblock.commit_align = medium.commit_align();
        self
    }

    /// Says that the other superblock is damaged. It may have been the newer one, of a run of which
    /// nothing else is seen: so its epoch is not given out again (D6).
    #[must_use]
    pub fn beside_damage(mut self) -> Self {
        self.epochs_skipped = 1;
        self
    }

    /// Returns the superblock that it started from.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Goes on as far as the frames that are there allow.
    ///
    /// # Errors
    /// [`Corruption`]: the region must not be served.
    pub fn step(&mut self, frames: &Frames) -> Result<Step, Corruption> {
        loop {
            let spans = match self.stage {
                Stage::Start => self.ask_heads(0),
                Stage::Heads { asked } => {
                    let next = self.take_heads(asked, frames);
                    if next < self.geometry().segments() {
                        self.ask_heads(next)
                    } else {
                        self.heads.sort_unstable_by_key(|head| (head.chain, head.epoch));
                        self.stage = Stage::Logs;
                        self.log_segments()
                    }
                }
                Stage::Logs => {
                    self.walk(frames)?;
                    self.stage = Stage::Values;
                    self.unwitnessed_values(frames)
                }
                Stage::Values => {
                    self.drop_unverified(frames);
                    self.stage = Stage::Done;
                    continue;
                }
                Stage::Done => return Ok(Step::Done),
            };
            if !spans.is_empty() {
                return Ok(Step::Read(spans));
            }
        }
    }

    fn geometry(&self) -> Geometry {
        self.superblock.geometry
    }

    fn heads_of_step(&self, from: u32) -> impl Iterator<Item = SegmentId> + use<> {
        let to = self.geometry().segments().min(from + HEADS_PER_STEP);
        (from..to).map(SegmentId)
    }

    fn ask_heads(&mut self, from: u32) -> Vec<Span> {
        self.stage = Stage::Heads { asked: from };
        self.heads_of_step(from).map(|segment| Span::new(segment.start(), HEAD_BYTES)).collect()
    }

    /// Looks at the heads asked for, and returns the first segment behind them.
    fn take_heads(&mut self, from: u32, frames: &Frames) -> u32 {
        let uuid = self.superblock.uuid.into_bytes();
        for segment in self.heads_of_step(from) {
            let head = frames.bytes(Span::new(segment.start(), HEAD_BYTES));
            let (first, second) = head.split_at(head.len() / 2);
            if let Some(header) = SegmentHeader::decode(first, uuid, segment).filter(counts) {
                self.heads.push(header);
            } else if CommitHeader::peek(second).is_some_and(|commit| {
                commit.offset.position() == FIRST_POSITION && commit.offset.chain() >= 1
            }) {
                self.suspects.push(segment);
            }
        }
        self.geometry().segments().min(from + HEADS_PER_STEP)
    }

    /// Returns the segments that the log may stand in.
    fn log_segments(&self) -> Vec<Span> {
        let needed = self.first_needed();
        let heads = self.heads.iter().filter(|head| head.chain >= needed).map(|head| head.segment);
        let segments = heads.chain(self.suspects.iter().copied());
        segments.map(|segment| self.geometry().segment(segment)).collect()
    }

    /// A header is durable only after what it says of `first_needed` became true.
    fn first_needed(&self) -> u64 {
        let heads = self.heads.iter().map(|head| head.first_needed);
        heads.fold(self.superblock.first_needed, u64::max)
    }

    fn walk(&mut self, frames: &Frames) -> Result<(), Corruption> {
        let needed = self.first_needed();
        self.superblock.first_needed = needed;
        let superblock = self.superblock;
        let counts = [superblock.epoch, superblock.generation].iter().all(|&n| n < COUNTS_END);
        if needed >= CHAINS_END || !counts {
            let (lsn, what) = (Lsn(superblock.start_lsn), "the superblock is out of range");
            return Err(Corruption::Contradiction { lsn, what });
        }
        let mut walk = Walk::new(&superblock, &self.heads, frames);
        walk.learn_first_commits(needed);
        let (commits, end) = walk.commits(needed)?;
        let attested = walk.attested(&commits, end, &self.suspects);
        if attested >= end.lsn {
            let (lsn, offset, chain) = (end.lsn, end.offset.0, end.offset.chain());
            return Err(match end.at {
                0 => Corruption::MissingSegment { lsn, attested, chain },
                at => Corruption::Missing { lsn, attested, offset, at },
            });
        }
        let segments = walk.segments(end);
        self.superblock.epoch = walk.epoch();
        self.segments = segments;
        self.unwitnessed = commits.partition_point(|commit| commit.last_lsn <= attested);
        (self.commits, self.end, self.attested) = (commits, end, attested);
        Ok(())
    }

    /// Returns the values that commits without a witness keep, as whole blocks.
    fn unwitnessed_values(&self, frames: &Frames) -> Vec<Span> {
        let commits = &self.commits[self.unwitnessed..];
        let kept = commits.iter().flat_map(|commit| kept_of(commit, frames));
        let inside = self.geometry().bufs();
        let inside = kept.filter(|extent| extent.buf.0 < inside);
        inside.map(|extent| blocks(extent.span())).collect()
    }

    /// D2: the log ends before the first commit that nobody bears witness for and whose values do
    /// not verify.
    fn drop_unverified(&mut self, frames: &Frames) {
        // What the trims of a commit that was dropped had killed is looked at again.
        while let Some(index) = self.first_unverified(frames) {
            self.end = self.commits[index].start();
            self.commits.truncate(index);
        }
        self.segments.retain(|head| head.chain <= self.end.offset.chain());
    }

    /// Values that a later trim killed do not count: as soon as that was durable, and nobody need
    /// have borne witness for it, their bytes were free to be written over (D4).
    fn first_unverified(&self, frames: &Frames) -> Option<usize> {
        let rest = &self.commits[self.unwitnessed..];
        let mut firsts: HashMap<u32, u64> = HashMap::new();
        for record in rest.iter().flat_map(|commit| records(commit.records(frames)).flatten()) {
            if let Record::Log { log, first, .. } | Record::Trim { log, first } = record {
                let highest = firsts.entry(log).or_default();
                *highest = first.max(*highest);
            }
        }
        let bufs = self.geometry().bufs();
        let verifies = |record| match record {
            Record::Append { log, seq, checksum, value: RecordValue::Kept(list), .. } => {
                firsts.get(&log).is_some_and(|&first| seq < first)
                    || extents(list).all(|extent| extent.buf.0 < bufs)
                        && checksum_of(extents(list), frames) == checksum
            }
            _ => true,
        };
        let verifies =
            |commit: &FoundCommit| records(commit.records(frames)).flatten().all(verifies);
        let index = rest.iter().position(|commit| !verifies(commit))?;
        Some(self.unwitnessed + index)
    }

    /// Returns the blocks of commits without a witness and of what they keep, and the segment
    /// headers of such: all that is acknowledged later in these segments hangs on them.
    fn unwitnessed(&self, frames: &Frames) -> Vec<Span> {
        let bufs = self.geometry().bufs();
        let heads = self.segments.iter().filter(|head| head.first_lsn > self.attested);
        let heads = heads.map(|head| Span::new(head.segment.start(), BLOCK_BYTES));
        let commits = &self.commits[self.unwitnessed..];
        let commits = commits.iter().flat_map(|commit| {
            let kept = kept_of(commit, frames).filter(|extent| extent.buf.0 < bufs);
            kept.map(Extent::span).chain([commit.span()]).map(blocks)
        });
        heads.chain(commits).collect()
    }

    /// Rebuilds the state from the log alone (D5).
    ///
    /// # Errors
    /// [`Corruption`]: the region must not be served.
    ///
    /// # Panics
    /// If [`step`](Self::step) has not said [`Step::Done`].
    pub fn finish(mut self, frames: &Frames) -> Result<Recovered, Corruption> {
        assert!(matches!(self.stage, Stage::Done), "recovery is done");
        let mut replay = Replay::new();
        for commit in &self.commits {
            replay.commit(commit, frames)?;
        }
        if let Some(cut) = &mut self.cut {
            replay.complete(cut);
        }
        let unwitnessed = self.unwitnessed(frames);
        self.superblock.generation += 1;
        self.superblock.epoch += 1 + self.epochs_skipped;
        self.superblock.clean = false;
        self.superblock.start_lsn = self.end.lsn.0;
        self.superblock.start_offset = self.end.offset.0;
        self.superblock.durable_lsn = self.end.lsn.0 - 1;
        let records = self.commits.iter().map(|commit| commit.last_lsn.0 + 1 - commit.first_lsn.0);
        Ok(Recovered {
            records: records.sum(),
            superblock: self.superblock,
            unwitnessed,
            at: self.tail(),
            cut: self.cut,
            parts: replay.finish(&self.segments, self.superblock.geometry, self.end.lsn)?,
        })
    }

    /// Returns where the next run appends: behind the last commit, or in a segment of its own if
    /// commits are aligned otherwise in this one.
    fn tail(&self) -> LogOffset {
        let last = self.segments.last().filter(|head| head.chain == self.end.offset.chain());
        let goes_on = last.is_none_or(|head| head.commit_align == self.superblock.commit_align);
        if goes_on { self.end.offset } else { LogOffset::new(self.end.offset.chain() + 1, 0) }
    }
}

/// Returns true if a header says what a log could have said.
fn counts(header: &SegmentHeader) -> bool {
    let SegmentHeader { chain, first_needed, first_lsn, epoch, .. } = *header;
    let chains = 1 <= first_needed && first_needed <= chain && chain < CHAINS_END;
    chains && 1 <= first_lsn.0 && first_lsn.0 < COUNTS_END && epoch < COUNTS_END
}

/// Returns the extents that a commit's records keep. Its records have been decoded before.
fn kept_of<'a>(commit: &FoundCommit, frames: &'a Frames) -> impl Iterator<Item = Extent> + 'a {
    records(commit.records(frames)).flatten().flat_map(|record| {
        let list = match record {
            Record::Append { value: RecordValue::Kept(list), .. } => list,
            _ => &[],
        };
        extents(list)
    })
}

fn checksum_of(extents: impl Iterator<Item = Extent>, frames: &Frames) -> u64 {
    let mut sum = Checksum::new();
    extents.for_each(|extent| sum.update(frames.bytes(extent.span())));
    sum.value()
}

/// Returns the whole blocks around `span`.
fn blocks(span: Span) -> Span {
    let start = span.at - span.at % BLOCK_BYTES;
    Span::new(start, span.end().next_multiple_of(BLOCK_BYTES) - start)
}

/// A recovered state, not yet served.
#[derive(Debug)]
pub struct Recovered {
    /// The superblock of the new run, with the next epoch. It must be durable before the first
    /// append (D6).
    pub superblock: Superblock,
    records: u64,
    unwitnessed: Vec<Span>,
    /// Where the next commit goes.
    at: LogOffset,
    cut: Option<Cut>,
    parts: replay::Parts,
}

impl Recovered {
    /// Returns how many records were replayed.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Returns the blocks of commits that no later commit bears witness for, of the values that
    /// they keep, and of segment headers before such a commit.
    ///
    /// After the crash of a process they may stand in a cache only: they have to be persisted
    /// before they are shown to anyone (D3).
    pub fn unwitnessed(&self) -> &[Span] {
        &self.unwitnessed
    }

    /// Returns every live value.
    pub fn values(&self) -> impl Iterator<Item = StoredValue<'_>> {
        self.parts.values()
    }

    /// Returns the buffers that something stands in, log or values, in their order: all that a copy
    /// of the region needs.
    pub fn used_bufs(&self) -> impl Iterator<Item = BufId> {
        self.parts.used_bufs()
    }

    /// Returns the store, ready to be served.
    pub fn into_store(self) -> Store {
        self.parts.into_store(self.superblock, self.at)
    }
}

/// A live value, to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue<'a> {
    /// Name of its log.
    pub log: &'a str,
    /// Its sequence number.
    pub seq: u64,
    /// Its CRC-64/NVME.
    pub checksum: u64,
    /// Where it stands.
    pub extents: Vec<Extent>,
    /// False if its bytes have not been brought into their frames by recovery.
    pub loaded: bool,
}
