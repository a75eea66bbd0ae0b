//! The superblock: a region's size, epoch and last witness, in one sector (D9).

use uuid::Uuid;

use super::{BLOCK_LEN, Geometry};
use crate::Checksum;

const MAGIC: [u8; 8] = *b"IMPASTO\0";
/// Incompatible feature: the log of docs/format.md.
pub const INCOMPAT_LOG_V1: u64 = 1;
const SECTOR_BYTES: usize = 512;

mod field {
    use std::ops::Range;

    pub(super) type Field = Range<usize>;
    pub(super) const MAGIC: Field = 0..8;
    pub(super) const COMPAT: Field = 8..16;
    pub(super) const RO_COMPAT: Field = 16..24;
    pub(super) const INCOMPAT: Field = 24..32;
    pub(super) const UUID: Field = 32..48;
    pub(super) const GENERATION: Field = 48..56;
    pub(super) const REGION_BYTES: Field = 56..64;
    pub(super) const COMMIT_ALIGN: Field = 64..68;
    pub(super) const MEDIUM: usize = 68;
    pub(super) const CLEAN: usize = 69;
    pub(super) const EPOCH: Field = 72..80;
    pub(super) const START_LSN: Field = 80..88;
    pub(super) const START_OFFSET: Field = 88..96;
    pub(super) const FIRST_NEEDED: Field = 96..104;
    pub(super) const DURABLE_LSN: Field = 104..112;
    pub(super) const CHECKSUM: Field = 504..512;
}

/// The medium that a region was last served on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediumKind {
    /// File or block device, durable by `O_DIRECT` writes with `RWF_DSYNC`.
    Disk,
    /// Shared memory: survives a process, not a power loss.
    Shm,
    /// Persistent memory.
    Pmem,
}

impl MediumKind {
    /// Returns the word that the command line uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Shm => "shm",
            Self::Pmem => "pmem",
        }
    }

    /// Returns what a commit's start and end are a multiple of.
    pub const fn commit_align(self) -> u32 {
        match self {
            Self::Disk => 4096,
            Self::Shm | Self::Pmem => 64,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Disk => 1,
            Self::Shm => 2,
            Self::Pmem => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Disk),
            2 => Some(Self::Shm),
            3 => Some(Self::Pmem),
            _ => None,
        }
    }
}

/// Why a block is no superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// The block does not start with the magic: never written, or not ours.
    #[error("no superblock: the magic is missing")]
    Magic,
    /// The checksum does not hold.
    #[error("the superblock does not verify")]
    Checksum,
    /// The device could not read the block.
    #[error("the superblock cannot be read")]
    Unreadable,
    /// A newer Impasto wrote it and says that an older one must not read it.
    #[error("unknown incompatible format bits {bits:#x}: a newer impasto wrote this region")]
    Incompat {
        /// The bits that are not known here.
        bits: u64,
    },
    /// A newer Impasto wrote it and says that an older one must not write to the region.
    #[error("unknown format bits {bits:#x} for writers: a newer impasto wrote this region")]
    RoCompat {
        /// The bits that are not known here.
        bits: u64,
    },
    /// A field holds what no version of this format writes.
    #[error("the superblock's {field} is out of range")]
    Field {
        /// The field's name in docs/format.md.
        field: &'static str,
    },
}

/// The decoded superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Features that an older version may ignore: kept as they are by one that does not know them.
    pub compat: u64,
    /// Features that an older version may ignore if it only reads. None is known here, so a region
    /// with one is looked at and not served.
    pub ro_compat: u64,
    /// Random name of the region.
    pub uuid: Uuid,
    /// Of two valid copies the higher one holds; it is written to copy `generation mod 2`.
    pub generation: u64,
    /// The region's size.
    pub geometry: Geometry,
    /// Commits start and end at multiples of it.
    pub commit_align: u32,
    /// The medium of the last run.
    pub medium: MediumKind,
    /// True if the last run stopped cleanly: `durable_lsn` is the log's last.
    pub clean: bool,
    /// The last run; 0 if there was none.
    pub epoch: u64,
    /// First lsn that `epoch` may write (D6).
    pub start_lsn: u64,
    /// Log offset of `start_lsn`.
    pub start_offset: u64,
    /// Chain number of the oldest log segment still needed.
    pub first_needed: u64,
    /// Every lsn up to it was durable when this was written.
    pub durable_lsn: u64,
}

impl Superblock {
    /// Returns the superblock of a new region, never served.
    pub fn fresh(geometry: Geometry, medium: MediumKind) -> Self {
        Self {
            compat: 0,
            ro_compat: 0,
            uuid: Uuid::new_v4(),
            generation: 0,
            geometry,
            commit_align: medium.commit_align(),
            medium,
            clean: true,
            epoch: 0,
            start_lsn: 1,
            start_offset: super::SEGMENT_BYTES,
            first_needed: 1,
            durable_lsn: 0,
        }
    }

