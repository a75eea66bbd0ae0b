//! Records in a row: `GET /v1/logs/{log}?from=&limit=`.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use impasto_region::{Checksum, layout::MediumKind};
use rig::{MEDIA, Reply, Rig, ask, replies, replies_to, value};

const FRAMED: &str = "application/vnd.impasto.records";

fn get(rig: &mut Rig, target: &str, fields: &str) -> Reply {
    rig.once(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
}

/// Returns the records of a batch, as a client does it.
fn decode(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(24);
        let seq = u64::from_le_bytes(head[..8].try_into().unwrap());
        let len = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
        let checksum = u64::from_le_bytes(head[16..].try_into().unwrap());
        let (value, rest) = rest.split_at(len);
        assert_eq!((&head[12..16], checksum), (&[0; 4][..], Checksum::of(value)));
        records.push((seq, value.to_vec()));
        bytes = rest;
    }
    records
}

/// Returns all records of a log, asked for in batches of at most `limit`, up to an empty one.
fn consume(rig: &mut Rig, log: &str, limit: usize) -> Vec<(u64, Vec<u8>)> {
    let (mut records, mut from) = (Vec::new(), 1);
    loop {
        let reply = get(rig, &format!("/v1/logs/{log}?from={from}&limit={limit}"), "");
        assert_eq!((reply.status, reply.field("Content-Type")), (200, FRAMED));
        let batch = decode(&reply.body);
        assert!(batch.len() <= limit);
        let next = reply.field("Impasto-Next").parse().unwrap();
        assert_eq!(next, from + batch.len() as u64);
        if batch.is_empty() {
            return records;
        }
        from = next;
        records.extend(batch);
    }
}

fn fill(rig: &mut Rig) -> Vec<(u64, Vec<u8>)> {
    let lens = [0, 1, 511, 512, 513, 600, 5000, 40_000, 65_536, 65_537, 300_000, 7, 600, 0];
    let records = (1..).zip(lens).map(|(seq, len)| (seq, value(len, 7)));
    let records: Vec<_> = records.collect();
    for (_, value) in &records {
        assert_eq!(rig.append("log", value).status, 201);
    }
    records
}

/// A consumer that misses a record, or gets one twice, has another log.
#[test]
fn a_consumer_gets_every_record_once() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let records = fill(&mut rig);
        for limit in [1, 2, 5, 1000] {
            assert!(consume(&mut rig, "log", limit) == records, "{limit} on {kind:?}");
        }
        // After a restart every record has to be read again, and verified.
        for limit in [1, 3, 1000] {
            rig = rig.restart(kind);
            assert!(consume(&mut rig, "log", limit) == records, "{limit} on {kind:?}, restarted");
        }
        rig.once(ask("DELETE", "/v1/logs/log?before=4"));
        let reply = get(&mut rig, "/v1/logs/log?limit=3", "");
        assert!(decode(&reply.body) == records[3..6], "it starts with the oldest");
        assert_eq!(reply.field("Impasto-Next"), "7");
    }
}

/// One that asks for a million records must not get them at once.
#[test]
fn a_batch_is_bounded() {
    let mut rig = Rig::new(MEDIA[1], 16);
    let flow = rig.open();
    for _ in 0..150 {
        rig.talk(flow, rig::post("small", b"x"));
    }
    let batch = get(&mut rig, "/v1/logs/small?from=1", "");
    assert_eq!((decode(&batch.body).len(), batch.field("Impasto-Next")), (100, "101"));
    for _ in 0..10 {
        rig.append("large", &value(100_000, 1));
    }
    let batch = get(&mut rig, "/v1/logs/large?limit=1000", "");
    assert_eq!((decode(&batch.body).len(), batch.field("Impasto-Next")), (2, "3"));
    rig.append("huge", &value(1 << 20, 1));
    let batch = get(&mut rig, "/v1/logs/huge?limit=1000", "");
    assert_eq!(batch.body.len(), 24 + (1 << 20));
    let lines = get(&mut rig, "/v1/logs/huge?limit=1", "Accept: application/jsonl\r\n");
    assert_eq!(lines.text(), "{\"seq\":1,\"bytes\":1048576,\"href\":\"/v1/logs/huge/1\"}\n");
}

