//! `impasto adopt`, as its user meets it: regions of one medium go on on another.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::{Server, client::value as bytes, impasto, place, serve, skipped, verify};
use impasto::region::{
    Region,
    layout::{MediumKind, Superblock},
};
use rustix::process::Signal;
use tempfile::TempDir;

fn adopt_command(source: &Path, data: &Path, more: &[&str]) -> Command {
    let mut command = impasto(&["adopt", source.to_str().unwrap(), "--data"]);
    command.arg(data).args(more);
    command
}

fn adopt(source: &Path, data: &Path, more: &[&str]) -> Output {
    adopt_command(source, data, more).output().unwrap()
}

/// Returns what was said on stdout by a command that succeeded.
fn adopted(source: &Path, data: &Path, more: &[&str]) -> String {
    let output = adopt(source, data, more);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(output.stderr));
    text(output.stdout)
}

/// Returns what was said on stderr by a command that failed.
fn refused(source: &Path, data: &Path, more: &[&str]) -> String {
    let output = adopt(source, data, more);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stdout.is_empty());
    text
}

fn memory_place() -> Option<TempDir> {
    let dir = tempfile::tempdir_in("/dev/shm");
    dir.inspect_err(|error| skipped(&format!("no /dev/shm: {error}"))).ok()
}

const SHM: &[&str] = &["--size", "16MiB", "--medium", "shm"];
/// Short ones stand in the log, long ones where they landed or in blocks of their own.
const LENS: [usize; 5] = [0, 100, 3000, 70_000, 600_000];

fn value(seq: u64) -> String {
    let len = LENS[usize::try_from(seq).unwrap() % LENS.len()];
    format!("{seq:08}").chars().cycle().take(len).collect()
}

