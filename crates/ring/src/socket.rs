//! The port of the kernel's TCP.
//!
//! It stands over [`Sockets`]: io_uring, or epoll. One receive per flow, all from one group of
//! landing buffers. A receive that ends while its flow wants more is started again; one that ended
//! for want of a buffer when [`Port::provide`] brings one. What goes wrong on one connection is
//! told on that connection only.
//!
//! Ports of several workers share a [`Gate`]: the one with the listeners accepts for all.

mod receive;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use impasto_epoll::Epoll;
use impasto_region::{BufId, Frames, Span};
use impasto_uring::{Completion, Handed, Mode, Owner, Piece, Token, Uring};

use crate::{
    FlowId, Gate, Listener, Part, Port, Ring, Sent, Slot, Sockets, Transmit, What,
    accept::Acceptor,
    flows::{Flows, Receiving},
    gate::Member,
    sockets::Group,
};

/// How much a [`SocketPort`] holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Slots of the ring, a power of two.
    pub slots: usize,
    /// Most landing buffers that are with the port at a time; at most
    /// [`BufGroup::BUFS_MAX`](impasto_uring::BufGroup::BUFS_MAX).
    pub bufs_max: u16,
    /// Most flows, of a port without a [`Gate`]. At the limit, connections wait in the kernel until
    /// a flow closes.
    pub flows_max: usize,
    /// How long a peer may not acknowledge, or not read, what was sent to it; then its connection
    /// breaks. Counted in milliseconds, of which the kernel takes 2^31 - 1, about 25 days.
    pub stall_max: Duration,
    /// How an io_uring uses up landing buffers; `None`: the best way the kernel knows.
    pub mode: Option<Mode>,
}

impl Default for Limits {
    fn default() -> Self {
        let stall_max = Duration::from_secs(30);
        Self { slots: 4096, bufs_max: 64, flows_max: 16 << 10, stall_max, mode: None }
    }
}

/// The kernel's TCP, by `I`.
///
/// Without a buffer to land in, the end of a stream is not seen either: a receive takes a buffer
/// first. [`Port::close`] cancels a transmit in flight: an orderly end waits for its [`Sent`]
/// first. While the ring has no room, completions wait in `I`, those of transmits too:
/// [`Ring::release`] lets them through.
#[derive(Debug)]
pub struct SocketPort<I: Sockets> {
    ring: Ring,
    group: I::Group,
    flows: Flows,
    /// Flows that wait for a buffer, the first for longest.
    starved: VecDeque<FlowId>,
    /// Flows that have stopped, and whose owner was not told.
    stopped: VecDeque<FlowId>,
    sent: VecDeque<Sent>,
    member: Member<I::Waker>,
    acceptor: Acceptor,
    /// A flow that ends at any port is a place for a connection.
    is_waiting: bool,
    /// The next turn comes by itself.
    is_nudged: bool,
}

/// TCP by io_uring.
pub type UringPort = SocketPort<Uring>;
/// TCP by epoll.
pub type EpollPort = SocketPort<Epoll>;

/// What an operation of the port is, in its token beside an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Accept = 0,
    Receive = 1,
    Send = 2,
    Shut = 3,
    Rest = 4,
    Nudge = 5,
}

/// How long accepting rests, unless a flow closes before.
const REST: Duration = Duration::from_millis(100);

impl<I: Sockets> SocketPort<I> {
    /// Returns a port that accepts from `listeners` and lands in `frames`.
    ///
    /// # Errors
    /// If the kernel refuses the group of landing buffers, an option of a listener, or one more
    /// descriptor.
    ///
    /// # Panics
    /// If `limits` are not what their documentation says.
    pub fn new(
        io: &mut I,
        frames: &Frames,
        listeners: impl IntoIterator<Item: Into<Listener>>,
        limits: Limits,
    ) -> io::Result<Self> {
        let gate = Arc::new(Gate::new(limits.flows_max));
        Self::with_gate(io, frames, listeners, limits, &gate)
    }

