//! What recovery makes of a damaged or half-written log.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use common::{Image, Random, Rig};
use impasto_region::{Span, layout::MediumKind};
use impasto_store::{Commit, Corruption, Lsn, Refusal, Request};

fn commit_of(rig: &mut Rig, log: &str, value: &[u8]) -> Commit {
    rig.append(log, value).unwrap();
    rig.seal().unwrap()
}

fn missing(result: Result<Rig, Corruption>) -> (Lsn, Lsn) {
    match result.map(|_| ()) {
        Err(
            Corruption::Missing { lsn, attested, .. }
            | Corruption::MissingSegment { lsn, attested, .. },
        ) => (lsn, attested),
        other => panic!("the damage was taken for {other:?}"),
    }
}

/// D2: a commit that is there in part only would otherwise hand out bytes that nobody acknowledged.
#[test]
fn a_torn_commit_is_absent() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"one").unwrap();
    rig.commit();
    let torn = commit_of(&mut rig, "a", &[7; 20_000]);
    let first_blocks = Span::new(torn.span.at, 8192);
    let bytes = rig.frames.bytes(first_blocks).to_vec();
    rig.image.slice(first_blocks).copy_from_slice(&bytes);
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 1).unwrap(), b"one");
    assert_eq!(rig.read("a", 2), Err(Refusal::Future { next: 2 }));
    assert_eq!(rig.append("a", b"two"), Ok(2));
}

/// D6: commits behind a hole were never acknowledged. Without the epoch the next run's commit would
/// fill the hole and the old ones behind it would be taken for its continuation.
#[test]
fn commits_behind_a_hole_stay_void() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"before").unwrap();
    rig.commit();
    let commits = [b"lost", b"void", b"also"].map(|value| commit_of(&mut rig, "a", value));
    rig.persist(commits[1]);
    rig.persist(commits[2]);
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 2), Err(Refusal::Future { next: 2 }));
    let refill = commit_of(&mut rig, "a", b"new!");
    assert_eq!(refill.span, commits[0].span, "the hole is filled, with a commit of the same size");
    rig.persist(refill);
    rig.store.completed(refill.id, true);
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 2).unwrap(), b"new!");
    assert_eq!(rig.read("a", 3), Err(Refusal::Future { next: 3 }));
}

/// The canary of the test above: with the epoch of the run before, the void commits come back.
#[test]
fn without_a_new_epoch_void_commits_come_back() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"before").unwrap();
    rig.commit();
    let commits = [b"lost", b"void"].map(|value| commit_of(&mut rig, "a", value));
    rig.persist(commits[1]);
    let superblock = rig.image.superblock;
    let (frames, mut recovered) = rig.image.recover().unwrap();
    recovered.superblock.epoch = superblock.epoch;
    let mut rig = Rig { frames, store: recovered.into_store(), image: rig.image };
    let refill = commit_of(&mut rig, "a", b"new!");
    rig.persist(refill);
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 3).unwrap(), b"void", "if this fails, D6 is no longer needed");
}

/// D2: damage to what was acknowledged must not be taken for the end of the log.
#[test]
fn damage_before_a_witness_is_corruption() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    let mut spans = Vec::new();
    for value in [b"one", b"two", b"tri", b"for"] {
        let commit = commit_of(&mut rig, "a", value);
        spans.push(commit.span);
        rig.persist(commit);
        rig.store.completed(commit.id, true);
    }
    let flip = Span::new(spans[1].at + 80, 1);
    rig.image.slice(flip)[0] ^= 4;
    // One creates the log and appends, so the second commit is record 3; the fourth bears witness
    // for the third.
    assert_eq!(missing(rig.reopen()), (Lsn(3), Lsn(4)));
}

/// The last commit has no witness until a clean stop gives it one.
#[test]
fn a_clean_stop_bears_witness_for_the_last_commit() {
    for clean in [false, true] {
        let mut rig = Rig::new(16, MediumKind::Disk);
        rig.append("a", b"one").unwrap();
        rig.commit();
        let last = commit_of(&mut rig, "a", b"two");
        rig.persist(last);
        rig.store.completed(last.id, true);
        if clean {
            rig.image.superblock = rig.store.clean_superblock();
        }
        rig.image.slice(Span::new(last.span.at + 70, 1))[0] ^= 1;
        let reopened = rig.reopen();
        if clean {
            assert_eq!(missing(reopened).0, Lsn(3));
        } else {
            assert_eq!(reopened.unwrap().read("a", 2), Err(Refusal::Future { next: 2 }));
        }
    }
}

fn three_segments() -> Rig {
    let mut rig = Rig::new(16, MediumKind::Disk);
    for n in 0..60 {
        rig.append("a", &[n; 40_000]).unwrap();
        rig.commit();
    }
    rig
}

