//! What a port of the kernel's TCP is made over: io_uring, or epoll where that is forbidden.

use std::{fmt, io, time::Duration};

use impasto_epoll::Epoll;
use impasto_region::{BufId, Frames, SpanLoan};
use impasto_uring::{Completion, Fd, Landed, Mode, Op, Owner, Piece, Token, Uring};

/// Operations on sockets: what is started completes, and memory in flight comes back with
/// completions. What each of them does is said at [`Uring`], which they are named after.
pub trait Sockets: Sized {
    /// Landing buffers.
    type Group: Group<Landing = Self::Landing>;
    /// Where something has landed.
    type Landing;
    /// Wakes whoever waits.
    type Waker: Clone + fmt::Debug;
    /// True if listeners must not block, false if they must.
    const BY_READINESS: bool;

    /// Makes the group that receives land in; `mode` is for an io_uring.
    ///
    /// # Errors
    /// What the kernel says.
    fn group(
        &mut self,
        frames: &Frames,
        bufs_max: u16,
        mode: Option<Mode>,
    ) -> io::Result<Self::Group>;

    /// Returns what others wake this one with.
    ///
    /// # Errors
    /// If no descriptor is left.
    fn waker(&self) -> io::Result<Self::Waker>;

    /// Wakes another one.
    fn wake(&mut self, waker: &Self::Waker);

    /// Accepts one connection.
    fn accept(&mut self, token: Token, listener: &Fd) -> Op;

    /// Receives into buffers of `group` until that ends.
    fn receive(&mut self, token: Token, socket: &Fd, group: &Self::Group) -> Op;

    /// Receives once, straight into a span of `frames`.
    fn receive_into(&mut self, token: Token, socket: &Fd, frames: &Frames, loan: SpanLoan) -> Op;

    /// Sends all `pieces`; quietly, if nobody waits for the end.
    fn send(
        &mut self,
        token: Token,
        socket: &Fd,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
        is_quiet: bool,
    ) -> Op;

    /// Completes when `after` is over.
    fn timer(&mut self, token: Token, after: Duration) -> Op;

    /// Tells the peer that no more bytes follow.
    fn shutdown(&mut self, token: Token, socket: &Fd) -> Op;

    /// Closes `fd`.
    fn close(&mut self, fd: Fd);

    /// Cancels an operation, which completes all the same.
    fn cancel(&mut self, op: Op);

    /// Returns a completion of `owner`.
    fn completion(&mut self, owner: Owner) -> Option<Completion<Self::Landing>>;
}

/// Landing buffers that receives fill.
pub trait Group: fmt::Debug {
    /// Where something has landed.
    type Landing;

    /// Returns the number of buffers that may be provided now.
    fn room(&self) -> usize;

    /// Returns the number of buffers that may be filled.
    fn provided(&self) -> usize;

    /// Gives `buf` to be filled when those provided before are full.
    fn provide(&mut self, frames: &mut Frames, buf: BufId);

    /// Takes a landing; landings are taken in the order of their completions.
    fn land(&mut self, frames: &mut Frames, landing: Self::Landing) -> Landed;
}

/// What an `impl Sockets` is without saying more: the type has the methods itself.
macro_rules! own_operations {
    () => {
        fn wake(&mut self, waker: &Self::Waker) {
            Self::wake(self, waker);
        }

        fn accept(&mut self, token: Token, listener: &Fd) -> Op {
            Self::accept(self, token, listener)
        }

        fn receive(&mut self, token: Token, socket: &Fd, group: &Self::Group) -> Op {
            Self::receive(self, token, socket, group)
        }

        fn send(
            &mut self,
            token: Token,
            socket: &Fd,
            frames: &Frames,
            bytes: Vec<u8>,
            pieces: impl IntoIterator<Item = Piece>,
            is_quiet: bool,
        ) -> Op {
            if is_quiet {
                Self::send_quiet(self, token, socket, frames, bytes, pieces)
            } else {
                Self::send(self, token, socket, frames, bytes, pieces)
            }
        }

        fn timer(&mut self, token: Token, after: Duration) -> Op {
            Self::timer(self, token, after)
        }

        fn shutdown(&mut self, token: Token, socket: &Fd) -> Op {
            Self::shutdown(self, token, socket)
        }

        fn close(&mut self, fd: Fd) {
            Self::close(self, fd);
        }

        fn cancel(&mut self, op: Op) {
            Self::cancel(self, op);
        }

        fn completion(&mut self, owner: Owner) -> Option<Completion<Self::Landing>> {
            Self::completion(self, owner)
        }
    };
}

/// Likewise a whole `impl Group`.
macro_rules! own_group {
    ($group:ty, $landing:ty) => {
        impl Group for $group {
            type Landing = $landing;

            fn room(&self) -> usize {
                Self::room(self)
            }

            fn provided(&self) -> usize {
                Self::provided(self)
            }

            fn provide(&mut self, frames: &mut Frames, buf: BufId) {
                Self::provide(self, frames, buf);
            }

            fn land(&mut self, frames: &mut Frames, landing: Self::Landing) -> Landed {
                Self::land(self, frames, landing)
            }
        }
    };
}

own_group!(impasto_uring::BufGroup, impasto_uring::Landing);
own_group!(impasto_epoll::BufGroup, impasto_epoll::Landing);

impl Sockets for Uring {
    type Group = impasto_uring::BufGroup;
    type Landing = impasto_uring::Landing;
    type Waker = impasto_uring::Waker;
    /// On one that does not block, an accept would fail instead of waiting.
    const BY_READINESS: bool = false;

    fn group(
        &mut self,
        frames: &Frames,
        bufs_max: u16,
        mode: Option<Mode>,
    ) -> io::Result<Self::Group> {
        match mode {
            Some(mode) => Self::Group::with_mode(self, frames, bufs_max, mode),
            None => Self::Group::new(self, frames, bufs_max),
        }
    }

    fn waker(&self) -> io::Result<Self::Waker> {
        Self::waker(self)
    }

    fn receive_into(&mut self, token: Token, socket: &Fd, frames: &Frames, loan: SpanLoan) -> Op {
        Self::receive_into(self, token, socket, frames, loan)
    }

    own_operations!();
}

impl Sockets for Epoll {
    type Group = impasto_epoll::BufGroup;
    type Landing = impasto_epoll::Landing;
    type Waker = impasto_epoll::Waker;
    /// A connection may be gone when it is accepted, and the next one a long way off.
    const BY_READINESS: bool = true;

    fn group(
        &mut self,
        frames: &Frames,
        bufs_max: u16,
        _mode: Option<Mode>,
    ) -> io::Result<Self::Group> {
        Ok(Self::Group::new(frames, bufs_max))
    }

    fn waker(&self) -> io::Result<Self::Waker> {
        Ok(Self::waker(self))
    }

    fn receive_into(&mut self, token: Token, socket: &Fd, _frames: &Frames, loan: SpanLoan) -> Op {
        Self::receive_into(self, token, socket, loan)
    }

    own_operations!();
}
