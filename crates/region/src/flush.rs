//! CPU flush: how stores leave the caches for memory that persists.
//!
//! A store is durable when its line has been *flushed* and a *fence* came after. A line that is
//! being written back should not be stored to again until then: that costs more than the flush.

#![expect(unsafe_code, reason = "flush instructions take addresses")]

use std::fmt;

use crate::{Frames, Span};

#[cfg_attr(target_arch = "x86_64", path = "flush/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "flush/aarch64.rs")]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "flush/none.rs")]
mod arch;

use arch::Instruction;

/// The best instruction that this CPU has to write a line back.
///
/// | CPU | instruction | in order of preference because |
/// |---|---|---|
/// | x86-64 | `clwb` | keeps the line in the cache, unordered |
/// | | `clflushopt` | drops the line, unordered |
/// | | `clflush` | drops the line, one after the other |
/// | AArch64 | `dc cvap` | to the point of persistence |
/// | | `dc cvac` | to the point of coherency |
#[derive(Clone, Copy)]
pub struct CpuFlush {
    instruction: Instruction,
    line_bytes: usize,
}

impl CpuFlush {
    /// Returns true if an instruction is known for this architecture: x86-64 and AArch64.
    pub const fn is_supported() -> bool {
        cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
    }

    /// Asks the CPU for its best instruction.
    ///
    /// # Panics
    /// If none is known for this architecture; ask [`is_supported`](Self::is_supported) before.
    pub fn detect() -> Self {
        let (instruction, line_bytes) = arch::detect().expect("a supported architecture");
        assert!(line_bytes.is_power_of_two(), "a line of {line_bytes} bytes");
        Self { instruction, line_bytes }
    }

    /// Returns every instruction of this CPU that writes lines back, the best first: to compare
    /// them. There is none on other architectures.
    pub fn supported() -> impl Iterator<Item = Self> {
        let line_bytes = arch::detect().map_or(0, |(_, line_bytes)| line_bytes);
        arch::supported().map(move |instruction| Self { instruction, line_bytes })
    }

    /// Returns the instruction's name.
    pub fn name(&self) -> &'static str {
        self.instruction.name()
    }

    /// Returns the bytes of a line.
    pub fn line_bytes(&self) -> usize {
        self.line_bytes
    }

    /// Starts writing back every line that has a byte of `span`.
    ///
    /// # Durability
    /// Nothing is promised until [`fence`](Self::fence).
    ///
    /// # Panics
    /// If `span` is not inside the frames.
    pub fn flush(&self, frames: &Frames, span: Span) {
        let start = frames.address(span).as_ptr().cast_const();
        let len = usize::try_from(span.len).expect("a mapping fits the address space");
        let lead = start.addr() & (self.line_bytes - 1);
        for line in (0..lead + len).step_by(self.line_bytes).take_while(|_| len > 0) {
            let line = start.wrapping_sub(lead).wrapping_add(line);
            // SAFETY:
            // - mapped: `address` asserts that the span lies inside the mapping; the mapping starts
            //   and ends at a page, so the whole of a line with one byte inside is.
            // - supported: an `Instruction` comes from `arch::detect` alone.
            unsafe { self.instruction.write_back(line) }
        }
    }

    /// Copies `pieces`, each to its offset, past the caches where the CPU can do that, and waits
    /// for all of them: as a store, a flush and a fence, without reading first the lines that are
    /// written as a whole.
    ///
    /// # Durability
    /// As of [`flush`](Self::flush) and [`fence`](Self::fence), also of lines written in part.
    ///
    /// # Panics
    /// As [`Frames::store`].
    pub fn stream(&self, frames: &mut Frames, pieces: &[(u64, &[u8])]) {
        // Whoever looked before the fence, another thread say, might see what was there before.
        // Dropped with a panic, too.
        let _fence = Fence(self);
        for (at, bytes) in pieces {
            self.stream_piece(frames, *at, bytes);
        }
    }

    fn stream_piece(&self, frames: &mut Frames, at: u64, bytes: &[u8]) {
        let span = Span::new(at, bytes.len() as u64);
        let start = frames.address(span).as_ptr();
        let lead = start.align_offset(STREAM_BYTES).min(bytes.len());
        let (lead, rest) = bytes.split_at(lead);
        let (lines, _) = rest.as_chunks::<STREAM_BYTES>();
        assert!(frames.is_settled(span), "{span:?} may still be written");
        let first = start.wrapping_add(lead.len());
        for (n, line) in lines.iter().enumerate() {
            let dest = first.wrapping_add(n * STREAM_BYTES);
            // SAFETY:
            // - valid for writes, mapped: `address` asserts that the span lies inside the mapping,
            //   and whole lines of `bytes` lie inside the span.
            // - aligned: `first` is, and what is added is a multiple.
            // - nobody else reads or writes: `&mut Frames`, and nobody on loan does (asserted).
            // - fenced before anybody can: `stream` has the frames until then; the edges below are
            //   other bytes.
            unsafe { arch::stream(dest, line) }
        }
        let whole = lines.as_flattened().len();
        let behind = lead.len() + whole;
        for (offset, edge) in [(0, lead), (behind, &rest[whole..])] {
            let at = at + offset as u64;
            frames.store(at, edge);
            self.flush(frames, Span::new(at, edge.len() as u64));
        }
        if !arch::STREAMS {
            self.flush(frames, Span::new(at + lead.len() as u64, whole as u64));
        }
    }

    /// Waits until what was flushed before is where it persists.
    ///
    /// # Durability
    /// On persistent memory every byte whose line this thread flushed before is durable.
    pub fn fence(&self) {
        arch::fence();
    }
}