/// A lost segment header would otherwise end the log there, in silence.
#[test]
fn a_lost_segment_header_is_corruption() {
    let mut image = three_segments().image;
    let heads: Vec<u64> = (0..15).map(|n| 4096 + n * common::MIB).collect();
    let is_log = |image: &mut Image, at| image.slice(Span::new(at, 7)) == b"IMPSEGM";
    let used: Vec<u64> = heads.into_iter().filter(|&at| is_log(&mut image, at)).collect();
    assert_eq!(used.len(), 3);
    for at in used {
        let mut damaged = Image { bytes: image.bytes.clone(), superblock: image.superblock };
        damaged.slice(Span::new(at, 512)).fill(0);
        missing(Rig::open(damaged));
    }
}

/// Whatever single byte rots, nothing that was acknowledged disappears without a word.
#[test]
fn a_flipped_byte_is_found_or_harmless() {
    let mut random = Random::new(11);
    let mut rig = three_segments();
    rig.image.superblock = rig.store.clean_superblock();
    let mut damage = 0;
    for _ in 0..40 {
        let at = 4096 + random.below(3 * common::MIB);
        let image = Image { bytes: rig.image.bytes.clone(), superblock: rig.image.superblock };
        let mut damaged = image;
        damaged.slice(Span::new(at, 1))[0] ^= 1 << random.below(8);
        match Rig::open(damaged) {
            Ok(mut rig) => {
                for n in 0..60 {
                    assert_eq!(rig.read("a", u64::from(n) + 1).unwrap(), [n; 40_000], "byte {at}");
                }
            }
            Err(Corruption::Missing { .. } | Corruption::MissingSegment { .. }) => damage += 1,
            Err(other) => panic!("a flipped byte at {at} was taken for {other}"),
        }
    }
    assert!(damage > 20, "most bytes of the log matter, {damage} of 40 did");
}

/// Every commit repeats its epoch's start, so the older superblock is enough (D6, D9).
#[test]
fn the_older_superblock_is_enough() {
    let rig = Rig::new(16, MediumKind::Disk);
    let older = rig.image.superblock;
    let mut rig = rig.reopen().unwrap();
    rig.append("a", b"one").unwrap();
    rig.commit();
    assert!(rig.image.superblock.epoch > older.epoch);
    rig.image.superblock = older;
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 1).unwrap(), b"one");
    assert!(rig.image.superblock.epoch > older.epoch + 1);
}

/// D1: if a body was lost although its record is there, the record was never acknowledged.
#[test]
fn a_commit_whose_body_is_not_there_is_absent() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"one").unwrap();
    rig.commit();
    rig.append_long("a", &[5; 100_000]).unwrap();
    let body = rig.store.kept().first().copied();
    assert_eq!(body, None, "a reserved body is durable before its record");
    let extent = {
        rig.read("a", 2).unwrap();
        rig.store.found()[0]
    };
    rig.commit();
    rig.image.slice(Span::new(extent.span().at + 50_000, 1))[0] ^= 1;
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 2), Err(Refusal::Future { next: 2 }));
}

/// D6: a crash in recovery, before its superblock is durable, changes nothing.
#[test]
fn recovery_twice_is_recovery_once() {
    let mut rig = Rig::new(16, MediumKind::Shm);
    for n in 0..20 {
        rig.append("a", &[n; 300]).unwrap();
        rig.commit();
    }
    let first = rig.image.recover().unwrap().1;
    let second = rig.image.recover().unwrap().1;
    assert_eq!(first.superblock, second.superblock);
    assert_eq!(first.records(), second.records());
    assert!(first.values().eq(second.values()));
}

/// Log offset and place are under the checksum: a commit written elsewhere is none.
#[test]
fn a_misdirected_commit_is_not_taken() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    let first = commit_of(&mut rig, "a", b"one");
    rig.persist(first);
    rig.store.completed(first.id, true);
    let second = commit_of(&mut rig, "a", b"two");
    let commit = Span::new(first.span.end() - 4096, 4096);
    let bytes = rig.frames.bytes(commit).to_vec();
    rig.image.slice(second.span).copy_from_slice(&bytes);
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 1).unwrap(), b"one");
    assert_eq!(rig.read("a", 2), Err(Refusal::Future { next: 2 }));
}

/// D3: a reply that shows what a crash can take back would be a lie after the crash.
#[test]
fn a_reply_waits_for_what_it_shows() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"durable").unwrap();
    rig.commit();
    let durable = rig.store.durable();
    rig.append("a", b"volatile").unwrap();
    let mut lsn = |request| rig.effect(request, &[]).lsn;
    assert!(lsn(Request::Read { log: "a", seq: 1 }) <= durable);
    assert!(lsn(Request::Read { log: "a", seq: 2 }) > durable);
    assert!(lsn(Request::Read { log: "a", seq: 3 }) > durable, "it says what comes next");
    assert!(lsn(Request::Describe { log: "a" }) > durable);
    assert!(lsn(Request::Trim { log: "a", before: 1 }) > durable, "it changes nothing, and shows");
    assert!(lsn(Request::Trim { log: "a", before: 2 }) > durable);
    assert!(lsn(Request::Read { log: "a", seq: 1 }) > durable, "it shows the trim");
}
