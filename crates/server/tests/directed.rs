//! The worker over the `loop` port: long bodies that come straight into their blocks.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use std::time::Duration;

use impasto_region::layout::MediumKind;
use impasto_ring::FlowId;
use impasto_server::config::Options;
use impasto_sim::Rng;
use rig::{MEDIA, Rig, ask, post, replies, value};

/// Pushes `bytes` in parts of up to `most`, with a turn or none behind each.
fn push(rig: &mut Rig, seed: &mut Rng, flow: FlowId, mut bytes: &[u8], most: usize) {
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at((1 + seed.index(most)).min(bytes.len()));
        rig.peer.push(flow, now);
        for _ in 0..seed.index(3) {
            turn(rig);
        }
        bytes = later;
    }
}

fn turn(rig: &mut Rig) {
    rig.worker.turn(Some(Duration::ZERO)).unwrap();
}

/// Opens a flow of which half a body has come, the rest of which is directed.
fn half_sent(rig: &mut Rig, request: &[u8]) -> FlowId {
    let (flow, before) = (rig.open(), rig.tap.directed.get());
    for part in request[..request.len() / 2].chunks(100_000) {
        rig.peer.push(flow, part);
        rig.run();
    }
    assert!(rig.tap.directed.get() > before);
    flow
}

fn is_there(rig: &mut Rig, log: &str, seq: usize, expected: &[u8]) {
    let reply = rig.once(ask("GET", &format!("/v1/logs/{log}/{seq}")));
    assert_eq!(reply.status, 200);
    assert!(reply.body == expected, "{log}/{seq} is what was sent");
}

fn trim(rig: &mut Rig, log: &str) {
    let trim = ask("DELETE", &format!("/v1/logs/{log}?before={}", u64::MAX));
    assert_eq!(rig.once(trim).status, 200);
}

/// A body that takes more than half of a small region finds room.
fn all_space_is_there(rig: &mut Rig, kind: MediumKind) {
    let value = value(8 << 20, 77);
    assert_eq!(rig.append("space", &value).status, 201, "on {kind:?}");
    trim(rig, "space");
}

/// Without the exact end of a directed body, the request behind it would be a part of it; without
/// the stop, parts of it would be at each other's place.
#[test]
fn a_directed_body_is_whole_and_the_requests_behind_it_are_answered() {
    let mut seed = rig::seed();
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 32);
        let flow = rig.open();
        for round in 0..16 {
            let salt = u8::try_from(round).unwrap();
            let long = value((1 << 19) + seed.index(2 << 20), salt);
            let short = value(seed.index(3000), salt);
            let next = value((1 << 19) + seed.index(1 << 20), salt ^ 0x55);
            let (first, second, third) = (post("a", &long), post("b", &short), post("c", &next));
            let requests = [first, second, ask("GET", "/livez").into(), third].concat();
            let most = [3000, 70_000, 400_000, 3 << 20][round % 4];
            push(&mut rig, &mut seed, flow, &requests, most);
            rig.finish();
            let answer = rig.peer.take_sent(flow);
            let statuses: Vec<_> = replies(&answer).iter().map(|reply| reply.status).collect();
            assert_eq!(statuses, [201, 201, 200, 201], "round {round} on {kind:?}");
            for (log, value) in [("a", &long), ("b", &short), ("c", &next)] {
                is_there(&mut rig, log, round + 1, value);
            }
            if round % 4 == 3 {
                for log in ["a", "c"] {
                    trim(&mut rig, log);
                }
            }
        }
        assert!(rig.tap.directed.get() > 16, "on {kind:?}");
        let mut rig = rig.restart(kind);
        let last = rig.once(ask("GET", "/v1/logs/b/16"));
        assert_eq!(last.status, 200);
    }
}

/// Without the limit, each access to memory would look at a span of each of them; with it, those
/// above must be taken all the same, and a place that is free again must be found.
#[test]
fn a_hundred_long_bodies_at_once_share_few_places() {
    const BYTES: usize = 700_000;
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 160);
        for round in 0..2 {
            let salt = |at: usize| u8::try_from(at + round * 100).unwrap();
            let flows: Vec<_> = (0..100).map(|_| rig.open()).collect();
            let requests: Vec<_> =
                (0..100).map(|at| post(&format!("log{at}"), &value(BYTES, salt(at)))).collect();
            let before = rig.tap.directed.get();
            for from in (0..requests[0].len() + 100).step_by(150_000) {
                for (flow, request) in flows.iter().zip(&requests) {
                    let to = request.len().min(from + 150_000);
                    rig.peer.push(*flow, &request[from.min(to)..to]);
                }
                rig.finish();
            }
            // Each of 16 in some of 5 parts.
            let directed = rig.tap.directed.get() - before;
            assert!((16..400).contains(&directed), "{directed} on {kind:?}");
            for flow in &flows {
                assert_eq!(replies(&rig.peer.take_sent(*flow))[0].status, 201, "on {kind:?}");
                rig.peer.reset(*flow);
            }
            for at in 0..100 {
                is_there(&mut rig, &format!("log{at}"), round + 1, &value(BYTES, salt(at)));
            }
        }
        let before = rig.tap.directed.get();
        let flow = half_sent(&mut rig, &post("log", &value(1 << 20, 1)));
        assert!(rig.tap.directed.get() > before, "places are given back");
        rig.peer.reset(flow);
    }
}

/// D4: blocks that the kernel may still write to, for a body that nobody waits for any more, must
/// not be the next body's; and not be lost.
#[test]
fn d4_a_directed_body_that_breaks_off_gives_its_space_back() {
    for kind in MEDIA {
        let (mut rig, options) = (Rig::new(kind, 16), Options::default());
        let request = post("log", &value(6 << 20, 1));
        for round in 0..12 {
            let flow = half_sent(&mut rig, &request);
            match round % 4 {
                0 => rig.peer.reset(flow),
                1 => rig.peer.end(flow),
                2 => {
                    rig.pass(options.body);
                    assert_eq!(replies(&rig.peer.take_sent(flow))[0].status, 408);
                    // What still comes is discarded.
                    rig.peer.push(flow, &request[..100_000]);
                    rig.pass(Duration::from_secs(5));
                }
                _ => {
                    rig.peer.push(flow, &request[..100_000]);
                    rig.peer.end(flow);
                }
            }
            rig.run();
            assert_eq!(rig.worker.flows(), 0, "round {round}");
            all_space_is_there(&mut rig, kind);
        }
    }
}

/// A clean stop does not wait for a body that has not all come, and says that nothing is missing.
#[test]
fn a_clean_stop_in_the_middle_of_directed_bodies_is_clean() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 64);
        let request = post("log", &value(4 << 20, 1));
        let flows = [(); 3].map(|()| half_sent(&mut rig, &request));
        rig.stop().unwrap();
        assert!(flows.iter().all(|flow| rig.peer.is_closed(*flow)));
        let (image, superblock) = rig.image(kind);
        assert!(superblock.clean);
        let mut rig = Rig::on(image, superblock);
        assert_eq!(rig.once(ask("GET", "/v1/logs/log")).status, 404);
        all_space_is_there(&mut rig, kind);
    }
}
