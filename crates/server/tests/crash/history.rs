//! What clients asked for, what they were told, and whether that is true after a crash.

use std::collections::{BTreeMap, VecDeque};

use impasto_sim::Rng;

use crate::{
    client::{Client, Reply},
    machine::Machine,
};

const CLIENTS: usize = 3;
const LOGS: [&str; 3] = ["a", "b", "c"];

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Append { log: usize, len: usize },
    Read { log: usize, back: u64 },
    Trim { log: usize, back: u64 },
}

/// What happens, in order: a client asks, or the server gets a few turns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Vec<Event>);

#[derive(Clone, Copy, Debug)]
enum Event {
    Ask(usize, Ask),
    Turns(usize),
}

impl Script {
    /// Short and long values, pipelined and not, with reads and trims between.
    pub(crate) fn random(rng: &mut Rng, length: usize) -> Self {
        let mut events = Vec::new();
        for _ in 0..length {
            let log = rng.index(LOGS.len());
            let ask = match rng.index(10) {
                0 | 1 => Ask::Read { log, back: rng.below(3) },
                2 => Ask::Trim { log, back: rng.below(3) },
                _ => Ask::Append { log, len: length_of_value(rng) },
            };
            events.push(Event::Ask(rng.index(CLIENTS), ask));
            if rng.once_in(2) {
                events.push(Event::Turns(1 + rng.index(3)));
            }
        }
        Self(events)
    }

    /// Values as long as they can be where they are, and trims that take most of them: the log goes
    /// round its region, and space is used again.
    pub(crate) fn round(rng: &mut Rng, length: usize) -> Self {
        let mut events = Vec::new();
        for _ in 0..length {
            let log = rng.index(LOGS.len());
            let client = rng.index(CLIENTS);
            let len = match rng.index(6) {
                0 => 66_000 + rng.index(300_000),
                // Alone in its buffer, and so what is trimmed alone sets that free.
                1 => 250_000 + rng.index(12_000),
                2 => 300 + rng.index(9_000),
                _ => 60_000 + rng.index(5_000),
            };
            events.push(Event::Ask(client, Ask::Append { log, len }));
            if rng.once_in(2) {
                let client = if rng.once_in(2) { client } else { rng.index(CLIENTS) };
                events.push(Event::Ask(client, Ask::Trim { log, back: rng.below(2) }));
            }
            if rng.once_in(3) {
                events.push(Event::Turns(1 + rng.index(4)));
            }
        }
        Self(events)
    }

    /// One client that does not wait, with values of one length.
    pub(crate) fn equal_appends(count: usize) -> Self {
        let ask = Event::Ask(0, Ask::Append { log: 0, len: 20 });
        Self([ask, Event::Turns(1)].repeat(count))
    }
}

/// Inline and kept on either medium, equal lengths often (D6), and sometimes long.
fn length_of_value(rng: &mut Rng) -> usize {
    match rng.index(8) {
        0..3 => 20,
        3 => 400,
        4 => 700,
        5 => 5_000 + rng.index(100),
        6 => 66_000,
        _ => 100 + rng.index(300),
    }
}

/// A request under way.
#[derive(Clone, Debug)]
enum Asked {
    Append { log: usize, value: u64 },
    Read { log: usize, seq: u64 },
    Trim { log: usize },
}

/// All that was asked and told, over the lives of a region.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Number of values that were sent.
    values: u64,
    /// Values sent, by log, whether they were acknowledged or not.
    sent: BTreeMap<usize, BTreeMap<Vec<u8>, u64>>,
    /// What was acknowledged or shown, by log and sequence number.
    known: BTreeMap<(usize, u64), Vec<u8>>,
    /// The highest `before` that was asked for, by log.
    trims_asked: BTreeMap<usize, u64>,
    /// The highest `first` that was told.
    trims_told: BTreeMap<usize, u64>,
    /// Appends of this life that were not answered, by log.
    pending: BTreeMap<usize, u64>,
}

