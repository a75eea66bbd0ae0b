//! Many clients at once, cut and mixed at random, against a model of each log.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use impasto_region::{Checksum, layout::MediumKind};
use impasto_ring::FlowId;
use impasto_sim::Rng;
use rig::{MEDIA, Rig, ask, post, replies, value};

/// A client with a log of its own: what it has sent, and what it has to get.
struct Client {
    flow: FlowId,
    log: String,
    unsent: Vec<u8>,
    expected: Vec<(u16, Vec<u8>)>,
    first: usize,
    values: Vec<Vec<u8>>,
}

impl Client {
    fn request(&mut self, rng: &mut Rng) {
        let log = &self.log;
        match rng.index(10) {
            0..=4 => {
                let most = [1, 600, 5000, 66_000, 200_000][rng.index(5)];
                let value = value(rng.index(most), u8::try_from(rng.index(256)).unwrap());
                self.unsent.extend(post(log, &value));
                self.expected.push((201, Vec::new()));
                self.values.push(value);
            }
            5..=7 => {
                let seq = 1 + rng.index(self.values.len() + 2);
                self.unsent.extend(ask("GET", &format!("/v1/logs/{log}/{seq}")).bytes());
                self.expected.push(match self.values.get(seq - 1) {
                    Some(value) if seq > self.first => (200, value.clone()),
                    Some(_) => (410, self.trimmed()),
                    None => (404, self.missing()),
                });
            }
            8 if rng.once_in(2) => {
                let (from, limit) = (rng.index(self.values.len() + 3), 1 + rng.index(9));
                let target = format!("/v1/logs/{log}?from={}&limit={limit}", from + 1);
                self.unsent.extend(ask("GET", &target).bytes());
                self.expected.push(self.batch(from, limit));
            }
            8 if !self.values.is_empty() => {
                self.first = self.first.max(self.values.len().saturating_sub(rng.index(8)));
                let before = self.first + 1;
                let target = format!("/v1/logs/{log}?before={before}");
                self.unsent.extend(ask("DELETE", &target).bytes());
                self.expected.push((200, self.numbers()));
            }
            _ => {
                self.unsent.extend(ask("GET", &format!("/v1/logs/{log}")).bytes());
                self.expected.push(if self.values.is_empty() {
                    (404, self.missing())
                } else {
                    (200, self.numbers())
                });
            }
        }
    }

    /// What a read behind the end is told.
    fn missing(&self) -> Vec<u8> {
        let next = self.values.len() + 1;
        if next == 1 {
            return problem("no-such-log", "No such log", 404, "there is no log of that name", "");
        }
        let detail = "the record is not there yet: the next one gets `next`";
        problem("not-yet", "Not there yet", 404, detail, &format!(",\"next\":{next}"))
    }

    fn trimmed(&self) -> Vec<u8> {
        let detail =
            "the record was dropped: `first` is the oldest one that is there, or the next one";
        let first = format!(",\"first\":{}", self.first + 1);
        problem("trimmed", "The record was trimmed", 410, detail, &first)
    }

    /// Records in a row from the one with this index on.
    fn batch(&self, from: usize, limit: usize) -> (u16, Vec<u8>) {
        if from > self.values.len() || self.values.is_empty() {
            return (404, self.missing());
        }
        if from < self.first {
            return (410, self.trimmed());
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (seq, value) in (from as u64 + 1..).zip(&self.values[from..]).take(limit) {
            bytes += value.len();
            if !batch.is_empty() && bytes > 256 << 10 {
                break;
            }
            batch.extend(seq.to_le_bytes());
            batch.extend((value.len() as u64).to_le_bytes());
            batch.extend(Checksum::of(value).to_le_bytes());
            batch.extend_from_slice(value);
        }
        (200, batch)
    }

    fn numbers(&self) -> Vec<u8> {
        let live = &self.values[self.first..];
        let (first, next) = (self.first + 1, self.values.len() + 1);
        let bytes: usize = live.iter().map(Vec::len).sum();
        let records = live.len();
        format!("{{\"first\":{first},\"next\":{next},\"records\":{records},\"bytes\":{bytes}}}\n")
            .into_bytes()
    }
}

fn problem(kind: &str, title: &str, status: u16, detail: &str, member: &str) -> Vec<u8> {
    let what = format!("\"type\":\"/problems/{kind}\",\"title\":\"{title}\"");
    format!("{{{what},\"status\":{status},\"detail\":\"{detail}\"{member}}}\n").into_bytes()
}

fn runs(kind: MediumKind, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut rig = Rig::new(kind, 64);
    let mut clients: Vec<_> = (0..6)
        .map(|index| Client {
            flow: rig.open(),
            log: format!("log-{index}"),
            unsent: Vec::new(),
            expected: Vec::new(),
            first: 0,
            values: Vec::new(),
        })
        .collect();
    for _ in 0..600 {
        let client = rng.index(clients.len());
        let client = &mut clients[client];
        for _ in 0..rng.index(4) {
            client.request(&mut rng);
        }
        let most = [2, 100, 5000, 300_000][rng.index(4)];
        let piece = rng.index(most).min(client.unsent.len());
        if piece > 0 {
            rig.peer.push(client.flow, &client.unsent[..piece]);
            client.unsent.drain(..piece);
        }
        rig.tap.stalls.set(rng.once_in(4));
        if rng.once_in(2) {
            rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
        }
    }
    rig.tap.stalls.set(false);
    for client in &mut clients {
        rig.peer.push(client.flow, &client.unsent);
    }
    for _ in 0..100 {
        rig.run();
    }
    for client in clients {
        let replies = replies(&rig.peer.take_sent(client.flow));
        assert_eq!(replies.len(), client.expected.len(), "{} on {kind:?}", client.log);
        for (index, (reply, (status, body))) in replies.iter().zip(&client.expected).enumerate() {
            assert_eq!(reply.status, *status, "reply {index} of {} on {kind:?}", client.log);
            assert!(reply.body == *body, "reply {index} of {} on {kind:?}", client.log);
        }
    }
}

/// Whatever is special about one order of events is found here, or nowhere before a user does.
#[test]
fn mixed_clients_get_what_they_asked_for_in_order() {
    let seed = std::env::var("IMPASTO_SEED").map_or(7, |seed| seed.parse().unwrap());
    for seed in seed..seed + 10 {
        println!("IMPASTO_SEED={seed}");
        for kind in MEDIA {
            runs(kind, seed);
        }
    }
}
