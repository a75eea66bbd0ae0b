//! From bytes to requests: heads are parsed where they landed, bodies stay there or go where they
//! belong.

use impasto_media::Medium;
use impasto_ring::Port;

use crate::{
    Enter, Step,
    config::{HEAD_BYTES_MAX, SKIP_BYTES_MAX},
    engine::Engine,
    flow::{Asked, Backlog, Flow, Input, Opening, SpaceWait},
    http::{self, Call, Fault, Framing, Head, Link, Problem, Status},
    monitor::Kind,
    placer::Arrived,
};

const LENGTH: Fault = Fault::new(Status::LengthRequired, "a Content-Length is required");
pub(crate) const TOO_LONG: Fault =
    Fault::new(Status::BodyTooLong, "the body is longer than this server takes (--value-max)");
const ORIGIN: Fault = Fault::new(
    Status::Forbidden,
    "a page of another origin has sent this request: allow it with --allow-origin",
)
.kind(Problem::Origin);

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
        self.own.backlog_bytes += rest.len();
        if !flow.paused {
            flow.paused = true;
            self.own.port.pause(&mut self.own.io, flow.id);
        }
    }

    /// Goes on with a flow whose reason to be parked is gone.
    pub(crate) fn unpark(&mut self, flow: &mut Flow) {
        flow.parked = None;
        // It was not the peer's turn.
        flow.heard = self.own.now;
        self.retry(flow);
        while flow.parked.is_none() && flow.has_backlog() {
            let backlog = std::mem::take(&mut flow.backlog);
            let mut rest = Arrived::Copied(&backlog.bytes[backlog.at..]);
            self.feed(flow, &mut rest);
            let left = rest.len();
            self.own.backlog_bytes -= backlog.bytes.len() - backlog.at - left;
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
                let come = flow.backlog.bytes.len() - flow.backlog.at;
                self.open_body(flow, opening, come);
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
        let is_head = if stashed == 0 { bytes } else { &flow.stash[..] }.starts_with(b"HEAD ");
        match parsed {
            Ok(Some(head)) => {
                rest.take(head.bytes - stashed);
                self.own.pools.give_bytes(std::mem::take(&mut flow.stash));
                self.begin(flow, head, rest);
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
                (flow.allowed, flow.kind) = (None, Kind::Other);
                self.answer_fault(flow, fault, Link::Close, is_head);
                self.end_input(flow);
            }
        }
    }

    /// Begins a request; its body starts at `rest`.
    fn begin(&mut self, flow: &mut Flow, mut head: Head, rest: &mut Arrived<'_>) {
        self.own.io.passed(Step::Parsed);
        let link = if self.own.stopping { Link::Close } else { head.link };
        flow.is_fresh = false;
        let call = self.admitted(flow, &head);
        flow.kind = call.as_ref().map_or(Kind::Other, Kind::of);
        let fault = match call {
            Ok(Call::Append(log)) => match self.declared(&head) {
                Ok(len) => {
                    let (expects_continue, wait) = (head.expects_continue, SpaceWait::default());
                    let expected = head.terms.and_then(|terms| terms.expected);
                    let opening = Opening { log, link, len, expects_continue, expected, wait };
                    return self.open_body(flow, opening, rest.len());
                }
                Err(fault) => fault,
            },
            Ok(call) => {
                let (link, skip) = past_body(head.framing, head.expects_continue, link);
                let (terms, bodyless) = (head.terms.take(), head.bodyless);
                return self.ask(flow, Asked { call, terms, link, bodyless, skip, damaged: None });
            }
            Err(fault) => fault,
        };
        let (link, skip) = past_body(head.framing, head.expects_continue, link);
        // Without a length, whether a body follows is unknown.
        let link = if fault.status == Status::LengthRequired { Link::Close } else { link };
        self.answer_fault(flow, fault, link, head.bodyless);
        self.go_on(flow, link, skip);
    }

    /// Returns what is asked for, unless a page asks that must not: a browser sends what it finds
    /// in a page to any address, and only hides the answer.
    fn admitted(&self, flow: &mut Flow, head: &Head) -> Result<Call, Fault> {
        let origin = head.terms.as_ref().and_then(|terms| terms.origin.as_deref());
        let Some(origin) = origin else {
            flow.allowed = None;
            return head.call;
        };
        let mut known = self.core.options.allow_origin.iter();
        let allowed =
            known.position(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin));
        flow.allowed = allowed.and_then(|index| u16::try_from(index).ok());
        if flow.allowed.is_some() { head.call } else { Err(ORIGIN) }
    }

    /// Returns the length of the body of an append, if the head says it.
    fn declared(&self, head: &Head) -> Result<Option<u32>, Fault> {
        let max = self.core.options.value_bytes_max;
        match head.framing {
            Framing::None => Err(LENGTH),
            Framing::Chunked => Ok(None),
            Framing::Length(len) => {
                let fits = u32::try_from(len).ok().filter(|len| *len <= max);
                fits.ok_or(TOO_LONG).map(Some)
            }
        }
    }
}

/// Returns what becomes of the connection if the body of a request is not taken, and how much of it
/// to skip.
pub(crate) fn past_body(framing: Framing, expects_continue: bool, link: Link) -> (Link, u64) {
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
