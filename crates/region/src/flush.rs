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
