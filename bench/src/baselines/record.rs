//! What is written, as Impasto writes it (docs/format.md): commits of records.
//!
//! ```text
//! |header 64 B|head 32 B|value ..|..8|head|value|..8| ... |    the next commit, aligned
//! ```
//!
//! The checksum of a commit is over the heads of its records and its header; a head has the
//! checksum of its value, which the reply needs anyway. So each byte is summed once, and no more is
//! asked of a server by hand than of Impasto where that keeps values.

use impasto::region::Checksum;

/// What happened to a log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record<'a> {
    /// It came to be.
    Log { log: u32, name: &'a str },
    /// It has one value more.
    Append { log: u32, seq: u64, checksum: u64, value: &'a [u8] },
    /// What it had before `first` is not wanted any more.
    Trim { log: u32, first: u64 },
}

/// The first bytes of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    bytes: [u8; HEAD],
    len: usize,
}

impl Record<'_> {
    /// Returns what stands before its body.
    pub(super) fn head(&self) -> Head {
        match *self {
            Self::Log { log, name } => Head::new(1, log, [0, 1, 1], HEAD, name.len()),
            Self::Append { log, seq, checksum, value } => {
                Head::append(log, seq, checksum, value.len())
            }
            Self::Trim { log, first } => Head::new(3, log, [0, first, 0], TRIM, 0),
        }
    }

    /// Returns what stands behind its head.
    pub(super) fn body(&self) -> &[u8] {
        match self {
            Self::Log { name, .. } => name.as_bytes(),
            Self::Append { value, .. } => value,
            Self::Trim { .. } => &[],
        }
    }
}

impl Head {
    /// Returns the head of a value, which follows.
    pub(super) fn append(log: u32, seq: u64, checksum: u64, value_bytes: usize) -> Self {
        Self::new(2, log, [value_bytes as u64, seq, checksum], HEAD, value_bytes)
    }

    fn new(kind: u16, log: u32, fields: [u64; 3], len: usize, body_len: usize) -> Self {
        let mut bytes = [0; HEAD];
        let word = |value: usize| u32::try_from(value).expect("a record is short").to_le_bytes();
        bytes[..4].copy_from_slice(&word(len + body_len));
        bytes[4..6].copy_from_slice(&kind.to_le_bytes());
        bytes[8..12].copy_from_slice(&log.to_le_bytes());
        // The first field is a u32, and a value's length at most.
        bytes[12..16].copy_from_slice(&fields[0].to_le_bytes()[..4]);
        bytes[16..24].copy_from_slice(&fields[1].to_le_bytes());
        bytes[24..].copy_from_slice(&fields[2].to_le_bytes());
        Self { bytes, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Says that the value is elsewhere: in extents, which follow instead, so long.
    pub(super) fn keep(mut self, extents_len: usize) -> Self {
        let len = u32::try_from(self.len + extents_len).expect("both are short");
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[6] = 1;
        self
    }
}

/// The header of a commit that grows.
#[derive(Debug)]
pub(super) struct Open {
    /// Gathered, since many short parts cost a checksum more than one long one.
    heads: Vec<u8>,
    bytes: usize,
    first_lsn: u64,
    next_lsn: u64,
}

impl Open {
    pub(super) fn new() -> Self {
        Self { heads: Vec::new(), bytes: 0, first_lsn: 1, next_lsn: 1 }
    }

    /// Returns the length of the commit, header included; 0 if nothing is in it.
    pub(super) const fn len(&self) -> usize {
        if self.bytes == 0 { 0 } else { HEADER + self.bytes }
    }

    /// Adds a record, of which `stored` bytes follow its head; returns where in the commit it is.
    pub(super) fn add(&mut self, head: &Head, stored: usize) -> usize {
        self.heads.extend_from_slice(head.bytes());
        let at = HEADER + self.bytes;
        self.bytes = (self.bytes + head.len + stored).next_multiple_of(8);
        self.next_lsn += 1;
        at
    }

    /// Returns the header of what was added, for a commit at `log_offset`, and begins anew.
    pub(super) fn seal(&mut self, log_offset: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(b"ICMT");
        let bytes = u32::try_from(self.bytes).expect("a commit is short");
        header[4..8].copy_from_slice(&bytes.to_le_bytes());
        // Epoch, start and witness, for which nobody recovers here, are all of a first epoch's.
        let fields = [log_offset, 1, 1, 0, self.first_lsn, self.first_lsn - 1];
        for (field, value) in header[8..56].chunks_exact_mut(8).zip(fields) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        self.heads.extend_from_slice(&header[..56]);
        header[56..].copy_from_slice(&Checksum::of(&self.heads).to_le_bytes());
        self.heads.clear();
        (self.bytes, self.first_lsn) = (0, self.next_lsn);
        header
    }
}

pub(super) const HEADER: usize = 64;
pub(super) const HEAD: usize = 32;
const TRIM: usize = 24;
/// Buffer, offset and length, a `u32` each.
pub(super) const EXTENT: usize = 12;
