//! Slots between `head` and `tail`, and the ports that fill and drain them.
//!
//! ```text
//!            head        cur              tail
//!   ----------+-----------+----------------+------------------   (wraps)
//!    free     | looked at,| arrived        | free: the port
//!             | not given | not looked at  | fills it next
//!             | back      |                |
//! ```
//!
//! After netmap (Rizzo) and PASTE (Honda et al.): a slot names bytes that have landed, it does not
//! hold them. Slots of one flow are in the order of its byte stream, slots of different flows mix.
//!
//! Who owns a landing buffer: the *port* while it is being filled; then whoever holds one of its
//! bytes. Every data slot holds its buffer until `head` has passed it; [`Ring::hold`] keeps it
//! beyond. A full buffer without a hold is *drained*: [`Port::drained`] returns it, and
//! [`Port::provide`] gives the port it, or another one, to fill.
//!
//! Two ports: [`SocketPort`] is the kernel's TCP, by io_uring ([`UringPort`]) or by epoll
//! ([`EpollPort`]), [`LoopPort`] is in memory. The loop over them is the same:
//!
//! ```
//! use impasto_region::{Frames, layout::Geometry};
//! use impasto_ring::{LoopPort, Part, Port, Transmit, What};
//!
//! /// One turn of a server that sends back what comes, from where it landed.
//! fn turn<I>(io: &mut I, port: &mut impl Port<I>, frames: &mut Frames) {
//!     port.receive(io, frames); // moves tail
//!     while let Some(slot) = port.ring().advance() { // moves cur
//!         match slot.what {
//!             What::Open => {}
//!             What::Data(extent) => {
//!                 port.ring().hold(extent.buf); // until it is sent
//!                 let parts = vec![Part::Stored(extent)];
//!                 let transmit = Transmit { parts, ..Transmit::default() };
//!                 port.transmit(io, frames, slot.flow, transmit);
//!             }
//!             What::End | What::Reset => port.close(io, slot.flow),
//!             What::Stopped | What::Filled(_) => unreachable!("nothing is stopped"),
//!         }
//!     }
//!     port.ring().release(); // moves head
//!     while let Some(sent) = port.sent() {
//!         for part in &sent.transmit.parts {
//!             if let Part::Stored(extent) = part {
//!                 port.ring().unhold(extent.buf);
//!             }
//!         }
//!     }
//!     while let Some(buf) = port.drained() {
//!         port.provide(io, frames, buf);
//!     }
//! }
//!
//! let geometry = Geometry::new(16 << 20).expect("a region of 16 MiB");
//! let mut frames = Frames::anonymous(geometry, 1)?;
//! let mut port = LoopPort::new(64);
//! port.provide(&mut (), &mut frames, geometry.bufs_end());
//!
//! let peer = port.peer();
//! let flow = peer.open().expect("the port accepts");
//! peer.push(flow, b"hello");
//! turn(&mut (), &mut port, &mut frames);
//! assert_eq!(peer.take_sent(flow), b"hello");
//! # Ok::<(), std::io::Error>(())
//! ```
#![forbid(unsafe_code)]

mod accept;
mod flows;
mod gate;
mod listen;
mod loopback;
mod ring;
mod socket;
mod sockets;

pub use gate::Gate;
pub use listen::{Listener, listen, listen_unix};
pub use loopback::{LoopPeer, LoopPort};
pub use ring::Ring;
pub use socket::{EpollPort, Limits, SocketPort, UringPort};
pub use sockets::{Group, Sockets};

use std::io;

use impasto_region::{BufId, Extent, Frames, Span};

/// Names a connection; a later connection has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    /// Index in tables that hold one entry per open flow; reused after the flow is closed.
    pub index: u32,
    /// Tells flows with the same index apart.
    pub generation: u32,
}

/// One thing that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The flow on which it arrived.
    pub flow: FlowId,
    /// What it is.
    pub what: What,
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The flow is new; the first slot of each flow.
    Open,
    /// Payload has landed.
    Data(Extent),
    /// After [`Port::stop`]: nothing more lands.
    Stopped,
    /// After [`Port::direct`]: payload has come into this span, or into the first part of the one
    /// that was given. Nothing more comes until the next call.
    Filled(Span),
    /// The peer will send no more; what was sent before has arrived. It may still read.
    End,
    /// The connection is gone: nothing arrives and nothing can be sent any more. The last slot of
    /// its flow, also behind an end.
    Reset,
}

