//! The state machine.

use impasto_region::{
    BufId, Extent, Span,
    layout::{BLOCK_BYTES, BUF_BYTES, Superblock},
};

use crate::{
    Answer, Applied, Commit, Effect, LOGS_MAX, Load, LogInfo, Lsn, Refusal, Request, Sink, Usage,
    Value,
    flight::Flight,
    format::{
        EXTENT_BYTES, EXTENTS_MAX, HEAD_BYTES, INLINE_BYTES_MAX, append_head, encode_extent,
        log_record, padded, trim_record,
    },
    logs::{Entry, Logs},
    reclaim::Reclaim,
    reserve::{Bodies, drain_promise},
    space::{Need, Space},
    tail::{Placing, Room, Tail},
};

/// One log on the medium, and the named logs in it.
///
/// Made by [`Recovery`](crate::Recovery). Not durable by itself: what [`apply`](Self::apply) does
/// is volatile until the commit that holds it is [`completed`](Self::completed) and
/// [`durable`](Self::durable) covers it.
///
/// Several workers share it behind a lock, which gives all effects one order (D3). Who takes the
/// lock for [`apply`](Self::apply) or [`seal`](Self::seal) holds it until it has read
/// [`found`](Self::found) or [`kept`](Self::kept) and has [pinned](Self::pin) what it goes on with:
/// the next caller's answer stands in the same place. Nothing else is expected between two calls; a
/// [`Load`] and reserved extents may come back by another thread.
#[derive(Debug)]
pub struct Store {
    pub(crate) superblock: Superblock,
    pub(crate) superblock_in_flight: bool,
    pub(crate) read_only: bool,
    pub(crate) logs: Logs,
    /// Newest creation of a log: a listing reads it.
    pub(crate) logs_lsn: Lsn,
    pub(crate) space: Space,
    pub(crate) tail: Tail,
    pub(crate) flight: Flight,
    pub(crate) reclaim: Reclaim,
    pub(crate) bodies: Bodies,
    /// Payload that the records of the open commit keep where it landed.
    pub(crate) kept_open: Vec<Extent>,
    /// Likewise of the commit sealed last.
    pub(crate) kept_sealed: Vec<Extent>,
    pub(crate) found: Vec<Extent>,
}

impl Store {
    /// Applies a request. Effects are in the order of calls, which is the order of lsns (D3).
    ///
    /// # Durability
    /// Volatile. The reply may leave when [`durable`](Self::durable) has reached the effect's lsn.
    ///
    /// # Panics
    /// If a value breaks the limits of [`Value`], or keeps bytes that are not of the region.
    pub fn apply(&mut self, request: Request<'_>, sink: &mut impl Sink) -> Applied {
        match request {
            Request::Append { log, value } => self.append(log, value, sink),
            Request::Read { log, seq } => self.read(log, seq),
            Request::Trim { log, before } => self.trim(log, before, sink),
            Request::Describe { log } => match self.logs.find(log) {
                None => refused(self.logs_lsn, Refusal::NoSuchLog),
                Some(log) => {
                    let log = self.logs.get(log);
                    self.shown(log.changed, Answer::Described(log.info()))
                }
            },
        }
    }

    fn append(&mut self, name: &str, value: Value<'_>, sink: &mut impl Sink) -> Applied {
        let log = self.logs.find(name);
        let (room, placing) = match self.room_for(name, log, value) {
            Err(refusal) => return refused(Lsn(0), refusal),
            Ok(room) => room,
        };
        match room {
            Room::Full => return refused(Lsn(0), Refusal::NoSpace),
            Room::Seal => return Applied::Wait,
            Room::Here => self.tail.open(placing.bytes, &mut self.space),
        }
        if placing.fulfils > 0
            && let Value::Kept { extents, .. } = value
            && self.bodies.end(extents, &mut self.tail)
        {
            self.space.end_growth(extents);
        }
        self.tail.promise(placing.promises);
        let log = log.unwrap_or_else(|| self.create_log(name, sink));
        let seq = self.logs.get(log).next;
        let lsn = match value {
            Value::Inline { len, checksum } => self.append_inline(log, seq, len, checksum, sink),
            Value::Kept { extents, checksum } => {
                self.append_kept(log, seq, extents, checksum, sink)
            }
        };
        self.tail.segment_of(lsn).live += 1;
        done(lsn, Answer::Appended { seq })
    }

