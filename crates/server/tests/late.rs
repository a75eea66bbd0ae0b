//! The worker over the `loop` port: peers that take their time.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use std::time::Duration;

use impasto_server::config::Options;
use rig::{MEDIA, Rig, ask, post, replies, value};

const SECOND: Duration = Duration::from_secs(1);

/// Connections that do nothing would keep others out.
#[test]
fn an_idle_flow_is_closed_in_the_end() {
    let (mut rig, options) = (Rig::new(MEDIA[0], 16), Options::default());
    let flow = rig.open();
    assert_eq!(replies(&rig.talk(flow, post("log", b"x"))).len(), 1);
    rig.pass(options.idle.unwrap() - SECOND);
    assert_eq!(replies(&rig.talk(flow, ask("GET", "/v1/logs/log/1"))).len(), 1);
    rig.pass(options.idle.unwrap() - SECOND);
    assert_eq!(rig.worker.flows(), 1, "it has asked for something in between");
    rig.pass(SECOND);
    assert_eq!(rig.worker.flows(), 0);
    assert!(rig.peer.take_sent(flow).is_empty(), "nothing was asked, nothing is answered");
}

/// A connection that never says a word is none of a client.
#[test]
fn a_flow_without_a_first_request_has_less_time() {
    let (mut rig, options) = (Rig::new(MEDIA[0], 16), Options::default());
    rig.open();
    rig.pass(options.head - SECOND);
    assert_eq!(rig.worker.flows(), 1);
    rig.pass(SECOND);
    assert_eq!(rig.worker.flows(), 0);
}

/// Byte by byte a head could be sent for ever.
#[test]
fn a_head_that_trickles_in_gets_408() {
    let (mut rig, options) = (Rig::new(MEDIA[0], 16), Options::default());
    let flow = rig.open();
    rig.talk(flow, post("log", b"x"));
    let head = ask("GET", "/v1/logs/log/1");
    let mut answer = Vec::new();
    for byte in head.as_bytes().iter().take(40) {
        answer = rig.talk(flow, [*byte]);
        if !answer.is_empty() {
            break;
        }
        rig.pass(SECOND);
    }
    let reply = &replies(&answer)[0];
    assert_eq!(reply.status, 408);
    assert!(reply.has("Connection: close"));
    assert!(options.head < 40 * SECOND);
}

/// It was counted as what was asked before, and a page that was allowed to ask that could read it.
#[test]
fn a_408_to_a_head_is_about_no_request() {
    let allow_origin = vec!["*".into()];
    let options = Options { allow_origin, ..Options::default() };
    let mut rig = Rig::with_options(MEDIA[0], 16, options.clone());
    let flow = rig.open();
    let request =
        "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nOrigin: http://p\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(replies(&rig.talk(flow, request))[0].field("Access-Control-Allow-Origin"), "*");
    assert!(rig.talk(flow, "GET ").is_empty());
    rig.pass(options.head);
    let reply = &replies(&rig.peer.take_sent(flow))[0];
    assert_eq!((reply.status, reply.field("Access-Control-Allow-Origin")), (408, ""));
    let metrics = rig.once(ask("GET", "/metrics")).text();
    for line in ["{kind=\"append\",class=\"4xx\"} 0", "{kind=\"other\",class=\"4xx\"} 1"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// A body that has stopped would keep what was reserved for it.
#[test]
fn a_body_that_stops_gets_408_and_gives_back_its_space() {
    for kind in MEDIA {
        let (mut rig, options) = (Rig::new(kind, 16), Options::default());
        for len in [1000, 60_000, 500_000, 2_000_000] {
            for _ in 0..100 {
                let flow = rig.open();
                let request = post("log", &value(len, 1));
                let half = request.len() - 10;
                assert!(rig.talk(flow, &request[..half]).is_empty());
                rig.pass(options.body);
                assert_eq!(replies(&rig.peer.take_sent(flow))[0].status, 408);
                rig.pass(5 * SECOND);
                assert_eq!(rig.worker.flows(), 0);
            }
            assert_eq!(rig.append("log", &value(len, 1)).status, 201, "on {kind:?}");
        }
    }
}

/// A client on a thin line is slow, and not to be cut off; one that only pretends is.
#[test]
fn a_slow_body_is_taken_while_it_keeps_the_least_rate() {
    let mut rig = Rig::new(MEDIA[0], 16);
    // The longer one is directed to its place.
    for len in [200_000, 700_000] {
        let request = post("log", &value(len, 1));
        for (rate, status) in [(2000, 201), (500, 408)] {
            let flow = rig.open();
            let (first, rest) = request.split_at(10_000);
            let mut answer = rig.talk(flow, first);
            for part in rest.chunks(rate) {
                answer = rig.talk(flow, part);
                if !answer.is_empty() {
                    break;
                }
                rig.pass(SECOND);
            }
            assert_eq!(replies(&answer)[0].status, status, "{len} at {rate} bytes a second");
        }
    }
    assert!(rig.tap.directed.get() > 0);
}

/// Pipelined without an end, requests always leave a half one behind.
#[test]
fn a_flow_that_always_has_half_a_request_is_not_late() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let flow = rig.open();
        let request = post("log", &value(100, 1));
        for cut in [20, request.len() - 50] {
            rig.peer.push(flow, &request[..cut]);
            for _ in 0..100 {
                rig.pass(SECOND);
                let next = [&request[cut..], &request[..cut]].concat();
                assert_eq!(replies(&rig.talk(flow, next))[0].status, 201, "on {kind:?}");
            }
            assert_eq!(replies(&rig.talk(flow, &request[cut..]))[0].status, 201);
        }
    }
}

