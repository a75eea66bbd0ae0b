//! What is in flight, and what has completed. No system calls here, and no `unsafe`.

use std::{
    collections::VecDeque,
    io,
    os::fd::{IntoRawFd, OwnedFd},
    rc::Rc,
};

use impasto_region::SpanLoan;
use io_uring::{
    cqueue, opcode,
    squeue::{Entry, Flags},
    types::Timespec,
};
use rustix::io::Errno;

use crate::{
    Completion, Completions, Fd, Handed, Op, Operations, Token, group::Sequence, message::Message,
};

/// An operation, with all that the kernel uses until it has ended.
#[derive(Debug)]
pub(crate) struct Operation {
    /// `None`: nobody wants to know of its end.
    pub(crate) token: Option<Token>,
    pub(crate) fd: Option<Fd>,
    pub(crate) kind: Kind,
    pub(crate) cancelled: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Plain,
    Accept,
    Receive(Rc<Sequence>),
    Send(Box<Message>),
    Read(SpanLoan),
    Close(OwnedFd),
    Timer {
        _after: Box<Timespec>,
    },
    /// A message to another ring: over when the kernel has taken it.
    Wake {
        /// Its success is not told.
        is_quiet: bool,
    },
}

/// In the completion that another ring's wake-up posts to ours; names no operation.
const WOKEN: u64 = u64::MAX;

/// A completion as the kernel posts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Posted {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// Operations, entries to submit, completions.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    operations: Operations<Operation>,
    /// Not yet in the submission queue.
    pub(crate) pending: VecDeque<Entry>,
    pub(crate) completions: Completions,
    /// Another ring has woken us since this was cleared.
    pub(crate) is_woken: bool,
    /// Quiet sends whose end is not known, and wake-ups.
    quiet: Vec<Op>,
    #[expect(clippy::vec_box, reason = "a message moves with its allocations, back into flight")]
    spare: Vec<Box<Message>>,
}

impl Flight {
    /// Queues `entry`, and keeps `operation` until it has ended.
    pub(crate) fn start(&mut self, entry: Entry, operation: Operation) -> Op {
        let op = self.operations.begin(operation);
        self.pending.push_back(entry.user_data(op.user_data()));
        op
    }

    /// Starts the message that wakes `ring`.
    pub(crate) fn wake(&mut self, ring: Fd) {
        let entry = wake_entry(&ring).flags(Flags::SKIP_SUCCESS);
        let (fd, kind) = (Some(ring), Kind::Wake { is_quiet: true });
        let op = self.start(entry, Operation { token: None, fd, kind, cancelled: false });
        self.expect_silence(op);
    }

    /// Returns the operation, if it has not ended.
    pub(crate) fn get_mut(&mut self, op: Op) -> Option<&mut Operation> {
        self.operations.get_mut(op)
    }

    /// Returns the number of operations that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.operations.len()
    }

    /// Forgets operations that the kernel has not seen.
    pub(crate) fn abandon_pending(&mut self) {
        while let Some(entry) = self.pending.pop_front() {
            self.operations.end(Op::of(entry.get_user_data()));
        }
    }

    /// Notes that `op` was started as a quiet send, or as a wake-up.
    pub(crate) fn expect_silence(&mut self, op: Op) {
        self.quiet.push(op);
    }

    /// Completes quiet sends and wake-ups of which nothing was heard. The kernel has taken all that
    /// was started, and everything that it had to say of that was routed.
    pub(crate) fn end_silence(&mut self) {
        for index in 0..self.quiet.len() {
            let op = self.quiet[index];
            let Some(Operation { token, kind, .. }) = self.get_mut(op) else {
                continue;
            };
            let sent = match kind {
                Kind::Send(message) if message.is_quiet() => message.advance_all(),
                Kind::Wake { is_quiet: true } => 0,
                _ => continue,
            };
            let (token, result) = (*token, Ok(sent));
            let operation = self.operations.end(op).expect("it is there, seen above");
            let handed = self.take_back(operation, Handed::Nothing, &result);
            if let Some(token) = token {
                self.completions.push(Completion { token, result, more: false, handed });
            }
        }
        self.quiet.clear();
    }

    pub(crate) fn spare_message(&mut self) -> Box<Message> {
        self.spare.pop().unwrap_or_else(Message::new)
    }

    /// Returns true if somebody has something to look at.
    pub(crate) fn has_news(&self) -> bool {
        self.is_woken || !self.completions.is_empty()
    }

    /// Routes what the kernel has posted. `adopt` makes a descriptor of the result of an accept.
    pub(crate) fn complete(&mut self, posted: Posted, adopt: impl FnOnce(i32) -> Fd) {
        if posted.user_data == WOKEN {
            self.is_woken = true;
            return;
        }
        let op = Op::of(posted.user_data);
        let more = cqueue::more(posted.flags);
        let mut result = u32::try_from(posted.result)
            .map_err(|_| io::Error::from_raw_os_error(posted.result.wrapping_neg()));
        let Some(operation) = self.get_mut(op) else {
            return;
        };
        let again = operation.wake_again(&result);
        if let Some(entry) = again.or_else(|| operation.rest_of_send(&mut result)) {
            self.pending.push_back(entry.user_data(posted.user_data));
            return;
        }
        let token = operation.token;
        let mut handed = operation.report(posted, adopt);
        if !more {
            let operation = self.operations.end(op).expect("it is there, seen above");
            handed = self.take_back(operation, handed, &result);
        }
        if let Some(token) = token {
            self.completions.push(Completion { token, result, more, handed });
        }
    }

    /// Takes apart an operation that has ended; returns what its owner gets.
    fn take_back(
        &mut self,
        operation: Operation,
        handed: Handed,
        result: &io::Result<u32>,
    ) -> Handed {
        match operation.kind {
            Kind::Plain
            | Kind::Accept
            | Kind::Receive(_)
            | Kind::Timer { .. }
            | Kind::Wake { .. } => handed,
            Kind::Send(mut message) => {
                let bytes = message.take_bytes();
                self.spare.push(message);
                Handed::Bytes(bytes)
            }
            Kind::Read(loan) => Handed::Filled(loan),
            Kind::Close(fd) => {
                let cancelled = |error: &io::Error| error.raw_os_error() == Some(CANCELED);
                if !result.as_ref().is_err_and(cancelled) {
                    // The kernel has closed the number, and may have given it to another file
                    // already.
                    let _closed = fd.into_raw_fd();
                }
                Handed::Nothing
            }
        }
    }
}