    /// Nothing may be half-made: all that an append takes is asked for before its first effect.
    pub(crate) fn room_for(
        &self,
        name: &str,
        log: Option<u32>,
        value: Value<'_>,
    ) -> Result<(Room, Placing), Refusal> {
        if self.read_only {
            return Err(Refusal::ReadOnly);
        }
        if log.is_none() && self.logs.len() == LOGS_MAX {
            return Err(Refusal::TooManyLogs);
        }
        let (tail, need, fulfils) = match value {
            Value::Inline { len, .. } => {
                assert!(len <= INLINE_BYTES_MAX, "an inline value has at most 64 KiB");
                (len as usize, Need::Append(0), 0)
            }
            Value::Kept { extents, .. } => {
                assert!(extents.len() <= EXTENTS_MAX, "a value has at most {EXTENTS_MAX} extents");
                let tail = extents.len() * EXTENT_BYTES;
                match self.bodies.promised(extents) {
                    0 => (tail, Need::Append(self.space.replacements(extents)), 0),
                    promised => (tail, Need::Promised, promised),
                }
            }
        };
        let create = if log.is_none() { padded((HEAD_BYTES + name.len()) as u64) } else { 0 };
        let bytes = create + padded((HEAD_BYTES + tail) as u64);
        let is_empty = log.is_none_or(|log| self.logs.get(log).is_empty());
        let promises = if is_empty { drain_promise(&self.tail) } else { 0 };
        let placing = Placing { need, bytes, fulfils, promises };
        Ok((self.tail.room(placing, &self.space), placing))
    }

    fn create_log(&mut self, name: &str, sink: &mut impl Sink) -> u32 {
        let (record, bytes) = log_record(self.logs.len(), 1, 1, name);
        let (lsn, at) = self.tail.place(bytes as u64, sink);
        sink.put(at, &record[..bytes]);
        self.tail.segment_of(lsn).state += 1;
        self.reclaim.state_added(bytes as u64);
        self.logs_lsn = lsn;
        self.logs.create(name, lsn)
    }

    fn append_inline(
        &mut self,
        log: u32,
        seq: u64,
        len: u32,
        checksum: u64,
        sink: &mut impl Sink,
    ) -> Lsn {
        let bytes = HEAD_BYTES as u64 + u64::from(len);
        let (lsn, at) = self.tail.place(bytes, sink);
        sink.put(at, &append_head(log, seq, checksum, len, None));
        sink.put_value(at + HEAD_BYTES as u64);
        let entry = Entry::new(lsn, checksum, len, true, false);
        self.reclaim.append_added(entry.record_bytes());
        let value = Span::new(at + HEAD_BYTES as u64, u64::from(len));
        self.logs.get_mut(log).push(entry, extents_of(value));
        lsn
    }

    fn append_kept(
        &mut self,
        log: u32,
        seq: u64,
        extents: &[Extent],
        checksum: u64,
        sink: &mut impl Sink,
    ) -> Lsn {
        let len = extents.iter().map(|extent| extent.len).sum();
        let bytes = (HEAD_BYTES + extents.len() * EXTENT_BYTES) as u64;
        let (lsn, at) = self.tail.place(bytes, sink);
        let head = append_head(log, seq, checksum, len, Some(extents.len()));
        if let [extent] = extents {
            // Nearly all have one: then the record is put as a whole.
            let mut record = [0; HEAD_BYTES + EXTENT_BYTES];
            record[..HEAD_BYTES].copy_from_slice(&head);
            record[HEAD_BYTES..].copy_from_slice(&encode_extent(*extent));
            sink.put(at, &record);
        } else {
            sink.put(at, &head);
            for (n, extent) in (0..).zip(extents) {
                let at = at + HEAD_BYTES as u64 + n * EXTENT_BYTES as u64;
                sink.put(at, &encode_extent(*extent));
            }
        }
        self.space.keep(extents, &mut self.kept_open);
        let entry = Entry::new(lsn, checksum, len, false, false);
        self.logs.get_mut(log).push(entry, extents.iter().copied());
        let count = extents.len();
        self.reclaim.append_added(padded((HEAD_BYTES + count * EXTENT_BYTES) as u64));
        lsn
    }

