//! How a region comes to be (D9): under another name, zeroed and synced, then renamed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate, fstatvfs},
    io::Errno,
    process::{Resource, getrlimit},
};

use super::{
    REGION, Region,
    lock::Lock,
    probe::{open_direct, shm_probe},
};
use crate::{
    Error, Frames,
    layout::{BLOCK_BYTES, Geometry, MediumKind, Superblock},
};

/// Bytes of one write of zeroes.
const CHUNK_BYTES: u64 = 4 << 20;
/// Bytes between two syncs, so that progress tells of the disk and not of the page cache.
const SYNC_BYTES: u64 = 64 << 20;

pub(super) fn create(
    dir: &Path,
    geometry: Geometry,
    medium: MediumKind,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    if medium == MediumKind::Shm {
        shm_probe(dir)?;
    }
    let made = make_dirs(dir)?;
    let lock = match Lock::take(dir) {
        Ok(lock) => lock,
        Err(error) => {
            remove_dirs(&made);
            return Err(error);
        }
    };
    let new = dir.join("region.new");
    let created = create_locked(dir, &new, geometry, medium, progress);
    if created.is_err() {
        // The error is what the caller has to know; that cleaning up fails as well adds nothing.
        let _left = remove_if_there(&new);
        if !made.is_empty() {
            let _left = lock.remove();
            remove_dirs(&made);
        }
    }
    created
}

fn create_locked(
    dir: &Path,
    new: &Path,
    geometry: Geometry,
    medium: MediumKind,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let path = dir.join(REGION);
    if Region::exists(dir)? {
        return Err(Error::Exists { path });
    }
    remove_if_there(new).map_err(Error::io("remove", new))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(new).map_err(Error::io("create", new))?;

    let bytes = geometry.region_bytes();
    check_limits(&file, dir, bytes, medium)?;
    if medium == MediumKind::Disk {
        // One block is enough to try it out, before all the others are written.
        file.set_len(BLOCK_BYTES).map_err(Error::io("write", new))?;
        open_direct(new)?;
    }
    let failed = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::NOSPC) => {
            Error::NoSpace { dir: dir.into(), needed: bytes, available: available(&file) }
        }
        _ => Error::io("write", new)(error),
    };
    let superblock = Superblock::fresh(geometry, medium);
    match medium {
        MediumKind::Shm => write_mapped(&file, &superblock).map_err(failed)?,
        MediumKind::Disk | MediumKind::Pmem => {
            write_zeroes(&file, bytes, progress).map_err(failed)?;
            file.write_all_at(&superblock.encode(), geometry.superblock(0).at).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
    }
    fs::rename(new, &path).map_err(Error::io("rename", new))?;
    if let Err(error) = sync_dir(dir) {
        let _left = fs::remove_file(&path);
        return Err(error);
    }
    progress(bytes);
    Ok(())
}

/// Asks before anything is written: a file system that is full hurts others, too, and a file that
/// crosses its limit is a signal that ends the process.
fn check_limits(file: &File, dir: &Path, needed: u64, medium: MediumKind) -> Result<(), Error> {
    if let Some(limit) = getrlimit(Resource::Fsize).current
        && limit < needed
    {
        return Err(Error::FileLimit { needed, limit });
    }
    let page_bytes = fstatvfs(file).map_or(1, |stat| stat.f_bsize);
    if medium == MediumKind::Shm && !needed.is_multiple_of(page_bytes) {
        return Err(Error::PageSize { dir: dir.into(), bytes: needed, page_bytes });
    }
    match available(file) {
        Some(available) if available < needed => {
            Err(Error::NoSpace { dir: dir.into(), needed, available: Some(available) })
        }
        _ => Ok(()),
    }
}

/// Returns the bytes that the file system of `file` has left, if it says.
fn available(file: &File) -> Option<u64> {
    let stat = fstatvfs(file).ok()?;
    // tmpfs and hugetlbfs without a limit of their own say that they have no blocks at all.
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes zeroes over the whole file, so that every block is allocated and in the state of data: an
/// overwrite later on changes nothing but the block.
fn write_zeroes(file: &File, bytes: u64, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Not every file system can allocate ahead; then writing finds out whether there is room.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let zeroes = vec![0; usize::try_from(CHUNK_BYTES).expect("a chunk fits memory")];
    let mut at = 0;
    while at < bytes {
        let len = CHUNK_BYTES.min(bytes - at);
        file.write_all_at(&zeroes[..usize::try_from(len).expect("at most a chunk")], at)?;
        at += len;
        if at.is_multiple_of(SYNC_BYTES) {
            file.sync_data()?;
        }
        progress(at);
    }
    file.sync_all()
}

/// Allocates a file in memory and writes the superblock through a mapping: hugetlbfs has no other
/// way.
fn write_mapped(file: &File, superblock: &Superblock) -> io::Result<()> {
    let geometry = superblock.geometry;
    file.set_len(geometry.region_bytes())?;
    fallocate(file, FallocateFlags::empty(), 0, geometry.region_bytes())?;
    let mut frames = Frames::shared(file, geometry)?;
    frames.store(geometry.superblock(0).at, &superblock.encode());
    Ok(())
}

/// Makes `dir` and what is missing above it; returns what it made, outermost first.
fn make_dirs(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let missing: Vec<_> = dir.ancestors().take_while(|dir| !exists(dir)).collect();
    let mut made = Vec::new();
    for dir in missing.into_iter().rev() {
        let done = match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {
                made.push(dir.to_owned());
                sync_dir(&parent(dir))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Error::io("create", dir)(error)),
        };
        if let Err(error) = done {
            remove_dirs(&made);
            return Err(error);
        }
    }
    Ok(made)
}

/// Removes what [`make_dirs`] made, unless someone has put something there.
fn remove_dirs(made: &[PathBuf]) {
    for dir in made.iter().rev() {
        let _left = fs::remove_dir(dir);
    }
}

fn exists(dir: &Path) -> bool {
    // The empty path is the end of a relative one: the current directory.
    dir.as_os_str().is_empty() || fs::symlink_metadata(dir).is_ok()
}

fn parent(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the names in `dir` durable.
fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(Error::io("sync", dir))
}
