//! Waking one worker's `Epoll` from other threads.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes an `Epoll`, by [`Epoll::wake`](crate::Epoll::wake) of any other. Outlives it: then it
/// wakes nobody.
#[derive(Clone, Debug)]
pub struct Waker(pub(crate) Arc<Bell>);

/// An eventfd that is watched by edge: each write is seen, and nobody has to read it.
#[derive(Debug)]
pub(crate) struct Bell {
    fd: OwnedFd,
    /// It was rung and has not been heard.
    is_rung: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, is_rung: AtomicBool::new(false) })
    }

    /// Makes the wait of its owner end, the present one or the next.
    pub(crate) fn ring(&self) {
        // AcqRel, here and below: what was done before a ring is seen by whoever hears it, also if
        // another ring was there already.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            #[expect(clippy::host_endian_bytes, reason = "a counter of this kernel")]
            let one = 1_u64.to_ne_bytes();
            // It would fail after 2^64 rings.
            let _rung = rustix::io::write(&self.fd, &one);
        }
    }

    /// Notes that its owner is awake; what was done before a ring is seen after this.
    pub(crate) fn hear(&self) {
        self.is_rung.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
