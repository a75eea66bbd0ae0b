//! Long bodies: many at once, more than there is room for, and others that go on beside them.
//!
//! `IMPASTO_UPLOADS` is the number of uploads of 64 MiB at once, on a region of 1 GiB; without it
//! they are fewer and shorter.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use common::{
    Server,
    client::{Client, PATIENCE, value},
    media, place,
};
use rustix::process::Signal;

/// How much is uploaded to what.
#[derive(Clone, Copy, Debug)]
struct Uploads {
    count: u64,
    bytes: usize,
    size: &'static str,
}

impl Uploads {
    fn new() -> Self {
        match std::env::var("IMPASTO_UPLOADS") {
            Ok(count) => Self { count: count.parse().unwrap(), bytes: 64 << 20, size: "1GiB" },
            Err(_) => Self { count: 20, bytes: 8 << 20, size: "64MiB" },
        }
    }

    /// Uploads all at once; returns the numbers of those that were taken.
    fn run(self, server: &Server) -> Vec<(u64, u64)> {
        let begin = Barrier::new(usize::try_from(self.count).unwrap());
        let upload = |number| {
            let mut client = server.client();
            begin.wait();
            let line = "POST /v1/logs/long";
            client.send_head(line, self.bytes).unwrap();
            let body = value(number, self.bytes);
            // All of them have begun before one has ended.
            let half = client.send(&body[..self.bytes / 2]);
            begin.wait();
            // Refused, it may end before all is sent.
            let _refused = half.and_then(|()| client.send(&body[self.bytes / 2..]));
            let reply = client.reply().unwrap();
            match reply.status {
                507 => assert!(reply.text().contains("trim"), "{}", reply.text()),
                201 => return Some((reply.seq(), number)),
                status => panic!("an upload was answered {status}: {}", reply.text()),
            }
            None
        };
        thread::scope(|scope| {
            let upload = &upload;
            let threads: Vec<_> =
                (0..self.count).map(|number| scope.spawn(move || upload(number))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// D10: half-received bodies that wait for each other's room would wait for ever; room that is not
/// given back would be missed in the second round.
#[test]
fn d10_of_more_uploads_than_fit_some_are_refused_and_the_rest_complete() {
    let uploads = Uploads::new();
    value(0, 1);
    let dir = place();
    let server = Server::start(dir.path(), &["--size", uploads.size, "--workers", "2"]);
    let mut client = server.client();
    let mut taken_before = None;
    for _ in 0..2 {
        let taken = uploads.run(&server);
        println!("{uploads:?}: {} were taken", taken.len());
        assert!(!taken.is_empty() && (taken.len() as u64) < uploads.count);
        for &(seq, number) in &taken {
            client.read_is("long", seq, value(number, uploads.bytes));
        }
        client.trim_all("long");
        let count = *taken_before.get_or_insert(taken.len());
        assert_eq!(taken.len(), count, "not all came back");
    }
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
}

/// Returns the length of each of the uploads beside which others go on.
fn long() -> usize {
    Uploads::new().bytes
}

/// Appends and reads until `left` is 0; counts how often in `done`.
fn go_on(server: &Server, left: &AtomicU64, done: &AtomicU64, log: &str) {
    let mut client = server.client();
    let mut number = 0;
    // Acquire: pairs with the Release of whoever ends.
    while left.load(Ordering::Acquire) > 0 {
        let sent = value(number, 700);
        let seq = client.append(log, sent);
        client.read_is(log, seq, sent);
        if number % 100 == 99 {
            client.trim_all(log);
        }
        number += 1;
        done.fetch_add(1, Ordering::Release);
    }
}

/// Uploads in pieces, each when others have gone on for a bit; then reads it back.
fn upload_slowly(server: &Server, done: &AtomicU64) {
    const PIECES: usize = 64;
    let mut client = server.client();
    client.send_head("POST /v1/logs/slow", long()).unwrap();
    for piece in value(1, long()).chunks(long() / PIECES) {
        let before = done.load(Ordering::Acquire);
        let start = Instant::now();
        while done.load(Ordering::Acquire) < before + 2 {
            assert!(start.elapsed() < PATIENCE, "others do not go on beside a long body");
            thread::yield_now();
        }
        client.send(piece).unwrap();
    }
    let seq = client.reply().unwrap().seq();
    client.read_is("slow", seq, value(1, long()));
}

/// A slow reader: it has asked for all of a long record.
fn stalled_reader(server: &Server, log: &str) -> Client {
    let mut client = server.client();
    let seq = client.append(log, value(9, long()));
    client.ask_for(log, seq);
    client
}

/// Whoever sends much, or slowly, or does not read, must not hold up anybody else.
#[test]
fn short_requests_go_on_beside_long_bodies_slow_senders_and_slow_readers() {
    for workers in ["1", "2"] {
        for (medium, dir) in media() {
            let size = if long() == 64 << 20 { "512MiB" } else { "96MiB" };
            let more = ["--size", size, "--workers", workers, "--medium", medium];
            let server =
                Server::start(dir.path(), &[&more[..], &["--body-timeout", "5m"]].concat());
            let mut reader = stalled_reader(&server, "stalled");
            let sender = server.client();
            sender.send_head("POST /v1/logs/half", long()).unwrap();
            sender.send(value(8, 1_000_000)).unwrap();
            let (left, done) = (AtomicU64::new(1), AtomicU64::new(0));
            thread::scope(|scope| {
                let (server, left, done) = (&server, &left, &done);
                scope.spawn(|| go_on(server, left, done, "short"));
                for number in 2..5 {
                    scope.spawn(move || {
                        let (mut client, log) = (server.client(), format!("fast-{number}"));
                        while left.load(Ordering::Acquire) > 0 {
                            client.append(&log, value(number, long()));
                            client.trim_all(&log);
                        }
                    });
                }
                scope.spawn(|| {
                    let _last = Ends(left);
                    upload_slowly(server, done);
                });
            });
            let done = done.into_inner();
            println!("{medium}, {workers} workers: {done} appended and read beside a long body");
            assert!(done >= 100);
            reader.is_given(value(9, long()));
        }
    }
}

/// Ends what others do, also when it panics.
struct Ends<'a>(&'a AtomicU64);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of those that go on until then.
        self.0.store(0, Ordering::Release);
    }
}
