//! What the loop waits on.

use std::{io, time::Duration};

use impasto_epoll::Epoll;
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
    /// all if that is zero. Returns false if nothing can have happened.
    ///
    /// # Errors
    /// Whatever keeps the loop from going on.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool>;

    /// Is told what was done for a request, to measure it: of what lies between two calls of port
    /// and medium nothing else tells. The default is nothing, and costs nothing.
    #[inline]
    fn passed(&mut self, _step: Step) {}
}

/// What was just done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its head was parsed.
    Parsed,
    /// The store was asked: a record is made, not durable. Told again where it has to be asked once
    /// more, with what it needs.
    Applied,
    /// Its reply is written, and waits until it may leave.
    Answered,
}

impl Enter for Uring {
    type Waker = impasto_uring::Waker;

    fn waker(&self) -> io::Result<Self::Waker> {
        Self::waker(self)
    }

    fn wake(&mut self, waker: &Self::Waker) {
        Self::wake(self, waker);
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        Self::enter(self, timeout)?;
        let has_news = self.has_news();
        // Whatever the loop itself polls only wakes it: what happened stands elsewhere, as in the
        // flag of `Worker::run`. Left in its queue, it would keep the next enter from waiting.
        while self.completion(Owner::Loop).is_some() {}
        Ok(has_news)
    }
}

impl Enter for Epoll {
    type Waker = impasto_epoll::Waker;

    fn waker(&self) -> io::Result<Self::Waker> {
        Ok(Self::waker(self))
    }

    fn wake(&mut self, waker: &Self::Waker) {
        Self::wake(self, waker);
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        Self::enter(self, timeout)?;
        let has_news = self.has_news();
        // As above.
        while self.completion(Owner::Loop).is_some() {}
        Ok(has_news)
    }
}