    fn read(&mut self, name: &str, seq: u64) -> Applied {
        let Some(id) = self.logs.find(name) else {
            return refused(self.logs_lsn, Refusal::NoSuchLog);
        };
        let log = self.logs.get(id);
        let Some(entry) = log.entry(seq) else {
            let LogInfo { first, next, .. } = log.info();
            let refusal =
                if seq < first { Refusal::Trimmed { first } } else { Refusal::Future { next } };
            return refused(log.changed, refusal);
        };
        log.extents(entry, &mut self.found);
        if entry.unread {
            return Applied::Needs(Load { log: id, seq, checksum: entry.checksum });
        }
        self.shown(entry.lsn, Answer::Found { len: entry.len, checksum: entry.checksum })
    }

    fn trim(&mut self, name: &str, before: u64, sink: &mut impl Sink) -> Applied {
        let Some(id) = self.logs.find(name) else {
            return refused(self.logs_lsn, Refusal::NoSuchLog);
        };
        let log = self.logs.get(id);
        let first = before.min(log.next);
        if first <= log.first {
            return self.shown(log.changed, Answer::Trimmed(log.info()));
        }
        if self.read_only {
            return refused(Lsn(0), Refusal::ReadOnly);
        }
        let record = trim_record(id, first);
        let bytes = record.len() as u64;
        let (need, fulfils) = if first == log.next {
            (Need::Promised, drain_promise(&self.tail))
        } else {
            (Need::Trim, 0)
        };
        match self.tail.room(Placing { need, bytes, fulfils, promises: 0 }, &self.space) {
            Room::Full if first == log.next => return refused(Lsn(0), Refusal::NoSpace),
            Room::Full => return refused(Lsn(0), Refusal::NoSpaceToTrim),
            Room::Seal => return Applied::Wait,
            Room::Here => self.tail.open(bytes, &mut self.space),
        }
        self.tail.release(fulfils);
        let (lsn, at) = self.tail.place(bytes, sink);
        sink.put(at, &record);
        let log = self.logs.get_mut(id);
        (log.changed, log.trimmed) = (lsn, lsn);
        let before = log.trim.replace(lsn);
        self.tail.segment_of(lsn).state += 1;
        match before {
            Some(before) => self.state_died(before, lsn),
            None => self.reclaim.state_added(bytes),
        }
        self.kill_below(id, first);
        done(lsn, Answer::Trimmed(self.logs.get(id).info()))
    }

    /// The state or trim record `old` was superseded by `lsn`.
    pub(crate) fn state_died(&mut self, old: Lsn, lsn: Lsn) {
        let segment = self.tail.segment_of(old);
        segment.state -= 1;
        segment.died = segment.died.max(lsn);
    }

    /// D7: what may never become durable is not shown once the medium has failed.
    fn shown(&self, lsn: Lsn, answer: Answer) -> Applied {
        if self.read_only && lsn > self.durable() {
            return refused(Lsn(0), Refusal::ReadOnly);
        }
        done(lsn, answer)
    }

    /// Returns where the value of the last [`Answer::Found`] or [`Applied::Needs`] is, until the
    /// next [`apply`](Self::apply).
    pub fn found(&self) -> &[Extent] {
        &self.found
    }

    /// The value that a [`Load`] asked for is in its frames and was verified: it can be found from
    /// now on.
    pub fn loaded(&mut self, load: Load) {
        self.logs.get_mut(load.log).seen(load.seq);
    }

    /// A send or a read holds the buffers of `extents`: they are not used again before
    /// [`unpin`](Self::unpin) (D4).
    pub fn pin(&mut self, extents: &[Extent]) {
        self.space.pin(extents);
    }

    /// Ends a [`pin`](Self::pin) of the same extents.
    pub fn unpin(&mut self, extents: &[Extent]) {
        self.space.unpin(extents);
    }

