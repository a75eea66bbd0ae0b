//! A full region can be emptied, and comes to rest.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use common::{MIB, Random, Rig};
use impasto_region::{BufId, Checksum, Extent, layout::MediumKind};
use impasto_store::{Answer, Refusal, Request, Value};

/// A log's first record that does not fit behind the tail would be placed over the segment's end if
/// the log's creation alone still fits there.
#[test]
fn a_log_is_created_at_the_end_of_a_segment() {
    for rest in 1..=16 {
        let mut rig = Rig::new(16, MediumKind::Disk);
        // One block each: 255 of them fill a segment.
        for _ in 0..255 - rest {
            rig.append("a", b"x").unwrap();
            rig.commit();
        }
        rig.append("new", &[7; 60_000]).unwrap();
        rig.commit();
        rig.append("a", b"last").unwrap();
        rig.commit();
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.read("new", 1).unwrap(), [7; 60_000], "{rest} blocks were left");
        assert_eq!(rig.read("a", 256 - rest).unwrap(), b"last", "{rest} blocks were left");
    }
}

/// What died before a crash and was not freed has to be freed after it, also if the region is full
/// and no commit comes that would do it.
#[test]
fn a_full_region_that_was_emptied_before_a_crash_has_room_after_it() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    while rig.append("a", &[1; 60_000]).is_ok() {
        rig.commit();
    }
    rig.trim("a", u64::MAX).unwrap();
    // All but the superblock is durable, and the tail's segment is full.
    while let Some(commit) = rig.seal() {
        rig.persist(commit);
        rig.store.completed(commit.id, true);
        let _ = rig.append("a", b"x");
    }
    let mut rig = rig.reopen().unwrap();
    rig.settle();
    for _ in 0..50 {
        rig.append("a", &[1; 60_000]).unwrap();
    }
}

/// States that are moved leave padding behind them. If that made moving them again worth while, an
/// idle region would write for ever.
#[test]
fn many_logs_come_to_rest() {
    for (width, medium) in [(128, MediumKind::Disk), (1, MediumKind::Disk), (128, MediumKind::Shm)]
    {
        let mut rig = Rig::new(64, medium);
        let name = |n: u32| format!("{n:0>width$}");
        for n in 0..65_536 {
            rig.append(&name(n), b"x").unwrap();
            rig.trim(&name(n), 2).unwrap();
        }
        let (mut commits, mut idle) = (0, 0);
        while idle < 20 {
            let before = rig.store.last_lsn();
            rig.commit();
            let moved = rig.store.last_lsn() > before;
            (commits, idle) = if moved { (commits + 1, 0) } else { (commits, idle + 1) };
            assert!(commits < 1_000, "an idle region writes on");
        }
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.store.logs().count(), 65_536);
        for n in (0..65_536).step_by(1000) {
            assert_eq!(rig.append(&name(n), b"y"), Ok(2));
        }
    }
}

fn fill(rig: &mut Rig, len: usize, per_commit: usize) -> u64 {
    let mut last = 0;
    let mut n = 0;
    while let Ok(seq) = rig.append("a", &vec![1; len]) {
        (last, n) = (seq, n + 1);
        if n % per_commit == 0 {
            rig.commit();
        }
    }
    rig.commit();
    last
}

/// Trims take room, too: whoever trims record by record must not use up the room for the trim that
/// empties the region.
#[test]
fn small_trims_leave_room_for_the_one_that_empties() {
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        let mut rig = Rig::new(16, medium);
        let last = fill(&mut rig, 100, 3000);
        let mut refused = 0;
        for before in 2..last.min(30_000) {
            match rig.trim("a", before) {
                Ok(_) => {}
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::NoSpaceToTrim);
                    refused += 1;
                    if refused > 10 {
                        break;
                    }
                }
            }
            rig.commit();
        }
        rig.trim("a", u64::MAX).unwrap();
        rig.settle();
        let mut rig = rig.reopen().unwrap();
        rig.settle();
        assert!(fill(&mut rig, 100, 3000) > last + last / 2, "{medium:?}: the room is back");
    }
}

/// Many logs in a full region, each emptied by a commit of its own.
#[test]
fn many_logs_are_emptied_one_by_one() {
    for mib in [16, 64] {
        for medium in [MediumKind::Disk, MediumKind::Shm] {
            let mut rig = Rig::new(mib, medium);
            let mut logs = 0_u64;
            'full: loop {
                for n in 0..200 {
                    if rig.append(&format!("{n}"), &[1; 2000]).is_err() {
                        break 'full;
                    }
                }
                logs = 200;
            }
            rig.commit();
            for n in 0..logs {
                rig.trim(&format!("{n}"), u64::MAX).unwrap();
                rig.commit();
            }
            rig.settle();
            assert!(rig.store.free_bytes() > (mib - 6) * MIB, "{mib} {medium:?}");
        }
    }
}

