//! Records in a mapped file, round and round: whoever appends trims.

use impasto::{
    media::Lines,
    region::{Frames, Region, Span},
};

use super::{
    logs::Place,
    record::{HEADER, Head, Open, Record},
};
use crate::{
    cli::Failure,
    stages::{Stage, Stages},
};

/// A log in mapped memory.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) frames: Frames,
    /// Commits that are closed and not yet durable.
    pub(super) sealed: Vec<Span>,
    open: Open,
    /// Where the open commit starts, in the log: it grows over all rounds.
    start: u64,
    capacity: u64,
}

impl Memory {
    /// A log in all of `region`, which `frames` maps, but its superblocks.
    pub(super) fn new(region: &Region, frames: Frames) -> Self {
        let capacity = region.superblock().geometry.region_bytes() - 2 * BLOCK;
        Self { frames, sealed: Vec::new(), open: Open::new(), start: 0, capacity }
    }

    /// Copies a record to the open commit; returns where its body is.
    pub(super) fn append(&mut self, record: &Record<'_>) -> u64 {
        self.append_parts(&record.head(), record.body())
    }

    /// Copies the parts of a record to the open commit; returns where the second one is.
    pub(super) fn append_parts(&mut self, head: &Head, body: &[u8]) -> u64 {
        let end = (self.open.len() + body.len()) as u64 + MARGIN;
        if self.start % self.capacity + end > self.capacity {
            self.seal();
            self.start = self.start.next_multiple_of(self.capacity);
        }
        let at = self.start + self.open.add(head, body.len()) as u64;
        let body_at = at + head.bytes().len() as u64;
        self.frames.store(self.offset(at), head.bytes());
        self.frames.store(self.offset(body_at), body);
        body_at
    }

    /// Closes the open commit, if there is anything in it; returns true if there is something to
    /// be made durable.
    pub(super) fn seal(&mut self) -> bool {
        let len = self.open.len() as u64;
        if len == 0 {
            return !self.sealed.is_empty();
        }
        let offset = self.offset(self.start);
        let header = self.open.seal(self.start);
        self.frames.store(offset, &header);
        self.sealed.push(Span::new(offset, len));
        // On lines of its own: those of this one are about to be written back.
        self.start = (self.start + len).next_multiple_of(HEADER as u64);
        true
    }

    /// Makes durable what was appended: one flush, and one fence.
    pub(super) fn persist(&mut self, lines: &mut impl Lines, stages: &mut Stages) {
        if self.seal() {
            for span in self.sealed.drain(..) {
                lines.flush(&self.frames, span);
            }
            stages.charge(Stage::Flush);
            lines.fence(&self.frames);
            stages.charge(Stage::Fence);
        }
    }

    /// Copies a value to `out`; returns false if something newer is in its place.
    pub(super) fn read(&self, place: Place, out: &mut Vec<u8>) -> bool {
        let end = self.start + self.open.len() as u64;
        let is_there = end <= place.at + self.capacity;
        if is_there {
            let span = Span::new(self.offset(place.at), u64::from(place.len));
            out.extend_from_slice(self.frames.bytes(span));
        }
        is_there
    }

    /// Nothing that was appended is wanted any more: begins at the start, in memory that caches
    /// may still hold. So does Impasto, which takes first what was given back last.
    pub(super) fn begin_anew(&mut self) {
        self.seal();
        self.start = self.start.next_multiple_of(self.capacity);
    }

    fn offset(&self, at: u64) -> u64 {
        BLOCK + at % self.capacity
    }
}

/// Maps a region in memory that is all zeroes, and touches each page: the first time costs as much
/// as a request, and whoever goes round later than others would pay for it in windows that count.
pub(super) fn touched(region: &Region) -> Result<Frames, Failure> {
    let geometry = region.superblock().geometry;
    let mut frames = Frames::shared(region.file(), geometry)?;
    for page in 1..geometry.region_bytes() / BLOCK - 1 {
        frames.store(page * BLOCK, &[0]);
    }
    Ok(frames)
}

/// What a superblock takes.
const BLOCK: u64 = 4096;
/// More than the headers and the alignment of a record and of a commit take.
const MARGIN: u64 = 256;
