//! The log's segments, and the commit that is open at its tail.

use std::collections::VecDeque;

use impasto_region::{Checksum, SegmentId, Span, layout::SEGMENT_BYTES};

use crate::{
    Commit, LOG_NAME_BYTES_MAX, Lsn, Sink,
    format::{
        COMMIT_BYTES_MAX, CommitHeader, EXTENT_BYTES, EXTENTS_MAX, FIRST_POSITION, HEAD_BYTES,
        LogOffset, SegmentHeader, padded,
    },
    space::{Need, Segments, Space},
};

/// A segment of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    /// Of the first commit in it.
    pub(crate) first_lsn: Lsn,
    /// Appends in it that are not trimmed.
    pub(crate) live: u32,
    /// Logs whose state or last trim stands in it.
    pub(crate) state: u32,
    /// When the last of these died.
    pub(crate) died: Lsn,
}

impl Segment {
    pub(crate) const fn new(id: SegmentId, first_lsn: Lsn) -> Self {
        Self { id, first_lsn, live: 0, state: 0, died: Lsn(0) }
    }
}

/// What identifies the writer of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) uuid: [u8; 16],
    pub(crate) align: u32,
    pub(crate) epoch: u64,
    pub(crate) start_lsn: Lsn,
    pub(crate) start_offset: LogOffset,
}

#[derive(Debug)]
struct Open {
    start: LogOffset,
    /// Where its header goes.
    at: u64,
    first_lsn: Lsn,
    /// Of the records so far, fill included.
    bytes: u64,
    starts_segment: bool,
}

/// Whether records can be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes.
    Here,
    /// Not in this commit.
    Seal,
    /// The region is full.
    Full,
}

/// What is to be placed in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placing {
    pub(crate) need: Need,
    /// Of its records, fill included.
    pub(crate) bytes: u64,
    /// Set aside for it before, see [`Tail::promise`].
    pub(crate) fulfils: u64,
    /// To be set aside with it.
    pub(crate) promises: u64,
}

/// The log from its oldest needed segment to its tail.
#[derive(Debug)]
pub(crate) struct Tail {
    writer: Writer,
    next_lsn: Lsn,
    /// Where the next commit starts. Position 0: in a segment still to be taken.
    at: LogOffset,
    /// Chain number of `segments[0]`, the oldest one needed.
    first_needed: u64,
    pub(crate) segments: VecDeque<Segment>,
    open: Option<Open>,
    /// Segments below `first_needed`, which wait for it to be durable.
    retired: VecDeque<(u64, SegmentId)>,
    /// `first_needed` as far as it is durable.
    needed_durable: u64,
    /// Bytes of the log that are set aside.
    promised: u64,
}

/// Most bytes of a commit with one record that has room set aside, and the log's creation.
const PROMISED_COMMIT_BYTES_MAX: u64 = 16 << 10;
const _: () = assert!(
    CommitHeader::BYTES + (2 * HEAD_BYTES + LOG_NAME_BYTES_MAX + EXTENTS_MAX * EXTENT_BYTES) as u64
        <= PROMISED_COMMIT_BYTES_MAX
);

impl Tail {
    pub(crate) fn new(
        writer: Writer,
        next_lsn: Lsn,
        at: LogOffset,
        first_needed: u64,
        segments: VecDeque<Segment>,
    ) -> Self {
        let needed_durable = first_needed;
        let (open, retired) = (None, VecDeque::new());
        let promised = 0;
        Self {
            writer,
            next_lsn,
            at,
            first_needed,
            segments,
            open,
            retired,
            needed_durable,
            promised,
        }
    }

    /// The next commit starts a segment.
    pub(crate) fn end_segment(&mut self) {
        let chain = self.at.chain() + u64::from(self.at.position() != 0);
        self.at = LogOffset::new(chain, 0);
    }

