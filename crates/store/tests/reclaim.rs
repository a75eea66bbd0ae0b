//! Space comes back, and not before it may.

mod common;

use common::{MIB, Random, Rig};
use impasto_region::{Checksum, Extent, layout::MediumKind};
use impasto_store::{Answer, FramesSink, LogInfo, Refusal, Request, Value};

/// Without reclamation a 16 MiB region would be full after 16 MiB; this writes twenty times that.
#[test]
fn a_trimmed_log_can_go_on_for_ever() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    let mut written = 0;
    while written < 320 * MIB {
        let seq = rig.append("a", &[1; 60_000]).unwrap();
        written += 60_000;
        if seq.is_multiple_of(10) {
            rig.trim("a", seq).unwrap();
            rig.commit();
        }
    }
    let mut rig = rig.reopen().unwrap();
    assert!(rig.append("a", b"still there").unwrap() > 5_000);
}

/// A full region must be able to be emptied: trims may take the reserved segments.
#[test]
fn a_full_region_refuses_appends_and_takes_trims() {
    for long in [false, true] {
        let mut rig = Rig::new(16, MediumKind::Disk);
        let append = |rig: &mut Rig| match long {
            false => rig.append("a", &[1; 60_000]),
            true => rig.append_long("a", &[1; 100_000]),
        };
        let last = loop {
            match append(&mut rig) {
                Ok(seq) => assert!(seq < 1_000),
                Err(refusal) => break refusal,
            }
            rig.commit();
        };
        assert_eq!(last, Refusal::NoSpace);
        assert!(rig.read("a", 1).is_ok());
        rig.trim("a", u64::MAX).unwrap();
        rig.settle();
        for _ in 0..100 {
            append(&mut rig).unwrap();
        }
    }
}

/// A log's name and numbers must outlive the segments that they were written in.
#[test]
fn logs_keep_their_numbers_when_their_segments_go() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    for n in 0..2_000 {
        let name = format!("log-{n}");
        rig.append(&name, &[1; 2_000]).unwrap();
        rig.trim(&name, 2).unwrap();
    }
    rig.settle();
    let mut written = 0;
    while written < 40 * MIB {
        let seq = rig.append("busy", &[1; 60_000]).unwrap();
        written += 60_000;
        rig.trim("busy", seq).unwrap();
        rig.commit();
    }
    rig.settle();
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.store.logs().count(), 2_001);
    for n in 0..2_000 {
        let name = format!("log-{n}");
        assert_eq!(rig.read(&name, 1), Err(Refusal::Trimmed { first: 2 }), "{name}");
        assert_eq!(rig.append(&name, b"next").unwrap(), 2);
    }
}

/// D4: if bytes were used again before the trim is durable, a crash would bring back a record whose
/// value is somebody else's.
#[test]
fn space_is_not_used_again_before_its_trim_is_durable() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    while rig.append_long("a", &[1; 250_000]).is_ok() {}
    rig.commit();
    rig.trim("a", u64::MAX).unwrap();
    let mut extents = Vec::new();
    assert_eq!(rig.store.reserve(250_000, &mut extents), Err(Refusal::NoSpace));
    rig.commit();
    assert_eq!(rig.store.reserve(250_000, &mut extents), Ok(()));
}

/// D4: a send under way must not see its bytes change.
#[test]
fn pinned_bytes_stay() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    let mut seqs = 0;
    while let Ok(seq) = rig.append_long("a", &[1; 250_000]) {
        seqs = seq;
    }
    rig.commit();
    rig.read("a", 1).unwrap();
    let pinned = rig.store.found().to_vec();
    rig.store.pin(&pinned);
    rig.trim("a", u64::MAX).unwrap();
    rig.settle();
    let mut taken = 0;
    let mut extents = Vec::new();
    while rig.store.reserve(250_000, &mut extents).is_ok() {
        assert!(extents.iter().all(|extent| extent.buf != pinned[0].buf), "a pinned buffer");
        taken += 1;
    }
    assert!(taken >= seqs - 6, "the rest is free");
    rig.store.unpin(&pinned);
    assert_eq!(rig.store.reserve(250_000, &mut extents), Ok(()));
}

/// A freed log segment holds what an older superblock still asks for.
#[test]
fn a_log_segment_waits_for_a_durable_superblock() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    for _ in 0..100 {
        rig.append("a", &[1; 60_000]).unwrap();
    }
    rig.commit();
    let before = rig.store.free_bytes();
    rig.trim("a", u64::MAX).unwrap();
    let commit = rig.seal().unwrap();
    rig.persist(commit);
    rig.store.completed(commit.id, true);
    assert_eq!(rig.store.free_bytes(), before);
    let superblock = rig.store.superblock_wanted().unwrap();
    assert_eq!(rig.store.superblock_wanted(), None);
    assert_eq!(rig.store.free_bytes(), before);
    rig.store.superblock_durable(superblock.generation);
    assert!(rig.store.free_bytes() >= before + 4 * MIB);
}

/// D10: a body that was given up costs nothing.
#[test]
fn an_unreserved_body_is_free_at_once() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    for _ in 0..1_000 {
        let mut extents = Vec::new();
        rig.store.reserve(1 << 20, &mut extents).unwrap();
        rig.store.unreserve(&extents);
    }
}

/// D7: after a failed write nothing more is acknowledged, and what is durable can be read.
#[test]
fn a_failed_commit_makes_the_region_read_only() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"durable").unwrap();
    rig.commit();
    rig.append("a", b"failed").unwrap();
    let commit = rig.seal().unwrap();
    let durable = rig.store.durable();
    rig.store.completed(commit.id, false);
    assert_eq!(rig.store.durable(), durable);
    assert_eq!(rig.read("a", 1).unwrap(), b"durable");
    assert_eq!(rig.read("a", 2), Err(Refusal::ReadOnly));
    assert_eq!(rig.append("a", b"more"), Err(Refusal::ReadOnly));
    assert_eq!(rig.trim("a", 2), Err(Refusal::ReadOnly));
    assert!(rig.store.is_read_only());
}

