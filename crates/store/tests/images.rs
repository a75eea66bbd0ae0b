//! Regions as this format has them, kept byte for byte: one whose commits are whole blocks, and one
//! whose commits are whole lines.
//!
//! `IMPASTO_BLESS_IMAGES=1 cargo test -p impasto-store --test images` writes them again. A format
//! that was released keeps its images: a new one gets new ones beside them.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;
#[path = "images/packed.rs"]
mod packed;

use std::{collections::BTreeMap, fs, path::PathBuf};

use common::{Image, MIB, Rig};
use impasto_region::{
    Extent,
    layout::{Geometry, MediumKind, Superblock},
};
use impasto_store::LogInfo;
use packed::{packed, unpacked};

const MEDIA: [MediumKind; 2] = [MediumKind::Disk, MediumKind::Shm];
const REGION_BYTES: u64 = 16 * MIB;
const UUID: [u8; 16] = *b"an image of v1.0";

/// What an image holds: each log, and each record that is not trimmed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    logs: BTreeMap<String, (u64, u64)>,
    records: BTreeMap<(String, u64), Vec<u8>>,
}

fn path(medium: MediumKind) -> PathBuf {
    let name = format!("tests/images/v1-{}.image", medium.name());
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Returns bytes that differ from place to place, and are runs all the same.
fn value(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| number ^ u8::try_from(at / 1000 % 256).unwrap()).collect()
}

/// A region that has everything: inline and kept values, bodies, trims, empty logs, a front that
/// was freed, two runs, the first one killed, and a clean stop.
fn made(medium: MediumKind) -> (Vec<u8>, Content) {
    let geometry = Geometry::new(REGION_BYTES).unwrap();
    let mut image = Image::fresh(16, medium);
    image.superblock = Superblock::rebuilt(geometry, medium, UUID, 1);
    let mut rig = Rig::open(image).unwrap();
    let mut content = Content::default();
    let mut keep = |log: &str, seq: u64, value: &[u8]| {
        content.records.insert((log.to_owned(), seq), value.to_vec());
    };
    for (n, word) in ["one", "two", "three"].into_iter().enumerate() {
        let seq = rig.append("words", word.as_bytes()).unwrap();
        if n > 0 {
            keep("words", seq, word.as_bytes());
        }
    }
    rig.commit();
    rig.trim("words", 2).unwrap();
    rig.append("emptied", b"gone").unwrap();
    rig.trim("emptied", 2).unwrap();
    rig.commit();
    for n in 0..80 {
        let value = value(n, 60_000);
        let seq = rig.append("busy", &value).unwrap();
        rig.commit();
        if seq == 75 {
            // What kept the front alive is appended again, and trimmed.
            let words = [b"two".as_slice(), b"three"].map(|word| rig.append("more", word).unwrap());
            assert_eq!(words, [1, 2]);
            rig.trim("words", 4).unwrap();
            rig.trim("busy", 74).unwrap();
            rig.settle();
        }
        if seq >= 74 {
            keep("busy", seq, &value);
        }
    }
    let body = value(7, 600_000);
    keep("bodies", rig.append_long("bodies", &body).unwrap(), &body);
    rig.commit();
    keep("more", 1, b"two");
    keep("more", 2, b"three");
    // What is not persisted is gone with the first run.
    rig.append("more", b"never acknowledged").unwrap();
    let mut rig = rig.reopen().unwrap();
    keep("more", 3, b"after the crash");
    rig.append("more", b"after the crash").unwrap();
    keep("more", 4, b"");
    rig.append("more", b"").unwrap();
    if medium != MediumKind::Disk {
        let landed = value(9, 3_000);
        keep("landed", append_landed(&mut rig, &landed), &landed);
    }
    let body = value(8, 100_000);
    keep("bodies", rig.append_long("bodies", &body).unwrap(), &body);
    rig.commit();
    content.records.retain(|(log, _), _| log != "words");
    for (log, first, next) in [("words", 4, 4), ("emptied", 2, 2), ("busy", 74, 81)] {
        content.logs.insert(log.into(), (first, next));
    }
    for (log, next) in [("more", 5), ("bodies", 3)] {
        content.logs.insert(log.into(), (1, next));
    }
    if medium != MediumKind::Disk {
        content.logs.insert("landed".into(), (1, 2));
    }
    assert!(rig.image.superblock.first_needed > 1, "the front was freed");
    let last = rig.image.superblock;
    let clean = rig.store.clean_superblock();
    for superblock in [last, clean] {
        let block = superblock.encode();
        rig.image.slice(geometry.superblock(superblock.copy())).copy_from_slice(&block);
    }
    (rig.image.bytes, content)
}

/// Appends a value that stays in the pieces in which it landed.
fn append_landed(rig: &mut Rig, value: &[u8]) -> u64 {
    let buf = rig.store.take_landing(true).unwrap();
    let piece = |offset, len| Extent { buf, offset, len };
    let extents = [piece(100, 1_000), piece(1_300, 1_500), piece(4_000, 500)];
    let seq = rig.append_reserved("landed", &extents, value).unwrap();
    rig.store.return_landing(buf);
    seq
}

/// Opens an image as a region's file is opened.
fn open(bytes: Vec<u8>) -> Rig {
    let geometry = Geometry::new(bytes.len() as u64).unwrap();
    let mut image = Image { superblock: Superblock::fresh(geometry, MediumKind::Disk), bytes };
    let found = [0, 1].map(|copy| {
        let block = image.slice(geometry.superblock(copy)).to_vec();
        Superblock::decode(&block, copy).unwrap()
    });
    image.superblock = found.into_iter().max_by_key(|found| found.generation).unwrap();
    assert!(image.superblock.clean && image.superblock.epoch == 2);
    Rig::open(image).unwrap()
}

/// Regions that exist must stay readable, to the last record.
#[test]
fn an_image_of_this_format_opens_with_all_that_it_holds() {
    for medium in MEDIA {
        let (bytes, content) = made(medium);
        if std::env::var_os("IMPASTO_BLESS_IMAGES").is_some() {
            fs::create_dir_all(path(medium).parent().unwrap()).unwrap();
            fs::write(path(medium), packed(&bytes)).unwrap();
        }
        let kept = fs::read(path(medium)).unwrap();
        let mut rig = open(unpacked(&kept));
        let mut found = Content::default();
        let (_, recovered) = rig.image.recover().unwrap();
        for (log, LogInfo { first, next, .. }) in recovered.logs() {
            found.logs.insert(log.to_owned(), (first, next));
        }
        for value in recovered.values() {
            let bytes = rig.read(value.log, value.seq).unwrap();
            found.records.insert((value.log.to_owned(), value.seq), bytes);
        }
        assert_eq!(found.logs, content.logs, "{medium:?}");
        assert!(found == content, "{medium:?}: a record is not what was appended");
        assert_eq!(rig.append("words", b"goes on"), Ok(4));
        rig.commit();
        assert_eq!(rig.reopen().unwrap().read("words", 4).unwrap(), b"goes on");
    }
}

/// What is written now can be read by those who have read it so far.
#[test]
fn the_same_history_makes_the_same_bytes() {
    for medium in MEDIA {
        let (bytes, _) = made(medium);
        let same = packed(&bytes) == fs::read(path(medium)).unwrap();
        assert!(
            same,
            "{medium:?}: the format has changed, or what is written where. If it may, see \
             docs/format.md, and renew the images: IMPASTO_BLESS_IMAGES=1 cargo test -p \
             impasto-store --test images"
        );
    }
}
