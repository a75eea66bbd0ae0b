//! The header of a log segment.

use impasto_region::{Checksum, SegmentId, layout::BLOCK_BYTES};

use super::{array, u32_at, u64_at};
use crate::Lsn;

const MAGIC: [u8; 8] = *b"IMPSEGM\0";
const CHECKSUM_AT: usize = 504;
const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);

/// Makes a segment part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Of the region.
    pub(crate) uuid: [u8; 16],
    /// Where it stands: a copy elsewhere is none.
    pub(crate) segment: SegmentId,
    pub(crate) chain: u64,
    pub(crate) epoch: u64,
    /// Of its first commit.
    pub(crate) first_lsn: Lsn,
    /// Chain number of the oldest segment needed when this was written.
    pub(crate) first_needed: u64,
    /// Commits in it start and end at multiples of it.
    pub(crate) commit_align: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&MAGIC);
        block[8..24].copy_from_slice(&self.uuid);
        for (at, value) in [
            (24, u64::from(self.segment.0)),
            (32, self.chain),
            (40, self.epoch),
            (48, self.first_lsn.0),
            (56, self.first_needed),
        ] {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        block[64..68].copy_from_slice(&self.commit_align.to_le_bytes());
        let checksum = Checksum::of(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Returns the header of `segment` in whatever region, or `None` if its first block holds none.
    pub(crate) fn decode_any(block: &[u8], segment: SegmentId) -> Option<Self> {
        Self::decode(block, array(block, 8), segment)
    }

    /// Returns the header of `segment` in the region `uuid`, or `None` if its first block holds
    /// none.
    pub(crate) fn decode(block: &[u8], uuid: [u8; 16], segment: SegmentId) -> Option<Self> {
        let header = Self {
            uuid: array(block, 8),
            segment,
            chain: u64_at(block, 32),
            epoch: u64_at(block, 40),
            first_lsn: Lsn(u64_at(block, 48)),
            first_needed: u64_at(block, 56),
            commit_align: u32_at(block, 64),
        };
        let valid = block[..8] == MAGIC
            && header.uuid == uuid
            && u64_at(block, 24) == u64::from(segment.0)
            && matches!(header.commit_align, 64 | 4096)
            && u64_at(block, CHECKSUM_AT) == Checksum::of(&block[..CHECKSUM_AT]);
        valid.then_some(header)
    }
}
