//! Bodies of appends: where they go, and how they get there.
//!
//! ```text
//! up to 512 B on shm, 64 KiB on disk   collected, to stand in the record
//! up to 64 KiB on shm                  kept where it landed
//! above                                copied to reserved blocks, or received there; what is full
//!                                      is written at once, and all of it is durable before the
//!                                      record is appended
//! length unknown (chunked)             collected up to 64 KiB, then in blocks taken as it grows
//! ```

use impasto_media::Medium;
use impasto_region::{
    Checksum, Extent,
    layout::{BLOCK_BYTES, BUF_BYTES},
};
use impasto_ring::Port;
use impasto_store::{Lsn, Refusal};

use crate::{
    Enter,
    config::{INLINE_BYTES_MAX, PIECES_MAX},
    engine::Engine,
    flow::{Body, Flow, Input, Opening, Parked, Place, Rest, SpaceWait},
    http::{
        Chunks, Fault, Framing, Link, Piece,
        digest::{MISMATCH, Verifier},
        reply,
    },
    input::{TOO_LONG, past_body},
    jobs::Job,
    placer::Arrived,
};

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Begins an append, if there is space for it. So many bytes behind its head have come.
    pub(crate) fn open_body(&mut self, flow: &mut Flow, mut opening: Opening, come: usize) {
        match self.place_body(&opening, come) {
            Ok(mut body) => {
                let expected = opening.expected.take();
                body.verifier = expected.map(|expected| Box::new(Verifier::new(*expected)));
                let is_empty = matches!(body.rest, Rest::Counted(0));
                // No byte of the body has come: its sender waits to be told.
                if opening.expects_continue && !is_empty && come == 0 {
                    let write = |out: &mut Vec<u8>| out.extend_from_slice(reply::CONTINUE);
                    self.send(flow, Lsn(0), &[], write);
                }
                (flow.since, flow.heard) = (self.own.now, self.own.now);
                flow.input = Input::Body(body);
                if is_empty {
                    let mut nothing = Arrived::NONE;
                    self.take_body(flow, &mut nothing);
                }
            }
            Err(Refusal::NoSpace) if self.space_may_come(&mut opening.wait) => {
                flow.input = Input::Opening(opening);
                self.park(flow, Parked::Medium);
            }
            Err(refusal) => {
                let Opening { link, len, expects_continue, .. } = opening;
                let framing = len.map_or(Framing::Chunked, |len| Framing::Length(u64::from(len)));
                let (link, skip) = past_body(framing, expects_continue, link);
                self.answer_fault(flow, refusal.into(), link, false);
                self.go_on(flow, link, skip);
            }
        }
    }

    /// Decides where the body of an append goes, and takes the room for it (D10).
    fn place_body(&mut self, opening: &Opening, come: usize) -> Result<Body, Refusal> {
        let Opening { log, link, len, wait, .. } = *opening;
        let profile = self.core.medium.profile();
        let reserved = len.filter(|len| *len > INLINE_BYTES_MAX);
        let in_log = if reserved.is_some() { 0 } else { len.unwrap_or(0) };
        // Of one that is there as a whole the append itself will say so, in a moment.
        let is_whole = reserved.is_none() && len.is_some_and(|len| len as usize <= come);
        if !is_whole {
            self.core.store.admits(log.as_str(), in_log)?;
        }
        let place = if let Some(len) = reserved {
            let mut extents = self.own.pools.extents();
            if let Err(refusal) = self.core.store.reserve(len, &mut extents) {
                self.own.pools.give_extents(extents);
                return Err(refusal);
            }
            Place::Reserved(extents)
        } else if profile.keeps_landed && len.is_some_and(|len| len > profile.inline_max) {
            Place::Landed(self.own.pools.extents())
        } else {
            Place::Collected(Vec::new())
        };
        let rest = len.map_or(Rest::Chunked(Chunks::new()), Rest::Counted);
        let (sum, verifier, writing) = (Checksum::new(), None, None);
        let (len, room, cursor) = (0, 0, (0, 0));
        Ok(Body { log, link, rest, len, sum, verifier, place, wait, writing, room, cursor })
    }

    /// Takes bytes of a body, up to its end.
    pub(crate) fn take_body(&mut self, flow: &mut Flow, rest: &mut Arrived<'_>) {
        let Input::Body(body) = &mut flow.input else { unreachable!("a body is expected") };
        let whole = match self.take_pieces(body, rest) {
            Ok(Taken::Whole(whole)) => whole,
            Ok(Taken::Part) => return,
            Ok(Taken::NoRoom) => return self.park(flow, Parked::Medium),
            // Where the next request starts is unknown.
            Err(fault) => {
                self.answer_fault(flow, fault, Link::Close, false);
                return self.end_input(flow);
            }
        };
        self.end_body(flow, whole);
    }

    /// The body is complete; `whole` is all of it, if it has no place.
    pub(crate) fn end_body(&mut self, flow: &mut Flow, whole: Arrived<'_>) {
        let Input::Body(mut body) = std::mem::replace(&mut flow.input, Input::Head) else {
            unreachable!("a body is expected")
        };
        if body.verifier.take().is_some_and(|verifier| !verifier.holds()) {
            let link = body.link;
            self.drop_body(body);
            self.answer_fault(flow, MISMATCH, link, false);
            return self.go_on(flow, link, 0);
        }
        if matches!(body.place, Place::Reserved(_)) {
            self.persist_body(flow, body);
        } else {
            self.append(flow, body, whole);
        }
    }

    /// Takes bytes of a body.
    fn take_pieces<'b>(
        &mut self,
        body: &mut Body,
        bytes: &mut Arrived<'b>,
    ) -> Result<Taken<'b>, Fault> {
        match body.rest {
            Rest::Counted(left) => {
                let piece = bytes.take(left as usize);
                let left = left - count(piece);
                body.rest = Rest::Counted(left);
                // It goes to its record from where it is.
                let is_whole =
                    left == 0 && body.len == 0 && matches!(body.place, Place::Collected(_));
                self.take_piece(body, piece, !is_whole);
                let whole = if is_whole { piece } else { Arrived::NONE };
                Ok(if left == 0 { Taken::Whole(whole) } else { Taken::Part })
            }
            Rest::Chunked(chunks) => self.take_chunks(body, bytes, chunks),
        }
    }

    fn take_chunks<'b>(
        &mut self,
        body: &mut Body,
        bytes: &mut Arrived<'b>,
        mut chunks: Chunks,
    ) -> Result<Taken<'b>, Fault> {
        while !bytes.is_empty() {
            match chunks.next(bytes.bytes(&self.core.frames))? {
                Piece::Framing(framing) => {
                    bytes.take(framing);
                }
                Piece::End(framing) => {
                    bytes.take(framing);
                    return Ok(Taken::Whole(Arrived::NONE));
                }
                Piece::Payload(payload) => {
                    let mut ahead = *bytes;
                    let piece = ahead.take(payload);
                    let len = body.len.checked_add(count(piece));
                    let max = self.core.options.value_bytes_max;
                    let len = len.filter(|len| *len <= max).ok_or(TOO_LONG)?;
                    match self.make_room(body, len) {
                        Ok(()) => body.wait = SpaceWait::default(),
                        // Not a byte is taken.
                        Err(Refusal::NoSpace) if self.space_may_come(&mut body.wait) => {
                            return Ok(Taken::NoRoom);
                        }
                        Err(refusal) => return Err(refusal.into()),
                    }
                    self.take_piece(body, piece, true);
                    *bytes = ahead;
                }
            }
            body.rest = Rest::Chunked(chunks);
        }
        Ok(Taken::Part)
    }

    /// Takes a piece of a body, and brings it to its place if it `moves`.
    fn take_piece(&mut self, body: &mut Body, piece: Arrived<'_>, moves: bool) {
        let start = body.len;
        body.sums(piece.bytes(&self.core.frames));
        if moves {
            self.put_piece(body, start, piece);
        }
        body.len = start + count(piece);
        self.write_full(body);
    }

    /// Takes blocks for a body of unknown length that has grown to `len` (D10): it is refused
    /// rather than kept waiting with what it has.
    fn make_room(&mut self, body: &mut Body, len: u32) -> Result<(), Refusal> {
        if !matches!(body.rest, Rest::Chunked(_)) || len <= INLINE_BYTES_MAX {
            return Ok(());
        }
        if len <= body.room {
            return Ok(());
        }
        let more = (len - body.room).next_multiple_of(BUF_BYTES);
        if let Place::Reserved(extents) = &mut body.place {
            self.core.store.grow(more, extents)?;
        } else {
            // What was collected stays where it is, if there are no blocks now: it may be tried
            // again.
            let mut extents = self.own.pools.extents();
            if let Err(refusal) = self.core.store.grow(more, &mut extents) {
                self.own.pools.give_extents(extents);
                return Err(refusal);
            }
            let place = std::mem::replace(&mut body.place, Place::Reserved(extents));
            let Place::Collected(bytes) = place else {
                unreachable!("what comes in chunks is collected first")
            };
            self.put_piece(body, 0, Arrived::Copied(&bytes));
            self.own.pools.give_bytes(bytes);
        }
        body.room += more;
        Ok(())
    }

    /// Brings the piece of `body` that starts at `start` to its place.
    pub(crate) fn put_piece(&mut self, body: &mut Body, start: u32, piece: Arrived<'_>) {
        match (&mut body.place, piece) {
            (Place::Landed(pieces), Arrived::Landed(extent)) => {
                if let Some(last) = pieces.last_mut().filter(|last| last.adjoins(extent)) {
                    last.len += extent.len;
                    return;
                }
                if pieces.len() < PIECES_MAX {
                    pieces.push(extent);
                    self.own.landing.hold(self.own.port.ring(), extent.buf);
                    return;
                }
                self.spill(body);
                self.put_piece(body, start, piece);
            }
            (Place::Landed(_), Arrived::Copied(_)) => {
                self.spill(body);
                self.put_piece(body, start, piece);
            }
            (Place::Collected(bytes), _) => {
                if bytes.capacity() == 0 {
                    *bytes = self.own.pools.bytes();
                    if let Rest::Counted(left) = body.rest {
                        bytes.reserve(piece.len() + left as usize);
                    }
                }
                bytes.extend_from_slice(piece.bytes(&self.core.frames));
            }
            (Place::Reserved(extents), _) => {
                let mut piece = piece;
                // Pieces come one behind the other, and may be many: not from the first extent.
                let ((mut index, mut at), mut start) = (body.cursor, start);
                while !piece.is_empty() {
                    let extent = extents[index];
                    if start - at >= extent.len {
                        (index, at) = (index + 1, at + extent.len);
                        continue;
                    }
                    let part = piece.take((extent.len - (start - at)) as usize);
                    let to = extent.part(start - at, count(part)).span().at;
                    part.place(&mut self.core.frames, to);
                    start += count(part);
                }
                body.cursor = (index, at);
            }
        }
    }

    /// Copies what is held of a body, so that its landing buffers can be used again. It will stand
    /// in its record.
    pub(crate) fn spill(&mut self, body: &mut Body) {
        let Place::Landed(pieces) = &body.place else {
            return;
        };
        let mut bytes = self.own.pools.bytes();
        for piece in pieces {
            bytes.extend_from_slice(self.core.frames.bytes(piece.span()));
        }
        let landed = std::mem::replace(&mut body.place, Place::Collected(bytes));
        self.recycle_place(landed);
    }

    /// Gives the medium the blocks of a long body that are full, when there are enough of them.
    pub(crate) fn write_full(&mut self, body: &mut Body) {
        let Place::Reserved(extents) = &body.place else {
            return;
        };
        let (ticket, written) = body.writing.unzip();
        let (written, full) = (written.unwrap_or(0), body.len / BLOCK * BLOCK);
        if full - written < WRITE_BYTES {
            return;
        }
        let ticket = ticket.unwrap_or_else(|| self.core.jobs.start(Job::Filling));
        let spans = self.core.jobs.spans(parts(extents, written, full));
        self.core.medium.write(&mut self.own.io, &self.core.frames, ticket, &spans);
        self.core.jobs.give_spans(spans);
        body.writing = Some((ticket, full));
    }

    /// D1: a long body is durable before a record names it.
    fn persist_body(&mut self, flow: &mut Flow, mut body: Body) {
        let Place::Reserved(extents) = &mut body.place else {
            unreachable!("a long body is in reserved blocks")
        };
        if matches!(body.rest, Rest::Chunked(_)) {
            self.core.store.cut(body.len, extents);
        }
        // The job gives them back when it is done.
        let extents = std::mem::take(extents);
        let end = extents.last().expect("a long body is not empty").span().end();
        let fill = end.next_multiple_of(BLOCK_BYTES) - end;
        let fill = usize::try_from(fill).expect("less than a block");
        self.core.frames.store(end, &ZEROES[..fill]);
        let (ticket, written) = body.writing.take().unzip();
        let spans = self.core.jobs.spans(parts(&extents, written.unwrap_or(0), u32::MAX));
        let ticket = ticket.unwrap_or_else(|| self.core.jobs.start(Job::Filling));
        let whose = self.whose(flow);
        self.core.jobs.change(ticket, Job::Body(whose, extents));
        self.core.medium.persist(&mut self.own.io, &self.core.frames, ticket, &spans);
        self.core.jobs.give_spans(spans);
        flow.input = Input::Whole(body);
        self.park(flow, Parked::Job);
    }

    /// Gives up a body that has not been appended.
    pub(crate) fn drop_body(&mut self, body: Body) {
        match (body.writing, body.place) {
            // D4: until nothing of it is in flight, nobody else may have the blocks.
            (Some((ticket, _)), Place::Reserved(extents)) => {
                self.core.jobs.change(ticket, Job::Dropped(extents));
                self.core.medium.abandon(&mut self.own.io, ticket);
            }
            (_, place) => self.drop_place(place),
        }
    }

    /// Gives back the memory of a body that will not be appended, and of which nothing is in
    /// flight.
    pub(crate) fn drop_place(&mut self, place: Place) {
        if let Place::Reserved(extents) = &place {
            self.core.store.unreserve(extents);
        }
        self.recycle_place(place);
    }

    /// Gives back the memory of a body that was appended.
    pub(crate) fn recycle_place(&mut self, place: Place) {
        match place {
            Place::Collected(bytes) => self.own.pools.give_bytes(bytes),
            Place::Landed(pieces) => {
                for piece in &pieces {
                    self.own.landing.unhold(self.own.port.ring(), piece.buf);
                }
                self.own.pools.give_extents(pieces);
            }
            Place::Reserved(extents) => self.own.pools.give_extents(extents),
        }
    }
}

