//! Frames: where the bytes of buffers are in memory now.
//!
//! ```text
//! offset 0                                        region_bytes
//! |superblock|  buffers of the region  | superblock |  landing buffers of `disk`  |
//!            ^ BufId(0).start()                     ^ BufId(bufs_end).start()
//! ```
//!
//! Someone else writes here, too: the kernel fills *loaned* buffers and the spans of reads in
//! flight. The rule that makes references sound is kept in this file: a `&[u8]` covers only bytes
//! below the mark of a loaned buffer and outside of loaned spans, and a loan moves its mark only
//! over bytes that are written for good. Both are checked on every access.

#![expect(unsafe_code, reason = "memory that the kernel writes, too; see above")]

use std::{
    fmt, io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::FileType,
    mm::{MapFlags, ProtFlags},
};

use crate::{
    BufId, Extent, Span,
    layout::{BLOCK_BYTES, BUF_BYTES, Geometry},
};

/// The memory of a region while it is served: the region's bytes at the region's offsets, then
/// landing buffers.
#[derive(Debug)]
pub struct Frames {
    map: Arc<Map>,
    /// By buffer: how many of its bytes may be looked at.
    marks: Box<[Mark]>,
    /// Spans that a read in flight may write.
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    landed: u32,
    loaned: bool,
}

/// A buffer that a port fills from its first byte to its last; ends with [`Frames::settle`].
#[derive(Debug)]
#[must_use = "the buffer stays loaned until it is settled"]
pub struct Loan {
    buf: BufId,
    map: Arc<Map>,
}

impl Loan {
    /// Returns the buffer on loan.
    pub const fn buf(&self) -> BufId {
        self.buf
    }
}

/// A span that a read fills; ends with [`Frames::settle_span`].
#[derive(Debug)]
#[must_use = "the span stays loaned until it is settled"]
pub struct SpanLoan {
    span: Span,
    map: Arc<Map>,
}

impl SpanLoan {
    /// Returns the span on loan.
    pub const fn span(&self) -> Span {
        self.span
    }
}

impl Frames {
    /// Returns zeroed memory for all of a region and for `landing` buffers behind it.
    ///
    /// Pages are taken from the system when they are first written.
    ///
    /// # Errors
    /// What `mmap` returns, usually `ENOMEM`.
    pub fn anonymous(geometry: Geometry, landing: u32) -> io::Result<Self> {
        let bufs = geometry.bufs_end().0 + landing;
        let bytes = BufId(bufs).start();
        Ok(Self::new(Map::anonymous(bytes)?, bufs))
    }

    /// Maps the region `file` itself, shared and writable; its landing buffers are buffers of the
    /// region. As long as it is mapped the file is written through these frames alone, by nobody
    /// else, and keeps its size: its lock sees to other processes.
    ///
    /// # Errors
    /// `ResourceBusy` if this process has mapped the file already; else what `mmap` returns.
    pub fn shared(file: impl AsFd, geometry: Geometry) -> io::Result<Self> {
        let map = Map::shared(file, geometry.region_bytes())?;
        Ok(Self::new(map, geometry.bufs_end().0))
    }

    /// As [`shared`](Self::shared), with `MAP_SYNC`: when a store to a page returns, the file's
    /// metadata that names the page is durable, so flushing lines is all that is left to do.
    ///
    /// # Errors
    /// As `shared`; `Unsupported` if the file is not on persistent memory.
    pub(crate) fn synced(file: impl AsFd, geometry: Geometry) -> io::Result<Self> {
        let map = Map::synced(file, geometry.region_bytes())?;
        Ok(Self::new(map, geometry.bufs_end().0))
    }

    /// As [`shared`](Self::shared), for a device, which has no metadata. `align` is what the length
    /// of a mapping is a multiple of.
    pub(crate) fn device(file: impl AsFd, geometry: Geometry, align: u64) -> io::Result<Self> {
        let map = Map::file(file, geometry.region_bytes(), align, PROT, MapFlags::SHARED)?;
        Ok(Self::new(map, geometry.bufs_end().0))
    }

    fn new(map: Map, bufs: u32) -> Self {
        let mark = Mark { landed: BUF_BYTES, loaned: false };
        let marks = vec![mark; bufs as usize].into_boxed_slice();
        Self { map: Arc::new(map), marks, spans: Vec::new() }
    }

