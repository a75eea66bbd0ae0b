//! The worker over the `loop` port: what lasts, what fails, and what is freed.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use rig::{MEDIA, Rig, ask, post, replies, value};

/// A full region must still take the request that makes room.
#[test]
fn a_full_region_is_emptied_by_a_trim() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        for len in [60_000, 1000, 200_000] {
            let mut last = 0;
            let reply = (0..40_000)
                .map(|_| {
                    last += 1;
                    rig.append("log", &value(len, 1))
                })
                .find(|reply| reply.status != 201)
                .expect("a region is not endless");
            assert_eq!(reply.status, 507, "on {kind:?}");
            assert!(last > 10 && reply.text().contains("trim logs"), "after {last} of {len} bytes");
            let next = u64::MAX;
            let reply = rig.once(ask("DELETE", &format!("/v1/logs/log?before={next}")));
            assert_eq!(reply.status, 200, "on {kind:?}");
        }
        assert_eq!(rig.append("log", &value(60_000, 1)).status, 201);
    }
}

/// What many small records took comes back by a superblock, after the trim was answered: who asked
/// for room and then appends must not be told that there is none.
#[test]
fn an_append_waits_for_the_space_that_a_trim_has_freed() {
    for kind in MEDIA {
        for pipelined in [false, true] {
            let mut rig = Rig::new(kind, 16);
            let flow = rig.open();
            for _ in 0..3 {
                let fill = post("log", &value(500, 1)).repeat(400);
                while !replies(&rig.talk(flow, &fill)).iter().any(|reply| reply.status == 507) {}
                rig.run();
                rig.peer.take_sent(flow);
                let trim = ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX));
                let append = post("log", &value(1 << 20, 1));
                let mut answer = Vec::new();
                if pipelined {
                    rig.peer.push(flow, &[trim.as_bytes(), &append].concat());
                } else {
                    rig.peer.push(flow, trim.as_bytes());
                    while answer.is_empty() {
                        rig.worker.turn(None).unwrap();
                        answer = rig.peer.take_sent(flow);
                    }
                    rig.peer.push(flow, &append);
                }
                rig.run();
                answer.extend(rig.peer.take_sent(flow));
                let statuses: Vec<_> = replies(&answer).iter().map(|reply| reply.status).collect();
                assert_eq!(statuses, [200, 201], "on {kind:?}");
            }
        }
    }
}

/// The front of the log may be moved in many steps. Packets are not what they wait for.
#[test]
fn space_comes_back_while_nobody_asks_for_anything() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let flow = rig.open();
        let name = |log| format!("{log:0>120}");
        for log in 0..3000 {
            rig.peer.push(flow, &post(&name(log), b""));
        }
        rig.settle();
        let fill = post("log", &value(500, 1)).repeat(400);
        rig.peer.take_sent(flow);
        while !replies(&rig.talk(flow, &fill)).iter().any(|reply| reply.status == 507) {}
        let all = ["log".to_owned()].into_iter().chain((0..3000).map(name));
        for log in all {
            let trim = ask("DELETE", &format!("/v1/logs/{log}?before={}", u64::MAX));
            rig.peer.push(flow, trim.as_bytes());
        }
        while rig.peer.has_arrivals() {
            rig.settle();
        }
        rig.settle();
        rig.peer.take_sent(flow);
        // Nothing is being freed any more, so that there is nothing to wait for.
        rig.peer.push(flow, &post("log", &value(1 << 20, 1)));
        rig.run();
        assert_eq!(replies(&rig.peer.take_sent(flow))[0].status, 201, "on {kind:?}");
    }
}

/// Who asks for more than there is must be told so, also while others are served.
#[test]
fn an_append_does_not_wait_for_space_that_nobody_frees() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        while rig.append("log", &value(1 << 20, 1)).status == 201 {}
        let (flow, other) = (rig.open(), rig.open());
        rig.peer.push(flow, &post("log", &value(1 << 20, 1)));
        let mut answer = Vec::new();
        for _ in 0..100 {
            rig.peer.push(other, &post("small", b"x"));
            rig.worker.turn(None).unwrap();
            answer.extend(rig.peer.take_sent(flow));
        }
        assert_eq!(replies(&answer)[0].status, 507, "on {kind:?}");
    }
}