/// Appends values `from..=to` and trims the log at `from - 3`.
fn work(server: &Server, from: u64, to: u64) {
    (from..=to).for_each(|seq| server.append(&value(seq)));
    let before = from.saturating_sub(3).max(1);
    let request = format!(
        "DELETE /v1/logs/a?before={before} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    );
    let reply = server.ask(&request);
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

fn holds(server: &Server, from: u64, to: u64) {
    for seq in from..=to {
        let reply = server.read(seq);
        assert!(reply.starts_with("HTTP/1.1 200"), "{seq}: {}", &reply[..40]);
        assert!(reply.ends_with(&format!("\r\n\r\n{}", value(seq))), "{seq}");
    }
}

/// Everything in a directory by name, and when the region was last written.
fn content(dir: &Path) -> HashMap<PathBuf, (Vec<u8>, i64)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let regions = entries.filter(|path| path.file_name().unwrap() != "lock");
    let read = |path: PathBuf| {
        let written = fs::metadata(&path).unwrap().mtime_nsec();
        let bytes = fs::read(&path).unwrap();
        (path, (bytes, written))
    };
    regions.map(read).collect()
}

fn superblock(dir: &Path) -> Superblock {
    *Region::open(dir).unwrap().superblock()
}

/// What was acknowledged in memory would be gone with the power; copied by hand it would be refused
/// or, worse, believed without a look.
#[test]
fn what_was_served_in_memory_goes_on_on_a_disk() {
    for (signal, stopped) in [(Signal::TERM, true), (Signal::KILL, false)] {
        let (Some(shm), disk) = (memory_place(), place()) else { return };
        let data = disk.path().join("made/here");
        let server = Server::start(shm.path(), SHM);
        work(&server, 1, 20);
        assert_eq!(server.stop(signal).success(), stopped);
        let before = content(shm.path());
        let old = superblock(shm.path());
        assert_eq!(old.clean, stopped);

        let text = adopted(shm.path(), &data, &["--medium", "disk"]);
        assert!(text.contains("adopted 20 live records of"), "{text}");
        assert!(text.contains("one of the two only"), "{text}");
        assert!(text.contains(&format!("impasto serve --data {}", data.display())), "{text}");
        assert!(content(shm.path()) == before, "the source was changed");
        let new = superblock(&data);
        assert_eq!((new.uuid, new.medium, new.clean), (old.uuid, MediumKind::Disk, true));
        assert!(new.generation > old.generation && new.epoch > old.epoch);
        assert_eq!(Region::open(&data).unwrap().damaged_copy(), None);
        assert!(verify(&data).status.success());

        let server = Server::start(&data, &["--medium", "disk"]);
        assert!(server.says("medium     disk"), "{:?}", server.banner);
        holds(&server, 1, 20);
        work(&server, 21, 30);
        assert!(!server.stop(Signal::KILL).success());
        let server = Server::start(&data, &[]);
        holds(&server, 18, 30);
    }
}

/// A region that was killed on one medium is not stuck there.
#[test]
fn a_killed_region_on_a_disk_is_adopted_by_memory_and_back() {
    let Some(shm) = memory_place() else { return };
    let (disk, data) = (place(), shm.path().join("r"));
    let server = Server::start(disk.path(), &["--size", "16MiB"]);
    work(&server, 1, 12);
    assert!(!server.stop(Signal::KILL).success());

    adopted(disk.path(), &data, &["--medium", "shm"]);
    let server = Server::start(&data, &["--medium", "shm"]);
    holds(&server, 1, 12);
    work(&server, 13, 20);
    assert!(!server.stop(Signal::KILL).success());

    let back = disk.path().join("back");
    adopted(&data, &back, &[]);
    let server = Server::start(&back, &[]);
    holds(&server, 10, 20);
}

/// With a copy beside it there are two of the same region, and someone serves the wrong one.
#[test]
fn a_region_is_replaced_where_it_is() {
    let disk = place();
    let server = Server::start(disk.path(), &["--size", "16MiB"]);
    work(&server, 1, 12);
    assert!(!server.stop(Signal::KILL).success());
    let old = superblock(disk.path());
    let same = disk.path().join("../").join(disk.path().file_name().unwrap());
    let text = adopted(disk.path(), &same, &[]);
    assert!(text.contains("taken the place"), "{text}");
    let new = superblock(disk.path());
    assert!(new.clean && new.epoch > old.epoch && new.uuid == old.uuid);
    assert!(!disk.path().join("region.new").exists());
    holds(&Server::start(disk.path(), &[]), 1, 12);
}

/// A damaged record that is copied looks whole to whoever trusts the copy.
#[test]
fn a_damaged_region_is_not_adopted_and_the_record_is_named() {
    let (disk, data) = (place(), place());
    let data = data.path().join("made");
    let server = Server::start(disk.path(), &["--size", "16MiB"]);
    work(&server, 1, 5);
    assert!(server.stop(Signal::TERM).success());
    // Value 3 stands in blocks of its own.
    let path = disk.path().join("region");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(16).position(|bytes| bytes == b"0000000300000003").unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"x", at as u64 + 5000).unwrap();

    let output = adopt(disk.path(), &data, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("record 3 of log a does not verify"), "{text}");
    assert!(text.contains("nothing was written"), "{text}");
    assert!(!data.exists());
}

/// Each refusal leaves both sides as they are.
#[test]
fn what_cannot_be_adopted_is_refused_before_anything_is_written() {
    let (disk, other) = (place(), place());
    let data = other.path().join("made");
    let text = refused(disk.path(), &data, &[]);
    assert!(text.contains("there is no region in"), "{text}");

    let server = Server::start(disk.path(), &["--size", "16MiB"]);
    server.append("hello");
    let text = refused(disk.path(), &data, &[]);
    assert!(text.contains(&format!("in use by process {}", server.process.id())), "{text}");
    assert!(server.stop(Signal::TERM).success());

    let text = refused(disk.path(), &data, &["--medium", "pmem"]);
    assert!(text.contains("MAP_SYNC") && text.contains("--medium disk"), "{text}");
    assert!(!data.exists());

    drop(Server::start(&data, &["--size", "16MiB"]));
    let before = content(&data);
    let text = refused(disk.path(), &data, &[]);
    assert!(text.contains("exists already"), "{text}");
    assert!(content(&data) == before);

    let text = refused(disk.path(), Path::new("/dev/null"), &[]);
    assert!(text.contains("/dev/null is a device that cannot hold a region"), "{text}");
}

