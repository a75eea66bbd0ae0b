//! Who uses which buffer, and when it is free again (D4, D5).
//!
//! Nothing of this is on the medium: recovery derives it from the log. A buffer has an owner that
//! may still write to it (a port, or the cursor for long bodies), a number of live extents in it,
//! and a number of pins (sends and reads under way). It is free when it has none of the three and
//! the record that killed its last extent is durable.

use std::collections::VecDeque;

use impasto_region::{
    BufId, Extent, Pool, SegmentId,
    layout::{BLOCK_BYTES, BUF_BYTES, BUFS_PER_SEGMENT, Geometry},
};

use crate::Lsn;

#[expect(clippy::cast_possible_truncation, reason = "a block is 4 KiB")]
const BLOCK: u32 = BLOCK_BYTES as u32;
/// Segments that only trims and reclamation may take, so that a full region can be emptied: one for
/// trims that leave records, of which there can be any number; one for those that empty a log; and
/// two for reclamation, which moves at most what stands in one segment before it frees that.
const RESERVED_SEGMENTS: u32 = 4;

/// Who asks for a log segment. The later ones may take what the earlier ones have to leave (D10).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// An append that also takes so many buffers.
    Append(u32),
    /// A trim that leaves records.
    Trim,
    /// A trim that empties its log: there is one for each log of a full region.
    Drain,
    /// Reclamation.
    Move,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Free, or only kept by what is live in it.
    Nobody,
    /// A port lands bytes in it.
    Port,
    /// Long bodies are placed in it.
    Cursor,
    /// It is a part of a log segment.
    Log,
}

#[derive(Clone, Copy, Debug)]
struct Buf {
    owner: Owner,
    /// Live extents, those reserved for a body under way included.
    live: u32,
    /// Sends and reads that hold it.
    pins: u32,
    /// When the last extent died: the lsn of the record that killed it.
    died: Lsn,
    free: bool,
    /// The port gave it back with nothing live in it, and it is not free yet.
    returning: bool,
}

/// The space of a region.
#[derive(Debug)]
pub(crate) struct Space {
    pool: Pool,
    bufs: Box<[Buf]>,
    /// Buffers without a live extent, to be looked at when the lsn is durable; in lsn order.
    dying: VecDeque<(Lsn, BufId)>,
    /// The body buffer being filled, and the first free byte in it.
    cursor: Option<(BufId, u32)>,
    /// Landing buffers with a live extent: each needs a replacement when the port has filled it.
    dirty_landing: u32,
    /// Number of buffers that are returning.
    returning: u32,
    durable: Lsn,
}

impl Space {
    pub(crate) fn new(geometry: Geometry, durable: Lsn) -> Self {
        let buf = Buf {
            owner: Owner::Nobody,
            live: 0,
            pins: 0,
            died: Lsn(0),
            free: true,
            returning: false,
        };
        Self {
            pool: Pool::new(geometry),
            bufs: vec![buf; geometry.bufs() as usize].into_boxed_slice(),
            dying: VecDeque::new(),
            cursor: None,
            dirty_landing: 0,
            returning: 0,
            durable,
        }
    }

    /// Recovery: a log segment stands here. False if something else does.
    pub(crate) fn claim_log(&mut self, segment: SegmentId) -> bool {
        let claimed = self.pool.claim_segment(segment);
        if claimed {
            self.own_segment(segment);
        }
        claimed
    }

    /// Recovery: a live record names these bytes. False if they are not there, or the log's.
    pub(crate) fn claim(&mut self, extent: Extent) -> bool {
        let Some(buf) = self.bufs.get_mut(extent.buf.0 as usize) else {
            return false;
        };
        if buf.owner == Owner::Log {
            return false;
        }
        buf.live += 1;
        if buf.free {
            buf.free = false;
            return self.pool.claim(extent.buf);
        }
        true
    }

    /// Takes a segment for the log, of the reserved ones if there is no other.
    pub(crate) fn take_log(&mut self) -> Option<SegmentId> {
        let segment = self.pool.take_segment()?;
        self.own_segment(segment);
        Some(segment)
    }

