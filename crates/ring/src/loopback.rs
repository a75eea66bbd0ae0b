//! A port in memory: deterministic, and filling landing buffers as the kernel does.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fmt, io,
    rc::Rc,
};

use impasto_region::{BufId, Extent, Frames, Loan, Span, SpanLoan, layout::BUF_BYTES};

use crate::{FlowId, Part, Port, Ring, Sent, Slot, Transmit, What};

/// A port without a network. The other side of its flows is a [`LoopPeer`].
///
/// Bytes land in one linear stream over all flows, in the order in which the peer pushed them; each
/// buffer is filled to its last byte. Without a buffer to land in they wait, and so do slots for
/// which the ring has no room. A transmit takes effect when it is called, and is reported by the
/// next [`Port::sent`]. A span on loan to a flow that was resumed or closed settles with the next
/// [`Port::receive`].
pub struct LoopPort {
    wire: Rc<RefCell<Wire>>,
    ring: Ring,
    loans: VecDeque<Loan>,
    sent: VecDeque<Sent>,
    power: Option<Rc<dyn Fn() -> bool>>,
}

/// The far side of a [`LoopPort`]'s flows: what clients do, and what they see.
#[derive(Clone, Debug)]
pub struct LoopPeer(Rc<RefCell<Wire>>);

#[derive(Debug, Default)]
struct Wire {
    arrivals: VecDeque<Arrival>,
    conns: BTreeMap<FlowId, Conn>,
    /// Names to be used again.
    free: Vec<FlowId>,
    indexes: u32,
    is_refusing: bool,
}

#[derive(Debug)]
struct Arrival {
    flow: FlowId,
    what: Happened,
}

#[derive(Debug)]
enum Happened {
    Opened,
    Pushed { bytes: Vec<u8>, landed: usize },
    Ended,
    Reset,
}

/// One connection, kept also when it is closed.
#[derive(Debug, Default)]
struct Conn {
    /// What the port has sent and nobody has taken.
    sent: Vec<u8>,
    is_open: bool,
    is_paused: bool,
    is_stopping: bool,
    /// Where what comes next goes.
    directed: Option<SpanLoan>,
    /// The peer pushes no more.
    is_ended: bool,
    is_reset: bool,
    /// What the peer sees of `shut` and `close`.
    saw_shut: bool,
    saw_close: bool,
}

impl LoopPort {
    /// Returns a port with a ring of `slots`, a power of two.
    pub fn new(slots: usize) -> Self {
        Self {
            wire: Rc::default(),
            ring: Ring::new(slots),
            loans: VecDeque::new(),
            sent: VecDeque::new(),
            power: None,
        }
    }

    /// As [`new`](Self::new); while `power` returns false, nothing that the port does reaches the
    /// peer.
    pub fn with_power(slots: usize, power: Rc<dyn Fn() -> bool>) -> Self {
        Self { power: Some(power), ..Self::new(slots) }
    }

    /// Returns the far side.
    pub fn peer(&self) -> LoopPeer {
        LoopPeer(Rc::clone(&self.wire))
    }

    /// Writes `bytes` into the buffers that the port has, behind what was deposited before, as a
    /// network card does before it tells of them. Nobody sees them until they
    /// [arrive](Self::arrive). Returns how many there was room for.
    pub fn deposit(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        for loan in &mut self.loans {
            let rest = loan.rest();
            let len = bytes.len().min(rest.len());
            rest[..len].copy_from_slice(&bytes[..len]);
            loan.fill(u32::try_from(len).expect("a buffer's length"));
            bytes = &bytes[len..];
            if bytes.is_empty() {
                break;
            }
        }
        all - bytes.len()
    }