    /// As [`new`](Self::new), for one of several ports, each with a ring and a thread of its own.
    /// One of them has all listeners. It gives each connection to the port with the fewest flows,
    /// itself included, and wakes its ring.
    ///
    /// The gate has the limit of flows, over all ports. Beyond it the port may accept one
    /// connection on each listener but the first, which waits for its place.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_gate(
        io: &mut I,
        frames: &Frames,
        listeners: impl IntoIterator<Item: Into<Listener>>,
        limits: Limits,
        gate: &Arc<Gate<I::Waker>>,
    ) -> io::Result<Self> {
        let group = io.group(frames, limits.bufs_max, limits.mode)?;
        let listeners = listeners.into_iter().map(|listener| {
            let listener: Listener = listener.into();
            let listener = listener.prepare(limits.stall_max)?;
            rustix::io::ioctl_fionbio(&listener, I::BY_READINESS)?;
            Ok(listener)
        });
        let acceptor = Acceptor::new(listeners.collect::<io::Result<_>>()?);
        let mut port = Self {
            ring: Ring::new(limits.slots),
            group,
            flows: Flows::default(),
            starved: VecDeque::new(),
            stopped: VecDeque::new(),
            sent: VecDeque::new(),
            member: Member::join(gate, io.waker()?),
            acceptor,
            is_waiting: false,
            is_nudged: false,
        };
        port.accept(io);
        Ok(port)
    }

    /// Returns the number of buffers that may be provided now.
    pub fn room(&self) -> usize {
        self.group.room()
    }

    /// Returns the number of flows, closed ones included while something of them is in flight.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    fn route(&mut self, io: &mut I, frames: &mut Frames, completion: Completion<I::Landing>) {
        let (kind, index) = Kind::and_index(completion.token);
        match kind {
            Some(Kind::Accept) => self.accepted(io, index, completion),
            Some(Kind::Receive) => self.received(io, frames, index, completion),
            Some(Kind::Send) => self.transmitted(io, index, completion),
            Some(Kind::Rest) if self.acceptor.is_resting() => {
                self.acceptor.end_rest();
                self.accept(io);
            }
            Some(Kind::Nudge) => self.is_nudged = false,
            _ => {}
        }
    }

    fn accepted(&mut self, io: &mut I, index: u32, completion: Completion<I::Landing>) {
        if self.acceptor.accepted(index, completion) {
            io.timer(Kind::Rest.token(0), REST);
            self.wait();
        }
        self.accept(io);
    }

    /// Gives connections that were accepted to their ports, and accepts as many more as there are
    /// places.
    fn accept(&mut self, io: &mut I) {
        self.admit(io);
        let is_short = self.member.room() == 0 || !self.acceptor.waiting.is_empty();
        if self.acceptor.is_on() && is_short {
            self.wait();
            // A flow may have ended before that.
            self.admit(io);
        }
        let room = self.member.room();
        self.acceptor
            .arm(io, room, |io, index, listener| io.accept(Kind::Accept.token(index), listener));
    }

    fn admit(&mut self, io: &mut I) {
        while let Some(socket) = self.acceptor.waiting.pop_front() {
            if let Err(socket) = self.member.admit(io, socket) {
                self.acceptor.waiting.push_front(socket);
                break;
            }
        }
        self.open_arrived(io);
    }

    fn wait(&mut self) {
        self.is_waiting = true;
        self.member.wait();
    }

    /// Accepts again, if a flow has ended since [`wait`](Self::wait).
    fn look_for_place(&mut self, io: &mut I) {
        if self.is_waiting && !self.member.is_waiting() {
            self.is_waiting = false;
            self.acceptor.end_rest();
            self.accept(io);
        }
    }

    /// Opens flows for connections that were given to this port.
    fn open_arrived(&mut self, io: &mut I) {
        while self.ring.room() > 0 {
            let Some(socket) = self.member.take() else {
                return;
            };
            let flow = self.flows.open(socket);
            self.ring.push(Slot { flow, what: What::Open });
            self.receive_on(io, flow.index);
        }
        if self.member.has_mail() {
            // The next turn finds room, and must come.
            self.nudge(io);
        }
    }

    /// Makes the next enter return.
    fn nudge(&mut self, io: &mut I) {
        if !std::mem::replace(&mut self.is_nudged, true) {
            io.timer(Kind::Nudge.token(0), Duration::ZERO);
        }
    }

    fn transmitted(&mut self, io: &mut I, index: u32, completion: Completion<I::Landing>) {
        let Some(flow) = self.flows.at_mut(index) else {
            return;
        };
        let (Some((_, parts)), Handed::Bytes(bytes)) = (flow.sending.take(), completion.handed)
        else {
            return;
        };
        let result = completion.result.map(|_all| ());
        let has_failed = result.is_err();
        self.sent.push_back(Sent { flow: flow.id, transmit: Transmit { bytes, parts }, result });
        if has_failed {
            flow.is_broken = true;
            match flow.receiving {
                Receiving::Idle | Receiving::Ended => self.tell_over(index, What::Reset),
                Receiving::Armed(_) | Receiving::Directed(_) => flow.receiving.cancel(io),
                Receiving::Stopping | Receiving::Broken => {}
            }
        } else if flow.is_shutting {
            io.shutdown(Kind::Shut.token(index), &flow.socket);
        }
        self.forget_gone(io, index);
    }

    fn send(
        &mut self,
        io: &mut I,
        frames: &Frames,
        id: FlowId,
        transmit: Transmit,
        is_quiet: bool,
    ) {
        let Some(flow) = self.flows.open_mut(id) else {
            let result = Err(io::ErrorKind::NotConnected.into());
            return self.sent.push_back(Sent { flow: id, transmit, result });
        };
        assert!(flow.sending.is_none(), "one transmit per flow at a time");
        let Transmit { bytes, parts } = transmit;
        let pieces = parts.iter().map(|part| match *part {
            Part::Bytes { at, len } => Piece::Bytes { at, len },
            Part::Stored(extent) => Piece::Stored(extent.span()),
        });
        let token = Kind::Send.token(id.index);
        let send = io.send(token, &flow.socket, frames, bytes, pieces, is_quiet);
        flow.sending = Some((send, parts));
    }

    /// Ends a flow that was closed, if nothing of it is in flight any more.
    fn forget_gone(&mut self, io: &mut I, index: u32) {
        if let Some(socket) = self.flows.take_gone(index) {
            io.close(socket);
            // Behind the close, so that who is woken finds the descriptor free.
            self.member.end(io);
            self.look_for_place(io);
        }
    }
}

