//! Full regions: what is refused says what to do, all else goes on, and a trim makes room.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::thread;

use common::{
    Server,
    client::{Client, value},
    media, place, serve,
};
use rustix::process::Signal;

/// Appends until there is no room; returns what was taken, and what the refusal says.
fn fill(server: &Server, log: &str, len: usize) -> (Vec<u64>, String) {
    fill_by(&mut server.client(), log, len)
}

fn fill_by(client: &mut Client, log: &str, len: usize) -> (Vec<u64>, String) {
    let mut seqs = Vec::new();
    loop {
        let sent = value(seqs.len() as u64, len);
        let reply = client.ask(&format!("POST /v1/logs/{log}"), sent).unwrap();
        if reply.status == 507 {
            return (seqs, reply.text().to_owned());
        }
        seqs.push(reply.seq());
    }
}

fn is_there(client: &mut Client, log: &str, seqs: &[u64], len: usize) {
    for (number, seq) in seqs.iter().enumerate() {
        client.read_is(log, *seq, value(number as u64, len));
    }
}

/// A region that is full is the user's to empty: the server has to say how, and to let them.
#[test]
fn a_full_region_says_what_to_do_reads_go_on_and_a_trim_makes_room() {
    for (medium, dir) in media() {
        for len in [1_000, 50_000, 200_000] {
            let dir = tempfile::tempdir_in(dir.path()).unwrap();
            let more = ["--size", "16MiB", "--medium", medium, "--workers", "2"];
            let server = Server::start(dir.path(), &more);
            let (first, text) = fill(&server, "a", len);
            assert!(text.contains("the region is full: trim logs"), "{text}");
            assert!(text.contains("DELETE /v1/logs/{log}?before=SEQ"), "{text}");
            let mut client = server.client();
            is_there(&mut client, "a", &first, len);
            // Half of it goes, the rest stays.
            let half = first.len() / 2;
            client.trim("a", first[half]);
            let (second, _) = fill(&server, "a", len);
            println!("{medium}, {len} B: {} fit, {} after half a trim", first.len(), second.len());
            assert!(second.len() >= first.len() / 4, "{} of {}", second.len(), first.len());
            assert_eq!(second[0], first.last().unwrap() + 1, "a refused append takes no number");
            is_there(&mut client, "a", &second, len);
            for (number, seq) in first.iter().enumerate().skip(half) {
                client.read_is("a", *seq, value(number as u64, len));
            }
            let reply = client.ask(&format!("GET /v1/logs/a/{}", first[half] - 1), &[]).unwrap();
            assert_eq!(reply.status, 410);
            client.trim_all("a");
            let (third, _) = fill(&server, "a", len);
            assert!(third.len() + first.len() / 8 >= first.len(), "{} again", third.len());
            // What was refused does not come back at the next start.
            assert_eq!(server.stop(Signal::TERM).code(), Some(0));
            let server = Server::start(dir.path(), &["--medium", medium]);
            let mut client = server.client();
            is_there(&mut client, "a", &third, len);
            assert_eq!(
                client.ask("GET /v1/logs/a", &[]).unwrap().number("records"),
                third.len() as u64
            );
        }
    }
}

/// Each log that is not empty needs room for the trim that empties it; they may be many, and the
/// last of them may have the oldest record.
#[test]
fn a_full_region_of_a_thousand_logs_can_be_emptied() {
    const LOGS: usize = 1_000;
    for (medium, dir) in media() {
        let more = ["--size", "24MiB", "--medium", medium, "--workers", "2"];
        let server = Server::start(dir.path(), &more);
        let mut counts = Vec::new();
        for round in 0..2 {
            let mut kept = vec![Vec::new(); LOGS];
            let mut client = server.client();
            let count = (0..)
                .take_while(|&number: &usize| {
                    let log = number % LOGS;
                    let line = format!("POST /v1/logs/log-{log}");
                    let reply = client.ask(&line, value(number as u64, 3_000)).unwrap();
                    let is_taken = reply.status == 201;
                    if is_taken {
                        kept[log].push((reply.seq(), number as u64));
                    } else {
                        assert_eq!(reply.status, 507);
                    }
                    is_taken
                })
                .count();
            println!("{medium}, round {round}: {count} records in {LOGS} logs");
            counts.push(count);
            assert!(count > LOGS);
            // From the log with the youngest records to the one with the oldest.
            for (log, kept) in kept.iter().enumerate().rev() {
                let (seq, number) = *kept.last().unwrap();
                client.read_is(&format!("log-{log}"), seq, value(number, 3_000));
                client.trim_all(&format!("log-{log}"));
            }
            client.append("log-0", value(0, 3_000));
            client.trim_all("log-0");
        }
        // The first round made the logs, too.
        assert!(counts[1] + counts[0] / 8 >= counts[0], "{counts:?}");
    }
}

