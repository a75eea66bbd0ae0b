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
