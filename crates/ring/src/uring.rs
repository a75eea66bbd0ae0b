//! The port of the kernel's TCP.
//!
//! One multishot receive per flow, all from one group of landing buffers; one multishot accept per
//! listener. A receive that ends while its flow wants more is started again; one that ended for
//! want of a buffer when [`Port::provide`] brings one. What goes wrong on one connection is told on
//! that connection only.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use impasto_region::{BufId, Frames};
use impasto_uring::{
    BufGroup, Completion, Fd, Handed, Landing, Mode, Op, Owner, Piece, Token, Uring,
};
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    FlowId, Part, Port, Ring, Sent, Slot, Transmit, What,
    flows::{Flows, Receiving},
};

/// How much a [`UringPort`] holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Slots of the ring, a power of two.
    pub slots: usize,
    /// Most landing buffers that are with the port at a time; at most [`BufGroup::BUFS_MAX`].
    pub bufs_max: u16,
    /// Most flows. At the limit, connections wait in the kernel until a flow closes.
    pub flows_max: usize,
    /// How the kernel uses up landing buffers; `None`: the best way it knows.
    pub mode: Option<Mode>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { slots: 4096, bufs_max: 64, flows_max: 16 << 10, mode: None }
    }
}

/// TCP by io_uring.
///
/// Without a buffer to land in, the end of a stream is not seen either: the kernel takes a buffer
/// first. [`Port::close`] cancels a transmit in flight: an orderly end waits for its [`Sent`]
/// first. While the ring has no room, completions wait in the [`Uring`], those of transmits too:
/// [`Ring::release`] lets them through.
#[derive(Debug)]
pub struct UringPort {
    ring: Ring,
    group: BufGroup,
    flows: Flows,
    flows_max: usize,
    /// Flows that wait for a buffer.
    starved: Vec<FlowId>,
    sent: VecDeque<Sent>,
    listeners: Vec<Listener>,
    /// Accepted above the limit, before the accept could be cancelled.
    waiting: VecDeque<Fd>,
    accepting: Accepting,
}

#[derive(Debug)]
struct Listener {
    /// `None` once the port has stopped accepting: then connections are refused.
    socket: Option<Fd>,
    accept: Option<Op>,
    is_cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    On,
    /// The system cannot take another connection now, for want of descriptors mostly: until a flow
    /// closes or some time is over, so that a turn does not follow the other without end.
    Resting,
    /// For good.
    Stopped,
}

/// What an operation of the port is, in its token beside an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Accept = 0,
    Receive = 1,
    Send = 2,
    Shut = 3,
    Rest = 4,
}

/// Connections that wait for an accept.
const BACKLOG: i32 = 4096;
/// How long accepting rests, unless a flow closes before.
const REST: Duration = Duration::from_millis(100);

