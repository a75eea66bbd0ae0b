//! Open loops, short connections, keys, and other protocols, against servers of a few lines.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use impasto_bench::{
    client::{self, Dialect, Keyed, Limit, Order, Pace, Plan, Watch, Work},
    protocol::Values,
};

mod scripted;
use scripted::{GET_BYTES, OK, answer_gets, longer_than, same, server};

fn keyed(target: SocketAddr, dialect: Dialect, reads: f64, requests: u64) -> Plan {
    let (values, order) = (Values::new(100), Order::Zipf(0.99));
    let keyed = Keyed { dialect, values, keys: 50, reads, order, seed: 1 };
    let limit = Limit::Requests(requests);
    Plan { connections: 3, pipeline: 2, limit, ..Plan::new(target, Work::Keyed(keyed)) }
}

/// One stall of 200 ms keeps 200 requests waiting that come 1 ms apart. A closed loop sends none of
/// them, and sees one slow request (Gil Tene's coordinated omission).
#[test]
fn an_open_loop_sees_everyone_whom_a_stall_keeps_waiting() {
    let target = server(|_, stream| {
        answer_gets(stream, |number| {
            if number == 50 {
                thread::sleep(Duration::from_millis(200));
            }
        });
    });
    let mut plan = same(target, 300);
    plan.pace = Pace::Open { per_second: 1000.0 };
    let outcome = client::run(&plan).unwrap();
    assert_eq!(
        (outcome.requests, outcome.errors.total(), outcome.unsent),
        (300, 0, 0),
        "{outcome}"
    );
    // Those of the first half of the stall waited for the other half at least.
    assert!(longer_than(&outcome, 100) >= 99, "{outcome}");
    assert!(outcome.behind >= Duration::from_millis(100), "{outcome}");
}

#[test]
fn an_open_loop_sends_as_many_as_it_was_told_to() {
    let target = server(|_, stream| answer_gets(stream, |_| {}));
    let mut plan = same(target, 0);
    (plan.connections, plan.cores) = (5, vec![0, 0]);
    plan.limit = Limit::Time(Duration::from_millis(300));
    plan.pace = Pace::Open { per_second: 1000.0 };
    let outcome = client::run(&plan).unwrap();
    assert_eq!(outcome.errors.total(), 0, "{outcome}");
    // Never more than were due; fewer if this machine was busy.
    let due = outcome.elapsed.as_secs_f64() * 1000.0;
    assert!(outcome.requests > 0 && outcome.requests as f64 <= due + 10.0, "{outcome}");
}

/// A server that does not carry the rate must not look as if it did.
#[test]
fn what_an_open_loop_could_not_send_is_told() {
    let target = server(|_, stream| {
        answer_gets(stream, |_| thread::sleep(Duration::from_millis(5)));
    });
    let mut plan = same(target, 0);
    plan.limit = Limit::Time(Duration::from_millis(200));
    plan.pace = Pace::Open { per_second: 10_000.0 };
    let outcome = client::run(&plan).unwrap();
    assert!(outcome.unsent > 1000, "{outcome}");
    let text = outcome.to_string();
    assert!(text.contains(&format!("{} requests not sent", outcome.unsent)), "{text}");
}

/// Each request has a connection of its own, whoever closes it.
#[test]
fn short_connections_carry_one_request_each() {
    for closes in [true, false] {
        let opened = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&opened);
        let target = server(move |_, mut stream| {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut request = vec![0; GET_BYTES];
            while stream.read_exact(&mut request).is_ok() {
                stream.write_all(OK).unwrap();
                if closes {
                    return;
                }
            }
        });
        for pace in [Pace::Closed, Pace::Open { per_second: 2000.0 }] {
            opened.store(0, Ordering::SeqCst);
            let mut plan = same(target, 60);
            (plan.connections, plan.short, plan.pace) = (4, true, pace);
            let outcome = client::run(&plan).unwrap();
            assert_eq!((outcome.requests, outcome.errors.total()), (60, 0), "{outcome}");
            // And one to see if somebody is there.
            assert_eq!(opened.load(Ordering::SeqCst), 61);
        }
    }
}

/// With nobody there any more, a short load ends, and says so.
#[test]
fn short_connections_that_are_refused_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        // Two are served; then the port is closed.
        for stream in listener.incoming().take(2) {
            answer_gets(stream.unwrap(), |_| {});
        }
    });
    let mut plan = same(target, 1000);
    plan.short = true;
    let outcome = client::run(&plan).unwrap();
    assert!(outcome.requests < 1000 && outcome.errors.total() > 0, "{outcome}");
}

