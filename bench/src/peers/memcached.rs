//! memcached: a cache, which keeps nothing; no more than a ceiling.

use std::net::SocketAddr;

use rustix::process::getuid;

use super::{Found, Keeps, Peer, Place, talk::Talk};
use crate::{cli::Failure, client::Dialect};

pub(super) const PEER: Peer = Peer {
    name: "memcached",
    install: "apt-get install memcached",
    find: || Found::in_path("memcached", &["-V"]),
    keeps: &[Keeps::Nothing],
    as_root: true,
    asked: false,
    crowded: false,
    ports: 1,
    command,
    answers,
    verify,
    dialect: || Dialect::Memcache,
};

fn command(place: &Place) -> Vec<String> {
    let (port, connections) = (place.ports[0].to_string(), (place.connections + 64).to_string());
    // One thread on the one core; no UDP.
    let mut args = vec!["-l", "127.0.0.1", "-p", &port, "-U", "0", "-t", "1", "-c", &connections];
    args.extend(["-m", "256"]);
    if getuid().is_root() {
        args.extend(["-u", "root"]);
    }
    place.with_program(&args)
}

fn answers(address: SocketAddr) -> Result<(), Failure> {
    let said = Talk::open(address)?.ask("version")?;
    if said.starts_with("VERSION ") { Ok(()) } else { Err(format!("it says {said}").into()) }
}

fn verify(_place: &Place, _address: SocketAddr, pid: u32) -> Result<String, Failure> {
    let args = super::command_line(pid)?;
    super::expect("threads", "true", &args.windows(2).any(|two| two == ["-t", "1"]).to_string())?;
    Ok("a cache: not durable, a ceiling".into())
}