/// Makes a listener. One on an IPv6 address takes no IPv4 connections, so that both can have the
/// port.
///
/// # Errors
/// What the system says, usually that the address is in use or not this machine's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl UringPort {
    /// Returns a port that accepts from `listeners` and lands in `frames`.
    ///
    /// # Errors
    /// If the kernel refuses the group of landing buffers, or an option of a listener.
    ///
    /// # Panics
    /// If `limits` are not what their documentation says.
    pub fn new(
        io: &mut Uring,
        frames: &Frames,
        listeners: impl IntoIterator<Item = TcpListener>,
        limits: Limits,
    ) -> io::Result<Self> {
        let group = match limits.mode {
            Some(mode) => BufGroup::with_mode(io, frames, limits.bufs_max, mode),
            None => BufGroup::new(io, frames, limits.bufs_max),
        }?;
        let mut port = Self {
            ring: Ring::new(limits.slots),
            group,
            flows: Flows::default(),
            flows_max: limits.flows_max,
            starved: Vec::new(),
            sent: VecDeque::new(),
            listeners: Vec::new(),
            waiting: VecDeque::new(),
            accepting: Accepting::On,
        };
        for listener in listeners {
            // Accepted sockets inherit it. Replies leave as they are: they are whole.
            SockRef::from(&listener).set_tcp_nodelay(true)?;
            let socket = Some(Fd::from(listener));
            port.listeners.push(Listener { socket, accept: None, is_cancelled: false });
        }
        port.accept_or_not(io);
        Ok(port)
    }

    /// Returns the number of buffers that may be provided now.
    pub const fn room(&self) -> usize {
        self.group.room()
    }

    /// Returns how the kernel uses up landing buffers.
    pub const fn mode(&self) -> Mode {
        self.group.mode()
    }

    /// Returns the number of flows, closed ones included while something of them is in flight.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    fn route(&mut self, io: &mut Uring, frames: &mut Frames, completion: Completion) {
        let (kind, index) = Kind::and_index(completion.token);
        match kind {
            Some(Kind::Accept) => self.accepted(io, index, completion),
            Some(Kind::Receive) => self.received(io, frames, index, completion),
            Some(Kind::Send) => self.transmitted(io, index, completion),
            Some(Kind::Rest) if self.accepting == Accepting::Resting => {
                self.accepting = Accepting::On;
                self.accept_or_not(io);
            }
            _ => {}
        }
    }

    fn accepted(&mut self, io: &mut Uring, index: u32, completion: Completion) {
        if !completion.more {
            let listener = &mut self.listeners[index as usize];
            (listener.accept, listener.is_cancelled) = (None, false);
        }
        if let Handed::Accepted(socket) = completion.handed
            && self.accepting != Accepting::Stopped
        {
            self.waiting.push_back(socket);
            self.open_waiting(io);
        }
        let goes_on = completion.result.map_or_else(|error| is_passing(&error), |_fd| true);
        if !goes_on && self.accepting == Accepting::On {
            self.accepting = Accepting::Resting;
            io.timer(Kind::Rest.token(0), REST);
        }
        self.accept_or_not(io);
    }

    /// Opens flows for connections that were accepted, up to the limit.
    fn open_waiting(&mut self, io: &mut Uring) {
        while self.flows.len() < self.flows_max && self.ring.room() > 0 {
            let Some(socket) = self.waiting.pop_front() else {
                return;
            };
            let flow = self.flows.open(socket);
            self.ring.push(Slot { flow, what: What::Open });
            self.receive_on(io, flow.index);
        }
    }

    /// Starts or cancels accepts, as the state of the port wants it.
    fn accept_or_not(&mut self, io: &mut Uring) {
        let has_room = self.flows.len() + self.waiting.len() < self.flows_max;
        let wants = has_room && self.accepting == Accepting::On;
        for (index, listener) in (0..).zip(&mut self.listeners) {
            match (listener.accept, &listener.socket) {
                (None, Some(socket)) if wants => {
                    listener.accept = Some(io.accept(Kind::Accept.token(index), socket));
                }
                (Some(accept), _) if !wants && !listener.is_cancelled => {
                    listener.is_cancelled = true;
                    io.cancel(accept);
                }
                _ => {}
            }
        }
    }

    fn receive_on(&mut self, io: &mut Uring, index: u32) {
        if let Some(flow) = self.flows.at_mut(index).filter(|flow| flow.wants_receive()) {
            let receive = io.receive(Kind::Receive.token(index), &flow.socket, &self.group);
            flow.receiving = Receiving::Armed(receive);
        }
    }

    fn received(&mut self, io: &mut Uring, frames: &mut Frames, index: u32, done: Completion) {
        if let Handed::Landed(landing) = done.handed {
            self.land(frames, index, landing);
        }
        let Some(flow) = self.flows.at_mut(index) else {
            return;
        };
        if !done.more {
            flow.receiving = Receiving::Idle;
        }
        let over = match done.result {
            Ok(0) => Some(What::End),
            Ok(_) => None,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::CANCELED) => None,
                Some(Errno::NOBUFS) => {
                    // Buffers that were full then are retired by now; what is provided came after.
                    flow.is_starved = self.group.provided() == 0;
                    if flow.is_starved {
                        self.starved.push(flow.id);
                    }
                    None
                }
                _ => Some(What::Reset),
            },
        };
        if let Some(what) = over {
            flow.receiving = Receiving::Over;
            if !flow.is_closing {
                self.ring.push(Slot { flow: flow.id, what });
            }
        }
        self.receive_on(io, index);
        self.forget_gone(io, index);
    }

    fn land(&mut self, frames: &mut Frames, index: u32, landing: Landing) {
        let landed = self.group.land(frames, landing);
        let flow = self.flows.at_mut(index).filter(|flow| !flow.is_closing);
        if let (Some(extent), Some(flow)) = (landed.extent, flow) {
            self.ring.push(Slot { flow: flow.id, what: What::Data(extent) });
        }
        if let Some(buf) = landed.full {
            self.ring.fill(buf);
        }
    }

    fn transmitted(&mut self, io: &mut Uring, index: u32, completion: Completion) {
        let Some(flow) = self.flows.at_mut(index) else {
            return;
        };
        let (Some((_, parts)), Handed::Bytes(bytes)) = (flow.sending.take(), completion.handed)
        else {
            return;
        };
        let result = completion.result.map(|_all| ());
        self.sent.push_back(Sent { flow: flow.id, transmit: Transmit { bytes, parts }, result });
        if flow.is_shutting {
            io.shutdown(Kind::Shut.token(index), &flow.socket);
        }
        self.forget_gone(io, index);
    }

    fn send(
        &mut self,
        id: FlowId,
        transmit: Transmit,
        start: impl FnOnce(Token, &Fd, Vec<u8>, &mut dyn Iterator<Item = Piece>) -> Op,
    ) {
        let Some(flow) = self.flows.open_mut(id) else {
            let result = Err(io::ErrorKind::NotConnected.into());
            return self.sent.push_back(Sent { flow: id, transmit, result });
        };
        assert!(flow.sending.is_none(), "one transmit per flow at a time");
        let Transmit { bytes, parts } = transmit;
        let mut pieces = parts.iter().map(|part| match *part {
            Part::Bytes { at, len } => Piece::Bytes { at, len },
            Part::Stored(extent) => Piece::Stored(extent.span()),
        });
        let send = start(Kind::Send.token(id.index), &flow.socket, bytes, &mut pieces);
        flow.sending = Some((send, parts));
    }

    /// Ends a flow that was closed, if nothing of it is in flight any more.
    fn forget_gone(&mut self, io: &mut Uring, index: u32) {
        if let Some(socket) = self.flows.take_gone(index) {
            io.close(socket);
            if self.accepting == Accepting::Resting {
                self.accepting = Accepting::On;
            }
            self.open_waiting(io);
            self.accept_or_not(io);
            if !self.waiting.is_empty() && self.flows.len() < self.flows_max {
                // The ring had no room. The next turn opens it, and must come.
                io.timer(Kind::Rest.token(0), Duration::ZERO);
            }
        }
    }
}

