//! Peers that break off anywhere, or never read: others are served, memory stays bounded, and all
//! space is free again afterwards.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    path::Path,
    time::Instant,
};

use common::{
    Server,
    client::{Client, PATIENCE, value},
    media,
};
use rustix::process::Signal;

/// One of each kind: a short one in the log, one that is kept on `shm`, one that is just inline on
/// disk, two that have blocks of their own.
const LENGTHS: [usize; 5] = [100, 10_000, 60_000, 1 << 20, 64 << 20];
const SIZE: &str = "160MiB";
const REGION_BYTES: u64 = 160 << 20;
/// A record that has blocks of its own, nearly all of a buffer.
const FILLER: usize = 250_000;

/// A server that is tried hard, and what it was like before.
struct Tried {
    server: Server,
    room: u64,
}

impl Tried {
    fn new(medium: &str, dir: &Path, workers: &str) -> Self {
        let more = ["--size", SIZE, "--medium", medium, "--workers", workers];
        let server = Server::start(dir, &more);
        let room = Self::room(&server);
        Self { server, room }
    }

    /// Fills the region, trims all of it, and returns how many records it held.
    fn room(server: &Server) -> u64 {
        let (mut client, mut count) = (server.client(), 0);
        while client.ask("POST /v1/logs/room", value(0, FILLER)).unwrap().status == 201 {
            count += 1;
        }
        // Refused, a long body ends its connection.
        server.client().trim_all("room");
        count
    }

    /// Others are served.
    fn serves(&self) {
        let mut client = self.server.client();
        let seq = client.append("other", value(7, 2_000));
        client.read_is("other", seq, value(7, 2_000));
        client.trim_all("other");
    }

    /// All that it has taken is free again.
    fn end(self, what: &str) {
        self.serves();
        let room = Self::room(&self.server);
        let memory = self.server.memory();
        println!("{what}: room for {room} records, {} before; {} MiB", self.room, memory >> 20);
        assert!(room + SLACK >= self.room, "{what}: {room} of {} records fit again", self.room);
        assert!(memory < MEMORY_MAX, "{what}: {memory} bytes of memory");
        assert_eq!(self.server.stop(Signal::TERM).code(), Some(0));
    }
}

/// Where the log stands in its segment, and what the port lands in, makes so many buffers more or
/// less: two segments. What the tests would leak is a multiple of it.
const SLACK: u64 = 8;
/// All of the region, landing buffers of two workers, pools, and what the program itself takes;
/// but far from what a thousand requests could ask for.
const MEMORY_MAX: u64 = REGION_BYTES + (32 << 20) + (32 << 20) + (16 << 20);

/// What a client that sends and never reads may cost: what the kernel has taken from it, and lands
/// before a pause takes effect. Measured 3.6 MiB.
const STALLED_BYTES_MAX: u64 = 8 << 20;

/// A body that breaks off must give back what was reserved for it, wherever it breaks off.
#[test]
fn resets_anywhere_in_a_request_leave_nothing_behind() {
    for (medium, dir) in media() {
        for workers in ["1", "2"] {
            let dir = tempfile::tempdir_in(dir.path()).unwrap();
            let tried = Tried::new(medium, dir.path(), workers);
            let server = &tried.server;
            for len in LENGTHS {
                let head = format!(
                    "POST /v1/logs/broken HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n"
                );
                let sent = value(3, len);
                for cut in [0, 1, 10, head.len() - 1, head.len()] {
                    let client = server.client();
                    client.send(&head.as_bytes()[..cut]).unwrap();
                    client.reset();
                }
                for cut in [1, len / 3, len / 2, len - 1, len] {
                    let (reset, mut ended) = (server.client(), server.client());
                    for client in [&reset, &ended] {
                        client.send(head.as_bytes()).unwrap();
                        // Of two long ones the second may find no room.
                        let _refused = client.send(&sent[..cut]);
                    }
                    reset.reset();
                    // An end in the middle of a body is one, too.
                    ended.stream().shutdown(Shutdown::Write).unwrap();
                    ended.rest();
                    server.client().trim_all("broken");
                }
                tried.serves();
            }
            // Those that were reset when all was sent may still have come in.
            server.client().trim_all("broken");
            tried.end(&format!("resets, {medium}, {workers} workers"));
        }
    }
}

/// Sends a request again and again until nothing more goes in, or `enough` bytes have; tries again
/// while `others` go on.
fn flood(client: &Client, request: &[u8], enough: usize, others: impl Fn()) {
    client.stream().set_nonblocking(true).unwrap();
    let many = request.repeat(1000);
    let (mut sent, mut tries) = (0, 0);
    while sent < enough && tries < 10 {
        match client.stream().write(&many[sent % request.len()..]) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tries += 1;
                others();
            }
            Err(error) => panic!("{error}"),
        }
    }
    client.stream().set_nonblocking(false).unwrap();
}

/// Replies that nobody takes must not fill the memory, nor keep what they are made of for ever.
#[test]
fn clients_that_never_read_hold_up_nobody_and_leave_nothing_behind() {
    for (medium, dir) in media() {
        for workers in ["1", "2"] {
            let dir = tempfile::tempdir_in(dir.path()).unwrap();
            let tried = Tried::new(medium, dir.path(), workers);
            let server = &tried.server;
            let mut client = server.client();
            let long = client.append("long", value(1, 64 << 20));
            let short = client.append("short", value(2, 1_000));
            let mut stalled = Vec::new();
            for (log, seq) in [("long", long), ("short", short)] {
                let request = format!("GET /v1/logs/{log}/{seq} HTTP/1.1\r\nHost: h\r\n\r\n");
                for _ in 0..8 {
                    let client = server.client();
                    flood(&client, request.as_bytes(), 4 << 20, || tried.serves());
                    stalled.push(client);
                }
            }
            tried.serves();
            let memory = server.memory();
            println!("never reads, {medium}, {workers} workers: {} MiB", memory >> 20);
            let most = MEMORY_MAX + stalled.len() as u64 * STALLED_BYTES_MAX;
            assert!(memory < most, "{memory} bytes of memory");
            // In the middle of a long reply, and of many: half of them by a reset.
            let mut part = vec![0; 100_000];
            for (number, client) in stalled.into_iter().enumerate() {
                client.stream().read_exact(&mut part).unwrap();
                if number % 2 == 0 { client.reset() } else { drop(client) }
            }
            client.read_is("long", long, value(1, 64 << 20));
            client.trim_all("long");
            client.trim_all("short");
            tried.end(&format!("never reads, {medium}, {workers} workers"));
        }
    }
}

/// A reply of which nothing is taken is given up after a while: its record could not be freed.
#[test]
fn a_reply_that_nobody_takes_is_given_up() {
    for (medium, dir) in media() {
        let more = ["--size", SIZE, "--medium", medium, "--body-timeout", "1s"];
        let server = Server::start(dir.path(), &more);
        let mut client = server.client();
        let seq = client.append("long", value(1, 64 << 20));
        let stalled = server.client();
        stalled.ask_for("long", seq);
        client.trim_all("long");
        // There is room for two, and it has that of one.
        client.append("again", value(2, 64 << 20));
        let start = Instant::now();
        while server.client().ask("POST /v1/logs/again", value(3, 64 << 20)).unwrap().status == 507
        {
            assert!(start.elapsed() < PATIENCE, "it is not given up");
        }
    }
}
