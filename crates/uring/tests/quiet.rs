//! Quiet sends on real sockets.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::mpsc,
    thread,
    time::Duration,
};

use impasto_region::{Frames, Span, layout::Geometry};
use impasto_uring::{BufGroup, Completion, Fd, Handed, Owner, Piece, Token, Uring};
use rustix::{io::Errno, net::sockopt};

fn token(value: u64) -> Token {
    Token { owner: Owner::Port, value }
}

fn frames() -> Frames {
    Frames::anonymous(Geometry::new(16 << 20).unwrap(), 1).unwrap()
}

/// Both sides of a connection with small buffers.
fn pair() -> (TcpStream, Fd) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    sockopt::set_socket_send_buffer_size(listener.as_fd(), 16 << 10).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    sockopt::set_socket_recv_buffer_size(client.as_fd(), 64 << 10).unwrap();
    let server = listener.accept().unwrap().0;
    server.set_nodelay(true).unwrap();
    (client, server.into())
}

fn whole(bytes: &[u8]) -> [Piece; 1] {
    [Piece::Bytes { at: 0, len: u32::try_from(bytes.len()).unwrap() }]
}

fn go_on(reader: &mpsc::Sender<()>) {
    // One that has read everything is gone.
    let _gone = reader.send(());
}

fn errno(done: &Completion) -> Option<Errno> {
    done.result.as_ref().err().and_then(Errno::from_io_error)
}

/// Sends what a full socket takes, quietly, until it takes no more.
fn fill(io: &mut Uring, frames: &Frames, socket: &Fd) {
    loop {
        let bytes = vec![0; 4096];
        let pieces = whole(&bytes);
        let op = io.send_quiet(token(0), socket, frames, bytes, pieces);
        io.enter(Some(Duration::ZERO)).unwrap();
        if io.completion(Owner::Port).is_none() {
            io.cancel(op);
            while io.in_flight() > 0 {
                io.enter(None).unwrap();
            }
            let done = io.completion(Owner::Port).unwrap();
            assert_eq!(errno(&done), Some(Errno::CANCELED), "{done:?}");
            return;
        }
    }
}

/// Without silence a request would cost two system calls: one that the reply ends at once, and one
/// that waits for the next request.
#[test]
fn one_enter_sends_a_reply_and_waits_for_the_next_request() {
    // No more than a buffer has pieces, for kernels where each receive takes one.
    const ROUNDS: u32 = 60;
    let (mut frames, mut io) = (frames(), Uring::new(8).unwrap());
    let mut group = BufGroup::new(&mut io, &frames, 1).unwrap();
    group.provide(&mut frames, Geometry::new(16 << 20).unwrap().bufs_end());
    let (mut client, server) = pair();
    io.receive(token(1), &server, &group);
    io.enter(Some(Duration::ZERO)).unwrap();
    let client = thread::spawn(move || {
        for _ in 0..ROUNDS {
            let mut reply = [0; 11];
            client.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"reply in 2 ");
            client.write_all(b"request").unwrap();
        }
        client
    });
    frames.store(4096, b"in 2 ");
    for _ in 0..ROUNDS {
        let pieces = [Piece::Bytes { at: 0, len: 6 }, Piece::Stored(Span::new(4096, 5))];
        io.send_quiet(token(2), &server, &frames, b"reply ".to_vec(), pieces);
        io.enter(None).unwrap();
        let request = io.completion(Owner::Port).unwrap();
        assert_eq!((request.token, request.result.unwrap()), (token(1), 7));
        let Handed::Landed(landing) = request.handed else { panic!("no bytes") };
        group.land(&mut frames, landing);
        let sent = io.completion(Owner::Port).unwrap();
        assert_eq!((sent.token, sent.result.unwrap(), sent.more), (token(2), 11, false));
        assert!(matches!(sent.handed, Handed::Bytes(bytes) if bytes == b"reply "));
        assert_eq!(io.in_flight(), 1);
    }
    drop(client.join().unwrap());
}

