//! Many flows at once.

use impasto_ring::Port;
use impasto_uring::Mode;
use rustix::process::{Resource, Rlimit};

use crate::rig::{Kernel, Peer, Tcp, Tcps, on_each_kernel, on_kernel, pattern};

on_each_kernel!(
    a_thousand_flows_that_send_at_once_share_four_buffers,
    half_of_a_thousand_flows_close_in_one_turn_and_the_others_go_on
);

const FLOWS: usize = 1000;

/// A thousand flows that have found no buffer.
fn starved<I: Kernel>(mode: Mode, bufs: u32) -> (Tcps<I>, Vec<<Tcp as Peer>::Conn>) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .unwrap();
    let (mut rig, peer) = on_kernel(mode, 256, bufs);
    // Clients and turns by turns: the kernel's queue of connections may be short.
    let mut conns = Vec::new();
    while conns.len() < FLOWS {
        conns.extend((0..100).map(|_| peer.open()));
        rig.until(|rig| rig.opened.len() == conns.len());
    }
    (rig, conns)
}

/// Without the order among flows that wait, some would find no buffer for ever; without an end of
/// their receives, all would spin on the want of one.
fn a_thousand_flows_that_send_at_once_share_four_buffers<I: Kernel>() {
    for mode in [Mode::Incremental, Mode::Pieces] {
        let (mut rig, mut conns) = starved::<I>(mode, 4);
        let peer = Tcp(conns[0].peer_addr().unwrap());
        let streams: Vec<_> = (0..FLOWS).map(|at| pattern(at, 10_000 + at)).collect();
        for (conn, stream) in conns.iter_mut().zip(&streams) {
            assert_eq!(peer.push(conn, stream), stream.len(), "fits into the socket");
        }
        let before = rig.io.calls();
        rig.provide();
        rig.until(|rig| {
            let lengths = rig.seen.values().map(|seen| seen.bytes.len());
            lengths.zip(&streams).all(|(length, stream)| length == stream.len())
        });
        // Ten megabytes by one are at least ten turns.
        let calls = rig.io.calls() - before;
        assert!(calls < 300, "{calls} system calls, {mode:?}");
        // Ids of flows are in the order of accepts, which is that of connects.
        for ((flow, seen), stream) in rig.seen.iter().zip(&streams) {
            assert!(seen.bytes == *stream, "{flow:?}");
        }
    }
}

/// Without a constant time for each, flows that end in one turn would cost the square of their
/// number; with the marks in the wrong place, slots of those that stay would go with them.
fn half_of_a_thousand_flows_close_in_one_turn_and_the_others_go_on<I: Kernel>() {
    let (mut rig, mut conns) = starved::<I>(Mode::Incremental, 4);
    let peer = Tcp(conns[0].peer_addr().unwrap());
    for conn in &mut conns {
        assert_eq!(peer.push(conn, b"hello"), 5);
    }
    rig.provide();
    // Slots of some are in the ring, of others are not.
    rig.io.enter(None);
    rig.port.receive(&mut rig.io, &mut rig.frames);
    let (stay, go): (Vec<_>, Vec<_>) = rig.opened.iter().partition(|flow| flow.index % 2 == 0);
    for flow in &go {
        rig.port.close(&mut rig.io, *flow);
    }
    rig.until(|rig| rig.port.flows() == stay.len());
    rig.until(|rig| stay.iter().all(|flow| rig.seen(*flow).bytes == b"hello"));
    assert!(go.iter().all(|flow| rig.seen(*flow).bytes.is_empty()));
}
