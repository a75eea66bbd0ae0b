//! What a client sees: the worker over a port in memory, on each medium.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use std::time::Duration;

use impasto_region::Checksum;
use impasto_server::Step;
use rig::{MEDIA, Rig, ask, post, replies, replies_to, value};

#[test]
fn an_append_says_where_the_record_is() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let reply = rig.append("orders", b"first");
        assert_eq!((reply.status, reply.text()), (201, String::new()));
        assert!(reply.has("Location: /v1/logs/orders/1"));
        let etag = reply.field("ETag").to_owned();
        assert_eq!(etag, format!("\"1-{:016x}\"", Checksum::of(b"first")));
        assert!(rig.append("orders", b"").has("Location: /v1/logs/orders/2"));
        assert!(rig.append("others", b"x").has("Location: /v1/logs/others/1"));
        let reply = rig.once(ask("GET", "/v1/logs/orders/1"));
        assert_eq!((reply.status, reply.text()), (200, "first".into()));
        assert_eq!(reply.field("ETag"), etag);
        assert!(reply.has("Content-Type: application/octet-stream"));
        assert_eq!(rig.once(ask("GET", "/v1/logs/orders/2")).text(), "");
    }
}

/// Each length goes another way: inline, kept where it landed, collected, in reserved blocks.
#[test]
fn values_of_every_length_come_back() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 64);
        let lens = [0, 1, 511, 512, 513, 4096, 65_535, 65_536, 65_537, 262_144, 700_001, 1 << 20];
        for (seq, len) in (1..).zip(lens) {
            let reply = rig.append("log", &value(len, seq));
            assert_eq!(reply.status, 201, "{len} bytes on {kind:?}: {}", reply.text());
        }
        for (seq, len) in (1..).zip(lens) {
            let reply = rig.once(ask("GET", &format!("/v1/logs/log/{seq}")));
            assert!(reply.body == value(len, seq), "{len} bytes on {kind:?}");
        }
    }
}

/// A head that is cut anywhere must not be lost, or taken twice.
#[test]
fn requests_may_be_split_at_every_byte() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let requests =
            [post("log", &value(600, 1)), ask("GET", "/v1/logs/log/1").into(), post("log", b"")];
        let bytes = requests.concat();
        for at in 1..bytes.len() {
            let flow = rig.open();
            let (first, second) = bytes.split_at(at);
            let mut answer = rig.talk(flow, first);
            answer.extend(rig.talk(flow, second));
            let replies = replies(&answer);
            let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
            assert_eq!(statuses, [201, 200, 201], "split at {at} on {kind:?}");
            assert_eq!(replies[1].body, value(600, 1), "split at {at} on {kind:?}");
            rig.peer.end(flow);
            rig.run();
            assert!(rig.peer.is_closed(flow));
        }
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let flow = rig.open();
        for byte in [post("log", &value(700, 3)), ask("GET", "/v1/logs/log/1").into()].concat() {
            rig.peer.push(flow, &[byte]);
        }
        rig.run();
        let replies = replies(&rig.peer.take_sent(flow));
        assert_eq!(replies.len(), 2, "on {kind:?}");
        assert_eq!(replies[1].body, value(700, 3));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 64);
        let flow = rig.open();
        let mut bytes = Vec::new();
        for seq in 1..=100 {
            // A long body is persisted first; what follows it must not overtake it.
            let len = if seq % 10 == 0 { 70_000 } else { usize::from(seq) * 13 };
            bytes.extend(post("log", &value(len, seq)));
            bytes.extend(ask("GET", &format!("/v1/logs/log/{seq}")).bytes());
        }
        rig.peer.push(flow, &bytes);
        for _ in 0..20 {
            rig.run();
        }
        let replies = replies(&rig.peer.take_sent(flow));
        assert_eq!(replies.len(), 200, "on {kind:?}");
        for (seq, pair) in (1_u8..).zip(replies.chunks(2)) {
            assert!(pair[0].has(&format!("Location: /v1/logs/log/{seq}")));
            let len = if seq % 10 == 0 { 70_000 } else { usize::from(seq) * 13 };
            assert!(pair[1].body == value(len, seq));
        }
    }
}