    pub(crate) fn first_needed(&self) -> u64 {
        self.first_needed
    }

    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
    }

    /// Returns the bytes that the open commit would have if it was sealed now.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| self.commit_bytes(open.bytes))
    }

    fn commit_bytes(&self, records: u64) -> u64 {
        (CommitHeader::BYTES + records).next_multiple_of(u64::from(self.writer.align))
    }

    /// Returns what has to be set aside, so that records of `bytes` can be placed later, even in a
    /// commit of their own.
    pub(crate) fn promise_bytes(&self, bytes: u64) -> u64 {
        let commit = self.commit_bytes(bytes);
        debug_assert!(commit <= PROMISED_COMMIT_BYTES_MAX, "such a commit fits behind any tail");
        commit
    }

    /// Sets `bytes` of the log aside: from now on nobody is granted [room](Self::room) that would
    /// not leave so much (D10).
    pub(crate) fn promise(&mut self, bytes: u64) {
        self.promised += bytes;
    }

    /// Ends a [`promise`](Self::promise) of `bytes`.
    pub(crate) fn release(&mut self, bytes: u64) {
        let left = self.promised.checked_sub(bytes);
        self.promised = left.expect("only what was promised is released");
    }

    /// Returns how much of the log is set aside.
    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    /// Returns how many whole segments are set aside.
    pub(crate) fn promised_segments(&self) -> u32 {
        segments_for(self.promised, self.rest())
    }

    /// Returns what would be set aside with `more` bytes.
    pub(crate) fn promising(&self, more: u64) -> Segments {
        let held = self.promised_segments();
        Segments { held, more: segments_for(self.promised + more, self.rest()) - held }
    }

    /// Returns the bytes of the tail's segment behind the open commit.
    fn rest(&self) -> u64 {
        let end = match &self.open {
            Some(open) => open.start.position() + self.commit_bytes(open.bytes),
            None if self.at.position() == 0 => SEGMENT_BYTES,
            None => self.at.position(),
        };
        SEGMENT_BYTES - end
    }

    /// Returns whether records can be placed now, all in one commit.
    pub(crate) fn room(&self, placing: Placing, space: &Space) -> Room {
        let Placing { need, bytes, fulfils, promises } = placing;
        let (start, taken) =
            self.open.as_ref().map_or((self.at, 0), |open| (open.start, open.bytes));
        let commit = self.commit_bytes(taken + bytes);
        let fits = commit <= COMMIT_BYTES_MAX && self.fits_segment(start, commit);
        if !fits && self.open.is_some() {
            return Room::Seal;
        }
        let end = if fits { start.position() + commit } else { FIRST_POSITION + commit };
        let promised = self.promised - fulfils + promises;
        let after = u32::from(!fits) + segments_for(promised, SEGMENT_BYTES - end);
        let held = self.promised_segments();
        let segments = Segments { held, more: after.saturating_sub(held) };
        let has_segment = fits || space.has_segment();
        if has_segment && space.has_log(need, segments) { Room::Here } else { Room::Full }
    }

    fn fits_segment(&self, start: LogOffset, commit: u64) -> bool {
        start.position() >= FIRST_POSITION && start.position() + commit <= SEGMENT_BYTES
    }

    /// Places a record of `bytes` in the commit that is [open](Self::open): returns its lsn and
    /// where it goes. The fill behind it is put.
    pub(crate) fn place(&mut self, bytes: u64, sink: &mut impl Sink) -> (Lsn, u64) {
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        let open = self.open.as_mut().expect("it was opened for this record");
        let at = open.at + CommitHeader::BYTES + open.bytes;
        open.bytes += padded(bytes);
        let fill = usize::try_from(padded(bytes) - bytes).expect("less than 8");
        if fill > 0 {
            sink.put(at + bytes, &[0; 8][..fill]);
        }
        (lsn, at)
    }

    /// Opens a commit for records of `bytes`, fill included, for which there is [`Room::Here`]. A
    /// segment is chosen here, once, so it has to be told of all that follows together.
    pub(crate) fn open(&mut self, bytes: u64, space: &mut Space) {
        if self.open.is_some() {
            return;
        }
        let starts_segment = !self.fits_segment(self.at, self.commit_bytes(bytes));
        if starts_segment {
            let id = space.take_log().expect("room was asked for");
            let chain = self.at.chain() + u64::from(self.at.position() != 0);
            self.at = LogOffset::new(chain, FIRST_POSITION);
            self.segments.push_back(Segment::new(id, self.next_lsn));
        }
        let segment = self.segments.back().expect("the tail stands in a segment");
        self.open = Some(Open {
            start: self.at,
            at: segment.id.start() + self.at.position(),
            first_lsn: self.next_lsn,
            bytes: 0,
            starts_segment,
        });
    }

    /// Closes the open commit. `durable` is its witness (D2).
    pub(crate) fn seal(
        &mut self,
        id: impl FnOnce(Lsn, Option<u64>) -> u64,
        durable: Lsn,
        sink: &mut impl Sink,
    ) -> Option<Commit> {
        let open = self.open.take()?;
        let span = self.commit_bytes(open.bytes);
        self.put_padding(open.at + CommitHeader::BYTES + open.bytes, open.at + span, sink);
        let header = CommitHeader {
            bytes: u32::try_from(open.bytes).expect("at most 512 KiB"),
            offset: open.start,
            epoch: self.writer.epoch,
            start_lsn: self.writer.start_lsn,
            start_offset: self.writer.start_offset,
            first_lsn: open.first_lsn,
            durable_lsn: durable,
        };
        let mut sum: Checksum = header.checksum(self.writer.uuid, open.at);
        sink.sum(Span::new(open.at + CommitHeader::BYTES, open.bytes), &mut sum);
        sink.put(open.at, &header.encode(sum.value()));
        let mut start = open.at;
        if open.starts_segment {
            start = self.put_segment_header(open.start.chain(), open.first_lsn, sink);
        }
        self.at = LogOffset(open.start.0 + span);
        let last_lsn = self.last_lsn();
        Some(Commit {
            id: id(last_lsn, open.starts_segment.then_some(self.first_needed)),
            span: Span::new(start, open.at + span - start),
            first_lsn: open.first_lsn,
            last_lsn,
        })
    }

    fn put_padding(&self, from: u64, to: u64, sink: &mut impl Sink) {
        const ZEROES: [u8; 4096] = [0; 4096];
        let len = usize::try_from(to - from).expect("less than a block");
        sink.put(from, &ZEROES[..len]);
    }

    fn put_segment_header(&self, chain: u64, first_lsn: Lsn, sink: &mut impl Sink) -> u64 {
        let segment = self.segments.back().expect("the tail stands in a segment").id;
        let header = SegmentHeader {
            uuid: self.writer.uuid,
            segment,
            chain,
            epoch: self.writer.epoch,
            first_lsn,
            first_needed: self.first_needed,
            commit_align: self.writer.align,
        };
        sink.put(segment.start(), &header.encode());
        segment.start()
    }

    /// Returns the segment that the record `lsn` stands in.
    ///
    /// # Panics
    /// If it is not in the log any more.
    pub(crate) fn segment_of(&mut self, lsn: Lsn) -> &mut Segment {
        // An append is about the newest most often.
        let newest = self.segments.len() - 1;
        if self.segments[newest].first_lsn <= lsn {
            return &mut self.segments[newest];
        }
        let behind = self.segments.partition_point(|segment| segment.first_lsn <= lsn);
        &mut self.segments[behind - 1]
    }

    /// Returns the first lsn behind the oldest segment, if that is not the tail's.
    pub(crate) fn front_end(&self) -> Option<Lsn> {
        self.segments.get(1).map(|segment| segment.first_lsn)
    }

    /// Takes dead segments off the front; they are used again when that is durable.
    pub(crate) fn retire_front(&mut self, durable: Lsn) {
        let dead =
            |segment: &Segment| segment.live == 0 && segment.state == 0 && segment.died <= durable;
        while self.segments.len() > 1 && dead(&self.segments[0]) {
            let segment = self.segments.pop_front().expect("there are two");
            self.retired.push_back((self.first_needed, segment.id));
            self.first_needed += 1;
        }
    }

    /// `needed` is durable in a superblock or a segment header: what lies below may be written
    /// again.
    pub(crate) fn needed_durable(&mut self, needed: u64) {
        self.needed_durable = self.needed_durable.max(needed);
    }

    /// Returns true if freed segments only wait for `first_needed` to be durable.
    pub(crate) fn wants_superblock(&self) -> bool {
        self.first_needed > self.needed_durable
    }

    /// Gives segments back whose end is durable and that no send holds.
    pub(crate) fn give_retired(&mut self, space: &mut Space) {
        self.retired.retain(|&(chain, id)| chain >= self.needed_durable || !space.give_log(id));
    }
}

