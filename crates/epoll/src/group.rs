//! Landing buffers that receives fill one behind the other, to their last byte.
//!
//! ```text
//!   loans    [full, in completions] [present ....|      ] [next            ]  ..
//!             front: lands next          filled ^ receives go on here
//! ```
//!
//! Receives run without the frames: they write into the loans. What they have filled lands later,
//! when its completion is taken, in the same order.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    os::fd::AsFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use impasto_region::{BufId, Frames, Loan, Map, layout::BUF_BYTES};
use impasto_uring::Landed;
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg},
};

/// Landing buffers that receives of one [`Epoll`](crate::Epoll) fill.
pub struct BufGroup(Rc<RefCell<Bufs>>);

/// Bytes that were received into a buffer of a group; [`BufGroup::land`] makes an extent of it.
#[derive(Debug)]
#[must_use = "landings are taken one after the other, none is left out"]
pub struct Landing {
    group: u64,
    number: u64,
    len: u32,
}

/// The buffers of a group; every receive holds them.
pub(crate) struct Bufs {
    group: u64,
    /// What it lands in.
    map: Arc<Map>,
    bufs_max: usize,
    /// In the order in which they are filled.
    loans: VecDeque<Loan>,
    /// The one that is being filled; those before are full.
    present: usize,
    /// The next landing to be made, and to be taken.
    made: u64,
    taken: u64,
}

/// With so little left in a buffer a receive goes on in the next one.
const SHORT_BYTES: usize = 16 << 10;
/// A receive takes at most so much: then it is another socket's turn.
const RECEIVE_BYTES_MAX: usize = 128 << 10;

impl BufGroup {
    /// Makes a group of at most `bufs_max` buffers of `frames` at a time.
    pub fn new(frames: &Frames, bufs_max: u16) -> Self {
        static GROUPS: AtomicU64 = AtomicU64::new(0);
        let bufs_max = usize::from(bufs_max);
        Self(Rc::new(RefCell::new(Bufs {
            // Relaxed: only distinct numbers are wanted.
            group: GROUPS.fetch_add(1, Ordering::Relaxed),
            map: frames.map(),
            bufs_max,
            loans: VecDeque::with_capacity(bufs_max),
            present: 0,
            made: 0,
            taken: 0,
        })))
    }

    /// Returns the number of buffers that may be provided now.
    pub fn room(&self) -> usize {
        let bufs = self.0.borrow();
        bufs.bufs_max - bufs.loans.len()
    }

    /// Returns the number of buffers that are being filled or will be, or have not landed.
    pub fn provided(&self) -> usize {
        self.0.borrow().loans.len()
    }

    /// Gives `buf` to be filled when those provided before are full.
    ///
    /// # Panics
    /// If the group has no room, `frames` are not those it was made with, or `buf` is on loan.
    pub fn provide(&mut self, frames: &mut Frames, buf: BufId) {
        let mut bufs = self.0.borrow_mut();
        bufs.check(frames);
        assert!(bufs.loans.len() < bufs.bufs_max, "the group has room for a buffer");
        bufs.loans.push_back(frames.loan(buf));
    }

    /// Takes a landing; landings are taken in the order of their completions.
    ///
    /// # Panics
    /// If it is not the next one of this group, or `frames` are not those the group was made with.
    pub fn land(&mut self, frames: &mut Frames, landing: Landing) -> Landed {
        let mut bufs = self.0.borrow_mut();
        bufs.check(frames);
        let expected = (bufs.group, bufs.taken);
        assert!((landing.group, landing.number) == expected, "landings are taken in order");
        bufs.taken += 1;
        let loan = bufs.loans.front_mut().expect("what landed is in the first buffer");
        let extent = frames.land_filled(loan, landing.len);
        let full = (frames.landed_bytes(loan) == BUF_BYTES).then(|| {
            let loan = bufs.loans.pop_front().expect("the first buffer, seen above");
            bufs.present -= 1;
            let buf = loan.buf();
            frames.settle(loan);
            buf
        });
        Landed { extent: Some(extent), full }
    }

    pub(crate) fn bufs(&self) -> Rc<RefCell<Bufs>> {
        Rc::clone(&self.0)
    }
}

impl Bufs {
    /// Receives what is there, as much as one system call takes: into the rest of the present
    /// buffer, and if that is short into the next one. Tells of one landing for each, `None` at the
    /// end of the stream.
    ///
    /// # Errors
    /// `ENOBUFS` if all are full; else what the kernel says.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<[Option<Landing>; 2]> {
        let mut loans = self.loans.range_mut(self.present..);
        let rest = loans.next().ok_or(Errno::NOBUFS)?.rest();
        let rest_bytes = rest.len();
        let rest = &mut rest[..rest_bytes.min(RECEIVE_BYTES_MAX)];
        let more = RECEIVE_BYTES_MAX - rest.len();
        // One buffer is cheaper, and most often enough.
        let received = match loans.next().filter(|_| rest_bytes < SHORT_BYTES) {
            None => recv(socket, rest, RecvFlags::DONTWAIT)?.0,
            Some(next) => {
                let mut both = [IoSliceMut::new(rest), IoSliceMut::new(&mut next.rest()[..more])];
                let mut nothing = RecvAncillaryBuffer::default();
                recvmsg(socket, &mut both, &mut nothing, RecvFlags::DONTWAIT)?.bytes
            }
        };
        let first = received.min(rest_bytes);
        Ok([self.fill(first), self.fill(received - first)])
    }

    fn fill(&mut self, bytes: usize) -> Option<Landing> {
        let len = u32::try_from(bytes).expect("a receive is shorter than a buffer");
        let loan = self.loans.get_mut(self.present).filter(|_| len > 0)?;
        loan.fill(len);
        self.present += usize::from(loan.rest().is_empty());
        let number = self.made;
        self.made += 1;
        Some(Landing { group: self.group, number, len })
    }

    fn check(&self, frames: &Frames) {
        assert!(frames.are(&self.map), "a group lands in the frames that it was made with");
    }
}

impl Landing {
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }
}

impl fmt::Debug for BufGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufGroup({} buffers provided)", self.provided())
    }
}

impl fmt::Debug for Bufs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bufs({} buffers provided)", self.loans.len())
    }
}