impl fmt::Debug for CpuFlush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuFlush({}, {} bytes)", self.name(), self.line_bytes)
    }
}

/// Waits when it is dropped.
struct Fence<'f>(&'f CpuFlush);

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        self.0.fence();
    }
}

/// Bytes that are streamed at a time.
const STREAM_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Geometry;

    /// A wrong encoding would be an illegal instruction, or one that does something else.
    #[test]
    fn every_supported_instruction_leaves_the_bytes_as_they_are() {
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        for flush in CpuFlush::supported() {
            println!("{flush:?}");
            for (at, len) in [(0, 1), (63, 2), (4096, 4096), (5000, 777), (9, 0), (16 << 20, 0)] {
                let span = Span::new(at, len);
                let bytes: Vec<_> = (0..len).map(|n| (n % 251).to_le_bytes()[0]).collect();
                frames.store(at, &bytes);
                flush.flush(&frames, span);
                flush.fence();
                assert_eq!(frames.bytes(span), &bytes[..]);
            }
        }
    }

    /// An edge that is left out, or written twice at another place, is payload that nobody sent.
    #[test]
    fn what_is_streamed_is_there_to_the_last_byte() {
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        let flush = CpuFlush::detect();
        let bytes: Vec<_> = (0..400_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
        for at in [4096, 4097, 4159, 5000, 8191] {
            for len in [0, 1, 63, 64, 65, 128, 400] {
                frames.store(4000, &[0xee; 8000]);
                let two = [(at, &bytes[..len]), (at + 2048, &bytes[..len])];
                flush.stream(&mut frames, &two);
                let behind = at + len as u64;
                for more in [0, 2048] {
                    let (at, behind) = (at + more, behind + more);
                    let found = frames.bytes(Span::new(at, len as u64));
                    assert_eq!(found, &bytes[..len], "{at} {len}");
                    assert_eq!(frames.bytes(Span::new(at - 1, 1)), [0xee]);
                    assert_eq!(frames.bytes(Span::new(behind, 1)), [0xee]);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "may still be written")]
    fn nothing_is_streamed_over_what_is_on_loan() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 0).unwrap();
        let _loan = frames.loan_span(Span::new(8192, 4096));
        CpuFlush::detect().stream(&mut frames, &[(8128, &[0; 65])]);
    }

    #[test]
    fn the_last_line_of_the_mapping_can_be_flushed() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let frames = Frames::anonymous(geometry, 0).unwrap();
        let flush = CpuFlush::detect();
        let end = geometry.bufs_end().start();
        flush.flush(&frames, Span::new(end - 1, 1));
        flush.flush(&frames, Span::new(end - 100_000, 100_000));
        flush.fence();
    }

    #[test]
    #[should_panic(expected = "not inside")]
    fn nothing_outside_the_mapping_is_flushed() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let frames = Frames::anonymous(geometry, 0).unwrap();
        let end = geometry.bufs_end().start();
        CpuFlush::detect().flush(&frames, Span::new(end, 1));
    }
}
