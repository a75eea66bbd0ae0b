//! Peers that take more time than they have.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{ErrorKind, Write};

use common::{Server, client::value, place};

/// The turn in which a peer is found late is the last one for a while: an answer that waited for
/// the next turn would come when somebody else says something.
#[test]
fn a_late_request_is_told_so_when_nothing_else_happens() {
    for workers in ["1", "2"] {
        let dir = place();
        let times = ["--header-timeout", "200ms", "--body-timeout", "300ms"];
        let options = [&["--size", "16MiB", "--workers", workers][..], &times].concat();
        let server = Server::start(dir.path(), &options);
        for begun in [
            "GET /livez HT",
            "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1234",
        ] {
            let mut client = server.client();
            client.send(begun.as_bytes()).unwrap();
            let said = client.rest();
            assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        }
    }
}

/// Connections that do nothing are in the way of others.
#[test]
fn whoever_is_late_is_cut_off_and_whoever_is_not_is_served() {
    let dir = place();
    let times = ["--idle-timeout", "3s", "--header-timeout", "500ms", "--body-timeout", "700ms"];
    let options = [&["--size", "16MiB", "--workers", "2"][..], &times].concat();
    let server = Server::start(dir.path(), &options);
    let [mut fresh, mut idle, mut head, mut later_head] = [(); 4].map(|()| server.client());
    idle.append("a", b"then idle");
    later_head.append("a", b"then late");
    head.send(b"POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nContent-Len").unwrap();
    later_head.send(b"G").unwrap();
    let mut bodies: Vec<_> = [100, 10_000, 60_000, 1 << 20]
        .map(|len| {
            let client = server.client();
            client.send_head("POST /v1/logs/a", len).unwrap();
            client.send(value(1, len / 2)).unwrap();
            client
        })
        .into();
    // Nobody is kept waiting by them. Idle for less than its time, it stays.
    let mut client = server.client();
    client.append("b", b"in time");
    let late = [&mut head, &mut later_head].into_iter().chain(&mut bodies);
    for late in late {
        let said = late.rest();
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        assert!(said.contains("Connection: close"), "{said}");
        client.append("b", b"in time");
    }
    // Nothing was asked, nothing is answered.
    assert_eq!(fresh.rest(), "");
    client.append("b", b"in time");
    assert_eq!(idle.rest(), "");
    let info = client.ask("GET /v1/logs/a", &[]).unwrap();
    assert_eq!(info.number("records"), 2, "half a body is no record");
}

/// Of each client that sends and never reads, megabytes may come before it is paused; kept for
/// thousands of them, they would fill the memory. So all of it together is bounded.
#[test]
fn requests_whose_replies_nobody_reads_do_not_fill_the_memory() {
    const CLIENTS: usize = 140;
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "64MiB", "--workers", "2"]);
    let mut client = server.client();
    while client.ask("POST /v1/logs/fill", value(0, 60_000)).unwrap().status == 201 {}
    client.trim_all("fill");
    let seq = client.append("a", value(1, 1_000));
    let before = server.memory();
    let requests = format!("GET /v1/logs/a/{seq} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(1_000);
    let mut stalled = Vec::new();
    let mut all = 0;
    for _ in 0..CLIENTS {
        let stream = server.connect();
        stream.set_nonblocking(true).unwrap();
        let (mut sent, mut tries) = (0, 0);
        while sent < 8 << 20 && tries < 10 {
            let at = sent % (requests.len() / 1_000);
            match (&stream).write(&requests.as_bytes()[at..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tries += 1;
                    client.read_is("a", seq, value(1, 1_000));
                }
                // It was cut off.
                Err(_) => break,
            }
        }
        all += sent as u64;
        stalled.push(stream);
        client.read_is("a", seq, value(1, 1_000));
    }
    let grown = server.memory().saturating_sub(before);
    // 64 MiB for each of two workers, and as much again for vectors that have grown by doubling.
    assert!(all > 2 * BOUND && grown < BOUND, "{grown} bytes of {all}");
}

const BOUND: u64 = 2 * 2 * (64 << 20);