impl History {
    /// Lets clients do what the script says, and notes what they are told.
    pub(crate) fn run(&mut self, script: &Script, machine: &mut Machine) {
        let mut clients: Vec<_> =
            (0..CLIENTS).map(|_| (Client::open(&machine.peer), VecDeque::new())).collect();
        self.pending.clear();
        for event in &script.0 {
            match *event {
                Event::Ask(client, ask) => {
                    let (request, asked) = self.ask(ask);
                    clients[client].0.send(&request);
                    clients[client].1.push_back(asked);
                }
                Event::Turns(turns) => {
                    (0..turns).for_each(|_| machine.turn());
                    self.listen(&mut clients);
                }
            }
        }
        machine.settle();
        self.listen(&mut clients);
        self.pending.clear();
    }

    /// Notes the replies that have arrived.
    fn listen(&mut self, clients: &mut [(Client, VecDeque<Asked>)]) {
        for (client, asked) in clients {
            while let Some(reply) = client.reply() {
                let asked = asked.pop_front().expect("a reply answers a request");
                if let Asked::Append { log, .. } = asked {
                    *self.pending.entry(log).or_default() -= 1;
                }
                self.told(&asked, reply);
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> (Vec<u8>, Asked) {
        match ask {
            Ask::Append { log, len } => {
                let value = self.value(log, len);
                *self.pending.entry(log).or_default() += 1;
                (append(log, &value), Asked::Append { log, value: self.values })
            }
            Ask::Read { log, back } => {
                let seq = self.expected(log).saturating_sub(back).max(1);
                (get(&format!("/v1/logs/{}/{seq}", LOGS[log])), Asked::Read { log, seq })
            }
            Ask::Trim { log, back } => {
                let before = self.expected(log).saturating_sub(back);
                let asked = self.trims_asked.entry(log).or_default();
                *asked = before.max(*asked);
                let target = format!("/v1/logs/{}?before={before}", LOGS[log]);
                (format!("DELETE {target} HTTP/1.1\r\n\r\n").into(), Asked::Trim { log })
            }
        }
    }

    /// Returns a value that was never sent before.
    fn value(&mut self, log: usize, len: usize) -> Vec<u8> {
        self.values += 1;
        let mut value = format!("{:08}", self.values).into_bytes();
        let fill = u8::try_from(self.values % 251).unwrap();
        value.resize(len.max(8), fill);
        self.sent.entry(log).or_default().insert(value.clone(), self.values);
        value
    }

    /// The next sequence number, as far as anybody was told.
    fn next(&self, log: usize) -> u64 {
        let known = self.known.range((log, 0)..=(log, u64::MAX)).next_back();
        known.map_or(1, |((_, seq), _)| seq + 1)
    }

    /// The next sequence number, if all that was asked for has come about: so that records are read
    /// and trimmed before anybody was told of them, too.
    fn expected(&self, log: usize) -> u64 {
        self.next(log) + self.pending.get(&log).copied().unwrap_or(0)
    }

    fn told(&mut self, asked: &Asked, reply: Reply) {
        match (asked, reply.status) {
            (Asked::Append { log, value }, 201) => {
                let location = reply.location.expect("a record has a location");
                let seq = location.rsplit('/').next().unwrap().parse().unwrap();
                let sent = self.sent[log].iter().find(|(_, number)| *number == value);
                let bytes = sent.expect("it was sent").0.clone();
                let other = self.known.insert((*log, seq), bytes.clone());
                assert!(other.is_none_or(|other| other == bytes), "{log}/{seq} was told twice");
            }
            (Asked::Read { log, seq }, 200) => {
                let known = self.known.entry((*log, *seq)).or_insert_with(|| reply.body.clone());
                assert_eq!(*known, reply.body, "{log}/{seq} changed");
            }
            (Asked::Trim { log }, 200) => {
                let first = number(&reply.body, "first");
                let told = self.trims_told.entry(*log).or_default();
                *told = first.max(*told);
            }
            (Asked::Read { .. } | Asked::Trim { .. }, 404 | 410) => {}
            (Asked::Append { .. } | Asked::Trim { .. }, 507) => {}
            (asked, status) => panic!("{asked:?} was answered {status}"),
        }
    }

    /// Compares what a started region shows with what clients were told, and notes it as told: what
    /// is not there now must not come back later. Returns the first lie.
    pub(crate) fn check(&mut self, machine: &mut Machine) -> Result<(), String> {
        for (log, name) in LOGS.iter().enumerate() {
            let info = ask_now(machine, &get(&format!("/v1/logs/{name}")));
            let (first, next) = match info.status {
                200 => (number(&info.body, "first"), number(&info.body, "next")),
                404 => (1, 1),
                status => return Err(format!("log {name} is answered {status}")),
            };
            self.check_bounds(log, first, next)?;
            let shown = self.check_records(machine, log, first..next)?;
            if let Some(sent) = self.sent.get_mut(&log) {
                sent.retain(|value, _| shown.contains_key(value));
            }
            self.known.extend(shown.into_iter().map(|(value, seq)| ((log, seq), value)));
        }
        Ok(())
    }

    fn check_bounds(&self, log: usize, first: u64, next: u64) -> Result<(), String> {
        let name = LOGS[log];
        if next < self.next(log) {
            let told = self.next(log) - 1;
            return Err(format!("{name}/{told} was acknowledged, the log ends before {next}"));
        }
        let told = self.trims_told.get(&log).copied().unwrap_or(0);
        if first < told {
            return Err(format!("{name} was trimmed to {told}, and starts at {first}"));
        }
        let asked = self.trims_asked.get(&log).copied().unwrap_or(1).max(1);
        if first > asked {
            return Err(format!("{name} starts at {first}, nobody trimmed it beyond {asked}"));
        }
        Ok(())
    }

    /// Returns the values that are shown, each with its sequence number.
    fn check_records(
        &self,
        machine: &mut Machine,
        log: usize,
        seqs: std::ops::Range<u64>,
    ) -> Result<BTreeMap<Vec<u8>, u64>, String> {
        let name = LOGS[log];
        let mut shown = BTreeMap::new();
        for seq in seqs {
            let reply = ask_now(machine, &get(&format!("/v1/logs/{name}/{seq}")));
            if reply.status != 200 {
                return Err(format!("{name}/{seq} is answered {}", reply.status));
            }
            let known = self.known.get(&(log, seq));
            if known.is_some_and(|known| *known != reply.body) {
                return Err(format!("{name}/{seq} has other bytes than were acknowledged"));
            }
            if !self.sent.get(&log).is_some_and(|sent| sent.contains_key(&reply.body)) {
                return Err(format!("{name}/{seq} holds bytes that nobody sent in this life"));
            }
            if shown.insert(reply.body, seq).is_some() {
                return Err(format!("{name}/{seq} is there twice"));
            }
        }
        Ok(shown)
    }

    /// The region can be written on, and the numbers go on without a gap.
    pub(crate) fn append_to_all(&mut self, machine: &mut Machine) -> Result<(), String> {
        for (log, name) in LOGS.iter().enumerate() {
            for len in [30, 700, 70_000] {
                let value = self.value(log, len);
                let reply = ask_now(machine, &append(log, &value));
                if reply.status != 201 {
                    return Err(format!("an append to {name} is answered {}", reply.status));
                }
                self.told(&Asked::Append { log, value: self.values }, reply);
            }
        }
        Ok(())
    }
}

fn ask_now(machine: &mut Machine, request: &[u8]) -> Reply {
    let mut client = Client::open(&machine.peer);
    client.send(request);
    machine.settle();
    client.reply().expect("every request is answered")
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\n\r\n").into()
}

fn append(log: usize, value: &[u8]) -> Vec<u8> {
    let head =
        format!("POST /v1/logs/{} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", LOGS[log], value.len());
    [head.as_bytes(), value].concat()
}

/// Returns a number of a flat JSON object.
fn number(json: &[u8], field: &str) -> u64 {
    let text = std::str::from_utf8(json).unwrap();
    let rest = text.split(&format!("\"{field}\":")).nth(1).expect("the field is there");
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
