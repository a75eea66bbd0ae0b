//! The header of a commit: the unit of validity (D2).

use impasto_region::Checksum;

use super::{COMMIT_BYTES_MAX, LogOffset, u32_at, u64_at};
use crate::Lsn;

const MAGIC: u32 = 0x544d_4349;
const HEADER_BYTES: usize = 64;
const CHECKSUM_AT: usize = 56;

/// What a commit says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    /// Of the records behind it.
    pub(crate) bytes: u32,
    pub(crate) offset: LogOffset,
    pub(crate) epoch: u64,
    /// Where the epoch started, repeated (D6).
    pub(crate) start_lsn: Lsn,
    pub(crate) start_offset: LogOffset,
    /// Of its first record.
    pub(crate) first_lsn: Lsn,
    /// The witness: durable when this was sealed.
    pub(crate) durable_lsn: Lsn,
}

impl CommitHeader {
    pub(crate) const BYTES: u64 = HEADER_BYTES as u64;

    /// Starts the checksum: seeded with the region and the place, against stale and misdirected
    /// writes. The caller adds the records.
    pub(crate) fn checksum(&self, uuid: [u8; 16], region_offset: u64) -> Checksum {
        let mut seed = [0; 24 + CHECKSUM_AT];
        seed[..16].copy_from_slice(&uuid);
        seed[16..24].copy_from_slice(&region_offset.to_le_bytes());
        seed[24..].copy_from_slice(&self.encode(0)[..CHECKSUM_AT]);
        let mut sum = Checksum::new();
        sum.update(&seed);
        sum
    }

    pub(crate) fn encode(&self, checksum: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        for (at, value) in [
            (8, self.offset.0),
            (16, self.epoch),
            (24, self.start_lsn.0),
            (32, self.start_offset.0),
            (40, self.first_lsn.0),
            (48, self.durable_lsn.0),
            (CHECKSUM_AT, checksum),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header
    }

    /// Returns the commit at the start of `bytes`, which reach to the end of its segment, and its
    /// records; or `None` if none that belongs at `offset` stands there whole.
    pub(crate) fn read(
        bytes: &[u8],
        uuid: [u8; 16],
        region_offset: u64,
        offset: LogOffset,
    ) -> Option<(Self, &[u8])> {
        let header = Self::peek(bytes).filter(|header| header.offset == offset)?;
        let start = usize::try_from(Self::BYTES).ok()?;
        let end = start.checked_add(usize::try_from(header.bytes).ok()?)?;
        let records = bytes.get(start..end).filter(|_| end as u64 <= COMMIT_BYTES_MAX)?;
        let mut sum = header.checksum(uuid, region_offset);
        sum.update(records);
        (sum.value() == u64_at(bytes, CHECKSUM_AT)).then_some((header, records))
    }

    /// Returns what looks like a header, without a look at its checksum.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || u32_at(bytes, 0) != MAGIC {
            return None;
        }
        Some(Self {
            bytes: u32_at(bytes, 4),
            offset: LogOffset(u64_at(bytes, 8)),
            epoch: u64_at(bytes, 16),
            start_lsn: Lsn(u64_at(bytes, 24)),
            start_offset: LogOffset(u64_at(bytes, 32)),
            first_lsn: Lsn(u64_at(bytes, 40)),
            durable_lsn: Lsn(u64_at(bytes, 48)),
        })
    }

    /// Returns the bytes that the commit takes in the log.
    pub(crate) const fn span_bytes(&self, align: u32) -> u64 {
        (Self::BYTES + self.bytes as u64).next_multiple_of(align as u64)
    }
}
