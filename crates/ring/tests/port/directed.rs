//! What comes into a span instead of landing, on every port.

use impasto_epoll::Epoll;
use impasto_region::Span;
use impasto_ring::{FlowId, Port, What};
use impasto_uring::{Mode, Uring};

use crate::{
    every::{on_each_port, open, push_all},
    rig::{Peer, Random, Rig, Wait, pattern},
};

/// In the region, which no port lands in.
const PLACE: u64 = 1 << 20;

/// Directs `flow` to `len` bytes from `at` until they are there, in pieces of at most `most` bytes,
/// while the peer sends `bytes`.
fn direct_all<P: Port<I>, I: Wait, R: Peer>(
    rig: &mut Rig<P, I>,
    (peer, conn): (&R, &mut R::Conn),
    flow: FlowId,
    place: Span,
    most: u64,
    bytes: &[u8],
) {
    let (mut at, mut pushed) = (place.at, 0);
    let piece = |at: u64| Span::new(at, most.min(place.end() - at));
    rig.direct(flow, piece(at));
    rig.until(|rig| {
        pushed += peer.push(conn, &bytes[pushed..]);
        if let Some(span) = rig.take_filled(flow) {
            assert!(span.at == at && span.len <= piece(at).len && span.len > 0, "{span:?}");
            assert!(rig.frames.is_settled(piece(at)));
            at = span.end();
            if at < place.end() {
                rig.direct(flow, piece(at));
            }
        }
        at == place.end() && pushed == bytes.len()
    });
}

on_each_port!(a_directed_body_is_where_it_belongs_and_the_next_request_lands, 64, 4);

/// Without the stop, bytes would go to either place; without the exact length, the next request
/// would be swallowed.
fn a_directed_body_is_where_it_belongs_and_the_next_request_lands<P, I, R>(
    mut rig: Rig<P, I>,
    peer: &R,
) where
    P: Port<I>,
    I: Wait,
    R: Peer,
{
    let mut random = Random::new();
    rig.provide();
    let (mut conn, flow) = open(&mut rig, peer);
    let mut sent = Vec::new();
    for round in 0..10 {
        let bytes = pattern(round, 300_000 + random.below(600_000));
        let first = 1 + random.below(40_000);
        push_all(&mut rig, peer, &mut conn, &bytes[..first]);
        // What was pushed may not have come, or come while it stops.
        rig.stop(flow);
        let landed = rig.seen(flow).bytes.len() - sent.len();
        let behind = random.below(3000).max(1);
        let place = Span::new(PLACE, (bytes.len() - landed - behind) as u64);
        let most = 1 + random.below(200_000) as u64;
        direct_all(&mut rig, (peer, &mut conn), flow, place, most, &bytes[first..]);
        assert!(rig.frames.bytes(place) == &bytes[landed..bytes.len() - behind], "{round}");
        assert_eq!(rig.seen(flow).bytes.len(), sent.len() + bytes.len() - behind, "waits");
        rig.port.resume(&mut rig.io, flow);
        sent.extend(bytes);
        rig.until(|rig| rig.seen(flow).bytes.len() == sent.len());
        assert!(rig.seen(flow).bytes == sent, "{round}");
    }
}

on_each_port!(a_directed_flow_needs_no_landing_buffer, 64, 2);

/// Without this, long bodies would stand still together with what has to land.
fn a_directed_flow_needs_no_landing_buffer<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    rig.is_withholding = true;
    let (mut conn, flow) = open(&mut rig, peer);
    let bytes = pattern(1, 100_000);
    push_all(&mut rig, peer, &mut conn, &bytes[..1000]);
    // It looks for a buffer.
    rig.turn();
    rig.turn();
    rig.stop(flow);
    let place = Span::new(PLACE, bytes.len() as u64);
    direct_all(&mut rig, (peer, &mut conn), flow, place, 1 << 20, &bytes[1000..]);
    assert!(rig.frames.bytes(place) == bytes);
    rig.port.resume(&mut rig.io, flow);
    push_all(&mut rig, peer, &mut conn, b"lands");
    rig.provide();
    rig.until(|rig| rig.seen(flow).bytes.ends_with(b"lands"));
}

