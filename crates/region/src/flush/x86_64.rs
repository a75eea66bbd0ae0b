//! x86-64: `clwb`, `clflushopt`, `clflush`, and `sfence`.

use std::arch::{
    asm,
    x86_64::{
        __cpuid_count, __m128i, _mm_clflush, _mm_loadu_si128, _mm_sfence, _mm_stream_si128,
        CpuidResult,
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    Clwb,
    Clflushopt,
    Clflush,
}

impl Instruction {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Clwb => "clwb",
            Self::Clflushopt => "clflushopt",
            Self::Clflush => "clflush",
        }
    }

    /// Starts writing back the line at `line`.
    ///
    /// # Safety
    /// The CPU has the instruction, and the line is mapped.
    pub(super) unsafe fn write_back(self, line: *const u8) {
        // No `nomem`: the stores before must not move behind the instruction.
        match self {
            // SAFETY: present and mapped by the caller's obligation; flags and stack stay as they
            // are.
            Self::Clwb => unsafe {
                asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: as above.
            Self::Clflushopt => unsafe {
                asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
            },
            // SAFETY: every x86-64 CPU has it; mapped by the caller's obligation.
            Self::Clflush => unsafe { _mm_clflush(line) },
        }
    }
}

/// Returns the best instruction of this CPU and the bytes of a line.
pub(super) fn detect() -> Option<(Instruction, usize)> {
    let best = supported().next()?;
    // CPUID.01H:EBX[15:8]: the line that `clflush` works on, in units of 8 bytes.
    let line_bytes = (cpuid(1).ebx >> 8 & 0xff) as usize * 8;
    Some((best, line_bytes))
}

/// Returns the instructions that this CPU has, the best first.
pub(super) fn supported() -> impl Iterator<Item = Instruction> {
    // CPUID.07H:EBX.CLWB[24], CLFLUSHOPT[23].
    let features = if cpuid(0).eax >= 7 { cpuid(7).ebx } else { 0 };
    let present = [
        (Instruction::Clwb, features & 1 << 24 != 0),
        (Instruction::Clflushopt, features & 1 << 23 != 0),
        (Instruction::Clflush, true),
    ];
    present.into_iter().filter(|(_, present)| *present).map(|(instruction, _)| instruction)
}

/// Waits until the flushes before are done.
///
/// `clwb` and `clflushopt` are ordered by `sfence` alone, `clflush` with stores by itself.
pub(super) fn fence() {
    // SAFETY: every x86-64 CPU has it.
    unsafe { _mm_sfence() }
}

/// What [`stream`] writes leaves for memory by itself.
pub(super) const STREAMS: bool = true;

/// Writes a line past the caches.
///
/// # Safety
/// `line` is valid for writes of 64 bytes and aligned to as many, and nobody is at them, this
/// thread neither, before it has [fenced](fence).
#[expect(clippy::cast_ptr_alignment, reason = "aligned by the caller, or read unaligned")]
pub(super) unsafe fn stream(line: *mut u8, bytes: &[u8; 64]) {
    for at in (0..bytes.len()).step_by(size_of::<__m128i>()) {
        let from = bytes[at..].as_ptr().cast::<__m128i>();
        // SAFETY: 16 bytes from `at` are in the array; the load takes any alignment.
        let part = unsafe { _mm_loadu_si128(from) };
        let dest = line.wrapping_add(at).cast::<__m128i>();
        // SAFETY:
        // - valid and aligned: `at` is below 64 and a multiple of 16, and the caller's obligation.
        // - fenced before the bytes are looked at: by the caller's obligation.
        // - known: every x86-64 CPU has SSE2.
        unsafe { _mm_stream_si128(dest, part) }
    }
}

fn cpuid(leaf: u32) -> CpuidResult {
    #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
    // SAFETY: every x86-64 CPU has `cpuid`.
    unsafe {
        __cpuid_count(leaf, 0)
    }
}
