//! Room for bodies under way, and for their records (D10).
//!
//! A body that has been taken to its end must find room in the log, too. So the log room of its
//! record is set aside when its first blocks are, and with it that of the trim which empties the
//! log again, in case that is empty now. The promise is known by the body's first extent: it goes
//! with the extents, so it ends when they are appended or given back, and cannot be used twice.

use std::collections::HashMap;

use impasto_region::{BufId, Extent, layout::BUF_BYTES};

use crate::{
    LOG_NAME_BYTES_MAX, Refusal, Store, Value,
    format::{EXTENT_BYTES, EXTENTS_MAX, HEAD_BYTES, INLINE_BYTES_MAX, TRIM_BYTES, padded},
    space::{Need, OPEN_MAX},
    tail::{Room, Tail},
};

/// Most bytes of a body that blocks are reserved for.
pub const BODY_BYTES_MAX: u32 = 128 << 20;
const _: () = assert!((BODY_BYTES_MAX / BUF_BYTES) as usize + OPEN_MAX < EXTENTS_MAX);

/// Bodies under way.
#[derive(Debug, Default)]
pub(crate) struct Bodies(HashMap<(BufId, u32), UnderWay>);

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    /// Bytes of the log that are set aside for its record.
    promised: u64,
    /// Its last buffer is its own.
    grows: bool,
}

impl Bodies {
    /// Returns what is set aside for the record of a body; 0 if it was not reserved.
    pub(crate) fn promised(&self, body: &[Extent]) -> u64 {
        key(body).and_then(|key| self.0.get(&key)).map_or(0, |body| body.promised)
    }

    /// Sets room aside for a body as it is now, instead of what was before.
    fn set(&mut self, body: &[Extent], grows: bool, tail: &mut Tail) {
        let promised = promise(body.len(), tail);
        let key = key(body).expect("a reserved body is not empty");
        let before = self.0.insert(key, UnderWay { promised, grows });
        tail.release(before.map_or(0, |before| before.promised));
        tail.promise(promised);
    }

    /// The body was appended, or given back. Returns true if it could grow.
    pub(crate) fn end(&mut self, body: &[Extent], tail: &mut Tail) -> bool {
        let body = key(body).and_then(|key| self.0.remove(&key));
        tail.release(body.map_or(0, |body| body.promised));
        body.is_some_and(|body| body.grows)
    }
}

fn key(body: &[Extent]) -> Option<(BufId, u32)> {
    body.first().map(|first| (first.buf, first.offset))
}

impl Store {
    /// Returns whether a value of `len` bytes could be appended to `log` now, as far as can be told
    /// before its body has been taken (D10).
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, log: &str, len: u32) -> Result<(), Refusal> {
        let value = Value::Inline { len: len.min(INLINE_BYTES_MAX), checksum: 0 };
        match self.room_for(log, self.logs.find(log), value)? {
            (Room::Full, _) => Err(Refusal::NoSpace),
            (Room::Seal | Room::Here, _) => Ok(()),
        }
    }

    /// Takes whole blocks for a body of `len` bytes and leaves them in `out`, and sets room in the
    /// log aside for its record (D10). They are the caller's until an append keeps them, which is
    /// then not refused for space, or [`unreserve`](Self::unreserve).
    ///
    /// # Errors
    /// [`Refusal::NoSpace`] or [`Refusal::ReadOnly`]; then `out` is empty.
    ///
    /// # Panics
    /// If the body is longer than [`BODY_BYTES_MAX`].
    pub fn reserve(&mut self, len: u32, out: &mut Vec<Extent>) -> Result<(), Refusal> {
        assert!(len <= BODY_BYTES_MAX, "a body has at most {BODY_BYTES_MAX} bytes");
        out.clear();
        let bufs = self.space.bufs_for(len);
        self.has_room(out, bufs, bufs as usize + OPEN_MAX)?;
        if len > 0 {
            self.space.reserve(len, out);
            self.bodies.set(out, false, &mut self.tail);
        }
        Ok(())
    }

    /// Takes room for `more` bytes of a body whose length is not known, and adds it to `body`,
    /// empty at first. Otherwise as [`reserve`](Self::reserve). Before the append
    /// [`cut`](Self::cut) gives back what was too much. Blocks can be persisted as they fill:
    /// nobody else writes to them.
    ///
    /// # Errors
    /// [`Refusal::NoSpace`] or [`Refusal::ReadOnly`]; then `body` is as it was.
    ///
    /// # Panics
    /// If the body gets longer than [`BODY_BYTES_MAX`], or is one of [`reserve`](Self::reserve).
    pub fn grow(&mut self, more: u32, body: &mut Vec<Extent>) -> Result<(), Refusal> {
        let before: u32 = body.iter().map(|extent| extent.len).sum();
        let fits = before.checked_add(more).is_some_and(|len| len <= BODY_BYTES_MAX);
        assert!(fits, "a body has at most {BODY_BYTES_MAX} bytes");
        let bufs = self.space.bufs_to_grow(more, body);
        self.has_room(body, bufs, body.len() + bufs as usize + 1)?;
        if more > 0 {
            self.space.grow(more, body);
            self.bodies.set(body, true, &mut self.tail);
        }
        Ok(())
    }

    /// A body that [grows](Self::grow) is `len` bytes long: gives back what was taken beyond.
    pub fn cut(&mut self, len: u32, body: &mut Vec<Extent>) {
        if len == 0 || body.is_empty() {
            self.unreserve(body);
            return body.clear();
        }
        self.space.cut(len, body);
        self.bodies.set(body, true, &mut self.tail);
    }

    /// Gives back what [`reserve`](Self::reserve) or [`grow`](Self::grow) took: there will be no
    /// append.
    pub fn unreserve(&mut self, extents: &[Extent]) {
        let grows = self.bodies.end(extents, &mut self.tail);
        self.space.unreserve(extents, grows);
    }

    /// Returns how many bytes of the log are set aside: for the records of bodies under way, and
    /// for the trims that empty each log that is not empty.
    pub fn promised_bytes(&self) -> u64 {
        self.tail.promised()
    }

    /// Returns whether `body` may have `bufs` more buffers, and then at most so many extents.
    fn has_room(&self, body: &[Extent], bufs: u32, extents: usize) -> Result<(), Refusal> {
        if self.read_only {
            return Err(Refusal::ReadOnly);
        }
        let more = promise(extents, &self.tail).saturating_sub(self.bodies.promised(body));
        let has_room = self.space.has_log(Need::Append(bufs), self.tail.promising(more));
        if has_room { Ok(()) } else { Err(Refusal::NoSpace) }
    }
}

/// Returns what has to be set aside for the record of a body of so many extents: also for the
/// creation of its log, and for the trim that empties that log.
fn promise(extents: usize, tail: &Tail) -> u64 {
    let create = padded((HEAD_BYTES + LOG_NAME_BYTES_MAX) as u64);
    let append = padded((HEAD_BYTES + extents * EXTENT_BYTES) as u64);
    tail.promise_bytes(create + append) + drain_promise(tail)
}

/// Returns what is set aside for the trim that empties a log, as long as that is not empty: without
/// it, full regions of many logs could not be emptied log by log. Each trim is durable before its
/// reply, so it may take a commit of its own, and one record of the log that is trimmed last can
/// keep all of the space that those before would set free.
pub(crate) fn drain_promise(tail: &Tail) -> u64 {
    tail.promise_bytes(TRIM_BYTES as u64)
}
