//! SIGKILL under load: every 201 is there after the restart, with its bytes, and none twice.
//!
//! This shows the crash of a process only. What power loss does is shown on simulated hardware, by
//! `crates/server/tests/crash.rs`.
//!
//! `IMPASTO_CRASH_ROUNDS` is the number of kills, `IMPASTO_SEED` the seed of lengths and moments.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

use common::{Server, client::Client, place, verify};
use rustix::process::Signal;

const CONNECTIONS: u64 = 8;
/// Fewer logs than connections, so that several append to one.
const LOGS: [&str; 3] = ["orders", "events", "raft"];

struct Random(u64);

impl Random {
    /// splitmix64 (Steele, Lea, Flood, 2014).
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Acknowledged values, by log and sequence number.
type Acked = BTreeMap<(&'static str, u64), Value>;

/// A value is made of its number and length, so that it need not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    number: u64,
    len: usize,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = format!("{:016x}{:08x}", self.number, self.len).into_bytes();
        let mut random = Random(self.number);
        bytes.resize_with(self.len.max(24), || u8::try_from(random.below(256)).unwrap());
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(..24)?).ok()?;
        let number = u64::from_str_radix(&text[..16], 16).ok()?;
        let len = usize::from_str_radix(&text[16..], 16).ok()?;
        let value = Self { number, len };
        (value.bytes() == bytes).then_some(value)
    }
}

/// What the connections of a round share.
struct Load<'a> {
    server: &'a Server,
    numbers: &'a AtomicU64,
    acked: &'a Mutex<Acked>,
}

impl Load<'_> {
    /// Appends until the server dies, and says so for each that was acknowledged. A connection that
    /// the server ends, as it does when it refuses a long body, is followed by another one.
    fn run(&self, seed: u64, said: &Sender<()>) {
        let mut random = Random(seed);
        let log = LOGS[usize::try_from(random.below(3)).unwrap()];
        while let Some(stream) = self.server.try_connect() {
            let mut client = Client::new(stream);
            while self.append(&mut client, log, &mut random, said).is_some() {}
        }
    }

    /// `None` when the connection has ended.
    fn append(
        &self,
        client: &mut Client,
        log: &'static str,
        random: &mut Random,
        said: &Sender<()>,
    ) -> Option<()> {
        // Relaxed: only distinct numbers are wanted.
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let len = match random.below(40) {
            0 => 60_000 + random.below(200_000),
            1..8 => random.below(20_000),
            _ => random.below(1_500),
        };
        let value = Value { number, len: usize::try_from(len).unwrap().max(24) };
        let reply = client.ask(&format!("POST /v1/logs/{log}"), &value.bytes()).ok()?;
        match reply.status {
            201 => {
                let seq = reply.seq();
                let before = self.acked.lock().unwrap().insert((log, seq), value);
                assert_eq!(before, None, "{log}/{seq} was acknowledged twice");
                // Whoever counts has enough when it does not listen any more.
                let _enough = said.send(());
            }
            507 => LOGS.into_iter().for_each(|log| self.trim_half(log)),
            status => panic!("an append was answered {status}"),
        }
        Some(())
    }

    /// Makes room, and forgets what need not be there any more. On a connection of its own: the
    /// one that was refused may be ended.
    fn trim_half(&self, log: &'static str) {
        let Some(stream) = self.server.try_connect() else { return };
        let mut acked = self.acked.lock().unwrap();
        let of_log = acked.range((log, 0)..=(log, u64::MAX));
        let seqs: Vec<u64> = of_log.map(|((_, seq), _)| *seq).collect();
        let Some(&before) = seqs.get(seqs.len() / 2) else { return };
        // Forgotten first: should the server die now, both are right.
        acked.retain(|&(other, seq), _| other != log || seq >= before);
        drop(acked);
        let trim = format!("DELETE /v1/logs/{log}?before={before}");
        // The server may die instead of answering.
        let _reply = Client::new(stream).ask(&trim, &[]);
    }
}

/// Everything that was acknowledged is there, whole, and nothing twice.
fn check(server: &Server, acked: &Acked) {
    let mut client = server.client();
    for log in LOGS {
        let info = client.ask(&format!("GET /v1/logs/{log}"), &[]).unwrap();
        if info.status == 404 {
            assert_eq!(acked.range((log, 0)..=(log, u64::MAX)).count(), 0, "log {log} is gone");
            continue;
        }
        let (first, next) = (info.number("first"), info.number("next"));
        let last = acked.range((log, 0)..=(log, u64::MAX)).next_back();
        let acked_next = last.map_or(0, |((_, seq), _)| seq + 1);
        assert!(next >= acked_next, "{log}: {acked_next} was acknowledged, ends at {next}");
        let mut seen = HashMap::new();
        for seq in first..next {
            let reply = client.ask(&format!("GET /v1/logs/{log}/{seq}"), &[]).unwrap();
            assert_eq!(reply.status, 200, "{log}/{seq}");
            let value = Value::of(&reply.body).unwrap_or_else(|| panic!("{log}/{seq} is torn"));
            if let Some(acked) = acked.get(&(log, seq)) {
                assert_eq!(*acked, value, "{log}/{seq} has another value");
            }
            assert_eq!(seen.insert(value.number, seq), None, "{log}/{seq} is there twice");
        }
        let lost = acked.range((log, 0)..(log, first)).next();
        assert_eq!(lost, None, "{log} starts at {first}, nobody trimmed that");
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// D3: without the wait for the commit a 201 could be lost with the process that gave it.
#[test]
fn every_acknowledged_record_outlives_sigkill() {
    let (seed, rounds) = (setting("IMPASTO_SEED", 1), setting("IMPASTO_CRASH_ROUNDS", 5));
    println!("IMPASTO_SEED={seed}, IMPASTO_CRASH_ROUNDS={rounds}");
    let dir = place();
    let acked = Mutex::new(Acked::new());
    let numbers = AtomicU64::new(1);
    let mut random = Random(seed);
    let mut total = 0;
    let mut server = Server::start(dir.path(), &["--size", "64MiB", "--workers", "1"]);
    for round in 0..rounds {
        let goal = 50 + random.below(1_000);
        let load = Load { server: &server, numbers: &numbers, acked: &acked };
        thread::scope(|scope| {
            let (say, hear) = mpsc::channel();
            for connection in 0..CONNECTIONS {
                let seed = seed ^ (round << 32) ^ connection;
                let (load, say) = (&load, say.clone());
                scope.spawn(move || load.run(seed, &say));
            }
            drop(say);
            let heard = (0..goal).take_while(|_| hear.recv().is_ok()).count() as u64;
            server.send_kill();
            assert_eq!(heard, goal, "the connections go on until the server dies");
            total += heard;
        });
        assert!(!server.wait().success());
        if round % 5 == 0 {
            let output = verify(dir.path());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        // D3 holds across workers: one of them on its own, and two that take turns.
        let workers = if round % 2 == 0 { "2" } else { "1" };
        // And whatever they wait on.
        let io = if round / 2 % 2 == 0 { "epoll" } else { "auto" };
        server = Server::start(dir.path(), &["--workers", workers, "--io", io]);
        check(&server, &acked.lock().unwrap());
    }
    println!("{total} records acknowledged");
    assert!(server.stop(Signal::TERM).success());
}
