//! What only the kernel's TCP does: slow readers, limits of the system, addresses.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use impasto_region::Frames;
use impasto_ring::{Limits, Part, Port, Transmit, What, listen};
use impasto_uring::{Mode, Uring};
use rustix::process::{Resource, Rlimit};
use socket2::{Domain, Socket, Type};

use crate::{
    every,
    rig::{Kernel, Peer, Rig, limits, of_kernel, on_each_kernel, on_ipv4, on_kernel, pattern},
};

on_each_kernel!(
    a_slow_reader_gets_a_mebibyte_from_stored_bytes,
    what_follows_a_quiet_transmit_does_not_wait_for_others,
    closing_ends_a_transmit_that_nobody_reads,
    a_peer_that_never_reads_is_reset,
    at_the_limit_of_flows_connections_wait_until_one_closes,
    both_families_and_several_listeners_share_one_port,
    after_stop_accepting_connections_are_refused_and_flows_go_on,
    everything_may_be_dropped_in_any_order_with_flows_open,
    out_of_descriptors_accepting_rests_and_goes_on_when_a_flow_closes,
);

/// Without the rest of a short send, a reader that is slower than us would miss bytes.
fn a_slow_reader_gets_a_mebibyte_from_stored_bytes<I: Kernel>() {
    let (mut rig, peer) = on_kernel::<I>(Mode::Incremental, 64, 8);
    rig.provide();
    let mut conn = peer.open();
    let bytes = pattern(3, 1 << 20);
    let mut pushed = 0;
    // What has landed stays.
    rig.is_withholding = true;
    rig.until(|rig| {
        pushed += peer.push(&mut conn, &bytes[pushed..]);
        rig.seen.values().any(|seen| seen.bytes.len() == bytes.len())
    });
    let flow = rig.opened[0];
    let parts = rig.seen(flow).extents.iter().map(|extent| Part::Stored(*extent)).collect();
    let transmit = Transmit { bytes: Vec::new(), parts };
    rig.port.transmit(&mut rig.io, &rig.frames, flow, transmit);
    conn.set_nonblocking(false).unwrap();
    let reader = std::thread::spawn(move || {
        let mut all: Vec<u8> = Vec::new();
        let mut piece = vec![0; 10_000];
        while all.len() < 1 << 20 {
            let count = conn.read(&mut piece).unwrap();
            all.extend(&piece[..count]);
        }
        all
    });
    rig.until(|rig| !rig.sent.is_empty());
    assert!(rig.sent[0].result.is_ok(), "{:?}", rig.sent);
    assert!(reader.join().unwrap() == bytes);
}

/// Without the re-arm behind data that came last, a completion queue that ran over would leave
/// flows deaf.
#[test]
fn receives_go_on_after_an_overflow_of_completions() {
    let (rig, peer) = on_ipv4::<Uring>(1, limits(64, 2));
    every::streams_arrive_whole_and_in_order_over_few_buffers_and_slots(rig, &peer);
}

/// Without the wake-up, the end of a stream would wait behind a reply until somebody else does
/// something.
fn what_follows_a_quiet_transmit_does_not_wait_for_others<I: Kernel>() {
    for closes in [false, true] {
        let (mut rig, peer) = on_kernel::<I>(Mode::Incremental, 64, 2);
        rig.provide();
        let mut conn = peer.open();
        rig.until(|rig| !rig.opened.is_empty());
        rig.turn();
        let flow = rig.opened[0];
        let (bytes, parts) = (b"bye".to_vec(), vec![Part::Bytes { at: 0, len: 3 }]);
        rig.port.transmit_quiet(&mut rig.io, &rig.frames, flow, Transmit { bytes, parts });
        if closes {
            rig.port.close(&mut rig.io, flow);
        } else {
            rig.port.shut(&mut rig.io, flow);
        }
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            conn.set_nonblocking(false).unwrap();
            conn.read_to_string(&mut all).map(|_| all).unwrap()
        });
        // These end, though nothing happens but on this flow.
        let start = Instant::now();
        while rig.sent.is_empty() {
            rig.io.enter(Some(Duration::from_secs(10)));
            rig.turn();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it waited for others");
        assert!(rig.sent[0].result.is_ok(), "{:?}", rig.sent);
        rig.io.enter(Some(Duration::ZERO));
        assert_eq!(reader.join().unwrap(), "bye");
    }
}

