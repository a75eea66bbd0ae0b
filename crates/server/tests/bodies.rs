//! The worker over the `loop` port: bodies in chunks, and long ones that break off.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use impasto_server::config::Options;
use rig::{MEDIA, Rig, ask, post, replies, value};

/// A request whose body comes in chunks of these lengths.
fn chunked(log: &str, value: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let head =
        format!("POST /v1/logs/{log} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let (mut request, mut rest) = (head.into_bytes(), value);
    for len in lengths {
        let (chunk, behind) = rest.split_at(len.min(rest.len()));
        if !chunk.is_empty() {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        rest = behind;
    }
    assert!(rest.is_empty(), "the lengths cover the value");
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

fn is_there(rig: &mut Rig, log: &str, seq: usize, expected: &[u8]) {
    let reply = rig.once(ask("GET", &format!("/v1/logs/{log}/{seq}")));
    assert_eq!(reply.status, 200);
    assert!(reply.body == expected, "{log}/{seq} is what was sent");
}

/// Where the value goes changes at 64 KiB, and blocks are taken 256 KiB at a time.
#[test]
fn chunked_values_of_every_length_come_back() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 32);
        let lengths = [0, 1, 511, 513, 65_535, 65_536, 65_537, 262_144, 262_145, 1_000_000];
        for (seq, len) in (1..).zip(lengths) {
            let value = value(len, 3);
            for (log, piece) in [("a", 1000), ("b", 70_000), ("c", 1 << 22)] {
                let lengths = std::iter::repeat_n(piece, len / piece + 1);
                let reply = rig.once(chunked(log, &value, lengths));
                assert_eq!(reply.status, 201, "{len} in pieces of {piece} on {kind:?}");
                is_there(&mut rig, log, seq, &value);
            }
        }
        let mut rig = rig.restart(kind);
        for (seq, len) in (1..).zip(lengths) {
            is_there(&mut rig, "c", seq, &value(len, 3));
        }
    }
}

/// Chunks and packets are cut anywhere, and the next request follows at once.
#[test]
fn chunked_requests_are_taken_at_every_split() {
    let mut seed = rig::seed();
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 32);
        let flow = rig.open();
        for round in 0..60 {
            let len = [30, 3000, 100_000][round % 3] + seed.index(100);
            let value = value(len, u8::try_from(round).unwrap());
            let lengths: Vec<_> = (0..len).map(|_| 1 + seed.index(len)).collect();
            let request = [chunked("log", &value, lengths), ask("GET", "/livez").into()].concat();
            let mut answer = Vec::new();
            let mut rest = &request[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at((1 + seed.index(len)).min(rest.len()));
                answer.extend(rig.talk(flow, now));
                rest = later;
            }
            let statuses: Vec<_> = replies(&answer).iter().map(|reply| reply.status).collect();
            assert_eq!(statuses, [201, 200], "round {round} on {kind:?}");
            is_there(&mut rig, "log", round + 1, &value);
        }
    }
}

/// Otherwise somebody could send without an end.
#[test]
fn a_chunked_body_beyond_the_limit_gets_413_and_gives_its_space_back() {
    let options = Options { value_bytes_max: 3 << 20, ..Options::default() };
    for kind in MEDIA {
        let mut rig = Rig::with_options(kind, 16, options.clone());
        for _ in 0..20 {
            let flow = rig.open();
            let value = value((3 << 20) + 1, 1);
            let answer = rig.talk(flow, chunked("log", &value, [1 << 20; 4]));
            let reply = &replies(&answer)[0];
            assert_eq!(reply.status, 413, "on {kind:?}");
            assert!(reply.has("Connection: close") && rig.peer.is_shut(flow));
            rig.peer.reset(flow);
            rig.run();
        }
        assert_eq!(rig.once(chunked("log", &value(3 << 20, 1), [1 << 22])).status, 201);
    }
}

/// D10: bodies of unknown length that have filled the region together must not wait for each other.
#[test]
fn d10_chunked_bodies_that_fill_the_region_are_refused_and_the_others_complete() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 32);
        let value = value(8 << 20, 1);
        let request = chunked("log", &value, [1 << 16; 128]);
        for _ in 0..3 {
            let flows: Vec<_> = (0..6).map(|_| rig.open()).collect();
            for part in request.chunks(1 << 18) {
                for flow in &flows {
                    rig.peer.push(*flow, part);
                }
                rig.finish();
            }
            let status = |flow| replies(&rig.peer.take_sent(flow))[0].status;
            let statuses: Vec<_> = flows.iter().copied().map(status).collect();
            let taken = statuses.iter().filter(|status| **status == 201).count();
            assert!(statuses.iter().all(|status| [201, 507].contains(status)), "{statuses:?}");
            assert!((2..6).contains(&taken), "{statuses:?} on {kind:?}");
            for flow in flows {
                rig.peer.reset(flow);
            }
            let trim = ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX));
            assert_eq!(rig.once(trim).status, 200);
        }
    }
}