/// Control characters are six bytes each in JSON: a row of lines would be more than twice as long
/// as what a connection may have to be sent.
#[test]
fn lines_are_bounded_as_they_are_written() {
    let mut rig = Rig::new(MEDIA[1], 16);
    for len in [31_000, 65_536, 0] {
        rig.append("log", &vec![1; len]);
    }
    for restarts in [false, true] {
        if restarts {
            rig = rig.restart(MEDIA[1]);
        }
        for (from, next, most) in [(1, "2", 256 << 10), (2, "3", 6 * 65_536 + 64), (3, "4", 64)] {
            let target = format!("/v1/logs/log?from={from}");
            let lines = get(&mut rig, &target, "Accept: application/jsonl\r\n");
            assert_eq!(lines.field("Impasto-Next"), next);
            assert!(lines.body.len() <= most, "{} from {from}", lines.body.len());
        }
    }
}

#[test]
fn a_poll_at_the_end_is_empty_until_something_comes() {
    let mut rig = Rig::new(MEDIA[0], 16);
    assert_eq!(get(&mut rig, "/v1/logs/log?from=1", "").status, 404);
    rig.append("log", b"one");
    let poll = get(&mut rig, "/v1/logs/log?from=2", "");
    assert_eq!((poll.status, poll.body.len(), poll.field("Impasto-Next")), (200, 0, "2"));
    assert_eq!(poll.field("Content-Length"), "0");
    rig.append("log", b"two");
    assert!(decode(&get(&mut rig, "/v1/logs/log?from=2", "").body) == [(2, b"two".to_vec())]);
    rig.once(ask("DELETE", "/v1/logs/log?before=9"));
    let poll = get(&mut rig, "/v1/logs/log?limit=9", "");
    assert_eq!((poll.status, poll.body.len(), poll.field("Impasto-Next")), (200, 0, "3"));
}

#[test]
fn lines_are_json_whatever_the_bytes_are() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        for value in [&b"hello"[..], b"a\"b\\\n\x01", b"\xff\x00", b"", "\u{e4}".as_bytes()] {
            rig.append("log", value);
        }
        rig.append("log", &vec![b'x'; 65_536]);
        rig.append("log", &vec![b'x'; 65_537]);
        let expected = "{\"seq\":1,\"bytes\":5,\"text\":\"hello\"}\n\
                        {\"seq\":2,\"bytes\":6,\"text\":\"a\\\"b\\\\\\n\\u0001\"}\n\
                        {\"seq\":3,\"bytes\":2,\"base64\":\"/wA=\"}\n\
                        {\"seq\":4,\"bytes\":0,\"text\":\"\"}\n\
                        {\"seq\":5,\"bytes\":2,\"text\":\"\u{e4}\"}\n";
        let long = "x".repeat(65_536);
        let expected = format!(
            "{expected}{{\"seq\":6,\"bytes\":65536,\"text\":\"{long}\"}}\n\
             {{\"seq\":7,\"bytes\":65537,\"href\":\"/v1/logs/log/7\"}}\n"
        );
        for (accept, media_type) in [
            ("application/jsonl", "application/jsonl"),
            ("application/x-ndjson", "application/x-ndjson"),
            ("text/html, application/jsonl;q=0.9, */*;q=0.1", "application/jsonl"),
        ] {
            let fields = format!("Accept: {accept}\r\n");
            let reply = get(&mut rig, "/v1/logs/log?from=1", &fields);
            assert_eq!(reply.field("Content-Type"), media_type);
            assert_eq!(reply.field("Impasto-Next"), "8");
            assert!(reply.text() == expected, "on {kind:?}");
            rig = rig.restart(kind);
        }
        for (accept, status) in [("*/*", 200), ("application/*", 200), ("text/html", 406)] {
            let fields = format!("Accept: {accept}\r\n");
            let reply = get(&mut rig, "/v1/logs/log?from=1", &fields);
            assert_eq!(reply.status, status, "{accept}");
            // A record has one form, and its own bytes.
            assert_eq!(get(&mut rig, "/v1/logs/log/1", &fields).status, 200);
        }
    }
}