    /// Makes slots of the next `len` bytes that were [deposited](Self::deposit): as much of a
    /// receive as is left when the bytes are in memory. For measurements; what the peer pushes has
    /// to wait until all has arrived that was deposited.
    ///
    /// # Panics
    /// If fewer bytes are deposited, or the ring has no room.
    pub fn arrive(&mut self, frames: &mut Frames, flow: FlowId, len: u32) {
        let mut left = len;
        while left > 0 {
            let loan = self.loans.front_mut().expect("what is deposited has a buffer");
            let part = left.min(BUF_BYTES - frames.landed_bytes(loan));
            let extent = frames.land_filled(loan, part);
            self.ring.push(Slot { flow, what: What::Data(extent) });
            self.retire(frames);
            left -= part;
        }
    }

    fn has_power(&self) -> bool {
        self.power.as_ref().is_none_or(|power| power())
    }

    /// Makes slots of `arrival`; returns false if something of it has to wait.
    fn take_in(&mut self, frames: &mut Frames, arrival: &mut Arrival) -> bool {
        let flow = arrival.flow;
        let what = match &mut arrival.what {
            Happened::Pushed { bytes, landed } => {
                while *landed < bytes.len() {
                    if self.ring.room() == 0 {
                        return false;
                    }
                    let Some(extent) = self.land(frames, &bytes[*landed..]) else {
                        return false;
                    };
                    *landed += extent.len as usize;
                    self.ring.push(Slot { flow, what: What::Data(extent) });
                    self.retire(frames);
                }
                return true;
            }
            Happened::Opened => What::Open,
            Happened::Ended => What::End,
            Happened::Reset => What::Reset,
        };
        let fits = self.ring.room() > 0;
        if fits {
            self.ring.push(Slot { flow, what });
        }
        fits
    }

    /// Fills the span that `conn` is directed to with what `arrival` brings; returns false if
    /// something of it has to wait.
    fn fill(&mut self, frames: &mut Frames, conn: &mut Conn, arrival: &mut Arrival) -> bool {
        if matches!(&arrival.what, Happened::Pushed { bytes, .. } if bytes.is_empty()) {
            return true;
        }
        let Some(loan) = conn.directed.take_if(|_| self.ring.room() > 0) else {
            return false;
        };
        let Happened::Pushed { bytes, landed } = &mut arrival.what else {
            settle(frames, loan, &[]);
            return self.take_in(frames, arrival);
        };
        let Span { at, len } = loan.span();
        let rest = &bytes[*landed..];
        let come = &rest[..rest.len().min(usize::try_from(len).expect("a span is in memory"))];
        settle(frames, loan, come);
        let what = What::Filled(Span::new(at, come.len() as u64));
        self.ring.push(Slot { flow: arrival.flow, what });
        *landed += come.len();
        *landed == bytes.len()
    }

    /// Lets go of spans whose flows were resumed or closed, and tells the owners of flows that
    /// these have stopped.
    fn stop_flows(&mut self, frames: &mut Frames, wire: &mut Wire) {
        for (flow, conn) in &mut wire.conns {
            let is_held = conn.is_open && conn.is_paused;
            if let Some(loan) = conn.directed.take_if(|_| !is_held) {
                settle(frames, loan, &[]);
            }
            if conn.is_open && conn.is_stopping && self.ring.room() > 0 {
                conn.is_stopping = false;
                self.ring.push(Slot { flow: *flow, what: What::Stopped });
            }
        }
    }

    /// Lands as much of `bytes` as the buffer in use has room for.
    fn land(&mut self, frames: &mut Frames, bytes: &[u8]) -> Option<Extent> {
        let loan = self.loans.front_mut()?;
        let rest = (BUF_BYTES - frames.landed_bytes(loan)) as usize;
        assert_eq!(loan.rest().len(), rest, "what was deposited arrives first");
        Some(frames.land(loan, &bytes[..bytes.len().min(rest)]))
    }

    /// Ends the loan of the buffer in use, if it is full.
    fn retire(&mut self, frames: &mut Frames) {
        let loan = self.loans.pop_front_if(|loan| frames.landed_bytes(loan) == BUF_BYTES);
        if let Some(loan) = loan {
            let buf = loan.buf();
            frames.settle(loan);
            self.ring.fill(buf);
        }
    }
}

