//! Peers that take more time than they have.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Server, client::value, place};

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
    head.send(b"POST /v1/logs/a HTTP/1.1\r\nContent-Len").unwrap();
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
