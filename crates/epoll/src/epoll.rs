//! `Epoll`: keeps what was started, does it in `enter`, and tells what came of it.

use std::{
    fmt, io,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use impasto_region::{Frames, Span, SpanLoan};
use impasto_uring::{
    Completion, Completions, Fd, Handed, Message, Op, Operations, Owner, Piece, Token,
};
use rustix::{
    event::epoll::Event,
    io::{Errno, retry_on_intr},
    net::{self, RecvFlags, Shutdown, SocketFlags},
};

use crate::{
    BufGroup, Landing, Waker,
    kernel::Maps,
    operation::{Kind, Operation, Outbox, Pending},
    pool::{Ended, Job, Pool, What},
    sources::{BELL, Sources, is_readable, is_writable},
    waker::Bell,
};

/// The operations of an io_uring, without one. It belongs to the thread that made it.
///
/// Dropped with operations in flight, it waits until its threads have ended what they do.
pub struct Epoll {
    operations: Operations<Operation>,
    /// In the order in which it was started.
    pending: Vec<Pending>,
    outbox: Outbox,
    completions: Completions<Landing>,
    /// Of quiet sends: told when the wait is over.
    quiet: Vec<Completion<Landing>>,
    /// Another one has woken us, in the last enter.
    is_woken: bool,
    sources: Sources,
    bell: Arc<Bell>,
    pool: Pool,
    maps: Maps,
    timers: Vec<(Instant, Op)>,
    calls: u64,
    events: Vec<Event>,
    ended: Vec<Ended>,
    #[expect(clippy::vec_box, reason = "a message moves with its allocations, back into flight")]
    spare: Vec<Box<Message>>,
}

impl Epoll {
    /// Sets up one that watches nothing yet.
    ///
    /// # Errors
    /// If no descriptor is left, or memory is short.
    pub fn new() -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        Ok(Self {
            operations: Operations::default(),
            pending: Vec::new(),
            outbox: Outbox::default(),
            completions: Completions::default(),
            quiet: Vec::new(),
            is_woken: false,
            sources: Sources::new(&*bell)?,
            pool: Pool::new(Arc::clone(&bell)),
            bell,
            maps: Maps::default(),
            timers: Vec::new(),
            calls: 0,
            events: Vec::new(),
            ended: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// Keeps the memory of `frames` mapped as long as this lives. Sends do it themselves; done
    /// before, they need not.
    pub fn attach(&mut self, frames: &Frames) {
        self.maps.keep(frames);
    }

    /// Keeps the file behind `fd` open until no write to a file is under way any more, also if this
    /// is dropped before. Once. When a process is killed, the kernel sees to it; why is said in
    /// `pool.rs`.
    ///
    /// # Errors
    /// If no descriptor is left, or this was done before.
    pub fn hold(&mut self, fd: impl AsFd) -> io::Result<()> {
        self.pool.hold(fd)
    }

    /// Accepts one connection: completes with [`Handed::Accepted`]. The listener does not block.
    pub fn accept(&mut self, token: Token, listener: &Fd) -> Op {
        self.begin(token, Kind::Accept(listener.clone()))
    }

    /// Receives into buffers of `group` until the stream ends or fails, buffers run out
    /// (`ENOBUFS`), or it is cancelled: completes with [`Handed::Landed`] for each piece. One at a
    /// time for a socket.
    pub fn receive(&mut self, token: Token, socket: &Fd, group: &BufGroup) -> Op {
        self.begin(token, Kind::Receive(socket.clone(), group.bufs()))
    }

    /// Receives what is there, or what comes next, into the span of `loan`: as many bytes as it
    /// has, and no more; what follows them stays in the socket. The span comes back as
    /// [`Handed::Filled`]. One at a time for a socket, and none beside a
    /// [`receive`](Self::receive).
    pub fn receive_into(&mut self, token: Token, socket: &Fd, loan: SpanLoan) -> Op {
        self.begin(token, Kind::Fill(socket.clone(), loan))
    }

    /// Sends all `pieces`, of `bytes` and of `frames`; `bytes` come back as [`Handed::Bytes`]. One
    /// at a time for a socket.
    ///
    /// # Panics
    /// If a piece lies outside, or its bytes may still be written.
    pub fn send(
        &mut self,
        token: Token,
        socket: &Fd,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Op {
        self.send_any(token, socket, frames, bytes, pieces, false)
    }

    /// As [`send`](Self::send), for bytes that nobody waits to be rid of: if the socket takes them
    /// at once, that does not end the wait of [`enter`](Self::enter), and the completion comes when
    /// something else has.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    pub fn send_quiet(
        &mut self,
        token: Token,
        socket: &Fd,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Op {
        self.send_any(token, socket, frames, bytes, pieces, true)
    }

    fn send_any(
        &mut self,
        token: Token,
        socket: &Fd,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
        is_quiet: bool,
    ) -> Op {
        self.maps.keep(frames);
        let message = self.spare.pop().unwrap_or_else(Message::new);
        let outgoing = self.maps.message(message, frames, bytes, pieces);
        self.begin(token, Kind::Send { socket: socket.clone(), outgoing, is_quiet })
    }

    /// Writes `span` of `frames` to the same offset of `file`; with `dsync` the write is durable
    /// when it completes (`RWF_DSYNC`, or `fdatasync` where that is unknown). The bytes do not
    /// change until then.
    ///
    /// # Panics
    /// If `span` lies outside, or its bytes may still be written.
    pub fn write(
        &mut self,
        token: Token,
        file: &Fd,
        frames: &Frames,
        span: Span,
        dsync: bool,
    ) -> Op {
        let _settled = frames.bytes(span);
        self.file(token, file, What::Write { map: frames.map(), span, dsync })
    }

    /// Reads the span of `loan` from the same offset of `file`; it comes back as
    /// [`Handed::Filled`].
    pub fn read(&mut self, token: Token, file: &Fd, loan: SpanLoan) -> Op {
        self.file(token, file, What::Read(loan))
    }

    /// Makes all writes to `file` durable that have completed before (`fdatasync`).
    pub fn fsync_data(&mut self, token: Token, file: &Fd) -> Op {
        self.file(token, file, What::Sync)
    }

    fn file(&mut self, token: Token, file: &Fd, what: What) -> Op {
        let op = self.operations.begin(Operation { token, kind: Kind::File });
        self.outbox.jobs.push(Job { op, file: file.clone(), what });
        op
    }

    /// Completes once, when `fd` can be read.
    pub fn poll(&mut self, token: Token, fd: &Fd) -> Op {
        self.begin(token, Kind::Poll(fd.clone()))
    }

    /// Completes (with `ETIME`) when `after` is over.
    pub fn timer(&mut self, token: Token, after: Duration) -> Op {
        let op = self.operations.begin(Operation { token, kind: Kind::Timer });
        // One that would come after the end of time never does.
        self.timers.extend(Instant::now().checked_add(after).map(|at| (at, op)));
        op
    }

    /// Tells the peer of `socket` that no more bytes follow.
    pub fn shutdown(&mut self, token: Token, socket: &Fd) -> Op {
        self.begin(token, Kind::Shutdown(socket.clone()))
    }

    /// Closes `fd`: now, if nobody else holds it, else when its last holder drops it. Nothing is
    /// reported.
    pub fn close(&mut self, fd: Fd) {
        self.outbox.closing.extend(fd.into_sole());
    }

    /// Cancels an operation. It completes all the same: cancelled, or as if nothing had been, or
    /// with what was done until then. Does nothing if it has ended.
    pub fn cancel(&mut self, op: Op) {
        if self.operations.get_mut(op).is_some() {
            self.pending.push(Pending::Cancel(op));
        }
    }

    /// Returns what others wake this one with.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.bell))
    }

    /// Wakes the owner of `waker`, with the next [`enter`](Self::enter): its own `enter` then
    /// returns, the one in which it waits or else the next. Nothing completes on either side.
    pub fn wake(&mut self, waker: &Waker) {
        let rung = &mut self.outbox.rung;
        if !rung.iter().any(|other| Arc::ptr_eq(&other.0, &waker.0)) {
            rung.push(waker.clone());
        }
    }

    /// Does what was started, as far as it goes, and waits until something completes or `timeout`
    /// is over; `None` waits without end, `Some(ZERO)` not at all. Does not wait if completions are
    /// there that nobody has taken. A signal ends the wait, and so does [`wake`](Self::wake) of
    /// another; it may end for nothing that anybody is told of.
    ///
    /// # Errors
    /// What the kernel says to `epoll_wait`; nothing that one operation could cause.
    pub fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.is_woken = false;
        self.hand_out();
        self.go_on();
        self.end_timers();
        let patience = if self.has_news() { Some(Duration::ZERO) } else { self.patience(timeout) };
        let mut events = std::mem::take(&mut self.events);
        self.calls += 1;
        let waited = self.sources.wait(&mut events, patience);
        events.drain(..).for_each(|event| self.happened(event));
        self.events = events;
        self.end_timers();
        self.quiet.drain(..).for_each(|completion| self.completions.push(completion));
        waited
    }

    /// Returns true if completions are there that nobody has taken, or if the last
    /// [`enter`](Self::enter) was ended by another thread.
    pub fn has_news(&self) -> bool {
        self.is_woken || !self.completions.is_empty()
    }

    /// Returns the number of waits of [`enter`](Self::enter) so far.
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Returns a completion of `owner`, in the order in which they came.
    pub fn completion(&mut self, owner: Owner) -> Option<Completion<Landing>> {
        self.completions.pop(owner)
    }

    /// Returns the number of operations that have not ended.
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    fn begin(&mut self, token: Token, kind: Kind) -> Op {
        let op = self.operations.begin(Operation { token, kind });
        self.pending.push(Pending::Begin(op));
        op
    }

    /// Gives others what they are to do: they may do it meanwhile.
    fn hand_out(&mut self) {
        self.outbox.closing.clear();
        if !self.outbox.jobs.is_empty() {
            for ended in self.pool.start(&mut self.outbox.jobs) {
                self.end_job(ended);
            }
        }
        self.outbox.rung.drain(..).for_each(|waker| waker.0.ring());
    }

    /// Does what was started.
    fn go_on(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        for next in pending.drain(..) {
            match next {
                Pending::Begin(op) => self.set_out(op),
                Pending::Cancel(op) => self.call_off(op),
            }
        }
        self.pending = pending;
    }

    fn set_out(&mut self, op: Op) {
        let Some(operation) = self.operations.get_mut(op) else {
            return;
        };
        let watched = match &operation.kind {
            Kind::Send { .. } => return self.send_on(op),
            Kind::Shutdown(socket) => {
                let done = net::shutdown(socket, Shutdown::Write);
                return self.end(op, done.map(|()| 0).map_err(Into::into));
            }
            Kind::Accept(fd) | Kind::Poll(fd) => {
                self.sources.of(fd).others.push_back(op);
                self.sources.widen(fd)
            }
            Kind::Receive(fd, _) | Kind::Fill(fd, _) => {
                let before = self.sources.of(fd).receive.replace(op);
                assert!(before.is_none(), "one receive at a time for a socket");
                self.sources.widen(fd)
            }
            Kind::Timer | Kind::File => return,
        };
        if let Err(error) = watched {
            self.forget(op);
            self.end(op, Err(error));
        }
    }

    fn call_off(&mut self, op: Op) {
        // A thread that writes is not stopped: it ends as if nothing had been.
        if self.operations.get_mut(op).is_some_and(|op| !matches!(op.kind, Kind::File)) {
            self.forget(op);
            self.end(op, Err(Errno::CANCELED.into()));
        }
    }

    /// Has nobody wait for an operation.
    fn forget(&mut self, op: Op) {
        if let Some(fd) = self.operations.get_mut(op).and_then(|operation| operation.fd()) {
            let source = self.sources.of(fd);
            source.receive.take_if(|receive| *receive == op);
            source.send.take_if(|send| *send == op);
            let others = source.others.len();
            source.others.retain(|other| *other != op);
            if source.others.is_empty() && others > 0 {
                // At once: a listener may be open elsewhere, too. Closed here and watched still, it
                // would end every wait, and nobody could change that any more.
                self.sources.narrow(fd);
            }
        }
        self.timers.retain(|(_, timer)| *timer != op);
    }

    /// Ends an operation, and tells its owner.
    fn end(&mut self, op: Op, result: io::Result<u32>) {
        let Operation { token, kind } =
            self.operations.end(op).expect("an operation ends once, and whoever ends it knows");
        let mut quiet = false;
        let handed = match kind {
            Kind::Fill(_, loan) => Handed::Filled(loan),
            Kind::Send { outgoing, is_quiet, .. } => {
                let (bytes, message) = outgoing.into_parts();
                self.spare.push(message);
                quiet = is_quiet && result.is_ok();
                Handed::Bytes(bytes)
            }
            _ => Handed::Nothing,
        };
        let completion = Completion { token, result, more: false, handed };
        if quiet { self.quiet.push(completion) } else { self.completions.push(completion) }
    }

    fn end_job(&mut self, ended: Ended) {
        let Ended { op, result, loan } = ended;
        let operation = self.operations.end(op).expect("a job ends once");
        let handed = loan.map_or(Handed::Nothing, Handed::Filled);
        let token = operation.token;
        self.completions.push(Completion { token, result, more: false, handed });
    }

    fn end_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(at) = self.timers.iter().position(|(at, _)| *at <= now) {
            let (_, op) = self.timers.swap_remove(at);
            self.end(op, Err(Errno::TIME.into()));
        }
    }

    /// Returns how long to wait: no longer than until the next timer.
    fn patience(&self, timeout: Option<Duration>) -> Option<Duration> {
        let next = self.timers.iter().map(|(at, _)| *at).min();
        let next = next.map(|at| at.saturating_duration_since(Instant::now()));
        timeout.into_iter().chain(next).min()
    }

    fn happened(&mut self, event: Event) {
        if event.data.u64() == BELL {
            self.bell.hear();
            self.is_woken = true;
            let mut ended = std::mem::take(&mut self.ended);
            self.pool.take_ended(&mut ended);
            ended.drain(..).for_each(|ended| self.end_job(ended));
            self.ended = ended;
            return;
        }
        let Some(source) = self.sources.at(event) else {
            return;
        };
        let (send, receive, other) = (source.send, source.receive, source.others.front().copied());
        if let Some(send) = send.filter(|_| is_writable(event)) {
            self.send_on(send);
        }
        if is_readable(event) {
            if let Some(receive) = receive {
                self.receive_on(receive);
            }
            if let Some(other) = other {
                self.tell_others(other);
            }
        }
        let is_in_vain = is_readable(event) && receive.is_none() && other.is_none();
        if is_in_vain || is_writable(event) {
            // What nobody waits for would end every wait from now on.
            self.sources.narrow_at(event);
        }
    }

    /// Sends what the socket takes now.
    fn send_on(&mut self, op: Op) {
        let Some(Operation { kind: Kind::Send { socket, outgoing, .. }, .. }) =
            self.operations.get_mut(op)
        else {
            return;
        };
        let source = self.sources.of(socket);
        let is_left = match self.maps.send(&*socket, outgoing) {
            Err(error) if is_passing(&error) => Ok(true),
            sent => sent,
        };
        match is_left {
            Ok(true) => {
                let before = source.send.replace(op);
                assert!(before.is_none_or(|other| other == op), "one send at a time for a socket");
                if let Err(error) = self.sources.widen(socket) {
                    self.forget(op);
                    self.end(op, Err(error));
                }
            }
            Ok(false) => {
                source.send = None;
                let sent = outgoing.sent();
                self.end(op, Ok(sent));
            }
            Err(error) => {
                source.send = None;
                self.end(op, Err(error));
            }
        }
    }

    /// Receives what is there, as much as one system call takes: what is left comes with the next
    /// event.
    fn receive_on(&mut self, op: Op) {
        let Some(operation) = self.operations.get_mut(op) else {
            return;
        };
        let token = operation.token;
        let error = match &mut operation.kind {
            Kind::Receive(socket, bufs) => match bufs.borrow_mut().receive(&*socket) {
                Ok([None, _]) => None,
                Ok(landings) => {
                    for landing in landings.into_iter().flatten() {
                        let result = Ok(landing.len());
                        let handed = Handed::Landed(landing);
                        self.completions.push(Completion { token, result, more: true, handed });
                    }
                    return;
                }
                Err(error) => Some(error),
            },
            Kind::Fill(socket, loan) => {
                match net::recv(&*socket, loan.bytes_mut(), RecvFlags::DONTWAIT) {
                    Ok((_, received)) => {
                        let received = u32::try_from(received).expect("a span is below 4 GiB");
                        self.forget(op);
                        return self.end(op, Ok(received));
                    }
                    Err(error) => Some(error.into()),
                }
            }
            _ => return,
        };
        match error {
            Some(error) if is_passing(&error) => {}
            Some(error) => {
                self.forget(op);
                self.end(op, Err(error));
            }
            None => {
                self.forget(op);
                self.end(op, Ok(0));
            }
        }
    }

    /// Accepts as many connections as were asked for, and tells who polls, beginning with `first`.
    fn tell_others(&mut self, first: Op) {
        let Some(fd) = self.operations.get_mut(first).and_then(|operation| operation.fd().cloned())
        else {
            return;
        };
        while let Some(op) = self.sources.of(&fd).others.front().copied() {
            let operation = self.operations.get_mut(op).expect("who waits is in flight");
            let token = operation.token;
            if matches!(operation.kind, Kind::Poll(_)) {
                self.forget(op);
                self.end(op, Ok(1));
                continue;
            }
            match retry_on_intr(|| net::accept_with(&fd, SocketFlags::CLOEXEC)) {
                Ok(socket) => {
                    self.forget(op);
                    self.operations.end(op);
                    let handed = Handed::Accepted(socket.into());
                    self.completions.push(Completion { token, result: Ok(0), more: false, handed });
                }
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    self.forget(op);
                    return self.end(op, Err(error.into()));
                }
            }
        }
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoll({} operations in flight)", self.in_flight())
    }
}

/// Returns true if the same may be tried again when the socket is ready.
fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::INTR))
}
