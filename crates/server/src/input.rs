//! From bytes to requests: heads are parsed where they landed, bodies stay there or go where they
//! belong.

use impasto_media::Medium;
use impasto_region::{Checksum, layout::BLOCK_BYTES};
use impasto_ring::Port;
use impasto_store::{Lsn, Refusal};

use crate::{
    Enter,
    config::{HEAD_BYTES_MAX, INLINE_BYTES_MAX, PIECES_MAX, SKIP_BYTES_MAX},
    engine::Engine,
    flow::{Asked, Backlog, Body, Flow, Input, Opening, Parked, Place, SpaceWait},
    http::{self, Call, Fault, Framing, Head, Link, Status, reply},
    jobs::Job,
    placer::Arrived,
};

const LENGTH: Fault = Fault::new(Status::LengthRequired, "a Content-Length is required");
const TOO_LONG: Fault =
    Fault::new(Status::BodyTooLong, "the body is longer than this server takes (--value-max)");

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Takes what has arrived on a flow, as far as the flow can go on; the rest goes to its
    /// backlog.
    pub(crate) fn arrive(&mut self, flow: &mut Flow, arrived: Arrived<'_>) {
        let mut rest = arrived;
        if !flow.is_behind() {
            self.feed(flow, &mut rest);
        }
        if rest.is_empty() {
            return;
        }
        if flow.backlog.bytes.capacity() == 0 {
            flow.backlog.bytes = self.own.pools.bytes();
        }
        flow.backlog.bytes.extend_from_slice(rest.bytes(&self.core.frames));
        if !flow.paused {
            flow.paused = true;
            self.own.port.pause(&mut self.own.io, flow.id);
        }
    }

    /// Goes on with a flow whose reason to be parked is gone.
    pub(crate) fn unpark(&mut self, flow: &mut Flow) {
        flow.parked = None;
        self.retry(flow);
        while flow.parked.is_none() && flow.has_backlog() {
            let backlog = std::mem::take(&mut flow.backlog);
            let mut rest = Arrived::Copied(&backlog.bytes[backlog.at..]);
            self.feed(flow, &mut rest);
            let left = rest.len();
            if left == 0 {
                self.own.pools.give_bytes(backlog.bytes);
            } else {
                let at = backlog.bytes.len() - left;
                flow.backlog = Backlog { at, ..backlog };
            }
        }
        if !flow.is_behind() {
            self.resume(flow);
        }
    }

    /// Tries again what could not be done when the flow was parked.
    fn retry(&mut self, flow: &mut Flow) {
        match std::mem::replace(&mut flow.input, Input::Head) {
            Input::Opening(opening) => {
                let has_come = flow.has_backlog();
                self.open_body(flow, opening, has_come);
            }
            Input::Whole(body) => self.append(flow, body, Arrived::NONE),
            Input::Asked(asked) => self.ask(flow, asked),
            Input::Listing(listing) => self.list(flow, listing),
            input => flow.input = input,
        }
    }

    /// Takes bytes of a flow until there are none, or the flow is parked.
    fn feed(&mut self, flow: &mut Flow, rest: &mut Arrived<'_>) {
        while flow.parked.is_none() && !rest.is_empty() {
            match &mut flow.input {
                Input::Head => self.take_head(flow, rest),
                Input::Body(_) => self.take_body(flow, rest),
                Input::Skip(left) => {
                    *left -= rest.take(usize::try_from(*left).unwrap_or(usize::MAX)).len() as u64;
                    if *left == 0 {
                        flow.input = Input::Head;
                    }
                }
                Input::Discard => flow.discarded += rest.take(usize::MAX).len() as u64,
                Input::Opening(_) | Input::Whole(_) | Input::Asked(_) | Input::Listing(_) => {
                    unreachable!("a flow that waits is parked")
                }
            }
        }
    }

    fn take_head(&mut self, flow: &mut Flow, rest: &mut Arrived<'_>) {
        let stashed = flow.stash.len();
        if stashed == 0 {
            // Some peers end a request with an empty line too many (RFC 9112, 2.2).
            let is_blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            let blank = rest.bytes(&self.core.frames).iter().take_while(is_blank).count();
            rest.take(blank);
            if rest.is_empty() {
                return;
            }
        }
        let bytes = rest.bytes(&self.core.frames);
        let parsed = if stashed == 0 {
            http::parse(bytes)
        } else {
            let more = &bytes[..bytes.len().min(HEAD_BYTES_MAX - stashed)];
            flow.stash.extend_from_slice(more);
            // A head ends with a line: parsing on every byte that trickles in would be quadratic.
            if more.contains(&b'\n') || flow.stash.len() == HEAD_BYTES_MAX {
                http::parse(&flow.stash)
            } else {
                Ok(None)
            }
        };
        match parsed {
            Ok(Some(head)) => {
                rest.take(head.bytes - stashed);
                self.own.pools.give_bytes(std::mem::take(&mut flow.stash));
                self.begin(flow, &head, rest);
            }
            Ok(None) => {
                let tail = rest.take(usize::MAX);
                if stashed == 0 {
                    flow.since = self.own.now;
                    flow.stash = self.own.pools.bytes();
                    flow.stash.extend_from_slice(tail.bytes(&self.core.frames));
                }
            }
            // Where the next request would start is unknown.
            Err(fault) => {
                self.answer_fault(flow, fault, Link::Close, false);
                self.end_input(flow);
            }
        }
    }

    /// Begins a request; its body starts at `rest`.
    fn begin(&mut self, flow: &mut Flow, head: &Head, rest: &mut Arrived<'_>) {
        let link = if self.own.stopping { Link::Close } else { head.link };
        flow.is_fresh = false;
        let fault = match head.call {
            Ok(Call::Append(log)) => match self.body_len(head) {
                Ok(len) => {
                    let (expects_continue, wait) = (head.expects_continue, SpaceWait::default());
                    let opening = Opening { log, link, len, expects_continue, wait };
                    return self.open_body(flow, opening, !rest.is_empty());
                }
                Err(fault) => fault,
            },
            Ok(call) => {
                let (link, skip) = past_body(head.framing, head.expects_continue, link);
                return self.ask(flow, Asked { call, link, bodyless: head.bodyless, skip });
            }
            Err(fault) => fault,
        };
        let (link, skip) = past_body(head.framing, head.expects_continue, link);
        // Without a length, whether a body follows is unknown.
        let link = if fault.status == Status::LengthRequired { Link::Close } else { link };
        self.answer_fault(flow, fault, link, head.bodyless);
        self.go_on(flow, link, skip);
    }

    /// Returns the length of the body of an append.
    fn body_len(&self, head: &Head) -> Result<u32, Fault> {
        let Framing::Length(len) = head.framing else {
            return Err(LENGTH);
        };
        let fits = u32::try_from(len).ok().filter(|len| *len <= self.core.options.value_bytes_max);
        fits.ok_or(TOO_LONG)
    }

    /// Begins an append, if there is space for it.
    fn open_body(&mut self, flow: &mut Flow, mut opening: Opening, has_come: bool) {
        match self.place_body(&opening) {
            Ok(body) => {
                // No byte of the body has come: its sender waits to be told.
                if opening.expects_continue && body.len > 0 && !has_come {
                    let write = |out: &mut Vec<u8>| out.extend_from_slice(reply::CONTINUE);
                    self.reply(flow, Lsn(0), &[], write);
                }
                flow.since = self.own.now;
                let is_empty = body.len == 0;
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
                let (link, skip) =
                    past_body(Framing::Length(u64::from(len)), expects_continue, link);
                self.answer_fault(flow, reply::fault(refusal), link, false);
                self.go_on(flow, link, skip);
            }
        }
    }

    /// Decides where the body of an append goes, and takes the room for it (D10).
    fn place_body(&mut self, opening: &Opening) -> Result<Body, Refusal> {
        let Opening { log, link, len, wait, .. } = *opening;
        let profile = self.core.medium.profile();
        let reserves = len > INLINE_BYTES_MAX;
        let in_log = if reserves { 0 } else { len };
        self.core.store.admits(log.as_str(), in_log)?;
        let place = if reserves {
            let mut extents = self.own.pools.extents();
            if let Err(refusal) = self.core.store.reserve(len, &mut extents) {
                self.own.pools.give_extents(extents);
                return Err(refusal);
            }
            Place::Reserved(extents)
        } else if profile.keeps_landed && len > profile.inline_max {
            Place::Landed(self.own.pools.extents())
        } else {
            Place::Collected(Vec::new())
        };
        Ok(Body { log, link, left: len, len, sum: Checksum::new(), place, wait })
    }

    /// Takes bytes of a body.
    fn take_body(&mut self, flow: &mut Flow, rest: &mut Arrived<'_>) {
        let Input::Body(body) = &mut flow.input else { unreachable!("a body is expected") };
        let start = body.len - body.left;
        let piece = rest.take(body.left as usize);
        body.left -= u32::try_from(piece.len()).expect("a piece is a part of the body");
        body.sum.update(piece.bytes(&self.core.frames));
        // All of it in one piece goes to its record from where it is.
        let whole = start == 0 && body.left == 0 && matches!(body.place, Place::Collected(_));
        if !whole {
            self.put_piece(body, start, piece);
        }
        if body.left > 0 {
            return;
        }
        let Input::Body(body) = std::mem::replace(&mut flow.input, Input::Head) else {
            unreachable!("a body is expected")
        };
        if matches!(body.place, Place::Reserved(_)) {
            self.persist_body(flow, body);
        } else {
            self.append(flow, body, if whole { piece } else { Arrived::NONE });
        }
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
                    bytes.reserve(body.len as usize);
                }
                bytes.extend_from_slice(piece.bytes(&self.core.frames));
            }
            (Place::Reserved(extents), _) => {
                let (mut skip, mut piece) = (start, piece);
                for extent in extents {
                    if skip >= extent.len {
                        skip -= extent.len;
                        continue;
                    }
                    let room = extent.part(skip, u32::MAX);
                    piece.take(room.len as usize).place(&mut self.core.frames, room.span().at);
                    skip = 0;
                    if piece.is_empty() {
                        break;
                    }
                }
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

    /// D1: a long body is durable before a record names it.
    fn persist_body(&mut self, flow: &mut Flow, mut body: Body) {
        let Place::Reserved(extents) = &mut body.place else {
            unreachable!("a long body is in reserved blocks")
        };
        // The job gives them back when it is done.
        let extents = std::mem::take(extents);
        let end = extents.last().expect("a long body is not empty").span().end();
        let fill = end.next_multiple_of(BLOCK_BYTES) - end;
        let fill = usize::try_from(fill).expect("less than a block");
        self.core.frames.store(end, &ZEROES[..fill]);
        let spans = self.core.jobs.spans(&extents);
        let ticket = self.core.jobs.start(Job::Body(self.whose(flow), extents));
        self.core.medium.persist(&mut self.own.io, &self.core.frames, ticket, &spans);
        self.core.jobs.give_spans(spans);
        flow.input = Input::Whole(body);
        self.park(flow, Parked::Job);
    }
}

/// Returns what becomes of the connection if the body of a request is not taken, and how much of it
/// to skip.
fn past_body(framing: Framing, expects_continue: bool, link: Link) -> (Link, u64) {
    let skip = match framing {
        Framing::None => 0,
        Framing::Length(length) => length,
        Framing::Chunked => u64::MAX,
    };
    // A peer that asked before it sends may send now or not: where the next request starts is
    // unknown.
    let ends = expects_continue || skip > SKIP_BYTES_MAX;
    (if ends { Link::Close } else { link }, skip)
}

static ZEROES: [u8; 4096] = [0; 4096];