/// D4: blocks that are still being written, for a body that nobody waits for any more, must not be
/// the next body's.
#[test]
fn d4_bodies_that_break_off_give_their_space_back() {
    let mut seed = rig::seed();
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        for round in 0..60 {
            let value = value(4 << 20, u8::try_from(round % 251).unwrap());
            let request = match round % 2 {
                0 => post("log", &value),
                _ => chunked("log", &value, [1 << 18; 16]),
            };
            let flow = rig.open();
            for part in request[..seed.index(request.len())].chunks(300_000) {
                rig.peer.push(flow, part);
                rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
            }
            rig.peer.reset(flow);
            if round % 10 == 9 {
                rig.run();
                rig.finish();
                assert_eq!(rig.once(post("log", &value)).status, 201, "on {kind:?}");
                let seq = round / 10 + 1;
                is_there(&mut rig, "log", seq, &value);
                let trim = ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX));
                assert_eq!(rig.once(trim).status, 200);
            }
        }
        let (image, superblock) = {
            rig.stop().unwrap();
            rig.image(kind)
        };
        assert!(superblock.clean);
        Rig::on(image, superblock);
    }
}

/// Whoever waits for `100 Continue` would wait for ever.
#[test]
fn a_chunked_body_is_asked_for() {
    let mut rig = Rig::new(MEDIA[0], 16);
    let flow = rig.open();
    let head = "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
                Expect: 100-continue\r\n\r\n";
    assert_eq!(replies(&rig.talk(flow, head))[0].status, 100);
    assert_eq!(replies(&rig.talk(flow, "5\r\nhello\r\n0\r\n\r\n"))[0].status, 201);
    is_there(&mut rig, "log", 1, b"hello");
}

/// A body whose framing is broken could hide a request.
#[test]
fn a_broken_chunk_is_answered_and_closed() {
    for body in ["x\r\n", "5\nhello", "5\r\nhelloX", " 5\r\nhello\r\n", "-5\r\n"] {
        let mut rig = Rig::new(MEDIA[0], 16);
        let flow = rig.open();
        let head = "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = rig.talk(flow, [head, body].concat());
        let reply = &replies(&answer)[0];
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.has("Connection: close") && rig.peer.is_shut(flow));
        assert_eq!(rig.once(ask("GET", "/v1/logs/log")).status, 404);
    }
}

/// A chunked body that crosses 64 KiB while the region is full, and that gets blocks when another
/// body has been given up, must bring what it had collected before: else its record would show
/// whatever stood in those blocks.
#[test]
fn a_chunked_body_that_waits_for_blocks_keeps_what_it_has_collected() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let mine = value(200_000, 9);
        let request = chunked("mine", &mine, [5000; 40]);
        let mut taken = 0;
        for turns in 0..10 {
            let flow = rig.open();
            rig.peer.push(flow, &request[..60_000]);
            let long = post("other", &value(450_000, 0xAA));
            let others: Vec<_> = (0..6).map(|_| rig.open()).collect();
            for other in &others {
                rig.peer.push(*other, &long[..1000]);
            }
            rig.finish();
            while rig.append("fill", &value(100_000, 1)).status == 201 {}
            // Their blocks are being written when they break off.
            for other in &others {
                rig.peer.push(*other, &long[1000..long.len() - 10]);
            }
            for _ in 0..turns {
                rig.worker.turn(Some(std::time::Duration::ZERO)).unwrap();
            }
            others.iter().for_each(|other| rig.peer.reset(*other));
            rig.peer.push(flow, &request[60_000..]);
            rig.finish();
            if replies(&rig.peer.take_sent(flow))[0].status == 201 {
                taken += 1;
                is_there(&mut rig, "mine", taken, &mine);
            }
            rig.peer.reset(flow);
            let trim = ask("DELETE", &format!("/v1/logs/fill?before={}", u64::MAX));
            assert_eq!(rig.once(trim).status, 200);
        }
        assert!(taken > 0, "on {kind:?}");
    }
}

/// It would fit the region, once what the trim has killed is free: that is waited for.
#[test]
fn a_chunked_body_waits_for_the_space_of_the_trim_before_it() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        while rig.append("log", &value(1 << 20, 1)).status == 201 {}
        let flow = rig.open();
        let trim = ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX));
        let append = chunked("log", &value(1 << 20, 1), [1 << 18; 4]);
        rig.peer.push(flow, &[trim.as_bytes(), &append].concat());
        rig.finish();
        let answer = rig.peer.take_sent(flow);
        let statuses: Vec<_> = replies(&answer).iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [200, 201], "on {kind:?}");
    }
}
