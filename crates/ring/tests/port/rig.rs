//! A port with all around it, and the far side of its connections.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use impasto_epoll::Epoll;
use impasto_region::{BufId, Extent, Frames, Span, layout::Geometry};
use impasto_ring::{
    FlowId, Gate, Limits, LoopPeer, LoopPort, Port, Sent, SocketPort, Sockets, What, listen,
};
use impasto_uring::{Mode, Uring};
use socket2::SockRef;

/// What the loop waits on.
pub(crate) trait Wait {
    fn wait(&mut self);
}

impl Wait for () {
    fn wait(&mut self) {}
}

impl<I: Kernel> Wait for I {
    fn wait(&mut self) {
        self.enter(Some(Duration::from_millis(20)));
    }
}

/// What a port of the kernel's TCP stands over.
pub(crate) trait Kernel: Sockets + 'static {
    fn with_entries(entries: u32) -> Self;
    fn enter(&mut self, timeout: Option<Duration>);
    fn calls(&self) -> u64;
}

impl Kernel for Uring {
    fn with_entries(entries: u32) -> Self {
        Self::new(entries).unwrap()
    }

    fn enter(&mut self, timeout: Option<Duration>) {
        Self::enter(self, timeout).unwrap();
    }

    fn calls(&self) -> u64 {
        Self::calls(self)
    }
}

impl Kernel for Epoll {
    fn with_entries(_entries: u32) -> Self {
        Self::new().unwrap()
    }

    fn enter(&mut self, timeout: Option<Duration>) {
        Self::enter(self, timeout).unwrap();
    }

    fn calls(&self) -> u64 {
        Self::calls(self)
    }
}

/// Runs a scenario of the kernel's TCP over each [`Kernel`].
macro_rules! on_each_kernel {
    ($($scenario:ident),+ $(,)?) => {
        mod by_uring {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario::<impasto_uring::Uring>();
                }
            )+
        }

        mod by_epoll {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario::<impasto_epoll::Epoll>();
                }
            )+
        }
    };
}
pub(crate) use on_each_kernel;

/// What clients do.
pub(crate) trait Peer {
    type Conn;
    fn open(&self) -> Self::Conn;
    /// Sends what goes at the moment, and says how much.
    fn push(&self, conn: &mut Self::Conn, bytes: &[u8]) -> usize;
    fn end(&self, conn: &mut Self::Conn);
    fn reset(&self, conn: Self::Conn);
    /// Reads what is there; true with it if the stream is over.
    fn read(&self, conn: &mut Self::Conn) -> (Vec<u8>, bool);
}

impl Peer for LoopPeer {
    type Conn = FlowId;

    fn open(&self) -> FlowId {
        self.open().unwrap()
    }

    fn push(&self, conn: &mut FlowId, bytes: &[u8]) -> usize {
        self.push(*conn, bytes);
        bytes.len()
    }

    fn end(&self, conn: &mut FlowId) {
        Self::end(self, *conn);
    }

    fn reset(&self, conn: FlowId) {
        Self::reset(self, conn);
    }

    fn read(&self, conn: &mut FlowId) -> (Vec<u8>, bool) {
        (self.take_sent(*conn), self.is_shut(*conn))
    }
}

/// Clients of a listening socket.
pub(crate) struct Tcp(pub(crate) SocketAddr);

impl Peer for Tcp {
    type Conn = TcpStream;

    fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.0).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    fn push(&self, conn: &mut TcpStream, bytes: &[u8]) -> usize {
        match conn.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn end(&self, conn: &mut TcpStream) {
        conn.shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn reset(&self, conn: TcpStream) {
        SockRef::from(&conn).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn read(&self, conn: &mut TcpStream) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        match conn.read_to_end(&mut bytes) {
            Ok(_) => (bytes, true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (bytes, false),
            Err(_) => (bytes, true),
        }
    }
}

/// What has arrived on a flow.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) is_over: Option<What>,
    /// How often it has stopped.
    pub(crate) stops: usize,
    /// What was filled last, until somebody takes it.
    pub(crate) filled: Option<Span>,
}

/// A worker that looks at every slot, once.
pub(crate) struct Rig<P, I> {
    // Dropped before the ring of its operations, as a careless owner would.
    pub(crate) frames: Frames,
    pub(crate) port: P,
    pub(crate) io: I,
    /// By flow, in the order of their opening.
    pub(crate) seen: BTreeMap<FlowId, Seen>,
    pub(crate) opened: Vec<FlowId>,
    pub(crate) sent: Vec<Sent>,
    /// Buffers that are not provided.
    pub(crate) bufs: Vec<BufId>,
    /// Keep drained buffers instead of providing them again.
    pub(crate) is_withholding: bool,
}

impl<P: Port<I>, I: Wait> Rig<P, I> {
    fn with(port: P, io: I, frames: Frames, first: BufId, bufs: u32) -> Self {
        let bufs = (first.0..first.0 + bufs).map(BufId).collect();
        let (seen, opened, sent) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { frames, port, io, seen, opened, sent, bufs, is_withholding: false }
    }

    /// Provides all buffers that are not.
    pub(crate) fn provide(&mut self) {
        for buf in self.bufs.drain(..) {
            self.port.provide(&mut self.io, &mut self.frames, buf);
        }
    }

    /// One turn: waits, looks at every slot, gives everything back.
    pub(crate) fn turn(&mut self) {
        self.io.wait();
        self.look();
    }

    /// The rest of a turn, behind the wait.
    pub(crate) fn look(&mut self) {
        self.port.receive(&mut self.io, &mut self.frames);
        while let Some(slot) = self.port.ring().advance() {
            if slot.what == What::Open {
                self.opened.push(slot.flow);
                assert!(
                    self.seen.insert(slot.flow, Seen::default()).is_none(),
                    "a name used twice"
                );
            }
            let seen = self.seen.get_mut(&slot.flow).expect("the first slot of a flow opens it");
            let follows = match seen.is_over {
                None => true,
                Some(over) => (over, slot.what) == (What::End, What::Reset),
            };
            assert!(follows, "{slot:?} behind the end");
            match slot.what {
                What::Open => {}
                What::Data(extent) => {
                    seen.bytes.extend(self.frames.bytes(extent.span()));
                    seen.extents.push(extent);
                }
                What::Stopped => seen.stops += 1,
                What::Filled(span) => {
                    seen.bytes.extend(self.frames.bytes(span));
                    assert_eq!(seen.filled.replace(span), None, "one piece at a time");
                }
                What::End | What::Reset => seen.is_over = Some(slot.what),
            }
        }
        self.port.ring().release();
        self.sent.extend(std::iter::from_fn(|| self.port.sent()));
        while let Some(buf) = self.port.drained() {
            assert!(self.frames.is_settled(buf.whole().span()));
            self.bufs.push(buf);
        }
        if !self.is_withholding {
            self.provide();
        }
    }

    /// Takes turns until `is_done`.
    pub(crate) fn until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !is_done(self) {
            assert!(start.elapsed() < Duration::from_secs(30), "nothing more happens");
            self.turn();
        }
    }

    /// Stops a flow and returns when it has.
    pub(crate) fn stop(&mut self, flow: FlowId) {
        let before = self.seen(flow).stops;
        self.port.stop(&mut self.io, flow);
        self.until(|rig| rig.seen(flow).stops > before || rig.seen(flow).is_over.is_some());
    }

    pub(crate) fn direct(&mut self, flow: FlowId, span: Span) {
        self.port.direct(&mut self.io, &mut self.frames, flow, span);
    }

    /// Returns what was filled since the last call.
    pub(crate) fn take_filled(&mut self, flow: FlowId) -> Option<Span> {
        self.seen.get_mut(&flow).and_then(|seen| seen.filled.take())
    }

    pub(crate) fn seen(&self, flow: FlowId) -> &Seen {
        &self.seen[&flow]
    }
}

fn geometry() -> Geometry {
    Geometry::new(16 << 20).unwrap()
}

/// A port in memory with `slots` slots and `bufs` landing buffers, none provided yet.
pub(crate) fn in_memory(slots: usize, bufs: u32) -> (Rig<LoopPort, ()>, LoopPeer) {
    let frames = Frames::anonymous(geometry(), bufs).unwrap();
    let port = LoopPort::new(slots);
    let peer = port.peer();
    (Rig::with(port, (), frames, geometry().bufs_end(), bufs), peer)
}

pub(crate) type Tcps<I> = Rig<SocketPort<I>, I>;

/// A port of the kernel's TCP, likewise, on a ring of `entries`.
pub(crate) fn of_kernel<I: Kernel>(
    entries: u32,
    limits: Limits,
    listeners: impl IntoIterator<Item = TcpListener>,
) -> Tcps<I> {
    at_gate(entries, limits, listeners, &Arc::new(Gate::new(limits.flows_max)))
}

/// As [`of_kernel`], at a gate.
pub(crate) fn at_gate<I: Kernel>(
    entries: u32,
    limits: Limits,
    listeners: impl IntoIterator<Item = TcpListener>,
    gate: &Arc<Gate<I::Waker>>,
) -> Tcps<I> {
    let bufs = u32::from(limits.bufs_max);
    let frames = Frames::anonymous(geometry(), bufs).unwrap();
    let mut io = I::with_entries(entries);
    let port = SocketPort::with_gate(&mut io, &frames, listeners, limits, gate).unwrap();
    Rig::with(port, io, frames, geometry().bufs_end(), bufs)
}

/// As [`of_kernel`], on one IPv4 listener.
pub(crate) fn on_ipv4<I: Kernel>(entries: u32, limits: Limits) -> (Tcps<I>, Tcp) {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    (of_kernel(entries, limits, [listener]), Tcp(address))
}

/// As [`on_ipv4`], with the mode given.
pub(crate) fn on_kernel<I: Kernel>(mode: Mode, slots: usize, bufs: u32) -> (Tcps<I>, Tcp) {
    on_ipv4(64, Limits { mode: Some(mode), ..limits(slots, bufs) })
}

pub(crate) fn limits(slots: usize, bufs: u32) -> Limits {
    let bufs_max = u16::try_from(bufs).unwrap();
    Limits { slots, bufs_max, ..Limits::default() }
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// Starts from `IMPASTO_SEED`, or from a fixed seed; a failing test prints it.
    pub(crate) fn new() -> Self {
        let seed = std::env::var("IMPASTO_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(20_261_120);
        #[expect(clippy::print_stdout, reason = "shown when the test fails")]
        {
            println!("IMPASTO_SEED={seed}");
        }
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }
}

/// Bytes that tell connection and place.
pub(crate) fn pattern(conn: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ conn.wrapping_mul(97)) as u8).collect()
}
