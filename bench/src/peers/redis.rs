//! Redis: every write into the append-only file, which is synced before replies are sent.

use std::net::SocketAddr;

use super::{Found, Keeps, Peer, Place, talk::Talk};
use crate::{cli::Failure, client::Dialect};

pub(super) const PEER: Peer = Peer {
    name: "redis",
    install: "apt-get install redis-server",
    find: || Found::in_path("redis-server", &["--version"]),
    keeps: &[Keeps::Durable, Keeps::Nothing],
    as_root: true,
    asked: false,
    crowded: false,
    ports: 1,
    command,
    answers,
    verify,
    dialect: || Dialect::Resp { auth: None },
};

/// Durable or without persistence.
pub(super) fn command(place: &Place) -> Vec<String> {
    let (port, dir) = (place.ports[0].to_string(), place.dir());
    let mut args = vec!["--port", &port, "--bind", "127.0.0.1", "--dir", &dir, "--save", ""];
    args.extend(match place.keeps {
        Keeps::Durable => ["--appendonly", "yes", "--appendfsync", "always"],
        Keeps::Nothing => ["--appendonly", "no", "--appendfsync", "no"],
    });
    // The file is written anew by a child, whenever it has doubled: not in the middle of a window.
    args.extend(["--auto-aof-rewrite-percentage", "0"]);
    place.with_program(&args)
}

pub(super) fn answers(address: SocketAddr) -> Result<(), Failure> {
    match Talk::open(address)?.ask("PING")?.as_str() {
        "+PONG" => Ok(()),
        other => Err(format!("to PING it says {other}").into()),
    }
}

pub(super) fn verify(place: &Place, address: SocketAddr, _pid: u32) -> Result<String, Failure> {
    let mut talk = Talk::open(address)?;
    super::expect("dir", &place.dir(), &setting(&mut talk, "dir")?)?;
    let wanted = match place.keeps {
        Keeps::Durable => [("appendonly", "yes"), ("appendfsync", "always")],
        Keeps::Nothing => [("appendonly", "no"), ("save", "")],
    };
    super::expect_all(&wanted, |name| setting(&mut talk, name))
}

fn setting(talk: &mut Talk, name: &str) -> Result<String, Failure> {
    // An array of two strings: each is a line with its length and a line.
    let head = talk.ask(&format!("CONFIG GET {name}"))?;
    if head != "*2" {
        return Err(format!("to CONFIG GET {name} it says {head}").into());
    }
    let lines = (0..4).map(|_| talk.line()).collect::<Result<Vec<_>, _>>()?;
    Ok(lines[3].clone())
}
