//! Connections that are many and idle, or more than there are descriptors for.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use common::{
    Server,
    client::{Client, value},
    place, serve, skipped,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};

/// Each of these tests measures what the server spends, or takes many descriptors.
static ALONE: Mutex<()> = Mutex::new(());

/// What an open connection may cost the server: its two entries in tables, below 1 KiB each, which
/// double when they grow; its buffers are pooled, and an idle one has none.
const CONNECTION_BYTES_MAX: u64 = 4 << 10;
/// What 200 active connections may, whatever they do: pooled vectors.
const POOLS_BYTES_MAX: u64 = 32 << 20;

/// Idle connections must neither be in the way of the active ones nor fill the memory.
#[test]
fn ten_thousand_connections_are_open_and_two_hundred_active() {
    const CONNECTIONS: usize = 10_000;
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let limit = getrlimit(Resource::Nofile);
    let needed = CONNECTIONS as u64 + 100;
    if limit.maximum.is_some_and(|hard| hard < needed) {
        return skipped(&format!("{needed} open files needed, the hard limit is {limit:?}"));
    }
    let raised = limit.current.map(|soft| soft.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: raised, ..limit }).unwrap();

    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB", "--workers", "2"]);
    assert!(!server.says("caution"), "{:?}", server.banner);
    // All of the region is in memory: that it fills is no news.
    let mut client = server.client();
    while client.ask("POST /v1/logs/fill", value(0, 60_000)).unwrap().status == 201 {}
    client.trim_all("fill");
    let before = server.memory();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.client()).collect();
    for round in 0..10 {
        // Others in each round: whoever was idle for long is served like anybody.
        let active = || (0..CONNECTIONS).skip(round * 5).step_by(50);
        let sent = |number: usize| value(number as u64, 10 + number % 1000);
        let log = format!("round-{round}");
        for number in active() {
            let line = format!("POST /v1/logs/{log}");
            clients[number].send_request(&line, sent(number)).unwrap();
        }
        for number in active() {
            let seq = clients[number].reply().unwrap().seq();
            clients[number].ask_for(&log, seq);
        }
        active().for_each(|number| clients[number].is_given(sent(number)));
    }
    let grown = server.memory().saturating_sub(before);
    let most = CONNECTIONS as u64 * CONNECTION_BYTES_MAX + POOLS_BYTES_MAX;
    println!("{CONNECTIONS} connections: {} KiB more than without", grown >> 10);
    assert!(grown < most, "{grown} bytes for {CONNECTIONS} connections");
    assert!(clients.iter().all(Client::is_quiet));
    drop(clients);
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
}

/// Returns the CPU time that the server spends until it closes `silent`, which has not said a word:
/// about a second. Whatever spins spends all of it.
fn cpu_time_until_closed(server: &Server, mut silent: Client) -> Duration {
    let before = server.cpu_time();
    assert_eq!(silent.rest(), "");
    server.cpu_time() - before
}

const LITTLE: Duration = Duration::from_millis(250);

/// Beyond the limit of open files connections wait, and nobody looks for them all the time.
#[test]
fn connections_beyond_the_limit_of_open_files_wait_for_others_to_close() {
    const WAITING: usize = 20;
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for workers in ["1", "2"] {
        let dir = place();
        let options = ["--size", "16MiB", "--workers", workers, "--header-timeout", "1s"];
        let inner = serve(dir.path(), &options);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""]).arg(inner.get_program());
        command.args(inner.get_args()).stdout(Stdio::piped());
        let server = Server::spawn(command);
        let banner = server.banner.iter().find_map(|line| line.split("for up to ").nth(1));
        let room: usize = banner.unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!((50..75).contains(&room) && server.says("caution"), "{room}");

        let mut open: Vec<_> = (0..room - 1).map(|_| server.client()).collect();
        for client in &mut open {
            client.append("a", b"open");
        }
        let silent = server.client();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| server.client()).collect();
        for (number, client) in waiting.iter().enumerate() {
            client.send_request("POST /v1/logs/waited", value(number as u64, 100)).unwrap();
        }
        let spent = cpu_time_until_closed(&server, silent);
        println!("{workers} workers: {spent:?} in a second with {WAITING} that wait");
        assert!(spent < LITTLE, "{spent:?} while connections wait");
        // Those that are in go on.
        for number in 0..100 {
            let client = &mut open[number % (room - 1)];
            let seq = client.append("a", value(number as u64, 1000));
            client.read_is("a", seq, value(number as u64, 1000));
        }
        // One of them had the place of the silent one.
        let quiet = waiting.iter().filter(|client| client.is_quiet()).count();
        assert_eq!(quiet, WAITING - 1, "they were to wait");
        open.truncate(room - WAITING);
        for (number, client) in waiting.iter_mut().enumerate() {
            let seq = client.reply().unwrap().seq();
            client.read_is("waited", seq, value(number as u64, 100));
        }
    }
}

/// When other parts of the process have taken the last descriptor, the system refuses to accept:
/// that must neither end the server nor keep it busy.
#[test]
fn an_accept_without_a_descriptor_is_tried_again() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for workers in ["1", "2"] {
        let dir = place();
        let options = ["--size", "16MiB", "--workers", workers, "--header-timeout", "1s"];
        let server = Server::start(dir.path(), &options);
        let silent = server.client();
        // It is in: the one that came after it is.
        let mut first = server.client();
        first.append("a", b"first");
        let pid = Some(Pid::from_child(&server.process));
        let open = server.descriptors() as u64;
        let low = Rlimit { current: Some(open), maximum: Some(1000) };
        prlimit(pid, Resource::Nofile, low).unwrap();
        let mut waiting: Vec<_> = (0..10).map(|_| server.client()).collect();
        for client in &waiting {
            client.send_request("POST /v1/logs/a", b"waited").unwrap();
        }
        let spent = cpu_time_until_closed(&server, silent);
        println!("{workers} workers: {spent:?} in a second without a descriptor");
        assert!(spent < LITTLE, "{spent:?} while there is no descriptor");
        first.append("a", b"first");
        let limit = Rlimit { current: Some(1000), maximum: Some(1000) };
        prlimit(pid, Resource::Nofile, limit).unwrap();
        for client in &mut waiting {
            client.reply().unwrap().seq();
        }
    }
}
