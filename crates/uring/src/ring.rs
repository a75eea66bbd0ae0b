//! The ring: starts operations, enters the kernel, reaps completions.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use impasto_region::{Frames, Map, Span, SpanLoan};
use io_uring::{
    EnterFlags, IoUring, opcode,
    squeue::Entry,
    types::{self, CancelBuilder, SubmitArgs, Timespec},
};
use rustix::{
    event::PollFlags,
    io::{Errno, ReadWriteFlags, fcntl_dupfd_cloexec},
    net::SocketFlags,
};

use crate::{
    BufGroup, Completion, Fd, Mode, Op, Owner, Piece, SetupError, Token, Waker,
    flight::{Flight, Kind, Operation, Posted},
    group::Pages,
    message::Message,
    probe,
};

/// One io_uring. It belongs to the thread that made it (`IORING_SETUP_SINGLE_ISSUER`).
///
/// Dropped with operations in flight, it cancels them and waits until the kernel has let go of
/// their memory.
pub struct Uring {
    /// Dropped first: the kernel's side ends before the memory that it uses.
    ring: IoUring,
    flight: Flight,
    /// Mappings with addresses in flight, and where they start.
    maps: Vec<(NonNull<u8>, Arc<Map>)>,
    pages: Vec<Rc<Pages>>,
    /// Rings to be woken by the next enter.
    rung: Vec<RawFd>,
    calls: u64,
    /// For wakers that outlive this.
    is_gone: Arc<AtomicBool>,
}

/// Completions for one submission: an overflow would end multishot receives.
const COMPLETIONS_PER_ENTRY: u32 = 8;
/// How long a drop waits for the kernel in all: it polls so often, so long each.
const DROP_WAITS: u32 = 500;
const DROP_WAIT: Duration = Duration::from_millis(10);

