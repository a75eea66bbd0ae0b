//! What holds for every port: each scenario runs in memory and on the kernel's TCP, by io_uring
//! with incremental landing buffers and with pieces, and by epoll.

use impasto_epoll::Epoll;
use impasto_region::{Extent, layout::BUF_BYTES};
use impasto_ring::{Part, Port, Transmit, What};
use impasto_uring::{Mode, Uring};

use crate::rig::{Peer, Random, Rig, Wait, pattern};

macro_rules! on_each_port {
    ($scenario:ident, $slots:expr, $bufs:expr) => {
        mod $scenario {
            use super::*;

            #[test]
            fn in_memory() {
                let (rig, peer) = crate::rig::in_memory($slots, $bufs);
                super::$scenario(rig, &peer);
            }

            #[test]
            fn on_kernel_incremental() {
                let (rig, peer) = crate::rig::on_kernel::<Uring>(Mode::Incremental, $slots, $bufs);
                super::$scenario(rig, &peer);
            }

            #[test]
            fn on_kernel_in_pieces() {
                let (rig, peer) = crate::rig::on_kernel::<Uring>(Mode::Pieces, $slots, $bufs);
                super::$scenario(rig, &peer);
            }

            #[test]
            fn on_kernel_by_epoll() {
                let (rig, peer) = crate::rig::on_kernel::<Epoll>(Mode::Incremental, $slots, $bufs);
                super::$scenario(rig, &peer);
            }
        }
    };
}
pub(crate) use on_each_port;

/// Opens a connection and returns its flow.
pub(crate) fn open<P: Port<I>, I: Wait, R: Peer>(
    rig: &mut Rig<P, I>,
    peer: &R,
) -> (R::Conn, impasto_ring::FlowId) {
    let before = rig.opened.len();
    let conn = peer.open();
    rig.until(|rig| rig.opened.len() > before);
    (conn, rig.opened[before])
}

/// Pushes all of `bytes`, taking turns in between.
pub(crate) fn push_all<P: Port<I>, I: Wait, R: Peer>(
    rig: &mut Rig<P, I>,
    peer: &R,
    conn: &mut R::Conn,
    bytes: &[u8],
) {
    let mut pushed = 0;
    rig.until(|_| {
        pushed += peer.push(conn, &bytes[pushed..]);
        pushed == bytes.len()
    });
}

on_each_port!(streams_arrive_whole_and_in_order_over_few_buffers_and_slots, 8, 2);

/// Without holds, backpressure of slots, and offsets in the order of completions, bytes would be
/// lost, mixed between flows, or overwritten while a slot still names them.
pub(crate) fn streams_arrive_whole_and_in_order_over_few_buffers_and_slots<P, I, R>(
    mut rig: Rig<P, I>,
    peer: &R,
) where
    P: Port<I>,
    I: Wait,
    R: Peer,
{
    const CONNS: usize = 12;
    let mut random = Random::new();
    rig.provide();
    let mut conns: Vec<_> = (0..CONNS).map(|_| open(&mut rig, peer)).collect();
    let lengths: Vec<usize> = (0..CONNS).map(|_| 1 + random.below(600_000)).collect();
    let streams: Vec<_> = (0..CONNS).map(|at| pattern(at, lengths[at])).collect();
    let mut pushed = [0; CONNS];
    let mut held = None;
    rig.until(|rig| {
        for (at, (conn, _)) in conns.iter_mut().enumerate() {
            let left = lengths[at] - pushed[at];
            let now = left.min(1 + random.below(20_000));
            pushed[at] += peer.push(conn, &streams[at][pushed[at]..][..now]);
        }
        // A hold for a turn: the buffer comes back later.
        if let Some(buf) = held.take() {
            rig.port.ring().unhold(buf);
        } else if let Some(extent) = rig.seen.values().find_map(|seen| seen.extents.last()) {
            rig.port.ring().hold(extent.buf);
            held = Some(extent.buf);
        }
        pushed[..] == lengths[..]
    });
    if let Some(buf) = held {
        rig.port.ring().unhold(buf);
    }
    for (conn, _) in &mut conns {
        peer.end(conn);
    }
    rig.until(|rig| rig.seen.values().all(|seen| seen.is_over.is_some()));
    for (at, (_, flow)) in conns.iter().enumerate() {
        let seen = rig.seen(*flow);
        assert_eq!(seen.is_over, Some(What::End));
        assert!(seen.bytes == streams[at], "stream {at}");
    }
}

on_each_port!(buffers_are_filled_to_their_last_byte, 64, 2);

