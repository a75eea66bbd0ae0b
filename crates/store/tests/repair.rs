//! What a cut makes of a damaged log, and what it costs.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use std::collections::BTreeMap;

use common::{Image, MIB, Random, Rig};
use impasto_region::{
    Frames, SegmentId, Span,
    layout::{BLOCK_BYTES, MediumKind},
};
use impasto_store::{
    Corruption, FoundWhat, Lost, LostRecord, Rebuild, Rebuilt, Recovered, Recovery, Repair, Step,
};

/// Recovers an image whose log has to be cut.
fn cut(image: &Image) -> (Frames, Recovered, Lost) {
    let mut frames = Frames::anonymous(image.superblock.geometry, 0).unwrap();
    let mut recovery = Recovery::new(image.superblock);
    let corruption = loop {
        match recovery.step(&frames) {
            Ok(Step::Read(spans)) => spans.into_iter().for_each(|span| {
                let bytes = &image.bytes[usize::try_from(span.at).unwrap()..];
                frames.store(span.at, &bytes[..usize::try_from(span.len).unwrap()]);
            }),
            Ok(Step::Done) => panic!("the damage is not seen"),
            Err(corruption) => break corruption,
        }
    };
    let named =
        matches!(corruption, Corruption::Missing { .. } | Corruption::MissingSegment { .. });
    assert!(named, "{corruption}");
    let lost = recovery.cut(&frames).unwrap();
    let recovered = recovery.finish(&frames).unwrap();
    (frames, recovered, lost)
}

fn repair(image: &Image) -> (Frames, Repair, Lost) {
    let (mut frames, recovered, lost) = cut(image);
    let repair = recovered.into_repair(&mut frames).unwrap();
    (frames, repair, lost)
}

/// Writes the first `steps` parts of a repair: commits, header, superblock.
fn write(image: &mut Image, frames: &Frames, repair: &Repair, steps: usize) {
    let states = repair.states.iter();
    let commits = states.clone().flat_map(|states| &states.commits);
    let copy = |image: &mut Image, span: Span| {
        let bytes = frames.bytes(span).to_vec();
        image.slice(span).copy_from_slice(&bytes);
    };
    if steps >= 1 {
        commits.for_each(|span| copy(image, *span));
    }
    if steps >= 2 {
        states.for_each(|states| copy(image, states.header));
    }
    if steps >= 3 {
        image.superblock = repair.superblock;
    }
}

fn repaired(mut image: Image) -> (Rig, Lost) {
    let (frames, repair, lost) = repair(&image);
    write(&mut image, &frames, &repair, 3);
    (Rig::open(image).unwrap(), lost)
}

fn seqs(lost: &[LostRecord]) -> Vec<(u64, u64)> {
    let seq = |record: &LostRecord| match record.what {
        FoundWhat::Append { seq, .. } => Some((record.lsn.0, seq)),
        _ => None,
    };
    lost.iter().filter_map(seq).collect()
}

/// Returns the start of the segment in which a span lies.
fn segment_at(span: Span) -> u64 {
    BLOCK_BYTES + (span.at - BLOCK_BYTES) / MIB * MIB
}

/// Returns the chain number of the segment of the log in which byte `at` stands.
fn chain_of(image: &Image, at: u64) -> u64 {
    let head = usize::try_from(segment_at(Span::new(at, 1))).unwrap();
    u64::from_le_bytes(image.bytes[head + 32..head + 40].try_into().unwrap())
}

/// Five commits of a record each, and where the third stands.
fn five(medium: MediumKind) -> (Rig, Span) {
    let mut rig = Rig::new(16, medium);
    let mut third = None;
    for n in 1..=5_u8 {
        rig.append("a", &[n; 100]).unwrap();
        let commit = rig.seal().unwrap();
        rig.persist(commit);
        rig.store.completed(commit.id, true);
        if n == 3 {
            third = Some(commit.span);
        }
    }
    (rig, third.unwrap())
}

