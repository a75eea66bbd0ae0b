//! Where the time of Impasto goes, charged at what its worker waits on.
//!
//! ```text
//! enter: sends | enter: waits, receives | completions -> slots | head | record | reply | ..
//! reply          wait, or sync            receive                parse  copy     reply
//! .. seal | flush | fence | release replies | enter        on shm
//! copy      flush   fence   reply
//! .. seal, write started | .. enter .. write completed | release replies | enter     on disk
//! copy                     fence or sync                 reply
//! ```
//!
//! The kernel receives inside of the enter that waits for it, so that `wait` has the kernel's part
//! of receiving, unless the worker polls: then the enter that brings something is `receive`. Sends
//! are submitted by an enter of their own, which a worker that is not looked at saves.

use std::{io, time::Duration};

use impasto::{
    media::{Ended, Files},
    region::{Frames, Span, SpanLoan},
    ring::Sockets,
    server::{Enter, Step},
    uring::{Completion, Fd, Mode, Op, Owner, Piece, Token},
};

use crate::stages::{self, Stage};

/// What a worker waits on, with an account of its time.
#[derive(Debug)]
pub(super) struct Staged<I> {
    io: I,
    /// Sends that no enter has submitted.
    sends: usize,
    /// Operations on files in flight.
    files: usize,
    /// The last enter has brought something.
    had_news: bool,
}

impl<I> Staged<I> {
    pub(super) const fn new(io: I) -> Self {
        Self { io, sends: 0, files: 0, had_news: false }
    }

    /// Returns what is being waited for.
    const fn awaited(&self) -> Stage {
        if self.files > 0 { Stage::Fence } else { Stage::Wait }
    }
}

impl<I: Enter + Sockets> Enter for Staged<I> {
    type Waker = <I as Enter>::Waker;

    fn waker(&self) -> io::Result<Self::Waker> {
        Enter::waker(&self.io)
    }

    fn wake(&mut self, waker: &Self::Waker) {
        Enter::wake(&mut self.io, waker);
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        // A turn ends with replies, or has started what it waits for; one without news polls.
        let is_over = self.had_news && self.files == 0;
        stages::charge(if is_over { Stage::Reply } else { self.awaited() });
        self.had_news = false;
        if std::mem::take(&mut self.sends) > 0 {
            self.had_news = self.io.enter(Some(Duration::ZERO))?;
            stages::charge(Stage::Reply);
        }
        if !self.had_news {
            self.had_news = self.io.enter(timeout)?;
            let polls = timeout == Some(Duration::ZERO);
            let has_received = polls && self.had_news && self.files == 0;
            stages::charge(if has_received { Stage::Receive } else { self.awaited() });
        }
        Ok(self.had_news)
    }

    fn passed(&mut self, step: Step) {
        match step {
            Step::Parsed => stages::charge(Stage::Parse),
            Step::Applied => stages::charge(Stage::Copy),
            Step::Answered => {
                stages::charge(Stage::Reply);
                stages::answered(1);
            }
        }
    }
}

impl<I: Sockets> Sockets for Staged<I> {
    type Group = I::Group;
    type Landing = I::Landing;
    type Waker = <I as Sockets>::Waker;
    const BY_READINESS: bool = I::BY_READINESS;

    fn group(
        &mut self,
        frames: &Frames,
        bufs_max: u16,
        mode: Option<Mode>,
    ) -> io::Result<Self::Group> {
        self.io.group(frames, bufs_max, mode)
    }

    fn waker(&self) -> io::Result<Self::Waker> {
        self.io.waker()
    }

    fn wake(&mut self, waker: &Self::Waker) {
        self.io.wake(waker);
    }

    fn accept(&mut self, token: Token, listener: &Fd) -> Op {
        self.io.accept(token, listener)
    }

    fn receive(&mut self, token: Token, socket: &Fd, group: &Self::Group) -> Op {
        self.io.receive(token, socket, group)
    }

    fn receive_into(&mut self, token: Token, socket: &Fd, frames: &Frames, loan: SpanLoan) -> Op {
        self.io.receive_into(token, socket, frames, loan)
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
        self.sends += 1;
        self.io.send(token, socket, frames, bytes, pieces, is_quiet)
    }

    fn timer(&mut self, token: Token, after: Duration) -> Op {
        self.io.timer(token, after)
    }

    fn shutdown(&mut self, token: Token, socket: &Fd) -> Op {
        self.io.shutdown(token, socket)
    }

    fn close(&mut self, fd: Fd) {
        self.io.close(fd);
    }

    fn cancel(&mut self, op: Op) {
        self.io.cancel(op);
    }

    fn completion(&mut self, owner: Owner) -> Option<Completion<Self::Landing>> {
        let completion = self.io.completion(owner);
        // The last thing that the port asks before its slots are taken.
        if completion.is_none() && owner == Owner::Port {
            stages::charge(Stage::Receive);
        }
        completion
    }
}

impl<I: Files> Files for Staged<I> {
    fn write(&mut self, token: Token, file: &Fd, frames: &Frames, span: Span, dsync: bool) {
        self.begin();
        self.io.write(token, file, frames, span, dsync);
    }

    fn read(&mut self, token: Token, file: &Fd, frames: &Frames, loan: SpanLoan) {
        self.begin();
        self.io.read(token, file, frames, loan);
    }

    fn sync(&mut self, token: Token, file: &Fd) {
        self.begin();
        self.io.sync(token, file);
    }

    fn ended(&mut self) -> Option<Ended> {
        let ended = self.io.ended();
        if ended.is_some() {
            stages::charge(Stage::Fence);
            self.files -= 1;
        }
        ended
    }
}

impl<I> Staged<I> {
    /// An operation on a file begins: what came before has made what is written.
    fn begin(&mut self) {
        stages::charge(self.prepared());
        self.files += 1;
    }

    const fn prepared(&self) -> Stage {
        if self.files > 0 { Stage::Fence } else { Stage::Copy }
    }
}