#[test]
fn flows_do_not_wait_for_a_slow_one() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let slow = rig.open();
        let request = post("log", &value(60_000, 1));
        assert_eq!(rig.talk(slow, &request[..30_000]), b"");
        for _ in 0..200 {
            assert_eq!(rig.append("log", &value(30_000, 2)).status, 201, "on {kind:?}");
            let first = rig.once(ask("GET", "/v1/logs/log")).text();
            let next = first.split("\"next\":").nth(1).unwrap().split(',').next().unwrap();
            rig.once(ask("DELETE", &format!("/v1/logs/log?before={next}")));
        }
        let reply = replies(&rig.talk(slow, &request[30_000..])).remove(0);
        let at = reply.head.split("Location: ").nth(1).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(rig.once(ask("GET", &at)).body, value(60_000, 1));
    }
}

/// Held pieces of many slow senders would leave the port nothing to land in.
#[test]
fn slow_senders_cannot_pin_all_landing_buffers() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let request = post("log", &value(60_000, 1));
        let slow: Vec<_> = (0..64)
            .map(|_| {
                let flow = rig.open();
                assert_eq!(rig.talk(flow, &request[..50_000]), b"");
                flow
            })
            .collect();
        assert_eq!(rig.append("log", b"fast").status, 201, "on {kind:?}");
        for flow in slow {
            assert_eq!(replies(&rig.talk(flow, &request[50_000..]))[0].status, 201);
        }
        assert_eq!(rig.once(ask("GET", "/v1/logs/log/65")).body, value(60_000, 1));
    }
}

#[test]
fn a_body_in_many_pieces_is_whole() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let (flow, other) = (rig.open(), rig.open());
        // Another flow's bytes between the pieces, so that they do not adjoin.
        for piece in post("log", &value(40_000, 9)).chunks(1000) {
            rig.peer.push(flow, piece);
            rig.peer.push(other, ask("GET", "/livez").as_bytes());
        }
        rig.run();
        assert_eq!(replies(&rig.peer.take_sent(flow))[0].status, 201);
        assert_eq!(rig.once(ask("GET", "/v1/logs/log/1")).body, value(40_000, 9), "on {kind:?}");
    }
}

#[test]
fn head_answers_as_get_without_the_body() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        rig.append("log", &value(5000, 1));
        let flow = rig.open();
        let targets =
            ["/v1/logs/log/1", "/v1/logs/log", "/v1/logs", "/livez", "/v1/logs/none", "/x"];
        for target in targets {
            let got = replies(&rig.talk(flow, ask("GET", target))).remove(0);
            let head = replies_to(&rig.talk(flow, ask("HEAD", target)), |_| false).remove(0);
            assert_eq!((head.status, head.head), (got.status, got.head), "{target}");
        }
    }
}

#[test]
fn records_that_are_not_there_are_told_apart() {
    let mut rig = Rig::new(MEDIA[0], 16);
    for _ in 0..5 {
        rig.append("log", b"x");
    }
    let reply = rig.once(ask("DELETE", "/v1/logs/log?before=4"));
    let expected = "{\"first\":4,\"next\":6,\"records\":2,\"bytes\":2}\n";
    assert_eq!((reply.status, reply.text().as_str()), (200, expected));
    assert_eq!(rig.once(ask("GET", "/v1/logs/log")).text(), expected);
    let statuses = ["log/3", "log/4", "log/5", "log/6", "none/1", "none"]
        .map(|target| rig.once(ask("GET", &format!("/v1/logs/{target}"))).status);
    assert_eq!(statuses, [410, 200, 200, 404, 404, 404]);
    assert_eq!(rig.once(ask("DELETE", "/v1/logs/none?before=1")).status, 404);
}

#[test]
fn names_are_listed() {
    let mut rig = Rig::new(MEDIA[0], 16);
    assert_eq!(rig.once(ask("GET", "/v1/logs")).text(), "[]\n");
    for name in ["b", "a", "c-._9"] {
        rig.append(name, b"");
    }
    assert_eq!(rig.once(ask("GET", "/v1/logs")).text(), "[\"b\",\"a\",\"c-._9\"]\n");
}