/// D2: the bits of the length, too, may be the ones that are damaged. Commits behind a length that
/// no commit has bear witness all the same: else the log ends there without a word.
#[test]
fn a_commit_with_any_damaged_length_is_missed() {
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        for bit in 0..32 {
            let (mut rig, third) = five(medium);
            rig.image.slice(third)[4 + bit / 8] ^= 1 << (bit % 8);
            let found = rig.image.recover();
            assert!(matches!(found, Err(Corruption::Missing { .. })), "{medium:?}, bit {bit}");
        }
    }
}

/// What stands before the damage is kept, what stands behind it is listed, and the next run goes on
/// where the log was cut: what is void stays void (D6).
#[test]
fn d6_the_log_ends_before_the_damage_and_what_is_behind_is_listed() {
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        let (mut rig, third) = five(medium);
        rig.image.slice(third)[80] ^= 1;
        let (mut rig, lost) = repaired(rig.image);
        // The first record is the log's state.
        assert_eq!((lost.first.0, lost.last.0), (4, 6));
        assert_eq!(lost.unreadable.iter().map(|(a, b)| (a.0, b.0)).collect::<Vec<_>>(), [(4, 4)]);
        assert_eq!(seqs(&lost.records), [(5, 4), (6, 5)]);
        assert_eq!(lost.records[0].extents.iter().map(|extent| extent.len).sum::<u32>(), 100);
        assert_eq!(rig.read("a", 2).unwrap(), [2; 100]);
        assert!(rig.read("a", 3).is_err());
        assert_eq!(rig.append("a", &[33; 100]), Ok(3));
        rig.commit();
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.read("a", 3).unwrap(), [33; 100]);
        assert!(rig.read("a", 4).is_err(), "what was cut off does not come back");
    }
}

/// A log without records goes on with its numbers, and one that is gone is there again, empty: a
/// number that meant a record that is lost does not come to mean another one.
#[test]
fn numbers_of_empty_logs_go_on() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    rig.append("kept", b"one").unwrap();
    rig.append("emptied", b"one").unwrap();
    rig.trim("emptied", 2).unwrap();
    rig.commit();
    rig.append("kept", b"damaged").unwrap();
    let damaged = rig.seal().unwrap();
    rig.persist(damaged);
    rig.store.completed(damaged.id, true);
    for n in 0..3 {
        rig.append("emptied", &[n]).unwrap();
        rig.append("new", &[n]).unwrap();
        rig.append("kept", &[n]).unwrap();
        rig.commit();
    }
    rig.image.slice(damaged.span)[70] ^= 1;
    let (mut rig, _) = repaired(rig.image);
    assert_eq!(rig.append("emptied", b"next"), Ok(5));
    assert_eq!(rig.append("new", b"next"), Ok(4));
    // Its first record is there, so the numbers behind it are given out again.
    assert_eq!(rig.append("kept", b"next"), Ok(2));
    rig.commit();
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("new", 4).unwrap(), b"next");
    assert_eq!(rig.read("kept", 1).unwrap(), b"one");
}

/// A region whose state has moved to the log's tail, and where a commit before that stands.
fn with_moved_state() -> (Rig, Span) {
    let mut rig = Rig::new(24, MediumKind::Disk);
    rig.append("quiet", b"once").unwrap();
    rig.trim("quiet", 2).unwrap();
    rig.append("living", b"first").unwrap();
    rig.commit();
    let mut spans = Vec::new();
    for n in 0..90_u64 {
        rig.append("busy", &vec![u8::try_from(n).unwrap(); 60_000]).unwrap();
        let commit = rig.seal().unwrap();
        rig.persist(commit);
        rig.store.completed(commit.id, true);
        spans.push(commit.span);
        if n == 59 {
            rig.append("living", b"second").unwrap();
            rig.trim("living", 2).unwrap();
            rig.trim("busy", 58).unwrap();
            rig.settle();
        }
    }
    assert!(rig.image.superblock.first_needed > 1, "the front was freed");
    (rig, spans[57])
}

/// Without the states that stood behind the cut, records would have a log without a name, and the
/// region would not open.
#[test]
fn states_that_stood_behind_the_cut_are_appended_again() {
    let (mut rig, damaged) = with_moved_state();
    rig.image.slice(damaged)[200] ^= 1;
    let (mut rig, lost) = repaired(rig.image);
    assert!(lost.records.iter().any(|record| matches!(record.what, FoundWhat::State { .. })));
    assert_eq!(rig.append("quiet", b"again"), Ok(2));
    rig.commit();
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("quiet", 2).unwrap(), b"again");
    assert!(rig.append("busy", b"goes on").is_ok());
    assert!(rig.append("living", b"goes on").is_ok());
}