impl Uring {
    /// Sets up a ring that submits up to `entries` operations at once; more of them wait for their
    /// turn.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn new(entries: u32) -> Result<Self, SetupError> {
        let ring = IoUring::builder()
            .setup_clamp()
            .setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_ENTRY))
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries)
            .map_err(|error| SetupError::of(error, "IORING_SETUP_DEFER_TASKRUN"))?;
        probe::check_operations(&ring)?;
        Ok(Self {
            ring,
            flight: Flight::default(),
            maps: Vec::new(),
            pages: Vec::new(),
            rung: Vec::new(),
            calls: 0,
            is_gone: Arc::default(),
        })
    }

    /// Keeps the memory of `frames` mapped until nothing is in flight any more. Operations on
    /// frames do it themselves; done before, they need not.
    pub fn attach(&mut self, frames: &Frames) {
        let start = frames.address(START);
        if self.maps.iter().all(|(known, _)| *known != start) {
            self.maps.push((start, frames.map()));
        }
    }

    /// Keeps the file behind `fd` open until nothing is in flight any more, also after the process
    /// was killed: the kernel finishes writes of a dead process, and a lock on this file lasts as
    /// long. Once per ring.
    ///
    /// # Errors
    /// What the kernel says to the registration.
    pub fn hold(&mut self, fd: impl AsFd) -> io::Result<()> {
        self.ring.submitter().register_files(&[fd.as_fd().as_raw_fd()])
    }

    /// Accepts one connection: completes with [`Handed::Accepted`](crate::Handed::Accepted).
    pub fn accept(&mut self, token: Token, listener: &Fd) -> Op {
        let flags = SocketFlags::CLOEXEC.bits().cast_signed();
        let entry = opcode::Accept::new(listener.target(), ptr::null_mut(), ptr::null_mut())
            .flags(flags)
            .build();
        self.start(token, listener, entry, Kind::Accept)
    }

    /// Receives into buffers of `group` until the stream ends or fails, buffers run out
    /// (`ENOBUFS`), or it is cancelled: completes with [`Handed::Landed`](crate::Handed::Landed)
    /// for each piece.
    ///
    /// # Panics
    /// If `group` is not of this ring.
    pub fn receive(&mut self, token: Token, socket: &Fd, group: &BufGroup) -> Op {
        assert!(self.pages.iter().any(|pages| group.has(pages)), "a group of this ring");
        let entry = opcode::RecvMulti::new(socket.target(), group.id()).build();
        self.start(token, socket, entry, Kind::Receive(group.sequence()))
    }

    /// Receives what is there, or what comes next, into the span of `loan`: as many bytes as it
    /// has, and no more; what follows them stays in the socket. The span comes back as
    /// [`Handed::Filled`](crate::Handed::Filled). One at a time for a socket, and none beside a
    /// [`receive`](Self::receive): bytes would go to either.
    ///
    /// # Panics
    /// If the loan was not made by `frames`.
    pub fn receive_into(
        &mut self,
        token: Token,
        socket: &Fd,
        frames: &Frames,
        loan: SpanLoan,
    ) -> Op {
        self.attach(frames);
        let address = frames.address_on_loan(&loan).as_ptr();
        let entry = opcode::Recv::new(socket.target(), address, length(loan.span())).build();
        self.start(token, socket, entry, Kind::Read(loan))
    }

    /// Sends all `pieces`, of `bytes` and of `frames`; `bytes` come back as
    /// [`Handed::Bytes`](crate::Handed::Bytes).
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
        let mut message = self.message(frames, bytes, pieces);
        let entry = message.entry(socket.target());
        self.start(token, socket, entry, Kind::Send(message))
    }

    /// As [`send`](Self::send), for bytes that nobody waits to be rid of: if the socket takes them
    /// at once, that does not end the wait of [`enter`](Self::enter), and the completion comes when
    /// something else has. For whoever sends a reply and waits for the next request, that saves a
    /// system call.
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
        let mut message = self.message(frames, bytes, pieces);
        let entry = message.quiet_entry(socket.target());
        let op = self.start(token, socket, entry, Kind::Send(message));
        self.flight.expect_silence(op);
        op
    }

    /// Writes `span` of `frames` to the same offset of `file`; with `dsync` the write is durable
    /// when it completes (`RWF_DSYNC`). The bytes do not change until then.
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
        self.attach(frames);
        let bytes = frames.bytes(span);
        let flags = if dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let entry = opcode::Write::new(file.target(), bytes.as_ptr(), length(span))
            .offset(span.at)
            .rw_flags(flags.bits().cast_signed())
            .build();
        self.start(token, file, entry, Kind::Plain)
    }

    /// Reads the span of `loan` from the same offset of `file`; it comes back as
    /// [`Handed::Filled`](crate::Handed::Filled).
    ///
    /// # Panics
    /// If the loan was not made by `frames`.
    pub fn read(&mut self, token: Token, file: &Fd, frames: &Frames, loan: SpanLoan) -> Op {
        self.attach(frames);
        let span = loan.span();
        let address = frames.address_on_loan(&loan).as_ptr();
        let entry = opcode::Read::new(file.target(), address, length(span)).offset(span.at).build();
        self.start(token, file, entry, Kind::Read(loan))
    }

    /// Makes all writes to `file` durable that have completed before (`fdatasync`).
    pub fn fsync_data(&mut self, token: Token, file: &Fd) -> Op {
        let flags = types::FsyncFlags::DATASYNC;
        let entry = opcode::Fsync::new(file.target()).flags(flags).build();
        self.start(token, file, entry, Kind::Plain)
    }

    /// Completes once, when `fd` can be read.
    pub fn poll(&mut self, token: Token, fd: &Fd) -> Op {
        let flags = u32::from(PollFlags::IN.bits());
        let entry = opcode::PollAdd::new(fd.target(), flags).build();
        self.start(token, fd, entry, Kind::Plain)
    }

    /// Does nothing, and completes: what an operation costs by itself.
    pub fn nop(&mut self, token: Token) -> Op {
        let entry = opcode::Nop::new().build();
        let (token, kind) = (Some(token), Kind::Plain);
        self.flight.start(entry, Operation { token, fd: None, kind, cancelled: false })
    }

    /// Completes (with `ETIME`) when `after` is over.
    pub fn timer(&mut self, token: Token, after: Duration) -> Op {
        let timespec = Box::new(Timespec::from(after));
        let entry = opcode::Timeout::new(&raw const *timespec).build();
        let (token, kind) = (Some(token), Kind::Timer { _after: timespec });
        self.flight.start(entry, Operation { token, fd: None, kind, cancelled: false })
    }

    /// Tells the peer of `socket` that no more bytes follow.
    pub fn shutdown(&mut self, token: Token, socket: &Fd) -> Op {
        const SHUT_WR: i32 = 1;
        let entry = opcode::Shutdown::new(socket.target(), SHUT_WR).build();
        self.start(token, socket, entry, Kind::Plain)
    }

    /// Closes `fd`: now, if nobody else holds it, else when its last holder drops it. Nothing is
    /// reported.
    pub fn close(&mut self, fd: Fd) {
        if let Some(owned) = fd.into_sole() {
            let entry = opcode::Close::new(types::Fd(owned.as_raw_fd())).build();
            let kind = Kind::Close(owned);
            self.flight.start(entry, Operation { token: None, fd: None, kind, cancelled: false });
        }
    }

    /// Cancels an operation. It completes all the same: cancelled, or as if nothing had been, or
    /// with what was done until then. Does nothing if it has ended.
    pub fn cancel(&mut self, op: Op) {
        let Some(operation) = self.flight.get_mut(op) else {
            return;
        };
        operation.cancelled = true;
        let entry = opcode::AsyncCancel::new(op.user_data()).build();
        let kind = Kind::Plain;
        self.flight.start(entry, Operation { token: None, fd: None, kind, cancelled: false });
    }

    /// Returns what other rings wake this one with. It takes a descriptor, which its clones share.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn waker(&self) -> io::Result<Waker> {
        let ring = fcntl_dupfd_cloexec(self.ring.as_fd(), 0)?;
        Ok(Waker::new(Fd::from(ring), Arc::clone(&self.is_gone)))
    }

    /// Wakes the ring of `waker`, with the next [`enter`](Self::enter): its own `enter` then
    /// returns, the one in which it waits or else the next. Nothing completes on either side; what
    /// there is to do stands elsewhere, written before this call. A ring that is gone, or that has
    /// no room for the message and so is awake, is left alone; if memory is short for the message,
    /// the `enter` after that sends it again.
    pub fn wake(&mut self, waker: &Waker) {
        let Some(ring) = waker.ring() else {
            return;
        };
        let number = ring.as_fd().as_raw_fd();
        if self.rung.contains(&number) {
            return;
        }
        self.rung.push(number);
        self.flight.wake(ring.clone());
    }

    /// Submits what was started, and waits until something completes or `timeout` is over; `None`
    /// waits without end, `Some(ZERO)` not at all. Does not wait if completions are there that
    /// nobody has taken. A signal ends the wait, and so does [`wake`](Self::wake) of another ring;
    /// it may end for nothing that anybody is told of.
    ///
    /// One system call, unless more was started than the ring has entries. None with a timeout of
    /// `ZERO`, if nothing was started and the kernel has nothing to do for this ring: then this
    /// reaps what is there, and whoever polls costs nobody anything.
    ///
    /// # Errors
    /// What the kernel says to `io_uring_enter`; nothing that one operation could cause.
    pub fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.rung.clear();
        self.flight.is_woken = false;
        while self.fill_queue() {
            self.turn(0, None)?;
            if self.ring.submission().is_full() {
                // The kernel takes nothing at the moment; the next turn tries again.
                return Ok(());
            }
        }
        let polls = timeout == Some(Duration::ZERO);
        if polls && !self.needs_kernel() {
            self.route();
            return Ok(());
        }
        let waits = !self.flight.has_news() && !polls;
        self.turn(u32::from(waits), timeout)
    }

    /// Returns true if completions are there that nobody has taken, or if the last
    /// [`enter`](Self::enter) was ended by another ring.
    pub fn has_news(&self) -> bool {
        self.flight.has_news()
    }

    /// Returns the number of system calls of [`enter`](Self::enter) so far.
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Returns a completion of `owner`, in the order in which the kernel posted them.
    pub fn completion(&mut self, owner: Owner) -> Option<Completion> {
        self.flight.completions.pop(owner)
    }

    /// Returns the number of operations that have not ended.
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Registers a ring of provided buffers, and keeps its memory; returns the group's id.
    pub(crate) fn register(
        &mut self,
        pages: &Rc<Pages>,
        entries: u16,
        mode: Mode,
    ) -> io::Result<u16> {
        let id = u16::try_from(self.pages.len()).map_err(|_| io::ErrorKind::StorageFull)?;
        let flags = match mode {
            Mode::Incremental => {
                u16::try_from(types::IOU_PBUF_RING_INC).expect("a flag of 16 bits")
            }
            Mode::Pieces => 0,
        };
        let submitter = self.ring.submitter();
        // SAFETY:
        // - valid: `pages` holds `entries` entries at a page's start, at an address that does not
        //   change.
        // - as long as the ring: `self.pages` keeps them until the ring is gone.
        unsafe { submitter.register_buf_ring_with_flags(pages.address(), entries, id, flags) }?;
        self.pages.push(Rc::clone(pages));
        Ok(id)
    }

    fn start(&mut self, token: Token, fd: &Fd, entry: Entry, kind: Kind) -> Op {
        let (token, fd) = (Some(token), Some(fd.clone()));
        self.flight.start(entry, Operation { token, fd, kind, cancelled: false })
    }

    fn message(
        &mut self,
        frames: &Frames,
        bytes: Vec<u8>,
        pieces: impl IntoIterator<Item = Piece>,
    ) -> Box<Message> {
        self.attach(frames);
        let mut message = self.flight.spare_message();
        message.fill(frames, bytes, pieces);
        message
    }

    /// Moves what was started to the submission queue; returns true if some of it did not fit.
    fn fill_queue(&mut self) -> bool {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.flight.pending.front() {
            // SAFETY:
            // - memory: addresses in an entry are of frames, whose mapping `self.maps` keeps; of a
            //   message, or a time, which its operation keeps until it has ended; or of nothing.
            //   `Drop` waits for the end.
            // - descriptors: the operation holds them.
            // - writes: only to spans on loan to a read, and to buffers on loan to a group.
            if unsafe { queue.push(entry) }.is_err() {
                return true;
            }
            self.flight.pending.pop_front();
        }
        false
    }

    /// Returns true if there is something to submit, or the kernel has work for this ring that runs
    /// only in a system call: completions to make, or to make room for.
    fn needs_kernel(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Enters the kernel once, and routes what it says.
    fn turn(&mut self, wanted: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.call(wanted, timeout)?;
        self.route();
        Ok(())
    }

    /// Routes what the kernel has said.
    fn route(&mut self) {
        let is_taken = self.flight.pending.is_empty() && self.ring.submission().is_empty();
        self.reap();
        // A quiet send is over when its entry is taken, since it does not wait; if it has failed or
        // was short, the kernel has said so before it returned. Unless it could not, for want of
        // room in the queue, or of memory.
        let has_heard_all =
            !self.ring.submission().cq_overflow() && self.ring.completion().overflow() == 0;
        if is_taken && has_heard_all {
            self.flight.end_silence();
        }
    }

    /// Enters the kernel once.
    fn call(&mut self, wanted: u32, timeout: Option<Duration>) -> io::Result<()> {
        let timespec = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        let entries = u32::try_from(self.ring.submission().len()).expect("a queue fits u32");
        // GETEVENTS also without waiting: deferred task work runs only then.
        let flags = (EnterFlags::EXT_ARG | EnterFlags::GETEVENTS).bits();
        self.calls += 1;
        // SAFETY:
        // - `args` is what EXT_ARG says, and lives across the call with all that it points to.
        // - the entries were pushed by `fill_queue`, which states why their memory is valid.
        let entered = unsafe { self.ring.submitter().enter(entries, wanted, flags, Some(&args)) };
        match entered.map_err(|error| (Errno::from_io_error(&error), error)) {
            // Time is over; a signal came; the completion queue is full or memory short, and we go
            // on after reaping.
            Err((Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN), _)) | Ok(_) => {
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    fn reap(&mut self) {
        for entry in self.ring.completion() {
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.flight.complete(Posted { user_data, result, flags }, adopt);
        }
    }

    /// Ends everything in flight; returns false if the kernel did not let go of it in time.
    fn end_all(&mut self) -> bool {
        self.flight.abandon_pending();
        for _ in 0..DROP_WAITS {
            if self.flight.len() == 0 {
                return true;
            }
            // Requests that are done in the meantime are no longer there to be cancelled: not an
            // error.
            let submitter = self.ring.submitter();
            let _none = submitter.register_sync_cancel(Some(Timespec::new()), CancelBuilder::any());
            let entered = self.turn(1, Some(DROP_WAIT));
            self.flight.abandon_pending();
            if entered.is_err() {
                return false;
            }
        }
        self.flight.len() == 0
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Relaxed: see `Waker::ring`.
        self.is_gone.store(true, Ordering::Relaxed);
        if self.end_all() {
            // A waker may keep the kernel's side of the ring; what it holds is free now (D6). Not
            // an error if it holds nothing.
            let _none = self.ring.submitter().unregister_files();
        } else {
            // The kernel may still write: this memory is never given back.
            std::mem::forget(std::mem::take(&mut self.flight));
            std::mem::forget(std::mem::take(&mut self.maps));
            std::mem::forget(std::mem::take(&mut self.pages));
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uring({} operations in flight)", self.in_flight())
    }
}

const START: Span = Span::new(0, 0);

/// Makes a descriptor of the result of an accept.
fn adopt(result: i32) -> Fd {
    // SAFETY: the kernel has made this descriptor for us; each completion is reaped once.
    unsafe { OwnedFd::from_raw_fd(result) }.into()
}

fn length(span: Span) -> u32 {
    u32::try_from(span.len).expect("an operation has less than 4 GiB")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use impasto_region::layout::Geometry;

    use super::*;
    use crate::Owner;

    /// Without the reaping, memory of operations would be freed while the kernel still cancels
    /// them.
    #[test]
    fn ending_all_waits_for_the_last_completion() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 1).unwrap();
        let mut io = Uring::new(8).unwrap();
        let mut group = BufGroup::new(&mut io, &frames, 1).unwrap();
        group.provide(&mut frames, geometry.bufs_end());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = Fd::from(listener.accept().unwrap().0);
        let token = Token { owner: Owner::Port, value: 0 };
        io.accept(token, &listener.into());
        io.receive(token, &server, &group);
        io.send(
            token,
            &server,
            &frames,
            vec![0; 64 << 20],
            [Piece::Bytes { at: 0, len: 64 << 20 }],
        );
        io.timer(token, Duration::from_secs(3600));
        io.enter(Some(Duration::ZERO)).unwrap();
        io.poll(token, &server);
        assert_eq!(io.in_flight(), 5);
        assert!(io.end_all());
        assert_eq!(io.in_flight(), 0);
    }
}
