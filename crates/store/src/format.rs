//! Bytes of the log: segment header, commit, record, as docs/format.md has them.

mod commit;
mod record;
mod segment;

pub(crate) use commit::CommitHeader;
pub use record::BadRecord;
pub(crate) use record::{
    EXTENT_BYTES, HEAD_BYTES, Record, RecordValue, TRIM_BYTES, append_head, encode_extent, extents,
    log_record, padded, records, trim_record,
};
pub(crate) use segment::SegmentHeader;

use impasto_region::layout::SEGMENT_BYTES;

/// Most bytes of a commit, header and padding included.
pub(crate) const COMMIT_BYTES_MAX: u64 = 512 << 10;
/// Most bytes of a value that stands in its record.
pub(crate) const INLINE_BYTES_MAX: u32 = 64 << 10;
/// Most extents of a value.
pub(crate) const EXTENTS_MAX: usize = 1024;
/// Position of a segment's first commit.
pub(crate) const FIRST_POSITION: u64 = impasto_region::layout::BLOCK_BYTES;

/// A place in the log: `chain * 1 MiB + position`. Grows for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogOffset(pub(crate) u64);

impl LogOffset {
    pub(crate) const fn new(chain: u64, position: u64) -> Self {
        Self(chain * SEGMENT_BYTES + position)
    }

    pub(crate) const fn chain(self) -> u64 {
        self.0 / SEGMENT_BYTES
    }

    /// Returns the position inside of its segment.
    pub(crate) const fn position(self) -> u64 {
        self.0 % SEGMENT_BYTES
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a field has the width of its type")
}