/// Replies to a client that does not read would fill the memory.
#[test]
fn a_client_that_never_reads_is_not_read_on() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 64);
        rig.append("log", &value(10_000, 1));
        let (flow, other) = (rig.open(), rig.open());
        rig.tap.stalls.set(true);
        let before = rig.tap.transmitted.get();
        let gets = ask("GET", "/v1/logs/log/1").repeat(2000);
        for _ in 0..20 {
            rig.peer.push(flow, gets.as_bytes());
            rig.run();
        }
        assert!(rig.tap.transmitted.get() - before < 400 << 10, "on {kind:?}");
        assert!(!rig.peer.has_arrivals(), "receiving is paused");
        rig.tap.stalls.set(false);
        for _ in 0..2000 {
            rig.run();
        }
        let sent = rig.peer.take_sent(flow);
        assert_eq!(replies(&sent).len(), 40_000, "on {kind:?}");
        assert_eq!(replies(&rig.talk(other, ask("GET", "/livez")))[0].status, 200);
    }
}

/// D7: what is not durable must not be acknowledged, and what is must stay readable.
#[test]
fn d7_a_failed_medium_acknowledges_nothing_more() {
    let mut rig = Rig::new(MEDIA[0], 16);
    assert_eq!(rig.append("log", b"durable").status, 201);
    for write in 0..1000 {
        rig.dev.fail_write(write);
    }
    let (reader, writer) = (rig.open(), rig.open());
    let lost = [post("log", b"lost"), post("new", b"lost"), ask("GET", "/livez").into()];
    let answer = rig.talk(writer, lost.concat());
    let statuses: Vec<_> = replies(&answer).iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [503]);
    assert!(rig.peer.is_shut(writer));
    // Whether there is such a log depends on what will never be durable.
    assert_eq!(rig.once(ask("GET", "/v1/logs")).status, 503);
    assert_eq!(rig.once(ask("GET", "/v1/logs/none")).status, 503);
    for (request, status) in [
        (ask("GET", "/v1/logs/log/1").into(), 200),
        (ask("GET", "/v1/logs/log/2").into(), 503),
        (post("log", b"more"), 503),
        (ask("GET", "/readyz").into(), 503),
        (ask("GET", "/livez").into(), 200),
    ] {
        let request: Vec<u8> = request;
        let reply = replies(&rig.talk(reader, &request)).remove(0);
        assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&request));
    }
    assert!(rig.stop().is_err());
}

/// D7: what a long trim has killed is freed a part at a time, in turns that follow at once. Once
/// the medium has failed nothing is freed any more, and such turns would never end.
#[test]
fn d7_a_medium_that_fails_during_a_long_trim_lets_the_loop_rest() {
    let mut rig = Rig::new(MEDIA[0], 16);
    let flow = rig.open();
    for _ in 0..40 {
        rig.peer.push(flow, &post("log", b"x").repeat(1000));
        rig.finish();
        rig.peer.take_sent(flow);
    }
    for write in 0..20_000 {
        rig.dev.fail_write(write);
    }
    let trim = ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX));
    rig.peer.push(flow, trim.as_bytes());
    rig.finish();
    assert_eq!(replies(&rig.peer.take_sent(flow))[0].status, 503);
    rig.settle();
}

/// A flow that goes away must leave nothing behind: no hold, no pin, no reserved block.
#[test]
fn flows_that_vanish_leave_nothing_behind() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        for round in 0..48 {
            for len in [30_000, 900_000] {
                let flow = rig.open();
                let request = post("log", &value(len, 1));
                rig.peer.push(flow, &request[..request.len() - round % 2]);
                if round % 3 == 0 {
                    rig.worker.turn(None).unwrap();
                }
                rig.peer.reset(flow);
                rig.run();
            }
            rig.once(ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX)));
        }
        assert_eq!(rig.worker.flows(), 0);
        assert_eq!(rig.append("log", &value(900_000, 1)).status, 201, "on {kind:?}");
    }
}

#[test]
fn a_stop_answers_what_has_arrived_and_leaves_a_clean_region() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let (busy, idle, half) = (rig.open(), rig.open(), rig.open());
        rig.talk(half, "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
        rig.peer.push(busy, &[post("log", &value(100_000, 1)), post("log", b"2")].concat());
        rig.worker.turn(None).unwrap();
        rig.peer.end(busy);
        rig.peer.end(half);
        rig.stop().unwrap();
        let statuses: Vec<_> =
            replies(&rig.peer.take_sent(busy)).iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [201, 201], "on {kind:?}");
        assert!(rig.peer.is_closed(idle) && rig.peer.is_closed(half));
        assert!(rig.peer.open().is_none(), "it accepts no more");
        assert!(rig.image(kind).1.clean);
    }
}

