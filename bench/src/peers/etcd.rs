//! etcd: a cluster of one, whose log is synced for each batch of proposals.

use std::{fs, net::SocketAddr};

use super::{Found, Keeps, Peer, Place, talk};
use crate::{cli::Failure, client::Dialect};

pub(super) const PEER: Peer = Peer {
    name: "etcd",
    install: "apt-get install etcd-server",
    find: || Found::in_path("etcd", &["--version"]),
    keeps: &[Keeps::Durable],
    as_root: true,
    asked: false,
    crowded: true,
    ports: 2,
    command,
    answers,
    verify,
    dialect: || Dialect::Etcd,
};

fn command(place: &Place) -> Vec<String> {
    let [client, peer] = [0, 1].map(|index| format!("http://127.0.0.1:{}", place.ports[index]));
    let (dir, cluster) = (place.dir(), format!("impasto-bench={peer}"));
    place.with_program(&[
        "--name=impasto-bench",
        &format!("--data-dir={dir}"),
        &format!("--listen-client-urls={client}"),
        &format!("--advertise-client-urls={client}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster={cluster}"),
        // Each write is one more revision; the default of 2 GiB is for the careless.
        "--quota-backend-bytes=8589934592",
    ])
}

fn answers(address: SocketAddr) -> Result<(), Failure> {
    // `true` in a string: it has elected itself.
    let answer = talk::http(address, "GET", "/health", "")?;
    let healthy = answer.contains(r#""health":"true""#);
    if healthy { Ok(()) } else { Err("it is not healthy".into()) }
}

/// A write must raise the number of syncs of its log, which it counts itself.
fn verify(place: &Place, address: SocketAddr, pid: u32) -> Result<String, Failure> {
    let args = super::command_line(pid)?;
    let environment = fs::read_to_string(format!("/proc/{pid}/environ"))?;
    let unsafe_arg = args.iter().find(|arg| arg.contains("unsafe-no-fsync"));
    if unsafe_arg.is_some() || environment.contains("ETCD_UNSAFE_NO_FSYNC") {
        return Err("it was told not to sync".into());
    }
    let dir = format!("--data-dir={}", place.dir());
    super::expect("--data-dir", "true", &args.contains(&dir).to_string())?;
    let before = syncs(address)?;
    // Base64 of `a`.
    talk::http(address, "POST", "/v3/kv/put", r#"{"key":"YQ==","value":"YQ=="}"#)?;
    match syncs(address)? > before {
        true => Ok("no --unsafe-no-fsync: a sync for each batch".into()),
        false => Err("a write did not make it sync its log".into()),
    }
}

fn syncs(address: SocketAddr) -> Result<f64, Failure> {
    const NAME: &str = "etcd_disk_wal_fsync_duration_seconds_count ";
    let text = talk::http(address, "GET", "/metrics", "")?;
    let count = text.lines().find_map(|line| line.strip_prefix(NAME));
    count.and_then(|count| count.trim().parse().ok()).ok_or_else(|| format!("no {NAME}").into())
}
