//! Listeners, and the accepts on them.

use std::{collections::VecDeque, io};

use impasto_uring::{Completion, Fd, Handed, Op};
use rustix::io::Errno;

use crate::Sockets;

/// Accepts connections, a few at a time: never more than there are places for, but one on each
/// listener. One multishot accept would take all that is in the kernel's queue, thousands, before
/// it could be cancelled.
#[derive(Debug, Default)]
pub(crate) struct Acceptor {
    /// Empty once it has stopped: then connections are refused.
    listeners: Vec<Fd>,
    /// By listener, [`ACCEPTS`] each.
    accepts: Vec<Option<Op>>,
    in_flight: usize,
    is_cancelled: bool,
    is_resting: bool,
    has_stopped: bool,
    /// Accepted where there was no place, fewer than listeners.
    pub(crate) waiting: VecDeque<Fd>,
}

/// Accepts in flight on one listener, and so connections that it takes in a turn.
const ACCEPTS: usize = 32;

impl Acceptor {
    /// Returns one that accepts from `listeners`.
    pub(crate) fn new(listeners: Vec<Fd>) -> Self {
        Self { accepts: vec![None; listeners.len() * ACCEPTS], listeners, ..Self::default() }
    }

    /// Returns true if it would accept.
    pub(crate) fn is_on(&self) -> bool {
        !self.listeners.is_empty() && !self.is_resting
    }

    /// Returns true if it rests.
    pub(crate) const fn is_resting(&self) -> bool {
        self.is_resting
    }

    /// Starts accepts for `room` places, or cancels those in flight; `start` is given the index of
    /// each.
    pub(crate) fn arm<I: Sockets>(
        &mut self,
        io: &mut I,
        room: usize,
        mut start: impl FnMut(&mut I, u32, &Fd) -> Op,
    ) {
        if !self.is_on() || room == 0 || !self.waiting.is_empty() {
            return self.cancel(io);
        }
        self.is_cancelled = false;
        for (at, listener) in self.listeners.iter().enumerate() {
            let mut has_any = self.accepts[at * ACCEPTS..][..ACCEPTS].iter().any(Option::is_some);
            for index in at * ACCEPTS..(at + 1) * ACCEPTS {
                if has_any && self.in_flight >= room {
                    break;
                }
                if self.accepts[index].is_none() {
                    let number = u32::try_from(index).expect("few listeners");
                    self.accepts[index] = Some(start(io, number, listener));
                    self.in_flight += 1;
                }
                has_any = true;
            }
        }
    }

    /// Takes in the end of an accept; what it brought then waits. Returns true if accepting has to
    /// rest now.
    pub(crate) fn accepted<L>(&mut self, index: u32, completion: Completion<L>) -> bool {
        self.accepts[index as usize] = None;
        self.in_flight -= 1;
        if let Handed::Accepted(socket) = completion.handed
            && !self.has_stopped
        {
            self.waiting.push_back(socket);
        }
        let goes_on = completion.result.map_or_else(|error| is_passing(&error), |_fd| true);
        let rests = !goes_on && self.is_on();
        self.is_resting |= rests;
        rests
    }

    /// Accepts again.
    pub(crate) const fn end_rest(&mut self) {
        self.is_resting = false;
    }

    /// Stops for good. What waits is closed.
    pub(crate) fn stop(&mut self, io: &mut impl Sockets) {
        self.has_stopped = true;
        self.waiting.clear();
        self.cancel(io);
        self.listeners.clear();
    }

    /// All of them: one that was woken for a connection and is cancelled wakes no other.
    fn cancel(&mut self, io: &mut impl Sockets) {
        if !std::mem::replace(&mut self.is_cancelled, true) {
            self.accepts.iter().flatten().for_each(|accept| io.cancel(*accept));
        }
    }
}

/// Returns true if an accept failed for one connection only, or was cancelled.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CANCELED
                | Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::PROTO
                | Errno::PERM
                | Errno::INTR
                | Errno::AGAIN
        )
    )
}
