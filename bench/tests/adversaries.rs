//! The client against servers that would have it tell something else than what was.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use impasto_bench::client::{self, Limit, Pace};
use socket2::{Domain, Socket, Type};

mod scripted;
use scripted::{GET_BYTES, OK, answer_gets, longer_than, same, server};

/// Requests that a stall at the end keeps waiting are on the way, or not even sent, when the time
/// is over: whoever counts replies does not see them.
#[test]
fn a_stall_at_the_end_of_the_window_is_seen() {
    for (pace, pipeline) in [
        (Pace::Closed, 1),
        (Pace::Open { per_second: 1000.0 }, 1),
        (Pace::Open { per_second: 1000.0 }, 1000),
    ] {
        let target = server(|_, stream| {
            let start = Instant::now();
            answer_gets(stream, |_| {
                let stalls = Duration::from_millis(200)..Duration::from_millis(600);
                if stalls.contains(&start.elapsed()) {
                    thread::sleep(stalls.end.saturating_sub(start.elapsed()));
                }
            });
        });
        let mut plan = same(target, 0);
        (plan.pace, plan.pipeline) = (pace, pipeline);
        plan.limit = Limit::Time(Duration::from_millis(400));
        let outcome = client::run(&plan).unwrap();
        assert_eq!(outcome.errors.total(), 0, "{outcome}");
        let wanted = if pace == Pace::Closed { 1 } else { 90 };
        assert!(longer_than(&outcome, 100) >= wanted, "{pace:?} {pipeline}: {outcome}");
    }
}

/// A server fills its caches while it is warmed up; what that took is nobody's latency.
#[test]
fn what_was_asked_in_the_warm_up_has_no_latency() {
    for pace in [Pace::Closed, Pace::Open { per_second: 1000.0 }] {
        let target = server(|_, stream| {
            answer_gets(stream, |number| {
                if number == 0 {
                    thread::sleep(Duration::from_millis(600));
                }
            });
        });
        let mut plan = same(target, 0);
        (plan.pace, plan.pipeline) = (pace, 1000);
        plan.warm_up = Duration::from_millis(300);
        plan.limit = Limit::Time(Duration::from_secs(1));
        if pace == Pace::Closed {
            plan.pipeline = 1;
        }
        let outcome = client::run(&plan).unwrap();
        assert_eq!(outcome.errors.total(), 0, "{outcome}");
        assert!(outcome.requests > 0, "{outcome}");
        // The rest of the stall is seen by whom it keeps waiting after the warm-up.
        assert_eq!(longer_than(&outcome, 400), 0, "{pace:?}: {outcome}");
    }
}

/// Gigabytes that come faster than they are read: the time and the patience end all the same.
#[test]
fn a_reply_without_an_end_ends_with_patience() {
    let target = server(|_, mut stream| {
        let _read = stream.read(&mut [0; 4096]);
        let _written =
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n");
        while stream.write_all(&[0; 1 << 20]).is_ok() {}
    });
    let mut plan = same(target, 1);
    plan.patience = Duration::from_millis(300);
    let start = Instant::now();
    let outcome = client::run(&plan).unwrap();
    assert_eq!((outcome.requests, outcome.errors.late), (0, 1), "{outcome}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impasto-bench"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Threads that wait for a server that takes their connections must not be measured by others that
/// have the server for themselves; one that cannot begin ends all of them at once.
#[test]
fn threads_begin_together_or_not_at_all() {
    let target = server(|_, stream| answer_gets(stream, |_| {}));
    let mut plan = same(target, 0);
    (plan.connections, plan.cores) = (2, vec![0, 1 << 20]);
    plan.limit = Limit::Time(Duration::from_secs(30));
    let start = Instant::now();
    let text = client::run(&plan).unwrap_err().to_string();
    assert!(text.contains("be pinned"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// The first connection is closed, and the next one never comes about: the other one is measured as
/// if nothing were, and not when the client has stopped to wait.
#[test]
fn a_connection_that_hangs_keeps_no_other_waiting() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        let first = listener.accept().unwrap().0;
        let second = listener.accept().unwrap().0;
        // Nobody is accepted any more, and these take the room of those who wait for it.
        let crowd: Vec<Socket> = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _begun = socket.connect(&target.into());
                socket
            })
            .collect();
        let mut gone = first;
        gone.read_exact(&mut [0; GET_BYTES]).unwrap();
        gone.write_all(OK).unwrap();
        drop(gone);
        answer_gets(second, |_| {});
        drop((listener, crowd));
    });
    let mut plan = same(target, 0);
    (plan.connections, plan.patience) = (2, Duration::from_secs(2));
    plan.limit = Limit::Time(Duration::from_millis(300));
    let outcome = client::run(&plan).unwrap();
    assert!(outcome.elapsed < Duration::from_millis(1500), "{outcome}");
    assert!(outcome.requests > 2 && outcome.errors.total() > 0, "{outcome}");
}

/// Whoever reads that no descriptor is left does not look for a server that is not running.
#[test]
fn without_descriptors_it_says_what_is_missing() {
    let target = server(|_, stream| answer_gets(stream, |_| {}));
    let program = env!("CARGO_BIN_EXE_impasto-bench");
    let script = format!(
        "ulimit -n 40; exec {program} load --target http://{target} --connections 100 --requests 1"
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("ulimit -n") && !text.contains("is the server running"), "{text}");
}

/// A figure without its machine, kernel, commit and command is worth nothing.
#[test]
fn each_output_says_where_and_how_it_was_taken() {
    let target = server(|_, stream| answer_gets(stream, |_| {}));
    let request = ["load", "--target", &format!("http://{target}"), "--requests", "0"];
    let output = bench(&[&request[..], &["--json"]].concat()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["kernel", "commit"] {
        assert!(json[name].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    }
    assert!(json["machine"]["cores"].as_u64() > Some(0), "{json}");
    assert!(json["command"].as_str().unwrap().contains("--requests 0 --json"), "{json}");
    let without_tools = bench(&["check"]).env("PATH", "").output().unwrap();
    for output in [bench(&request).output().unwrap(), without_tools] {
        let text = String::from_utf8(output.stdout).unwrap();
        for name in ["machine", "kernel", "commit", "command"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
        }
        assert!(!text.contains("p50 0.0"), "{text}");
    }
}