    /// Takes a buffer of the region for a port to land in; `None` if the region is full. Of the
    /// reserve only if the port has none, `is_first`: it could not receive the trim that makes
    /// room.
    pub fn take_landing(&mut self, is_first: bool) -> Option<BufId> {
        self.space.take_landing(self.tail.promised_segments(), is_first)
    }

    /// The port will not write to `buf` any more: it is free, or kept for what is live in it.
    pub fn return_landing(&mut self, buf: BufId) {
        self.space.return_landing(buf);
    }

    /// Returns what the buffers are used for.
    pub fn usage(&self) -> Usage {
        self.space.usage()
    }

    /// Returns the names of all logs.
    pub fn logs(&self) -> impl Iterator<Item = &str> {
        self.logs.iter().map(|log| &*log.name)
    }

    /// Returns the lsn that a listing of the logs reads.
    pub fn logs_lsn(&self) -> Lsn {
        self.logs_lsn
    }

    /// Returns the bytes that a commit would have if it was sealed now; 0 if there is nothing to
    /// commit.
    pub fn open_bytes(&self) -> u64 {
        self.tail.open_bytes()
    }

    /// Closes the open commit, if there is one. The medium makes it durable, after
    /// [`kept`](Self::kept).
    pub fn seal(&mut self, sink: &mut impl Sink) -> Option<Commit> {
        let flight = &mut self.flight;
        let durable = flight.durable();
        let commit = self.tail.seal(|last, needed| flight.push(last, needed), durable, sink)?;
        std::mem::swap(&mut self.kept_open, &mut self.kept_sealed);
        self.kept_open.clear();
        Some(commit)
    }

    /// Returns the payload that the records of the last sealed commit keep where it landed (D1).
    pub fn kept(&self) -> &[Extent] {
        &self.kept_sealed
    }

    /// A commit is on the medium, or could not be written, which is never retried (D7).
    ///
    /// # Panics
    /// If no such commit is in flight.
    pub fn completed(&mut self, commit: u64, ok: bool) {
        if !ok {
            self.fail();
        }
        if self.read_only {
            return;
        }
        if let Some(needed) = self.flight.complete(commit) {
            self.tail.needed_durable(needed);
        }
        self.advance();
    }

    /// Returns the lsn up to which every effect is durable (D8). It stands still once the medium
    /// has failed.
    pub fn durable(&self) -> Lsn {
        self.flight.durable()
    }

    /// Returns the lsn of the last record.
    pub fn last_lsn(&self) -> Lsn {
        self.tail.last_lsn()
    }

    /// Returns how many segments would have to be free besides, for a region that goes
    /// [on another medium](crate::Recovery::on): what is set aside there for the trims that empty
    /// its logs may be more than what was set aside before. It is not served as long as it is not
    /// 0, since it could be full for good.
    pub fn segments_missing(&self) -> u32 {
        self.space.missing(self.tail.promised_segments())
    }

    /// The medium has failed: nothing more is acknowledged, and reads of what is durable go on
    /// (D7).
    pub fn fail(&mut self) {
        self.read_only = true;
    }

    /// Returns true once the medium has failed.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

fn done(lsn: Lsn, answer: Answer) -> Applied {
    Applied::Done(Effect { lsn, answer: Ok(answer) })
}

fn refused(lsn: Lsn, refusal: Refusal) -> Applied {
    Applied::Done(Effect { lsn, answer: Err(refusal) })
}

/// Returns a span of the region's buffers as extents, cut where buffers end.
pub(crate) fn extents_of(span: Span) -> impl Iterator<Item = Extent> {
    let buf_bytes = u64::from(BUF_BYTES);
    let mut left = Span::new(span.at - BLOCK_BYTES, span.len);
    std::iter::from_fn(move || {
        let offset = left.at % buf_bytes;
        let len = left.len.min(buf_bytes - offset);
        let buf = BufId(u32::try_from(left.at / buf_bytes).ok()?);
        left = Span::new(left.at + len, left.len - len);
        let (offset, len) = (u32::try_from(offset).ok()?, u32::try_from(len).ok()?);
        (len > 0).then_some(Extent { buf, offset, len })
    })
}