/// Ends a loan of which `come` has come. What lies behind is nobody's business.
fn settle(frames: &mut Frames, loan: SpanLoan, come: &[u8]) {
    let mut bytes = come.to_vec();
    bytes.resize(usize::try_from(loan.span().len).expect("a span is in memory"), 0xee);
    frames.fill_span(loan, &bytes);
}

impl<I> Port<I> for LoopPort {
    fn receive(&mut self, _: &mut I, frames: &mut Frames) {
        let wire = Rc::clone(&self.wire);
        let mut wire = wire.borrow_mut();
        let wire = &mut *wire;
        self.stop_flows(frames, wire);
        let mut waiting = VecDeque::with_capacity(wire.arrivals.len());
        let mut stuck: Vec<FlowId> = Vec::new();
        while let Some(mut arrival) = wire.arrivals.pop_front() {
            let flow = arrival.flow;
            // What follows on a flow waits with what is before it.
            let is_taken = !stuck.contains(&flow)
                && match wire.conns.get_mut(&flow) {
                    Some(conn) if conn.is_paused => self.fill(frames, conn, &mut arrival),
                    _ => self.take_in(frames, &mut arrival),
                };
            if !is_taken {
                stuck.push(flow);
                waiting.push_back(arrival);
            }
        }
        wire.arrivals = waiting;
    }

    fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    fn transmit(&mut self, _: &mut I, frames: &Frames, flow: FlowId, transmit: Transmit) {
        let has_power = self.has_power();
        let mut wire = self.wire.borrow_mut();
        let conn = wire.conns.get_mut(&flow).filter(|conn| conn.is_open && !conn.is_reset);
        let result = match conn {
            Some(conn) => {
                for part in &transmit.parts {
                    let bytes = match *part {
                        Part::Bytes { at, len } => &transmit.bytes[at as usize..][..len as usize],
                        Part::Stored(extent) => frames.bytes(extent.span()),
                    };
                    if has_power {
                        conn.sent.extend_from_slice(bytes);
                    }
                }
                Ok(())
            }
            None => Err(io::ErrorKind::ConnectionReset.into()),
        };
        self.sent.push_back(Sent { flow, transmit, result });
    }

    fn sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    fn pause(&mut self, _: &mut I, flow: FlowId) {
        if let Some(conn) = self.wire.borrow_mut().conns.get_mut(&flow) {
            conn.is_paused = true;
        }
    }

    fn stop(&mut self, _: &mut I, flow: FlowId) {
        if let Some(conn) = self.wire.borrow_mut().conns.get_mut(&flow) {
            conn.is_paused = true;
            conn.is_stopping = true;
        }
    }

    fn direct(&mut self, _: &mut I, frames: &mut Frames, flow: FlowId, span: Span) {
        let mut wire = self.wire.borrow_mut();
        let Some(conn) = wire.conns.get_mut(&flow).filter(|conn| conn.is_open) else {
            return;
        };
        let has_stopped = conn.is_paused && !conn.is_stopping && conn.directed.is_none();
        assert!(has_stopped, "the flow has stopped");
        conn.directed = Some(frames.loan_span(span));
    }

    fn resume(&mut self, _: &mut I, flow: FlowId) {
        if let Some(conn) = self.wire.borrow_mut().conns.get_mut(&flow) {
            conn.is_paused = false;
        }
    }

    fn shut(&mut self, _: &mut I, flow: FlowId) {
        let has_power = self.has_power();
        if let Some(conn) = self.wire.borrow_mut().conns.get_mut(&flow) {
            conn.saw_shut |= has_power;
        }
    }

    fn close(&mut self, _: &mut I, flow: FlowId) {
        let has_power = self.has_power();
        self.ring.hide(flow);
        let mut wire = self.wire.borrow_mut();
        wire.arrivals.retain(|arrival| arrival.flow != flow);
        let Some(conn) = wire.conns.get_mut(&flow).filter(|conn| conn.is_open) else {
            return;
        };
        conn.is_open = false;
        conn.saw_close |= has_power;
        let generation = flow.generation.wrapping_add(1);
        wire.free.push(FlowId { generation, ..flow });
    }

