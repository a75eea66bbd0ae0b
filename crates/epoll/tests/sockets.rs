//! Operations on real sockets.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]
#![expect(clippy::cast_possible_truncation, reason = "the numbers are small")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use impasto_epoll::{BufGroup, Epoll, Landing, Waker};
use impasto_region::{BufId, Frames, Span, layout::Geometry};
use impasto_uring::{Completion, Fd, Handed, Owner, Piece, Token};
use rustix::{io::Errno, net::sockopt};

/// So long nothing here takes; what does not come fails instead of hanging.
const LONG: Duration = Duration::from_secs(10);

fn frames() -> (Frames, BufId) {
    let geometry = Geometry::new(16 << 20).unwrap();
    (Frames::anonymous(geometry, 4).unwrap(), geometry.bufs_end())
}

fn token(value: u64) -> Token {
    Token { owner: Owner::Port, value }
}

/// Enters until a completion is there.
fn next(io: &mut Epoll) -> Completion<Landing> {
    let start = Instant::now();
    loop {
        if let Some(completion) = io.completion(Owner::Port) {
            return completion;
        }
        assert!(start.elapsed() < LONG, "nothing more happens");
        io.enter(Some(LONG)).unwrap();
    }
}

fn errno(done: &Completion<Landing>) -> Option<Errno> {
    done.result.as_ref().err().and_then(Errno::from_io_error)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Both sides of a connection with small buffers.
fn tight_pair() -> (TcpStream, Fd) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    sockopt::set_socket_send_buffer_size(listener.as_fd(), 16 << 10).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    sockopt::set_socket_recv_buffer_size(client.as_fd(), 64 << 10).unwrap();
    (client, listener.accept().unwrap().0.into())
}

fn go_on(reader: &mpsc::Sender<()>) {
    // One that has read everything is gone.
    let _gone = reader.send(());
}

/// A turn without traffic ends with its time, and not before; a timer ends it, too.
#[test]
fn enter_waits_for_a_timer_or_the_timeout() {
    let mut io = Epoll::new().unwrap();
    let start = Instant::now();
    io.enter(Some(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    io.timer(token(1), Duration::from_millis(1));
    let done = next(&mut io);
    assert_eq!((done.token, errno(&done)), (token(1), Some(Errno::TIME)));
    assert!(start.elapsed() < LONG);
    io.timer(token(2), Duration::MAX);
    let op = io.timer(token(3), LONG);
    io.cancel(op);
    assert_eq!(errno(&next(&mut io)), Some(Errno::CANCELED));
}

/// Without the rest of a short send, a message above the socket's buffer or above 1,024 pieces
/// would arrive cut.
#[test]
fn a_send_of_many_pieces_arrives_whole() {
    let (mut frames, _) = frames();
    let stored: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 253) as u8).collect();
    frames.store(4096, &stored);
    let (mut client, server) = pair();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    let mut expected = Vec::new();
    let bytes: Vec<u8> = (0..3000_u32).map(|at| (at % 241) as u8).collect();
    let mut pieces = Vec::new();
    for at in 0..3000_u32 {
        pieces.push(Piece::Bytes { at, len: 1 });
        expected.push(bytes[at as usize]);
        let from = u64::from(at) * 100;
        pieces.push(Piece::Stored(Span::new(4096 + from, 300)));
        expected.extend(&stored[from as usize..][..300]);
    }
    for _ in 0..8 {
        pieces.push(Piece::Stored(Span::new(4096, 1 << 20)));
        expected.extend(&stored);
    }
    let mut io = Epoll::new().unwrap();
    let socket = Fd::from(server);
    io.send(token(1), &socket, &frames, bytes, pieces);
    let done = next(&mut io);
    assert_eq!(done.result.unwrap() as usize, expected.len());
    let Handed::Bytes(bytes) = done.handed else { panic!("{:?}", done.handed) };
    assert_eq!(bytes.len(), 3000);
    io.send(token(2), &socket, &frames, bytes, []);
    assert_eq!(next(&mut io).result.unwrap(), 0);
    io.close(socket);
    io.enter(Some(Duration::ZERO)).unwrap();
    assert!(reader.join().unwrap() == expected);
}

