//! What goes into the store and what comes out.

use std::fmt;

use impasto_region::{Checksum, Extent, Span};

/// Most logs that a region holds.
pub const LOGS_MAX: u32 = 65_536;
/// Most bytes of a log's name.
pub const LOG_NAME_BYTES_MAX: usize = 128;

/// A record's place in the order of all effects; the first is 1, and 0 stands before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where record bytes go. The caller stands between the store and the memory.
pub trait Sink {
    /// Copies `bytes` to offset `at` of the region.
    fn put(&mut self, at: u64, bytes: &[u8]);

    /// Copies the value of the request being applied, which is [`Value::Inline`], to offset `at`.
    fn put_value(&mut self, at: u64);

    /// Adds the bytes of `span`, all of them put before, to `sum`.
    fn sum(&self, span: Span, sum: &mut Checksum);
}

/// What a user asks for. Names are valid: 1 to 128 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Appends a record to a log, and creates the log if there is none of that name.
    Append {
        /// Name of the log.
        log: &'a str,
        /// Value of the record.
        value: Value<'a>,
    },
    /// Finds a record's value.
    Read {
        /// Name of the log.
        log: &'a str,
        /// Sequence number of the record.
        seq: u64,
    },
    /// Kills every record with a sequence number below `before`, at most all there are.
    Trim {
        /// Name of the log.
        log: &'a str,
        /// The first sequence number to stay.
        before: u64,
    },
    /// Describes a log.
    Describe {
        /// Name of the log.
        log: &'a str,
    },
}

/// The value of an append.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// It will stand in the record: the store calls [`Sink::put_value`] for it. At most 64 KiB.
    Inline {
        /// Its length in bytes.
        len: u32,
        /// Its CRC-64/NVME.
        checksum: u64,
    },
    /// It stays where it is: where it landed, or in extents of
    /// [`Store::reserve`](crate::Store::reserve).
    Kept {
        /// Where it is, in order; at most 1,024 extents.
        extents: &'a [Extent],
        /// Its CRC-64/NVME.
        checksum: u64,
    },
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Applied {
    /// It has taken effect, or was refused.
    Done(Effect),
    /// It had no effect. Bring the extents of [`Store::found`](crate::Store::found) into their
    /// frames, check them against `Load::checksum`, call
    /// [`Store::loaded`](crate::Store::loaded), and apply it again.
    Needs(Load),
    /// It had no effect: the open commit has no room for it. Seal, then apply it again.
    Wait,
}

/// The effect of a request.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The highest lsn that the request read or wrote: the reply leaves when it is durable (D3).
    pub lsn: Lsn,
    /// The answer.
    pub answer: Result<Answer, Refusal>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Request::Append`].
    Appended {
        /// Sequence number of the new record.
        seq: u64,
    },
    /// To [`Request::Read`]; [`Store::found`](crate::Store::found) says where the value is.
    Found {
        /// Length of the value in bytes.
        len: u32,
        /// CRC-64/NVME of the value.
        checksum: u64,
    },
    /// To [`Request::Trim`].
    Trimmed(LogInfo),
    /// To [`Request::Describe`].
    Described(LogInfo),
}

/// A log in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Sequence number of the oldest record; `next` if there is none.
    pub first: u64,
    /// Sequence number that the next record gets.
    pub next: u64,
    /// Number of records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

/// What the buffers of a region are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// For nothing.
    pub free: u32,
    /// For the log, and the short values in it.
    pub log: u32,
    /// A port lands bytes in them.
    pub landing: u32,
    /// For values, those that are coming included.
    pub kept: u32,
}

/// Why a request was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no log of that name.
    #[error("no such log")]
    NoSuchLog,
    /// The record was trimmed.
    #[error("trimmed: the log starts at {first}")]
    Trimmed {
        /// Sequence number of the oldest record.
        first: u64,
    },
    /// The record was not appended yet.
    #[error("not there yet: the next record gets {next}")]
    Future {
        /// Sequence number that the next record gets.
        next: u64,
    },
    /// The region is full.
    #[error("the region is full: trim logs to make room")]
    NoSpace,
    /// The region is full, also of trims that set little free: one that leaves no record of its log
    /// is always taken.
    #[error("the region is full, and takes trims of whole logs only")]
    NoSpaceToTrim,
    /// There are as many logs as there can be.
    #[error("the region holds {LOGS_MAX} logs and takes no more")]
    TooManyLogs,
    /// The medium has failed: the region is read-only until it is started again (D7).
    #[error("the medium has failed: the region is read-only until a restart")]
    ReadOnly,
}

/// A value that has to be read or verified before it can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Number of the log.
    pub(crate) log: u32,
    /// Sequence number of the record.
    pub(crate) seq: u64,
    /// CRC-64/NVME of the value.
    pub checksum: u64,
}

impl Load {
    /// Returns the sequence number of the record.
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

/// A sealed commit, to be made durable by the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number: commits count from 0 without a gap.
    pub id: u64,
    /// Its bytes in the region, whole blocks or lines, with the segment header if it starts a
    /// segment.
    pub span: Span,
    /// Lsn of its first record.
    pub first_lsn: Lsn,
    /// Lsn of its last record.
    pub last_lsn: Lsn,
}