/// Returns how many whole segments it takes to place `promised` bytes, in commits of any size, of
/// which `rest` bytes may stand in the segment that is there.
///
/// If they do not fit in there, the end of each segment may be too short for the commit that comes
/// next. A promised commit that is placed takes no more from the rest, or from a new segment, than
/// it leaves to be promised, so what is set aside is there until the last.
fn segments_for(promised: u64, rest: u64) -> u32 {
    const USABLE: u64 = SEGMENT_BYTES - FIRST_POSITION - PROMISED_COMMIT_BYTES_MAX;
    if promised <= rest {
        return 0;
    }
    let behind = promised - rest.saturating_sub(PROMISED_COMMIT_BYTES_MAX);
    u32::try_from(behind.div_ceil(USABLE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is charged to a neighbour's segment lets that one never go, and its own go too early.
    #[test]
    fn every_record_is_found_in_its_own_segment() {
        let firsts = [5, 6, 90, 300];
        let segments = (0..).zip(firsts).map(|(n, lsn)| Segment::new(SegmentId(n), Lsn(lsn)));
        let (start_lsn, start_offset) = (Lsn(5), LogOffset(0));
        let writer = Writer { uuid: [0; 16], align: 64, epoch: 1, start_lsn, start_offset };
        let mut tail = Tail::new(writer, Lsn(400), LogOffset(0), 0, segments.collect());
        for lsn in 5..400 {
            let expected = firsts.into_iter().rev().find(|first| *first <= lsn);
            assert_eq!(tail.segment_of(Lsn(lsn)).first_lsn.0, expected.unwrap());
        }
    }

    /// D10: a promise that shrinks when others take their room is none. Whatever is placed within
    /// the rule, each promised commit finds its place, to the last.
    #[test]
    fn what_is_set_aside_is_there_until_the_last() {
        let seed = std::env::var("IMPASTO_SEED").map_or(1, |seed| seed.parse().unwrap());
        println!("IMPASTO_SEED={seed}");
        let mut state: u64 = seed;
        let mut below = |end: u64| {
            // Knuth, The Art of Computer Programming, 3.3.4: MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % end
        };
        for round in 0..200_u32 {
            let align = if round % 2 == 0 { 4096 } else { 64 };
            let (mut rest, mut free, mut promises) = (0, round % 6, Vec::new());
            let place = |rest: u64, free: u32, bytes: u64| {
                if bytes <= rest {
                    return Some((rest - bytes, free));
                }
                let whole = SEGMENT_BYTES - FIRST_POSITION;
                free.checked_sub(1).map(|free| (whole - bytes, free))
            };
            for step in 0..4_000 {
                let sum: u64 = promises.iter().sum();
                let bytes = (1 + below(PROMISED_COMMIT_BYTES_MAX)).next_multiple_of(align);
                match below(if step < 3_000 { 3 } else { 1 }) {
                    1 if segments_for(sum + bytes, rest) <= free => promises.push(bytes),
                    2 => {
                        let placed = place(rest, free, bytes * (1 + below(8)));
                        if let Some((after, left)) = placed
                            && segments_for(sum, after) <= left
                        {
                            (rest, free) = (after, left);
                        }
                    }
                    _ if !promises.is_empty() => {
                        let at = below(promises.len() as u64);
                        let bytes = promises.swap_remove(usize::try_from(at).unwrap());
                        (rest, free) = place(rest, free, bytes).expect("a promise is kept");
                        assert!(segments_for(sum - bytes, rest) <= free, "and so are the others");
                    }
                    _ => {}
                }
            }
            assert!(promises.is_empty());
        }
    }
}
