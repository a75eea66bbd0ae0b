//! Any other architecture: no instruction is known, so nothing is detected.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {}

impl Instruction {
    pub(super) const fn name(self) -> &'static str {
        match self {}
    }

    /// # Safety
    /// There is no instruction to call this on.
    pub(super) unsafe fn write_back(self, _line: *const u8) {
        match self {}
    }
}

pub(super) fn detect() -> Option<(Instruction, usize)> {
    None
}

pub(super) fn supported() -> impl Iterator<Item = Instruction> {
    std::iter::empty()
}

pub(super) fn fence() {}

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