/// D6: commits 6, 7 and 8 are in flight, power fails, 6 is torn, and the newer superblock is lost.
/// The next run must not have the epoch of that one: its own sixth record would make 7 and 8 come
/// back.
#[test]
fn commits_behind_a_hole_stay_void_without_the_newer_superblock() {
    let (rig, _) = five(MediumKind::Disk);
    let first_run = rig.image.superblock;
    let mut rig = rig.reopen().unwrap();
    for n in 6..=8_u8 {
        rig.append("a", &[n; 100]).unwrap();
        let commit = rig.seal().unwrap();
        if n > 6 {
            rig.persist(commit);
        }
    }
    let mut image = rig.image;
    image.superblock = first_run;
    let (frames, recovered) = image.recover_beside_damage().unwrap();
    image.superblock = recovered.superblock;
    let mut rig = Rig { frames, store: recovered.into_store(), image };
    assert_eq!(rig.append("a", &[66; 100]), Ok(6));
    rig.commit();
    let mut rig = rig.reopen().unwrap();
    assert_eq!(rig.read("a", 6).unwrap(), [66; 100]);
    assert!(rig.read("a", 7).is_err(), "it was given up");
}

/// Names stand in states alone. A log under another name than it had is a surprise, unless that is
/// told.
#[test]
fn names_that_are_made_up_are_told() {
    let (mut rig, _) = with_moved_state();
    let states = rig.image.bytes.windows(4).enumerate().filter(|(_, bytes)| bytes == b"busy");
    let moved = states.map(|(at, _)| at as u64).max_by_key(|&at| (chain_of(&rig.image, at), at));
    rig.image.slice(Span::new(moved.unwrap(), 1))[0] ^= 1;
    let (_, recovered, _) = cut(&rig.image);
    let made_up: Vec<_> = recovered.names_made_up().collect();
    let logs: Vec<_> = recovered.logs().map(|(name, _)| name).collect();
    assert!(!made_up.is_empty(), "{logs:?}");
    assert!(made_up.iter().all(|name| name.starts_with("lost-log-") && logs.contains(name)));
}

/// D6, D9: a repair that is killed leaves the region damaged as it was, or repaired.
#[test]
fn a_repair_that_stops_halfway_can_be_repeated() {
    for steps in 0..=3 {
        let (mut rig, damaged) = with_moved_state();
        rig.image.slice(damaged)[200] ^= 1;
        let (frames, first, lost) = repair(&rig.image);
        assert!(first.states.is_some());
        let mut image = rig.image;
        write(&mut image, &frames, &first, steps);
        if image.recover().is_err() {
            if steps < 2 {
                let (_, _, again) = repair(&image);
                assert_eq!(again.records, lost.records, "nothing more is lost");
            }
            let (frames, second, _) = repair(&image);
            write(&mut image, &frames, &second, 3);
        } else {
            assert!(steps >= 2);
        }
        let mut rig = Rig::open(image).unwrap();
        assert_eq!(rig.append("quiet", b"again"), Ok(2), "after {steps} steps");
    }
}

/// D6: with the newer superblock lost, only commits behind the damage know the last run. Their
/// epoch given out again, they would not be void: they would bear witness for what was cut off, and
/// the repaired region would not open, or lose them without a word.
#[test]
fn a_run_that_only_lost_commits_know_is_cut_off_with_its_epoch() {
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        let (rig, third) = five(medium);
        let first_run = rig.image.superblock;
        let mut rig = rig.reopen().unwrap();
        for n in 6..=8_u8 {
            rig.append("a", &[n; 100]).unwrap();
            rig.commit();
        }
        let mut image = rig.image;
        image.superblock = first_run;
        image.slice(third)[80] ^= 1;
        let (mut rig, lost) = repaired(image);
        let seqs: Vec<_> = seqs(&lost.records).into_iter().map(|(_, seq)| seq).collect();
        assert_eq!(seqs, [4, 5, 6, 7, 8], "all that can be read is listed");
        for n in 3..=5_u8 {
            assert_eq!(rig.append("a", &[100 + n; 100]), Ok(n.into()));
            rig.commit();
        }
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.read("a", 5).unwrap(), [105; 100]);
        assert!(rig.read("a", 6).is_err(), "what is void does not come back");
    }
}