/// What was taken of a body.
enum Taken<'a> {
    /// All of it is here now; in hand, if it came in one piece and stays where it is until it
    /// stands in its record.
    Whole(Arrived<'a>),
    /// More is to come.
    Part,
    /// The rest stays where it is until there is room.
    NoRoom,
}

fn count(piece: Arrived<'_>) -> u32 {
    u32::try_from(piece.len()).expect("what lands is below 4 GiB")
}

/// Returns the bytes from `start` to `end` of what stands in `extents`.
pub(crate) fn parts(extents: &[Extent], start: u32, end: u32) -> impl Iterator<Item = Extent> {
    let mut at = 0_u32;
    extents.iter().filter_map(move |extent| {
        let (first, last) = (at, at + extent.len);
        at = last;
        let (from, to) = (start.max(first), end.min(last));
        (from < to).then(|| extent.part(from - first, to - from))
    })
}

#[expect(clippy::cast_possible_truncation, reason = "a block is 4 KiB")]
const BLOCK: u32 = BLOCK_BYTES as u32;
/// So much of a long body is written at once: what the disk writes with one operation.
const WRITE_BYTES: u32 = BUF_BYTES;

static ZEROES: [u8; 4096] = [0; 4096];

#[cfg(test)]
mod tests {
    use impasto_region::BufId;

    use super::*;

    /// Blocks that are left out would be durable as they were before.
    #[test]
    fn parts_are_cut_where_they_start_and_end() {
        let extent = |buf, offset, len| Extent { buf: BufId(buf), offset, len };
        let extents = [extent(1, 0, 100), extent(7, 8, 50), extent(2, 0, 10)];
        let parts = |start, end| parts(&extents, start, end).collect::<Vec<_>>();
        assert_eq!(parts(0, u32::MAX), extents);
        assert_eq!(parts(100, 150), [extents[1]]);
        assert_eq!(parts(90, 155), [extent(1, 90, 10), extents[1], extent(2, 0, 5)]);
        assert_eq!((parts(160, 200), parts(20, 20)), (vec![], vec![]));
    }
}