/// D9: the copy is whole or not there, and the source is what it was.
#[test]
fn adopt_can_be_killed_at_any_time() {
    let (disk, other) = (place(), place());
    let server = Server::start(disk.path(), &["--size", "64MiB"]);
    work(&server, 1, 20);
    assert!(!server.stop(Signal::KILL).success());
    let before = content(disk.path());
    let data = other.path().join("made");
    let new = data.join("region.new");
    // Killed when so many bytes of the copy are there.
    for bytes in [0, 1, 4 << 20, 60 << 20] {
        let mut command = adopt_command(disk.path(), &data, &[]);
        let mut adopt = command.stdout(Stdio::null()).spawn().unwrap();
        let there = || fs::metadata(&new).is_ok_and(|file| file.blocks() * 512 >= bytes);
        while !there() && adopt.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _done = adopt.kill();
        let was_faster = adopt.wait().unwrap().success();
        assert_eq!(Region::exists(&data).unwrap(), was_faster);
        if was_faster {
            fs::remove_file(data.join("region")).unwrap();
        }
        assert!(content(disk.path()) == before, "the source was changed");
    }
    adopted(disk.path(), &data, &[]);
    holds(&Server::start(&data, &[]), 1, 20);
    assert!(!new.exists());
}

/// On a disk the log takes more room, and a region without any could never be emptied (D10).
#[test]
fn a_region_that_is_too_full_for_the_medium_is_not_adopted() {
    let (Some(shm), disk) = (memory_place(), place()) else { return };
    let data = disk.path().join("made");
    let server = Server::start(shm.path(), SHM);
    let mut client = server.client();
    for len in [50_000, 3_000, 1] {
        while client.ask("POST /v1/logs/a", bytes(0, len)).unwrap().status == 201 {}
    }
    drop(client);
    assert!(server.stop(Signal::TERM).success());
    let text = refused(shm.path(), &data, &["--medium", "disk"]);
    assert!(text.contains("too full") && text.contains("trim logs on shm"), "{text}");
    assert!(!data.exists());

    let server = Server::start(shm.path(), &["--medium", "shm"]);
    server.client().trim("a", 100);
    assert!(server.stop(Signal::TERM).success());
    adopted(shm.path(), &data, &["--medium", "disk"]);
    Server::start(&data, &[]).client().read_is("a", 100, bytes(0, 50_000));
}

/// The rules of media, as `serve` keeps them.
#[test]
fn another_medium_takes_a_region_over_after_a_clean_stop_alone() {
    let Some(shm) = memory_place() else { return };
    let disk = place();
    let server = Server::start(disk.path(), &["--size", "16MiB"]);
    work(&server, 1, 5);
    assert!(!server.stop(Signal::KILL).success());
    // A copy of the file, as a user makes one.
    let copied = shm.path().join("copied");
    fs::create_dir(&copied).unwrap();
    let copy = || fs::copy(disk.path().join("region"), copied.join("region")).unwrap();
    copy();
    let refusal = |more: &[&str]| {
        let output = serve(&copied, more).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refusal(&["--medium", "shm"]);
    assert!(text.contains("last served on disk and not stopped cleanly"), "{text}");
    assert!(text.contains("impasto adopt"), "{text}");

    assert!(Server::start(disk.path(), &[]).stop(Signal::TERM).success());
    copy();
    let server = Server::start(&copied, &["--medium", "shm"]);
    holds(&server, 1, 5);
    work(&server, 6, 10);
    assert!(server.stop(Signal::TERM).success());
    assert_eq!(superblock(&copied).medium, MediumKind::Shm);
    let text = refusal(&["--medium", "disk"]);
    assert!(text.contains("last served on shm") && text.contains("impasto adopt"), "{text}");
}

/// Without a look at the machine the user would believe that it is persistent memory.
#[test]
fn pmem_is_refused_where_there_is_none_and_nothing_is_left() {
    let refusal = |dir: &Path| {
        let output = serve(dir, &["--medium", "pmem"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let disk = place();
    let text = refusal(&disk.path().join("made"));
    assert!(text.contains("MAP_SYNC"), "{text}");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
    if let Some(shm) = memory_place() {
        let text = refusal(&shm.path().join("made"));
        assert!(text.contains("tmpfs keeps files in ordinary memory"), "{text}");
        assert_eq!(fs::read_dir(shm.path()).unwrap().count(), 0);
    }
    let text = refusal(Path::new("/dev/null"));
    assert!(text.contains("name a directory, or a /dev/dax"), "{text}");
}