/// SET, GET and AUTH; `answers` may change what a GET is answered with.
fn redis(answers: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
    let kept = Arc::new(Mutex::new(HashMap::<Vec<u8>, Vec<u8>>::new()));
    server(move |_, stream| {
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone().unwrap()), stream);
        let mut line = Vec::new();
        let mut number = |reader: &mut BufReader<TcpStream>| {
            line.clear();
            reader.read_until(b'\n', &mut line).ok().filter(|read| *read > 0)?;
            std::str::from_utf8(&line[1..]).unwrap().trim().parse::<usize>().ok()
        };
        while let Some(count) = number(&mut reader) {
            let words: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let mut word = vec![0; number(&mut reader).unwrap() + 2];
                    reader.read_exact(&mut word).unwrap();
                    word.truncate(word.len() - 2);
                    word
                })
                .collect();
            let reply = match &words[..] {
                [set, key, value] if set == b"SET" => {
                    kept.lock().unwrap().insert(key.clone(), value.clone());
                    b"+OK\r\n".to_vec()
                }
                [get, key] if get == b"GET" => match kept.lock().unwrap().get(key) {
                    Some(value) => {
                        let value = answers(value);
                        [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat()
                    }
                    None => b"$-1\r\n".to_vec(),
                },
                [auth, word] if auth == b"AUTH" && word == b"pw" => b"+OK\r\n".to_vec(),
                _ => b"-ERR unknown\r\n".to_vec(),
            };
            if writer.write_all(&reply).is_err() {
                return;
            }
        }
    })
}

fn resp(auth: &str) -> Dialect {
    Dialect::Resp { auth: (!auth.is_empty()).then(|| [auth.to_owned()].into()) }
}

#[test]
fn keys_are_filled_and_read_over_resp() {
    let mut plan = keyed(redis(<[u8]>::to_vec), resp("pw"), 0.5, 500);
    let outcome = client::run(&plan).unwrap();
    assert!(outcome.errors.missing > 0, "read before anything was written: {outcome}");
    let watch = Watch::default();
    client::fill(&mut plan, true, &watch).unwrap();
    assert_eq!(watch.requests(), 50);
    plan.cores = vec![0, 0];
    let outcome = client::run(&plan).unwrap();
    assert_eq!((outcome.requests, outcome.errors.total()), (500, 0), "{outcome}");
    assert!((150..350).contains(&outcome.reads), "{outcome}");
    assert_eq!(outcome.payload_bytes, 500 * 100);
}

/// A store that gives back something else is fast, and worth nothing.
#[test]
fn a_value_of_another_key_is_an_error() {
    let target = redis(|_| Vec::from([b'0'; 100]));
    let mut plan = keyed(target, resp(""), 1.0, 100);
    client::fill(&mut plan, true, &Watch::default()).unwrap();
    let outcome = client::run(&plan).unwrap();
    assert_eq!((outcome.requests, outcome.errors.bodies), (0, 100), "{outcome}");
}

#[test]
fn what_a_server_refuses_is_told_in_its_words() {
    let outcome = client::run(&keyed(redis(<[u8]>::to_vec), resp("wrong"), 0.0, 9)).unwrap();
    // One for each connection; the requests behind it are good.
    assert_eq!((outcome.requests, outcome.errors.refusals), (9, 3), "{outcome}");
    assert!(outcome.to_string().contains("the first: ERR unknown"), "{outcome}");
}

/// Says its lines, one when something comes, and then listens to the end.
fn scripted(lines: &'static [&'static [u8]]) -> SocketAddr {
    server(move |_, mut stream| {
        for line in lines {
            if stream.read_exact(&mut [0]).is_err() || stream.write_all(line).is_err() {
                return;
            }
        }
        let _rest = stream.read_to_end(&mut Vec::new());
    })
}

