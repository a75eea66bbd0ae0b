//! Directed receive: the rest of a long body comes straight into its blocks.
//!
//! ```text
//! it lands --> Stopping --> Filling --> it lands: what follows the body
//!         stop     Stopped   ^     |
//!                            +-----+ Filled
//! ```
//!
//! What lands until the port has stopped is copied, as it is of a body that is not directed. Each
//! piece ends with what has come, not when it is full: a slow sender is heard, and the checksum
//! finds what has come in the cache.

use impasto_media::{Medium, Ticket};
use impasto_region::{Extent, Span};
use impasto_ring::Port;

use crate::{
    Enter,
    bodies::parts,
    config::{DIRECT_BYTES_MIN, DIRECTED_MAX, PIECE_BYTES_MAX, SLOW_BYTES_MAX, VERIFIED_BYTES_MAX},
    engine::Engine,
    flow::{Body, Flow, Input, Place, Rest},
    jobs::Job,
    placer::Arrived,
};

/// Where what comes next on a flow goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Directing {
    /// It lands.
    #[default]
    No,
    /// It lands, until the port has stopped.
    Stopping,
    /// To the next span of its body's blocks.
    Filling,
}

/// Directed receives of a worker.
#[derive(Debug, Default)]
pub(crate) struct Directed {
    /// Flows that are directed or about to be, and bodies in `given_up`.
    count: usize,
    /// Bodies that were given up: where the kernel may still write, and the job that has their
    /// blocks.
    given_up: Vec<(Span, Ticket)>,
}

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Begins to direct what comes on `flow` to the blocks of its body, if that is worth it.
    pub(crate) fn direct(&mut self, flow: &mut Flow) {
        let lands = flow.directing == Directing::No && !flow.paused && !flow.ended;
        let Input::Body(Body { rest: Rest::Counted(left), place, .. }) = &flow.input else {
            return;
        };
        let is_worth_it = *left >= DIRECT_BYTES_MIN && matches!(place, Place::Reserved(_));
        if lands && is_worth_it && !self.own.directed.is_full() {
            self.own.directed.count += 1;
            flow.directing = Directing::Stopping;
            self.own.port.stop(&mut self.own.io, flow.id);
        }
    }

    /// Directs the next bytes of the body of `flow` to their place, now that nothing more lands;
    /// behind its end, lets them land.
    pub(crate) fn direct_next(&mut self, flow: &mut Flow) {
        assert!(flow.directing != Directing::No, "a flow is directed that was to be");
        // What has landed before stands before it: a body with a length does not wait for anything.
        let is_in_order = !matches!(flow.input, Input::Body(_)) || !flow.is_behind();
        assert!(is_in_order, "nothing waits before what is directed");
        if let Input::Body(body) = &mut flow.input
            && let Some(span) = next_span(body)
        {
            // The job has the blocks if the body is given up, until the kernel has let go of them.
            body.writing.get_or_insert_with(|| (self.core.jobs.start(Job::Filling), 0));
            flow.directing = Directing::Filling;
            self.own.port.direct(&mut self.own.io, &mut self.core.frames, flow.id, span);
        } else {
            self.land_again(flow);
        }
    }

    fn land_again(&mut self, flow: &mut Flow) {
        flow.directing = Directing::No;
        self.own.directed.count -= 1;
        if !flow.paused {
            self.own.port.resume(&mut self.own.io, flow.id);
        }
    }

    /// Takes what has come into `span`.
    pub(crate) fn take_filled(&mut self, flow: &mut Flow, span: Span) {
        let (Directing::Filling, Input::Body(body)) = (flow.directing, &mut flow.input) else {
            // Its body was given up before.
            flow.discarded += span.len;
            return;
        };
        let Rest::Counted(left) = &mut body.rest else {
            unreachable!("a body that is directed has a length")
        };
        let count = u32::try_from(span.len).expect("a piece is a part of a body");
        *left -= count;
        let is_whole = *left == 0;
        body.sums(self.core.frames.bytes(span));
        body.len += count;
        self.write_full(body);
        if is_whole {
            self.end_body(flow, Arrived::NONE);
        }
        let makes_room = count < SLOW_BYTES_MAX && self.own.directed.is_full();
        if makes_room && !is_whole {
            self.land_again(flow);
        } else {
            self.direct_next(flow);
        }
    }

    /// Nothing more comes on `flow`.
    pub(crate) fn end_direct(&mut self, flow: &mut Flow) {
        if std::mem::take(&mut flow.directing) != Directing::No {
            self.own.directed.count -= 1;
        }
    }

    /// Lets what comes on `flow` land, whose `body` is given up. Returns the body, unless the
    /// kernel may write to its blocks: then these stay its own until [`let_go`](Self::let_go).
    pub(crate) fn undirect(&mut self, flow: &mut Flow, body: Body) -> Option<Body> {
        if flow.directing != Directing::Filling {
            return Some(body);
        }
        flow.directing = Directing::No;
        let span = next_span(&body);
        let (Some(span), Some((ticket, _)), Place::Reserved(extents)) =
            (span, body.writing, body.place)
        else {
            unreachable!("a body that is directed has blocks and a job")
        };
        self.core.jobs.change(ticket, Job::Dropped(extents));
        self.own.directed.given_up.push((span, ticket));
        self.own.port.resume(&mut self.own.io, flow.id);
        // Of a connection that is gone, it has already.
        self.let_go();
        None
    }

    /// D4: what was given up is free only when the kernel does not write to it any more.
    pub(crate) fn let_go(&mut self) {
        let Directed { count, given_up } = &mut self.own.directed;
        given_up.retain(|(span, ticket)| {
            let is_settled = self.core.frames.is_settled(*span);
            if is_settled {
                *count -= 1;
                self.core.medium.abandon(&mut self.own.io, *ticket);
            }
            !is_settled
        });
    }
}

impl Directed {
    const fn is_full(&self) -> bool {
        self.count >= DIRECTED_MAX
    }
}

/// Returns where the next bytes of `body` may be directed to: all of them, up to a limit, that have
/// their place without a gap.
fn next_span(body: &Body) -> Option<Span> {
    let (Rest::Counted(left), Place::Reserved(extents)) = (body.rest, &body.place) else {
        return None;
    };
    let max = if body.verifier.is_some() { VERIFIED_BYTES_MAX } else { PIECE_BYTES_MAX };
    first_run(parts(extents, body.len, body.len + left.min(max)))
}

/// Returns the first of `parts`, with those that adjoin it.
fn first_run(parts: impl Iterator<Item = Extent>) -> Option<Span> {
    let mut run: Option<Span> = None;
    for span in parts.map(Extent::span) {
        match &mut run {
            None => run = Some(span),
            Some(run) if run.end() == span.at => run.len += span.len,
            Some(_) => break,
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use impasto_region::BufId;

    use super::*;

    /// A span over the gap between two extents would be somebody else's blocks.
    #[test]
    fn a_run_ends_where_the_next_extent_does_not_adjoin() {
        let extent = |buf, offset, len| Extent { buf: BufId(buf), offset, len };
        let (first, second) = (BufId(3).whole(), extent(4, 0, 8192));
        let run = |extents: &[Extent]| first_run(extents.iter().copied()).unwrap();
        assert_eq!(run(&[first]), first.span());
        let both = Span::new(first.span().at, first.span().len + 8192);
        assert_eq!(run(&[first, second]), both);
        assert_eq!(run(&[first, second, extent(4, 12288, 4096)]), both);
        assert_eq!(run(&[second, first]), second.span());
    }
}
