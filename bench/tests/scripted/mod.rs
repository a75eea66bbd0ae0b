//! Servers of a few lines that do what a test has them do.

#![allow(unreachable_pub, reason = "each test is a crate of its own")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use impasto_bench::{
    client::{Limit, Plan, Work},
    outcome::Outcome,
    protocol::Request,
};

/// A server that calls `answer` for each connection, with the number that it has.
pub fn server(answer: impl Fn(u64, TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let (stream, answer) = (stream.unwrap(), answer.clone());
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || answer(number, stream));
        }
    });
    address
}

/// Plans one GET, over and over, on one connection.
pub fn same(target: SocketAddr, requests: u64) -> Plan {
    let limit = Limit::Requests(requests);
    Plan { limit, ..Plan::new(target, Work::Same(Request::new("GET", "a", "/", b""))) }
}

/// What they are answered with.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// How long each of them is.
pub const GET_BYTES: usize = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".len();

/// Answers these, each after `before`.
pub fn answer_gets(mut stream: TcpStream, before: impl Fn(u64)) {
    let mut request = [0; GET_BYTES];
    for number in 0.. {
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        before(number);
        if stream.write_all(OK).is_err() {
            return;
        }
    }
}

/// How many requests took longer than `ms`.
pub fn longer_than(outcome: &Outcome, ms: u64) -> u64 {
    let below = outcome.latency_ns.count_between(0, ms * 1_000_000);
    outcome.latency_ns.len() - below
}