impl<I: Sockets> Port<I> for SocketPort<I> {
    fn receive(&mut self, io: &mut I, frames: &mut Frames) {
        self.look_for_place(io);
        self.open_arrived(io);
        // A completion makes at most one slot.
        while self.ring.room() > 0 {
            if self.tell_stopped() {
                continue;
            }
            let Some(completion) = io.completion(Owner::Port) else {
                // Buffers that are full are retired by now: these have room.
                return self.feed(io, self.group.provided());
            };
            self.route(io, frames, completion);
        }
        if !self.stopped.is_empty() {
            // The next turn finds room to tell it, and must come.
            self.nudge(io);
        }
    }

    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn transmit(&mut self, io: &mut I, frames: &Frames, id: FlowId, transmit: Transmit) {
        self.send(io, frames, id, transmit, false);
    }

    fn transmit_quiet(&mut self, io: &mut I, frames: &Frames, id: FlowId, transmit: Transmit) {
        self.send(io, frames, id, transmit, true);
    }

    fn sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    fn pause(&mut self, io: &mut I, id: FlowId) {
        let Some(flow) = self.flows.open_mut(id) else {
            return;
        };
        flow.is_paused = true;
        if matches!(flow.receiving, Receiving::Armed(_)) {
            flow.receiving.cancel(io);
        }
    }

    fn stop(&mut self, io: &mut I, id: FlowId) {
        self.pause(io, id);
        self.stop_on(io, id);
    }

    fn direct(&mut self, io: &mut I, frames: &mut Frames, id: FlowId, span: Span) {
        self.receive_into(io, frames, id, span);
    }

    fn resume(&mut self, io: &mut I, id: FlowId) {
        if let Some(flow) = self.flows.open_mut(id) {
            // A receive that still stops starts again when it has.
            flow.is_paused = false;
            if matches!(flow.receiving, Receiving::Directed(_)) {
                flow.receiving.cancel(io);
            }
            self.receive_on(io, id.index);
        }
    }

