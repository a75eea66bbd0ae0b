//! The provided-buffer group: landing buffers that the kernel chooses from.
//!
//! ```text
//!   ring of entries (shared with the kernel)          landing buffers, loaned
//!   +-----+-----+-----+-----+
//!   |     | bid | bid |     |   entry = address, length, bid; the kernel takes them in order
//!   +-----+-----+-----+-----+
//!           head        tail    user space moves the tail only
//! ```
//!
//! [`Mode::Incremental`] (`IOU_PBUF_RING_INC`, Linux 6.12): an entry is a whole buffer. Receives of
//! all sockets fill it one behind the other, to its last byte; the kernel says the length of each,
//! we keep the offset. A buffer is over when the kernel clears `BUF_MORE`, not when a count says
//! so.
//!
//! [`Mode::Pieces`] (older kernels): an entry takes one receive and is over, however little came.
//! So a buffer is cut into pieces of 4 KiB, one entry each; what a receive leaves of its piece is
//! lost until the buffer is provided again.
//!
//! Either way buffers are filled in the order in which they were provided, and completions come in
//! the order in which bytes were placed.

use std::{
    cell::Cell,
    fmt, io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use impasto_region::{BufId, Extent, Frames, Loan, Map, layout::BUF_BYTES};
use io_uring::cqueue;

use crate::Uring;

/// How the kernel uses up buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Many receives fill one buffer to its last byte.
    Incremental,
    /// Each receive takes a piece of 4 KiB.
    Pieces,
}

/// Landing buffers that receives of one [`Uring`] choose from.
pub struct BufGroup {
    /// What it lands in.
    map: Arc<Map>,
    pages: Rc<Pages>,
    sequence: Rc<Sequence>,
    /// The next landing to be taken.
    next: u64,
    id: u16,
    mode: Mode,
    tail: u16,
    /// Number of entries less one.
    mask: u16,
    /// Buffers on loan, by place; the entries of a place have its bids.
    loans: Box<[Option<Loan>]>,
    free: Vec<u16>,
}

/// Bytes that the kernel has put into a buffer of a group; [`BufGroup::land`] makes an extent of
/// it.
#[derive(Debug)]
#[must_use = "landings are taken one after the other, none is left out"]
pub struct Landing {
    group: u64,
    number: u64,
    bid: u16,
    len: u32,
    more: bool,
}

/// What a [`Landing`] was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// The bytes; `None` if none came.
    pub extent: Option<Extent>,
    /// The buffer, if it is over: it is settled and no longer the group's.
    pub full: Option<BufId>,
}

/// Numbers the landings of a group, so that none is taken twice or before another.
#[derive(Debug)]
pub(crate) struct Sequence {
    group: u64,
    next: Cell<u64>,
}

/// The ring of entries, as the kernel reads it (`struct io_uring_buf`).
pub(crate) struct Pages(Box<[Page]>);

#[repr(C, align(4096))]
struct Page([Entry; ENTRIES_OF_PAGE]);

#[repr(C)]
struct Entry {
    address: AtomicU64,
    len: AtomicU32,
    bid: AtomicU16,
    /// In the first entry: the ring's tail.
    tail: AtomicU16,
}

impl Entry {
    const fn zero() -> Self {
        let (address, len) = (AtomicU64::new(0), AtomicU32::new(0));
        Self { address, len, bid: AtomicU16::new(0), tail: AtomicU16::new(0) }
    }
}

const _: () = assert!(size_of::<Page>() == 4096 && size_of::<Entry>() == 16);

const PIECE_BYTES: u32 = 4 << 10;
const ENTRIES_OF_PAGE: usize = 256;
/// The kernel's limit.
const ENTRIES_MAX: u16 = 1 << 15;
/// Pieces of a buffer.
const PIECES: u16 = 64;

const _: () = assert!(BUF_BYTES == PIECES as u32 * PIECE_BYTES);

impl Mode {
    /// Returns the number of entries of a buffer.
    const fn entries(self) -> u16 {
        match self {
            Self::Incremental => 1,
            Self::Pieces => PIECES,
        }
    }
}

impl BufGroup {
    /// The most buffers that a group can hold in either mode.
    pub const BUFS_MAX: u16 = ENTRIES_MAX / PIECES;

