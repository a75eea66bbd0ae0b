//! Which commits hold, and where the log ends.

use impasto_region::{
    Frames, SegmentId, Span,
    layout::{SEGMENT_BYTES, Superblock},
};

use super::{COUNTS_END, Corruption};
use crate::{
    Lsn,
    format::{
        COMMIT_BYTES_MAX, CommitHeader, FIRST_POSITION, LogOffset, Record, SegmentHeader, records,
    },
};

/// A commit that holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundCommit {
    pub(super) offset: LogOffset,
    /// Of its header in the region.
    at: u64,
    bytes: u32,
    pub(super) first_lsn: Lsn,
    pub(super) last_lsn: Lsn,
    durable_lsn: Lsn,
}

impl FoundCommit {
    pub(super) fn records<'a>(&self, frames: &'a Frames) -> &'a [u8] {
        frames.bytes(self.records_span())
    }

    /// Returns where its records stand.
    pub(super) const fn records_span(&self) -> Span {
        Span::new(self.at + CommitHeader::BYTES, self.bytes as u64)
    }

    pub(super) const fn span(&self) -> Span {
        Span::new(self.at, CommitHeader::BYTES + self.bytes as u64)
    }

    /// Returns the end of a log that ends before this commit.
    pub(super) const fn start(&self) -> End {
        End { lsn: self.first_lsn, offset: self.offset, at: self.at }
    }
}

/// A commit that holds, behind the end of the log.
#[derive(Debug)]
pub(super) struct Behind<'a> {
    pub(super) segment: SegmentId,
    /// Where its records stand in the region.
    pub(super) at: u64,
    pub(super) commit: CommitHeader,
    pub(super) records: &'a [u8],
}

impl Behind<'_> {
    /// Returns true for states that a repair wrote which was killed before its epoch began, to a
    /// segment that got no header. `epoch`: the highest of the log, of its headers, and of the
    /// superblock.
    pub(super) fn is_of_a_repair(&self, suspects: &[SegmentId], epoch: u64) -> bool {
        let is_state = |record| matches!(record, Ok(Record::Log { .. }));
        self.commit.epoch > epoch
            && suspects.contains(&self.segment)
            && records(self.records).all(is_state)
    }
}

/// Where the log ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The lsn that comes next.
    pub(super) lsn: Lsn,
    pub(super) offset: LogOffset,
    /// The same place in the region; 0 if no segment is there yet.
    pub(super) at: u64,
}

impl Default for End {
    fn default() -> Self {
        Self { lsn: Lsn(1), offset: LogOffset::new(1, 0), at: 0 }
    }
}

/// So many bytes of what looks like a commit and is none are looked at in a segment: values are
/// whatever a peer sends, and a segment of them could look like a commit at each 64 bytes.
const PATIENCE_BYTES: u64 = 4 * SEGMENT_BYTES;
/// Commits of a segment whose header is damaged start at multiples of this at least.
const ALIGN_MIN: u32 = 64;