    fn stop_accepting(&mut self, _: &mut I) {
        self.wire.borrow_mut().is_refusing = true;
    }

    fn drained(&mut self) -> Option<BufId> {
        self.ring.drained()
    }

    fn provide(&mut self, _: &mut I, frames: &mut Frames, buf: BufId) {
        self.loans.push_back(frames.loan(buf));
    }
}

impl LoopPeer {
    /// Opens a flow; `None` if the port has stopped accepting.
    pub fn open(&self) -> Option<FlowId> {
        let mut wire = self.0.borrow_mut();
        if wire.is_refusing {
            return None;
        }
        let flow = wire.free.pop().unwrap_or_else(|| {
            wire.indexes += 1;
            FlowId { index: wire.indexes - 1, generation: 0 }
        });
        wire.conns.insert(flow, Conn { is_open: true, ..Conn::default() });
        wire.arrivals.push_back(Arrival { flow, what: Happened::Opened });
        Some(flow)
    }

    /// Sends `bytes` to the port; each call is received on its own. They are lost if the flow is
    /// closed.
    ///
    /// # Panics
    /// If the peer has ended or reset the flow.
    pub fn push(&self, flow: FlowId, bytes: &[u8]) {
        self.happen(flow, Happened::Pushed { bytes: bytes.to_vec(), landed: 0 });
    }

    /// Ends what the peer sends; it still reads.
    ///
    /// # Panics
    /// If the peer has ended or reset the flow before.
    pub fn end(&self, flow: FlowId) {
        self.happen(flow, Happened::Ended);
    }

    /// Breaks the connection. What was pushed before still arrives.
    ///
    /// # Panics
    /// If the peer has reset the flow before.
    pub fn reset(&self, flow: FlowId) {
        self.happen(flow, Happened::Reset);
    }

    /// Returns what the port has sent since the last call.
    pub fn take_sent(&self, flow: FlowId) -> Vec<u8> {
        self.with(flow, |conn| std::mem::take(&mut conn.sent))
    }

    /// Returns true if the peer has seen the flow closed.
    pub fn is_closed(&self, flow: FlowId) -> bool {
        self.with(flow, |conn| conn.saw_close)
    }

    /// Returns true if the peer has seen that the port sends no more.
    pub fn is_shut(&self, flow: FlowId) -> bool {
        self.with(flow, |conn| conn.saw_shut || conn.saw_close)
    }

    /// Returns true if something has not become a slot yet, of a flow that is not paused.
    pub fn has_arrivals(&self) -> bool {
        let wire = self.0.borrow();
        let stops = |conn: &Conn| {
            let is_held = conn.is_open && conn.is_paused;
            conn.is_open && conn.is_stopping || conn.directed.is_some() && !is_held
        };
        wire.conns.values().any(stops)
            || wire.arrivals.iter().any(|arrival| {
                let conn = wire.conns.get(&arrival.flow);
                conn.is_some_and(|conn| {
                    conn.is_open && (!conn.is_paused || conn.directed.is_some())
                })
            })
    }

    fn happen(&self, flow: FlowId, what: Happened) {
        let mut wire = self.0.borrow_mut();
        let conn = wire.conns.get_mut(&flow).expect("a flow of this port");
        let is_reset = matches!(what, Happened::Reset);
        assert!(
            !conn.is_reset && (is_reset || !conn.is_ended),
            "nothing follows the end of {flow:?}"
        );
        conn.is_reset |= is_reset;
        conn.is_ended |= matches!(what, Happened::Ended);
        if conn.is_open {
            wire.arrivals.push_back(Arrival { flow, what });
        }
    }

    fn with<T>(&self, flow: FlowId, see: impl FnOnce(&mut Conn) -> T) -> T {
        see(self.0.borrow_mut().conns.get_mut(&flow).expect("a flow of this port"))
    }
}

