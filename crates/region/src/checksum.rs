//! The one checksum of the format: CRC-64/NVME.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

/// A running CRC-64/NVME.
///
/// ```
/// use impasto_region::Checksum;
/// let mut sum = Checksum::new();
/// sum.update(b"1234");
/// sum.update(b"56789");
/// // The check value of the NVM Express specification.
/// assert_eq!(sum.value(), 0xae8b_1486_0a79_9888);
/// ```
#[derive(Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Starts with no bytes.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Returns the checksum of `bytes` alone.
    pub fn of(bytes: &[u8]) -> u64 {
        crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
    }

    /// Returns the checksum of bytes of which the first part has the checksum `first`, and what is
    /// left, `rest_bytes` long, has `rest`.
    pub fn combine(first: u64, rest: u64, rest_bytes: u64) -> u64 {
        crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, first, rest, rest_bytes)
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        // Most sums are of one piece. A digest has its tables with it: 200 bytes, which take as
        // long as the checksum of 64.
        if self.0 == 0 {
            self.0 = Self::of(bytes);
            return;
        }
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Nvme, !self.0);
        digest.update(bytes);
        self.0 = digest.finalize();
    }

    /// Returns the checksum of all bytes added so far.
    pub const fn value(&self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:#018x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, bit by bit: CRC-64/NVME, as the NVM Express specification has it.
    fn by_definition(bytes: &[u8]) -> u64 {
        const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
        let bit = |crc: u64, _| crc >> 1 ^ (crc & 1).wrapping_neg() & POLYNOMIAL;
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u64::from(*byte), bit))
    }

    /// The bytes are on the medium: another value for one length, in one of the ways in which the
    /// library goes through bytes, and a region of yesterday is corrupt.
    #[test]
    fn every_length_has_the_value_of_the_definition() {
        let bytes: Vec<u8> = (0..4200_u32).map(|n| (n * n + n / 7).to_le_bytes()[1]).collect();
        for len in (0..1100).chain(4090..4200) {
            let (start, expected) = (len % 9, by_definition(&bytes[len % 9..len.max(len % 9)]));
            let bytes = &bytes[start..len.max(start)];
            assert_eq!(Checksum::of(bytes), expected, "{len}");
            for cut in [1, 7, 16, 127, 128, 129, 256, bytes.len() / 2] {
                let (first, rest) = bytes.split_at(cut.min(bytes.len()));
                let mut sum = Checksum::new();
                sum.update(first);
                sum.update(rest);
                assert_eq!(sum.value(), expected, "{len} cut at {cut}");
            }
        }
    }

    /// Nothing of it may depend on where the pieces are cut, or on pieces that are empty.
    #[test]
    fn pieces_make_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..300_u32).map(|n| (n * n).to_le_bytes()[1]).collect();
        for first in 0..bytes.len() {
            for second in [first, (first + bytes.len()) / 2, bytes.len()] {
                let mut sum = Checksum::new();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    sum.update(piece);
                }
                assert_eq!(sum.value(), Checksum::of(&bytes), "{first} {second}");
            }
        }
        assert_eq!((Checksum::new().value(), Checksum::of(&[])), (0, 0));
    }

    /// Bytes after which the sum is that of nothing must not be forgotten: eight bytes can bring a
    /// CRC of 64 bits to any value.
    #[test]
    fn a_checksum_that_comes_back_to_zero_goes_on() {
        let mut bytes = b"some bytes and ".to_vec();
        // Each bit of eight bytes changes the sum on its own: solve for the ones that undo it.
        let sum = |tail: u64| {
            let mut sum = Checksum::new();
            sum.update(&bytes);
            sum.update(&tail.to_le_bytes());
            sum.value()
        };
        let (none, mut rows) = (sum(0), Vec::new());
        rows.extend((0..64).map(|bit| (sum(1 << bit) ^ none, 1_u64 << bit)));
        let (mut left, mut tail) = (none, 0);
        for bit in 0..64 {
            let row = rows.iter().position(|(sum, _)| sum >> bit & 1 == 1);
            let row = rows.swap_remove(row.expect("a CRC loses nothing"));
            for other in rows.iter_mut().filter(|(sum, _)| sum >> bit & 1 == 1) {
                *other = (other.0 ^ row.0, other.1 ^ row.1);
            }
            if left >> bit & 1 == 1 {
                (left, tail) = (left ^ row.0, tail ^ row.1);
            }
        }
        bytes.extend(tail.to_le_bytes());
        let mut sum = Checksum::new();
        sum.update(&bytes);
        assert_eq!(sum.value(), 0);
        sum.update(b"more");
        bytes.extend(b"more");
        // By one piece whose sum was never 0 on the way to the caller.
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(&bytes);
        assert_eq!(sum.value(), digest.finalize());
    }

    /// Values are read in the order in which they stand, not in the order of their parts.
    #[test]
    fn the_checksums_of_parts_make_that_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[n as usize % 2]).collect();
        for cut in [0, 1, 4095, 9999, 10_000] {
            let (first, rest) = bytes.split_at(cut);
            let combined =
                Checksum::combine(Checksum::of(first), Checksum::of(rest), rest.len() as u64);
            assert_eq!(combined, Checksum::of(&bytes), "{cut}");
        }
    }
}