/// Each trim of a full region is durable before its reply, so each may take a block, while the log
/// whose record is the oldest keeps all space until it is trimmed, last: without room for each
/// (D10), such a region could not be emptied at all.
#[test]
fn a_full_region_is_emptied_log_by_log_however_many_there_are() {
    for (mib, medium, most) in
        [(16, MediumKind::Disk, 2_000), (16, MediumKind::Shm, 2_000), (32, MediumKind::Shm, 65_536)]
    {
        let mut rig = Rig::new(mib, medium);
        let mut logs = 0_u64;
        'full: loop {
            for n in 0..most {
                if rig.append(&n.to_string(), &[1; 100]).is_err() {
                    break 'full;
                }
                logs = logs.max(n + 1);
            }
        }
        rig.commit();
        while rig.trim("1", 1 + logs).is_ok_and(|_| rig.append("1", b"x").is_ok()) {}
        assert!(logs > 1_900, "{logs} logs");
        let mut rig = rig.reopen().unwrap();
        for n in (0..logs).rev() {
            rig.trim(&n.to_string(), u64::MAX).unwrap();
            rig.commit();
        }
        rig.settle();
        assert_eq!(rig.store.promised_bytes(), 0);
        let states = logs * 80 / MIB;
        assert!(rig.store.free_bytes() > (mib - 5 - states) * MIB, "{mib} {medium:?}");
    }
}

/// Keeps a value where it landed.
fn append_landed(rig: &mut Rig, log: &str, extent: Extent) -> Result<u64, Refusal> {
    let checksum = Checksum::of(rig.frames.bytes(extent.span()));
    let value = Value::Kept { extents: &[extent], checksum };
    rig.effect(Request::Append { log, value }, &[]).answer.map(|answer| match answer {
        Answer::Appended { seq } => seq,
        other => panic!("an append was answered {other:?}"),
    })
}

/// Lands values until nothing more is taken; the four buffers then have live values in them.
fn fill_by_landing(rig: &mut Rig, random: &mut Random) -> Vec<BufId> {
    let mut bufs: Vec<_> = (0..4).map(|_| rig.store.take_landing(true).unwrap()).collect();
    loop {
        let mut refused = 0;
        for buf in &mut bufs {
            for slot in 0..4 {
                let len = 1_000 + u32::try_from(random.below(60_000)).unwrap();
                let extent = Extent { buf: *buf, offset: slot << 16, len };
                refused += u32::from(append_landed(rig, "a", extent).is_err());
                rig.commit();
            }
            if refused == 16 {
                return bufs;
            }
            if refused == 0 {
                rig.store.return_landing(*buf);
                *buf = rig.store.take_landing(true).expect("a replacement");
            }
        }
    }
}

/// A port without a buffer is deaf: it could not even receive the trim that makes room.
#[test]
fn a_port_gets_its_buffers_back_from_a_full_region() {
    let mut random = Random::new(31);
    for _ in 0..4 {
        let mut rig = Rig::new(16, MediumKind::Shm);
        for _ in 0..40_000 {
            rig.append("b", b"x").unwrap();
        }
        for _ in 0..random.below(4) {
            rig.append_long("b", &[1; 200_000]).unwrap();
        }
        let mut bufs = fill_by_landing(&mut rig, &mut random);
        // Trims that free next to nothing take the room that is left for them.
        let mut before = 2;
        while rig.trim("b", before).is_ok() {
            rig.commit();
            before += 1;
        }
        for round in 0..8 {
            for buf in &mut bufs {
                rig.store.return_landing(*buf);
                let next = rig.store.take_landing(true);
                *buf = next.unwrap_or_else(|| panic!("round {round}: one buffer less"));
            }
        }
        let mut rig = rig.reopen().unwrap();
        for _ in 0..4 {
            rig.store.take_landing(true).expect("a port can hear after a restart");
        }
        for log in ["a", "b"] {
            rig.trim(log, u64::MAX).unwrap();
            rig.commit();
        }
        rig.settle();
        assert!(rig.store.free_bytes() > 8 * MIB);
    }
}

/// D10: a port that has a buffer can receive the trim that makes room; with more of them it would
/// take the room that trims need.
#[test]
fn d10_a_port_that_has_buffers_takes_none_of_the_reserve() {
    let mut rig = Rig::new(16, MediumKind::Shm);
    while rig.store.take_landing(false).is_some() {}
    assert!(rig.store.take_landing(true).is_some(), "the reserve is there");
}
