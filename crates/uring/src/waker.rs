//! Waking one worker's ring from another's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::Fd;

/// Wakes a ring, by [`Uring::wake`](crate::Uring::wake) of any other ring. Outlives it: then it
/// wakes nobody.
#[derive(Clone, Debug)]
pub struct Waker {
    /// A descriptor of its own for the ring.
    ring: Fd,
    is_gone: Arc<AtomicBool>,
}

impl Waker {
    pub(crate) const fn new(ring: Fd, is_gone: Arc<AtomicBool>) -> Self {
        Self { ring, is_gone }
    }

    /// Returns the ring's descriptor, unless the ring is gone: then nobody would take messages out.
    pub(crate) fn ring(&self) -> Option<&Fd> {
        // Relaxed: a message more or less to a ring that is going makes no difference.
        (!self.is_gone.load(Ordering::Relaxed)).then_some(&self.ring)
    }
}