    /// Returns true if a log segment may be taken for `need`.
    pub(crate) fn has_log(&self, need: Need) -> bool {
        let (bufs, stay) = match need {
            Need::Append(bufs) => return self.fits(bufs, 1, RESERVED_SEGMENTS),
            Need::Trim => (0, RESERVED_SEGMENTS - 1),
            Need::Drain => (0, RESERVED_SEGMENTS - 2),
            Need::Move => (0, 0),
        };
        // What stays may become landing buffers, but there must be enough of it.
        self.pool.free_segments() > stay && self.fits(bufs, 1, 0)
    }

    /// Gives back a segment that the log no longer needs, unless a send holds it.
    pub(crate) fn give_log(&mut self, segment: SegmentId) -> bool {
        let bufs = Self::bufs_of(segment);
        if bufs.clone().any(|buf| self.bufs[buf.0 as usize].pins > 0) {
            return false;
        }
        for buf in bufs {
            let buf = &mut self.bufs[buf.0 as usize];
            (buf.owner, buf.free) = (Owner::Nobody, true);
        }
        self.pool.give_segment(segment);
        true
    }

    fn own_segment(&mut self, segment: SegmentId) {
        for buf in Self::bufs_of(segment) {
            let buf = &mut self.bufs[buf.0 as usize];
            (buf.owner, buf.free) = (Owner::Log, false);
        }
    }

    fn bufs_of(segment: SegmentId) -> impl Iterator<Item = BufId> + Clone {
        let first = segment.first_buf().0;
        (first..first + BUFS_PER_SEGMENT).map(BufId)
    }

    /// Takes a buffer for a port to land in.
    pub(crate) fn take_landing(&mut self) -> Option<BufId> {
        // Of the reserve, if trims have used it up so far: a port without buffers could not receive
        // the one that makes room. What was returned is free then, or was counted as dirty. What is
        // not free yet is waited for: its replacement would break up a segment of the reserve.
        let stay = if self.returning > 0 { RESERVED_SEGMENTS } else { 0 };
        if !self.fits(1, 0, stay) {
            return None;
        }
        let mut taken = [BufId(0)];
        if !self.pool.take(&mut taken) {
            return None;
        }
        let buf = &mut self.bufs[taken[0].0 as usize];
        (buf.owner, buf.free) = (Owner::Port, false);
        Some(taken[0])
    }

    /// The port will not write to the buffer any more.
    pub(crate) fn return_landing(&mut self, id: BufId) {
        let buf = &mut self.bufs[id.0 as usize];
        debug_assert_eq!(buf.owner, Owner::Port, "{id:?} is the port's");
        buf.owner = Owner::Nobody;
        if buf.live > 0 {
            self.dirty_landing -= 1;
        } else {
            buf.returning = true;
            self.returning += 1;
        }
        self.free_if_dead(id);
    }

    /// Returns how many replacements for landing buffers it would take to keep `extents`.
    pub(crate) fn replacements(&self, extents: &[Extent]) -> u32 {
        let clean = |extent: &&Extent| {
            let buf = self.bufs[extent.buf.0 as usize];
            buf.owner == Owner::Port && buf.live == 0
        };
        u32::try_from(extents.iter().filter(clean).count()).unwrap_or(u32::MAX)
    }

    /// A record names these bytes. Those where they landed are left in `landed`: they are not
    /// durable yet. Reserved ones are, and were counted when they were taken.
    pub(crate) fn keep(&mut self, extents: &[Extent], landed: &mut Vec<Extent>) {
        for extent in extents {
            let buf = &mut self.bufs[extent.buf.0 as usize];
            if buf.owner == Owner::Port {
                self.dirty_landing += u32::from(buf.live == 0);
                buf.live += 1;
                landed.push(*extent);
            }
        }
    }

