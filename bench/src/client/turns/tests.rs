//! The loop does not allocate for a request.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use super::*;
use crate::{
    client::{Dialect, Keyed, Order, start::Line},
    protocol::{Request, Values},
};

/// Answers each `request_bytes` with `reply`, in two pieces, so that replies are cut, too.
fn server(request_bytes: usize, reply: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), vec![0; request_bytes]);
            stream.set_nodelay(true).unwrap();
            while stream.read_exact(&mut request).is_ok() {
                let (first, second) = reply.split_at(reply.len() / 2);
                for piece in [first, second] {
                    let _gone = stream.write_all(piece.as_bytes());
                }
            }
        }
    });
    target
}

fn allocations(plan: &Plan, requests: u64) -> u64 {
    let plan = Plan { limit: Limit::Requests(requests), pipeline: 4, ..plan.clone() };
    let info = allocation_counter::measure(|| {
        let outcome = run(&plan, &Watch::default(), None, Line::new(1).place(0)).unwrap();
        assert_eq!((outcome.requests, outcome.errors.total()), (requests, 0), "{outcome}");
    });
    info.count_total
}

/// Buffers may grow now and then: when the kernel first takes less than a burst of requests.
fn assert_few(plan: &Plan) {
    let (few, many) = (allocations(plan, 100), allocations(plan, 1000));
    assert!(many <= few + 10, "{few} for 100 requests, {many} for 1000");
}

/// Time in an allocator is time that the server is not asked anything.
#[test]
fn requests_do_not_allocate() {
    let request = Request::new("POST", "a", "/", &[7; 100]).expect_status(201);
    let reply = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    let target = server(request.len_bytes(), reply);
    let plan = Plan::new(target, Work::Same(request));
    assert_few(&plan);
}

/// Nor does choosing keys, and making values of them, long ones included.
#[test]
fn keyed_requests_do_not_allocate() {
    for (len, order) in [(100, Order::Zipf(0.99)), (100_000, Order::Uniform)] {
        let head = format!("*3\r\n$3\r\nSET\r\n$15\r\n000000000000000\r\n${len}\r\n\r\n");
        let target = server(head.len() + len, "+OK\r\n");
        let (dialect, values) = (Dialect::Resp { auth: None }, Values::new(len));
        let keyed = Keyed { dialect, values, keys: 1000, reads: 0.0, order, seed: 1 };
        let mut plan = Plan::new(target, Work::Keyed(keyed));
        assert_few(&plan);
        plan.pace = Pace::Open { per_second: 5000.0 };
        assert_few(&plan);
    }
}