/// What to send: parts in order, from memory or from stored extents.
#[derive(Debug, Default)]
pub struct Transmit {
    /// Bytes that [`Part::Bytes`] refers to.
    pub bytes: Vec<u8>,
    /// What to send, in order.
    pub parts: Vec<Part>,
}

/// A part of a [`Transmit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `len` bytes from `at` of [`Transmit::bytes`].
    Bytes {
        /// Index of the first byte.
        at: u32,
        /// Number of bytes.
        len: u32,
    },
    /// Bytes of frames. They do not change until the transmit is done.
    Stored(Extent),
}

/// A transmit has ended.
#[derive(Debug)]
pub struct Sent {
    /// Its flow.
    pub flow: FlowId,
    /// The transmit, to be cleared and used again.
    pub transmit: Transmit,
    /// `Ok`: all of it is in the kernel's hands. `Err`: the connection is broken; unless its owner
    /// has closed it, [`What::Reset`] comes as well.
    pub result: io::Result<()>,
}

/// Fills a [`Ring`] with what arrives and sends what it is given. `I` is what the loop waits on.
pub trait Port<I> {
    /// Makes slots of what has arrived, as far as the ring has room: moves `tail`.
    fn receive(&mut self, io: &mut I, frames: &mut Frames);

    /// Returns the ring.
    fn ring(&mut self) -> &mut Ring;

    /// Starts sending. One transmit per flow at a time; it ends with [`Port::sent`], also when the
    /// flow is closed before.
    fn transmit(&mut self, io: &mut I, frames: &Frames, flow: FlowId, transmit: Transmit);

    /// As [`transmit`](Self::transmit), if nobody waits for its end: [`Port::sent`] may report it
    /// late, when something else has happened. Saves the loop a turn.
    fn transmit_quiet(&mut self, io: &mut I, frames: &Frames, flow: FlowId, transmit: Transmit) {
        self.transmit(io, frames, flow, transmit);
    }

    /// Returns a transmit that has ended.
    fn sent(&mut self) -> Option<Sent>;

    /// Stops receiving on a flow; what has landed before still arrives. Idempotent.
    fn pause(&mut self, io: &mut I, flow: FlowId);

    /// As [`pause`](Self::pause); [`What::Stopped`] tells when nothing more lands, unless
    /// [`What::End`] or [`What::Reset`] has come. Until then the flow is not resumed.
    fn stop(&mut self, io: &mut I, flow: FlowId);

    /// Receives what comes next on a flow that has stopped into `span`, without landing, and not a
    /// byte more than fits. Ends with [`What::Filled`] as soon as something has come, or with
    /// [`What::End`] or [`What::Reset`]; until then the span is on loan. If the flow is resumed or
    /// closed before, it is on loan until [`Frames::is_settled`] says otherwise.
    ///
    /// # Panics
    /// If the flow has not stopped, or someone may already write a byte of the span.
    fn direct(&mut self, io: &mut I, frames: &mut Frames, flow: FlowId, span: Span);

    /// Receives again, into landing buffers. What comes into a span meanwhile may be lost: whoever
    /// wants it waits for its slot.
    fn resume(&mut self, io: &mut I, flow: FlowId);

    /// Tells the peer that nothing more will be sent; receiving goes on.
    fn shut(&mut self, io: &mut I, flow: FlowId);

    /// Closes a flow. No slot of it appears any more; its index is used again when its last
    /// transmit has ended.
    fn close(&mut self, io: &mut I, flow: FlowId);

    /// Stops accepting flows, for good.
    fn stop_accepting(&mut self, io: &mut I);

    /// Returns a landing buffer that is full and that nobody holds. It is settled.
    fn drained(&mut self) -> Option<BufId>;

    /// Gives the port a buffer to land in.
    fn provide(&mut self, io: &mut I, frames: &mut Frames, buf: BufId);
}
