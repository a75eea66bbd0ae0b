//! The command line as its user meets it: real processes, files and connections.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path};

use common::{Server, impasto, place, serve, verify};
use rustix::process::Signal;

fn refusal(dir: &Path, more: &[&str], code: i32) -> String {
    let output = serve(dir, more).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// The whole promise: acknowledged, stopped, started, still there.
#[test]
fn records_outlive_a_clean_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = place();
        let server = Server::start(dir.path(), &["--size", "16MiB"]);
        assert!(
            server.says("survives power loss") && server.says("(16MiB)"),
            "{:?}",
            server.banner
        );
        server.append("hello");
        // A connection that says nothing does not hold up the stop.
        let _idle = server.connect();
        assert_eq!(server.stop(signal).code(), Some(0));

        let output = verify(dir.path());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("it stopped cleanly"), "{text}");
        let server = Server::start(dir.path(), &[]);
        assert!(server.read(1).ends_with("\r\n\r\nhello"));
    }
}

/// D3: what was acknowledged does not depend on how the process ends.
#[test]
fn acknowledged_records_outlive_sigkill() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let long = "long ".repeat(50_000);
    server.append("short");
    server.append(&long);
    assert!(!server.stop(Signal::KILL).success());

    let output = verify(dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("did not stop cleanly"), "{text}");
    let server = Server::start(dir.path(), &[]);
    assert!(server.read(1).ends_with("\r\n\r\nshort"));
    assert!(server.read(2).ends_with(&long));
}

#[test]
fn records_are_served_over_ipv6() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB", "--http", "[::1]:0"]);
    assert!(server.says("listening  http://[::1]:"), "{:?}", server.banner);
    server.append("hello");
    assert!(server.read(1).ends_with("\r\n\r\nhello"));
}

/// Served with another size than asked for, a full region would come as a surprise.
#[test]
fn another_size_is_refused_and_the_same_one_is_not() {
    let dir = place();
    drop(Server::start(dir.path(), &["--size", "16MiB"]));
    let text = refusal(dir.path(), &["--size", "17MiB"], 1);
    assert!(text.contains("has 16MiB, not 17MiB"), "{text}");
    drop(Server::start(dir.path(), &["--size", "16777216"]));
}

#[test]
fn a_second_server_is_refused() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let text = refusal(dir.path(), &[], 1);
    assert!(text.contains(&format!("in use by process {}", server.process.id())), "{text}");
    assert_eq!(verify(dir.path()).status.code(), Some(1));
}

/// An address in use is no reason to fill the disk first.
#[test]
fn an_address_in_use_is_refused_before_a_region_is_created() {
    let dir = place();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = dir.path().join("data");
    let output = impasto(&["serve", "--http", &address, "--data", data.to_str().unwrap()]);
    let output = { output }.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("choose another --http"), "{text}");
    assert!(!data.exists());
}

/// Memory must be asked for by name, and a region in memory is never taken for a disk.
#[test]
fn shm_is_served_only_when_asked_for() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm");
        return;
    };
    let server = Server::start(dir.path(), &["--size", "16MiB", "--medium", "shm"]);
    assert!(server.says("NOT a power loss"), "{:?}", server.banner);
    server.append("hello");
    assert!(!server.stop(Signal::KILL).success());
    for more in [&[][..], &["--medium", "disk"], &["--medium", "auto"]] {
        let text = refusal(dir.path(), more, 1);
        assert!(text.contains("say --medium shm"), "{text}");
    }
    let server = Server::start(dir.path(), &["--medium", "shm"]);
    assert!(server.read(1).ends_with("\r\n\r\nhello"));

    let disk = place();
    let text = refusal(&disk.path().join("new"), &["--medium", "shm"], 1);
    assert!(text.contains("/dev/shm/impasto"), "{text}");
    let text = refusal(&dir.path().join("new"), &["--size", "16MiB"], 1);
    assert!(text.contains("tmpfs"), "{text}");
}

#[test]
fn a_mistyped_command_line_is_a_usage_error() {
    let dir = place();
    for more in [&["--size", "1GB"][..], &["--size", "8MiB"], &["--medium", "tape"], &["--port"]] {
        refusal(dir.path(), more, 2);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Bytes that rot have to be found before someone asks for them.
#[test]
fn verify_finds_a_flipped_bit_and_names_the_record() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let long: String = (0..20_000).map(|n| format!("{n:08}\n")).collect();
    server.append("short");
    server.append(&long);
    assert!(server.stop(Signal::TERM).success());
    assert_eq!(verify(dir.path()).status.code(), Some(0));

    let path = dir.path().join("region");
    let bytes = std::fs::read(&path).unwrap();
    let line = b"00011111\n";
    let at = bytes.windows(line.len()).position(|window| window == line).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"1", at as u64).unwrap();

    let output = verify(dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("record 2 of log a does not verify"), "{text}");
    assert!(text.contains("damaged: "), "{text}");
}

/// A commit that was acknowledged and is damaged is not the end of the log.
#[test]
fn verify_names_a_damaged_log() {
    let dir = place();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    server.append("short and sweet");
    assert!(server.stop(Signal::TERM).success());
    let path = dir.path().join("region");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"short").unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"S", at as u64).unwrap();

    let output = verify(dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("were acknowledged as durable"), "{text}");
    // A service manager must not start it again and again: damage does not go away by itself.
    let text = refusal(dir.path(), &[], 3);
    assert!(text.contains("cannot serve"), "{text}");
}

#[test]
fn verify_where_nothing_is_says_so() {
    let dir = place();
    let output = verify(dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no region"));
}
