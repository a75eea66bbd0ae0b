//! Who uses which buffer, and when it is free again (D4, D5).
//!
//! Nothing of this is on the medium: recovery derives it from the log. A buffer has an owner that
//! may still write to it (a port, or long bodies), a number of live extents in it, and a number of
//! pins (sends and reads under way). It is free when it has none of the three and the record that
//! killed its last extent is durable.

use std::collections::VecDeque;

use impasto_region::{
    BufId, Extent, Pool, SegmentId,
    layout::{BLOCK_BYTES, BUF_BYTES, BUFS_PER_SEGMENT, Geometry},
};

use crate::{Lsn, Usage};

#[expect(clippy::cast_possible_truncation, reason = "a block is 4 KiB")]
const BLOCK: u32 = BLOCK_BYTES as u32;
/// Segments that only trims and reclamation may take, so that a full region can be emptied: one for
/// trims that leave records, of which there can be any number, and two for reclamation, which moves
/// at most what stands in one segment before it frees that. Trims that empty a log have room set
/// aside for each, see [`Tail::promise`](crate::tail::Tail::promise).
const RESERVED_SEGMENTS: u32 = 3;
/// Most buffers that are kept open for bodies to come.
pub(crate) const OPEN_MAX: usize = 16;

/// Who asks for room in the log. The later ones may take what the earlier ones have to leave (D10).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// An append that also takes so many buffers.
    Append(u32),
    /// A trim that leaves records.
    Trim,
    /// Reclamation.
    Move,
    /// One for whom it was set aside.
    Promised,
}