on_each_port!(what_came_before_the_end_of_a_directed_flow_is_handed_out, 64, 4);

/// Without the count, the end would pass for bytes; without the slot, the flow would wait for ever.
fn what_came_before_the_end_of_a_directed_flow_is_handed_out<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    for over in [What::End, What::Reset] {
        for has_come in [false, true] {
            rig.provide();
            let (mut conn, flow) = open(&mut rig, peer);
            rig.stop(flow);
            let place = Span::new(PLACE, 1000);
            rig.direct(flow, place);
            if has_come {
                push_all(&mut rig, peer, &mut conn, b"half");
                rig.until(|rig| rig.take_filled(flow) == Some(Span::new(PLACE, 4)));
                rig.direct(flow, place);
            }
            rig.turn();
            assert!(!rig.frames.is_settled(place), "nothing has come");
            match over {
                What::End => peer.end(&mut conn),
                _ => peer.reset(conn),
            }
            rig.until(|rig| rig.seen(flow).is_over.is_some());
            assert_eq!(rig.seen(flow).is_over, Some(over));
            assert_eq!(rig.seen(flow).bytes, if has_come { &b"half"[..] } else { b"" });
            assert!(rig.frames.is_settled(place));
            // Whoever has not looked yet: nothing more comes of it.
            rig.direct(flow, place);
            rig.turn();
            assert_eq!(rig.take_filled(flow), None);
            rig.port.close(&mut rig.io, flow);
            rig.until(|rig| rig.frames.is_settled(place));
        }
    }
}

on_each_port!(a_flow_that_ends_while_it_stops_is_told_so, 64, 4);

/// Without the end, whoever waits for the stop would wait for ever.
fn a_flow_that_ends_while_it_stops_is_told_so<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    for _ in 0..10 {
        rig.provide();
        let (mut conn, flow) = open(&mut rig, peer);
        peer.end(&mut conn);
        rig.stop(flow);
        if rig.seen(flow).is_over.is_none() {
            // It was sooner.
            rig.direct(flow, Span::new(PLACE, 1000));
            rig.until(|rig| rig.seen(flow).is_over.is_some());
        }
        assert_eq!(rig.seen(flow).is_over, Some(What::End));
    }
}

on_each_port!(a_span_is_on_loan_until_its_closed_flow_lets_go, 64, 4);

/// D4: the next owner of the span would find bytes of a flow that is gone.
fn a_span_is_on_loan_until_its_closed_flow_lets_go<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    for round in 0..6 {
        rig.provide();
        let (mut conn, flow) = open(&mut rig, peer);
        rig.stop(flow);
        let place = Span::new(PLACE, 1000);
        rig.direct(flow, place);
        if round % 2 == 1 {
            // The kernel may have it in its hands already.
            rig.turn();
        }
        if round % 3 == 0 {
            peer.push(&mut conn, b"too late");
        }
        rig.port.close(&mut rig.io, flow);
        rig.until(|rig| rig.frames.is_settled(place));
        rig.frames.store(place.at, b"the next");
        rig.until(|_| peer.read(&mut conn).1);
        assert_eq!(rig.frames.bytes(Span::new(place.at, 8)), b"the next");
    }
}

on_each_port!(a_directed_flow_that_is_resumed_lands, 64, 4);

/// Without the cancel, a flow whose body nobody wants any more would be deaf until the span is
/// full.
fn a_directed_flow_that_is_resumed_lands<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    rig.provide();
    let (mut conn, flow) = open(&mut rig, peer);
    for _ in 0..5 {
        rig.stop(flow);
        let place = Span::new(PLACE, 1000);
        rig.direct(flow, place);
        rig.turn();
        rig.port.resume(&mut rig.io, flow);
        rig.until(|rig| rig.frames.is_settled(place));
        let before = rig.seen(flow).bytes.len();
        push_all(&mut rig, peer, &mut conn, b"lands");
        rig.until(|rig| rig.seen(flow).bytes.len() == before + 5);
        assert_eq!(rig.take_filled(flow), None);
    }
}
