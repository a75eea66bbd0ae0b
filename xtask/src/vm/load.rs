//! Load on a server until it dies, and the check of what is there when it is back.

use std::{
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    http::{Client, Reply, Trouble, request},
    model::Known,
    random::Random,
};
use crate::Failure;

/// A server in the guest, and its logs: each has one writer, on a connection of its own.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: &'static str,
    /// Which of the guest's ports it listens on.
    pub(super) port: usize,
    logs: Vec<Known>,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

const LOGS: usize = 4;
/// Records that a log has before it is trimmed.
const LIVE_MAX: u64 = 60;
/// Appends or reads of one write.
const BURST: u64 = 8;
const GOAL_PATIENCE: Duration = Duration::from_secs(60);

impl Site {
    pub(super) fn new(name: &'static str, port: usize, seed: u64) -> Self {
        let logs = (0..LOGS).map(|number| Known::new(&format!("{name}-{number}"), seed)).collect();
        Self { name, port, logs }
    }
}

/// Loads all `sites` until `goal` appends were acknowledged, then calls `kill` while it goes on.
pub(super) fn until_killed(
    sites: &mut [Site],
    ports: [u16; 2],
    random: &mut Random,
    goal: u64,
    kill: impl FnOnce() -> Result<(), Failure>,
) -> Result<Count, Failure> {
    let (is_killed, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (say, hear) = mpsc::channel();
    thread::scope(|scope| {
        let mut writers = Vec::new();
        // All are connected before one has enough: none gets the server after the kill.
        for (log, client) in connect(sites, ports)? {
            let (random, said, bytes) = (Random(random.next()), say.clone(), &bytes);
            let writer = Writer { client, random, said, bytes };
            writers.push(scope.spawn(|| writer.run(log, &is_killed)));
        }
        drop(say);
        let end = Instant::now() + GOAL_PATIENCE;
        let left = || end.saturating_duration_since(Instant::now());
        let heard = (0..goal).take_while(|_| hear.recv_timeout(left()).is_ok()).count() as u64;
        // From here on connections may break, and before they may not.
        is_killed.store(true, Ordering::SeqCst);
        let killed = kill();
        let mut records = heard;
        for writer in writers {
            writer.join().map_err(|_| "a client has panicked")??;
        }
        killed?;
        if heard < goal {
            return Err(format!("only {heard} appends in {GOAL_PATIENCE:?}").into());
        }
        records += hear.try_iter().count() as u64;
        Ok(Count { records, bytes: bytes.load(Ordering::Relaxed) })
    })
}

/// Returns each log with a connection to its server. Each has had an answer before the next one is
/// made: QEMU has a queue of one for them, and what does not fit waits for a second.
fn connect(sites: &mut [Site], ports: [u16; 2]) -> Result<Vec<(&mut Known, Client)>, String> {
    let mut connected = Vec::new();
    for site in sites {
        for log in &mut site.logs {
            let connect = || {
                let mut client = Client::connect(ports[site.port])?;
                expect(&client.ask("GET /livez", &[])?, 200, "livez")?;
                Ok(client)
            };
            let client =
                connect().map_err(|trouble: Trouble| format!("{}: {trouble}", site.name))?;
            connected.push((log, client));
        }
    }
    Ok(connected)
}

/// The one who appends to a log.
struct Writer<'a> {
    client: Client,
    random: Random,
    said: Sender<()>,
    /// Bytes that were acknowledged.
    bytes: &'a AtomicU64,
}

