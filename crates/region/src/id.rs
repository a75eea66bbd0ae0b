//! Names: buffer, segment, extent, span.

use crate::layout::{BLOCK_BYTES, BUF_BYTES, BUFS_PER_SEGMENT, SEGMENT_BYTES};

/// The name of a buffer: its index in the region.
///
/// Indexes at and above [`Geometry::bufs_end`](crate::layout::Geometry::bufs_end) name landing
/// buffers that are memory only; they never reach the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufId(pub u32);

impl BufId {
    /// Returns the offset of the buffer's first byte in the region and in
    /// [`Frames`](crate::Frames).
    pub const fn start(self) -> u64 {
        BLOCK_BYTES + self.0 as u64 * BUF_BYTES as u64
    }

    /// Returns the whole buffer as an extent.
    pub const fn whole(self) -> Extent {
        Extent { buf: self, offset: 0, len: BUF_BYTES }
    }

    /// Returns the segment that the buffer is a quarter of.
    pub const fn segment(self) -> SegmentId {
        SegmentId(self.0 / BUFS_PER_SEGMENT)
    }
}

/// The index of a segment in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// Returns the offset of the segment's first byte in the region.
    pub const fn start(self) -> u64 {
        BLOCK_BYTES + self.0 as u64 * SEGMENT_BYTES
    }

    /// Returns the first of the segment's four buffers; the others follow.
    pub const fn first_buf(self) -> BufId {
        BufId(self.0 * BUFS_PER_SEGMENT)
    }
}

/// Bytes of one buffer: the durable name of a piece of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The buffer.
    pub buf: BufId,
    /// Offset of the first byte in the buffer.
    pub offset: u32,
    /// Length in bytes; `offset + len` is at most [`BUF_BYTES`].
    pub len: u32,
}

impl Extent {
    /// Returns the extent as a span of the region.
    pub const fn span(self) -> Span {
        Span { at: self.buf.start() + self.offset as u64, len: self.len as u64 }
    }

    /// Returns the part of the extent that starts `from` bytes into it and has at most `len` bytes.
    ///
    /// # Panics
    /// If `from` lies behind the extent.
    pub fn part(self, from: u32, len: u32) -> Self {
        assert!(from <= self.len, "part at {from} of {self:?}");
        Self { buf: self.buf, offset: self.offset + from, len: len.min(self.len - from) }
    }

    /// Returns true if `next` starts where this extent ends.
    pub const fn adjoins(self, next: Self) -> bool {
        let end = self.offset as u64 + self.len as u64;
        self.buf.0 == next.buf.0 && end == next.offset as u64
    }
}

/// A range of bytes of the region, wherever buffers start or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Span {
    /// Returns the span `[at, at + len)`.
    pub const fn new(at: u64, len: u64) -> Self {
        Self { at, len }
    }

    /// Returns the offset behind the last byte.
    pub const fn end(self) -> u64 {
        self.at.saturating_add(self.len)
    }

    /// Returns true if the two have a byte in common.
    pub const fn overlaps(self, other: Self) -> bool {
        let start = if self.at > other.at { self.at } else { other.at };
        start < self.end() && start < other.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty span inside another one would keep its neighbours from being looked at.
    #[test]
    fn spans_overlap_if_they_share_a_byte() {
        let span = Span::new(10, 10);
        for (at, len, shares) in
            [(0, 10, false), (0, 11, true), (19, 1, true), (20, 5, false), (15, 0, false)]
        {
            assert_eq!(span.overlaps(Span::new(at, len)), shares, "{at}+{len}");
            assert_eq!(Span::new(at, len).overlaps(span), shares, "{at}+{len}");
        }
        assert!(span.overlaps(Span::new(0, u64::MAX)));
    }

    /// Lengths that recovery reads from the medium must not overflow.
    #[test]
    fn extents_adjoin_only_behind_the_last_byte() {
        let extent = |offset, len| Extent { buf: BufId(1), offset, len };
        assert!(extent(0, 5).adjoins(extent(5, 1)));
        assert!(!extent(0, 5).adjoins(extent(6, 1)));
        assert!(!extent(u32::MAX, 2).adjoins(extent(1, 1)));
    }
}
