//! beanstalkd: a queue whose every job goes to a log, synced before the reply.

use std::{fs, net::SocketAddr};

use super::{Found, Keeps, Peer, Place, talk::Talk};
use crate::{cli::Failure, client::Dialect};

pub(super) const PEER: Peer = Peer {
    name: "beanstalkd",
    install: "apt-get install beanstalkd",
    find: || Found::in_path("beanstalkd", &["-v"]),
    // Without its log, jobs would fill the memory in seconds.
    keeps: &[Keeps::Durable],
    as_root: true,
    asked: false,
    crowded: false,
    ports: 1,
    command,
    answers,
    verify,
    dialect: || Dialect::Beanstalk,
};

fn command(place: &Place) -> Vec<String> {
    let (port, dir, size) = (place.ports[0].to_string(), place.dir(), place.size.to_string());
    // Its log, and the most milliseconds between two syncs.
    let log = ["-b", &dir, "-f", "0"];
    place.with_program(&[&["-l", "127.0.0.1", "-p", &port, "-z", &size][..], &log].concat())
}

fn answers(address: SocketAddr) -> Result<(), Failure> {
    match Talk::open(address)?.ask("use impasto")?.as_str() {
        "USING impasto" => Ok(()),
        other => Err(format!("to `use` it says {other}").into()),
    }
}

/// It does not tell its settings: they are looked for in its command line, and in what it does.
fn verify(place: &Place, address: SocketAddr, pid: u32) -> Result<String, Failure> {
    let args = super::command_line(pid)?;
    let has = |pair: [&str; 2]| args.windows(2).any(|two| two == pair);
    let mut talk = Talk::open(address)?;
    let before = records(&mut talk)?;
    let put = talk.ask("put 0 0 60 1\r\nx")?;
    let id = put.strip_prefix("INSERTED ").ok_or_else(|| format!("to `put` it says {put}"))?;
    super::expect("delete", "DELETED", &talk.ask(&format!("delete {id}"))?)?;
    let written = records(&mut talk)? - before;
    if !has(["-b", &place.dir()]) || !has(["-f", "0"]) {
        return Err("-b and -f 0 are not in its command line".into());
    }
    if written == 0 || fs::metadata(place.path().join("binlog.1")).is_err() {
        return Err("a job that was put is not in its log".into());
    }
    Ok("-b -f 0: a sync for each record of the log".into())
}

/// Returns the number of records in its log.
fn records(talk: &mut Talk) -> Result<u64, Failure> {
    let head = talk.ask("stats")?;
    let length = head.strip_prefix("OK ").and_then(|text| text.parse::<usize>().ok());
    let length = length.ok_or_else(|| format!("to `stats` it says {head}"))?;
    let text = String::from_utf8_lossy(&talk.bytes(length + 2)?).into_owned();
    let field = text.lines().find_map(|line| line.strip_prefix("binlog-records-written: "));
    field.and_then(|count| count.trim().parse().ok()).ok_or_else(|| "no such number".into())
}