/// Without the second buffer of a receive a buffer's end would cut every stream; without the
/// account of each loan, bytes of a later receive would be taken for those of an earlier one.
#[test]
fn a_stream_fills_buffers_to_their_last_byte() {
    let (mut frames, landing) = frames();
    let mut io = Epoll::new().unwrap();
    let mut group = BufGroup::new(&frames, 2);
    let (mut client, server) = pair();
    let socket = Fd::from(server);
    let sent: Vec<u8> = (0..3_u32 << 20).map(|at| (at % 249) as u8).collect();
    let data = sent.clone();
    let writer = thread::spawn(move || {
        client.write_all(&data).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    let (mut received, mut starved, mut full) = (Vec::<u8>::new(), 0, 0);
    io.receive(token(1), &socket, &group);
    loop {
        let done = next(&mut io);
        if let Handed::Landed(landing) = done.handed {
            let landed = group.land(&mut frames, landing);
            let extent = landed.extent.unwrap();
            received.extend(frames.bytes(extent.span()));
            if let Some(buf) = landed.full {
                assert_eq!(extent.offset + extent.len, 256 << 10);
                assert!(frames.is_settled(buf.whole().span()));
                group.provide(&mut frames, buf);
                full += 1;
            }
        }
        match done.result {
            Ok(0) => break,
            Ok(_) => assert!(done.more),
            Err(error) => {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::NOBUFS));
                starved += 1;
                if group.provided() == 0 {
                    group.provide(&mut frames, landing);
                    group.provide(&mut frames, BufId(landing.0 + 1));
                }
                io.receive(token(1), &socket, &group);
            }
        }
    }
    assert!(starved > 0, "the first receive found no buffer");
    assert_eq!(full, (3 << 20) / (256 << 10));
    assert!(received == sent, "{} bytes", received.len());
    drop(writer.join().unwrap());
}

/// Without the numbers a forgotten landing would shift all that follow.
#[test]
#[should_panic(expected = "landings are taken in order")]
fn a_landing_left_out_is_noticed() {
    let (mut frames, landing) = frames();
    let mut io = Epoll::new().unwrap();
    let mut group = BufGroup::new(&frames, 2);
    group.provide(&mut frames, landing);
    let (mut client, server) = pair();
    io.receive(token(1), &Fd::from(server), &group);
    client.write_all(b"first").unwrap();
    drop(next(&mut io));
    client.write_all(b"second").unwrap();
    let Handed::Landed(landing) = next(&mut io).handed else { panic!("no bytes") };
    group.land(&mut frames, landing);
}

/// Without the exact length, the next request behind a body would be swallowed; without the span
/// of one that was cancelled, what was on loan would stay so.
#[test]
fn a_directed_receive_takes_what_is_there_and_nothing_behind_its_span() {
    let (mut frames, landing) = frames();
    let mut io = Epoll::new().unwrap();
    let mut group = BufGroup::new(&frames, 1);
    group.provide(&mut frames, landing);
    let (mut client, server) = pair();
    let socket = Fd::from(server);
    let span = Span::new(8192, 8);
    let op = io.receive_into(token(1), &socket, frames.loan_span(span));
    io.enter(Some(Duration::ZERO)).unwrap();
    io.cancel(op);
    let done = next(&mut io);
    assert_eq!(errno(&done), Some(Errno::CANCELED));
    let Handed::Filled(loan) = done.handed else { panic!("{:?}", done.handed) };
    assert!(!frames.is_settled(span));
    frames.settle_span(loan);
    assert!(frames.is_settled(span));

    client.write_all(b"the bodynext request").unwrap();
    io.receive_into(token(2), &socket, frames.loan_span(span));
    let done = next(&mut io);
    assert_eq!(done.result.unwrap(), 8);
    let Handed::Filled(loan) = done.handed else { panic!("{:?}", done.handed) };
    frames.settle_span(loan);
    assert_eq!(frames.bytes(span), b"the body");
    io.receive(token(3), &socket, &group);
    let Handed::Landed(landing) = next(&mut io).handed else { panic!("no bytes") };
    let extent = group.land(&mut frames, landing).extent.unwrap();
    assert_eq!(frames.bytes(extent.span()), b"next request");
}