impl Port<Uring> for UringPort {
    fn receive(&mut self, io: &mut Uring, frames: &mut Frames) {
        self.open_waiting(io);
        // A completion makes at most one slot.
        while self.ring.room() > 0 {
            let Some(completion) = io.completion(Owner::Port) else {
                return;
            };
            self.route(io, frames, completion);
        }
    }

    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn transmit(&mut self, io: &mut Uring, frames: &Frames, id: FlowId, transmit: Transmit) {
        self.send(id, transmit, |token, socket, bytes, pieces| {
            io.send(token, socket, frames, bytes, pieces)
        });
    }

    fn transmit_quiet(&mut self, io: &mut Uring, frames: &Frames, id: FlowId, transmit: Transmit) {
        self.send(id, transmit, |token, socket, bytes, pieces| {
            io.send_quiet(token, socket, frames, bytes, pieces)
        });
    }

    fn sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    fn pause(&mut self, io: &mut Uring, id: FlowId) {
        let Some(flow) = self.flows.open_mut(id) else {
            return;
        };
        flow.is_paused = true;
        if let Receiving::Armed(receive) = flow.receiving {
            io.cancel(receive);
            flow.receiving = Receiving::Stopping;
        }
    }

    fn resume(&mut self, io: &mut Uring, id: FlowId) {
        if let Some(flow) = self.flows.open_mut(id) {
            // A receive that still stops starts again when it has.
            flow.is_paused = false;
            self.receive_on(io, id.index);
        }
    }

    fn shut(&mut self, io: &mut Uring, id: FlowId) {
        if let Some(flow) = self.flows.open_mut(id) {
            flow.is_shutting = true;
            if flow.sending.is_none() {
                io.shutdown(Kind::Shut.token(id.index), &flow.socket);
            } else {
                // Now somebody waits for its end.
                io.timer(Kind::Rest.token(0), Duration::ZERO);
            }
        }
    }

    fn close(&mut self, io: &mut Uring, id: FlowId) {
        self.ring.hide(id);
        let Some(flow) = self.flows.open_mut(id) else {
            return;
        };
        flow.is_closing = true;
        flow.is_shutting = false;
        if let Receiving::Armed(receive) = flow.receiving {
            io.cancel(receive);
            flow.receiving = Receiving::Stopping;
        }
        if let Some((send, _)) = &flow.sending {
            io.cancel(*send);
        }
        self.forget_gone(io, id.index);
    }