const CANCELED: i32 = Errno::CANCELED.raw_os_error();

fn wake_entry(ring: &Fd) -> Entry {
    opcode::MsgRingData::new(ring.target(), 0, WOKEN, None).build()
}

impl Operation {
    /// Returns the entry that sends a wake-up again, if memory was short for it: nobody else would
    /// wake that ring for the same reason. Not if the ring is gone, or has so many messages that it
    /// takes no more (`EOVERFLOW`): then it is awake.
    fn wake_again(&mut self, result: &io::Result<u32>) -> Option<Entry> {
        let Kind::Wake { is_quiet } = &mut self.kind else {
            return None;
        };
        let error = Errno::from_io_error(result.as_ref().err()?);
        if !matches!(error, Some(Errno::NOMEM | Errno::AGAIN)) {
            return None;
        }
        // It has not been taken yet when silence ends, so that it tells of its success, too.
        *is_quiet = false;
        Some(wake_entry(self.fd.as_ref().expect("a wake-up has a ring")))
    }

    /// Notes what a send has sent: returns the entry that sends the rest, or makes `result` that of
    /// all.
    fn rest_of_send(&mut self, result: &mut io::Result<u32>) -> Option<Entry> {
        let Kind::Send(message) = &mut self.kind else {
            return None;
        };
        let was_quiet = message.end_quiet();
        let count = match result {
            Ok(count) => *count,
            Err(error) if was_quiet && error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return None,
        };
        let left = message.advance(count);
        if !left {
            *result = Ok(message.sent());
        } else if self.cancelled {
            *result = Err(Errno::CANCELED.into());
        } else if count == 0 && !was_quiet {
            *result = Err(io::ErrorKind::WriteZero.into());
        } else {
            let fd = self.fd.as_ref().expect("a send has a socket");
            return Some(message.entry(fd.target()));
        }
        None
    }

    /// Returns what comes with one completion of an operation that may go on.
    fn report(&self, posted: Posted, adopt: impl FnOnce(i32) -> Fd) -> Handed {
        match &self.kind {
            Kind::Accept if posted.result >= 0 => Handed::Accepted(adopt(posted.result)),
            Kind::Receive(sequence) => sequence
                .landing(posted.result, posted.flags)
                .map_or(Handed::Nothing, Handed::Landed),
            _ => Handed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Takes the one entry that is pending, and says that it has failed.
    fn fail(flight: &mut Flight, error: Errno) {
        let entry = flight.pending.pop_front().unwrap();
        assert!(flight.pending.is_empty());
        post(flight, entry.get_user_data(), -error.raw_os_error());
    }

    /// Completes as the ring does, which then believes in silence.
    fn post(flight: &mut Flight, user_data: u64, result: i32) {
        flight.complete(Posted { user_data, result, flags: 0 }, |_| panic!("nothing is accepted"));
        flight.end_silence();
        assert!(!flight.has_news(), "nobody is told of a wake-up");
    }

    fn waking() -> Flight {
        let mut flight = Flight::default();
        flight.wake(File::open("/dev/null").unwrap().into());
        flight
    }

    /// Lost for want of memory, it would leave the worker asleep over what was done for it.
    #[test]
    fn a_wake_up_for_which_memory_is_short_is_sent_again_until_it_is_taken() {
        for error in [Errno::NOMEM, Errno::AGAIN] {
            let mut flight = waking();
            let user_data = flight.pending[0].get_user_data();
            for _ in 0..3 {
                fail(&mut flight, error);
                let again = &flight.pending[0];
                assert_eq!(again.get_user_data(), user_data);
                assert_eq!(again.get_opcode(), u32::from(opcode::MsgRingData::CODE));
                assert_eq!(flight.len(), 1, "it has not ended");
            }
            // Taken, and not over: its success is told.
            let entry = flight.pending.pop_front().unwrap();
            assert!(format!("{entry:?}").contains("flags: 0,"), "{entry:?}");
            flight.end_silence();
            assert_eq!(flight.len(), 1);
            post(&mut flight, user_data, 0);
            assert_eq!(flight.len(), 0);
            assert!(flight.pending.is_empty());
        }
    }

    /// Sent again, a message to a ring that is gone would fail for ever.
    #[test]
    fn a_wake_up_that_cannot_be_taken_or_is_not_needed_ends() {
        for error in [Errno::BADFD, Errno::BADF, Errno::CANCELED, Errno::OVERFLOW] {
            let mut flight = waking();
            fail(&mut flight, error);
            assert!(flight.pending.is_empty(), "{error}");
            assert_eq!(flight.len(), 0);
        }
    }

    /// Without an end of its own, a wake-up that succeeds would stay in flight for ever.
    #[test]
    fn a_wake_up_of_which_nothing_is_heard_ends() {
        let mut flight = waking();
        flight.pending.clear();
        flight.end_silence();
        assert_eq!(flight.len(), 0);
    }
}
