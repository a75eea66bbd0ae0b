//! The promise of the format: a region of a released version opens, and one of a newer version is
//! refused by what makes it newer.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;
#[path = "../../store/tests/images/packed.rs"]
mod packed;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use common::{
    Server, media, place,
    region::{filled, json, run},
    serve,
};
use impasto::region::{
    Checksum,
    layout::{BLOCK_BYTES, Superblock},
};
use rustix::process::Signal;

const REGION_BYTES: u64 = 16 << 20;

/// Changes both superblocks, and makes their checksums hold again.
fn change_superblocks(region: &Path, change: impl Fn(&mut Superblock)) {
    let file = OpenOptions::new().read(true).write(true).open(region).unwrap();
    for (copy, at) in [(0, 0), (1, REGION_BYTES - BLOCK_BYTES)] {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, at).unwrap();
        let mut superblock = Superblock::decode(&block, copy).unwrap();
        change(&mut superblock);
        file.write_all_at(&superblock.encode(), at).unwrap();
    }
}

/// Sets a bit of both superblocks that this version has no name for.
fn set_incompat(region: &Path, bits: u64) {
    let file = OpenOptions::new().read(true).write(true).open(region).unwrap();
    for (copy, at) in [(0_u64, 0), (1, REGION_BYTES - BLOCK_BYTES)] {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, at).unwrap();
        block[24..32].copy_from_slice(&(bits | 1).to_le_bytes());
        let mut sum = Checksum::new();
        sum.update(&block[..504]);
        sum.update(&copy.to_le_bytes());
        block[504..512].copy_from_slice(&sum.value().to_le_bytes());
        file.write_all_at(&block, at).unwrap();
    }
}

/// Makes the last record of the last commit one of type `kind`, and the commit hold again.
fn set_kind(region: &Path, kind: u16) {
    let mut bytes = fs::read(region).unwrap();
    let starts = (0..bytes.len() - 64).step_by(4096).filter(|&at| bytes[at..].starts_with(b"ICMT"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let at = starts.max_by_key(|&at| u64_at(at + 40)).unwrap();
    let uuid: [u8; 16] = bytes[32..48].try_into().unwrap();
    let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
    bytes[at + 64 + 4..at + 64 + 6].copy_from_slice(&kind.to_le_bytes());
    let mut sum = Checksum::new();
    sum.update(&uuid);
    sum.update(&(at as u64).to_le_bytes());
    sum.update(&bytes[at..at + 56]);
    sum.update(&bytes[at + 64..at + 64 + len]);
    let sum = sum.value().to_le_bytes();
    bytes[at + 56..at + 64].copy_from_slice(&sum);
    fs::write(region, bytes).unwrap();
}

fn refusal(dir: &Path) -> String {
    let output = serve(dir, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// Regions that exist must stay readable, also by the program that people run.
#[test]
fn images_of_this_format_are_served() {
    for (medium, dir) in media() {
        let name = format!("../store/tests/images/v1-{medium}.image");
        let image = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        fs::write(dir.path().join("region"), packed::unpacked(&image)).unwrap();
        let data = dir.path().to_str().unwrap();
        let (code, text, err) = run(&["verify", data]);
        assert_eq!(code, 0, "{text}{err}");
        let found = json(&["inspect", "--json", data], 0);
        assert_eq!(found["logs"].as_array().unwrap().len(), if medium == "disk" { 5 } else { 6 });
        let server = Server::start(dir.path(), &["--medium", medium]);
        let mut client = server.client();
        client.read_is("more", 2, b"three");
        client.read_is("more", 3, b"after the crash");
        assert_eq!(client.ask("GET /v1/logs/words/3", b"").unwrap().status, 410);
        let body = client.ask("GET /v1/logs/bodies/1", b"").unwrap();
        assert_eq!((body.status, body.body.len()), (200, 600_000));
        assert_eq!(client.append("words", b"goes on"), 4);
    }
}

/// A feature that an older version may ignore is still there when the newer one comes back.
#[test]
fn an_unknown_compatible_bit_is_served_and_kept() {
    let dir = place();
    filled(dir.path());
    change_superblocks(&dir.path().join("region"), |superblock| superblock.compat = 0x8000);
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.client().append("words", b"four"), 4);
    assert!(server.stop(Signal::TERM).success());
    let found = json(&["inspect", "--json", dir.path().to_str().unwrap()], 0);
    assert_eq!((&found["compat"], &found["clean"]), (&0x8000.into(), &true.into()));
}

/// What an older version must not write to it does not write to; looking is allowed.
#[test]
fn an_unknown_bit_for_writers_is_refused_by_those_who_write() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    filled(dir.path());
    let region = dir.path().join("region");
    change_superblocks(&region, |superblock| superblock.ro_compat = 4);
    let before = fs::read(&region).unwrap();
    let text = refusal(dir.path());
    assert!(text.contains("unknown format bits 0x4 for writers"), "{text}");
    let (code, text, _) = run(&["inspect", data]);
    assert_eq!(code, 0);
    assert!(text.contains("newer       format bits 0x4 for writers"), "{text}");
    let (code, text, err) = run(&["verify", data]);
    assert_eq!(code, 0, "{text}{err}");
    let (code, _, err) = run(&["repair", "--apply", data]);
    assert_eq!(code, 1);
    assert!(err.contains("unknown format bits 0x4 for writers"), "{err}");
    assert!(before == fs::read(&region).unwrap());
}

/// A reader that guesses at what it does not know shows what never was.
#[test]
fn an_unknown_incompatible_bit_is_refused_by_everyone_with_its_bit() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    filled(dir.path());
    set_incompat(&dir.path().join("region"), 0x20);
    for text in [
        refusal(dir.path()),
        run(&["inspect", data]).2,
        run(&["verify", data]).2,
        run(&["repair", data]).2,
    ] {
        assert!(text.contains("unknown incompatible format bits 0x20"), "{text}");
    }
    for command in ["inspect", "verify", "repair"] {
        assert_eq!(run(&[command, data]).0, 1, "{command}");
    }
}

/// A record that is skipped is an effect that is lost.
#[test]
fn an_unknown_record_type_is_refused_with_its_number() {
    let dir = place();
    let data = dir.path().to_str().unwrap();
    filled(dir.path());
    set_kind(&dir.path().join("region"), 9);
    let text = "unknown record type 9: a newer impasto wrote it";
    let said = refusal(dir.path());
    assert!(said.contains(text), "{said}");
    for command in ["inspect", "verify", "repair"] {
        let (code, out, err) = run(&[command, data]);
        assert_eq!(code, 1, "{command}: {out}{err}");
        assert!(err.contains(text), "{command}: {err}");
    }
}
