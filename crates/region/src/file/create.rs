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
    pmem::probe_file,
    probe::{open_direct, shm_probe},
    sysfs::Sysfs,
};
use crate::{
    Error, Frames,
    layout::{BLOCK_BYTES, Geometry, MediumKind, Superblock},
};

/// Bytes of one write of zeroes.
const CHUNK_BYTES: u64 = 4 << 20;
/// Bytes between two syncs, so that progress tells of the disk and not of the page cache.
const SYNC_BYTES: u64 = 64 << 20;

/// What fills a new region: it is given an offset and zeroes, to be written over.
pub type Fill<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<(), Error>;

/// A region that is to be.
pub(super) struct Creation<'a> {
    /// The superblock that it starts with.
    pub(super) superblock: Superblock,
    /// What stands in it, if not zeroes.
    pub(super) fill: Option<Fill<'a>>,
    /// Is told how many bytes are written.
    pub(super) progress: &'a mut dyn FnMut(u64),
}

/// Returns the superblocks to write: of a region that was never served the first copy alone, else
/// both, so that a missing one is told from a damaged one.
pub(super) fn copies(superblock: Superblock) -> impl Iterator<Item = Superblock> {
    let next = Superblock { generation: superblock.generation + 1, ..superblock };
    [superblock, next].into_iter().take(if superblock.generation == 0 { 1 } else { 2 })
}

/// Gives all bytes of a region to `write`, chunk by chunk.
pub(super) fn chunks(
    geometry: Geometry,
    mut fill: Option<Fill<'_>>,
    mut write: impl FnMut(u64, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let bytes = geometry.region_bytes();
    let mut chunk = vec![0; usize::try_from(CHUNK_BYTES).expect("a chunk fits memory")];
    let mut at = 0;
    while at < bytes {
        let len = CHUNK_BYTES.min(bytes - at);
        let chunk = &mut chunk[..usize::try_from(len).expect("at most a chunk")];
        if let Some(fill) = &mut fill {
            chunk.fill(0);
            fill(at, chunk)?;
        }
        write(at, chunk)?;
        at += len;
    }
    Ok(())
}

pub(super) fn create(dir: &Path, creation: Creation<'_>) -> Result<(), Error> {
    if creation.superblock.medium == MediumKind::Shm {
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
    let created = match Region::exists(dir) {
        Ok(false) => create_locked(dir, creation),
        Ok(true) => Err(Error::Exists { path: dir.join(REGION) }),
        Err(error) => Err(error),
    };
    if created.is_err() && !made.is_empty() {
        // The error is what the caller has to know; that cleaning up fails as well adds nothing.
        let _left = lock.remove();
        remove_dirs(&made);
    }
    created
}

/// Creates a region in place of the one in `dir`, whose lock is held.
pub(super) fn replace(dir: &Path, creation: Creation<'_>) -> Result<(), Error> {
    if creation.superblock.medium == MediumKind::Shm {
        shm_probe(dir)?;
    }
    create_locked(dir, creation)
}

fn create_locked(dir: &Path, creation: Creation<'_>) -> Result<(), Error> {
    let new = dir.join("region.new");
    let written = write_new(dir, &new, creation);
    if written.is_err() {
        let _left = remove_if_there(&new);
        return written;
    }
    let path = dir.join(REGION);
    let replaced = Region::exists(dir)?;
    fs::rename(&new, &path).map_err(Error::io("rename", &new))?;
    let synced = sync_dir(dir);
    if synced.is_err() && !replaced {
        let _left = fs::remove_file(&path);
    }
    synced
}

/// Writes the whole region under the name `new`, and syncs it.
fn write_new(dir: &Path, new: &Path, creation: Creation<'_>) -> Result<(), Error> {
    let Creation { superblock, fill, progress } = creation;
    let (geometry, medium) = (superblock.geometry, superblock.medium);
    remove_if_there(new).map_err(Error::io("remove", new))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(new).map_err(Error::io("create", new))?;

    let bytes = geometry.region_bytes();
    check_limits(&file, dir, bytes, medium)?;
    // One block is enough to try it out, before all the others are written.
    if medium != MediumKind::Shm {
        file.set_len(BLOCK_BYTES).map_err(Error::io("write", new))?;
    }
    match medium {
        MediumKind::Disk => drop(open_direct(new)?),
        MediumKind::Pmem => probe_file(&file, dir, &Sysfs::system())?,
        MediumKind::Shm => {}
    }
    let failed = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::NOSPC) => {
            Error::NoSpace { dir: dir.into(), needed: bytes, available: available(&file) }
        }
        _ => Error::io("write", new)(error),
    };
    if medium == MediumKind::Shm {
        return write_mapped(&file, superblock, fill, failed);
    }
    // D9: with `write()` and a sync, also on persistent memory: then blocks and map of the file are
    // durable, and `MAP_SYNC` has nothing left to add but for changes to come.
    write_all(&file, geometry, fill, progress, failed)?;
    for copy in copies(superblock) {
        file.write_all_at(&copy.encode(), geometry.superblock(copy.copy()).at).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
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

/// Writes the whole file, zeroes too, so that every block is allocated and in the state of data: an
/// overwrite later on changes nothing but the block.
fn write_all(
    file: &File,
    geometry: Geometry,
    fill: Option<Fill<'_>>,
    progress: &mut dyn FnMut(u64),
    failed: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    match fallocate(file, FallocateFlags::empty(), 0, geometry.region_bytes()) {
        // Not every file system can allocate ahead; then writing finds out whether there is room.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(failed(error.into())),
    }
    chunks(geometry, fill, |at, bytes| {
        file.write_all_at(bytes, at).map_err(&failed)?;
        let at = at + bytes.len() as u64;
        if at.is_multiple_of(SYNC_BYTES) {
            file.sync_data().map_err(&failed)?;
        }
        progress(at);
        Ok(())
    })?;
    file.sync_all().map_err(failed)
}

/// Allocates a file in memory and writes what there is to write through a mapping: hugetlbfs has no
/// other way.
fn write_mapped(
    file: &File,
    superblock: Superblock,
    fill: Option<Fill<'_>>,
    failed: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    let geometry = superblock.geometry;
    file.set_len(geometry.region_bytes()).map_err(&failed)?;
    let allocated = fallocate(file, FallocateFlags::empty(), 0, geometry.region_bytes());
    allocated.map_err(|error| failed(error.into()))?;
    let mut frames = Frames::shared(file, geometry).map_err(failed)?;
    if fill.is_some() {
        chunks(geometry, fill, |at, bytes| {
            frames.store(at, bytes);
            Ok(())
        })?;
    }
    for copy in copies(superblock) {
        frames.store(geometry.superblock(copy.copy()).at, &copy.encode());
    }
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