impl fmt::Debug for LoopPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoopPort({:?})", self.ring)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use impasto_region::layout::Geometry;

    use super::*;

    /// Without the order within a flow, an end could overtake bytes that wait for a buffer.
    #[test]
    fn what_follows_waiting_bytes_waits_too() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 1).unwrap();
        let mut port = LoopPort::new(8);
        let peer = port.peer();
        let (first, second) = (peer.open().unwrap(), peer.open().unwrap());
        peer.push(first, b"bytes");
        peer.end(first);
        peer.end(second);
        port.receive(&mut (), &mut frames);
        let arrived = |port: &mut LoopPort| {
            let slots = std::iter::from_fn(|| port.ring.advance());
            slots.map(|slot| (slot.flow, slot.what)).collect::<Vec<_>>()
        };
        let expected = [(first, What::Open), (second, What::Open), (second, What::End)];
        assert_eq!(arrived(&mut port), expected);
        assert!(peer.has_arrivals());
        port.provide(&mut (), &mut frames, geometry.bufs_end());
        port.receive(&mut (), &mut frames);
        let extent = Extent { len: 5, ..geometry.bufs_end().whole() };
        assert_eq!(arrived(&mut port), [(first, What::Data(extent)), (first, What::End)]);
        assert!(!peer.has_arrivals());
    }

    /// The card writes to the last byte of a buffer; a packet that is cut there is two slots.
    #[test]
    fn what_was_deposited_arrives_in_order_and_is_cut_where_a_buffer_ends() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 2).unwrap();
        let mut port = LoopPort::new(8);
        for n in 0..2 {
            port.provide(&mut (), &mut frames, BufId(geometry.bufs_end().0 + n));
        }
        let flow = port.peer().open().unwrap();
        let bytes: Vec<u8> = (0..BUF_BYTES + 5).map(|n| n.to_le_bytes()[0]).collect();
        assert_eq!(port.deposit(&bytes), bytes.len());
        port.arrive(&mut frames, flow, BUF_BYTES - 5);
        port.arrive(&mut frames, flow, 10);
        let slots = std::iter::from_fn(|| port.ring.advance());
        let landed: Vec<u8> = slots
            .flat_map(|slot| match slot.what {
                What::Data(extent) => frames.bytes(extent.span()).to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((landed, port.ring.tail()), (bytes, 3));
        port.ring.release();
        assert_eq!(Port::<()>::drained(&mut port), Some(geometry.bufs_end()));
        let room = port.deposit(&vec![0; BUF_BYTES as usize]);
        assert_eq!(room, BUF_BYTES as usize - 5);
    }

    /// What lands is the next that is in the buffer: a flow would have what was deposited for
    /// another one.
    #[test]
    #[should_panic(expected = "what was deposited arrives first")]
    fn nothing_that_is_pushed_lands_before_what_was_deposited() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 1).unwrap();
        let mut port = LoopPort::new(8);
        port.provide(&mut (), &mut frames, geometry.bufs_end());
        let peer = port.peer();
        let flow = peer.open().unwrap();
        port.deposit(b"deposited");
        peer.push(flow, b"pushed");
        port.receive(&mut (), &mut frames);
    }

    /// Without the switch, a simulated crash would show replies that were sent after it.
    #[test]
    fn without_power_nothing_reaches_the_peer() {
        let geometry = Geometry::new(16 << 20).unwrap();
        let frames = Frames::anonymous(geometry, 1).unwrap();
        let power = Rc::new(Cell::new(true));
        let switch = Rc::clone(&power);
        let mut port = LoopPort::with_power(8, Rc::new(move || switch.get()));
        let peer = port.peer();
        let flow = peer.open().unwrap();
        for is_on in [true, false] {
            power.set(is_on);
            let (bytes, parts) = (b"reply".to_vec(), vec![Part::Bytes { at: 0, len: 5 }]);
            port.transmit(&mut (), &frames, flow, Transmit { bytes, parts });
            assert!(Port::<()>::sent(&mut port).unwrap().result.is_ok());
            assert_eq!(peer.take_sent(flow), if is_on { &b"reply"[..] } else { b"" });
        }
        port.close(&mut (), flow);
        assert!(!peer.is_closed(flow));
        assert!(!peer.is_shut(flow));
    }
}