    fn shut(&mut self, io: &mut I, id: FlowId) {
        if let Some(flow) = self.flows.open_mut(id) {
            flow.is_shutting = true;
            if flow.sending.is_none() {
                io.shutdown(Kind::Shut.token(id.index), &flow.socket);
            } else {
                // Now somebody waits for its end.
                self.nudge(io);
            }
        }
    }

    fn close(&mut self, io: &mut I, id: FlowId) {
        self.ring.hide(id);
        let Some(flow) = self.flows.open_mut(id) else {
            return;
        };
        flow.is_closing = true;
        flow.is_shutting = false;
        flow.receiving.cancel(io);
        if let Some((send, _)) = &flow.sending {
            io.cancel(*send);
        }
        self.forget_gone(io, id.index);
    }

    fn stop_accepting(&mut self, io: &mut I) {
        self.acceptor.stop(io);
        self.member.close(io);
    }

    fn drained(&mut self) -> Option<BufId> {
        self.ring.drained()
    }

    fn provide(&mut self, io: &mut I, frames: &mut Frames, buf: BufId) {
        self.group.provide(frames, buf);
        self.feed(io, 1);
    }
}

impl Kind {
    fn token(self, index: u32) -> Token {
        Token { owner: Owner::Port, value: u64::from(index) << 8 | self as u64 }
    }