impl Writer<'_> {
    /// Appends, reads and trims until the connection breaks, as it may once the server is killed.
    fn run(mut self, log: &mut Known, is_killed: &AtomicBool) -> Result<(), String> {
        let done = loop {
            if let Err(trouble) = self.step(log) {
                break trouble;
            }
        };
        match done {
            Trouble::Broken if is_killed.load(Ordering::SeqCst) => Ok(()),
            trouble => Err(format!("{}: {trouble}", log.name)),
        }
    }

    fn step(&mut self, log: &mut Known) -> Result<(), Trouble> {
        let live = log.live();
        let records = live.end.saturating_sub(live.start);
        match self.random.below(100) {
            0..25 if records > 0 => {
                let count = records.min(BURST);
                let start = live.start + self.random.below(records - count + 1);
                read(&mut self.client, log, start..start + count).map(drop)
            }
            25..35 => {
                let count = 1 + self.random.below(BURST);
                self.append(log, count)
            }
            35.. if records > LIVE_MAX => {
                let before = live.start + self.random.below(records);
                log.send_trim(before);
                let line = format!("DELETE /v1/logs/{}?before={before}", log.name);
                expect(&self.client.ask(&line, &[])?, 200, "a trim")?;
                log.acknowledge_trim();
                Ok(())
            }
            _ => self.append(log, 1),
        }
    }

    /// Appends `count` records with one write; each is acknowledged on its own.
    fn append(&mut self, log: &mut Known, count: u64) -> Result<(), Trouble> {
        let (mut requests, mut lens) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let seq = log.send();
            let body = log.body(seq);
            requests.extend(request(&format!("POST /v1/logs/{}", log.name), &body));
            lens.push(body.len() as u64);
        }
        self.client.send(&requests)?;
        for len in lens {
            log.acknowledge(self.client.reply()?.seq()?).map_err(Trouble::Wrong)?;
            // Relaxed: it is read when this thread has ended.
            self.bytes.fetch_add(len, Ordering::Relaxed);
            // Whoever counts has enough when it does not listen any more.
            let _enough = self.said.send(());
        }
        Ok(())
    }
}

/// Reads everything of servers that were restarted: what was acknowledged is there, byte for byte,
/// nothing twice, and what was trimmed is not.
pub(super) fn check(sites: &mut [Site], ports: [u16; 2]) -> Result<Count, Failure> {
    thread::scope(|scope| {
        let mut readers = Vec::new();
        for (log, client) in connect(sites, ports)? {
            readers.push(scope.spawn(move || check_log(log, client)));
        }
        let mut all = Count::default();
        for reader in readers {
            let count = reader.join().map_err(|_| "a client has panicked")?;
            let count = count.map_err(|trouble| format!("after the restart: {trouble}"))?;
            all.records += count.records;
            all.bytes += count.bytes;
        }
        Ok(all)
    })
}

fn check_log(log: &mut Known, mut client: Client) -> Result<Count, Trouble> {
    let reply = client.ask(&format!("GET /v1/logs/{}", log.name), &[])?;
    // A log is there from its first record on.
    let (first, next) = match reply.status {
        404 => (1, 1),
        _ => (reply.field("first")?, reply.field("next")?),
    };
    log.settle(first, next).map_err(Trouble::Wrong)?;
    let mut count = Count::default();
    let mut start = first;
    while start < next {
        let end = next.min(start + BURST);
        count.bytes += read(&mut client, log, start..end)?;
        count.records += end - start;
        start = end;
    }
    let mut is = |seq: u64, status: u16| {
        let reply = client.ask(&format!("GET /v1/logs/{}/{seq}", log.name), &[])?;
        expect(&reply, status, &format!("{}/{seq}", log.name))
    };
    is(next, 404)?;
    if first > 1 {
        is(first - 1, 410)?;
    }
    Ok(count)
}

/// Reads and compares records that have to be there; returns the number of bytes.
fn read(client: &mut Client, log: &Known, seqs: Range<u64>) -> Result<u64, Trouble> {
    let name = &log.name;
    let line = |seq| request(&format!("GET /v1/logs/{name}/{seq}"), &[]);
    client.send(&seqs.clone().flat_map(line).collect::<Vec<u8>>())?;
    let mut bytes = 0;
    for seq in seqs {
        let reply = client.reply()?;
        expect(&reply, 200, &format!("{name}/{seq}"))?;
        log.check(seq, &reply.body).map_err(Trouble::Wrong)?;
        bytes += reply.body.len() as u64;
    }
    Ok(bytes)
}

fn expect(reply: &Reply, status: u16, what: &str) -> Result<(), Trouble> {
    if reply.status == status {
        return Ok(());
    }
    let text = reply.text();
    Err(Trouble::Wrong(format!("{what}: {} instead of {status}: {}", reply.status, text.trim())))
}
