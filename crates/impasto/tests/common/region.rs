//! Regions at rest, and commands that look at them.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Output,
};

use rustix::process::Signal;
use serde_json::Value;

use super::{Server, impasto};

/// Runs a command to its end: its code, stdout, stderr.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = impasto(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

pub(crate) fn json(args: &[&str], code: i32) -> Value {
    let (found, stdout, stderr) = run(args);
    assert_eq!(found, code, "{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Long enough to stand in body segments.
pub(crate) fn long() -> String {
    (0..40_000).map(|n| format!("{n:07}\n")).collect()
}

/// A region with three short records, of which one is trimmed, and a long one.
pub(crate) fn filled(dir: &Path) {
    let server = Server::start(dir, &["--size", "16MiB"]);
    let mut client = server.client();
    for value in ["one", "two", "three"] {
        client.append("words", value.as_bytes());
    }
    client.trim("words", 2);
    client.append("long", long().as_bytes());
    drop(client);
    assert!(server.stop(Signal::TERM).success());
}

pub(crate) fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

pub(crate) fn place_of(path: &Path, bytes: &[u8]) -> u64 {
    let file = fs::read(path).unwrap();
    file.windows(bytes.len()).position(|window| window == bytes).unwrap() as u64
}
