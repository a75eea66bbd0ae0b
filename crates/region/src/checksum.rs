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