/// D6: nor does the epoch of a run come back whose commits are not seen, in a segment that has lost
/// its header and its first commit: states of the cut log may be appended in that very segment.
#[test]
fn the_epoch_of_a_run_that_is_not_seen_is_not_given_out_again() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    let mut spans = Vec::new();
    for n in 0..17_u64 {
        rig.append("a", &vec![u8::try_from(n).unwrap(); 64_000]).unwrap();
        rig.append("b", b"").unwrap();
        rig.trim("b", n + 2).unwrap();
        let commit = rig.seal().unwrap();
        rig.persist(commit);
        rig.store.completed(commit.id, true);
        spans.push(commit.span);
    }
    let first_run = rig.image.superblock;
    let mut rig = rig.reopen().unwrap();
    let mut last = None;
    for n in 0..5_u8 {
        rig.append("a", &[n; 1_000]).unwrap();
        let commit = rig.seal().unwrap();
        rig.persist(commit);
        rig.store.completed(commit.id, true);
        last = Some(commit.span);
    }
    let mut image = rig.image;
    let segment = segment_at(last.unwrap());
    assert_ne!(segment, segment_at(spans[0]), "the second run is in the log's second segment");
    image.superblock = first_run;
    image.slice(spans[2])[200] ^= 1;
    image.slice(Span::new(segment, 2 * BLOCK_BYTES)).fill(0);
    let (frames, repair, _) = repair(&image);
    let states = repair.states.as_ref().unwrap();
    assert_eq!(segment_at(states.header), segment);
    write(&mut image, &frames, &repair, 3);
    let mut rig = Rig::open(image).unwrap();
    assert_eq!(rig.append("a", b"goes on"), Ok(3));
}

/// Whatever is flipped in a log: a repair makes a region that opens and shows what was appended.
#[test]
fn a_repaired_region_shows_only_what_was_appended() {
    let mut random = Random::new(7);
    for round in 0..60 {
        let medium = if round % 2 == 0 { MediumKind::Disk } else { MediumKind::Shm };
        let mut rig = Rig::new(20, medium);
        let mut model: BTreeMap<(String, u64), Vec<u8>> = BTreeMap::new();
        for _ in 0..300 {
            let log = format!("log{}", random.below(4));
            let len = 1 + random.below(8);
            let value = random.bytes(len);
            let value = value.repeat(1 + usize::try_from(random.below(3_000)).unwrap());
            if let Ok(seq) = rig.append(&log, &value) {
                model.insert((log.clone(), seq), value);
            }
            if random.below(20) == 0 {
                let _full = rig.trim(&log, random.below(200));
            }
            if random.below(3) == 0 {
                rig.commit();
            }
        }
        rig.settle();
        let mut image = rig.image;
        for _ in 0..=random.below(3) {
            // Anywhere, or a segment's header, or its first commit.
            let at = match random.below(3) {
                0 => BLOCK_BYTES + random.below(19 * MIB),
                block => random.below(19) * MIB + block * BLOCK_BYTES,
            };
            image.slice(Span::new(at, 64)).fill(0xa5);
        }
        if image.recover().is_err() {
            let (frames, repair, _) = repair(&image);
            write(&mut image, &frames, &repair, 3);
        }
        let (_, recovered) = image.recover().unwrap();
        let shown: Vec<_> =
            recovered.values().map(|value| (value.log.to_owned(), value.seq)).collect();
        let mut rig = Rig::open(image).unwrap();
        for (log, seq) in shown {
            let value = rig.read(&log, seq).unwrap();
            // Of a log whose name is lost the records are there all the same.
            let named = |name: &str| *name == log || log.starts_with("lost-log-");
            let mut same = model.iter().filter(|((name, n), _)| *n == seq && named(name));
            assert!(same.any(|(_, appended)| *appended == value), "round {round}: {log} {seq}");
        }
        rig.append("log0", b"it goes on").unwrap();
    }
}

