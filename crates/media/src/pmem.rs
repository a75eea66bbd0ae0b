//! `pmem` and `shm`: durable is what was flushed before a fence.
//!
//! Everything here is done when the call returns; events only say so in the order of the calls.

use std::collections::VecDeque;

use impasto_region::{Extent, Frames, Span, layout::MediumKind};

use crate::{CommitId, Event, Lines, Medium, Profile, Ticket};

/// The medium whose frames are the region itself, over [`Lines`].
#[derive(Debug)]
pub struct Pmem<L> {
    lines: L,
    kind: MediumKind,
    events: VecDeque<Event>,
}

impl<L> Pmem<L> {
    /// Returns the medium on `lines`; `kind` says whether it survives a power failure (`Pmem`) or
    /// only the end of the process (`Shm`).
    ///
    /// # Panics
    /// If `kind` is neither.
    pub fn new(lines: L, kind: MediumKind) -> Self {
        assert!(kind != MediumKind::Disk, "a disk has no lines");
        Self { lines, kind, events: VecDeque::new() }
    }
}

impl<I, L: Lines> Medium<I> for Pmem<L> {
    fn profile(&self) -> Profile {
        Profile { kind: self.kind, inline_max: INLINE_MAX, keeps_landed: true, commits_max: 1 }
    }

    fn accepts_commit(&self, _bytes: u64) -> bool {
        true
    }

    /// # Durability
    /// `log` and `kept` are durable when it returns.
    fn commit(&mut self, _io: &mut I, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]) {
        if !kept.is_empty() {
            flush_merged(&mut self.lines, frames, kept);
            // D1: the log is not written back before what it names is durable. An eviction may
            // still be earlier than both, which is why recovery verifies values that no later
            // commit attests.
            self.lines.fence(frames);
        }
        self.lines.flush(frames, log);
        self.lines.fence(frames);
        self.events.push_back(Event::Committed(id, Ok(())));
    }

    fn write(&mut self, _io: &mut I, frames: &Frames, _ticket: Ticket, spans: &[Span]) {
        for span in spans {
            self.lines.flush(frames, *span);
        }
    }

    /// # Durability
    /// `spans`, and what was written for `ticket` before, are durable when it returns.
    fn persist(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.write(io, frames, ticket, spans);
        self.lines.fence(frames);
        self.events.push_back(Event::Persisted(ticket, Ok(())));
    }

    fn abandon(&mut self, _io: &mut I, ticket: Ticket) {
        // A line that is still being written back holds the newest bytes whenever that happens.
        self.events.push_back(Event::Abandoned(ticket));
    }

    fn read(&mut self, _io: &mut I, _frames: &mut Frames, ticket: Ticket, _spans: &[Span]) {
        self.events.push_back(Event::Read(ticket, Ok(())));
    }

    fn poll(&mut self, _io: &mut I, _frames: &mut Frames) -> Option<Event> {
        self.events.pop_front()
    }
}

/// Flushes `kept`; extents in the same or in adjacent lines, as they land one after the other, are
/// one flush, so that the line between two payloads is written back once.
fn flush_merged(lines: &mut impl Lines, frames: &Frames, kept: &[Extent]) {
    let mut spans = kept.iter().map(|extent| extent.span()).filter(|span| span.len > 0);
    let Some(mut run) = spans.next() else { return };
    for span in spans {
        let first_line = span.at / LINE_BYTES;
        if span.at >= run.at && first_line <= run.end().div_ceil(LINE_BYTES) {
            run.len = run.len.max(span.end() - run.at);
        } else {
            lines.flush(frames, run);
            run = span;
        }
    }
    lines.flush(frames, run);
}

/// The longest value that is copied beside its record; a longer one stays where it landed.
const INLINE_MAX: u32 = 512;
/// What a CPU writes back at once.
const LINE_BYTES: u64 = 64;

#[cfg(test)]
mod tests {
    use impasto_region::{BufId, layout::Geometry};

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Call {
        Flush(Span),
        Fence,
    }

    impl Lines for Vec<Call> {
        fn flush(&mut self, _frames: &Frames, span: Span) {
            self.push(Call::Flush(span));
        }