    /// Makes a group of at most `bufs_max` buffers of `frames` at a time, incremental where the
    /// kernel can.
    ///
    /// # Errors
    /// What the kernel says to the registration.
    ///
    /// # Panics
    /// If `bufs_max` is 0 or above [`BUFS_MAX`](Self::BUFS_MAX).
    pub fn new(io: &mut Uring, frames: &Frames, bufs_max: u16) -> io::Result<Self> {
        match Self::with_mode(io, frames, bufs_max, Mode::Incremental) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Self::with_mode(io, frames, bufs_max, Mode::Pieces)
            }
            made => made,
        }
    }

    /// As [`new`](Self::new), with the mode given.
    ///
    /// # Errors
    /// As [`new`](Self::new); `InvalidInput` if the kernel does not know the mode.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_mode(
        io: &mut Uring,
        frames: &Frames,
        bufs_max: u16,
        mode: Mode,
    ) -> io::Result<Self> {
        assert!((1..=Self::BUFS_MAX).contains(&bufs_max), "a group of {bufs_max} buffers");
        static GROUPS: AtomicU64 = AtomicU64::new(0);
        let entries = (bufs_max * mode.entries()).next_power_of_two();
        let pages = Rc::new(Pages::new(entries));
        let id = io.register(&pages, entries, mode)?;
        io.attach(frames);
        // Relaxed: only distinct numbers are wanted.
        let group = GROUPS.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            map: frames.map(),
            pages,
            sequence: Rc::new(Sequence { group, next: Cell::new(0) }),
            next: 0,
            id,
            mode,
            tail: 0,
            mask: entries - 1,
            loans: (0..bufs_max).map(|_| None).collect(),
            free: (0..bufs_max).rev().collect(),
        })
    }

    /// Returns how the kernel uses up buffers.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the number of buffers that may be provided now.
    pub const fn room(&self) -> usize {
        self.free.len()
    }

    /// Returns the number of buffers that the kernel may fill.
    pub const fn provided(&self) -> usize {
        self.loans.len() - self.free.len()
    }

    /// Gives `buf` to the kernel, to be filled when those provided before are full.
    ///
    /// # Panics
    /// If the group has no room, `frames` are not those it was made with, or `buf` is on loan.
    pub fn provide(&mut self, frames: &mut Frames, buf: BufId) {
        self.check(frames);
        let place = self.free.pop().expect("the group has room for a buffer");
        let loan = frames.loan(buf);
        let start = frames.address(buf.whole().span()).as_ptr().expose_provenance() as u64;
        let entries = self.mode.entries();
        let bytes = BUF_BYTES / u32::from(entries);
        for piece in 0..entries {
            let address = start + u64::from(piece) * u64::from(bytes);
            self.pages.set(self.tail & self.mask, address, bytes, place * entries + piece);
            self.tail = self.tail.wrapping_add(1);
        }
        self.pages.publish(self.tail);
        self.loans[usize::from(place)] = Some(loan);
    }

    /// Takes a landing; landings are taken in the order of their completions.
    ///
    /// # Panics
    /// If it is not the next one of this group, or `frames` are not those the group was made with.
    pub fn land(&mut self, frames: &mut Frames, landing: Landing) -> Landed {
        self.check(frames);
        let expected = (self.sequence.group, self.next);
        assert!((landing.group, landing.number) == expected, "landings are taken in order");
        self.next += 1;
        let entries = self.mode.entries();
        let place = landing.bid / entries;
        let loan = self.loans[usize::from(place)].as_mut().expect("the kernel fills what it has");
        let used = frames.landed_bytes(loan) / PIECE_BYTES;
        let in_order = self.mode == Mode::Incremental || used == u32::from(landing.bid % entries);
        assert!(in_order, "the kernel takes entries in order");
        // A piece is over with one receive: the mark passes all of it, the extent is what came.
        let taken = match self.mode {
            Mode::Incremental => landing.len,
            Mode::Pieces => PIECE_BYTES,
        };
        // SAFETY:
        // - written, completion seen: a `Landing` is made of a completion only, and taken once, in
        //   order, so that marks and placement go together; the rest of a piece holds what it held
        //   before.
        // - not written again: the kernel goes on behind what it has filled, and uses a piece once.
        let extent = unsafe { frames.landed(loan, taken) }.part(0, landing.len);
        // Without a byte an entry is not used up, whatever the kernel says of the end of a stream.
        let over = match self.mode {
            Mode::Incremental => !landing.more && landing.len > 0,
            Mode::Pieces => frames.landed_bytes(loan) == BUF_BYTES,
        };
        let full = if over { Some(self.retire(frames, place)) } else { None };
        Landed { extent: (landing.len > 0).then_some(extent), full }
    }

    /// Ends the loan of a buffer whose last entry the kernel has used up.
    fn retire(&mut self, frames: &mut Frames, place: u16) -> BufId {
        let loan = self.loans[usize::from(place)].take().expect("a place retires once");
        self.free.push(place);
        let buf = loan.buf();
        if frames.landed_bytes(&loan) == BUF_BYTES {
            frames.settle(loan);
        } else {
            // SAFETY: the kernel has dropped the entry from the ring (BUF_MORE is clear behind
            // bytes), and all completions of it were taken, so nobody writes to the buffer any
            // more.
            unsafe { frames.close(loan) }
        }
        buf
    }

    pub(crate) const fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn has(&self, pages: &Rc<Pages>) -> bool {
        Rc::ptr_eq(&self.pages, pages)
    }

    pub(crate) fn sequence(&self) -> Rc<Sequence> {
        Rc::clone(&self.sequence)
    }

    fn check(&self, frames: &Frames) {
        assert!(frames.are(&self.map), "a group lands in the frames that it was made with");
    }
}