/// What is sent ahead of replies that nobody takes would fill the memory, or keep all others from
/// being received from.
#[test]
fn clients_that_only_send_are_cut_off_before_they_take_all_memory() {
    let mut rig = Rig::new(MEDIA[0], 64);
    rig.append("log", &value(1 << 20, 1));
    rig.tap.stalls.set(true);
    let asks = ask("GET", "/v1/logs/log/1").repeat(25_000);
    let deaf: Vec<_> = (0..100).map(|_| rig.open()).collect();
    for flow in &deaf {
        rig.peer.push(*flow, asks.as_bytes());
        rig.run();
    }
    let closed = deaf.iter().filter(|flow| rig.peer.is_closed(**flow)).count();
    let bytes = asks.len() * (deaf.len() - closed);
    assert!((60 << 20..66 << 20).contains(&bytes), "{closed} cut off, {bytes} bytes kept");
    rig.tap.stalls.set(false);
    assert_eq!(rig.append("log", b"x").status, 201);
}

/// What has come while the process did not run is looked at before anybody is cut off.
#[test]
fn a_standstill_of_the_process_cuts_nobody_off() {
    for kind in MEDIA {
        let (mut rig, options) = (Rig::new(kind, 16), Options::default());
        let request = post("log", &value(60_000, 1));
        let flows: Vec<_> = (0..20).map(|_| rig.open()).collect();
        for flow in &flows {
            rig.talk(*flow, &request[..30_000]);
        }
        rig.stand_still(10 * options.body);
        for flow in &flows {
            assert_eq!(replies(&rig.talk(*flow, &request[30_000..]))[0].status, 201);
        }
    }
}

/// A client that reads its replies slowly and has sent its next request long ago is not late.
#[test]
fn a_request_behind_replies_that_are_read_slowly_is_not_late() {
    let (mut rig, options) = (Rig::new(MEDIA[0], 16), Options::default());
    rig.append("log", &value(1 << 20, 1));
    let flow = rig.open();
    rig.tap.stalls.set(true);
    let asks = ask("GET", "/v1/logs/log/1").repeat(3);
    let last = post("log", &value(30_000, 2));
    let mut answer = rig.talk(flow, [asks.as_bytes(), &last[..20_000]].concat());
    rig.pass(2 * options.body);
    rig.tap.stalls.set(false);
    rig.finish();
    answer.extend(rig.peer.take_sent(flow));
    answer.extend(rig.talk(flow, &last[20_000..]));
    let statuses: Vec<_> = replies(&answer).iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 200, 201]);
}

/// D4: what a reply pins is kept from others. A client that asks and then takes nothing says
/// nothing more either, so that nobody would look at it again.
#[test]
fn a_client_that_takes_nothing_of_a_reply_is_cut_off() {
    for kind in MEDIA {
        let options = Options { idle: None, ..Options::default() };
        let mut rig = Rig::with_options(kind, 16, options.clone());
        rig.append("log", &value(10 << 10, 1));
        let flow = rig.open();
        let get = ask("GET", "/v1/logs/log/1");
        assert_eq!(replies(&rig.talk(flow, &get)).len(), 1);
        rig.pass(options.head);
        rig.tap.stalls.set(true);
        rig.talk(flow, &get);
        rig.pass(options.body + 9 * SECOND);
        assert!(!rig.peer.is_closed(flow), "10 KiB may take 10 s longer, on {kind:?}");
        rig.pass(2 * SECOND);
        assert!(rig.peer.is_closed(flow), "on {kind:?}");
    }
}
