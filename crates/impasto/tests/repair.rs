//! `impasto repair`: what it says is what it does.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use common::{
    Server, place,
    region::{filled, flip, json, place_of, run},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SECOND: u64 = (16 << 20) - 4096;

/// A region with a commit for each of `values`, in one log.
fn with_values(dir: &Path, values: &[&str]) {
    let server = Server::start(dir, &["--size", "16MiB"]);
    values.iter().for_each(|value| server.append(value));
    assert!(server.stop(Signal::TERM).success());
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Repairs, and checks that the same is done that was said.
fn repair(dir: &str, more: &[&str]) -> Value {
    let region = fs::read(format!("{dir}/region")).unwrap();
    let said = json(&[&["repair", "--json", dir], more].concat(), 3);
    assert_eq!(said["applied"], false);
    let now = fs::read(format!("{dir}/region")).unwrap();
    assert!(region == now, "without --apply nothing changes");
    let mut done = json(&[&["repair", "--json", "--apply", dir], more].concat(), 0);
    assert_eq!(done["applied"], true);
    done["applied"] = false.into();
    assert_eq!(said, done);
    let (code, text, err) = run(&["repair", dir]);
    assert!(code == 0 || !done["damaged_values"].as_array().unwrap().is_empty(), "{text}{err}");
    done
}

/// One superblock is one fault away from none.
#[test]
fn a_damaged_superblock_is_written_anew() {
    for at in [0, SECOND] {
        let dir = place();
        let data = dir.path().to_str().unwrap();
        with_values(dir.path(), &["one", "two"]);
        flip(&dir.path().join("region"), at + 100);
        let done = repair(data, &[]);
        let action = done["actions"][0].as_str().unwrap();
        assert!(action.contains("is written anew (the superblock does not verify)"), "{action}");
        assert_eq!(done["lost"], json!([]));
        let (code, text, _) = run(&["verify", data]);
        assert_eq!(code, 0, "{text}");
        let server = Server::start(dir.path(), &[]);
        assert!(server.read(2).ends_with("\r\n\r\ntwo"));
    }
}

/// What was acknowledged is not lost in silence, and what is left can be served.
#[test]
fn a_damaged_log_is_cut_and_each_lost_record_is_named() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    with_values(dir.path(), &["one", "the second", "three", "four"]);
    flip(&dir.path().join("region"), place_of(&dir.path().join("region"), b"the second"));
    let (code, text, err) = run(&["inspect", data]);
    assert_eq!(code, 3, "{err}");
    // The map: all four buffers of the log's segment.
    assert!(text.contains(&"X".repeat(4)), "{text}");
    assert!(text.contains("records 3 to 5 were acknowledged"), "{text}");

    let (code, text, _) = run(&["repair", data]);
    assert_eq!(code, 3);
    for line in [
        "to be done:\n  the log is cut before its first damage: records 3 to 5 were acknowledged",
        "lost with their logs and numbers:\n  lsn 3: nothing of it can be read\n",
        "  lsn 4: record 3 of log a, 5 bytes\n  lsn 5: record 4 of log a, 4 bytes\n",
        "numbers that are given out again, to other records:\n  log a: from 2 on\n",
        "nothing was changed; `impasto repair --apply ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let lost = dir.path().join("lost");
    let (code, text, err) = run(&["repair", "--apply", "--export", lost.to_str().unwrap(), data]);
    assert_eq!(code, 0, "{err}");
    assert!(text.contains("done:\n") && text.ends_with("repaired: the region opens\n"), "{text}");
    assert_eq!(fs::read(lost.join("a.3")).unwrap(), b"three");
    assert_eq!(fs::read(lost.join("a.4")).unwrap(), b"four");

    assert_eq!(run(&["verify", data]).0, 0);
    assert_eq!(run(&["repair", data]).1.lines().last(), Some("nothing is damaged"));
    let server = Server::start(dir.path(), &[]);
    assert!(server.read(1).ends_with("\r\n\r\none"));
    assert!(server.read(2).starts_with("HTTP/1.1 404"), "{}", server.read(2));
    server.append("another second");
    assert!(server.read(2).ends_with("\r\n\r\nanother second"));
    assert!(!server.stop(Signal::KILL).success());
    let server = Server::start(dir.path(), &[]);
    assert!(server.read(2).ends_with("\r\n\r\nanother second"));
    assert!(server.read(3).starts_with("HTTP/1.1 404"));
}

/// A log whose records are all lost keeps its name, and its numbers go on.
#[test]
fn a_log_that_is_lost_is_there_again_with_its_numbers() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let mut client = server.client();
    client.append("kept", b"one");
    client.append("kept", b"the second");
    for _ in 0..3 {
        client.append("gone", b"value");
    }
    drop(client);
    assert!(server.stop(Signal::TERM).success());
    flip(&dir.path().join("region"), place_of(&dir.path().join("region"), b"the second"));
    let done = repair(data, &[]);
    assert_eq!(done["lost_unreadable"], json!([[3, 3]]));
    let doubt = |log: &str, from: u64| json!({ "log": log, "from": from, "certain": false });
    let again = json!([doubt("kept", 2), doubt("gone", 4)]);
    assert_eq!(done["given_out_again"], again, "nobody knows whose number lsn 3 had");
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    assert_eq!(client.append("gone", b"next"), 4);
    assert_eq!(client.append("kept", b"next"), 2);
}

