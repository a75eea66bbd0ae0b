//! What the loop waits on.

use std::{io, time::Duration};

use impasto_uring::{Owner, Uring};

/// The one place where a worker waits: for packets, for the medium, for a signal, for another
/// worker.
pub trait Enter {
    /// Lets other workers end the wait.
    type Waker;

    /// Returns what wakes this worker.
    ///
    /// # Errors
    /// What the system says.
    fn waker(&self) -> io::Result<Self::Waker>;

    /// Ends the wait of the worker that `waker` is of, with the next [`enter`](Self::enter) at the
    /// latest.
    fn wake(&mut self, waker: &Self::Waker);

    /// Submits what was started and waits until something completes; at most for `timeout`, not at
    /// all if that is zero.
    ///
    /// # Errors
    /// Whatever keeps the loop from going on.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

impl Enter for Uring {
    type Waker = ();

    fn waker(&self) -> io::Result<()> {
        Ok(())
    }

    fn wake(&mut self, _waker: &()) {}

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        Self::enter(self, timeout)?;
        // Whatever the loop itself polls only wakes it: what happened stands elsewhere, as in the
        // flag of `Worker::run`. Left in its queue, it would keep the next enter from
        // waiting.
        while self.completion(Owner::Loop).is_some() {}
        Ok(())
    }
}