/// Without the rest of a buffer, a parser that expects cuts anywhere would never be tested, and
/// space would leak.
fn buffers_are_filled_to_their_last_byte<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    rig.provide();
    let (mut conn, flow) = open(&mut rig, peer);
    let bytes = pattern(1, BUF_BYTES as usize * 5 / 2);
    push_all(&mut rig, peer, &mut conn, &bytes);
    rig.until(|rig| rig.seen(flow).bytes.len() == bytes.len());
    assert!(rig.seen(flow).bytes == bytes);
    let ends = |extent: &&Extent| extent.offset + extent.len == BUF_BYTES;
    assert_eq!(rig.seen(flow).extents.iter().filter(ends).count(), 2);
}

on_each_port!(a_paused_flow_loses_nothing, 64, 4);

/// Without the re-arm after a cancel that was overtaken by a resume, the flow would be deaf for
/// ever.
fn a_paused_flow_loses_nothing<P: Port<I>, I: Wait, R: Peer>(mut rig: Rig<P, I>, peer: &R) {
    rig.provide();
    let (mut paused, first) = open(&mut rig, peer);
    let (mut other, second) = open(&mut rig, peer);
    let bytes = pattern(1, 100_000);
    rig.port.pause(&mut rig.io, first);
    rig.port.pause(&mut rig.io, first);
    rig.turn();
    let landed = rig.seen(first).bytes.len();
    push_all(&mut rig, peer, &mut paused, &bytes[..20_000]);
    push_all(&mut rig, peer, &mut other, &bytes);
    rig.until(|rig| rig.seen(second).bytes.len() == bytes.len());
    assert_eq!(rig.seen(first).bytes.len(), landed, "paused");
    for at in 1..=8 {
        // In one turn, in both orders: cancel and re-arm overtake each other.
        rig.port.resume(&mut rig.io, first);
        rig.port.pause(&mut rig.io, first);
        rig.port.resume(&mut rig.io, first);
        push_all(&mut rig, peer, &mut paused, &bytes[at * 10_000 + 10_000..][..10_000]);
        rig.until(|rig| rig.seen(first).bytes.len() == at * 10_000 + 20_000);
        rig.port.pause(&mut rig.io, first);
    }
    assert!(rig.seen(first).bytes == bytes);
}

on_each_port!(end_and_reset_follow_what_was_sent_before, 64, 4);

fn end_and_reset_follow_what_was_sent_before<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    rig.provide();
    let (mut ending, first) = open(&mut rig, peer);
    let (mut breaking, second) = open(&mut rig, peer);
    let (mut staying, third) = open(&mut rig, peer);
    peer.push(&mut ending, b"the last words");
    peer.end(&mut ending);
    peer.push(&mut breaking, b"cut");
    rig.until(|rig| rig.seen(second).bytes == b"cut");
    peer.reset(breaking);
    rig.until(|rig| rig.seen(first).is_over.is_some() && rig.seen(second).is_over.is_some());
    assert_eq!(rig.seen(first).bytes, b"the last words");
    assert_eq!(rig.seen(first).is_over, Some(What::End));
    assert_eq!(rig.seen(second).is_over, Some(What::Reset));
    // The ended flow still takes an answer, the broken one does not.
    for flow in [first, second] {
        let (bytes, parts) = (b"answer".to_vec(), vec![Part::Bytes { at: 0, len: 6 }]);
        rig.port.transmit(&mut rig.io, &rig.frames, flow, Transmit { bytes, parts });
    }
    rig.until(|rig| rig.sent.len() == 2);
    for sent in &rig.sent {
        assert_eq!(sent.result.is_ok(), sent.flow == first);
        assert_eq!(sent.transmit.bytes, b"answer");
    }
    let mut answer = Vec::new();
    rig.until(|_| {
        answer.extend(peer.read(&mut ending).0);
        answer == b"answer"
    });
    peer.push(&mut staying, b"not concerned");
    rig.until(|rig| rig.seen(third).bytes == b"not concerned");
}

on_each_port!(a_transmit_mixes_memory_and_stored_bytes, 64, 4);

