//! Records: what a commit is made of.

use impasto_region::{BufId, Extent, layout::BUF_BYTES};

use super::{EXTENTS_MAX, INLINE_BYTES_MAX, u32_at, u64_at};
use crate::{LOG_NAME_BYTES_MAX, LOGS_MAX};

/// Bytes of a record before a name, a value or extents.
pub(crate) const HEAD_BYTES: usize = 32;
pub(crate) const TRIM_BYTES: usize = 24;
pub(crate) const EXTENT_BYTES: usize = 12;
const KIND_LOG: u16 = 1;
const KIND_APPEND: u16 = 2;
const KIND_TRIM: u16 = 3;
const FLAG_EXTENTS: u16 = 1;

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// The state of a log at this lsn.
    Log { log: u32, first: u64, next: u64, name: &'a str },
    /// A value was appended.
    Append { log: u32, seq: u64, checksum: u64, len: u32, value: RecordValue<'a> },
    /// Records below `first` are dead.
    Trim { log: u32, first: u64 },
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordValue<'a> {
    /// Behind the record's head, so many bytes from the start of the commit's records.
    Inline { at: u64 },
    /// In extents, as encoded.
    Kept(&'a [u8]),
}

/// Why a record of a valid commit cannot be read: another version wrote it, or a bug did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The kind is not known here.
    #[error("unknown record type {kind}: a newer impasto wrote it")]
    Kind {
        /// The number that stands there.
        kind: u16,
    },
    /// A flag is not known here.
    #[error("unknown flags {flags:#x} of record type {kind}: a newer impasto wrote it")]
    Flags {
        /// The record's kind.
        kind: u16,
        /// The flags that stand there.
        flags: u16,
    },
    /// A field is out of range.
    #[error("the {field} of a record of type {kind} is out of range")]
    Field {
        /// The record's kind.
        kind: u16,
        /// The field's name in docs/format.md.
        field: &'static str,
    },
}

/// Returns the length of a record with the fill behind it.
pub(crate) const fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(8)
}

/// Returns the head of an append; its value or extents follow.
pub(crate) fn append_head(
    log: u32,
    seq: u64,
    checksum: u64,
    len: u32,
    extents: Option<usize>,
) -> [u8; HEAD_BYTES] {
    let tail = extents.map_or(len as usize, |count| count * EXTENT_BYTES);
    let flags = if extents.is_some() { FLAG_EXTENTS } else { 0 };
    let mut head = [0; HEAD_BYTES];
    put_start(&mut head, HEAD_BYTES + tail, KIND_APPEND, flags, log);
    head[12..16].copy_from_slice(&len.to_le_bytes());
    head[16..24].copy_from_slice(&seq.to_le_bytes());
    head[24..32].copy_from_slice(&checksum.to_le_bytes());
    head
}

/// Returns the bytes of an extent.
pub(crate) fn encode_extent(extent: Extent) -> [u8; EXTENT_BYTES] {
    let mut bytes = [0; EXTENT_BYTES];
    bytes[..4].copy_from_slice(&extent.buf.0.to_le_bytes());
    bytes[4..8].copy_from_slice(&extent.offset.to_le_bytes());
    bytes[8..].copy_from_slice(&extent.len.to_le_bytes());
    bytes
}

/// Returns the extents of an encoded list.
pub(crate) fn extents(bytes: &[u8]) -> impl Iterator<Item = Extent> + '_ {
    bytes.chunks_exact(EXTENT_BYTES).map(|bytes| Extent {
        buf: BufId(u32_at(bytes, 0)),
        offset: u32_at(bytes, 4),
        len: u32_at(bytes, 8),
    })
}

/// Returns a log's state: its bytes, and how many of them count.
pub(crate) fn log_record(
    log: u32,
    first: u64,
    next: u64,
    name: &str,
) -> ([u8; HEAD_BYTES + LOG_NAME_BYTES_MAX], usize) {
    let bytes = HEAD_BYTES + name.len();
    let mut record = [0; HEAD_BYTES + LOG_NAME_BYTES_MAX];
    put_start(&mut record, bytes, KIND_LOG, 0, log);
    record[16..24].copy_from_slice(&first.to_le_bytes());
    record[24..32].copy_from_slice(&next.to_le_bytes());
    record[HEAD_BYTES..bytes].copy_from_slice(name.as_bytes());
    (record, bytes)
}

/// Returns a trim.
pub(crate) fn trim_record(log: u32, first: u64) -> [u8; TRIM_BYTES] {
    let mut record = [0; TRIM_BYTES];
    put_start(&mut record, TRIM_BYTES, KIND_TRIM, 0, log);
    record[16..24].copy_from_slice(&first.to_le_bytes());
    record
}

fn put_start(record: &mut [u8], bytes: usize, kind: u16, flags: u16, log: u32) {
    let bytes = u32::try_from(bytes).expect("a record is shorter than a commit");
    record[..4].copy_from_slice(&bytes.to_le_bytes());
    record[4..6].copy_from_slice(&kind.to_le_bytes());
    record[6..8].copy_from_slice(&flags.to_le_bytes());
    record[8..12].copy_from_slice(&log.to_le_bytes());
}