    /// Returns a superblock in place of two that are lost. Nothing is known of the last run: the
    /// log tells.
    pub fn rebuilt(
        geometry: Geometry,
        medium: MediumKind,
        uuid: [u8; 16],
        first_needed: u64,
    ) -> Self {
        Self {
            uuid: Uuid::from_bytes(uuid),
            generation: 1,
            clean: false,
            first_needed,
            ..Self::fresh(geometry, medium)
        }
    }

    /// Returns the copy, 0 or 1, that this generation is written to.
    pub const fn copy(&self) -> u64 {
        self.generation % 2
    }

    /// Returns the block as it stands on the medium.
    pub fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[field::MAGIC].copy_from_slice(&MAGIC);
        block[field::UUID].copy_from_slice(self.uuid.as_bytes());
        block[field::COMMIT_ALIGN].copy_from_slice(&self.commit_align.to_le_bytes());
        block[field::MEDIUM] = self.medium.code();
        block[field::CLEAN] = u8::from(self.clean);
        for (at, value) in [
            (field::COMPAT, self.compat),
            (field::RO_COMPAT, self.ro_compat),
            (field::INCOMPAT, INCOMPAT_LOG_V1),
            (field::GENERATION, self.generation),
            (field::REGION_BYTES, self.geometry.region_bytes()),
            (field::EPOCH, self.epoch),
            (field::START_LSN, self.start_lsn),
            (field::START_OFFSET, self.start_offset),
            (field::FIRST_NEEDED, self.first_needed),
            (field::DURABLE_LSN, self.durable_lsn),
        ] {
            block[at].copy_from_slice(&value.to_le_bytes());
        }
        let checksum = checksum(&block, self.copy());
        block[field::CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Decodes copy `copy` from its block.
    ///
    /// # Errors
    /// Whatever keeps the block from being a superblock of a region that this version can serve.
    ///
    /// # Panics
    /// If `block` is shorter than a sector.
    pub fn decode(block: &[u8], copy: u64) -> Result<Self, SuperblockError> {
        let superblock = Self::decode_to_read(block, copy)?;
        match superblock.ro_compat {
            0 => Ok(superblock),
            bits => Err(SuperblockError::RoCompat { bits }),
        }
    }

    /// As [`decode`](Self::decode), for one who writes nothing: bits that concern writers pass.
    ///
    /// # Errors
    /// Whatever keeps the block from being a superblock that this version can read.
    ///
    /// # Panics
    /// If `block` is shorter than a sector.
    pub fn decode_to_read(block: &[u8], copy: u64) -> Result<Self, SuperblockError> {
        use SuperblockError as E;
        if block[field::MAGIC] != MAGIC {
            return Err(E::Magic);
        }
        if u64_at(block, field::CHECKSUM) != checksum(block, copy) {
            return Err(E::Checksum);
        }
        let incompat = u64_at(block, field::INCOMPAT);
        if incompat & !INCOMPAT_LOG_V1 != 0 {
            return Err(E::Incompat { bits: incompat & !INCOMPAT_LOG_V1 });
        }
        if incompat != INCOMPAT_LOG_V1 {
            return Err(E::Field { field: "incompat" });
        }
        let superblock = Self {
            compat: u64_at(block, field::COMPAT),
            ro_compat: u64_at(block, field::RO_COMPAT),
            uuid: Uuid::from_bytes(array(block, field::UUID)),
            generation: u64_at(block, field::GENERATION),
            geometry: Geometry::new(u64_at(block, field::REGION_BYTES))
                .ok_or(E::Field { field: "region_bytes" })?,
            commit_align: u32::from_le_bytes(array(block, field::COMMIT_ALIGN)),
            medium: MediumKind::from_code(block[field::MEDIUM])
                .ok_or(E::Field { field: "medium" })?,
            clean: match block[field::CLEAN] {
                0 => false,
                1 => true,
                _ => return Err(E::Field { field: "clean" }),
            },
            epoch: u64_at(block, field::EPOCH),
            start_lsn: u64_at(block, field::START_LSN),
            start_offset: u64_at(block, field::START_OFFSET),
            first_needed: u64_at(block, field::FIRST_NEEDED),
            durable_lsn: u64_at(block, field::DURABLE_LSN),
        };
        if !matches!(superblock.commit_align, 64 | 4096) {
            return Err(E::Field { field: "commit_align" });
        }
        if superblock.copy() != copy {
            return Err(E::Field { field: "generation" });
        }
        Ok(superblock)
    }
}

fn checksum(block: &[u8], copy: u64) -> u64 {
    let mut sum = Checksum::new();
    sum.update(&block[..field::CHECKSUM.start]);
    sum.update(&copy.to_le_bytes());
    sum.value()
}

fn u64_at(block: &[u8], at: field::Field) -> u64 {
    u64::from_le_bytes(array(block, at))
}

fn array<const N: usize>(block: &[u8], at: field::Field) -> [u8; N] {
    block[at].try_into().expect("a field has the width of its type")
}

const _: () = assert!(field::CHECKSUM.end == SECTOR_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            compat: 0,
            ro_compat: 0,
            uuid: Uuid::from_bytes(
                *b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
            ),
            generation: 0x0102_0304_0506_0707,
            geometry: Geometry::new(64 << 20).unwrap(),
            commit_align: 4096,
            medium: MediumKind::Disk,
            clean: true,
            epoch: 0x21,
            start_lsn: 0x2223,
            start_offset: 0x24_2526,
            first_needed: 0x27,
            durable_lsn: 0x2829,
        }
    }

    /// Regions that exist must stay readable: these bytes may not change without a new format. The
    /// checksum was computed by another implementation.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let block = superblock().encode();
        let golden: [&[u8]; 7] = [
            b"IMPASTO\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0",
            b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
            b"\x07\x07\x06\x05\x04\x03\x02\x01\0\0\0\x04\0\0\0\0",
            b"\0\x10\0\0\x01\x01\0\0\x21\0\0\0\0\0\0\0",
            b"\x23\x22\0\0\0\0\0\0\x26\x25\x24\0\0\0\0\0",
            b"\x27\0\0\0\0\0\0\0\x29\x28\0\0\0\0\0\0",
        ];
        assert_eq!(block[..112], golden.concat());
        assert!(block[112..504].iter().all(|&byte| byte == 0));
        assert_eq!(block[504..512], 0x6e0c_763c_9eb6_6bd4_u64.to_le_bytes());
        assert!(block[512..].iter().all(|&byte| byte == 0));
        assert_eq!(Superblock::decode(&block, 1), Ok(superblock()));
    }

    /// A damaged field that is believed can lose everything.
    #[test]
    fn every_flipped_bit_is_seen() {
        let block = superblock().encode();
        for bit in 0..SECTOR_BYTES * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected =
                if bit / 8 < 8 { SuperblockError::Magic } else { SuperblockError::Checksum };
            assert_eq!(Superblock::decode(&flipped, 1), Err(expected), "bit {bit}");
        }
    }

    /// A misdirected write of one copy over the other would otherwise bring back the past.
    #[test]
    fn a_copy_is_valid_in_its_own_place_only() {
        let block = superblock().encode();
        assert_eq!(Superblock::decode(&block, 0), Err(SuperblockError::Checksum));
        let mut odd = superblock();
        odd.generation = 4;
        assert_eq!(Superblock::decode(&odd.encode(), 0), Ok(odd));
    }

    /// Bits and values of a newer version are named, not guessed at.
    #[test]
    fn what_only_a_newer_version_writes_is_refused_by_name() {
        use SuperblockError as E;
        let cases = [
            (field::INCOMPAT.start, 3, E::Incompat { bits: 2 }),
            (field::INCOMPAT.start, 0, E::Field { field: "incompat" }),
            (field::RO_COMPAT.start, 4, E::RoCompat { bits: 4 }),
            (field::REGION_BYTES.start, 1, E::Field { field: "region_bytes" }),
            (field::COMMIT_ALIGN.start, 1, E::Field { field: "commit_align" }),
            (field::MEDIUM, 0, E::Field { field: "medium" }),
            (field::CLEAN, 2, E::Field { field: "clean" }),
            (field::GENERATION.start, 0, E::Field { field: "generation" }),
        ];
        for (at, byte, error) in cases {
            let mut block = superblock().encode();
            block[at] = byte;
            let sum = checksum(&block, 1);
            block[field::CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(Superblock::decode(&block, 1), Err(error));
        }
    }

    /// A feature that this version does not know, and need not, is the newer one's when it comes
    /// back: were its bit lost in an update here, what hangs on it would be lost with it.
    #[test]
    fn an_unknown_compatible_bit_is_kept() {
        let mut block = superblock().encode();
        block[field::COMPAT.start] = 0x81;
        let sum = checksum(&block, 1);
        block[field::CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        let found = Superblock::decode(&block, 1).unwrap();
        assert_eq!(found, Superblock { compat: 0x81, ..superblock() });
        assert_eq!(found.encode(), block);
    }

    /// Who writes nothing breaks nothing: `verify` of an older version serves a newer region.
    #[test]
    fn a_bit_for_writers_is_no_reason_not_to_read() {
        let newer = Superblock { ro_compat: 4, ..superblock() };
        let block = newer.encode();
        assert_eq!(Superblock::decode_to_read(&block, 1), Ok(newer));
        assert_eq!(Superblock::decode(&block, 1), Err(SuperblockError::RoCompat { bits: 4 }));
    }

    #[test]
    fn a_fresh_region_belongs_to_copy_0_and_opens() {
        for medium in [MediumKind::Disk, MediumKind::Shm, MediumKind::Pmem] {
            let fresh = Superblock::fresh(Geometry::new(16 << 20).unwrap(), medium);
            assert_eq!(Superblock::decode(&fresh.encode(), 0), Ok(fresh));
        }
    }
}
