//! A thousand connections at once, every reply held against what was sent.
//!
//! Each thread has many connections and first sends on all of them, then reads from all: what the
//! server owes is as much as it would be to a thousand clients.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use common::{
    Server,
    client::{Client, PATIENCE, value},
    media,
};
use rustix::process::Signal;

const CONNECTIONS: usize = 1_000;
const THREADS: usize = 4;
const ROUNDS: u64 = 4;
/// Fewer logs than connections, so that many append to one.
const LOGS: u64 = 50;

/// A connection and what it has appended.
struct Peer {
    client: Client,
    log: String,
    number: u64,
    /// (sequence number, value, its length)
    appended: Vec<(u64, u64, usize)>,
}

impl Peer {
    fn new(server: &Server, number: u64) -> Self {
        let (client, log) = (server.client(), format!("log-{}", number % LOGS));
        Self { client, log, number, appended: Vec::new() }
    }

    /// Returns the value of a round: a few are long, and have blocks of their own.
    fn value(&self, round: u64) -> (u64, usize) {
        let number = self.number * ROUNDS + round;
        let len = match number % 40 {
            0 => 66_000 + number * 17 % 30_000,
            1..8 => number * 131 % 12_000,
            _ => number * 31 % 1_500,
        };
        (number, usize::try_from(len).unwrap())
    }

    fn send_append(&self, round: u64) {
        let (number, len) = self.value(round);
        let line = format!("POST /v1/logs/{}", self.log);
        self.client.send_request(&line, value(number, len)).unwrap();
    }

    /// Reads the reply to an append. One that found no room asks for some, and is sent again.
    fn take_append(&mut self, server: &Server, round: u64, work: &Work) {
        let (number, len) = self.value(round);
        let mut reply = self.client.reply().unwrap();
        let start = Instant::now();
        while reply.status == 507 {
            assert!(start.elapsed() < PATIENCE, "no room, and each log was trimmed");
            if reply.closes {
                self.client = server.client();
            }
            // Relaxed: only the trimmer looks at it, and will see it in the end.
            work.is_short.store(true, Ordering::Relaxed);
            thread::yield_now();
            self.send_append(round);
            reply = self.client.reply().unwrap();
        }
        self.appended.push((reply.seq(), number, len));
    }

    fn send_read(&self) {
        let (seq, ..) = *self.appended.last().unwrap();
        self.client.ask_for(&self.log, seq);
    }

    /// The last append is read back, unless it was trimmed.
    fn take_read(&mut self) -> u64 {
        let (seq, number, len) = *self.appended.last().unwrap();
        let reply = self.client.reply().unwrap();
        match reply.status {
            200 => assert!(reply.body == value(number, len), "{}/{seq} has other bytes", self.log),
            410 => {}
            status => panic!("{}/{seq} was answered {status}", self.log),
        }
        u64::from(reply.status == 200)
    }
}

/// What threads tell each other.
struct Work {
    /// Threads that append.
    left: AtomicU64,
    /// An append has found no room.
    is_short: AtomicBool,
}

/// One of the threads that append: one that fails has ended, too.
struct Ends<'a>(&'a Work);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `trim`.
        self.0.left.fetch_sub(1, Ordering::Release);
    }
}

/// Trims the logs again and again until nobody appends: down to their youngest records or, when
/// there is no room, to the last, since one old record may keep the space of all that came after
/// it.
fn trim(server: &Server, work: &Work) {
    let mut client = server.client();
    // Acquire: pairs with the Release in `Ends`.
    while work.left.load(Ordering::Acquire) > 0 {
        let trims_all = work.is_short.swap(false, Ordering::Relaxed);
        for log in 0..LOGS {
            let log = format!("log-{log}");
            let reply = client.ask(&format!("GET /v1/logs/{log}"), &[]).unwrap();
            if trims_all {
                client.trim_all(&log);
            } else if reply.status == 200 && reply.number("records") > 20 {
                let before = reply.number("next") - 10;
                let line = format!("DELETE /v1/logs/{log}?before={before}");
                // Trims that leave records need room, those that leave none have it.
                if client.ask(&line, &[]).unwrap().status == 507 {
                    client.trim_all(&log);
                }
            }
        }
    }
}

/// Appends and reads on many connections at once; returns how many values were read back.
fn load(server: &Server) -> u64 {
    let work = Work { left: AtomicU64::new(THREADS as u64), is_short: AtomicBool::new(false) };
    let read = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| trim(server, &work));
        for thread in 0..THREADS {
            let (work, read) = (&work, &read);
            scope.spawn(move || {
                let _last = Ends(work);
                let numbers = (thread..CONNECTIONS).step_by(THREADS);
                let mut peers: Vec<_> =
                    numbers.map(|number| Peer::new(server, number as u64)).collect();
                for round in 0..ROUNDS {
                    peers.iter().for_each(|peer| peer.send_append(round));
                    peers.iter_mut().for_each(|peer| peer.take_append(server, round, work));
                    peers.iter().for_each(Peer::send_read);
                    let found: u64 = peers.iter_mut().map(Peer::take_read).sum();
                    read.fetch_add(found, Ordering::Relaxed);
                }
                for peer in &peers {
                    let mut seqs: Vec<_> = peer.appended.iter().map(|(seq, ..)| seq).collect();
                    seqs.dedup();
                    assert_eq!(seqs.len() as u64, ROUNDS, "one number was given twice");
                    assert!(seqs.is_sorted(), "an append got a lower number than the one before");
                }
            });
        }
    });
    read.into_inner()
}

fn serve(medium: &str, dir: &Path, workers: &str) {
    let more = ["--size", "16MiB", "--medium", medium, "--workers", workers];
    let server = Server::start(dir, &more);
    let read = load(&server);
    let all = CONNECTIONS as u64 * ROUNDS;
    assert!(read > all / 4, "{read} of {all} were read back before they were trimmed");
    println!("{medium}, {workers} workers: {read} of {all} values were read back");
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
}

/// D3, in numbers: a reply that went to another connection, or came with the bytes of another
/// record, would be found here.
#[test]
fn a_thousand_connections_get_what_they_asked_for() {
    for workers in ["1", "2"] {
        for (medium, dir) in media() {
            serve(medium, dir.path(), workers);
        }
    }
}