impl fmt::Debug for BufGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufGroup({} buffers provided, {:?})", self.provided(), self.mode)
    }
}

impl Sequence {
    /// Returns the landing that a completion of a receive reports, if it used a buffer.
    pub(crate) fn landing(&self, result: i32, flags: u32) -> Option<Landing> {
        let bid = cqueue::buffer_select(flags)?;
        let number = self.next.get();
        self.next.set(number + 1);
        let len = u32::try_from(result).unwrap_or(0);
        Some(Landing { group: self.group, number, bid, len, more: cqueue::buffer_more(flags) })
    }
}

impl Pages {
    fn new(entries: u16) -> Self {
        let pages = usize::from(entries).div_ceil(ENTRIES_OF_PAGE);
        Self((0..pages).map(|_| Page([const { Entry::zero() }; ENTRIES_OF_PAGE])).collect())
    }

    /// Returns the address of the ring; it stays the same as long as `self` lives.
    pub(crate) fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    fn set(&self, index: u16, address: u64, len: u32, bid: u16) {
        let entry = self.entry(usize::from(index));
        // Relaxed: `publish` orders them.
        entry.address.store(address, Ordering::Relaxed);
        entry.len.store(len, Ordering::Relaxed);
        entry.bid.store(bid, Ordering::Relaxed);
    }

    fn publish(&self, tail: u16) {
        // Release: pairs with the kernel's acquire of the tail; publishes the entries below it.
        self.entry(0).tail.store(tail, Ordering::Release);
    }

    fn entry(&self, index: usize) -> &Entry {
        &self.0[index / ENTRIES_OF_PAGE].0[index % ENTRIES_OF_PAGE]
    }
}

#[cfg(test)]
mod tests {
    use impasto_region::layout::Geometry;

    use super::*;

    /// Some kernels leave out `BUF_MORE` where a receive took an entry and got nothing, and go on
    /// filling it: taken for over, the buffer would be read while the kernel writes.
    #[test]
    fn a_landing_of_no_bytes_does_not_end_an_incremental_buffer() {
        const BUFFER: u32 = 1;
        const MORE: u32 = 1 << 4;
        let geometry = Geometry::new(16 << 20).unwrap();
        let mut frames = Frames::anonymous(geometry, 1).unwrap();
        let mut io = Uring::new(8).unwrap();
        let mut group = BufGroup::with_mode(&mut io, &frames, 1, Mode::Incremental).unwrap();
        let buf = geometry.bufs_end();
        group.provide(&mut frames, buf);
        let sequence = group.sequence();
        for (result, flags) in [(5, BUFFER | MORE), (0, BUFFER), (-104, BUFFER)] {
            let landing = sequence.landing(result, flags).unwrap();
            assert_eq!(group.land(&mut frames, landing).full, None, "{result}");
        }
        assert!(!frames.is_settled(buf.whole().span()));
        let rest = sequence.landing((256 << 10) - 5, BUFFER).unwrap();
        assert_eq!(group.land(&mut frames, rest).full, Some(buf));
    }
}
