//! Values that tell whose they are: the number of the key, then bytes that are the same for all.

use std::sync::Arc;

use super::Outbox;
use crate::statistics::Random;

/// The values of all keys, each of the same length.
#[derive(Clone, Debug)]
pub struct Values {
    /// In place of the first [`STAMP_BYTES`] stands the stamp.
    filler: Arc<[u8]>,
}

impl Values {
    /// Returns values of `len` bytes. Shorter than 15, they do not tell all keys apart.
    pub fn new(len: usize) -> Self {
        Self { filler: Random::new(len as u64).bytes(len).into() }
    }

    /// Returns the length of a value.
    pub fn len_bytes(&self) -> usize {
        self.filler.len()
    }

    /// Returns what stands behind the stamp of each.
    pub(crate) fn behind_stamp(&self) -> &[u8] {
        self.filler.get(STAMP_BYTES..).unwrap_or_default()
    }

    /// Returns what the value of a key begins with.
    pub(crate) fn stamp(&self, key: u64) -> Stamp {
        Stamp { bytes: stamp(key), len: self.filler.len().min(STAMP_BYTES) }
    }

    /// Appends the value of a key.
    pub(crate) fn write(&self, key: u64, out: &mut Outbox) {
        let stamp = self.stamp(key);
        out.own.extend_from_slice(stamp.as_ref());
        out.push(&self.filler, stamp.len..self.filler.len());
    }

    /// Returns true if `piece` is what stands at `at` of the value of `key`.
    pub(crate) fn matches(&self, key: u64, at: usize, piece: &[u8]) -> bool {
        let Some(wanted) = self.filler.get(at..at + piece.len()) else { return false };
        let stamped = STAMP_BYTES.saturating_sub(at).min(piece.len());
        piece[stamped..] == wanted[stamped..]
            && (stamped == 0 || piece[..stamped] == stamp(key)[at..at + stamped])
    }
}

/// The number of a key, as far as its value has room for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    bytes: [u8; STAMP_BYTES],
    len: usize,
}

impl AsRef<[u8]> for Stamp {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Returns the number of a key in digits, the last ones first, so that short values differ.
fn stamp(key: u64) -> [u8; STAMP_BYTES] {
    let mut left = key;
    std::array::from_fn(|_| {
        let digit = b"0123456789abcdef"[(left % 16) as usize];
        left /= 16;
        digit
    })
}

/// A multiple of 3: base64 of it stands for itself.
pub(crate) const STAMP_BYTES: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that is another key's, or cut, or shifted, must not pass for the right one.
    #[test]
    fn a_value_matches_its_key_alone_in_any_pieces() {
        for len in [0, 3, 15, 16, 40_000] {
            let values = Values::new(len);
            let mut out = Outbox::default();
            let mut value = Vec::new();
            values.write(77, &mut out);
            out.write(&mut value).unwrap();
            assert_eq!(value.len(), len);
            for cut in [0, 1, 14, 15, 16, len / 2].into_iter().filter(|cut| *cut <= len) {
                assert!(values.matches(77, 0, &value[..cut]), "{len} {cut}");
                assert!(values.matches(77, cut, &value[cut..]), "{len} {cut}");
            }
            assert_eq!(values.matches(78, 0, &value), len == 0);
            assert!(!values.matches(77, 1, &value) || len == 0);
            assert!(!values.matches(77, len, b"x"));
        }
    }
}
