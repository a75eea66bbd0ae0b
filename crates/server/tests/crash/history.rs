//! What clients asked for, what they were told, and whether that is true after a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    client::{Client, Reply},
    machine::Machine,
    script::{Ask, CLIENTS, Event, LOGS, Script},
};

/// A request under way.
#[derive(Clone, Debug)]
enum Asked {
    Append {
        log: usize,
        value: u64,
        /// What was asked before and answered is below this.
        after: u64,
    },
    Read {
        log: usize,
        seq: u64,
        /// Somebody has been told that it is there.
        is_known: bool,
    },
    /// Records in a row from this one on.
    Batch {
        log: usize,
        seq: u64,
        is_known: bool,
    },
    Trim {
        log: usize,
    },
    Nonsense,
}

/// A client, and what it waits for.
struct Talk {
    client: Client,
    asked: VecDeque<Asked>,
    /// What it has to send to end its request.
    rest: Vec<u8>,
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
    /// By client: what it has sent in the last life, in its order, each log and value, but for what
    /// was refused.
    appends: Vec<Vec<(usize, u64)>>,
    /// The first reply that cannot be.
    lie: Option<String>,
}

impl History {
    /// Lets clients do what the script says, and notes what they are told.
    pub(crate) fn run(&mut self, script: &Script, machine: &mut Machine) {
        let open = |client| {
            let client = Client::open(machine.peer_of(client));
            Talk { client, asked: VecDeque::new(), rest: Vec::new() }
        };
        let mut talks: Vec<_> = (0..CLIENTS).map(open).collect();
        self.pending.clear();
        self.appends = vec![Vec::new(); CLIENTS];
        for event in &script.events {
            match *event {
                Event::Ask(client, ask) => self.say(&mut talks, client, ask, 1),
                Event::Half(client, ask) => self.say(&mut talks, client, ask, 2),
                Event::Rest(client) => {
                    let rest = std::mem::take(&mut talks[client].rest);
                    talks[client].client.send(&rest);
                }
                Event::Turns(turns) => {
                    for _ in 0..turns {
                        machine.turn();
                    }
                    self.listen(&mut talks, script.deaf);
                }
            }
        }
        // The second time for what is asked because of what was told.
        for _ in 0..2 {
            machine.settle();
            self.listen(&mut talks, script.deaf);
        }
        for (client, talk) in talks.iter().enumerate() {
            if script.deaf != Some(client) && machine.power.is_on() && !talk.asked.is_empty() {
                self.lie(format!("client {client} waits for ever: {:?}", talk.asked));
            }
        }
        self.pending.clear();
        if !script.fits {
            self.appends.clear();
        }
    }

    /// A client sends the first one of so many parts of what it asks, and keeps the rest.
    fn say(&mut self, talks: &mut [Talk], client: usize, ask: Ask, parts: usize) {
        let (mut request, asked) = self.ask(ask);
        if let Asked::Append { log, value, .. } = asked {
            self.appends[client].push((log, value));
        }
        let talk = &mut talks[client];
        talk.rest = request.split_off(request.len() / parts);
        talk.client.send(&request);
        talk.asked.push_back(asked);
    }

    /// Notes the replies that have arrived. Of some of the records that it learns of a client tells
    /// another one, who looks at once.
    fn listen(&mut self, talks: &mut [Talk], deaf: Option<usize>) {
        let mut heard = Vec::new();
        for (client, talk) in talks.iter_mut().enumerate() {
            let Talk { client: conn, asked: asked_behind, rest } = talk;
            if deaf == Some(client) {
                continue;
            }
            while let Some(reply) = conn.reply() {
                let asked = asked_behind.pop_front().expect("a reply answers a request");
                if let Asked::Append { log, .. } = asked {
                    *self.pending.entry(log).or_default() -= 1;
                }
                let closes = reply.closes;
                let seq = self.told(&asked, reply);
                if closes {
                    // What was sent behind it is not answered, and is asked for no more.
                    for behind in asked_behind.drain(..) {
                        if let Asked::Append { log, value, .. } = behind {
                            *self.pending.entry(log).or_default() -= 1;
                            self.refused(value);
                        }
                    }
                    rest.clear();
                    conn.reopen();
                }
                if let (Asked::Append { log, value, .. }, Some(seq)) = (asked, seq)
                    && value % 2 == 0
                {
                    heard.push(((client + 1) % CLIENTS, log, seq));
                }
            }
        }
        for (client, log, seq) in heard {
            let (request, asked) = self.read(log, seq);
            // It would stand within the body of the other request.
            if talks[client].rest.is_empty() {
                talks[client].client.send(&request);
                talks[client].asked.push_back(asked);
            }
        }
    }

