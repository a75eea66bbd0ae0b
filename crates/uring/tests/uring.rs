//! Operations on real sockets and files.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]
#![expect(clippy::cast_possible_truncation, reason = "the numbers are small")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use impasto_region::{BufId, Frames, Span, layout::Geometry};
use impasto_uring::{BufGroup, Completion, Fd, Handed, Mode, Owner, Piece, Token, Uring};
use rustix::io::Errno;

const REGION_BYTES: u64 = 16 << 20;

fn frames() -> (Frames, BufId) {
    let geometry = Geometry::new(REGION_BYTES).unwrap();
    (Frames::anonymous(geometry, 4).unwrap(), geometry.bufs_end())
}

fn token(value: u64) -> Token {
    Token { owner: Owner::Port, value }
}

/// Enters until a completion is there.
fn next(io: &mut Uring) -> Completion {
    loop {
        if let Some(completion) = io.completion(Owner::Port) {
            return completion;
        }
        io.enter(Some(Duration::from_secs(10))).unwrap();
        assert!(io.in_flight() > 0 || io.completion(Owner::Dev).is_none(), "somebody else's");
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn zeroed_file() -> (tempfile::TempDir, File) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("region");
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(REGION_BYTES).unwrap();
    (dir, file)
}

/// Without EXT_ARG's timeout a turn without traffic would never end; without the queue check it
/// would sleep over completions that nobody has taken.
#[test]
fn enter_waits_for_a_completion_or_the_timeout() {
    let (_dir, file) = zeroed_file();
    let fd = Fd::from(file);
    let mut io = Uring::new(8).unwrap();
    io.enter(Some(Duration::ZERO)).unwrap();
    io.enter(Some(Duration::from_millis(1))).unwrap();
    assert!(io.completion(Owner::Port).is_none());
    io.fsync_data(token(1), &fd);
    io.enter(None).unwrap();
    io.enter(None).unwrap();
    let done = io.completion(Owner::Port).unwrap();
    assert_eq!((done.token, done.result.unwrap(), done.more), (token(1), 0, false));
    assert_eq!(io.in_flight(), 0);
}

/// Without a queue of its own, an operation too many would be lost.
#[test]
fn more_operations_than_the_ring_has_entries_all_complete_in_their_owners_queue() {
    let (_dir, file) = zeroed_file();
    let fd = Fd::from(file);
    let mut io = Uring::new(4).unwrap();
    for value in 0..1000 {
        let owner = [Owner::Port, Owner::Dev, Owner::Loop][value as usize % 3];
        io.fsync_data(Token { owner, value }, &fd);
    }
    let mut seen = [false; 1000];
    while io.in_flight() > 0 {
        io.enter(Some(Duration::from_secs(10))).unwrap();
        for (at, owner) in [Owner::Port, Owner::Dev, Owner::Loop].into_iter().enumerate() {
            while let Some(done) = io.completion(owner) {
                assert_eq!(done.token.value as usize % 3, at);
                assert!(!std::mem::replace(&mut seen[done.token.value as usize], true));
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn what_was_written_is_read_back() {
    let (_dir, file) = zeroed_file();
    let fd = Fd::from(file);
    let (mut frames, _) = frames();
    let mut io = Uring::new(8).unwrap();
    let span = Span::new(8192, 12288);
    let pattern: Vec<u8> = (0..12288_u32).map(|at| (at % 251) as u8).collect();
    for dsync in [false, true] {
        frames.store(span.at, &pattern);
        io.write(token(1), &fd, &frames, span, dsync);
        assert_eq!(next(&mut io).result.unwrap(), 12288);
        frames.store(span.at, &[0; 12288]);
        let loan = frames.loan_span(span);
        io.read(token(2), &fd, &frames, loan);
        let done = next(&mut io);
        assert_eq!(done.result.unwrap(), 12288);
        assert!(!frames.is_settled(span));
        let Handed::Filled(filled) = done.handed else { panic!("{:?}", done.handed) };
        assert_eq!(frames.settle_span(filled), span);
        assert_eq!(frames.bytes(span), pattern);
    }
}

/// Without the check a read could write where no loan keeps references away.
#[test]
#[should_panic(expected = "in the frames that made it")]
fn a_read_needs_a_loan_of_its_frames() {
    let (_dir, file) = zeroed_file();
    let (mut frames, _) = frames();
    let loan = frames.loan_span(Span::new(8192, 4096));
    let other = Frames::anonymous(Geometry::new(REGION_BYTES).unwrap(), 1).unwrap();
    Uring::new(8).unwrap().read(token(1), &Fd::from(file), &other, loan);
}

/// Without the rest of a short send, a message above the socket's buffer or above 1,024 pieces
/// would arrive cut.
#[test]
fn a_send_of_many_pieces_arrives_whole() {
    let (mut frames, _) = frames();
    let stored: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 253) as u8).collect();
    frames.store(4096, &stored);
    let (mut client, server) = pair();
    let reader = std::thread::spawn(move || {
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
    pieces.push(Piece::Stored(Span::new(4096, 1 << 20)));
    expected.extend(&stored);
    let mut io = Uring::new(8).unwrap();
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
    assert_eq!(reader.join().unwrap(), expected);
}

fn receive_all(mode: Mode) {
    let (mut frames, landing) = frames();
    let mut io = Uring::new(8).unwrap();
    let mut group = BufGroup::with_mode(&mut io, &frames, 2, mode).unwrap();
    assert_eq!(group.mode(), mode);
    let (mut client, server) = pair();
    let socket = Fd::from(server);
    let total = 3 << 20;
    let sent: Vec<u8> = (0..total).map(|at: u32| (at % 249) as u8).collect();
    let data = sent.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&data).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    let mut received: Vec<u8> = Vec::new();
    let mut starved = 0;
    io.receive(token(1), &socket, &group);
    loop {
        let done = next(&mut io);
        if let Handed::Landed(landing) = done.handed {
            let landed = group.land(&mut frames, landing);
            received.extend(landed.extent.map_or(&[][..], |extent| frames.bytes(extent.span())));
            if let Some(full) = landed.full {
                assert!(frames.is_settled(full.whole().span()));
                group.provide(&mut frames, full);
            }
        }
        match done.result {
            Ok(0) => break,
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                starved += 1;
                if group.provided() == 0 {
                    group.provide(&mut frames, landing);
                    group.provide(&mut frames, BufId(landing.0 + 1));
                }
            }
            Err(error) => panic!("{error}"),
            Ok(_) => {}
        }
        if !done.more {
            io.receive(token(1), &socket, &group);
        }
    }
    assert!(starved > 0, "the first receive found no buffer");
    assert!(received == sent, "{} bytes of {total}", received.len());
    drop(writer.join().unwrap());
}

/// Without the offset kept per buffer, bytes of a later receive would be taken for those of an
/// earlier one.
#[test]
fn a_stream_lands_whole_in_incremental_buffers() {
    receive_all(Mode::Incremental);
}

/// Without the fallback, kernels before 6.12 could not receive.
#[test]
fn a_stream_lands_whole_in_pieces() {
    receive_all(Mode::Pieces);
}

/// Without the numbers a forgotten landing would shift all that follow.
#[test]
#[should_panic(expected = "landings are taken in order")]
fn a_landing_left_out_is_noticed() {
    let (mut frames, landing) = frames();
    let mut io = Uring::new(8).unwrap();
    let mut group = BufGroup::new(&mut io, &frames, 2).unwrap();
    group.provide(&mut frames, landing);
    let (mut client, server) = pair();
    io.receive(token(1), &Fd::from(server), &group);
    client.write_all(b"first").unwrap();
    drop(next(&mut io));
    client.write_all(b"second").unwrap();
    let Handed::Landed(landing) = next(&mut io).handed else { panic!("no bytes") };
    group.land(&mut frames, landing);
}

#[test]
fn a_cancelled_operation_completes_and_a_stale_cancel_does_nothing() {
    let mut io = Uring::new(8).unwrap();
    let listener = Fd::from(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let accept = io.accept(token(1), &listener);
    io.enter(Some(Duration::ZERO)).unwrap();
    io.cancel(accept);
    let done = next(&mut io);
    assert_eq!(done.result.unwrap_err().raw_os_error(), Some(Errno::CANCELED.raw_os_error()));
    assert!(!done.more);
    let second = io.accept(token(2), &listener);
    io.cancel(accept);
    assert_ne!(accept, second);
    let address = rustix::net::getsockname(listener.as_fd()).unwrap();
    let address = std::net::SocketAddr::try_from(address).unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let done = next(&mut io);
    assert!(matches!(done.handed, Handed::Accepted(_)) && !done.more, "{done:?}");
}

#[test]
fn poll_reports_a_readable_descriptor() {
    let mut io = Uring::new(8).unwrap();
    let (mut client, server) = pair();
    io.poll(token(1), &Fd::from(server));
    io.enter(Some(Duration::from_millis(1))).unwrap();
    assert!(io.completion(Owner::Port).is_none());
    client.write_all(b"x").unwrap();
    assert!(next(&mut io).result.is_ok());
}

/// Without the wait in `drop` the kernel would go on writing into memory that is unmapped, or in
/// other use.
#[test]
fn a_ring_dropped_with_operations_in_flight_lets_go_of_all_memory() {
    for submitted in [true, false] {
        let (_dir, file) = zeroed_file();
        let (mut frames, landing) = frames();
        let mut io = Uring::new(64).unwrap();
        let mut group = BufGroup::new(&mut io, &frames, 2).unwrap();
        group.provide(&mut frames, landing);
        let (mut client, server) = pair();
        let (_other, full) = pair();
        let (server, full, file) = (Fd::from(server), Fd::from(full), Fd::from(file));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Fd::from(listener);
        io.receive(token(1), &server, &group);
        io.accept(token(2), &listener);
        // Nobody reads it: more than the socket's buffers hold.
        let whole = Span::new(0, REGION_BYTES);
        io.send(
            token(3),
            &full,
            &frames,
            vec![1; 100],
            [Piece::Stored(whole), Piece::Stored(whole)],
        );
        io.write(token(4), &file, &frames, Span::new(0, 1 << 20), true);
        let loan = frames.loan_span(Span::new(1 << 20, 1 << 20));
        io.read(token(5), &file, &frames, loan);
        if submitted {
            io.enter(Some(Duration::ZERO)).unwrap();
        }
        let map = std::sync::Arc::downgrade(&frames.map());
        drop(frames);
        assert!(map.upgrade().is_some(), "the ring keeps the mapping");
        drop((listener, io));
        let connected = TcpStream::connect(address);
        assert!(connected.is_err(), "an accept in flight holds the listener");
        drop(group);
        assert!(map.upgrade().is_none(), "nothing is left in flight");
        client.write_all(b"nobody receives this").unwrap();
    }
}

#[test]
fn a_timer_completes_when_its_time_is_over() {
    let mut io = Uring::new(8).unwrap();
    io.timer(token(1), Duration::from_millis(1));
    let done = next(&mut io);
    assert_eq!(done.result.unwrap_err().raw_os_error(), Some(Errno::TIME.raw_os_error()));
}

/// Without the look at the ring's flags, a worker that polls would make a system call per turn;
/// without one of them, it would poll for ever past what has arrived.
#[test]
fn polling_costs_no_system_call_and_misses_nothing() {
    // No more than a buffer has pieces, for kernels where each receive takes one.
    const MESSAGES: u64 = 60;
    for completions in [8, 64] {
        let (mut frames, landing) = frames();
        // With few entries, completions run over as well.
        let mut io = Uring::new(completions / 8).unwrap();
        let mut group = BufGroup::new(&mut io, &frames, 1).unwrap();
        group.provide(&mut frames, landing);
        let (mut client, server) = pair();
        let server = Fd::from(server);
        io.receive(token(0), &server, &group);
        for value in 1..=20 {
            io.poll(token(value), &server);
        }
        io.enter(Some(Duration::ZERO)).unwrap();
        let before = io.calls();
        for _ in 0..1000 {
            io.enter(Some(Duration::ZERO)).unwrap();
        }
        assert!(io.calls() <= before + 8, "{} calls while nothing happens", io.calls() - before);
        let (tell, hear) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            for _ in 0..MESSAGES {
                client.write_all(b"eight b.").unwrap();
                hear.recv().unwrap();
            }
            client
        });
        let (mut bytes, mut polls, mut told) = (0, 0, 0);
        let start = std::time::Instant::now();
        while bytes < MESSAGES * 8 || polls < 20 {
            assert!(start.elapsed() < Duration::from_secs(20), "{bytes} bytes, {polls} polls");
            io.enter(Some(Duration::ZERO)).unwrap();
            while let Some(done) = io.completion(Owner::Port) {
                let Handed::Landed(landing) = done.handed else {
                    polls += 1;
                    continue;
                };
                bytes += u64::from(done.result.unwrap());
                group.land(&mut frames, landing);
                if !done.more {
                    io.receive(token(0), &server, &group);
                }
            }
            while told < bytes / 8 {
                told += 1;
                tell.send(()).unwrap();
            }
        }
        let client = writer.join().unwrap();
        let pieces = [Piece::Bytes { at: 0, len: 5 }];
        io.send_quiet(token(9), &server, &frames, b"quiet".to_vec(), pieces);
        io.enter(Some(Duration::ZERO)).unwrap();
        let sent = io.completion(Owner::Port).unwrap();
        assert_eq!((sent.token, sent.result.unwrap()), (token(9), 5));
        drop(client);
    }
}

/// Without the exact length, the next request behind a body would be swallowed; without the count,
/// a part of it would pass for all.
#[test]
fn a_directed_receive_takes_what_is_there_and_nothing_behind_its_span() {
    let (mut frames, landing) = frames();
    let mut io = Uring::new(8).unwrap();
    let mut group = BufGroup::new(&mut io, &frames, 1).unwrap();
    group.provide(&mut frames, landing);
    let (mut client, server) = pair();
    let socket = Fd::from(server);
    let body: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 239) as u8).collect();
    let data = [&body[..], b"next request"].concat();
    let writer = std::thread::spawn(move || {
        client.write_all(&data).unwrap();
        client
    });
    let (mut at, end) = (8192, 8192 + body.len() as u64);
    while at < end {
        let span = Span::new(at, end - at);
        let loan = frames.loan_span(span);
        io.receive_into(token(1), &socket, &frames, loan);
        let done = next(&mut io);
        let Handed::Filled(filled) = done.handed else { panic!("{:?}", done.handed) };
        assert!(!frames.is_settled(span) && !done.more);
        assert_eq!(frames.settle_span(filled), span);
        at += u64::from(done.result.unwrap());
    }
    assert!(frames.bytes(Span::new(8192, body.len() as u64)) == body);
    let client = writer.join().unwrap();
    io.receive(token(2), &socket, &group);
    let done = next(&mut io);
    let Handed::Landed(landing) = done.handed else { panic!("{:?}", done.handed) };
    let extent = group.land(&mut frames, landing).extent.unwrap();
    assert_eq!(frames.bytes(extent.span()), b"next request");
    drop(client);
}

/// Without the span, what was on loan would stay so.
#[test]
fn a_directed_receive_that_ends_with_nothing_gives_its_span_back() {
    for is_cancelled in [false, true] {
        let (mut frames, _) = frames();
        let mut io = Uring::new(8).unwrap();
        let (client, server) = pair();
        let socket = Fd::from(server);
        let span = Span::new(8192, 8);
        let loan = frames.loan_span(span);
        let op = io.receive_into(token(1), &socket, &frames, loan);
        io.enter(Some(Duration::ZERO)).unwrap();
        assert!(io.completion(Owner::Port).is_none());
        if is_cancelled {
            io.cancel(op);
        } else {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let done = next(&mut io);
        let Handed::Filled(filled) = done.handed else { panic!("{:?}", done.handed) };
        assert_eq!(done.result.ok(), (!is_cancelled).then_some(0));
        assert_eq!(frames.settle_span(filled), span);
        assert!(frames.is_settled(span));
    }
}