#[test]
fn a_trim_beyond_the_end_is_a_trim_to_the_end() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("a", b"one").unwrap();
    let info = LogInfo { first: 2, next: 2, records: 0, bytes: 0 };
    assert_eq!(rig.trim("a", 1000), Ok(Answer::Trimmed(info)));
    assert_eq!(rig.trim("a", 1), Ok(Answer::Trimmed(info)));
    assert_eq!(rig.trim("b", 1), Err(Refusal::NoSuchLog));
}

/// One turn of the loop must not walk over millions of records: all connections would wait for it.
/// Readers see the trim at once nevertheless.
#[test]
fn a_trim_of_many_records_is_freed_in_parts() {
    let mut rig = Rig::new(32, MediumKind::Disk);
    for _ in 0..60_000 {
        rig.append("a", &[1; 150]).unwrap();
    }
    rig.commit();
    let full = rig.store.free_bytes();
    let info = LogInfo { first: 50_001, next: 60_001, records: 10_000, bytes: 1_500_000 };
    assert_eq!(rig.trim("a", 50_001), Ok(Answer::Trimmed(info)));
    assert_eq!(rig.read("a", 50_000), Err(Refusal::Trimmed { first: 50_001 }));
    assert_eq!(rig.read("a", 50_001), Ok(vec![1; 150]));
    let mut turns = 0;
    while rig.store.is_freeing() {
        rig.commit();
        turns += 1;
        if turns == 3 {
            // Once more, over what is still to be freed.
            rig.trim("a", 55_001).unwrap();
        }
    }
    assert!(turns > 10, "{turns} turns");
    rig.settle();
    let freed = rig.store.free_bytes();
    assert!(freed > full + 6 * MIB);
    for _ in 0..20_000 {
        rig.append("a", &[1; 150]).unwrap();
    }
    rig.trim("a", 70_001).unwrap();
    rig.commit();
    assert!(rig.store.is_freeing());
    // Recovery frees what a crash has left over.
    let mut rig = rig.reopen().unwrap();
    assert!(!rig.store.is_freeing());
    rig.settle();
    assert!(rig.store.free_bytes() + 2 * MIB >= freed);
    assert_eq!(rig.read("a", 70_001), Ok(vec![1; 150]));
}

/// D4: what is freed in parts waits for its trim, too.
#[test]
fn parts_are_not_free_before_their_trim_is_durable() {
    let mut rig = Rig::new(16, MediumKind::Shm);
    let buf = rig.store.take_landing(true).unwrap();
    for n in 0..5_000 {
        let extents = [0, 2].map(|half| Extent { buf, offset: n * 52 + half * 13, len: 26 });
        let mut sum = Checksum::new();
        extents.iter().for_each(|extent| sum.update(rig.frames.bytes(extent.span())));
        let value = Value::Kept { extents: &extents, checksum: sum.value() };
        rig.effect(Request::Append { log: "a", value }, &[]).answer.unwrap();
    }
    rig.store.return_landing(buf);
    rig.commit();
    let before = rig.store.free_bytes();
    rig.trim("a", u64::MAX).unwrap();
    assert!(rig.store.is_freeing());
    for _ in 0..5 {
        rig.store.reclaim(&mut FramesSink::new(&mut rig.frames, &[]));
    }
    assert!(!rig.store.is_freeing());
    assert_eq!(rig.store.free_bytes(), before);
    rig.commit();
    assert!(rig.store.free_bytes() > before);
}

/// Numbers of a log, the sum of its lengths above all, while dead records are still to be freed.
#[test]
fn logs_are_what_the_model_says_while_they_are_freed() {
    let mut random = Random::new(17);
    let mut rig = Rig::new(16, MediumKind::Shm);
    let (mut first, mut lens) = ([1; 3], [const { Vec::new() }; 3]);
    let mut freeing = 0;
    for _ in 0..150 {
        let log = usize::try_from(random.below(3)).unwrap();
        let name = log.to_string();
        for _ in 0..random.below(6_000) {
            let len = random.below(40);
            if rig.append(&name, &vec![7; usize::try_from(len).unwrap()]).is_ok() {
                lens[log].push(len);
            }
        }
        let dead = random.below(lens[log].len() as u64 + 1);
        if lens[log].is_empty() {
            continue;
        }
        drop(lens[log].drain(..usize::try_from(dead).unwrap()));
        first[log] += dead;
        let records = lens[log].len() as u64;
        let info = LogInfo {
            first: first[log],
            next: first[log] + records,
            records,
            bytes: lens[log].iter().sum(),
        };
        assert_eq!(rig.trim(&name, first[log]), Ok(Answer::Trimmed(info)));
        freeing += u32::from(rig.store.is_freeing());
        match random.below(8) {
            0 => {
                rig.commit();
                rig = rig.reopen().unwrap();
            }
            1..5 => rig.commit(),
            _ => {}
        }
        if let Some(len) = lens[log].first() {
            assert_eq!(rig.read(&name, first[log]).unwrap().len() as u64, *len);
        }
    }
    assert!(freeing > 10, "{freeing} trims were freed in parts");
    for log in 0..3 {
        rig.trim(&log.to_string(), u64::MAX).unwrap();
    }
    rig.settle();
    assert!(!rig.store.is_freeing() && rig.store.free_bytes() > 11 * MIB);
}