        fn fence(&mut self, _frames: &Frames) {
            self.push(Call::Fence);
        }
    }

    const LOG: Span = Span::new(4096, 128);

    fn extent(offset: u32, len: u32) -> Extent {
        Extent { buf: BufId(8), offset, len }
    }

    fn flush(offset: u32, len: u32) -> Call {
        Call::Flush(extent(offset, len).span())
    }

    fn calls_of(kept: &[Extent]) -> Vec<Call> {
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        let mut pmem = Pmem::new(Vec::new(), MediumKind::Pmem);
        pmem.commit(&mut (), &frames, CommitId(7), LOG, kept);
        let event = Medium::poll(&mut pmem, &mut (), &mut frames);
        assert!(matches!(event, Some(Event::Committed(CommitId(7), Ok(())))));
        pmem.lines
    }

    /// D1: with one fence for both, a crash could leave a commit without the payload that it names.
    #[test]
    fn payload_is_fenced_before_the_log_is_flushed() {
        let calls = calls_of(&[extent(0, 1000)]);
        assert_eq!(calls, [flush(0, 1000), Call::Fence, Call::Flush(LOG), Call::Fence]);
    }

    #[test]
    fn a_commit_that_keeps_nothing_needs_one_fence() {
        assert_eq!(calls_of(&[]), [Call::Flush(LOG), Call::Fence]);
    }

    /// Payloads that landed one after the other share a line: flushed twice it is written back
    /// twice.
    #[test]
    fn extents_in_adjacent_lines_are_one_flush() {
        let kept = [extent(0, 1000), extent(1030, 100), extent(1152, 8), extent(1344, 8)];
        let calls = calls_of(&kept);
        assert_eq!(calls[..3], [flush(0, 1160), flush(1344, 8), Call::Fence]);
    }

    #[test]
    fn extents_in_descending_order_are_all_flushed() {
        let calls = calls_of(&[extent(640, 64), extent(0, 64), extent(32, 0)]);
        assert_eq!(calls[..3], [flush(640, 64), flush(0, 64), Call::Fence]);
    }

    /// A fence for each part of a long body would wait as often as it has parts; one less than one
    /// would lose it.
    #[test]
    fn a_body_in_parts_is_flushed_as_it_fills_and_fenced_once() {
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        let mut pmem = Pmem::new(Vec::new(), MediumKind::Pmem);
        let spans = [Span::new(8192, 4096), Span::new(12288, 4096), Span::new(0, 4096)];
        pmem.write(&mut (), &frames, Ticket(1), &spans[..1]);
        pmem.write(&mut (), &frames, Ticket(2), &spans[2..]);
        assert!(Medium::poll(&mut pmem, &mut (), &mut frames).is_none());
        pmem.persist(&mut (), &frames, Ticket(1), &spans[1..2]);
        pmem.abandon(&mut (), Ticket(2));
        let mut poll = || Medium::poll(&mut pmem, &mut (), &mut frames);
        assert!(matches!(poll(), Some(Event::Persisted(Ticket(1), Ok(())))));
        assert!(matches!(poll(), Some(Event::Abandoned(Ticket(2)))));
        assert!(poll().is_none());
        let flushes = [0, 2, 1].map(|span| Call::Flush(spans[span]));
        assert_eq!(pmem.lines[..3], flushes);
        assert_eq!(pmem.lines[3..], [Call::Fence]);
    }

    #[test]
    fn persist_flushes_every_span_and_fences() {
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        let mut pmem = Pmem::new(Vec::new(), MediumKind::Shm);
        let spans = [Span::new(8192, 4096), Span::new(0, 4096)];
        pmem.persist(&mut (), &frames, Ticket(1), &spans);
        pmem.read(&mut (), &mut frames, Ticket(2), &spans);
        let mut poll = || Medium::poll(&mut pmem, &mut (), &mut frames);
        assert!(matches!(poll(), Some(Event::Persisted(Ticket(1), Ok(())))));
        assert!(matches!(poll(), Some(Event::Read(Ticket(2), Ok(())))));
        assert!(poll().is_none());
        let calls = [Call::Flush(spans[0]), Call::Flush(spans[1]), Call::Fence];
        assert_eq!(pmem.lines, calls);
    }
}