/// A damaged record keeps nobody from those before it.
#[test]
fn a_batch_ends_before_a_damaged_record() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        // A commit that is damaged is seen at the start; a body is not.
        for (salt, len) in (1..).zip([3000, 3000, 70_000, 3000]) {
            rig.append("log", &value(len, salt));
        }
        rig.stop().unwrap();
        let (mut image, superblock) = rig.image(kind);
        let third = value(70_000, 3);
        let at = image.windows(third.len()).position(|bytes| bytes == third).unwrap();
        image[at + 1500] ^= 1;
        let mut rig = Rig::on(image, superblock);
        let reply = get(&mut rig, "/v1/logs/log?from=1", "");
        let expected = [(1, value(3000, 1)), (2, value(3000, 2))];
        assert!(decode(&reply.body) == expected, "on {kind:?}");
        assert_eq!(reply.field("Impasto-Next"), "3");
        let damaged = get(&mut rig, "/v1/logs/log?from=3", "");
        assert_eq!(damaged.status, 500);
        assert!(damaged.text().starts_with("{\"type\":\"/problems/damaged\""));
        assert!(decode(&get(&mut rig, "/v1/logs/log?from=4", "").body) == [(4, value(3000, 4))]);
    }
}

/// Requests behind a batch must find their own answers.
#[test]
fn batches_may_be_pipelined() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let records = fill(&mut rig);
        let mut rig = rig.restart(kind);
        let flow = rig.open();
        let batch = ask("GET", "/v1/logs/log?limit=8");
        let head = ask("HEAD", "/v1/logs/log?limit=8");
        rig.peer.push(
            flow,
            [&batch, &head, &batch, &ask("GET", "/livez")].map(|r| &**r).concat().as_bytes(),
        );
        rig.finish();
        let replies = replies_to(&rig.peer.take_sent(flow), |n| n != 1);
        assert_eq!(replies.len(), 4);
        assert!(decode(&replies[0].body) == records[..8] && replies[2] == replies[0]);
        assert_eq!(replies[1].head, replies[0].head);
        assert_eq!(replies[3].text(), "ok\n");
    }
}

/// D3: a batch shows only what survives; D7: what cannot any more is not shown, the rest is.
#[test]
fn d3_a_batch_waits_for_what_it_shows() {
    let mut rig = Rig::new(MediumKind::Disk, 16);
    rig.append("log", b"old");
    let flow = rig.open();
    rig.peer.push(
        flow,
        &[rig::post("log", b"new"), ask("GET", "/v1/logs/log?limit=9").into()].concat(),
    );
    rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!(rig.peer.take_sent(flow), b"", "nothing is durable yet");
    rig.finish();
    let replies = replies(&rig.peer.take_sent(flow));
    assert_eq!((replies[0].status, decode(&replies[1].body).len()), (201, 2));
}

/// Requests of a few bytes that are a lot of work would keep all other clients waiting.
#[test]
fn a_turn_makes_a_bounded_part_of_what_is_asked_for() {
    let mut rig = Rig::new(MEDIA[1], 16);
    for _ in 0..8 {
        rig.append("log", &vec![b'x'; 30_000]);
    }
    let head = "HEAD /v1/logs/log?from=1 HTTP/1.1\r\nHost: h\r\nAccept: application/jsonl\r\n\r\n";
    let flows: Vec<_> = (0..20).map(|_| rig.open()).collect();
    for flow in &flows {
        rig.peer.push(*flow, head.repeat(5).as_bytes());
    }
    let answered = |rig: &Rig| -> usize {
        let answers = flows.iter().map(|flow| rig.peer.take_sent(*flow));
        answers.map(|bytes| replies_to(&bytes, |_| false).len()).sum()
    };
    rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
    rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
    // 1 MiB of answers of 240 KB, and in the second turn as many of those who have got one.
    let first = answered(&rig);
    assert!((5..=15).contains(&first), "{first} in two turns");
    let mut all = first;
    for _ in 0..200 {
        rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
        all += answered(&rig);
    }
    assert_eq!(all, 100);
}

/// To say how long the list is, the names of all logs are looked at.
#[test]
fn a_turn_lists_all_logs_once_for_each_client() {
    let mut rig = Rig::new(MEDIA[1], 16);
    rig.append("log", b"x");
    let flow = rig.open();
    rig.peer.push(flow, ask("HEAD", "/v1/logs").repeat(50).as_bytes());
    let mut turn = || {
        rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
        replies_to(&rig.peer.take_sent(flow), |_| false).len()
    };
    let answered: Vec<_> = (0..200).map(|_| turn()).collect();
    assert_eq!((answered.iter().max(), answered.iter().sum()), (Some(&1), 50));
}
