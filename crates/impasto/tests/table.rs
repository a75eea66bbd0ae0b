//! Every command against every kind of directory: what is said, and with which exit code.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Read,
    os::unix::{
        fs::{FileExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use common::{
    Server, place,
    region::{filled, flip, run},
};
use rustix::process::geteuid;

const COMMANDS: [&str; 5] = ["serve", "create", "inspect", "verify", "repair"];

/// Runs a command on `dir`, and returns its code and its first line on stderr, else on stdout, with
/// `DIR` for the directory.
fn said(command: &str, dir: &str) -> (i32, String) {
    let args = match command {
        "serve" => vec![command, "--http", "127.0.0.1:0", "--data", dir],
        "create" => vec![command, "--size", "16MiB", "--data", dir],
        _ => vec![command, dir],
    };
    let (code, out, err) = run(&args);
    let text = if err.is_empty() { out } else { err };
    (code, text.lines().next().unwrap_or_default().replace(dir, "DIR"))
}

/// Asserts what each of [`COMMANDS`] says of a directory.
fn assert_said(what: &str, dir: &Path, expected: [(i32, &str); 5]) {
    let dir = dir.to_str().unwrap();
    for (command, (code, line)) in COMMANDS.into_iter().zip(expected) {
        assert_eq!(said(command, dir), (code, line.to_owned()), "{command}, {what}");
    }
}

const EXISTS: &str = "impasto: DIR/region exists already; open it, or choose another --data";
const MISSING: &str =
    "impasto: there is no region in DIR; check the directory's name, or create a region there";

#[test]
fn a_good_region() {
    let dir = place();
    filled(dir.path());
    let data = dir.path().to_str().unwrap();
    assert_eq!(said("create", data), (1, EXISTS.to_owned()));
    assert_eq!(said("inspect", data), (0, "region   DIR/region".to_owned()));
    let line = "DIR/region: 16MiB, epoch 1, last served on disk; it stopped cleanly";
    assert_eq!(said("verify", data), (0, line.to_owned()));
    assert_eq!(said("repair", data), (0, "DIR/region: 16MiB on disk".to_owned()));
    drop(Server::start(dir.path(), &[]));
}

#[test]
fn a_directory_that_is_missing_or_empty() {
    let dir = place();
    for data in [dir.path().join("missing"), dir.path().to_owned()] {
        let data = data.to_str().unwrap();
        for command in ["inspect", "verify", "repair"] {
            assert_eq!(said(command, data), (1, MISSING.to_owned()), "{command}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_foreign_file() {
    let dir = place();
    fs::write(dir.path().join("region"), "a letter to a friend").unwrap();
    let foreign =
        "impasto: DIR/region is not a region: impasto did not write it; choose another --data";
    let repair = "impasto: cannot repair DIR/region: no region has 20 bytes";
    let expected = [(1, foreign), (1, EXISTS), (1, foreign), (1, foreign), (1, repair)];
    assert_said("foreign", dir.path(), expected);
}

#[test]
fn both_superblocks_damaged() {
    let dir = place();
    filled(dir.path());
    let region = dir.path().join("region");
    flip(&region, 100);
    flip(&region, (16 << 20) - 4000);
    let damaged = "both superblocks of DIR/region are damaged (first: the superblock does not \
                   verify; second: the superblock does not verify); `impasto repair` tells \
                   whether they can be made anew, else restore the region from a backup";
    let (serve, verify) = (format!("impasto: {damaged}"), format!("damaged: {damaged}"));
    let repair = "impasto: cannot repair DIR/region yet: both superblocks are lost; say what it \
                  was served on, --medium disk, shm or pmem";
    let inspect = "region   DIR/region";
    let expected = [(3, &*serve), (1, EXISTS), (3, inspect), (3, &*verify), (1, repair)];
    assert_said("damaged", dir.path(), expected);
}

#[test]
fn a_file_that_was_cut() {
    let dir = place();
    filled(dir.path());
    let region = dir.path().join("region");
    OpenOptions::new().write(true).open(region).unwrap().set_len(15 << 20).unwrap();
    let cut = "DIR/region has 15728640 bytes, but its superblock says 16777216; the file was cut \
               or extended, or a copy of it is not complete";
    let (serve, verify) = (format!("impasto: {cut}"), format!("damaged: {cut}"));
    let repair =
        format!("impasto: cannot repair DIR/region: {cut}: this is no damage that a repair knows");
    let inspect = "region   DIR/region";
    let expected = [(3, &*serve), (1, EXISTS), (3, inspect), (3, &*verify), (1, &*repair)];
    assert_said("cut", dir.path(), expected);
}

#[test]
fn a_damaged_log() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    server.append("short and sweet");
    drop(server);
    let server = Server::start(dir.path(), &[]);
    server.append("another one");
    assert!(server.stop(rustix::process::Signal::TERM).success());
    let region = dir.path().join("region");
    let file = OpenOptions::new().write(true).open(region).unwrap();
    // The first commit of the log: it stands behind the first segment's header.
    file.write_all_at(b"damaged", 8192 + 70).unwrap();
    let corrupt = "records 1 to 3 were acknowledged as durable, but the commit at byte 0x2000 of \
                   the region (log offset 0x101000) is damaged";
    let serve = format!(
        "impasto: cannot serve DIR: {corrupt}; `impasto repair DIR` tells what can be done"
    );
    let verify = "DIR/region: 16MiB, epoch 2, last served on disk; it stopped cleanly";
    let (inspect, repair) = ("region   DIR/region", "DIR/region: 16MiB on disk");
    let expected = [(3, &*serve), (1, EXISTS), (3, inspect), (3, verify), (3, repair)];
    assert_said("damaged log", dir.path(), expected);
    let (_, text, _) = run(&["verify", dir.path().to_str().unwrap()]);
    assert!(text.contains(&format!("\ndamaged: {corrupt}\n")), "{text}");
}

#[test]
fn a_region_in_use() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let by = format!("DIR is in use by process {}", server.process.id());
    let serve = format!("impasto: {by}; stop it, or choose another --data");
    let look = format!("impasto: {by}: stop it first; of a running server GET /v1/region tells");
    let create = look.as_str();
    let expected = [(1, &*serve), (1, create), (1, &*look), (1, &*look), (1, &*look)];
    assert_said("in use", dir.path(), expected);
}

#[test]
fn something_else_in_the_place_of_the_file() {
    let dir = place();
    fs::create_dir(dir.path().join("region")).unwrap();
    let other = "impasto: DIR/region is not a regular file; a region has to be one";
    let expected = [(1, other), (1, other), (1, other), (1, other), (1, other)];
    assert_said("a directory", dir.path(), expected);
}

/// The right of others is not root's to find out, so root becomes somebody else.
#[test]
fn a_directory_that_this_user_may_not_read() {
    // Where others can read programs: not below a home directory.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), Permissions::from_mode(0o755)).unwrap();
    let program = open.path().join("impasto");
    fs::copy(env!("CARGO_BIN_EXE_impasto"), &program).unwrap();
    let closed = open.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("region"), "secret").unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    for command in COMMANDS {
        let mut line = Command::new(&program);
        line.arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if ["serve", "create"].contains(&command) {
            line.arg("--data");
        }
        line.arg(&closed);
        if geteuid().is_root() {
            line.uid(65_534).gid(65_534);
        }
        let mut process = line.spawn().unwrap();
        let code = process.wait().unwrap().code();
        let mut text = String::new();
        process.stderr.unwrap().read_to_string(&mut text).unwrap();
        let expected = format!(
            "impasto: no permission to look for {}/region; run as its owner, or give this user the \
             right to read and write it\n",
            closed.display()
        );
        assert_eq!((code, text), (Some(1), expected), "{command}");
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
}
