//! `--io`: what workers wait on.

use std::{io, os::fd::AsFd};

use clap::ValueEnum;

use impasto::{
    epoll::Epoll,
    media::Files,
    ring::Sockets,
    server::Enter,
    uring::{Fd, Owner, SetupError, Token, Uring},
};

use crate::cli::Failure;

/// `--io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum IoArg {
    /// io_uring where it can be had, else epoll
    Auto,
    /// io_uring: the fastest
    Uring,
    /// epoll, and threads for the disk: works everywhere
    Epoll,
}

/// What a worker waits on, one for each.
pub(super) trait Io:
    Enter<Waker: Send> + Sockets<Waker: Send + Sync> + Files + Sized
{
    /// Makes one for another worker.
    fn open() -> Result<Self, Failure>;

    /// Keeps the lock of the region as long as something is written (D6).
    fn hold(&mut self, lock: impl AsFd) -> io::Result<()>;

    /// Ends the wait when `fd` can be read.
    fn watch(&mut self, fd: &Fd);
}

/// The first one, and what the banner says of it.
pub(super) enum Chosen {
    Uring(Uring),
    Epoll(Epoll, String),
}

/// Chooses, by what was asked for and by what can be had.
pub(super) fn choose(asked: IoArg) -> Result<Chosen, Failure> {
    match asked {
        IoArg::Uring => Ok(Chosen::Uring(Io::open()?)),
        IoArg::Epoll => Ok(Chosen::Epoll(Io::open()?, "epoll: as asked for".into())),
        IoArg::Auto => match Uring::new(RING_ENTRIES) {
            Ok(io) => Ok(Chosen::Uring(io)),
            Err(
                why
                @ (SetupError::NotSupported | SetupError::Forbidden | SetupError::TooOld { .. }),
            ) => Ok(Chosen::Epoll(Io::open()?, format!("epoll: {why}"))),
            Err(error) => Err(error.into()),
        },
    }
}

/// Operations that one system call submits; more of them wait for their turn.
const RING_ENTRIES: u32 = 1024;
/// Of what only wakes the loop.
const WAKES: Token = Token { owner: Owner::Loop, value: 0 };

impl Io for Uring {
    fn open() -> Result<Self, Failure> {
        Ok(Self::new(RING_ENTRIES)?)
    }

    fn hold(&mut self, lock: impl AsFd) -> io::Result<()> {
        Self::hold(self, lock)
    }

    fn watch(&mut self, fd: &Fd) {
        self.poll(WAKES, fd);
    }
}

impl Io for Epoll {
    fn open() -> Result<Self, Failure> {
        Self::new().map_err(|error| format!("cannot set up epoll: {error}").into())
    }

    fn hold(&mut self, lock: impl AsFd) -> io::Result<()> {
        Self::hold(self, lock)
    }

    fn watch(&mut self, fd: &Fd) {
        self.poll(WAKES, fd);
    }
}
