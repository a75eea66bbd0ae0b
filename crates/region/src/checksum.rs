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
#[derive(Clone)]
pub struct Checksum(Digest);

impl Checksum {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
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
        self.0.update(bytes);
    }

    /// Returns the checksum of all bytes added so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
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