/// A look at the log's segments, all of them in their frames.
pub(super) struct Walk<'a> {
    uuid: [u8; 16],
    superblock: &'a Superblock,
    /// Sorted by chain number and epoch.
    heads: &'a [SegmentHeader],
    frames: &'a Frames,
    /// Epochs that are known, and the offsets at which they started.
    epochs: Vec<(u64, LogOffset)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        superblock: &'a Superblock,
        heads: &'a [SegmentHeader],
        frames: &'a Frames,
    ) -> Self {
        Self {
            uuid: superblock.uuid.into_bytes(),
            superblock,
            heads,
            frames,
            epochs: vec![(superblock.epoch, LogOffset(superblock.start_offset))],
        }
    }

    /// Returns the highest epoch in log or superblock. Of a run whose superblock was lost there may
    /// be nothing but a segment header.
    pub(super) fn epoch(&self) -> u64 {
        let heads = self.heads.iter().map(|head| head.epoch);
        self.epochs.iter().map(|&(epoch, _)| epoch).chain(heads).max().unwrap_or(0)
    }

    /// D6: what an older epoch wrote at or above the start of a later one never happened.
    fn is_void(&self, epoch: u64, offset: LogOffset) -> bool {
        self.epochs.iter().any(|&(later, start)| later > epoch && offset >= start)
    }

    pub(super) fn learn(&mut self, commit: &CommitHeader) {
        if self.epochs.iter().all(|&(epoch, _)| epoch != commit.epoch) {
            self.epochs.push((commit.epoch, commit.start_offset));
        }
    }

    /// Every commit repeats its epoch's start: a superblock that was lost is made up for.
    pub(super) fn learn_first_commits(&mut self, needed: u64) {
        for head in self.heads.iter().filter(|head| head.chain >= needed) {
            let offset = LogOffset::new(head.chain, FIRST_POSITION);
            if let Some((commit, _)) = self.read(head.segment, offset) {
                self.learn(&commit);
            }
        }
    }

    /// Returns the segment with that chain number.
    fn segment(&self, chain: u64) -> Option<&'a SegmentHeader> {
        let first = self.heads.partition_point(|head| head.chain < chain);
        let same = self.heads[first..].iter().take_while(|head| head.chain == chain);
        same.filter(|head| !self.is_void(head.epoch, LogOffset::new(chain, 0))).last()
    }

    fn read(&self, segment: SegmentId, offset: LogOffset) -> Option<(CommitHeader, &'a [u8])> {
        let at = segment.start() + offset.position();
        let rest = self.frames.bytes(Span::new(at, SEGMENT_BYTES - offset.position()));
        let (header, records) = CommitHeader::read(rest, self.uuid, at, offset)?;
        let holds = header.epoch < COUNTS_END && !self.is_void(header.epoch, offset);
        holds.then_some((header, records))
    }

    /// Follows the log from chain number `needed` to the first commit that does not hold.
    pub(super) fn commits(&mut self, needed: u64) -> Result<(Vec<FoundCommit>, End), Corruption> {
        let mut commits = Vec::new();
        let mut epoch = 0;
        let Some(first) = self.segment(needed) else {
            let offset = LogOffset::new(needed, 0);
            return Ok((commits, End { lsn: Lsn(1), offset, at: 0 }));
        };
        let mut segment = first;
        let mut end = self.start_of(first);
        loop {
            let next = (end.offset.position() >= FIRST_POSITION)
                .then(|| self.read(segment.segment, end.offset))
                .flatten()
                .filter(|(header, _)| header.epoch >= epoch);
            let Some((header, bytes)) = next else {
                let Some(head) = self.segment_behind(end) else {
                    return Ok((commits, end));
                };
                segment = head;
                end = self.start_of(head);
                continue;
            };
            if header.first_lsn != end.lsn {
                let (found, expected) = (header.first_lsn, end.lsn);
                return Err(Corruption::Order { offset: end.offset.0, found, expected });
            }
            epoch = header.epoch;
            self.learn(&header);
            let commit = Self::found(&header, bytes, end)?;
            commits.push(commit);
            let bytes = header.span_bytes(segment.commit_align);
            end = End {
                lsn: Lsn(commit.last_lsn.0 + 1),
                offset: LogOffset(end.offset.0 + bytes),
                at: end.at + bytes,
            };
        }
    }

    fn start_of(&self, head: &SegmentHeader) -> End {
        let offset = LogOffset::new(head.chain, FIRST_POSITION);
        End { lsn: head.first_lsn, offset, at: head.segment.start() + FIRST_POSITION }
    }

    /// Returns the segment in which the log goes on when nothing holds at `end`.
    fn segment_behind(&self, end: End) -> Option<&'a SegmentHeader> {
        let chain = end.offset.chain() + u64::from(end.offset.position() != 0);
        self.segment(chain).filter(|head| head.first_lsn == end.lsn)
    }

    fn found(header: &CommitHeader, bytes: &[u8], start: End) -> Result<FoundCommit, Corruption> {
        let mut lsn = header.first_lsn;
        for record in records(bytes) {
            record.map_err(|error| Corruption::Record { lsn, error })?;
            lsn.0 += 1;
        }
        Ok(FoundCommit {
            offset: start.offset,
            at: start.at,
            bytes: header.bytes,
            first_lsn: header.first_lsn,
            last_lsn: Lsn(lsn.0 - 1),
            durable_lsn: header.durable_lsn,
        })
    }

    /// Returns the highest lsn that anything valid says was durable (D2).
    pub(super) fn attested(
        &self,
        commits: &[FoundCommit],
        end: End,
        suspects: &[SegmentId],
    ) -> Lsn {
        let superblock =
            self.superblock.durable_lsn.max(self.superblock.start_lsn.saturating_sub(1));
        let before = commits.iter().map(|commit| commit.durable_lsn);
        before
            .chain(self.behind(end))
            .chain(self.lost_heads(suspects))
            .fold(Lsn(superblock), Lsn::max)
    }

    /// Returns the highest witness in each segment behind the end of the log.
    fn behind(&self, end: End) -> impl Iterator<Item = Lsn> + '_ {
        let first = self.heads.partition_point(|head| head.chain < end.offset.chain());
        let valid = self.heads[first..]
            .iter()
            .filter(|head| !self.is_void(head.epoch, LogOffset::new(head.chain, 0)));
        valid.map(move |head| self.witness(head.segment, head.chain, head.commit_align, end.offset))
    }

    /// Returns the highest witness in each segment whose header is damaged.
    fn lost_heads<'b>(&'b self, suspects: &'b [SegmentId]) -> impl Iterator<Item = Lsn> + 'b {
        let chained = self.chained(suspects);
        chained.map(|(segment, chain)| self.witness(segment, chain, ALIGN_MIN, LogOffset(0)))
    }

    /// Returns segments whose header is damaged, with the chain numbers that they seem to have.
    fn chained<'b>(
        &'b self,
        suspects: &'b [SegmentId],
    ) -> impl Iterator<Item = (SegmentId, u64)> + 'b {
        suspects.iter().filter_map(|&segment| {
            let at = segment.start() + FIRST_POSITION;
            let head = self.frames.bytes(Span::new(at, CommitHeader::BYTES));
            let chain = CommitHeader::peek(head)?.offset.chain();
            (chain >= self.superblock.first_needed).then_some((segment, chain))
        })
    }

    /// Returns the highest witness of a commit that holds in `segment` from log offset `from` on.
    fn witness(&self, segment: SegmentId, chain: u64, align: u32, from: LogOffset) -> Lsn {
        let mut highest = Lsn(0);
        self.each_in(segment, chain, align, from, &mut |behind| {
            highest = highest.max(behind.commit.durable_lsn);
        });
        highest
    }

    /// Shows each commit that holds in `segment`, at multiples of `align`, from log offset `from`
    /// on.
    fn each_in(
        &self,
        segment: SegmentId,
        chain: u64,
        align: u32,
        from: LogOffset,
        look: &mut dyn FnMut(Behind<'a>),
    ) {
        let mut offset = LogOffset::new(chain, FIRST_POSITION).max(from);
        let mut patience = PATIENCE_BYTES;
        while offset.chain() == chain && patience > 0 {
            let mut bytes = u64::from(align);
            if let Some((commit, records)) = self.read(segment, offset) {
                let at = segment.start() + offset.position() + CommitHeader::BYTES;
                bytes = commit.span_bytes(align);
                look(Behind { segment, at, commit, records });
            } else {
                patience = patience.saturating_sub(self.apparent_bytes(segment, offset));
            }
            let Some(next) = offset.0.checked_add(bytes) else {
                break;
            };
            offset = LogOffset(next);
        }
    }

    /// Shows each commit that holds behind the end of the log.
    pub(super) fn each_behind(
        &self,
        end: End,
        suspects: &[SegmentId],
        look: &mut dyn FnMut(Behind<'a>),
    ) {
        let first = self.heads.partition_point(|head| head.chain < end.offset.chain());
        for head in &self.heads[first..] {
            if !self.is_void(head.epoch, LogOffset::new(head.chain, 0)) {
                self.each_in(head.segment, head.chain, head.commit_align, end.offset, look);
            }
        }
        for (segment, chain) in self.chained(suspects) {
            self.each_in(segment, chain, ALIGN_MIN, LogOffset(0), look);
        }
    }

    /// Returns the highest epoch, and a commit of each run that only commits behind the end of the
    /// log know: the newer superblock is lost, and `epoch` is the highest that is known without
    /// them. Were it given out again, these commits would not be void (D6).
    pub(super) fn runs_behind(
        &self,
        end: End,
        suspects: &[SegmentId],
        epoch: u64,
    ) -> (u64, Vec<CommitHeader>) {
        let (mut highest, mut runs) = (epoch, Vec::<CommitHeader>::new());
        self.each_behind(end, suspects, &mut |behind| {
            let commit = behind.commit;
            highest = highest.max(commit.epoch);
            let is_run = commit.epoch > epoch && !behind.is_of_a_repair(suspects, epoch);
            if is_run && runs.iter().all(|run| run.epoch != commit.epoch) {
                runs.push(commit);
            }
        });
        (highest, runs)
    }

    /// Returns how many bytes the commit would have that does not hold at `offset`: 0 for one that
    /// would be longer than a commit can be, of which no more than the header was looked at.
    fn apparent_bytes(&self, segment: SegmentId, offset: LogOffset) -> u64 {
        let at = segment.start() + offset.position();
        let header = CommitHeader::peek(self.frames.bytes(Span::new(at, CommitHeader::BYTES)));
        let bytes_max = COMMIT_BYTES_MAX.min(SEGMENT_BYTES - offset.position());
        let bytes = header.filter(|header| header.offset == offset);
        let bytes = bytes.map_or(0, |header| CommitHeader::BYTES + u64::from(header.bytes));
        if bytes <= bytes_max { bytes } else { 0 }
    }

    /// Returns the segments of a log that ends at `end`, the oldest first.
    pub(super) fn segments(&self, end: End) -> Vec<SegmentHeader> {
        (self.superblock.first_needed..=end.offset.chain())
            .map_while(|chain| self.segment(chain).copied())
            .collect()
    }
}
