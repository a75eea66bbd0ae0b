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
//!
//! A loan is the right to write, and whoever writes owns it as long as he does: safe code through
//! the slice that the loan gives out, unsafe code (the kernel's reads) through an address, with the
//! loan kept away from everybody else. So whoever has a loan in his hands may end it.

#![expect(unsafe_code, reason = "memory that the kernel writes, too; see above")]

mod loan;
mod map;

pub use map::Map;
pub(crate) use map::{ReadMap, try_sync};
use std::{io, os::fd::AsFd, ptr::NonNull, sync::Arc};

use crate::{
    BufId, Extent, Span,
    layout::{BLOCK_BYTES, BUF_BYTES, Geometry},
};

pub use loan::{Loan, SpanLoan};

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

    /// As [`anonymous`](Self::anonymous), in huge pages where the system has them.
    ///
    /// # Errors
    /// As `anonymous`; `EINVAL` where the kernel knows no huge pages.
    pub fn anonymous_huge(geometry: Geometry, landing: u32) -> io::Result<Self> {
        let frames = Self::anonymous(geometry, landing)?;
        frames.map.advise_huge()?;
        Ok(frames)
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
        let map = Map::device(file, geometry.region_bytes(), align)?;
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

    /// Writes the pages of `span` to the mapped file and waits (`msync`): what an ordinary file
    /// needs where persistent memory is flushed.
    ///
    /// # Durability
    /// The bytes of `span` in a file that is mapped are durable when it returns.
    ///
    /// # Errors
    /// What `msync` returns; then it is unknown what is durable.
    ///
    /// # Panics
    /// If `span` is not inside.
    pub fn sync(&self, span: Span) -> io::Result<()> {
        self.map.sync(span)
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
        Loan::new(buf, self.map())
    }

    /// Lands `bytes` behind what has landed before, as a port in memory does.
    ///
    /// # Panics
    /// If they do not fit into the rest of the buffer, or the loan is of other frames.
    pub fn land(&mut self, loan: &mut Loan, bytes: &[u8]) -> Extent {
        let len = u32::try_from(bytes.len()).expect("bytes fit a buffer");
        loan.rest()[..bytes.len()].copy_from_slice(bytes);
        loan.fill(len);
        self.land_filled(loan, len)
    }

    /// Moves the mark over the next `len` bytes that were [filled](Loan::fill), and returns them.
    ///
    /// # Panics
    /// If fewer are filled, or the loan is of other frames.
    pub fn land_filled(&mut self, loan: &mut Loan, len: u32) -> Extent {
        let extent = self.next_extent(loan, len);
        assert!(extent.offset + len <= loan.filled, "{extent:?} is not filled");
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
        loan.filled = loan.filled.max(extent.offset + len);
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
        SpanLoan::new(span, self.map())
    }

    /// Returns the address of a span on loan, for whoever fills it.
    ///
    /// # Panics
    /// If the loan is of other frames.
    pub fn address_on_loan(&self, loan: &SpanLoan) -> NonNull<u8> {
        self.assert_ours(&loan.map);
        self.address(loan.span)
    }

    /// Ends the loan of a span: from now on the bytes may be looked at. After a failed or short
    /// read they are what they were before, where the device has not overwritten them.
    ///
    /// # Panics
    /// If the loan is of other frames.
    pub fn settle_span(&mut self, loan: SpanLoan) -> Span {
        self.assert_ours(&loan.map);
        let index = self.spans.iter().position(|span| *span == loan.span);
        self.spans.swap_remove(index.expect("a span on loan is listed"))
    }

    /// Ends the loan of a span with `bytes`, as a simulated device does.
    ///
    /// # Panics
    /// If `bytes` has another length than the span, or the loan is of other frames.
    pub fn fill_span(&mut self, mut loan: SpanLoan, bytes: &[u8]) {
        assert_eq!(loan.span.len, bytes.len() as u64, "a read fills its span");
        loan.bytes_mut().copy_from_slice(bytes);
        self.settle_span(loan);
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
    fn a_span_of_a_mapped_file_is_synced_wherever_it_lies() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(geometry.region_bytes()).unwrap();
        let mut frames = Frames::shared(&file, geometry).unwrap();
        for (at, len) in [(0, 0), (5000, 777), (4095, 4098), ((16 << 20) - 1, 1)] {
            frames.store(at, &vec![7; len]);
            frames.sync(Span::new(at, len as u64)).unwrap();
        }
    }

    #[test]
    #[should_panic(expected = "not inside")]
    fn nothing_behind_the_mapping_is_synced() {
        let (frames, landing) = frames();
        let behind = Span::new(BufId(landing.0 + 2).start(), 1);
        frames.sync(behind).unwrap();
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