fn a_transmit_mixes_memory_and_stored_bytes<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    rig.provide();
    let (mut conn, flow) = open(&mut rig, peer);
    push_all(&mut rig, peer, &mut conn, b"stored bytes");
    rig.until(|rig| rig.seen(flow).bytes.len() == 12);
    let extent = rig.seen(flow).extents[0];
    rig.port.ring().hold(extent.buf);
    let mut received = Vec::new();
    let mut transmit = Transmit::default();
    for round in 0..3 {
        transmit.bytes.extend_from_slice(b"<>");
        transmit.parts.push(Part::Bytes { at: 0, len: 1 });
        transmit.parts.push(Part::Stored(extent.part(0, 6)));
        transmit.parts.push(Part::Stored(extent.part(0, 0)));
        transmit.parts.push(Part::Bytes { at: 1, len: 1 });
        rig.port.transmit(&mut rig.io, &rig.frames, flow, transmit);
        rig.until(|rig| rig.sent.len() == 1);
        let sent = rig.sent.pop().unwrap();
        assert!(sent.result.is_ok(), "{sent:?}");
        transmit = sent.transmit;
        transmit.bytes.clear();
        transmit.parts.clear();
        rig.until(|_| {
            received.extend(peer.read(&mut conn).0);
            received.len() == 8 * (round + 1)
        });
    }
    assert_eq!(received, b"<stored><stored><stored>");
}

on_each_port!(a_shut_flow_still_receives, 64, 4);

fn a_shut_flow_still_receives<P: Port<I>, I: Wait, R: Peer>(mut rig: Rig<P, I>, peer: &R) {
    rig.provide();
    let (mut conn, flow) = open(&mut rig, peer);
    let (bytes, parts) = (b"bye".to_vec(), vec![Part::Bytes { at: 0, len: 3 }]);
    rig.port.transmit(&mut rig.io, &rig.frames, flow, Transmit { bytes, parts });
    rig.port.shut(&mut rig.io, flow);
    let mut received = Vec::new();
    rig.until(|_| {
        let (bytes, is_over) = peer.read(&mut conn);
        received.extend(bytes);
        is_over
    });
    assert_eq!(received, b"bye");
    push_all(&mut rig, peer, &mut conn, b"still here");
    rig.until(|rig| rig.seen(flow).bytes == b"still here");
}

on_each_port!(a_closed_flow_is_silent_and_its_index_gets_another_name, 64, 4);

/// Without generations a late slot or transmit would reach the wrong connection.
fn a_closed_flow_is_silent_and_its_index_gets_another_name<P: Port<I>, I: Wait, R: Peer>(
    mut rig: Rig<P, I>,
    peer: &R,
) {
    rig.provide();
    let mut names = Vec::new();
    for _ in 0..5 {
        let (mut conn, flow) = open(&mut rig, peer);
        peer.push(&mut conn, b"never looked at");
        // Some of it may be in the ring already.
        rig.io.wait();
        rig.port.receive(&mut rig.io, &mut rig.frames);
        rig.port.close(&mut rig.io, flow);
        rig.port.close(&mut rig.io, flow);
        rig.until(|_| peer.read(&mut conn).1);
        assert_eq!(rig.seen(flow).bytes, b"");
        rig.port.transmit(&mut rig.io, &rig.frames, flow, Transmit::default());
        rig.until(|rig| rig.sent.pop().is_some_and(|sent| sent.result.is_err()));
        names.push(flow);
    }
    assert!(names.iter().all(|name| name.index == names[0].index), "{names:?}");
    assert_eq!(rig.opened, names);
}

on_each_port!(bytes_wait_for_a_buffer_to_land_in, 64, 2);

/// Without the re-arm at `provide`, flows that once found no buffer would never receive again.
fn bytes_wait_for_a_buffer_to_land_in<P: Port<I>, I: Wait, R: Peer>(mut rig: Rig<P, I>, peer: &R) {
    let streams: Vec<_> = (0..4).map(|at| pattern(at, 1 << 20)).collect();
    let mut pushed = [0; 4];
    rig.is_withholding = true;
    let mut conns: Vec<_> = (0..4).map(|_| open(&mut rig, peer)).collect();
    for (at, (conn, _)) in conns.iter_mut().enumerate() {
        pushed[at] = peer.push(conn, &streams[at][..5_000]);
    }
    for _ in 0..3 {
        rig.turn();
    }
    assert!(rig.seen.values().all(|seen| seen.bytes.is_empty()));
    rig.provide();
    rig.until(|rig| {
        for (at, (conn, _)) in conns.iter_mut().enumerate() {
            let now = (streams[at].len() - pushed[at]).min(100_000);
            pushed[at] += peer.push(conn, &streams[at][pushed[at]..][..now]);
        }
        if rig.bufs.len() == 2 {
            // All flows that have something run into the want of buffers.
            rig.turn();
            rig.provide();
        }
        rig.seen.values().zip(&streams).all(|(seen, stream)| seen.bytes.len() == stream.len())
    });
    for ((_, flow), stream) in conns.iter().zip(&streams) {
        assert!(rig.seen(*flow).bytes == *stream, "{flow:?}");
    }
}
