//! What can go wrong with a region's file, each with what to do about it.

use std::{fmt, io, path::PathBuf};

use crate::{
    Span,
    layout::{REGION_BYTES_MAX, REGION_BYTES_MIN, SEGMENT_BYTES, SuperblockError},
};

/// Why a region cannot be created or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(clippy::error_impl_error, reason = "read as `region::Error`, as in std::io")]
pub enum Error {
    /// Another process, or another open [`Region`](crate::Region) of this one, holds the lock.
    #[error("{dir} is in use by {}; stop it, or choose another --data", holder(*.pid))]
    InUse {
        /// The region's directory.
        dir: PathBuf,
        /// The process, if it has said so.
        pid: Option<u32>,
    },
    /// There is nothing to open.
    #[error("there is no region in {dir}; check the directory's name, or create a region there")]
    NoRegion {
        /// The directory.
        dir: PathBuf,
    },
    /// Creating would destroy a region.
    #[error("{path} exists already; open it, or choose another --data")]
    Exists {
        /// The region's file.
        path: PathBuf,
    },
    /// A directory, a device, a pipe.
    #[error("{path} is not a regular file; a region has to be one")]
    NotAFile {
        /// What stands in the region's place.
        path: PathBuf,
    },
    /// Neither superblock has the magic.
    #[error("{path} is not a region: impasto did not write it; choose another --data")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Neither superblock can be used, and at least one was ours.
    #[error(
        "both superblocks of {path} are damaged (first: {first}; second: {second}); `impasto \
         repair` tells whether they can be made anew, else restore the region from a backup"
    )]
    Damaged {
        /// The region's file.
        path: PathBuf,
        /// What is wrong with copy 0.
        first: SuperblockError,
        /// What is wrong with copy 1.
        second: SuperblockError,
    },
    /// A superblock is whole but says something that this version cannot read.
    #[error("superblock {copy} of {path}: {error}; open it with the impasto that wrote it")]
    Unsupported {
        /// The region's file.
        path: PathBuf,
        /// Which copy, 0 or 1.
        copy: u64,
        /// What it says.
        error: SuperblockError,
    },
    /// Both superblocks are whole, but they are not copies of each other.
    #[error(
        "the superblocks of {path} belong to two different regions; the file was overwritten or \
         put together from parts: restore it from a backup"
    )]
    Mixed {
        /// The region's file.
        path: PathBuf,
    },
    /// The file was truncated or extended.
    #[error(
        "{path} has {found} bytes, but its superblock says {expected}; the file was cut or \
         extended, or a copy of it is not complete"
    )]
    FileSize {
        /// The region's file.
        path: PathBuf,
        /// The file's size.
        found: u64,
        /// What the superblock says.
        expected: u64,
    },
    /// No region has this size.
    #[error(
        "a region cannot have {}; its size is a multiple of {}, from {} to {}",
        Size(*.bytes), Size(SEGMENT_BYTES), Size(REGION_BYTES_MIN), Size(REGION_BYTES_MAX)
    )]
    RegionSize {
        /// The size asked for.
        bytes: u64,
    },
    /// The file system is too full.
    #[error(
        "no space in {dir}: {} needed, {} available; free some, choose another --data, or a \
         smaller --size",
        Size(*.needed), available_text(*.available)
    )]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Size of the region.
        needed: u64,
        /// What the file system has left for this user, if it says.
        available: Option<u64>,
    },
    /// The process must not write files this large (`RLIMIT_FSIZE`).
    #[error(
        "this process may write files of {} at most, {} needed; raise the limit (ulimit -f, or \
         LimitFSIZE= of a service)",
        Size(*.limit), Size(*.needed)
    )]
    FileLimit {
        /// Size of the region.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk medium needs `O_DIRECT` with blocks of 4 KiB.
    #[error(
        "{path} is on {file_system}, which cannot serve as a disk: {reason}; choose a --data \
         directory on a disk, with a file system such as ext4 or xfs"
    )]
    NoDirectIo {
        /// The region's file.
        path: PathBuf,
        /// Name of the file system.
        file_system: String,
        /// What was tried and failed.
        reason: String,
    },
    /// The shm medium needs a file system in memory.
    #[error(
        "--medium shm keeps the region in memory, but {dir} is on {file_system}; it has to be on \
         tmpfs or hugetlbfs, for example /dev/shm/impasto"
    )]
    NotInMemory {
        /// The directory.
        dir: PathBuf,
        /// Name of its file system.
        file_system: String,
    },
    /// The pmem medium needs a mapping with `MAP_SYNC`.
    #[error(
        "--medium pmem needs files that are mapped straight from persistent memory (MAP_SYNC), and \
         {path} has none: {reason}"
    )]
    NoMapSync {
        /// What was tried: the directory, or what is there of the way to it.
        path: PathBuf,
        /// Why that is, as far as it can be found out, and what to do.
        reason: String,
    },
    /// A device that cannot be a region as it is.
    #[error("{path} is {what}")]
    Device {
        /// The device.
        path: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// A `/dev/dax` is persistent memory and nothing else.
    #[error("{path} is persistent memory and is not served on {medium}; say --medium pmem")]
    DeviceMedium {
        /// The device.
        path: PathBuf,
        /// The medium asked for.
        medium: &'static str,
    },
    /// The device is smaller than the region is to be.
    #[error(
        "{path} has room for a region of {} at most, {} needed; leave out --size, or choose a \
         smaller one", Size(*.most), Size(*.needed)
    )]
    DeviceSize {
        /// The device.
        path: PathBuf,
        /// Size of the region.
        needed: u64,
        /// The device's size, in whole MiB.
        most: u64,
    },
    /// Something stands on the device that is no region.
    #[error(
        "{path} is not empty, and what is there is not a region; if nobody needs it, write over it \
         with `impasto create --overwrite`"
    )]
    NotBlank {
        /// The device.
        path: PathBuf,
    },
    /// Some of the memory under the region has failed.
    #[error(
        "the memory under {path} has failed in places (bad blocks), and reading them would end the \
         process: bytes {} of the region are lost; restore the region from a backup, on other \
         memory or after `ndctl clear-errors`", ranges(.spans)
    )]
    BadBlocks {
        /// The region's file, or its device.
        path: PathBuf,
        /// Where, in the region.
        spans: Vec<Span>,
    },
    /// Only a clean stop leaves everything on the medium that another one needs.
    #[error(
        "the region in {path} was last served on {has} and not stopped cleanly: start it with \
         --medium {has} and stop it once (Ctrl-C, SIGTERM), or copy it with `impasto adopt {path} \
         --data DIR --medium {asked}`"
    )]
    NotClean {
        /// Its directory or device.
        path: PathBuf,
        /// The medium of the last run.
        has: &'static str,
        /// The medium asked for.
        asked: &'static str,
    },
    /// What was served on `shm` may never have been anywhere but in a cache.
    #[error(
        "the region in {path} was last served on shm, which does not survive a power loss, and is \
         not served on {asked} as it is: `impasto adopt {path} --data DIR --medium {asked}` checks \
         and rewrites it; or say --medium shm"
    )]
    NotDurable {
        /// Its directory or device.
        path: PathBuf,
        /// The medium asked for.
        asked: &'static str,
    },
    /// The region would not fill its last huge page.
    #[error(
        "{dir} is on hugetlbfs with pages of {}, and {} is not a multiple of it; choose another \
         --size", Size(*.page_bytes), Size(*.bytes)
    )]
    PageSize {
        /// The directory.
        dir: PathBuf,
        /// Size of the region.
        bytes: u64,
        /// Size of a huge page.
        page_bytes: u64,
    },
    /// The user may not do what it takes.
    #[error(
        "no permission to {action} {path}; run as its owner, or give this user the right to read \
         and write it"
    )]
    Permission {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The system refused for a reason of its own.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

impl Error {
    /// Returns a function that adds to an I/O error what was tried, and where.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |error| {
            let (path, error) = (path.into(), error.into());
            match error.kind() {
                io::ErrorKind::PermissionDenied => Self::Permission { action, path },
                _ => Self::Io { action, path, error },
            }
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Returns the byte ranges of `spans`, the first few of them.
fn ranges(spans: &[Span]) -> String {
    const SHOWN: usize = 8;
    let shown = spans.iter().take(SHOWN).map(|span| format!("{:#x}..{:#x}", span.at, span.end()));
    let more = spans.len().saturating_sub(SHOWN);
    let rest = (more > 0).then(|| format!("and {more} more"));
    shown.chain(rest).collect::<Vec<_>>().join(", ")
}

fn available_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "less".to_owned(), |bytes| Size(bytes).to_string())
}

/// A size as people write it: in the largest unit that says it exactly.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in units {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text is all that a user sees.
    #[test]
    fn errors_say_what_is_wrong_and_what_to_do() {
        let size = Error::RegionSize { bytes: (16 << 20) + 1 };
        assert_eq!(
            size.to_string(),
            "a region cannot have 16777217 bytes; its size is a multiple of 1 MiB, from 16 MiB to \
             16 TiB"
        );
        let in_use = |pid| Error::InUse { dir: "/data".into(), pid }.to_string();
        assert_eq!(
            in_use(Some(1234)),
            "/data is in use by process 1234; stop it, or choose another --data"
        );
        assert!(in_use(None).contains("by another process"));
        let space = Error::NoSpace { dir: "/data".into(), needed: 3 << 30, available: Some(4097) };
        assert!(space.to_string().contains("3 GiB needed, 4097 bytes available"));
    }
}
