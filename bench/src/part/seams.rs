//! Where the time of Impasto goes, seen from outside: at what it waits on, at its port, at its
//! medium.
//!
//! ```text
//! enter -> port.receive -> (parse, apply) -> medium.commit -> flush, fence -> port.transmit
//!   wait        receive        parse                            flush, fence       reply
//! ```
//!
//! What these seams do not tell apart: the values that are copied to a record are in `parse`, and
//! nothing is in `copy`. One system call sends, receives and waits. So, with stages only, an enter
//! is two: the first one waits for nothing, and is `reply`, since it sends; what has come by then
//! is received in it, too. The second one is `wait`, or, while commits are in flight, the sync.

use std::{io, time::Duration};

use impasto::{
    media::{CommitId, Event, Medium, Profile, Ticket},
    region::{BufId, Extent, Frames, Span},
    ring::{FlowId, Port, Ring, Sent, Transmit},
    server::Enter,
};

use crate::stages::{self, Stage};

/// What is waited on.
#[derive(Debug)]
pub(super) struct SeamIo<I> {
    pub(super) io: I,
    pub(super) charges: bool,
    /// Commits in flight that were started on it.
    pub(super) commits: usize,
}

impl<I: Enter> Enter for SeamIo<I> {
    type Waker = I::Waker;

    fn waker(&self) -> io::Result<Self::Waker> {
        self.io.waker()
    }

    fn wake(&mut self, waker: &Self::Waker) {
        self.io.wake(waker);
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        if !self.charges {
            return self.io.enter(timeout);
        }
        let has_news = self.io.enter(Some(Duration::ZERO))?;
        stages::charge(Stage::Reply);
        if has_news || timeout == Some(Duration::ZERO) {
            return Ok(has_news);
        }
        let has_news = self.io.enter(timeout);
        stages::charge(if self.commits > 0 { Stage::Fence } else { Stage::Wait });
        has_news
    }
}

/// A port.
#[derive(Debug)]
pub(super) struct SeamPort<P>(pub(super) P);

impl<I, P: Port<I>> Port<SeamIo<I>> for SeamPort<P> {
    fn receive(&mut self, io: &mut SeamIo<I>, frames: &mut Frames) {
        self.0.receive(&mut io.io, frames);
        stages::charge(Stage::Receive);
    }

    fn ring(&mut self) -> &mut Ring {
        self.0.ring()
    }

    fn transmit(&mut self, io: &mut SeamIo<I>, frames: &Frames, flow: FlowId, transmit: Transmit) {
        stages::answered(|| replies(&transmit));
        self.0.transmit(&mut io.io, frames, flow, transmit);
    }

    fn transmit_quiet(
        &mut self,
        io: &mut SeamIo<I>,
        frames: &Frames,
        flow: FlowId,
        transmit: Transmit,
    ) {
        stages::answered(|| replies(&transmit));
        self.0.transmit_quiet(&mut io.io, frames, flow, transmit);
    }

    fn sent(&mut self) -> Option<Sent> {
        self.0.sent()
    }

    fn pause(&mut self, io: &mut SeamIo<I>, flow: FlowId) {
        self.0.pause(&mut io.io, flow);
    }

    fn stop(&mut self, io: &mut SeamIo<I>, flow: FlowId) {
        self.0.stop(&mut io.io, flow);
    }

    fn direct(&mut self, io: &mut SeamIo<I>, frames: &mut Frames, flow: FlowId, span: Span) {
        self.0.direct(&mut io.io, frames, flow, span);
    }

    fn resume(&mut self, io: &mut SeamIo<I>, flow: FlowId) {
        self.0.resume(&mut io.io, flow);
    }

    fn shut(&mut self, io: &mut SeamIo<I>, flow: FlowId) {
        self.0.shut(&mut io.io, flow);
    }

    fn close(&mut self, io: &mut SeamIo<I>, flow: FlowId) {
        self.0.close(&mut io.io, flow);
    }

    fn stop_accepting(&mut self, io: &mut SeamIo<I>) {
        self.0.stop_accepting(&mut io.io);
    }

    fn drained(&mut self) -> Option<BufId> {
        self.0.drained()
    }

    fn provide(&mut self, io: &mut SeamIo<I>, frames: &mut Frames, buf: BufId) {
        self.0.provide(&mut io.io, frames, buf);
    }
}

/// Returns how many heads of replies stand in `transmit`: a value looks like one seldom enough.
fn replies(transmit: &Transmit) -> u64 {
    const START: &[u8] = b"HTTP/1.1 ";
    transmit.bytes.windows(START.len()).filter(|bytes| *bytes == START).count() as u64
}

/// A medium.
#[derive(Debug)]
pub(super) struct SeamMedium<M>(pub(super) M);

impl<I, M: Medium<I>> Medium<SeamIo<I>> for SeamMedium<M> {
    fn profile(&self) -> Profile {
        self.0.profile()
    }

    fn accepts_commit(&self, bytes: u64) -> bool {
        self.0.accepts_commit(bytes)
    }

    fn commit(
        &mut self,
        io: &mut SeamIo<I>,
        frames: &Frames,
        id: CommitId,
        log: Span,
        kept: &[Extent],
    ) {
        stages::charge(Stage::Parse);
        self.0.commit(&mut io.io, frames, id, log, kept);
        io.commits += 1;
    }

    fn write(&mut self, io: &mut SeamIo<I>, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.0.write(&mut io.io, frames, ticket, spans);
    }

    fn persist(&mut self, io: &mut SeamIo<I>, frames: &Frames, ticket: Ticket, spans: &[Span]) {
        self.0.persist(&mut io.io, frames, ticket, spans);
    }

    fn abandon(&mut self, io: &mut SeamIo<I>, ticket: Ticket) {
        self.0.abandon(&mut io.io, ticket);
    }

    fn read(&mut self, io: &mut SeamIo<I>, frames: &mut Frames, ticket: Ticket, spans: &[Span]) {
        self.0.read(&mut io.io, frames, ticket, spans);
    }

    fn poll(&mut self, io: &mut SeamIo<I>, frames: &mut Frames) -> Option<Event> {
        let event = self.0.poll(&mut io.io, frames);
        if let Some(Event::Committed(..)) = event {
            // One that another worker has started ends there, or here.
            io.commits = io.commits.saturating_sub(1);
        }
        event
    }
}
