//! What the place of a region can do; tried out, not believed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, IFlags, OFlags, StatxFlags, fstatfs, ioctl_getflags, statfs, statx};

use crate::{
    Error,
    layout::{BLOCK_BYTES, BLOCK_LEN},
};

/// Checks that files in `dir`, which need not exist yet, are kept in memory: tmpfs or hugetlbfs.
///
/// # Errors
/// [`Error::NotInMemory`] if they are not; others if it cannot be found out.
pub fn shm_probe(dir: &Path) -> Result<(), Error> {
    let there = nearest(dir);
    let kind = statfs(&there).map_err(Error::io("examine", there))?.f_type;
    if is_in_memory(kind) {
        Ok(())
    } else {
        Err(Error::NotInMemory { dir: dir.into(), file_system: name(kind) })
    }
}

/// Returns `dir`, or what is there of the way to it.
pub(super) fn nearest(dir: &Path) -> PathBuf {
    // The empty path is the end of a relative one: the current directory.
    let named = |dir: &Path| {
        if dir.as_os_str().is_empty() { ".".into() } else { dir.to_owned() }
    };
    dir.ancestors().map(named).find(|dir| dir.exists()).unwrap_or_else(|| ".".into())
}

pub(super) fn open_direct(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag is a positive int");
    options.read(true).write(true).custom_flags(flags);
    let refusal = |kind, reason: String| Error::NoDirectIo {
        path: path.into(),
        file_system: name(kind),
        reason,
    };
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let kind = statfs(path).map_err(Error::io("examine", path))?.f_type;
            return Err(refusal(kind, "it has no direct I/O".into()));
        }
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let kind = fstatfs(&file).map_err(Error::io("examine", path))?.f_type;
    if is_in_memory(kind) {
        // It takes direct I/O, but nothing there survives a power loss.
        return Err(refusal(kind, "it keeps files in memory (--medium shm does so openly)".into()));
    }
    try_out(&file).map_err(|reason| refusal(kind, reason))?;
    Ok(file)
}

/// Opens a file for direct reads, if they work.
pub(super) fn open_direct_to_read(path: &Path) -> Option<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag is a positive int");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    try_out(&file).ok().map(|()| file)
}

/// Reads a block with direct I/O, or says why that does not work.
fn try_out(file: &File) -> Result<(), String> {
    let asked = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    // A kernel before 6.1 does not answer; the read below does.
    if let Ok(answer) = asked
        && answer.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        let align = answer.stx_dio_mem_align.max(answer.stx_dio_offset_align);
        if answer.stx_dio_offset_align == 0 {
            return Err("it has no direct I/O for this file".into());
        }
        if u64::from(align) > BLOCK_BYTES {
            return Err(format!("its direct I/O is in units of {align} bytes, more than 4096"));
        }
    }
    let mut memory = vec![0; 2 * BLOCK_LEN];
    let lead = memory.as_ptr().align_offset(BLOCK_LEN);
    let block = &mut memory[lead..lead + BLOCK_LEN];
    file.read_exact_at(block, 0).map_err(|error| format!("a direct read of 4 KiB failed: {error}"))
}

/// Returns the name of a file system that writes `file` elsewhere each time, if that is one.
pub(super) fn copy_on_write(file: &File) -> Option<String> {
    let kind = fstatfs(file).ok()?.f_type;
    // A file of btrfs can be exempt (chattr +C).
    let exempt = || ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::NOCOW));
    (is_copy_on_write(kind) && !exempt()).then(|| name(kind))
}

const BTRFS: u64 = 0x9123_683e;
const BCACHEFS: u64 = 0xca45_1a4e;
const ZFS: u64 = 0x2fc1_2fc1;

fn is_copy_on_write(kind: rustix::fs::FsWord) -> bool {
    matches!(magic(kind), BTRFS | BCACHEFS | ZFS)
}

const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
const RAMFS: u64 = 0x8584_58f6;

pub(super) fn is_in_memory(kind: rustix::fs::FsWord) -> bool {
    matches!(magic(kind), TMPFS | HUGETLBFS | RAMFS)
}

/// Returns a file system's name by its magic number (statfs(2)).
pub(super) fn name(kind: rustix::fs::FsWord) -> String {
    let name = match magic(kind) {
        TMPFS => "tmpfs",
        HUGETLBFS => "hugetlbfs",
        RAMFS => "ramfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        BTRFS => "btrfs",
        0xf2f5_2010 => "f2fs",
        ZFS => "zfs",
        BCACHEFS => "bcachefs",
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "fuse",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        other => return format!("a file system of type {other:#x}"),
    };
    name.to_owned()
}

/// The numbers are 32 bits wide; the field's type differs between architectures.
#[expect(clippy::cast_sign_loss, reason = "only the low 32 bits are looked at")]
#[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
const fn magic(kind: rustix::fs::FsWord) -> u64 {
    kind as u64 & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most file systems write in place; a caution on each of them would be read by nobody.
    #[test]
    fn file_systems_that_copy_on_write_are_known_by_their_numbers() {
        for (kind, named) in
            [(0x9123_683e, "btrfs"), (0xca45_1a4e, "bcachefs"), (0x2fc1_2fc1, "zfs")]
        {
            assert!(is_copy_on_write(kind) && name(kind) == named);
        }
        for kind in [0xef53, 0x5846_5342, 0x0102_1994] {
            assert!(!is_copy_on_write(kind), "{}", name(kind));
        }
        let own = File::open(std::env::current_exe().unwrap()).unwrap();
        let kind = fstatfs(&own).unwrap().f_type;
        assert!(is_copy_on_write(kind) || copy_on_write(&own).is_none());
    }
}