    fn read(&self, log: usize, seq: u64) -> (Vec<u8>, Asked) {
        let is_known = self.known.contains_key(&(log, seq));
        (get(&format!("/v1/logs/{}/{seq}", LOGS[log])), Asked::Read { log, seq, is_known })
    }

    fn lie(&mut self, lie: String) {
        self.lie.get_or_insert(lie);
    }

    fn ask(&mut self, ask: Ask) -> (Vec<u8>, Asked) {
        match ask {
            Ask::Append { log, len } => {
                let value = self.value(log, len);
                *self.pending.entry(log).or_default() += 1;
                let after = self.next(log);
                (append(log, &value), Asked::Append { log, value: self.values, after })
            }
            Ask::Read { log, back } => {
                let seq = self.expected(log).saturating_sub(back).max(1);
                if back % 2 == 0 {
                    return self.read(log, seq);
                }
                let is_known = self.known.contains_key(&(log, seq));
                (get(&batch(log, seq)), Asked::Batch { log, seq, is_known })
            }
            Ask::Trim { log, back } => {
                let before = self.expected(log).saturating_sub(back);
                let asked = self.trims_asked.entry(log).or_default();
                *asked = before.max(*asked);
                let target = format!("/v1/logs/{}?before={before}", LOGS[log]);
                (format!("DELETE {target} HTTP/1.1\r\nHost: h\r\n\r\n").into(), Asked::Trim { log })
            }
            Ask::Nonsense { len } => (post("/v1/nonsense", &vec![0; len]), Asked::Nonsense),
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

    /// Returns the number of the record, if it is told of one.
    fn told(&mut self, asked: &Asked, reply: Reply) -> Option<u64> {
        match (asked, reply.status) {
            (Asked::Append { log, value, after }, 201) => {
                let location = reply.location.expect("a record has a location");
                let seq = location.rsplit('/').next().unwrap().parse().unwrap();
                let sent = self.sent[log].iter().find(|(_, number)| *number == value);
                let bytes = sent.expect("it was sent").0.clone();
                if seq < *after {
                    self.lie(format!(
                        "{}/{seq} is before what was acknowledged before",
                        LOGS[*log]
                    ));
                }
                self.know(*log, seq, bytes);
                return Some(seq);
            }
            (Asked::Read { log, seq, .. }, 200) => self.know(*log, *seq, reply.body),
            (Asked::Batch { log, seq, is_known }, 200) => {
                let records = records(&reply.body);
                if *is_known && records.is_empty() {
                    self.lie(format!("{}/{seq} was told of, and is not shown", LOGS[*log]));
                }
                for (seq, value) in (*seq..).zip(records) {
                    self.know(*log, seq, value);
                }
            }
            (Asked::Read { log, seq, is_known } | Asked::Batch { log, seq, is_known }, 410) => {
                let asked = self.trims_asked.get(log).copied().unwrap_or(0);
                if *is_known && asked <= *seq {
                    self.lie(format!("{}/{seq} is gone, and nobody trimmed it", LOGS[*log]));
                }
                self.trimmed(*log, seq + 1);
            }
            (
                Asked::Read { log, seq, is_known: true }
                | Asked::Batch { log, seq, is_known: true },
                404,
            ) => {
                self.lie(format!("{}/{seq} was told of, and is not there", LOGS[*log]));
            }
            (Asked::Append { value, .. }, 507) => self.refused(*value),
            (Asked::Trim { log }, 200) => self.trimmed(*log, number(&reply.body, "first")),
            (
                Asked::Read { .. } | Asked::Batch { .. } | Asked::Trim { .. } | Asked::Nonsense,
                404,
            ) => {}
            (Asked::Trim { .. }, 507) => {}
            (asked, status) => self.lie(format!("{asked:?} is answered {status}")),
        }
        None
    }

    /// Such a value will never be a record.
    fn refused(&mut self, value: u64) {
        for appends in &mut self.appends {
            appends.retain(|(_, other)| *other != value);
        }
    }

    /// A client was told what this record is.
    fn know(&mut self, log: usize, seq: u64, bytes: Vec<u8>) {
        let known = self.known.entry((log, seq)).or_insert_with(|| bytes.clone());
        if *known != bytes {
            self.lie(format!("{}/{seq} has other bytes than before", LOGS[log]));
        }
    }

    /// A client was told that what is before `first` is gone.
    fn trimmed(&mut self, log: usize, first: u64) {
        let told = self.trims_told.entry(log).or_default();
        *told = first.max(*told);
    }

    /// Compares what a started region shows with what clients were told, and notes it as told: what
    /// is not there now must not come back later. Returns the first lie.
    pub(crate) fn check(&mut self, machine: &mut Machine) -> Result<(), String> {
        self.lie.clone().map_or(Ok(()), Err)?;
        let mut found = BTreeSet::new();
        for (log, name) in LOGS.iter().enumerate() {
            let info = ask_now(machine, &get(&format!("/v1/logs/{name}")))?;
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
            found.extend(shown.keys().map(|value| number_of(value)));
            self.known.extend(shown.into_iter().map(|(value, seq)| ((log, seq), value)));
        }
        self.check_order(&found)
    }

    /// D3: what one client has sent takes effect in its order, and so it is lost from the end.
    fn check_order(&self, found: &BTreeSet<u64>) -> Result<(), String> {
        for appends in &self.appends {
            let is_there = |(_, value): &(usize, u64)| found.contains(value);
            let end = appends.iter().rposition(is_there).unwrap_or(0);
            let may_be_trimmed = |log| self.trims_asked.contains_key(log);
            let mut before = appends[..end].iter();
            let lost = before.find(|append| !is_there(append) && !may_be_trimmed(&append.0));
            if let Some((log, value)) = lost {
                let later = appends[end];
                let name = LOGS[*log];
                return Err(format!("value {value} of {name} is lost, and {later:?} is not"));
            }
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
            let reply = ask_now(machine, &get(&format!("/v1/logs/{name}/{seq}")))?;
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
            let row = ask_now(machine, &get(&batch(log, seq)))?;
            if row.status != 200 || records(&row.body).first() != Some(&reply.body) {
                return Err(format!("{name}/{seq} is another one in a row"));
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
                let after = self.next(log);
                let reply = ask_now(machine, &append(log, &value))?;
                if reply.status != 201 {
                    return Err(format!("an append to {name} is answered {}", reply.status));
                }
                self.told(&Asked::Append { log, value: self.values, after }, reply);
            }
        }
        self.lie.clone().map_or(Ok(()), Err)
    }
}

/// Asks any of the workers, and waits for its answer.
fn ask_now(machine: &mut Machine, request: &[u8]) -> Result<Reply, String> {
    let mut client = Client::open(&machine.any_peer());
    client.send(request);
    machine.settle();
    client.reply().ok_or_else(|| "a request is not answered".into())
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").into()
}

fn batch(log: usize, seq: u64) -> String {
    format!("/v1/logs/{}?from={seq}&limit=5", LOGS[log])
}

/// Returns the records of a batch.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(24) {
        let len = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
        records.push(rest[..len].to_vec());
        bytes = &rest[len..];
    }
    records
}

fn append(log: usize, value: &[u8]) -> Vec<u8> {
    post(&format!("/v1/logs/{}", LOGS[log]), value)
}

fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns which of all values this is.
fn number_of(value: &[u8]) -> u64 {
    let digits = std::str::from_utf8(&value[..8]).expect("a value starts with its number");
    digits.parse().expect("a value starts with its number")
}

/// Returns a number of a flat JSON object.
fn number(json: &[u8], field: &str) -> u64 {
    let text = std::str::from_utf8(json).unwrap();
    let rest = text.split(&format!("\"{field}\":")).nth(1).expect("the field is there");
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