    fn and_index(token: Token) -> (Option<Self>, u32) {
        use Kind::{Accept, Nudge, Receive, Rest, Send, Shut};
        const KINDS: [Kind; 6] = [Accept, Receive, Send, Shut, Rest, Nudge];
        let kind = KINDS.into_iter().find(|kind| *kind as u64 == token.value & 0xff);
        (kind, u32::try_from(token.value >> 8).expect("tokens are made of u32"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    };

    use impasto_region::layout::Geometry;
    use socket2::SockRef;

    use impasto_uring::Fd;

    use super::{receive::RECEIVES_PER_BUF, *};
    use crate::listen;

    fn port(flows_max: usize) -> (UringPort, Uring, Frames, SocketAddr) {
        let (mut port, mut io, mut frames, address) = bare_port(flows_max);
        let buf = Geometry::new(16 << 20).unwrap().bufs_end();
        port.provide(&mut io, &mut frames, buf);
        (port, io, frames, address)
    }

    /// Without a buffer to land in.
    fn bare_port(flows_max: usize) -> (UringPort, Uring, Frames, SocketAddr) {
        let mut io = Uring::new(8).unwrap();
        let geometry = Geometry::new(16 << 20).unwrap();
        let frames = Frames::anonymous(geometry, 1).unwrap();
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { bufs_max: 1, flows_max, ..Limits::default() };
        let port = UringPort::new(&mut io, &frames, [listener], limits).unwrap();
        (port, io, frames, address)
    }

    /// Without these, Nagle's algorithm would hold back every second small reply until the peer's
    /// ACK, and peers that have vanished or never read would keep their flows.
    #[test]
    fn accepted_sockets_do_not_delay_and_end_when_the_peer_is_silent() {
        let (mut port, mut io, mut frames, address) = port(1);
        let _client = TcpStream::connect(address).unwrap();
        let flow = loop {
            io.enter(None).unwrap();
            port.receive(&mut io, &mut frames);
            if let Some(slot) = port.ring.advance() {
                break port.flows.open_mut(slot.flow).unwrap();
            }
        };
        let socket = SockRef::from(&flow.socket);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
    }

    /// Without the cancel, connections above the limit would take descriptors, as many as come.
    #[test]
    fn at_the_limit_nothing_more_is_accepted() {
        let (mut port, mut io, mut frames, address) = port(1);
        let _client = TcpStream::connect(address).unwrap();
        while port.flows() == 0 {
            io.enter(None).unwrap();
            port.receive(&mut io, &mut frames);
        }
        let _waits = TcpStream::connect(address).unwrap();
        io.enter(Some(Duration::from_millis(10))).unwrap();
        port.receive(&mut io, &mut frames);
        assert_eq!((port.flows(), port.acceptor.waiting.len()), (1, 0));
    }

    /// Without the bound, each buffer would cost as many receives as there are flows that wait for
    /// one; without the next turn, those behind flows to which nothing comes would be deaf.
    #[test]
    fn one_buffer_starts_few_receives_and_idle_flows_do_not_keep_it_from_others() {
        const FLOWS: usize = 3 * RECEIVES_PER_BUF;
        let (mut port, mut io, mut frames, address) = bare_port(FLOWS);
        let clients: Vec<_> = (0..FLOWS).map(|_| TcpStream::connect(address).unwrap()).collect();
        while port.starved.len() < FLOWS || io.in_flight() > 0 {
            io.enter(Some(Duration::from_secs(10))).unwrap();
            port.receive(&mut io, &mut frames);
            while port.ring.advance().is_some() {}
            port.ring.release();
        }
        let buf = Geometry::new(16 << 20).unwrap().bufs_end();
        port.provide(&mut io, &mut frames, buf);
        assert_eq!(io.in_flight(), RECEIVES_PER_BUF + 1, "and a nudge");
        for _ in 0..2 {
            io.enter(Some(Duration::from_secs(10))).unwrap();
            port.receive(&mut io, &mut frames);
        }
        assert_eq!((io.in_flight(), port.starved.len()), (FLOWS, 0));
        drop(clients);
    }

    /// In their order, one that sends without a pause would take each buffer before it is the turn
    /// of the others, for as long as it sends.
    #[test]
    fn who_has_found_no_buffer_goes_before_who_has_taken_them() {
        let (mut port, mut io, mut frames, address) = bare_port(2);
        let mut clients: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
        let turn = |port: &mut UringPort, io: &mut Uring, frames: &mut Frames| {
            io.enter(Some(Duration::from_millis(10))).unwrap();
            port.receive(io, frames);
            while port.ring.advance().is_some() {}
            port.ring.release();
        };
        while port.starved.len() < 2 {
            turn(&mut port, &mut io, &mut frames);
        }
        let buf = Geometry::new(16 << 20).unwrap().bufs_end();
        port.provide(&mut io, &mut frames, buf);
        while port.starved.is_empty() {
            clients[0].write_all(&[0; 4096]).unwrap();
            turn(&mut port, &mut io, &mut frames);
        }
        let greedy = port.starved[0];
        while port.starved.len() < 2 {
            clients[1].write_all(&[0]).unwrap();
            turn(&mut port, &mut io, &mut frames);
        }
        assert_eq!(port.starved[1], greedy);
    }

    /// Without the wake-up, a connection that another port has given to this one would wait on when
    /// there is room for its slot, until something else happens.
    #[test]
    fn a_connection_that_finds_the_ring_full_is_taken_at_the_next_turn() {
        const LONG: Duration = Duration::from_secs(10);
        const NOWHERE: [TcpListener; 0] = [];
        let (_, mut io, mut frames, _) = port(1);
        let gate = Arc::new(Gate::new(2));
        let limits = Limits { slots: 1, bufs_max: 1, ..Limits::default() };
        let mut port = UringPort::with_gate(&mut io, &frames, NOWHERE, limits, &gate).unwrap();
        let mut other = Uring::new(2).unwrap();
        let giver = Member::join(&gate, other.waker().unwrap());
        giver.close(&mut other);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
        let sockets = [(); 3].map(|()| Fd::from(listener.accept().unwrap().0));
        assert_eq!(
            sockets.map(|socket| giver.admit(&mut other, socket).is_ok()),
            [true, true, false]
        );
        other.enter(Some(Duration::ZERO)).unwrap();
        for _ in 0..2 {
            let start = std::time::Instant::now();
            io.enter(Some(LONG)).unwrap();
            assert!(start.elapsed() < LONG, "the turn comes by itself");
            port.receive(&mut io, &mut frames);
            assert_eq!(port.ring.advance().unwrap().what, What::Open);
            port.ring.release();
        }
        assert!(!port.member.has_mail());
        drop(clients);
    }
}