/// Those who append to a full region while others trim it get room in the end, all of them.
#[test]
fn appends_to_a_full_region_go_on_as_others_trim() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB", "--workers", "2"]);
    fill(&server, "fill", 60_000);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let server = &server;
            scope.spawn(move || {
                let (mut client, log) = (server.client(), format!("log-{thread}"));
                for number in 0..500_u64 {
                    let sent = value(number, 30_000);
                    loop {
                        let reply = client.ask(&format!("POST /v1/logs/{log}"), sent).unwrap();
                        match reply.status {
                            507 => ["fill", &log].iter().for_each(|log| client.trim_all(log)),
                            _ => break assert!(reply.seq() > 0),
                        }
                        // The others' records may be the oldest.
                        (0..4).for_each(|other| client.trim_all(&format!("log-{other}")));
                    }
                }
            });
        }
    });
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
}

/// D4: what is being sent keeps its space; what was sent long ago must not, because the worker that
/// has sent it has nothing else to do.
#[test]
fn d4_what_an_idle_worker_has_sent_keeps_no_space() {
    for (medium, dir) in media() {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let more = ["--size", "16MiB", "--medium", medium, "--workers", "2"];
        let server = Server::start(dir.path(), &more);
        // One of these two is with each worker, and nobody else comes.
        for swapped in [false, true] {
            let (mut one, mut other) = (server.client(), server.client());
            if swapped {
                std::mem::swap(&mut one, &mut other);
            }
            let first = fill_by(&mut one, "a", 15_000).0;
            is_there(&mut other, "a", &first, 15_000);
            one.trim_all("a");
            let second = fill_by(&mut one, "a", 15_000).0;
            let (first, second) = (first.len(), second.len());
            assert!(second + first / 32 >= first, "{medium}: {first} at first, {second} again");
            one.trim_all("a");
        }
    }
}

/// The landing buffers of many workers would leave no room in a small region in memory.
#[test]
fn workers_for_which_a_region_in_memory_has_no_room_are_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let data = dir.path().join("data");
    let more = ["--size", "16MiB", "--medium", "shm", "--workers", "12"];
    let output = serve(&data, &more).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("has room for what 3 workers receive"), "{text}");
    assert!(!data.exists(), "{text}");
}

/// What is not refused at the start ends in a process that is killed.
#[test]
fn memory_that_is_not_there_or_not_enough_is_refused_before_anything_is_made() {
    let dir = place();
    for (more, says) in [
        (["--size", "16MiB", "--memory", "100TiB"], "more than three quarters of this machine's"),
        (
            ["--size", "32MiB", "--memory", "33MiB"],
            "--memory is less than 34MiB: the region of 32MiB",
        ),
        (["--size", "15TiB", "--memory", "1GiB"], "does not fit this machine's memory"),
    ] {
        let data = dir.path().join("data");
        let output = serve(&data, &[&more[..], &["--workers", "1"]].concat()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(says), "{text}");
        assert!(!data.exists(), "{text}");
    }
    let data = dir.path().join("data");
    let workers = ["--workers", "1"];
    drop(Server::start(&data, &[&["--size", "32MiB", "--memory", "34MiB"][..], &workers].concat()));
    let output = serve(&data, &[&["--memory", "33MiB"][..], &workers].concat()).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("say --memory 34MiB"));
}