/// Level-triggered, what nobody takes is told again and again: a flow that is paused, broken or at
/// its end would keep the loop from ever waiting.
#[test]
fn what_nobody_waits_for_does_not_end_waits() {
    enum Peer {
        Sends,
        Ends,
        Breaks,
    }
    for peer in [Peer::Sends, Peer::Ends, Peer::Breaks] {
        let (mut frames, landing) = frames();
        let mut io = Epoll::new().unwrap();
        let mut group = BufGroup::new(&frames, 1);
        group.provide(&mut frames, landing);
        let (mut client, server) = pair();
        let socket = Fd::from(server);
        let op = io.receive(token(1), &socket, &group);
        io.enter(Some(Duration::ZERO)).unwrap();
        io.cancel(op);
        assert_eq!(errno(&next(&mut io)), Some(Errno::CANCELED));
        match peer {
            Peer::Sends => client.write_all(b"later").unwrap(),
            Peer::Ends => client.shutdown(Shutdown::Both).unwrap(),
            Peer::Breaks => {
                sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
                client = pair().0;
            }
        }
        let (start, before) = (Instant::now(), io.calls());
        while start.elapsed() < Duration::from_millis(100) {
            io.enter(Some(Duration::from_millis(50))).unwrap();
        }
        assert!(io.calls() - before < 10, "{} waits", io.calls() - before);
        // What came meanwhile is not lost.
        io.receive(token(2), &socket, &group);
        let done = next(&mut io);
        match peer {
            Peer::Sends => {
                let Handed::Landed(landing) = done.handed else { panic!("{:?}", done.handed) };
                let extent = group.land(&mut frames, landing).extent.unwrap();
                assert_eq!(frames.bytes(extent.span()), b"later");
            }
            Peer::Ends => assert_eq!((done.result.unwrap(), done.more), (0, false)),
            Peer::Breaks => assert_eq!(errno(&done), Some(Errno::CONNRESET)),
        }
        drop(client);
    }
}

/// A listener of a service manager stays open when its server has closed it. Still watched, each
/// connection that comes then would end every wait.
#[test]
fn a_listener_that_others_have_too_ends_no_waits_when_it_is_closed() {
    for accepts in [1, 2] {
        let mut io = Epoll::new().unwrap();
        let kept = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        kept.set_nonblocking(true).unwrap();
        let address = kept.local_addr().unwrap();
        let listener = Fd::from(kept.try_clone().unwrap());
        let ops: Vec<_> = (0..accepts).map(|at| io.accept(token(at), &listener)).collect();
        let _first = TcpStream::connect(address).unwrap();
        assert!(matches!(next(&mut io).handed, Handed::Accepted(_)));
        ops.into_iter().for_each(|op| io.cancel(op));
        io.close(listener);
        while io.in_flight() > 0 {
            io.enter(Some(LONG)).unwrap();
        }
        while io.completion(Owner::Port).is_some() {}
        let _waits = TcpStream::connect(address).unwrap();
        let (start, before) = (Instant::now(), io.calls());
        while start.elapsed() < Duration::from_millis(100) {
            io.enter(Some(Duration::from_millis(50))).unwrap();
        }
        assert!(io.calls() - before < 10, "{} waits", io.calls() - before);
    }
}

/// A number that is used again is another descriptor: taken for the one before, nobody would watch
/// it.
#[test]
fn a_descriptor_with_the_number_of_another_is_watched() {
    let mut io = Epoll::new().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    for closes in [true, false, true, false] {
        let mut client = TcpStream::connect(address).unwrap();
        let socket = Fd::from(listener.accept().unwrap().0);
        client.write_all(b"x").unwrap();
        io.poll(token(1), &socket);
        assert!(next(&mut io).result.is_ok());
        if closes {
            io.close(socket);
            io.enter(Some(Duration::ZERO)).unwrap();
        }
    }
}

#[test]
fn a_cancelled_operation_completes_and_a_stale_cancel_does_nothing() {
    let mut io = Epoll::new().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = Fd::from(listener);
    let accept = io.accept(token(1), &listener);
    io.enter(Some(Duration::ZERO)).unwrap();
    io.cancel(accept);
    let done = next(&mut io);
    assert_eq!((errno(&done), done.more), (Some(Errno::CANCELED), false));
    let second = io.accept(token(2), &listener);
    io.cancel(accept);
    assert_ne!(accept, second);
    let address = rustix::net::getsockname(listener.as_fd()).unwrap();
    let address = SocketAddr::try_from(address).unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let done = next(&mut io);
    assert!(matches!(done.handed, Handed::Accepted(_)) && !done.more, "{done:?}");
    assert_eq!(io.in_flight(), 0);
}