    fn stop_accepting(&mut self, io: &mut Uring) {
        self.accepting = Accepting::Stopped;
        self.waiting.clear();
        self.accept_or_not(io);
        for listener in &mut self.listeners {
            listener.socket = None;
        }
    }

    fn drained(&mut self) -> Option<BufId> {
        self.ring.drained()
    }

    fn provide(&mut self, io: &mut Uring, frames: &mut Frames, buf: BufId) {
        self.group.provide(frames, buf);
        while let Some(id) = self.starved.pop() {
            if let Some(flow) = self.flows.open_mut(id) {
                flow.is_starved = false;
                self.receive_on(io, id.index);
            }
        }
    }
}

/// Returns true if an accept failed for one connection only, or was cancelled.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CANCELED
                | Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::PROTO
                | Errno::PERM
                | Errno::INTR
                | Errno::AGAIN
        )
    )
}

impl Kind {
    fn token(self, index: u32) -> Token {
        Token { owner: Owner::Port, value: u64::from(index) << 8 | self as u64 }
    }

    fn and_index(token: Token) -> (Option<Self>, u32) {
        const KINDS: [Kind; 5] = [Kind::Accept, Kind::Receive, Kind::Send, Kind::Shut, Kind::Rest];
        let kind = KINDS.into_iter().find(|kind| *kind as u64 == token.value & 0xff);
        (kind, u32::try_from(token.value >> 8).expect("tokens are made of u32"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use impasto_region::layout::Geometry;

    use super::*;

    fn port(flows_max: usize) -> (UringPort, Uring, Frames, SocketAddr) {
        let mut io = Uring::new(8).unwrap();
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 1).unwrap();
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { bufs_max: 1, flows_max, ..Limits::default() };
        let mut port = UringPort::new(&mut io, &frames, [listener], limits).unwrap();
        port.provide(&mut io, &mut frames, geometry.bufs_end());
        (port, io, frames, address)
    }

    /// Without it, Nagle's algorithm would hold back every second small reply until the peer's ACK.
    #[test]
    fn accepted_sockets_do_not_delay() {
        let (mut port, mut io, mut frames, address) = port(1);
        let _client = TcpStream::connect(address).unwrap();
        let flow = loop {
            io.enter(None).unwrap();
            port.receive(&mut io, &mut frames);
            if let Some(slot) = port.ring.advance() {
                break port.flows.open_mut(slot.flow).unwrap();
            }
        };
        assert!(SockRef::from(&flow.socket).tcp_nodelay().unwrap());
    }

    /// Without the cancel, connections above the limit would take descriptors, as many as come.
    #[test]
    fn at_the_limit_nothing_more_is_accepted() {
        let (mut port, mut io, mut frames, address) = port(1);
        let _client = TcpStream::connect(address).unwrap();
        while port.flows() == 0 || port.listeners[0].accept.is_some() {
            io.enter(None).unwrap();
            port.receive(&mut io, &mut frames);
        }
        let _waits = TcpStream::connect(address).unwrap();
        io.enter(Some(Duration::from_millis(10))).unwrap();
        port.receive(&mut io, &mut frames);
        assert_eq!((port.flows(), port.waiting.len()), (1, 0));
    }

    /// Without the wake-up, a connection that waits for a place would wait on after the place is
    /// there, until something else happens.
    #[test]
    fn a_place_that_comes_free_while_the_ring_is_full_is_taken_at_the_next_turn() {
        let (mut port, mut io, mut frames, address) = port(1);
        port.ring = Ring::new(1);
        let [first, _second] = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        while port.waiting.is_empty() || port.listeners[0].accept.is_some() {
            io.enter(None).unwrap();
            port.receive(&mut io, &mut frames);
            port.ring.advance();
            port.ring.release();
        }
        first.shutdown(std::net::Shutdown::Write).unwrap();
        let flow = loop {
            io.enter(None).unwrap();
            port.receive(&mut io, &mut frames);
            if let Some(slot) = port.ring.advance() {
                break slot.flow;
            }
        };
        assert_eq!((port.waiting.len(), port.ring.room()), (1, 0));
        port.close(&mut io, flow);
        port.ring.release();
        io.enter(Some(Duration::from_secs(10))).unwrap();
        assert!(io.completion(Owner::Port).is_some(), "the turn came by itself");
        port.receive(&mut io, &mut frames);
        let slot = port.ring.advance().unwrap();
        assert_eq!((slot.what, port.waiting.len()), (What::Open, 0));
        assert_ne!(slot.flow, flow);
    }
}
