//! Loans: the right to write bytes of frames, for whoever has one in his hands.

use std::sync::Arc;

use super::Map;
use crate::{BufId, Span, layout::BUF_BYTES};

/// A buffer that a port fills from its first byte to its last; ends with
/// [`Frames::settle`](crate::Frames::settle).
#[derive(Debug)]
#[must_use = "the buffer stays loaned until it is settled"]
pub struct Loan {
    pub(super) buf: BufId,
    /// So many bytes are written for good: at least up to the mark.
    pub(super) filled: u32,
    pub(super) map: Arc<Map>,
}

impl Loan {
    pub(super) const fn new(buf: BufId, map: Arc<Map>) -> Self {
        Self { buf, filled: 0, map }
    }

    /// Returns the buffer on loan.
    pub const fn buf(&self) -> BufId {
        self.buf
    }

    /// Returns the bytes that are not filled.
    pub fn rest(&mut self) -> &mut [u8] {
        let rest = self.buf.whole().part(self.filled, BUF_BYTES - self.filled).span();
        // SAFETY:
        // - on loan: `frames` has checked the buffer when it made this loan, of its mapping.
        // - nobody else: a `&[u8]` of the frames ends at the mark, which is at most at `filled`;
        //   other loans do not overlap; whoever gives the kernel an address keeps the loan.
        unsafe { slice_mut(&self.map, rest) }
    }

    /// Notes that the first `len` bytes of [`rest`](Self::rest) are written for good.
    /// [`Frames::land_filled`](crate::Frames::land_filled) hands them out.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn fill(&mut self, len: u32) {
        assert!(
            len <= BUF_BYTES - self.filled,
            "{len} bytes behind {} of {:?}",
            self.filled,
            self.buf
        );
        self.filled += len;
    }
}

/// A span that a read fills; ends with
/// [`Frames::settle_span`](crate::Frames::settle_span).
#[derive(Debug)]
#[must_use = "the span stays loaned until it is settled"]
pub struct SpanLoan {
    pub(super) span: Span,
    pub(super) map: Arc<Map>,
}

impl SpanLoan {
    pub(super) const fn new(span: Span, map: Arc<Map>) -> Self {
        Self { span, map }
    }

    /// Returns the span on loan.
    pub const fn span(&self) -> Span {
        self.span
    }

    /// Returns the bytes on loan.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY:
        // - on loan: `frames` has checked the span when it made this loan, of its mapping.
        // - nobody else: no `&[u8]` of the frames and no other loan overlaps it; whoever gives the
        //   kernel an address keeps the loan.
        unsafe { slice_mut(&self.map, self.span) }
    }
}

/// # Safety
/// Nobody else looks at the bytes of `span` or writes them as long as the slice lives.
#[expect(clippy::mut_from_ref, reason = "a mapping is shared; the right to write is the loan's")]
unsafe fn slice_mut(map: &Map, span: Span) -> &mut [u8] {
    let len = usize::try_from(span.len).expect("a mapping fits the address space");
    // SAFETY:
    // - valid for reads and writes, one allocation: `address` asserts that the span lies inside the
    //   mapping, which lives as long as `map`.
    // - initialised: mapped pages are.
    // - no other access: the caller's obligation.
    // - `len` is at most the mapping's size, which `mmap` keeps below `isize::MAX`.
    unsafe { std::slice::from_raw_parts_mut(map.address(span).as_ptr(), len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Extent, Frames, layout::Geometry};

    fn frames() -> (Frames, BufId) {
        let geometry = Geometry::new(16 << 20).unwrap();
        (Frames::anonymous(geometry, 2).unwrap(), geometry.bufs_end())
    }

    /// Without the account of its own, a loan would write again over what has come and not landed.
    #[test]
    fn what_a_loan_has_filled_lands_later_in_order() {
        let (mut frames, landing) = frames();
        let mut loan = frames.loan(landing);
        for bytes in [&b"hello"[..], b" world"] {
            loan.rest()[..bytes.len()].copy_from_slice(bytes);
            loan.fill(u32::try_from(bytes.len()).unwrap());
        }
        assert_eq!(loan.rest().len(), BUF_BYTES as usize - 11);
        let first = frames.land_filled(&mut loan, 5);
        assert_eq!(frames.bytes(first.span()), b"hello");
        let behind = Extent { buf: landing, offset: 0, len: 6 };
        assert!(!frames.is_settled(behind.span()), "filled, and not landed");
        let second = frames.land_filled(&mut loan, 6);
        assert_eq!(frames.bytes(second.span()), b" world");
    }

    /// Otherwise bytes that were never written for good would be shown.
    #[test]
    #[should_panic(expected = "is not filled")]
    fn no_more_lands_than_is_filled() {
        let (mut frames, landing) = frames();
        let mut loan = frames.loan(landing);
        loan.fill(5);
        frames.land_filled(&mut loan, 6);
    }

    #[test]
    #[should_panic(expected = "bytes behind")]
    fn a_loan_is_filled_to_its_end_at_most() {
        let (mut frames, landing) = frames();
        let mut loan = frames.loan(landing);
        loan.fill(BUF_BYTES);
        loan.fill(1);
    }

    #[test]
    fn a_span_is_filled_by_who_has_it_on_loan() {
        let (mut frames, _) = frames();
        let span = Span::new(8192, 5);
        let mut loan = frames.loan_span(span);
        loan.bytes_mut().copy_from_slice(b"hello");
        assert_eq!(frames.settle_span(loan), span);
        assert_eq!(frames.bytes(span), b"hello");
    }
}
