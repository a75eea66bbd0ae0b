//! A file system that fills up: a region that does not fit is refused, and one that fits goes on
//! when nothing else does.
//!
//! Runs where `IMPASTO_SMALL_FS` names a directory of a small file system that may be filled, as
//! `cargo xtask disk` does; elsewhere it does nothing.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use common::{Server, client::value, impasto, serve, verify};
use rustix::{fs::statvfs, process::Signal};
use tempfile::TempDir;

/// Each test fills the file system: one at a time.
static FILLED: Mutex<()> = Mutex::new(());

fn small_place() -> Option<TempDir> {
    let dir = std::env::var_os("IMPASTO_SMALL_FS")?;
    Some(tempfile::tempdir_in(dir).unwrap())
}

fn available(dir: &Path) -> u64 {
    let stat = statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Takes what is left of the file system, to the last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for len in [1 << 20, 4096, 1] {
        let bytes = vec![0xff; len];
        let full = loop {
            if let Err(error) = file.write_all(&bytes) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }
    // Blocks are taken when they are written back, not before.
    file.sync_all().unwrap();
}

/// Without the look at the space that is left, the file system would be filled first, and half a
/// region would stay behind.
#[test]
fn a_region_that_does_not_fit_is_refused_and_leaves_nothing() {
    let _one = FILLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(dir) = small_place() else { return };
    let free = available(dir.path());
    let data = dir.path().join("not").join("made");
    let output = serve(&data, &["--size", "1GiB"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no space in ") && text.contains("1 GiB needed, "), "{text}");
    // Within the blocks of the directories and the file that the attempt had made.
    let told = bytes_before(&text, " available");
    assert!(told <= free && told + (64 << 10) >= free, "{free} bytes were free: {text}");
    assert_eq!(names(dir.path()), [""; 0]);
    assert_eq!(available(dir.path()), free);
}

/// Returns the number of bytes that stands before `what`.
fn bytes_before(text: &str, what: &str) -> u64 {
    let front = text.split(what).next().unwrap();
    let mut words = front.rsplit(' ');
    let unit = match words.next().unwrap() {
        "bytes" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        unit => panic!("{unit} in {text}"),
    };
    words.next().unwrap().parse::<u64>().unwrap() * unit
}

/// D9: a copy that does not fit leaves its source, and the region that it was to replace.
#[test]
fn a_copy_that_does_not_fit_is_refused_and_leaves_nothing() {
    let _one = FILLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(dir) = small_place() else { return };
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    server.append("hello");
    assert!(!server.stop(Signal::KILL).success());
    fill(&dir.path().join("filler"));
    for data in [dir.path(), &dir.path().join("made")] {
        let mut adopt = impasto(&["adopt", dir.path().to_str().unwrap(), "--data"]);
        let output = adopt.arg(data).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        // With not a block left, not even the directory can be made.
        assert!(text.contains("no space in ") || text.contains("No space left"), "{text}");
    }
    let mut left = names(dir.path());
    left.sort();
    assert_eq!(left, ["filler", "lock", "region"]);
    fs::remove_file(dir.path().join("filler")).unwrap();
    assert!(Server::start(dir.path(), &[]).read(1).ends_with("hello"));
}

/// D9: every block is allocated when a region is created. With a file that has holes, the first
/// append to a new block would find no space, long after the region was promised to be there.
#[test]
fn a_region_that_fits_goes_on_when_the_file_system_is_full() {
    let _one = FILLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(dir) = small_place() else { return };
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--size", "16MiB"]);
    fill(&dir.path().join("filler"));
    assert_eq!(available(dir.path()), 0);

    let long = "long ".repeat(50_000);
    server.append("short");
    server.append(&long);
    assert!(server.read(1).ends_with("\r\n\r\nshort"));
    assert!(server.read(2).ends_with(&long));
    // More than twice what the region holds: every segment of it is written, and comes back.
    for seq in 3..=160_u64 {
        server.append(&long);
        trim(&server, seq.saturating_sub(8));
    }
    assert!(server.read(160).ends_with(&long));
    assert!(server.read(1).starts_with("HTTP/1.1 410"));
    assert!(!server.stop(Signal::KILL).success());

    let output = verify(&data);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let server = Server::start(&data, &[]);
    assert!(server.read(160).ends_with(&long));
    server.append("after");
    assert!(server.read(161).ends_with("\r\n\r\nafter"));
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
    assert_eq!(available(dir.path()), 0);
}

/// The file system fills while requests are under way, from several connections, on two workers:
/// whatever of it would need a block of its own would fail now, a commit as well as a body.
#[test]
fn appends_go_on_while_the_file_system_fills() {
    let _one = FILLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(dir) = small_place() else { return };
    let server = Server::start(&dir.path().join("data"), &["--size", "16MiB", "--workers", "2"]);
    let is_full = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (server, is_full) = (&server, &is_full);
            scope.spawn(move || {
                let (mut client, log) = (server.client(), format!("log-{thread}"));
                let (mut number, mut since) = (0, 0);
                // Acquire: pairs with the Release below. Long enough to write to all segments.
                while since < 100 {
                    since += u64::from(is_full.load(Ordering::Acquire));
                    let sent = value(number, if number % 4 == 0 { 200_000 } else { 700 });
                    let seq = client.append(&log, sent);
                    client.read_is(&log, seq, sent);
                    client.trim(&log, seq.saturating_sub(2));
                    number += 1;
                }
            });
        }
        fill(&dir.path().join("filler"));
        is_full.store(true, Ordering::Release);
    });
    assert_eq!(available(dir.path()), 0);
    assert_eq!(server.stop(Signal::TERM).code(), Some(0));
    assert!(verify(&dir.path().join("data")).status.success());
}

fn trim(server: &Server, before: u64) {
    let head = format!(
        "DELETE /v1/logs/a?before={before} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    );
    let reply = server.ask(&head);
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}
