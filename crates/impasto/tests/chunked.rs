//! Bodies in chunks: no length is told, and the record is what it would be with one.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{
    Server,
    client::{Client, Reply, value},
    media, place,
};
use rustix::process::Signal;

const HEAD: &str = "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Returns `body` in chunks of `len` bytes, without the last, empty one.
fn chunks(body: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / len * 12 + 16);
    for chunk in body.chunks(len) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn append(client: &mut Client, body: &[u8], len: usize) -> Reply {
    client.send(HEAD.as_bytes()).unwrap();
    // Refused, it may end before all is sent.
    let _refused = client.send(&chunks(body, len)).and_then(|()| client.send(b"0\r\n\r\n"));
    client.reply().unwrap()
}

/// A record is its bytes, and not how they came.
#[test]
fn chunked_records_of_every_length_are_read_back() {
    for (medium, dir) in media() {
        let more = ["--size", "192MiB", "--medium", medium, "--workers", "2"];
        let server = Server::start(dir.path(), &more);
        let mut client = server.client();
        let cases = [
            (0, 1),
            (1, 1),
            (100, 7),
            (512, 512),
            (513, 512),
            (10_000, 999),
            (60_000, 4_096),
            (65_536, 65_536),
            (65_537, 1_000),
            (300_000, 262_144),
            (1 << 20, 16_384),
            (64 << 20, 100_000),
        ];
        for (number, (len, chunk)) in cases.into_iter().enumerate() {
            let sent = value(number as u64, len);
            let seq = append(&mut client, sent, chunk).seq();
            assert_eq!(seq, number as u64 + 1);
            client.read_is("a", seq, sent);
        }
        // Also after a restart.
        assert_eq!(server.stop(Signal::TERM).code(), Some(0));
        let server = Server::start(dir.path(), &["--medium", medium]);
        let mut client = server.client();
        for (number, (len, _)) in cases.into_iter().enumerate() {
            client.read_is("a", number as u64 + 1, value(number as u64, len));
        }
    }
}

/// Where a chunked body ends only its chunks tell: what follows is the next request.
#[test]
fn requests_behind_a_chunked_body_are_taken_as_requests() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let mut client = server.client();
    let one =
        format!("{HEAD}5;note=\"0\\r\\n\"\r\nhello\r\n006\r\n world\r\n0\r\nTold: later\r\n\r\n");
    let read = "GET /v1/logs/a/1 HTTP/1.1\r\nHost: h\r\n\r\n";
    let all = format!("{one}{read}{one}GET /v1/logs/a/2 HTTP/1.1\r\nHost: h\r\n\r\n");
    for piece in all.as_bytes().chunks(3) {
        client.send(piece).unwrap();
    }
    for seq in 1..=2 {
        assert_eq!(client.reply().unwrap().seq(), seq);
        client.is_given(b"hello world");
    }
}

/// A length that nobody tells must not be a way round the limit.
#[test]
fn a_chunked_body_above_the_limit_gets_413_and_its_room_is_free_again() {
    let dir = place();
    let more = ["--size", "32MiB", "--value-max", "1MiB", "--workers", "2"];
    let server = Server::start(dir.path(), &more);
    for _ in 0..100 {
        let reply = append(&mut server.client(), value(1, (1 << 20) + 1), 70_000);
        assert_eq!(reply.status, 413, "{}", reply.text());
    }
    let mut client = server.client();
    let sent = value(2, 1 << 20);
    let seqs: Vec<_> = (0..20).map(|_| append(&mut client, sent, 70_000).seq()).collect();
    seqs.into_iter().for_each(|seq| client.read_is("a", seq, sent));
}

/// Chunks that are none end the request, and what came before them is given back.
#[test]
fn broken_chunks_get_400_and_leave_nothing_behind() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "32MiB", "--workers", "2"]);
    let good = chunks(value(1, 1 << 20), 100_000);
    for _ in 0..10 {
        for bad in ["x\r\n", "-1\r\n", "\r\n", "5\r\nhello!\r\n", "ffffffffffffffffff\r\n"] {
            let mut client = server.client();
            client.send(&[HEAD.as_bytes(), &good, bad.as_bytes(), b"0\r\n\r\n"].concat()).unwrap();
            let reply = client.reply().unwrap();
            assert!([400, 413].contains(&reply.status) && reply.closes, "{bad:?}: {reply:?}");
        }
        let client = server.client();
        client.send(&[HEAD.as_bytes(), &good, b"fff\r\nabc"].concat()).unwrap();
        client.reset();
    }
    let mut client = server.client();
    for number in 0..20 {
        append(&mut client, value(number, 1 << 20), 100_000).seq();
    }
    assert_eq!(client.ask("GET /v1/logs/a", &[]).unwrap().number("records"), 20);
}

/// D10: chunked bodies that grow into a full region are refused, not left waiting for each other.
#[test]
fn d10_chunked_uploads_beyond_the_region_are_refused_and_the_rest_complete() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "32MiB", "--workers", "2"]);
    for _ in 0..2 {
        let taken: Vec<_> = std::thread::scope(|scope| {
            let upload = |number| {
                let reply = append(&mut server.client(), value(number, 4 << 20), 50_000);
                assert!([201, 507].contains(&reply.status), "{}", reply.text());
                (reply.status == 201).then(|| (reply.seq(), number))
            };
            let threads: Vec<_> =
                (0..16).map(|number| scope.spawn(move || upload(number))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        println!("{} of 16 were taken", taken.len());
        let mut client = server.client();
        taken.into_iter().for_each(|(seq, n)| client.read_is("a", seq, value(n, 4 << 20)));
        client.trim_all("a");
        // All of the room is there again: one after the other, as many as there is room for.
        for number in 0..5 {
            append(&mut client, value(number, 4 << 20), 50_000).seq();
        }
        client.trim_all("a");
    }
}
