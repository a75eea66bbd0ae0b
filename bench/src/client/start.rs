//! Where the threads of a client wait for each other: one that is still connecting sends nothing,
//! while the others measure a server that has less to do than it is said to have.

use std::sync::{
    Barrier,
    atomic::{AtomicBool, Ordering},
};

/// The line that all start from.
#[derive(Debug)]
pub(super) struct Line {
    threads: usize,
    barrier: Barrier,
    somebody_failed: AtomicBool,
}

/// The place of one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    line: &'a Line,
    index: usize,
}

impl Line {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads, barrier: Barrier::new(threads), somebody_failed: AtomicBool::new(false) }
    }

    pub(super) fn place(&self, index: usize) -> Place<'_> {
        Place { line: self, index }
    }
}

impl Place<'_> {
    /// Waits for all others; returns true if all of them are ready. To be called once by each.
    pub(super) fn wait(self, is_ready: bool) -> bool {
        if !is_ready {
            // Relaxed: the barrier orders it.
            self.line.somebody_failed.store(true, Ordering::Relaxed);
        }
        self.line.barrier.wait();
        !self.line.somebody_failed.load(Ordering::Relaxed)
    }

    /// Returns how far into the time between two of its requests this thread begins, so that those
    /// of all threads do not come together.
    pub(super) fn phase(self) -> f64 {
        self.index as f64 / self.line.threads as f64
    }
}
