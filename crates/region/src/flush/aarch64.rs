//! AArch64: `dc cvap`, `dc cvac`, and `dsb`.

use std::arch::{asm, is_aarch64_feature_detected};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    DcCvap,
    DcCvac,
}

impl Instruction {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DcCvap => "dc cvap",
            Self::DcCvac => "dc cvac",
        }
    }

    /// Starts writing back the line at `line`.
    ///
    /// # Safety
    /// The CPU has the instruction, and the line is mapped.
    pub(super) unsafe fn write_back(self, line: *const u8) {
        // No `nomem`: the stores before must not move behind the instruction.
        match self {
            // `dc cvap` by its encoding: an assembler knows the name only with the feature on.
            // SAFETY: present and mapped by the caller's obligation; flags and stack stay as they
            // are.
            Self::DcCvap => unsafe {
                asm!("sys #3, c7, c12, #1, {}", in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: every AArch64 CPU has it, Linux allows it; mapped by the caller's obligation.
            Self::DcCvac => unsafe {
                asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags));
            },
        }
    }
}

/// Returns the best instruction of this CPU and the bytes of a line.
pub(super) fn detect() -> Option<(Instruction, usize)> {
    let best = supported().next()?;
    let cache_type: u64;
    // SAFETY: Linux lets every process read CTR_EL0, or emulates it.
    unsafe {
        asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack, preserves_flags));
    }
    // DminLine, bits 19:16: the smallest line of all data caches, log2 of 4-byte words.
    let line_bytes = 4 << (cache_type >> 16 & 0xf);
    Some((best, line_bytes))
}

/// Returns the instructions that this CPU has, the best first.
pub(super) fn supported() -> impl Iterator<Item = Instruction> {
    let persistence = is_aarch64_feature_detected!("dpb").then_some(Instruction::DcCvap);
    persistence.into_iter().chain([Instruction::DcCvac])
}

/// Waits until the flushes before are done.
pub(super) fn fence() {
    // SAFETY: a barrier; it touches no memory of its own.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// What [`stream`] writes is flushed by its caller.
pub(super) const STREAMS: bool = false;

/// Writes a line, into the cache.
///
/// # Safety
/// `line` is valid for writes of 64 bytes, and nobody else is at them.
pub(super) unsafe fn stream(line: *mut u8, bytes: &[u8; 64]) {
    // SAFETY: valid by the caller's obligation; it is none of what `bytes` borrows.
    unsafe { line.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}
