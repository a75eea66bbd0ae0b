//! An operation in flight, with all that it uses until it has ended.

use std::{cell::RefCell, os::fd::OwnedFd, rc::Rc};

use impasto_region::SpanLoan;
use impasto_uring::{Fd, Op, Token};

use crate::{Waker, group::Bufs, kernel::Outgoing, pool::Job};

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) token: Token,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Accept(Fd),
    Poll(Fd),
    Receive(Fd, Rc<RefCell<Bufs>>),
    /// A receive straight into a span.
    Fill(Fd, SpanLoan),
    Send {
        socket: Fd,
        outgoing: Outgoing,
        /// Its end is told when something else has happened.
        is_quiet: bool,
    },
    Shutdown(Fd),
    Timer,
    /// In the hands of a thread.
    File,
}

/// What the next enter does.
#[derive(Debug)]
pub(crate) enum Pending {
    Begin(Op),
    Cancel(Op),
}

/// What the next enter gives away, before it does anything else, in this order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Nobody uses them. Whoever is woken for want of a descriptor finds them free.
    pub(crate) closing: Vec<OwnedFd>,
    pub(crate) jobs: Vec<Job>,
    /// Who is to be woken.
    pub(crate) rung: Vec<Waker>,
}

impl Operation {
    /// Returns the descriptor that it waits for.
    pub(crate) const fn fd(&self) -> Option<&Fd> {
        match &self.kind {
            Kind::Accept(fd)
            | Kind::Poll(fd)
            | Kind::Receive(fd, _)
            | Kind::Fill(fd, _)
            | Kind::Send { socket: fd, .. }
            | Kind::Shutdown(fd) => Some(fd),
            Kind::Timer | Kind::File => None,
        }
    }
}