/// Without silence a request would cost two waits: one that the reply ends at once, and one for the
/// next request.
#[test]
fn one_wait_sends_a_reply_and_waits_for_the_next_request() {
    let (mut frames, landing) = frames();
    let mut io = Epoll::new().unwrap();
    let mut group = BufGroup::new(&frames, 1);
    group.provide(&mut frames, landing);
    let (mut client, server) = tight_pair();
    io.receive(token(1), &server, &group);
    io.enter(Some(Duration::ZERO)).unwrap();
    let client = thread::spawn(move || {
        for _ in 0..100 {
            let mut reply = [0; 11];
            client.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"reply in 2 ");
            client.write_all(b"request").unwrap();
        }
        client
    });
    frames.store(4096, b"in 2 ");
    let before = io.calls();
    for _ in 0..100 {
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
    assert_eq!(io.calls() - before, 100);
    drop(client.join().unwrap());
}

/// Without the rest, what a full socket does not take at once would be lost or repeated, or its
/// bytes given back while they are needed.
#[test]
fn slow_readers_get_all_bytes_of_quiet_sends_in_order() {
    const FLOWS: u64 = 40;
    const ROUNDS: u64 = 50;
    let message = |flow: u64, round: u64| -> Vec<u8> {
        let number = (flow * ROUNDS + round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let len = usize::try_from(number >> 50).unwrap() + 1;
        number.to_le_bytes().repeat(len.div_ceil(8))[..len].to_vec()
    };
    let ((frames, _), mut io) = (frames(), Epoll::new().unwrap());
    let (clients, servers): (Vec<_>, Vec<_>) = (0..FLOWS).map(|_| tight_pair()).unzip();
    let start = |io: &mut Epoll, flow: u64, round: u64| {
        let bytes = message(flow, round);
        let pieces = [Piece::Bytes { at: 0, len: bytes.len() as u32 }];
        let socket = &servers[usize::try_from(flow).unwrap()];
        io.send_quiet(token(flow | round << 32), socket, &frames, bytes, pieces);
    };
    (0..FLOWS).for_each(|flow| start(&mut io, flow, 0));
    // They read when a socket is full.
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
            assert_eq!(done.result.unwrap() as usize, message(flow, round).len());
            left -= 1;
            if round + 1 < ROUNDS {
                start(&mut io, flow, round + 1);
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

/// Taken for silence, an error would be reported as sent.
#[test]
fn a_quiet_send_that_fails_says_so_at_once() {
    let ((frames, _), mut io) = (frames(), Epoll::new().unwrap());
    let (_client, server) = tight_pair();
    rustix::net::shutdown(&server, rustix::net::Shutdown::Write).unwrap();
    let pieces = [Piece::Bytes { at: 0, len: 4 }];
    io.send_quiet(token(1), &server, &frames, b"late".to_vec(), pieces);
    io.enter(None).unwrap();
    assert_eq!(errno(&io.completion(Owner::Port).unwrap()), Some(Errno::PIPE));
}

/// Without the message, a worker that waits would sleep over what another has done for it; a ring
/// that comes before the wait, or is gone, does no harm.
#[test]
fn two_that_wait_wake_each_other() {
    const ROUNDS: u32 = 2000;
    let turn = Arc::new(AtomicU32::new(0));
    let (to_first, from_second) = mpsc::channel::<Waker>();
    let (to_second, from_first) = mpsc::channel::<Waker>();
    let ends = [(0, to_second, from_second), (1, to_first, from_first)];
    let threads = ends.map(|(number, tell, hear)| {
        let turn = Arc::clone(&turn);
        thread::spawn(move || {
            let mut io = Epoll::new().unwrap();
            tell.send(io.waker()).unwrap();
            let other = hear.recv().unwrap();
            for round in (number..ROUNDS).step_by(2) {
                while turn.load(Ordering::Acquire) != round {
                    let start = Instant::now();
                    io.enter(Some(LONG)).unwrap();
                    assert!(start.elapsed() < LONG, "nobody woke us in round {round}");
                }
                turn.store(round + 1, Ordering::Release);
                // The message goes with the wait for the answer.
                io.wake(&other);
                io.wake(&other);
            }
            io.enter(Some(Duration::ZERO)).unwrap();
            for owner in [Owner::Port, Owner::Dev, Owner::Loop] {
                assert!(io.completion(owner).is_none(), "nobody is told of a wake-up");
            }
            assert_eq!(io.in_flight(), 0);
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
