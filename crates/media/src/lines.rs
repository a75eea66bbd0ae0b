//! `Lines` on the CPU.

use impasto_region::{CpuFlush, Frames, Span};

use crate::Lines;

/// The cache lines of this machine.
#[derive(Debug)]
pub struct CpuLines {
    cpu: CpuFlush,
    /// False if a store is durable when it is in the cache.
    flushes: bool,
}

impl CpuLines {
    /// Chooses the best instruction that this CPU has.
    ///
    /// # Panics
    /// If none is known for its architecture, see [`CpuFlush::is_supported`].
    pub fn detect() -> Self {
        Self { cpu: CpuFlush::detect(), flushes: true }
    }

    /// Flushes nothing: for memory whose persistence domain covers the caches, and no other. A
    /// fence still waits until stores have left for the cache.
    ///
    /// # Panics
    /// As [`detect`](Self::detect).
    pub fn fence_only() -> Self {
        Self { cpu: CpuFlush::detect(), flushes: false }
    }

    /// Returns the name of the instruction, if there is one to flush with.
    pub fn name(&self) -> Option<&'static str> {
        self.flushes.then(|| self.cpu.name())
    }
}

impl Lines for CpuLines {
    fn flush(&mut self, frames: &Frames, span: Span) {
        if self.flushes {
            self.cpu.flush(frames, span);
        }
    }

    fn fence(&mut self, _frames: &Frames) {
        self.cpu.fence();
    }
}