/// Without the cancel of the send, a reader that stopped reading would keep its flow for ever.
fn closing_ends_a_transmit_that_nobody_reads<I: Kernel>() {
    let (mut rig, peer) = on_kernel::<I>(Mode::Incremental, 64, 2);
    rig.provide();
    let conn = peer.open();
    rig.until(|rig| !rig.opened.is_empty());
    let flow = rig.opened[0];
    let bytes = vec![7; 32 << 20];
    let parts = vec![Part::Bytes { at: 0, len: 32 << 20 }];
    rig.port.transmit(&mut rig.io, &rig.frames, flow, Transmit { bytes, parts });
    rig.turn();
    rig.turn();
    assert!(rig.sent.is_empty(), "more than the socket takes");
    rig.port.close(&mut rig.io, flow);
    rig.until(|rig| rig.port.flows() == 0);
    assert!(rig.sent[0].result.is_err());
    assert_eq!(rig.sent[0].transmit.bytes.len(), 32 << 20);
    drop(conn);
}

/// Without the time-out, a peer that stops reading would keep its flow, and the bytes of the reply,
/// for ever; without the mark of the break, what ends would pass for the peer's orderly end.
fn a_peer_that_never_reads_is_reset<I: Kernel>() {
    for is_paused in [false, true] {
        let limits = Limits { stall_max: Duration::from_millis(300), ..limits(64, 2) };
        let (mut rig, peer) = on_ipv4::<I>(64, limits);
        rig.provide();
        let mut conn = peer.open();
        peer.push(&mut conn, b"request");
        rig.until(|rig| rig.seen.values().any(|seen| seen.bytes == b"request"));
        let flow = rig.opened[0];
        if is_paused {
            rig.port.pause(&mut rig.io, flow);
        }
        let bytes = vec![7; 32 << 20];
        let parts = vec![Part::Bytes { at: 0, len: 32 << 20 }];
        rig.port.transmit(&mut rig.io, &rig.frames, flow, Transmit { bytes, parts });
        rig.until(|rig| !rig.sent.is_empty());
        assert!(rig.sent[0].result.is_err(), "{:?}", rig.sent[0].result);
        rig.until(|rig| rig.seen(flow).is_over == Some(What::Reset));
        rig.port.close(&mut rig.io, flow);
        rig.until(|rig| rig.port.flows() == 0);
    }
}

/// Without the limit one peer could take all descriptors; without the re-arm nobody could connect
/// again.
fn at_the_limit_of_flows_connections_wait_until_one_closes<I: Kernel>() {
    let limits = Limits { flows_max: 2, ..limits(64, 2) };
    let (mut rig, peer) = on_ipv4::<I>(64, limits);
    rig.provide();
    let mut conns: Vec<_> = (0..6).map(|_| peer.open()).collect();
    for conn in &mut conns {
        peer.push(conn, b"hello");
    }
    for expected in 2..=6 {
        rig.until(|rig| {
            rig.opened.len() == expected && rig.seen.values().all(|seen| seen.bytes == b"hello")
        });
        rig.turn();
        assert_eq!((rig.opened.len(), rig.port.flows()), (expected, 2));
        let flow = rig.opened[expected - 2];
        rig.port.close(&mut rig.io, flow);
    }
}