/// Whole segments for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    /// Set aside so far.
    pub(crate) held: u32,
    /// Taken or set aside from now on, besides.
    pub(crate) more: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Free, or only kept by what is live in it.
    Nobody,
    /// A port lands bytes in it.
    Port,
    /// It is [`open`](Space::open): long bodies are placed in it.
    Open,
    /// A body that grows is placed in it, and no other.
    Body,
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
    /// Buffers without a live extent, to be looked at when the lsn is durable. About in lsn order:
    /// one that comes late waits for those before.
    dying: VecDeque<(Lsn, BufId)>,
    /// Body buffers with room behind what stands in them, and where it starts; the last one is
    /// filled next.
    open: Vec<(BufId, u32)>,
    /// Landing buffers with a live extent: each needs a replacement when the port has filled it.
    dirty_landing: u32,
    /// Number of buffers that are returning.
    returning: u32,
    /// Number of buffers that are the log's, and a port's.
    log: u32,
    landing: u32,
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
            open: Vec::with_capacity(OPEN_MAX + 1),
            dirty_landing: 0,
            returning: 0,
            log: 0,
            landing: 0,
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

    /// Returns the buffers that are not free.
    pub(crate) fn used_bufs(&self) -> impl Iterator<Item = BufId> {
        let numbered = (0..).map(BufId).zip(&self.bufs);
        numbered.filter(|(_, buf)| !buf.free).map(|(id, _)| id)
    }

    /// Takes a segment for the log, of the reserved ones if there is no other.
    pub(crate) fn take_log(&mut self) -> Option<SegmentId> {
        let segment = self.pool.take_segment()?;
        self.own_segment(segment);
        Some(segment)
    }

    /// Returns true if log segments may be taken or set aside for `need`.
    pub(crate) fn has_log(&self, need: Need, segments: Segments) -> bool {
        let stay = match need {
            Need::Append(bufs) if bufs > 0 || segments.more > 0 => {
                return self.fits(bufs, segments, RESERVED_SEGMENTS);
            }
            Need::Append(_) | Need::Promised => return true,
            Need::Trim => RESERVED_SEGMENTS - 1,
            Need::Move => 0,
        };
        // What stays may become landing buffers, but there must be enough of it.
        let all = segments.held + segments.more + stay;
        segments.more == 0 || all <= self.pool.free_segments() && self.fits(0, segments, 0)
    }

    /// Gives back a segment that the log no longer needs, unless a send holds it.
    pub(crate) fn give_log(&mut self, segment: SegmentId) -> bool {
        let bufs = Self::bufs_of(segment);
        if bufs.clone().any(|buf| self.bufs[buf.0 as usize].pins > 0) {
            return false;
        }
        self.log -= BUFS_PER_SEGMENT;
        for buf in bufs {
            let buf = &mut self.bufs[buf.0 as usize];
            (buf.owner, buf.free) = (Owner::Nobody, true);
        }
        self.pool.give_segment(segment);
        true
    }

    fn own_segment(&mut self, segment: SegmentId) {
        self.log += BUFS_PER_SEGMENT;
        for buf in Self::bufs_of(segment) {
            let buf = &mut self.bufs[buf.0 as usize];
            (buf.owner, buf.free) = (Owner::Log, false);
        }
    }

    fn bufs_of(segment: SegmentId) -> impl Iterator<Item = BufId> + Clone {
        let first = segment.first_buf().0;
        (first..first + BUFS_PER_SEGMENT).map(BufId)
    }

    /// Takes a buffer for a port to land in; `held` segments are set aside for the log.
    pub(crate) fn take_landing(&mut self, held: u32, is_first: bool) -> Option<BufId> {
        // Of the reserve, if trims have used it up so far: a port without buffers could not receive
        // the one that makes room. What was returned is free then, or was counted as dirty. What is
        // not free yet is waited for: its replacement would break up a segment of the reserve.
        let stay = if is_first && self.returning == 0 { 0 } else { RESERVED_SEGMENTS };
        if !self.fits(1, Segments { held, more: 0 }, stay) {
            return None;
        }
        let mut taken = [BufId(0)];
        if !self.pool.take(&mut taken) {
            return None;
        }
        let buf = &mut self.bufs[taken[0].0 as usize];
        (buf.owner, buf.free) = (Owner::Port, false);
        self.landing += 1;
        Some(taken[0])
    }

    /// The port will not write to the buffer any more.
    pub(crate) fn return_landing(&mut self, id: BufId) {
        let buf = &mut self.bufs[id.0 as usize];
        debug_assert_eq!(buf.owner, Owner::Port, "{id:?} is the port's");
        buf.owner = Owner::Nobody;
        self.landing -= 1;
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
        let clean = |&(index, extent): &(usize, &Extent)| {
            let buf = self.bufs[extent.buf.0 as usize];
            let counts = buf.owner == Owner::Port && buf.live == 0;
            // Most often it is the piece before that is in the same buffer.
            counts && !extents[..index].iter().rev().any(|before| before.buf == extent.buf)
        };
        u32::try_from(extents.iter().enumerate().filter(clean).count()).expect("at most 1,024")
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

    /// Returns how many more buffers a body of `len` bytes takes.
    pub(crate) fn bufs_for(&self, len: u32) -> u32 {
        let room: u32 = self.open.iter().map(|(_, at)| BUF_BYTES - at).sum();
        len.saturating_sub(room).div_ceil(BUF_BYTES)
    }

    /// Takes whole blocks for a body of `len` bytes, for which there are buffers (D10).
    pub(crate) fn reserve(&mut self, len: u32, out: &mut Vec<Extent>) {
        let mut left = len;
        while left > 0 {
            let (buf, at) = self.open.pop().unwrap_or_else(|| (self.take_body_buf(), 0));
            let part = left.min(BUF_BYTES - at);
            out.push(Extent { buf, offset: at, len: part });
            self.bufs[buf.0 as usize].live += 1;
            self.keep_open(buf, at + part);
            left -= part;
        }
    }

    /// Returns how many more buffers a body takes that grows by `more` bytes.
    pub(crate) fn bufs_to_grow(&self, more: u32, body: &[Extent]) -> u32 {
        let room = match body.last() {
            Some(last) => BUF_BYTES - last.offset - last.len,
            None => self.open.last().map_or(0, |(_, at)| BUF_BYTES - at),
        };
        more.saturating_sub(room).div_ceil(BUF_BYTES)
    }

    /// Takes `more` bytes for a body that grows, for which there are buffers (D10). But for the
    /// first one, which others may have begun, they are its own as long as it grows: so it has at
    /// most one extent for each 256 KiB, and one more, however many grow beside it.
    pub(crate) fn grow(&mut self, more: u32, body: &mut Vec<Extent>) {
        let mut left = more;
        while left > 0 {
            if body.last().is_none_or(|last| last.offset + last.len == BUF_BYTES) {
                let begun = if body.is_empty() { self.open.pop() } else { None };
                let (buf, offset) = begun.unwrap_or_else(|| (self.take_body_buf(), 0));
                let buffer = &mut self.bufs[buf.0 as usize];
                (buffer.owner, buffer.live) = (Owner::Body, buffer.live + 1);
                body.push(Extent { buf, offset, len: 0 });
            }
            let last = body.last_mut().expect("there is one now");
            let owner = self.bufs[last.buf.0 as usize].owner;
            assert_eq!(owner, Owner::Body, "a body that grows has grown from its start");
            let part = left.min(BUF_BYTES - last.offset - last.len);
            last.len += part;
            left -= part;
        }
    }

    /// A body is `len` bytes long, no longer.
    pub(crate) fn cut(&mut self, len: u32, body: &mut Vec<Extent>) {
        let mut left = len;
        let mut stay = 0;
        for extent in body.iter_mut() {
            if left == 0 {
                break;
            }
            extent.len = extent.len.min(left);
            left -= extent.len;
            stay += 1;
        }
        self.unreserve(&body[stay..], true);
        body.truncate(stay);
    }

    /// Gives back what was taken for a body, one that grows or not.
    pub(crate) fn unreserve(&mut self, extents: &[Extent], grows: bool) {
        for extent in extents.iter().filter(|_| grows) {
            self.leave(extent.buf, extent.offset);
        }
        self.kill(extents, Lsn(0));
    }

    /// A body that could grow is complete: what is behind it serves others.
    pub(crate) fn end_growth(&mut self, body: &[Extent]) {
        for extent in body {
            self.leave(extent.buf, extent.offset + extent.len);
        }
    }

    /// A body that grows leaves a buffer to others from `at` on.
    fn leave(&mut self, buf: BufId, at: u32) {
        self.bufs[buf.0 as usize].owner = Owner::Nobody;
        // If nothing stands before it, the buffer is free at once.
        if at > 0 {
            self.keep_open(buf, at);
        }
    }

    fn take_body_buf(&mut self) -> BufId {
        let mut taken = [BufId(0)];
        assert!(self.pool.take(&mut taken), "the caller has checked that there are enough");
        self.bufs[taken[0].0 as usize].free = false;
        taken[0]
    }

    /// Bodies to come may be placed from `at` on in a body buffer.
    fn keep_open(&mut self, buf: BufId, at: u32) {
        let at = at.next_multiple_of(BLOCK);
        if at == BUF_BYTES {
            self.bufs[buf.0 as usize].owner = Owner::Nobody;
            return;
        }
        self.bufs[buf.0 as usize].owner = Owner::Open;
        self.open.push((buf, at));
        if self.open.len() > OPEN_MAX {
            let least = self.open.iter().enumerate().max_by_key(|(_, (_, at))| *at);
            let (least, _) = least.expect("there are some");
            let (least, _) = self.open.remove(least);
            self.bufs[least.0 as usize].owner = Owner::Nobody;
            self.free_if_dead(least);
        }
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
        let unowned = matches!(buf.owner, Owner::Nobody | Owner::Open);
        let dead = unowned && buf.live == 0 && buf.pins == 0;
        if dead && !buf.free && buf.died <= self.durable {
            if buf.owner == Owner::Open {
                self.open.retain(|(open, _)| *open != id);
            }
            (buf.owner, buf.free) = (Owner::Nobody, true);
            self.returning -= u32::from(std::mem::take(&mut buf.returning));
            self.pool.give(&[id]);
        }
    }

    /// Returns true if `bufs` buffers and `segments` can be had, and the landing buffers'
    /// replacements and `stay` whole segments are left then. Buffers of segments that are split
    /// already can be had whatever has to stay.
    fn fits(&self, bufs: u32, segments: Segments, stay: u32) -> bool {
        let free = self.pool.free_segments();
        let split = self.pool.free_bufs() - free * BUFS_PER_SEGMENT;
        let wanted = u64::from(bufs) + u64::from(self.dirty_landing);
        let splits = wanted.saturating_sub(u64::from(split)).div_ceil(u64::from(BUFS_PER_SEGMENT));
        let whole = splits + u64::from(segments.more);
        whole == 0 || whole + u64::from(segments.held) + u64::from(stay) <= u64::from(free)
    }

    /// Returns true if a segment of the log can be taken by one for whom it was set aside.
    pub(crate) fn has_segment(&self) -> bool {
        self.pool.free_segments() > 0
    }

    /// Returns how many segments are missing if `held` are set aside for the log.
    pub(crate) fn missing(&self, held: u32) -> u32 {
        (held + RESERVED_SEGMENTS).saturating_sub(self.pool.free_segments())
    }

    /// Returns what the buffers are used for.
    pub(crate) fn usage(&self) -> Usage {
        let (free, log, landing) = (self.pool.free_bufs(), self.log, self.landing);
        let all = u32::try_from(self.bufs.len()).expect("buffers have a u32 for a name");
        Usage { free, log, landing, kept: all - free - log - landing }
    }

    /// Returns how many buffers are free.
    pub(crate) fn free_bufs(&self) -> u32 {
        self.pool.free_bufs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value in many pieces of one landing buffer takes one replacement. Counted piece by piece,
    /// it would be refused by a region that has room for it.
    #[test]
    fn a_landing_buffer_is_replaced_once() {
        let mut space = Space::new(Geometry::new(16 << 20).unwrap(), Lsn(0));
        let [one, other] = [(); 2].map(|()| space.take_landing(0, true).unwrap());
        let piece = |buf, offset| Extent { buf, offset, len: 100 };
        let pieces = [piece(one, 0), piece(other, 0), piece(one, 200), piece(other, 200)];
        assert_eq!(space.replacements(&pieces), 2);
        space.keep(&pieces[..1], &mut Vec::new());
        assert_eq!(space.replacements(&pieces), 1);
    }
}