/// Who trims for a reason has to know that it did not last.
#[test]
fn a_trim_that_is_lost_is_told() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let mut client = server.client();
    for value in ["one", "two", "a third value"] {
        client.append("a", value.as_bytes());
    }
    client.trim("a", 3);
    client.append("a", b"four");
    drop(client);
    assert!(server.stop(Signal::TERM).success());
    flip(&dir.path().join("region"), place_of(&dir.path().join("region"), b"a third value"));
    let done = repair(data, &[]);
    assert_eq!(done["trimmed_and_back"], json!([{ "log": "a", "first": 1, "last": 2 }]));
    assert_eq!(done["given_out_again"], json!([{ "log": "a", "from": 3, "certain": true }]));
    let server = Server::start(dir.path(), &[]);
    server.client().read_is("a", 1, b"one");
}

/// How far the log of a killed server went nobody knows, if its end is gone: a list that ends with
/// the last record of which something is known must not look complete.
#[test]
fn it_is_told_that_more_may_be_lost_than_is_known() {
    for (signal, lost_after) in [(Signal::TERM, Value::Null), (Signal::KILL, json!(4))] {
        let dir = place();
        let data = dir.path().to_str().unwrap();
        let server = Server::start(dir.path(), &["--size", "16MiB"]);
        ["one", "the second", "three"].iter().for_each(|value| server.append(value));
        server.stop(signal);
        flip(&dir.path().join("region"), place_of(&dir.path().join("region"), b"the second"));
        let done = repair(data, &[]);
        assert_eq!(done["lost_after"], lost_after, "{done}");
    }
}

/// Both superblocks gone, a region is still its log.
#[test]
fn both_superblocks_are_made_anew_from_the_log() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    filled(dir.path());
    let region = dir.path().join("region");
    let before = json(&["inspect", "--json", data], 0);
    overwrite(&region, 0, &[0xee; 4096]);
    overwrite(&region, SECOND, &[0; 4096]);
    let (code, _, err) = run(&["repair", data]);
    assert_eq!(code, 1);
    assert!(err.contains("say what it was served on, --medium disk, shm or pmem"), "{err}");
    let done = repair(data, &["--medium", "disk"]);
    assert!(done["actions"][0].as_str().unwrap().contains("nobody bears witness"), "{done}");
    let after = json(&["inspect", "--json", data], 0);
    for field in ["uuid", "logs", "map", "medium"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(after["superblocks"][1]["generation"], 1);
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.client().append("words", b"four"), 4);
}

/// A value that does not verify is not sent, and not given up either: its number stays its own.
#[test]
fn a_damaged_value_stays_and_is_answered_500_until_it_is_trimmed() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    filled(dir.path());
    flip(&dir.path().join("region"), place_of(&dir.path().join("region"), b"0030000\n"));
    let (code, text, _) = run(&["repair", "--apply", data]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("record 1 of log long does not verify"), "{text}");
    assert!(text.ends_with("there is nothing to be done\n"), "{text}");
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    let reply = client.ask("GET /v1/logs/long/1", b"").unwrap();
    assert_eq!(reply.status, 500);
    client.trim("long", 2);
    drop(client);
    assert!(server.stop(Signal::TERM).success());
    assert_eq!(run(&["verify", data]).0, 0);
}

/// What a repair does not know it leaves alone, and says why.
#[test]
fn what_cannot_be_repaired_is_left_as_it_is() {
    let change = |what: &dyn Fn(&Path)| {
        let dir = place();
        filled(dir.path());
        let region = dir.path().join("region");
        what(&region);
        let before = fs::read(&region).unwrap();
        let data = dir.path().to_str().unwrap();
        let (code, _, err) = run(&["repair", "--apply", "--medium", "disk", data]);
        assert_eq!(code, 1, "{err}");
        assert!(before == fs::read(&region).unwrap(), "{err}");
        err
    };
    let err = change(&|region| {
        OpenOptions::new().write(true).open(region).unwrap().set_len(15 << 20).unwrap();
    });
    assert!(err.contains("has 15728640 bytes, but its superblock says 16777216"), "{err}");
    let err = change(&|region| fs::write(region, vec![7; 16 << 20]).unwrap());
    assert!(err.contains("impasto did not write it, or it was never served"), "{err}");
    let err = change(&|region| fs::write(region, b"short").unwrap());
    assert!(err.contains("no region has 5 bytes"), "{err}");
}
