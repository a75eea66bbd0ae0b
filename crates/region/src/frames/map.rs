//! Mappings: of anonymous memory, of a file, of a device.

use std::{
    fmt, io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::FileType,
    mm::{Advice, MapFlags, MsyncFlags, ProtFlags},
};

use crate::{Span, layout::BLOCK_BYTES};

/// A mapping; unmapped when the last holder drops it.
pub struct Map {
    start: NonNull<u8>,
    bytes: u64,
    /// What is mapped: `bytes`, or more where a mapping has to end at a huge page.
    mapped_len: usize,
    /// Dropped last: after the unmapping.
    _shared: Option<Shared>,
}

/// The only mapping of a file: two would be two `&mut` ways to the same bytes.
struct Shared {
    device: u64,
    inode: u64,
}

/// Device and inode of every file that is mapped; a device by its number, which may have several
/// names.
static SHARED: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

impl Shared {
    fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        let (device, inode) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => (u64::MAX, stat.st_rdev),
            _ => (stat.st_dev, stat.st_ino),
        };
        let mut mapped = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if mapped.contains(&(device, inode)) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the region is mapped already",
            ));
        }
        mapped.push((device, inode));
        Ok(Self { device, inode })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut mapped = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.retain(|file| *file != (self.device, self.inode));
    }
}

// SAFETY: a `Map` is an address range and no access; every access goes through `Frames`, whose
// methods state who may touch which bytes.
unsafe impl Send for Map {}
// SAFETY: as above; `&Map` gives out addresses only.
unsafe impl Sync for Map {}

impl Map {
    pub(super) fn anonymous(bytes: u64) -> io::Result<Self> {
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, PROT, flags) }?;
        Ok(Self::mapped(start.cast(), bytes, len, None))
    }

    pub(super) fn shared(file: impl AsFd, bytes: u64) -> io::Result<Self> {
        Self::file(file, bytes, 1, PROT, MapFlags::SHARED)
    }

    pub(super) fn device(file: impl AsFd, bytes: u64, align: u64) -> io::Result<Self> {
        Self::file(file, bytes, align, PROT, MapFlags::SHARED)
    }

    pub(super) fn synced(file: impl AsFd, bytes: u64) -> io::Result<Self> {
        // Only with SHARED_VALIDATE is a flag refused that the file does not know.
        Self::file(file, bytes, 1, PROT, MapFlags::SHARED_VALIDATE | MapFlags::SYNC)
    }

    fn file(
        file: impl AsFd,
        bytes: u64,
        align: u64,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Self> {
        let len = bytes.checked_next_multiple_of(align).and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;
        let shared = Shared::of(&file)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use. That
        // the file keeps its size is checked at open and guarded by the region's lock.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }?;
        Ok(Self::mapped(start.cast(), bytes, len, Some(shared)))
    }

    fn mapped(start: *mut u8, bytes: u64, mapped_len: usize, shared: Option<Shared>) -> Self {
        let start = NonNull::new(start).expect("mmap returns no null");
        Self { start, bytes, mapped_len, _shared: shared }
    }

    /// Asks for huge pages where they are to be had.
    pub(super) fn advise_huge(&self) -> io::Result<()> {
        let start = self.start.as_ptr().cast();
        // SAFETY:
        // - the range is what `mmap` returned.
        // - this advice changes no byte, only the size of the pages behind them.
        unsafe { rustix::mm::madvise(start, self.mapped_len, Advice::LinuxHugepage) }?;
        Ok(())
    }

    /// Returns the address of `span`, for the kernel.
    ///
    /// # Panics
    /// If `span` is not inside.
    pub fn address(&self, span: Span) -> NonNull<u8> {
        let inside = span.at.checked_add(span.len).is_some_and(|end| end <= self.bytes);
        assert!(inside, "{span:?} is not inside a mapping of {} bytes", self.bytes);
        let at = usize::try_from(span.at).expect("a mapping fits the address space");
        // SAFETY: `at` is at most the mapping's size, asserted above.
        unsafe { self.start.add(at) }
    }

    /// Writes the pages of `span` to what is mapped, and waits.
    ///
    /// # Panics
    /// If `span` is not inside.
    pub(super) fn sync(&self, span: Span) -> io::Result<()> {
        // Of the system, which may have larger pages than blocks.
        let lead = span.at % rustix::param::page_size() as u64;
        let start = self.address(Span::new(span.at - lead, lead + span.len)).as_ptr();
        let len = usize::try_from(lead + span.len).expect("a mapping fits the address space");
        // SAFETY:
        // - mapped, at a page: `address` asserts that the range lies inside the mapping, which
        //   starts at a page, as the range does; the rest of the last page is mapped with it.
        // - harmless to references: MS_SYNC changes no byte of the mapping.
        unsafe { rustix::mm::msync(start.cast(), len, MsyncFlags::SYNC) }?;
        Ok(())
    }
}

const PROT: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY:
        // - the range is what `mmap` returned.
        // - no reference into it is left: references borrow from `Frames`, which holds this `Map`;
        //   the kernel's right to write is kept by holders of `Arc<Map>`, and this is the last.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping");
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.bytes)
    }
}

/// Reads a device that has no `read()`, through a mapping of its own. As long as it exists there
/// are no [`Frames`] of the device in this process.
#[derive(Debug)]
pub(crate) struct ReadMap(Map);

impl ReadMap {
    /// Maps the first `bytes` of `file`. `align` is what the length of a mapping is a multiple of.
    pub(crate) fn new(file: impl AsFd, bytes: u64, align: u64) -> io::Result<Self> {
        Map::file(file, bytes, align, ProtFlags::READ, MapFlags::SHARED).map(Self)
    }

    /// Copies the bytes from `at` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are not so many.
    pub(crate) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let span = Span::new(at, bytes.len() as u64);
        if at.checked_add(span.len).is_none_or(|end| end > self.0.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (source, len) = (self.0.address(span), bytes.len());
        // SAFETY:
        // - valid for reads: `address` asserts that the span lies inside the mapping.
        // - valid for writes, not overlapping: `bytes` is a mutable slice of other memory: no slice
        //   of this mapping is ever handed out.
        // - not written meanwhile: this is the only mapping of the file in this process
        //   (`Shared`), and the region's lock sees to other processes.
        unsafe { source.copy_to_nonoverlapping(NonNull::from(bytes).cast(), len) }
        Ok(())
    }
}

/// Tries to map a page of `file` with `MAP_SYNC`. The file may be empty.
///
/// # Errors
/// `Unsupported` if the file is not on persistent memory.
pub(crate) fn try_sync(file: impl AsFd) -> io::Result<()> {
    Map::synced(file, BLOCK_BYTES).map(drop)
}