/// The worst case: the log's first segment is gone, and with it all records. The region opens, and
/// logs go on with their numbers, as far as their names can be read.
#[test]
fn a_log_that_is_lost_from_its_start_is_empty_with_its_numbers() {
    for blocks in [1, 2] {
        let (mut rig, _) = with_moved_state();
        let superblock = rig.image.superblock;
        let (_, recovered) = rig.image.recover().unwrap();
        let next: BTreeMap<_, _> =
            recovered.logs().map(|(log, info)| (log.to_owned(), info.next)).collect();
        let first = (0..superblock.geometry.segments()).map(|n| SegmentId(n).start()).find(|&at| {
            let head = rig.image.slice(Span::new(at, 64));
            head.starts_with(b"IMPSEGM\0") && head[32..40] == superblock.first_needed.to_le_bytes()
        });
        rig.image.slice(Span::new(first.unwrap(), blocks * BLOCK_BYTES)).fill(0);
        let (mut rig, lost) = repaired(rig.image);
        assert_eq!(lost.first.0, 1);
        if blocks == 2 {
            // The states stood in its first commit: nobody knows the names any more.
            assert!(lost.records.len() > 10 && rig.store.logs().next().is_none());
            continue;
        }
        for (log, next) in &next {
            assert_eq!(rig.append(log, b"next"), Ok(*next), "{log}");
        }
        rig.commit();
        let mut rig = rig.reopen().unwrap();
        assert_eq!(rig.read("busy", next["busy"]).unwrap(), b"next");
    }
}

/// With both superblocks lost, the log itself tells of which region it is and where it starts.
#[test]
fn a_superblock_is_rebuilt_from_segment_headers() {
    let (rig, _) = with_moved_state();
    let mut image = rig.image;
    let old = image.superblock;
    let mut rebuild = Rebuild::new(old.geometry, MediumKind::Disk);
    for segment in (0..old.geometry.segments()).map(SegmentId) {
        let block = image.slice(Span::new(segment.start(), BLOCK_BYTES)).to_vec();
        rebuild.look(segment, &block);
    }
    let Rebuilt { superblock, missing } = rebuild.superblock().unwrap();
    assert_eq!(missing, None);
    assert_eq!(superblock.uuid, old.uuid);
    assert!(superblock.first_needed <= old.first_needed);
    let values = |image: &Image| {
        let (_, recovered) = image.recover().unwrap();
        recovered.values().map(|v| (v.log.to_owned(), v.seq, v.checksum)).collect::<Vec<_>>()
    };
    let before = values(&image);
    image.superblock = superblock;
    assert_eq!(values(&image), before);
    assert!(Rebuild::new(old.geometry, MediumKind::Disk).superblock().is_none());
}

/// A log of which all stood in a segment that has lost its header is not missed by anyone. That
/// such a segment was there is told.
#[test]
fn segments_that_a_rebuilt_superblock_misses_are_told() {
    let (rig, _) = with_moved_state();
    let mut image = rig.image;
    let old = image.superblock;
    let rebuilt = |image: &mut Image| {
        let mut rebuild = Rebuild::new(old.geometry, MediumKind::Disk);
        for segment in (0..old.geometry.segments()).map(SegmentId) {
            let block = image.slice(Span::new(segment.start(), BLOCK_BYTES)).to_vec();
            rebuild.look(segment, &block);
        }
        rebuild.superblock().unwrap()
    };
    let least = rebuilt(&mut image).superblock.first_needed;
    for segment in (0..old.geometry.segments()).map(SegmentId) {
        let chain = chain_of(&image, segment.start());
        let head = image.slice(Span::new(segment.start(), BLOCK_BYTES));
        if head.starts_with(b"IMPSEGM\0") && chain == least + 1 {
            head.fill(0);
        }
    }
    let Rebuilt { superblock, missing } = rebuilt(&mut image);
    assert_eq!((superblock.first_needed, missing), (least + 2, Some((least, least + 1))));
}