/// All names at once would be megabytes for each connection that asks.
#[test]
fn a_long_listing_leaves_in_pieces_as_it_is_read() {
    let mut rig = Rig::new(MEDIA[1], 16);
    let flow = rig.open();
    let name = |n: usize| format!("{n:0>128}");
    for n in 0..3000 {
        rig.talk(flow, post(&name(n), b""));
    }
    rig.peer.push(flow, ask("GET", "/v1/logs").as_bytes());
    rig.tap.stalls.set(true);
    let before = rig.tap.transmitted.get();
    rig.run();
    assert!(rig.tap.transmitted.get() - before < 40_000, "it waits for its reader");
    rig.tap.stalls.set(false);
    rig.run();
    // A log created meanwhile is not in it: its length has been said.
    rig.append("new", b"");
    let listing = replies(&rig.peer.take_sent(flow)).pop().unwrap().text();
    let names: Vec<_> = (0..3000).map(|n| format!("\"{}\"", name(n))).collect();
    assert!(listing == format!("[{}]\n", names.join(",")));
}

#[test]
fn requests_that_cannot_be_understood_are_answered_and_closed() {
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\n\r\n", 411),
        ("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (
            "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (
            "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\
             Transfer-Encoding: x\r\n\r\n",
            400,
        ),
        ("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", 400),
        ("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 67108865\r\n\r\n", 413),
        ("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999\r\n\r\n", 413),
        ("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: more\r\n\r\n", 417),
    ] {
        let mut rig = Rig::new(MEDIA[0], 16);
        let flow = rig.open();
        let reply = replies(&rig.talk(flow, request)).remove(0);
        assert_eq!(reply.status, status, "{request}");
        let closes = request.contains("more") || reply.has("Connection: close");
        assert!(closes && reply.text().ends_with('\n'), "{reply:?}");
        assert!(rig.peer.is_shut(flow) || request.contains("more"), "{request}");
    }
}

#[test]
fn requests_that_are_wrong_do_not_cost_the_connection() {
    let mut rig = Rig::new(MEDIA[0], 16);
    let flow = rig.open();
    for (request, status) in [
        (ask("GET", "/"), 404),
        (ask("GET", "/v1/logs/"), 400),
        (ask("GET", "/v1/logs/a%62"), 400),
        (ask("GET", "/v1/logs/a/0"), 400),
        (ask("GET", "/v1/logs/a/+1"), 400),
        (ask("GET", "/v1/logs/a/1/2"), 404),
        (ask("PUT", "/v1/logs/a"), 405),
        (ask("POST", "/v1/logs"), 405),
        (ask("DELETE", "/v1/logs/a"), 400),
        (ask("DELETE", "/v1/logs/a?before=x"), 400),
        ("POST /v1/logs/a:b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".into(), 400),
        ("GET /livez HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".into(), 200),
        (ask("GET", "http://example.org/livez"), 200),
        (ask("GET", "HTTP://example.org/livez"), 200),
        (format!("\r\n\r\n{}", ask("GET", "/readyz")), 200),
    ] {
        let answer = replies(&rig.talk(flow, &request));
        assert_eq!((answer.len(), answer[0].status), (1, status), "{request}");
    }
    let allowed = rig.once(ask("PUT", "/v1/logs/a"));
    assert!(allowed.has("Allow: GET, HEAD, POST, DELETE, OPTIONS"), "{allowed:?}");
}

