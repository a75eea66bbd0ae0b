//! What the loop waits on.

use std::{io, time::Duration};

use impasto_uring::{Owner, Uring};

/// The one place where a worker waits: for packets, for the medium, for a signal.
pub trait Enter {
    /// Submits what was started and waits until something completes; at most for `timeout`, not at
    /// all if that is zero.
    ///
    /// # Errors
    /// Whatever keeps the loop from going on.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

impl Enter for Uring {
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        Self::enter(self, timeout)?;
        // Whatever the loop itself polls only wakes it: what happened stands elsewhere, as in the
        // flag of `Worker::run`. Left in its queue, it would keep the next enter from
        // waiting.
        while self.completion(Owner::Loop).is_some() {}
        Ok(())
    }
}
