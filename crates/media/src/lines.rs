//! `Lines` on the CPU.

use impasto_region::{CpuFlush, Frames, Span};

use crate::Lines;

/// The cache lines of this machine.
#[derive(Debug)]
pub struct CpuLines(CpuFlush);

impl CpuLines {
    /// Chooses the best instruction that this CPU has.
    ///
    /// # Panics
    /// If none is known for its architecture, see [`CpuFlush::is_supported`].
    pub fn detect() -> Self {
        Self(CpuFlush::detect())
    }

    /// Returns the name of that instruction.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }
}

impl Lines for CpuLines {
    fn flush(&mut self, frames: &Frames, span: Span) {
        self.0.flush(frames, span);
    }

    fn fence(&mut self, _frames: &Frames) {
        self.0.fence();
    }
}