#[test]
fn a_head_of_more_than_16_kib_is_refused() {
    let mut rig = Rig::new(MEDIA[0], 16);
    let head = |fill: usize| {
        let start = "GET /livez HTTP/1.1\r\nHost: h\r\nFill: ";
        format!("{start}{}\r\n\r\n", "x".repeat(fill - start.len() - 4))
    };
    assert_eq!(rig.once(head(16 << 10)).status, 200);
    assert_eq!(rig.once(head((16 << 10) + 1)).status, 431);
    let flow = rig.open();
    for piece in head(20 << 10).as_bytes().chunks(1000) {
        rig.peer.push(flow, piece);
    }
    rig.run();
    assert_eq!(replies(&rig.peer.take_sent(flow))[0].status, 431);
    let many = format!("GET /livez HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_eq!(rig.once(many).status, 431);
}

/// A close with bytes unread resets the connection, and the peer does not see the answer.
#[test]
fn after_an_early_answer_the_rest_is_discarded_before_the_close() {
    let mut rig = Rig::new(MEDIA[0], 16);
    let request = "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 70000000\r\n\r\n";
    // The peer sends on, and ends.
    let flow = rig.open();
    assert_eq!(replies(&rig.talk(flow, request))[0].status, 413);
    rig.talk(flow, vec![0; 500_000]);
    assert!(rig.peer.is_shut(flow) && !rig.peer.is_closed(flow));
    rig.peer.end(flow);
    rig.run();
    assert!(rig.peer.is_closed(flow));
    // The peer sends more than anybody would read.
    let flow = rig.open();
    rig.talk(flow, request);
    for _ in 0..3 {
        assert!(!rig.peer.is_closed(flow));
        rig.talk(flow, vec![0; 500_000]);
    }
    assert!(rig.peer.is_closed(flow));
    // The peer does nothing.
    let flow = rig.open();
    rig.talk(flow, request);
    rig.pass(Duration::from_millis(4900));
    assert!(!rig.peer.is_closed(flow));
    rig.pass(Duration::from_millis(200));
    assert!(rig.peer.is_closed(flow));
}

#[test]
fn the_body_is_asked_for_if_it_will_be_taken() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let flow = rig.open();
        let request = post("log", &value(100_000, 5));
        let head_bytes = request.len() - 100_000;
        let expect = String::from_utf8(request[..head_bytes - 2].to_vec()).unwrap();
        let expect = format!("{expect}Expect: 100-continue\r\n\r\n");
        assert_eq!(rig.talk(flow, &expect), b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(replies(&rig.talk(flow, &request[head_bytes..]))[0].status, 201);
        // With the body behind it, nobody waits.
        let all = [expect.as_bytes(), &request[head_bytes..]].concat();
        assert_eq!(replies(&rig.talk(flow, all))[0].status, 201);
        // Refused: no interim answer.
        let refused = expect.replace("/v1/logs/log", "/v1/logs/n:o");
        let reply = replies(&rig.talk(flow, refused)).remove(0);
        assert_eq!(reply.status, 400);
        assert!(reply.has("Connection: close") && rig.peer.is_shut(flow));
    }
}

#[test]
fn connections_end_as_their_version_and_options_say() {
    let mut rig = Rig::new(MEDIA[0], 16);
    for (request, field, stays) in [
        ("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n", None, true),
        (
            "GET /livez HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n",
            Some("Connection: close"),
            false,
        ),
        ("GET /livez HTTP/1.0\r\n\r\n", Some("Connection: close"), false),
        (
            "GET /livez HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            Some("Connection: keep-alive"),
            true,
        ),
    ] {
        let flow = rig.open();
        let reply = replies(&rig.talk(flow, request)).remove(0);
        assert!(field.is_none_or(|field| reply.has(field)), "{request}");
        assert_eq!(rig.peer.is_shut(flow), !stays, "{request}");
    }
}

/// Where the time of a request goes is told at these steps: one that is left out, or told of
/// nobody's request, is time that is charged to another one.
#[test]
fn each_request_is_told_step_by_step_and_in_order() {
    use Step::{Answered, Applied, Parsed};
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        assert_eq!(rig.append("log", b"x").status, 201);
        assert_eq!(rig.passed.take(), [Parsed, Applied, Answered]);
        let flow = rig.open();
        rig.talk(flow, [post("log", b"y"), post("log", b"z")].concat());
        assert_eq!(rig.passed.take(), [Parsed, Applied, Answered, Parsed, Applied, Answered]);
        // Nobody asks the store for what is no request of its own.
        rig.talk(flow, ask("GET", "/x"));
        assert_eq!(rig.passed.take(), [Parsed, Answered]);
        rig.settle();
        assert_eq!(rig.passed.take(), []);
    }
}