/// Returns the records of a commit, one after the other; an error ends them.
pub(crate) fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, BadRecord>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let result = decode(rest, at as u64);
        at = match result {
            Ok((_, bytes)) => at + bytes.next_multiple_of(8),
            Err(_) => bytes.len(),
        };
        Some(result.map(|(record, _)| record))
    })
}

/// Decodes the record at the start of `bytes`, `at` bytes into its commit's records.
fn decode(bytes: &[u8], at: u64) -> Result<(Record<'_>, usize), BadRecord> {
    if bytes.len() < TRIM_BYTES {
        return Err(BadRecord::Field { kind: 0, field: "bytes" });
    }
    let kind = u16::from_le_bytes([bytes[4], bytes[5]]);
    let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
    let bad = |field| BadRecord::Field { kind, field };
    let len = u32_at(bytes, 0) as usize;
    let log = u32_at(bytes, 8);
    let head = match kind {
        KIND_LOG | KIND_APPEND => HEAD_BYTES,
        KIND_TRIM => TRIM_BYTES,
        _ => return Err(BadRecord::Kind { kind }),
    };
    let known = if kind == KIND_APPEND { FLAG_EXTENTS } else { 0 };
    if flags & !known != 0 {
        return Err(BadRecord::Flags { kind, flags });
    }
    let bytes = bytes.get(..len).filter(|_| len >= head).ok_or_else(|| bad("bytes"))?;
    if log >= LOGS_MAX {
        return Err(bad("log"));
    }
    let record = match kind {
        KIND_LOG => Record::Log {
            log,
            first: u64_at(bytes, 16),
            next: u64_at(bytes, 24),
            name: log_name(&bytes[HEAD_BYTES..]).ok_or_else(|| bad("name"))?,
        },
        KIND_APPEND => decode_append(bytes, log, flags & FLAG_EXTENTS != 0, at).map_err(bad)?,
        _ => Record::Trim { log, first: u64_at(bytes, 16) },
    };
    Ok((record, len))
}

fn decode_append(bytes: &[u8], log: u32, kept: bool, at: u64) -> Result<Record<'_>, &'static str> {
    let len = u32_at(bytes, 12);
    let tail = &bytes[HEAD_BYTES..];
    let value = if kept {
        if !tail.len().is_multiple_of(EXTENT_BYTES) || tail.len() > EXTENTS_MAX * EXTENT_BYTES {
            return Err("bytes");
        }
        let inside = |extent: &Extent| {
            extent.len > 0
                && extent.offset.checked_add(extent.len).is_some_and(|end| end <= BUF_BYTES)
        };
        if !extents(tail).all(|extent| inside(&extent)) {
            return Err("extents");
        }
        if extents(tail).map(|extent| u64::from(extent.len)).sum::<u64>() != u64::from(len) {
            return Err("value_bytes");
        }
        RecordValue::Kept(tail)
    } else {
        if tail.len() != len as usize || len > INLINE_BYTES_MAX {
            return Err("value_bytes");
        }
        RecordValue::Inline { at: at + HEAD_BYTES as u64 }
    };
    Ok(Record::Append { log, seq: u64_at(bytes, 16), checksum: u64_at(bytes, 24), len, value })
}

fn log_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    (1..=LOG_NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(len: u32) -> Vec<u8> {
        let mut bytes = append_head(7, 3, 99, len, None).to_vec();
        bytes.resize(HEAD_BYTES + len as usize, 0x55);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let mut bytes = append(5);
        let (log, len) = log_record(7, 1, 4, "orders");
        let log_at = bytes.len();
        bytes.extend(&log[..len]);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(trim_record(7, 2));
        let read: Vec<_> = records(&bytes).map(Result::unwrap).collect();
        let value = RecordValue::Inline { at: 32 };
        assert_eq!(read[0], Record::Append { log: 7, seq: 3, checksum: 99, len: 5, value });
        assert_eq!(read[1], Record::Log { log: 7, first: 1, next: 4, name: "orders" });
        assert_eq!(read[2], Record::Trim { log: 7, first: 2 });
        assert_eq!(log_at % 8, 0);
        assert_eq!(read.len(), 3);
    }

    /// A record type that this version cannot replay must not be skipped: its effect would be lost.
    #[test]
    fn an_unknown_kind_is_refused_with_its_number() {
        let mut bytes = append(8);
        bytes[4] = 9;
        assert_eq!(records(&bytes).next(), Some(Err(BadRecord::Kind { kind: 9 })));
        let mut bytes = append(8);
        bytes[6] = 2;
        let refused = BadRecord::Flags { kind: 2, flags: 2 };
        assert_eq!(records(&bytes).next(), Some(Err(refused)));
    }

    /// Recovery decodes what stands on a medium: no byte of it may panic.
    #[test]
    fn no_flipped_bit_panics() {
        let extent = Extent { buf: BufId(1), offset: 0, len: 100 };
        let mut kept = append_head(1, 1, 0, 100, Some(1)).to_vec();
        kept.extend(encode_extent(extent));
        for bytes in [append(20), kept] {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = records(&flipped).count();
            }
        }
    }
}
