//! Where things stand in a region: geometry and superblock, as docs/format.md has them.

mod superblock;

pub use superblock::{INCOMPAT_LOG_V1, MediumKind, Superblock, SuperblockError};

use crate::{BufId, Error, SegmentId, Span};

/// Unit of disk I/O, also on devices with 512-byte sectors.
pub const BLOCK_BYTES: u64 = 4096;
/// Bytes of a buffer.
pub const BUF_BYTES: u32 = 256 << 10;
/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = 1 << 20;
/// Buffers of a segment.
pub const BUFS_PER_SEGMENT: u32 = 4;
/// The smallest region.
pub const REGION_BYTES_MIN: u64 = 16 << 20;
/// The largest region.
pub const REGION_BYTES_MAX: u64 = 16 << 40;

/// [`BLOCK_BYTES`] as the length of an array.
pub(crate) const BLOCK_LEN: usize = 4096;

const _: () = assert!(BLOCK_LEN as u64 == BLOCK_BYTES);
const _: () = assert!(BUF_BYTES as u64 * BUFS_PER_SEGMENT as u64 == SEGMENT_BYTES);
const _: () = assert!(SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(REGION_BYTES_MAX / BUF_BYTES as u64 <= u32::MAX as u64);

/// The size of a region and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    region_bytes: u64,
}

impl TryFrom<u64> for Geometry {
    type Error = Error;

    /// As [`Geometry::new`], with an error that states the limits.
    fn try_from(region_bytes: u64) -> Result<Self, Error> {
        Self::new(region_bytes).ok_or(Error::RegionSize { bytes: region_bytes })
    }
}

impl Geometry {
    /// Returns the geometry of a region of `region_bytes`, or `None` if no region has that size: it
    /// is a multiple of 1 MiB from [`REGION_BYTES_MIN`] to [`REGION_BYTES_MAX`].
    pub const fn new(region_bytes: u64) -> Option<Self> {
        let fits = region_bytes >= REGION_BYTES_MIN && region_bytes <= REGION_BYTES_MAX;
        if fits && region_bytes.is_multiple_of(SEGMENT_BYTES) {
            Some(Self { region_bytes })
        } else {
            None
        }
    }

    /// Returns the size of the region.
    pub const fn region_bytes(self) -> u64 {
        self.region_bytes
    }

    /// Returns the number of segments.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "REGION_BYTES_MAX bounds it, asserted above"
    )]
    pub const fn segments(self) -> u32 {
        (self.region_bytes / SEGMENT_BYTES) as u32 - 1
    }

    /// Returns the number of buffers: names from 0 to it are on the medium.
    pub const fn bufs(self) -> u32 {
        self.segments() * BUFS_PER_SEGMENT
    }

    /// Returns the first name that lies wholly behind the region: from here on a buffer is memory
    /// only.
    pub const fn bufs_end(self) -> BufId {
        BufId(self.bufs() + BUFS_PER_SEGMENT)
    }

    /// Returns the block of superblock copy 0 or 1.
    ///
    /// # Panics
    /// If `copy` is neither.
    pub const fn superblock(self, copy: u64) -> Span {
        assert!(copy < 2, "there are two superblocks");
        let at = if copy == 0 { 0 } else { self.region_bytes - BLOCK_BYTES };
        Span::new(at, BLOCK_BYTES)
    }

    /// Returns the bytes of a segment.
    ///
    /// # Panics
    /// If the region has no such segment.
    pub const fn segment(self, segment: SegmentId) -> Span {
        assert!(segment.0 < self.segments(), "segment of this region");
        Span::new(segment.start(), SEGMENT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the slack the last segment would lie over the second superblock.
    #[test]
    fn segments_lie_between_the_superblocks() {
        for mib in [16, 17, 64, 1024, 16 << 20] {
            let geometry = Geometry::new(mib << 20).unwrap();
            let last = geometry.segment(SegmentId(geometry.segments() - 1));
            assert_eq!(geometry.superblock(0).end(), SegmentId(0).start());
            assert!(last.end() <= geometry.superblock(1).at);
            assert!(geometry.bufs_end().start() >= geometry.region_bytes());
        }
    }

    #[test]
    fn odd_sizes_are_no_region() {
        for bytes in [0, 15 << 20, (16 << 20) + 4096, (16 << 40) + (1 << 20)] {
            assert_eq!(Geometry::new(bytes), None);
        }
    }
}