/// Without the fallback, what a full socket does not take at once would be lost, repeated, or given
/// back while the kernel has not taken it. Few entries, so that the completion queue runs over.
#[test]
fn slow_readers_get_all_bytes_of_quiet_sends_in_order() {
    const FLOWS: u64 = 40;
    const ROUNDS: u64 = 50;
    // Of a flow's round: every message tells both.
    let message = |flow: u64, round: u64| -> Vec<u8> {
        let number = (flow * ROUNDS + round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let len = usize::try_from(number >> 50).unwrap() + 1;
        number.to_le_bytes().repeat(len.div_ceil(8))[..len].to_vec()
    };
    for entries in [1, 4, 64] {
        let (mut frames, mut io) = (frames(), Uring::new(entries).unwrap());
        let (clients, servers): (Vec<_>, Vec<_>) = (0..FLOWS).map(|_| pair()).unzip();
        let mut start = |io: &mut Uring, flow: u64, mut bytes: Vec<u8>, round: u64| {
            // The memory of the round before is written over: it has to be the kernel's no more.
            let all = message(flow, round);
            let (own, stored) = all.split_at(all.len() / 2);
            bytes.clear();
            bytes.extend_from_slice(own);
            let span = Span::new(4096 + flow * 16384, stored.len() as u64);
            frames.store(span.at, stored);
            let pieces = [whole(&bytes)[0], Piece::Stored(span)];
            let socket = &servers[usize::try_from(flow).unwrap()];
            io.send_quiet(token(flow | round << 32), socket, &frames, bytes, pieces);
        };
        (0..FLOWS).for_each(|flow| start(&mut io, flow, Vec::new(), 0));
        // They read on when every socket is full.
        let (goes, readers): (Vec<_>, Vec<_>) = (0..)
            .zip(clients)
            .map(|(flow, mut client)| {
                let (go, may_go) = mpsc::channel::<()>();
                let reader = thread::spawn(move || {
                    for round in 0..ROUNDS {
                        if round % 5 == 0 {
                            may_go.recv().unwrap();
                        }
                        let expected = message(flow, round);
                        let mut got = vec![0; expected.len()];
                        client.read_exact(&mut got).unwrap();
                        assert!(got == expected, "flow {flow}, round {round}");
                    }
                });
                (go, reader)
            })
            .unzip();
        let (mut left, mut stops) = (FLOWS * ROUNDS, 0);
        while left > 0 {
            io.enter(Some(Duration::from_millis(1))).unwrap();
            let before = left;
            while let Some(done) = io.completion(Owner::Port) {
                let (flow, round) = (done.token.value & 0xffff_ffff, done.token.value >> 32);
                let sent = usize::try_from(done.result.unwrap()).unwrap();
                assert_eq!(sent, message(flow, round).len());
                let Handed::Bytes(bytes) = done.handed else { panic!("{:?}", done.handed) };
                left -= 1;
                if round + 1 < ROUNDS {
                    start(&mut io, flow, bytes, round + 1);
                }
            }
            if left == before {
                stops += 1;
                goes.iter().for_each(go_on);
            }
        }
        assert!(stops > 1, "sockets were full");
        (0..ROUNDS).for_each(|_| goes.iter().for_each(go_on));
        assert_eq!(io.in_flight(), 0);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }
}

/// Without a look at the overflow, a send whose refusal waits there for room would be taken for
/// sent.
#[test]
fn a_refusal_behind_an_overflow_of_completions_is_not_taken_for_silence() {
    let (frames, mut io) = (frames(), Uring::new(1).unwrap());
    let ((_reader, full), (mut client, server)) = (pair(), pair());
    fill(&mut io, &frames, &full);
    // The queue holds 8, and the kernel moves on so many with each call.
    let polls = Token { owner: Owner::Dev, value: 0 };
    for _ in 0..40 {
        io.poll(polls, &server);
    }
    io.enter(Some(Duration::ZERO)).unwrap();
    client.write_all(b"x").unwrap();
    io.enter(Some(Duration::ZERO)).unwrap();
    let op = io.send_quiet(token(1), &full, &frames, b"reply".to_vec(), whole(b"reply"));
    while io.in_flight() > 1 {
        io.enter(Some(Duration::ZERO)).unwrap();
        let done = io.completion(Owner::Port);
        assert!(done.is_none(), "nobody has read anything: {done:?}");
    }
    io.cancel(op);
    while io.in_flight() > 0 {
        io.enter(None).unwrap();
    }
    let done = io.completion(Owner::Port).unwrap();
    assert_eq!(errno(&done), Some(Errno::CANCELED), "{done:?}");
}

/// Taken for silence, an error would be reported as sent.
#[test]
fn a_quiet_send_that_fails_says_so() {
    let (frames, mut io) = (frames(), Uring::new(8).unwrap());
    let (client, server) = pair();
    rustix::net::shutdown(server.as_fd(), rustix::net::Shutdown::Write).unwrap();
    let pieces = whole(b"late");
    for _ in 0..2 {
        io.send_quiet(token(1), &server, &frames, b"late".to_vec(), pieces);
        io.enter(None).unwrap();
        let done = io.completion(Owner::Port).unwrap();
        assert_eq!(errno(&done), Some(Errno::PIPE), "{done:?}");
    }
    let (_other, full) = pair();
    fill(&mut io, &frames, &full);
    // An empty one has nothing to be quiet about.
    io.send_quiet(token(2), &full, &frames, Vec::new(), []);
    io.enter(None).unwrap();
    assert_eq!(io.completion(Owner::Port).unwrap().result.unwrap(), 0);
    drop(client);
}

/// Without an end of their own in `drop`, quiet sends would be waited for until patience is over.
#[test]
fn a_ring_dropped_with_quiet_sends_under_way_does_not_wait_for_their_completions() {
    let (frames, mut io) = (frames(), Uring::new(2).unwrap());
    let pairs = [(); 4].map(|()| pair());
    fill(&mut io, &frames, &pairs[0].1);
    for (_, socket) in &pairs {
        io.send_quiet(token(1), socket, &frames, b"reply".to_vec(), whole(b"reply"));
    }
    let map = std::sync::Arc::downgrade(&frames.map());
    drop((frames, io));
    assert!(map.upgrade().is_none(), "the kernel has let go of everything");
}