    /// Takes whole blocks for a body of `len` bytes, one behind the other (D10).
    pub(crate) fn reserve(&mut self, len: u32, out: &mut Vec<Extent>) -> bool {
        let room = self.cursor.map_or(0, |(_, at)| BUF_BYTES - at);
        let fresh = len.saturating_sub(room).div_ceil(BUF_BYTES);
        if fresh > 0 && !self.can_take(fresh) {
            return false;
        }
        let mut left = len;
        while left > 0 {
            let (buf, at) = match self.cursor {
                Some((buf, at)) if at < BUF_BYTES => (buf, at),
                _ => (self.next_body_buf(), 0),
            };
            let part = left.min(BUF_BYTES - at);
            out.push(Extent { buf, offset: at, len: part });
            self.bufs[buf.0 as usize].live += 1;
            self.cursor = Some((buf, (at + part).next_multiple_of(BLOCK)));
            left -= part;
        }
        true
    }

    fn next_body_buf(&mut self) -> BufId {
        let mut taken = [BufId(0)];
        assert!(self.pool.take(&mut taken), "reserve has checked that there are enough");
        let buf = &mut self.bufs[taken[0].0 as usize];
        (buf.owner, buf.free) = (Owner::Cursor, false);
        if let Some((full, _)) = self.cursor.replace((taken[0], 0)) {
            self.bufs[full.0 as usize].owner = Owner::Nobody;
            self.free_if_dead(full);
        }
        taken[0]
    }

    /// These bytes are dead as soon as `lsn` is durable (D4); at once if no record ever named them.
    pub(crate) fn kill(&mut self, extents: &[Extent], lsn: Lsn) {
        for extent in extents {
            let buf = &mut self.bufs[extent.buf.0 as usize];
            buf.live -= 1;
            if buf.live > 0 {
                continue;
            }
            buf.died = buf.died.max(lsn);
            if buf.owner == Owner::Port {
                self.dirty_landing -= 1;
            }
            if buf.died > self.durable {
                let died = buf.died;
                self.dying.push_back((died, extent.buf));
            } else {
                self.free_if_dead(extent.buf);
            }
        }
    }

    pub(crate) fn pin(&mut self, extents: &[Extent]) {
        for extent in extents {
            self.bufs[extent.buf.0 as usize].pins += 1;
        }
    }

    pub(crate) fn unpin(&mut self, extents: &[Extent]) {
        for extent in extents {
            self.bufs[extent.buf.0 as usize].pins -= 1;
            self.free_if_dead(extent.buf);
        }
    }

    /// Everything up to `durable` is: frees what died by then.
    pub(crate) fn advance(&mut self, durable: Lsn) {
        self.durable = durable;
        while let Some((_, buf)) = self.dying.pop_front_if(|(lsn, _)| *lsn <= durable) {
            self.free_if_dead(buf);
        }
    }

    fn free_if_dead(&mut self, id: BufId) {
        let buf = &mut self.bufs[id.0 as usize];
        let dead = buf.owner == Owner::Nobody && buf.live == 0 && buf.pins == 0;
        if dead && !buf.free && buf.died <= self.durable {
            buf.free = true;
            self.returning -= u32::from(std::mem::take(&mut buf.returning));
            self.pool.give(&[id]);
        }
    }

    /// Returns true if `count` buffers can be had and the reserve and the landing buffers'
    /// replacements stay.
    pub(crate) fn can_take(&self, count: u32) -> bool {
        self.fits(count, 0, RESERVED_SEGMENTS)
    }

    /// Returns true if `bufs` buffers and `taken` whole segments can be had, and the landing
    /// buffers' replacements and `stay` whole segments are left then. Buffers of segments that are
    /// split already can be had whatever has to stay.
    fn fits(&self, bufs: u32, taken: u32, stay: u32) -> bool {
        let segments = self.pool.free_segments();
        let split = self.pool.free_bufs() - segments * BUFS_PER_SEGMENT;
        let wanted = u64::from(bufs) + u64::from(self.dirty_landing);
        let splits = wanted.saturating_sub(u64::from(split)).div_ceil(u64::from(BUFS_PER_SEGMENT));
        let whole = splits + u64::from(taken);
        whole == 0 || whole + u64::from(stay) <= u64::from(segments)
    }

    /// Returns how many buffers are free.
    pub(crate) fn free_bufs(&self) -> u32 {
        self.pool.free_bufs()
    }
}
