//! The client against servers that keep the rules, and servers that break them.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use impasto_bench::{
    client::{self, Limit, Plan, Trim, Work},
    outcome::{LoadError, Outcome},
    protocol::Request,
};

fn append(target: SocketAddr) -> Request {
    Request::new("POST", target, "/v1/logs/load", &[7; 1024]).expect_status(201)
}

fn plan(target: SocketAddr, connections: usize, requests: u64) -> Plan {
    let limit = Limit::Requests(requests);
    Plan { connections, limit, ..Plan::new(target, Work::Same(append(target))) }
}

/// A server that calls `answer` for each connection that is opened.
fn server(answer: impl Fn(TcpStream) + Copy + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(stream));
        }
    });
    address
}

/// Answers each request of [`plan`] with what `reply` says, until that is `None`.
fn answer(mut stream: TcpStream, reply: impl Fn(u64) -> Option<&'static str>) {
    let mut request = vec![0; append(stream.local_addr().unwrap()).len_bytes()];
    for number in 0.. {
        let Some(text) = reply(number) else { return };
        if stream.read_exact(&mut request).is_err() || stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// Sends requests to a server that answers the first, second, ... of each connection with `reply`.
fn run_against(
    connections: usize,
    requests: u64,
    reply: impl Fn(u64) -> Option<&'static str> + Copy + Send + 'static,
) -> Outcome {
    let target = server(move |stream| answer(stream, reply));
    client::run(&plan(target, connections, requests)).unwrap()
}

const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

#[test]
fn every_request_is_sent_once_and_counted_once() {
    let outcome = run_against(4, 300, |_| Some(CREATED));
    assert_eq!(outcome.errors.total(), 0, "{outcome}");
    assert_eq!((outcome.requests, outcome.payload_bytes), (300, 300 * 1024));
    assert_eq!(outcome.latency_ns.len(), 300);
    assert!(outcome.quantile_us(0.5) > 0.0 && outcome.elapsed > Duration::ZERO);
}

/// A benchmark that takes refusals for answers is fastest against a server that does nothing.
#[test]
fn a_wrong_status_is_an_error_and_no_request() {
    const FULL: &str = "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 5\r\n\r\nfull\n";
    let outcome = run_against(1, 100, |number| Some(if number < 20 { CREATED } else { FULL }));
    assert_eq!(outcome.requests, 20, "{outcome}");
    assert_eq!(outcome.errors.statuses[&507], 80);
    assert_eq!(outcome.errors.total(), 80);
    assert!(outcome.to_string().contains("80 x status 507"), "{outcome}");
}

/// Each connection that is cut loses its request; the load goes on with others.
#[test]
fn a_connection_closed_in_the_middle_is_counted_and_opened_again() {
    let outcome = run_against(2, 100, |number| match number {
        0..9 => Some(CREATED),
        9 => Some("HTTP/1.1 201 Created\r\nContent-Le"),
        _ => None,
    });
    assert_eq!(outcome.requests + outcome.errors.lost, 100, "{outcome}");
    assert!(outcome.errors.lost >= 8, "{outcome}");
    assert!(outcome.errors.first.is_some());
}

/// A server that is no good at all must not be asked for ever.
#[test]
fn a_connection_that_gave_nothing_is_not_opened_again() {
    let outcome = run_against(3, 1000, |_| None);
    assert_eq!((outcome.requests, outcome.errors.lost), (0, 3), "{outcome}");
}

#[test]
fn an_announced_close_is_no_error() {
    const LAST: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let outcome = run_against(2, 100, |number| match number {
        0..4 => Some(CREATED),
        4 => Some(LAST),
        _ => None,
    });
    assert_eq!((outcome.requests, outcome.errors.total()), (100, 0), "{outcome}");
    assert!(outcome.reopened >= 18, "{outcome}");
}

#[test]
fn what_is_no_reply_is_counted() {
    for bad in ["SSH-2.0-hello\r\n\r\n", "HTTP/1.1 201 Created\r\n\r\n"] {
        let outcome = run_against(2, 50, move |_| Some(bad));
        assert_eq!((outcome.requests, outcome.errors.malformed), (0, 2), "{bad}: {outcome}");
    }
}

/// Two replies to one request: the second would be taken for the answer to the next.
#[test]
fn a_reply_that_nobody_asked_for_is_counted() {
    const TWICE: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n\
        HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    let outcome = run_against(1, 50, |_| Some(TWICE));
    assert!(outcome.errors.malformed > 0, "{outcome}");
}

/// A body that stops early never completes: patience bounds the wait.
#[test]
fn a_short_body_is_late_and_the_run_ends() {
    const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nshor";
    let target = server(|mut stream| {
        let mut request = [0; 4096];
        while stream.read(&mut request).is_ok_and(|read| read > 0) {
            if stream.write_all(SHORT.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut plan = plan(target, 2, 10);
    plan.patience = Duration::from_millis(200);
    let request = Request::new("GET", target, "/", b"").expect_body(*b"shortest");
    plan.work = Work::Same(request);
    let start = Instant::now();
    let outcome = client::run(&plan).unwrap();
    assert_eq!((outcome.requests, outcome.errors.late), (0, 2), "{outcome}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn another_body_is_an_error() {
    const OTHER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellO";
    let target = server(|mut stream| {
        let mut request = [0; 4096];
        while stream.read(&mut request).is_ok_and(|read| read > 0) {
            if stream.write_all(OTHER.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut plan = plan(target, 1, 20);
    plan.work = Work::Same(Request::new("GET", target, "/", b"").expect_body(*b"hello"));
    let outcome = client::run(&plan).unwrap();
    assert_eq!((outcome.requests, outcome.errors.bodies), (0, 20), "{outcome}");
}

#[test]
fn a_closed_port_is_said_plainly() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    assert!(matches!(client::run(&plan(target, 1, 1)), Err(LoadError::Connect { .. })));
    let output = load(&["--target", &format!("http://{target}"), "--requests", "1"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(&format!("cannot connect to {target}")), "{text}");
    assert!(text.contains("is the server running there?"), "{text}");
}

/// Impasto as `figures` puts it together; killed when this is dropped.
struct Impasto {
    process: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Impasto {
    fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_impasto-bench"))
            .args(["serve", "--size", "32MiB", "--data"])
            .arg(dir.path().join("region"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().split("http://").nth(1).expect("it listens");
        Self { address: address.parse().unwrap(), process, _dir: dir }
    }
}

impl Drop for Impasto {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn load(args: &[&str]) -> Output {
    let bench = env!("CARGO_BIN_EXE_impasto-bench");
    Command::new(bench).arg("load").args(args).stdin(Stdio::null()).output().unwrap()
}

/// Both servers that `figures` compares do all of the work: what is read is what was appended.
#[test]
fn a_real_server_answers_as_expected() {
    for more in [&[][..], &["--without-flush"]] {
        let server = Impasto::start(more);
        let target = format!("http://{}", server.address);
        let pid = server.process.id().to_string();
        let common = ["--target", &target, "--connections", "4", "--json"];
        let own = ["--requests", "400", "--pipeline", "4", "--pid", &pid];
        let read = ["--requests", "400", "--get", "--size", "9000"];
        let mix = ["--requests", "400", "--reads", "0.5", "--keys", "60", "--pipeline", "3"];
        let short = ["--requests", "400", "--short", "--rate", "20000"];
        for args in [&own[..], &read, &mix, &short] {
            let output = load(&[&common[..], args].concat());
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{text}");
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["requests"], 400, "{text}");
            assert_eq!(json["errors"]["total"], 0, "{text}");
            assert_eq!(json["server"].is_null(), args != own, "{text}");
        }
    }
}

/// Requests of 64 KiB, and a trim after so many bytes.
fn trimming(target: SocketAddr, requests: u64, every_bytes: u64) -> Plan {
    let mut plan = plan(target, 4, requests);
    let request = Request::new("POST", target, "/v1/logs/a", &[7; 64 << 10]);
    plan.work = Work::Same(request.expect_status(201));
    let trim = format!("/v1/logs/a?before={}", u64::MAX);
    plan.trim = Some(Trim { request: Request::new("DELETE", target, &trim, b""), every_bytes });
    plan
}

/// Without a trim the region of 32 MiB is full before the end; with it, nothing is refused.
#[test]
fn a_trimmer_keeps_a_region_from_filling_up() {
    let server = Impasto::start(&[]);
    let outcome = client::run(&trimming(server.address, 1000, 4 << 20)).unwrap();
    assert_eq!((outcome.requests, outcome.errors.total()), (1000, 0), "{outcome}");
    assert!(outcome.trims > 5, "{outcome}");
}

/// Loads that are each too short for a trim would fill a region together.
#[test]
fn a_short_load_trims_what_it_leaves() {
    let server = Impasto::start(&[]);
    let plan = trimming(server.address, 40, u64::MAX);
    for _ in 0..30 {
        let outcome = client::run(&plan).unwrap();
        assert_eq!((outcome.errors.total(), outcome.trims), (0, 1), "{outcome}");
    }
}

/// Several threads share connections and requests, and each is counted once.
#[test]
fn threads_of_several_cores_are_one_load() {
    let server = Impasto::start(&[]);
    let mut plan = plan(server.address, 5, 301);
    plan.cores = vec![0, 0, 0];
    plan.pids = vec![server.process.id()];
    let outcome = client::run(&plan).unwrap();
    assert_eq!((outcome.requests, outcome.errors.total()), (301, 0), "{outcome}");
    assert!(outcome.server.unwrap().run > Duration::ZERO);
}

/// A load for a time warms up first, and ends although connections are still busy.
#[test]
fn a_load_for_a_time_ends() {
    let server = Impasto::start(&[]);
    let mut plan = plan(server.address, 4, 0);
    plan.limit = Limit::Time(Duration::from_millis(50));
    plan.warm_up = Duration::from_millis(10);
    plan.trim = None;
    let outcome = client::run(&plan).unwrap();
    assert!(outcome.requests > 0 && outcome.errors.total() == 0, "{outcome}");
    assert!(outcome.elapsed >= Duration::from_millis(50));
}

/// Without the program that it measures, `figures` says what to build.
#[test]
fn figures_say_what_is_missing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = dir.path().join("impasto-bench");
    std::fs::copy(env!("CARGO_BIN_EXE_impasto-bench"), &alone).unwrap();
    let output = Command::new(&alone)
        .args(["figures", "--rounds", "1", "--only", "workers"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("build it first: cargo build"), "{text}");
}

/// What no server was started in is nobody's: a file for the raw disk, a region that is read.
#[test]
fn directories_go_with_the_program_that_made_them() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dirs = ["one", "two two", "three"].map(|name| dir.path().join(name));
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("raw"), "raw").unwrap();
    }
    let mut sweeper = Command::new(env!("CARGO_BIN_EXE_impasto-bench"))
        .args(["sweep", "--parent", "1"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sweeper.stdin.take().unwrap();
    writeln!(stdin, "{}\n{}", dirs[0].display(), dirs[1].display()).unwrap();
    assert!(dirs.iter().all(|dir| dir.exists()));
    drop(stdin);
    assert!(sweeper.wait().unwrap().success());
    assert_eq!(dirs.map(|dir| dir.exists()), [false, false, true]);
}

/// A harness that only runs on quiet machines, by hand, breaks unseen; one that leaves servers or
/// regions behind disturbs what is measured next.
#[test]
fn figures_are_taken_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let json = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_impasto-bench"))
        .env_remove("CARGO") // This line needs no server, so that none has to be built.
        .args(["figures", "--only", "shm", "--rounds", "2", "--window", "0.3", "--warm-up", "0"])
        .args(["--server-core", "0", "--client-core", "0", "--wait", "1000", "--region", "32MiB"])
        .arg("--memory-dir")
        .arg(dir.path())
        .arg("--json")
        .arg(json.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // Reached or missed is chance here.
    let (text, complaint) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert_eq!(complaint.unwrap(), "");
    assert!(text.unwrap().contains("requests/s, shm/skipped, 100 connections"));
    let found = std::fs::read_to_string(json.path()).unwrap();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let line = &found["lines"][0];
    assert_eq!(line["cells"].as_array().unwrap().len(), 6, "{found}");
    for cell in line["cells"].as_array().unwrap() {
        assert_eq!(cell["errors"]["total"], 0, "{cell}");
        assert_eq!(cell["rounds"], 2, "{cell}");
    }
    assert_eq!(line["figures"][0]["ratio"]["rounds"], 2, "{found}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