/// What each dialect says and hears, over a socket; in any pieces, its own file tests.
#[test]
fn every_dialect_reaches_its_server() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    const HELLO: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I1\0\0\0\x041\0\0\0\x04Z\0\0\0\x05I";
    const UPSERTED: &[u8] = b"2\0\0\0\x04C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I";
    let me = || "me".into();
    let postgres = Dialect::Postgres { user: me(), database: me(), creates: false };
    let targets = [
        (Dialect::Memcache, scripted(&[b"STORED\r\n"])),
        (Dialect::Beanstalk, scripted(&[b"INSERTED 7\r\n"])),
        (Dialect::Etcd, scripted(&[CHUNKED])),
        (postgres, scripted(&[HELLO, UPSERTED])),
    ];
    for (dialect, target) in targets {
        let name = format!("{dialect:?}");
        let mut plan = keyed(target, dialect, 0.0, 1);
        (plan.connections, plan.pipeline) = (1, 1);
        let Work::Keyed(keyed) = &mut plan.work else { panic!("keyed work") };
        keyed.values = Values::new(2);
        let outcome = client::run(&plan).unwrap();
        assert_eq!((outcome.requests, outcome.errors.total()), (1, 0), "{name}: {outcome}");
    }
}

fn bench(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_impasto-bench");
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

fn load(target: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = bench(&[&["load", "--target", target], args].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The workload of the seeds is known to the byte: 1,156 for a request with a body of 1,024.
#[test]
fn requests_have_the_length_that_was_asked_for() {
    let target = server(|_, mut stream| {
        let mut request = vec![0; 1156];
        while stream.read_exact(&mut request).is_ok() {
            assert!(request.starts_with(b"POST /v1/logs/load HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let target = format!("http://{target}");
    let (code, text) = load(&target, &["--request-bytes", "1156", "--requests", "50", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["sent_bytes"], 50 * 1156, "{text}");
    assert_eq!(found["received_bytes"], 50 * 43, "{text}");
    let points = found["latency_us"]["percentiles"].as_array().unwrap();
    assert_eq!(points.last().unwrap()[0], 100.0, "{text}");
    let (code, text) = load(&target, &["--request-bytes", "1000", "--requests", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot be made 1000 bytes long"), "{text}");
}

#[test]
fn a_server_that_dies_in_the_middle_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut request = [0; 4096];
        for _ in 0..20 {
            let _read = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let args = ["--connections", "1", "--size", "1", "--requests", "50"];
    let (code, text) = load(&target, &args);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("requests   20 in"), "{text}");
    assert!(text.contains("not connected again") || text.contains("connection lost"), "{text}");
}

#[test]
fn a_server_that_speaks_something_else_is_named_as_such() {
    let target = scripted(&[b"220 mail.example ESMTP\r\n"]);
    let cases = [("http", "HTTP/1"), ("redis", "RESP"), ("memcache", "memcached")];
    for (scheme, name) in [&cases[..], &[("postgres", "Postgres"), ("etcd", "HTTP/1")]].concat() {
        let text = load(&format!("{scheme}://{target}"), &["--requests", "1"]);
        assert_eq!(text.0, Some(1), "{scheme}: {}", text.1);
        assert!(text.1.contains("malformed reply") && text.1.contains(name), "{}", text.1);
    }
    let (code, text) = load(&format!("mysql://{target}"), &["--requests", "1"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("known are http://, redis://"), "{text}");
    let (code, text) = load(&format!("redis://{target}"), &["--get"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("for http:// alone"), "{text}");
}

/// Without the others, nothing is compared, and it says how to get them.
#[test]
fn a_check_without_other_tools_says_what_installs_them() {
    let output = Command::new(env!("CARGO_BIN_EXE_impasto-bench"))
        .arg("check")
        .env("PATH", "")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("skipped: there is no").count(), 3, "{text}");
    assert!(text.contains("apt-get install wrk"), "{text}");
}

/// The real one, where it is installed.
#[test]
fn redis_itself_gives_back_what_was_set() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let started = Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut redis) = started else {
        return println!("skipped: there is no redis-server");
    };
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() && Instant::now() < until {
        thread::yield_now();
    }
    let mut plan = keyed(address, resp(""), 0.7, 2000);
    plan.pids = vec![redis.id()];
    let filled = client::fill(&mut plan, true, &Watch::default());
    let outcome = filled.and_then(|()| client::run(&plan));
    redis.kill().unwrap();
    redis.wait().unwrap();
    let outcome = outcome.unwrap();
    assert_eq!((outcome.requests, outcome.errors.total()), (2000, 0), "{outcome}");
    assert!(outcome.server.unwrap().run > Duration::ZERO);
}
