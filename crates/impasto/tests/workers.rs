//! Several workers over one region: what one has acknowledged the others show, and they stop
//! together.
#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use common::{Server, place, verify};
use rustix::process::Signal;

/// A connection that asks and waits.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(server: &Server) -> Self {
        let stream = server.connect();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Returns status and body; `None` if the connection has ended.
    fn ask(&mut self, request: &str) -> Option<(u16, String)> {
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut len, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(rest) = line.strip_prefix("Content-Length: ") {
                len = rest.trim().parse().unwrap();
            } else if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).ok()?;
        Some((status, String::from_utf8(body).unwrap()))
    }

    fn append(&mut self, log: &str, value: &str) -> Option<u16> {
        let len = value.len();
        let head =
            format!("POST /v1/logs/{log} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n");
        self.ask(&(head + value)).map(|(status, _)| status)
    }

    fn read(&mut self, log: &str, seq: usize) -> (u16, String) {
        self.ask(&format!("GET /v1/logs/{log}/{seq} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap()
    }
}

const WAYS: [&[&str]; 5] = [
    // A stop that waits for what is done at once would not end.
    &["--workers", "1", "--medium", "shm", "--busy-poll"],
    &["--workers", "2"],
    &["--workers", "2", "--busy-poll"],
    &["--workers", "3", "--medium", "shm"],
    &["--workers", "2", "--medium", "shm", "--busy-poll"],
];

fn start(more: &[&str]) -> (tempfile::TempDir, Server) {
    let is_shm = more.contains(&"shm");
    let dir = if is_shm { tempfile::tempdir_in("/dev/shm").unwrap() } else { place() };
    let server = Server::start(&dir.path().join("data"), &[more, &["--size", "32MiB"]].concat());
    (dir, server)
}

/// D3: connections go to the workers in turn. A record that another worker has acknowledged and
/// this one does not know, or a number that two have given, would show.
#[test]
fn what_one_worker_has_acknowledged_all_others_show() {
    for way in WAYS {
        let (_dir, server) = start(way);
        let mut clients: Vec<_> = (0..6).map(|_| Client::new(&server)).collect();
        for seq in 1..=60 {
            let value = format!("value {seq}");
            assert_eq!(clients[seq % 6].append("log", &value), Some(201), "{way:?}");
            assert_eq!(clients[(seq + 1) % 6].read("log", seq), (200, value), "{way:?}");
            assert_eq!(clients[(seq + 2) % 6].read("log", seq + 1).0, 404, "{way:?}");
        }
        assert!(server.stop(Signal::TERM).success());
    }
}

/// A worker that is not told would serve on, or what the others have started would be cut off.
#[test]
fn all_workers_stop_together_and_cleanly_under_load() {
    for way in WAYS {
        let (dir, server) = start(way);
        let acked = AtomicU64::new(0);
        let is_loaded = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..8 {
                let mut client = Client::new(&server);
                let (acked, is_loaded) = (&acked, &is_loaded);
                scope.spawn(move || {
                    let (log, value) = (format!("log-{}", number % 3), "v".repeat(700 * number));
                    while client.append(&log, &value) == Some(201) {
                        if acked.fetch_add(1, Ordering::Relaxed) > 500 {
                            is_loaded.store(true, Ordering::Release);
                        }
                    }
                });
            }
            while !is_loaded.load(Ordering::Acquire) {
                thread::yield_now();
            }
            assert!(server.stop(Signal::TERM).success(), "{way:?}");
        });
        let output = verify(&dir.path().join("data"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("it stopped cleanly"), "{text}");
        let records = text.lines().find_map(|line| line.split(" live record").next()?.parse().ok());
        let (records, acked): (u64, _) = (records.unwrap(), acked.into_inner());
        // One of each connection may have been durable and not answered.
        assert!((acked..=acked + 8).contains(&records), "{records} of {acked}, {way:?}");
    }
}