fn both_families_and_several_listeners_share_one_port<I: Kernel>() {
    // A number that is free in both families.
    let (first, second) = std::iter::repeat_with(|| {
        let first = listen((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let number = first.local_addr().unwrap().port();
        Some((first, listen((Ipv4Addr::UNSPECIFIED, number).into()).ok()?))
    })
    .find_map(|listeners| listeners)
    .unwrap();
    let number = first.local_addr().unwrap().port();
    let third = listen((Ipv6Addr::LOCALHOST, 0).into()).unwrap();
    let addresses = [
        (Ipv6Addr::LOCALHOST, number).into(),
        (Ipv4Addr::LOCALHOST, number).into(),
        third.local_addr().unwrap(),
    ];
    let mut rig = of_kernel::<I>(64, limits(64, 2), [first, second, third]);
    rig.provide();
    let mut conns = addresses.map(|address: SocketAddr| TcpStream::connect(address).unwrap());
    for conn in &mut conns {
        conn.write_all(b"hello").unwrap();
    }
    rig.until(|rig| rig.seen.values().filter(|seen| seen.bytes == b"hello").count() == 3);
}

fn after_stop_accepting_connections_are_refused_and_flows_go_on<I: Kernel>() {
    let (mut rig, peer) = on_kernel::<I>(Mode::Incremental, 64, 2);
    rig.provide();
    let mut conn = peer.open();
    rig.until(|rig| !rig.opened.is_empty());
    rig.port.stop_accepting(&mut rig.io);
    rig.until(|_| TcpStream::connect_timeout(&peer.0, Duration::from_secs(1)).is_err());
    peer.push(&mut conn, b"still here");
    let flow = rig.opened[0];
    rig.until(|rig| rig.seen(flow).bytes == b"still here");
}

/// Without the order in `Uring`'s drop, the kernel would write into frames that are unmapped.
fn everything_may_be_dropped_in_any_order_with_flows_open<I: Kernel>() {
    for order in 0..2 {
        let (mut rig, peer) = on_kernel::<I>(Mode::Incremental, 64, 2);
        rig.provide();
        let mut conns: Vec<_> = (0..3).map(|_| peer.open()).collect();
        rig.until(|rig| rig.opened.len() == 3);
        let (bytes, parts) = (vec![7; 32 << 20], vec![Part::Bytes { at: 0, len: 32 << 20 }]);
        let flow = rig.opened[0];
        rig.port.transmit(&mut rig.io, &rig.frames, flow, Transmit { bytes, parts });
        rig.turn();
        let Rig { frames, port, io, .. } = rig;
        match order {
            0 => drop((frames, port, io)),
            _ => drop((io, frames, port)),
        }
        for conn in &mut conns {
            // Received by nobody, or refused.
            let _result = conn.write(b"late");
        }
    }
}

/// Without the rest, a system out of descriptors would make the loop spin; without the re-arm it
/// would never accept again. In a process of its own, because the limit is the process's.
fn out_of_descriptors_accepting_rests_and_goes_on_when_a_flow_closes<I: Kernel>() {
    const CHILD: &str = "IMPASTO_TEST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let by = if I::BY_READINESS { "epoll" } else { "uring" };
        let name = "out_of_descriptors_accepting_rests_and_goes_on_when_a_flow_closes";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child
            .args(["--exact", &format!("kernel::by_{by}::{name}"), "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let has_run = String::from_utf8_lossy(&output.stdout).contains("1 passed");
        assert!(output.status.success() && has_run, "{output:?}");
        return;
    }
    let (mut rig, peer) = on_kernel::<I>(Mode::Incremental, 64, 2);
    rig.provide();
    let clients = [(); 2].map(|()| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    // One more descriptor fits. The kernel looks at the limit when an accept is submitted.
    let next = clients[0].try_clone().unwrap().as_raw_fd();
    let before = rustix::process::getrlimit(Resource::Nofile);
    let limit = Rlimit { current: Some(next as u64 + 1), ..before };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    for client in &clients {
        client.connect(&peer.0.into()).unwrap();
    }
    let (start, mut turns) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(400) {
        rig.turn();
        turns += 1;
    }
    assert_eq!(rig.opened.len(), 1, "no descriptor is left");
    assert!(turns < 100, "{turns} turns: it spins");
    let flow = rig.opened[0];
    rig.port.close(&mut rig.io, flow);
    rig.until(|rig| rig.opened.len() == 2);
}

/// Without frames of its own a port could be given buffers of another memory.
#[test]
#[should_panic(expected = "the frames that it was made with")]
fn a_port_lands_in_its_frames_only() {
    let (mut rig, _) = on_kernel::<Uring>(Mode::Incremental, 64, 2);
    let geometry = impasto_region::layout::Geometry::new(16 << 20).unwrap();
    let mut other = Frames::anonymous(geometry, 2).unwrap();
    rig.port.provide(&mut rig.io, &mut other, geometry.bufs_end());
}