#[test]
fn records_are_there_after_a_restart() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 64);
        let lens = [0, 100, 5000, 65_536, 70_000, 1 << 20];
        for (seq, len) in (1..).zip(lens) {
            rig.append("log", &value(len, seq));
        }
        let mut rig = rig.restart(kind);
        // Two at once: what the first reads, the second waits for.
        let flows = [rig.open(), rig.open()];
        for (seq, len) in (1..).zip(lens) {
            for flow in flows {
                rig.peer.push(flow, ask("GET", &format!("/v1/logs/log/{seq}")).as_bytes());
            }
            rig.run();
            for flow in flows {
                let reply = replies(&rig.peer.take_sent(flow)).remove(0);
                assert!(reply.status == 200 && reply.body == value(len, seq), "{len} on {kind:?}");
            }
        }
        assert!(rig.append("log", b"next").has("Location: /v1/logs/log/7"));
    }
}

/// Damage that nobody looks for would be served.
#[test]
fn a_damaged_record_is_not_served() {
    let kind = MEDIA[0];
    let mut rig = Rig::new(kind, 16);
    rig.append("log", &value(100_000, 1));
    rig.append("log", &value(100_000, 2));
    rig.stop().unwrap();
    let (mut image, superblock) = rig.image(kind);
    let damaged = value(100_000, 1);
    let at = image.windows(64).position(|window| *window == damaged[..64]).unwrap();
    image[at + 50_000] ^= 1;
    let mut rig = Rig::on(image, superblock);
    let flow = rig.open();
    let both = ask("GET", "/v1/logs/log/1") + &ask("GET", "/v1/logs/log/2");
    let answer = replies(&rig.talk(flow, both));
    assert_eq!(answer[0].status, 500);
    assert!(answer[0].text().contains("the stored record is damaged"));
    assert!(answer[1].status == 200 && answer[1].body == value(100_000, 2));
}

/// D4: the bytes of a reply must not change between the answer and the last byte sent.
#[test]
fn d4_a_record_that_is_being_sent_is_not_overwritten() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        rig.append("log", &value(200_000, 1));
        let reader = rig.open();
        rig.tap.stalls.set(true);
        rig.talk(reader, ask("GET", "/v1/logs/log/1"));
        // The first is under way, so the second is queued.
        assert_eq!(rig.talk(reader, ask("GET", "/v1/logs/log/1")), b"");
        for seq in 2..200 {
            rig.append("log", &value(200_000, 2));
            let trim = ask("DELETE", &format!("/v1/logs/log?before={seq}"));
            assert_eq!(rig.once(trim).status, 200);
        }
        rig.tap.stalls.set(false);
        rig.run();
        let reply = replies(&rig.peer.take_sent(reader)).remove(0);
        assert!(reply.body == value(200_000, 1), "on {kind:?}");
    }
}

/// A pin that does not end would cost its buffer for ever.
#[test]
fn records_that_were_sent_are_freed_when_they_are_trimmed() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        for seq in 1..100 {
            for len in [20_000, 900_000] {
                let reply = rig.append("log", &value(len, 1));
                assert_eq!(reply.status, 201, "record {seq} on {kind:?}: {}", reply.text());
                let target = reply.head.split("Location: ").nth(1).unwrap();
                let target = target.lines().next().unwrap().to_owned();
                assert_eq!(rig.once(ask("GET", &target)).body.len(), len);
            }
            rig.once(ask("DELETE", &format!("/v1/logs/log?before={}", u64::MAX)));
        }
    }
}

/// What stood in the rest of a block belongs to somebody else's record.
#[test]
fn a_long_body_leaves_no_stale_bytes_in_its_last_block() {
    let kind = MEDIA[0];
    let mut rig = Rig::new(kind, 16);
    for salt in 1..100 {
        rig.append("log", &vec![salt; 300_001]);
        rig.once(ask("DELETE", &format!("/v1/logs/log?before={salt}")));
    }
    let (image, _) = rig.image(kind);
    let run = image.chunks(4096).position(|block| block.iter().all(|byte| *byte == 99)).unwrap();
    let mut blocks = image.chunks(4096).skip(run);
    let last = blocks.find(|block| block.iter().any(|byte| *byte != 99)).unwrap();
    assert_eq!(last.iter().filter(|byte| **byte != 0).count(), 300_001 % 4096);
}