    /// Returns the mapping, to keep it alive while the kernel uses addresses in it.
    pub fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map)
    }

    /// Returns the address of `span`, for the kernel and for flush instructions.
    ///
    /// # Panics
    /// If `span` is not inside.
    pub fn address(&self, span: Span) -> NonNull<u8> {
        self.map.address(span)
    }

    /// Returns the bytes of `span`.
    ///
    /// # Panics
    /// If `span` is not inside, or someone may still write a byte of it.
    pub fn bytes(&self, span: Span) -> &[u8] {
        assert!(self.is_settled(span), "{span:?} may still be written");
        let len = usize::try_from(span.len).expect("a mapping fits the address space");
        // SAFETY:
        // - valid for reads, one allocation: `address` asserts that the span lies inside the
        //   mapping, which lives as long as `self`.
        // - initialised: mapped pages are.
        // - not written during the borrow: stores in this process take `&mut self`, and no writer
        //   on loan may touch the span (asserted above; a new loan takes `&mut self`). A shared
        //   file has one mapping (`Shared`); that nobody writes it beside, is asked by `shared`.
        // - `len` is at most the mapping's size, which `mmap` keeps below `isize::MAX`.
        unsafe { std::slice::from_raw_parts(self.address(span).as_ptr(), len) }
    }

    /// Copies `bytes` to offset `at`.
    ///
    /// # Durability
    /// Volatile. On `pmem` the bytes may become durable at any time by eviction, and are durable
    /// for sure after a flush of their span and a fence.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes).
    pub fn store(&mut self, at: u64, bytes: &[u8]) {
        let span = Span::new(at, bytes.len() as u64);
        assert!(self.is_settled(span), "{span:?} may still be written");
        // SAFETY: `span` has the length of `bytes`, and nobody on loan writes it (asserted above).
        unsafe { self.put(span, bytes) }
    }

    /// Copies `from` to offset `to`; the two do not overlap.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes), and if they overlap.
    pub fn copy(&mut self, from: Span, to: u64) {
        let dest = Span::new(to, from.len);
        assert!(!from.overlaps(dest), "{from:?} overlaps {dest:?}");
        assert!(self.is_settled(dest), "{dest:?} may still be written");
        let len = self.bytes(from).len();
        let (from, dest) = (self.address(from), self.address(dest));
        // SAFETY:
        // - valid for reads and writes: `address` asserts that both lie inside the mapping.
        // - not overlapping: asserted above.
        // - no other access: `&mut self`, and nobody on loan writes either span (asserted).
        unsafe { dest.copy_from_nonoverlapping(from, len) }
    }

    /// Returns true if nobody on loan may write a byte of `span`.
    pub fn is_settled(&self, span: Span) -> bool {
        if self.spans.iter().any(|loaned| loaned.overlaps(span)) {
            return false;
        }
        let start = span.at.max(BLOCK_BYTES);
        if span.end() <= start {
            return true;
        }
        // Behind the marks is the end of the mapping, which `address` guards.
        let bufs = self.marks.len() as u64;
        let first = (start - BLOCK_BYTES) / u64::from(BUF_BYTES);
        let end = (span.end() - BLOCK_BYTES).div_ceil(u64::from(BUF_BYTES)).min(bufs);
        (first..end).all(|index| {
            let mark = self.marks[usize::try_from(index).expect("below the number of marks")];
            let buf_at = BLOCK_BYTES + index * u64::from(BUF_BYTES);
            !mark.loaned || span.end() <= buf_at + u64::from(mark.landed)
        })
    }

    /// Gives `buf` to a port: none of its bytes may be looked at until it has landed.
    ///
    /// # Panics
    /// If it is on loan already, or does not exist.
    pub fn loan(&mut self, buf: BufId) -> Loan {
        assert!(self.is_settled(buf.whole().span()), "{buf:?} is on loan");
        *self.mark(buf) = Mark { landed: 0, loaned: true };
        Loan { buf, map: self.map() }
    }

    /// Lands `bytes` behind what has landed before, as a port in memory does.
    ///
    /// # Panics
    /// If they do not fit into the rest of the buffer, or the loan is of other frames.
    pub fn land(&mut self, loan: &mut Loan, bytes: &[u8]) -> Extent {
        let len = u32::try_from(bytes.len()).expect("bytes fit a buffer");
        let extent = self.next_extent(loan, len);
        // SAFETY: `extent` has the length of `bytes`; `&mut Loan` is the only right to write it.
        unsafe { self.put(extent.span(), bytes) }
        self.mark(loan.buf).landed += len;
        extent
    }

    /// Moves the mark over `len` bytes that the kernel has written, and returns them.
    ///
    /// # Safety
    /// The kernel has written these bytes of the buffer, its completion was seen, and it will not
    /// write them again.
    ///
    /// # Panics
    /// If they do not fit into the rest of the buffer, or the loan is of other frames.
    pub unsafe fn landed(&mut self, loan: &mut Loan, len: u32) -> Extent {
        let extent = self.next_extent(loan, len);
        self.mark(loan.buf).landed += len;
        extent
    }

    /// Returns how many bytes of a loan have landed.
    pub fn landed_bytes(&self, loan: &Loan) -> u32 {
        self.marks[loan.buf.0 as usize].landed
    }

    /// Ends the loan of a buffer that has landed to its last byte.
    ///
    /// # Panics
    /// If it has not, or the loan is of other frames.
    pub fn settle(&mut self, loan: Loan) {
        self.assert_ours(&loan.map);
        let mark = self.mark(loan.buf);
        assert!(mark.landed == BUF_BYTES, "{:?} is still filled", loan.buf);
        mark.loaned = false;
    }

    /// Ends the loan of a buffer that is not full.
    ///
    /// # Safety
    /// Nobody writes to the buffer any more.
    ///
    /// # Panics
    /// If the loan is of other frames.
    pub unsafe fn close(&mut self, loan: Loan) {
        self.assert_ours(&loan.map);
        *self.mark(loan.buf) = Mark { landed: BUF_BYTES, loaned: false };
    }

    /// Gives `span` to a read.
    ///
    /// # Panics
    /// If someone may already write a byte of it, or it is not inside.
    pub fn loan_span(&mut self, span: Span) -> SpanLoan {
        assert!(self.is_settled(span), "{span:?} is on loan");
        let _inside = self.address(span);
        self.spans.push(span);
        SpanLoan { span, map: self.map() }
    }

    /// Returns the address of a span on loan, for whoever fills it.
    ///
    /// # Panics
    /// If the loan is of other frames.
    pub fn address_on_loan(&self, loan: &SpanLoan) -> NonNull<u8> {
        self.assert_ours(&loan.map);
        self.address(loan.span)
    }

    /// Ends the loan of a span: its read has completed.
    ///
    /// # Safety
    /// Nobody writes to the span any more.
    ///
    /// # Panics
    /// If the loan is of other frames.
    pub unsafe fn settle_span(&mut self, loan: SpanLoan) {
        self.assert_ours(&loan.map);
        let index = self.spans.iter().position(|span| *span == loan.span);
        self.spans.swap_remove(index.expect("a span on loan is listed"));
    }

    /// Ends the loan of a span with `bytes`, as a simulated device does.
    ///
    /// # Panics
    /// If `bytes` has another length than the span, or the loan is of other frames.
    pub fn fill_span(&mut self, loan: SpanLoan, bytes: &[u8]) {
        self.assert_ours(&loan.map);
        assert_eq!(loan.span.len, bytes.len() as u64, "a read fills its span");
        // SAFETY: the lengths agree; the loan is the only right to write the span.
        unsafe { self.put(loan.span, bytes) }
        // SAFETY: the loan was in our hands, not in the kernel's.
        unsafe { self.settle_span(loan) }
    }

    /// Returns true if these frames are the memory `map`.
    pub fn are(&self, map: &Arc<Map>) -> bool {
        Arc::ptr_eq(&self.map, map)
    }

    fn assert_ours(&self, map: &Arc<Map>) {
        assert!(self.are(map), "a loan ends in the frames that made it");
    }

    fn next_extent(&mut self, loan: &Loan, len: u32) -> Extent {
        self.assert_ours(&loan.map);
        let offset = self.mark(loan.buf).landed;
        assert!(len <= BUF_BYTES - offset, "{len} bytes behind {offset} of {:?}", loan.buf);
        Extent { buf: loan.buf, offset, len }
    }

    fn mark(&mut self, buf: BufId) -> &mut Mark {
        &mut self.marks[buf.0 as usize]
    }

    /// # Safety
    /// `span` is as long as `bytes`, and the caller may write it.
    unsafe fn put(&mut self, span: Span, bytes: &[u8]) {
        let dest = self.address(span);
        let source = NonNull::from(bytes).cast::<u8>();
        // SAFETY:
        // - valid for writes: `address` asserts that the span lies inside the mapping.
        // - valid for reads: `bytes` is a slice.
        // - not overlapping: `&mut self` excludes a slice of this memory.
        // - nobody else writes: the caller's obligation.
        unsafe { dest.copy_from_nonoverlapping(source, bytes.len()) }
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
    fn anonymous(bytes: u64) -> io::Result<Self> {
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, PROT, flags) }?;
        Ok(Self::mapped(start.cast(), bytes, len, None))
    }

    fn shared(file: impl AsFd, bytes: u64) -> io::Result<Self> {
        Self::file(file, bytes, 1, PROT, MapFlags::SHARED)
    }

    fn synced(file: impl AsFd, bytes: u64) -> io::Result<Self> {
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

    fn address(&self, span: Span) -> NonNull<u8> {
        let inside = span.at.checked_add(span.len).is_some_and(|end| end <= self.bytes);
        assert!(inside, "{span:?} is not inside a mapping of {} bytes", self.bytes);
        let at = usize::try_from(span.at).expect("a mapping fits the address space");
        // SAFETY: `at` is at most the mapping's size, asserted above.
        unsafe { self.start.add(at) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> (Frames, BufId) {
        let geometry = Geometry::new(16 << 20).unwrap();
        (Frames::anonymous(geometry, 2).unwrap(), geometry.bufs_end())
    }

    /// Without the mark a parser could look at bytes that the kernel is writing.
    #[test]
    fn only_landed_bytes_of_a_loan_are_readable() {
        let (mut frames, landing) = frames();
        let mut loan = frames.loan(landing);
        let first = frames.land(&mut loan, b"hello");
        let second = frames.land(&mut loan, b" world");
        assert_eq!(frames.bytes(first.span()), b"hello");
        assert!(first.adjoins(second));
        let behind = Extent { buf: landing, offset: 0, len: 12 };
        assert!(!frames.is_settled(behind.span()));
        assert!(!frames.is_settled(Span::new(landing.start() - 1, 64 << 10)));
        assert!(frames.is_settled(BufId(landing.0 + 1).whole().span()));
    }

    #[test]
    fn a_full_buffer_settles_and_can_be_loaned_again() {
        let (mut frames, landing) = frames();
        let mut loan = frames.loan(landing);
        let whole = vec![7; BUF_BYTES as usize];
        let extent = frames.land(&mut loan, &whole);
        frames.settle(loan);
        assert_eq!(frames.bytes(extent.span()), &whole[..]);
        let again = frames.loan(landing);
        assert!(!frames.is_settled(extent.span()));
        assert_eq!(frames.landed_bytes(&again), 0);
    }

    /// Otherwise safe code could make bytes readable that the kernel still writes.
    #[test]
    #[should_panic(expected = "in the frames that made it")]
    fn a_loan_of_other_frames_is_refused() {
        let ((mut frames, landing), (mut others, _)) = (frames(), frames());
        let mut loan = frames.loan(landing);
        let _same_name = others.loan(landing);
        others.land(&mut loan, b"hello");
    }

    /// Otherwise a store through one mapping would change bytes borrowed from the other.
    #[test]
    fn a_file_is_mapped_once_at_a_time() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(geometry.region_bytes()).unwrap();
        let mut frames = Frames::shared(&file, geometry).unwrap();
        frames.store(4096, b"hello");
        let again = Frames::shared(file.try_clone().unwrap(), geometry);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(frames);
        let frames = Frames::shared(&file, geometry).unwrap();
        assert_eq!(frames.bytes(Span::new(4096, 5)), b"hello");
    }

    #[test]
    #[should_panic(expected = "on loan")]
    fn a_buffer_is_loaned_once() {
        let (mut frames, landing) = frames();
        let _first = frames.loan(landing);
        let _second = frames.loan(landing);
    }

    #[test]
    #[should_panic(expected = "may still be written")]
    fn a_span_being_read_is_not_readable() {
        let (mut frames, _) = frames();
        let _loan = frames.loan_span(Span::new(8192, 4096));
        frames.bytes(Span::new(4096, 4097));
    }

    #[test]
    #[should_panic(expected = "not inside")]
    fn no_access_behind_the_mapping() {
        let (frames, _) = frames();
        frames.bytes(Span::new(u64::MAX - 1, 16));
    }

    /// A length from the medium must end in a refusal, not in a walk over all buffers that could
    /// be.
    #[test]
    #[should_panic(expected = "not inside")]
    fn a_span_of_any_length_is_refused_at_once() {
        let (frames, _) = frames();
        frames.bytes(Span::new(0, u64::MAX));
    }
}
