//! Images that no log wrote: recovery refuses them or makes a state of them, and never panics.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use common::{Image, MIB, Random, Rig};
use impasto_region::{Checksum, Span, layout::MediumKind};
use impasto_store::Corruption;

/// A region with inline and long values, trims, several segments and several lives, the last of
/// which left a hole behind it.
fn region(medium: MediumKind, random: &mut Random) -> Image {
    let mut rig = Rig::new(16, medium);
    for life in 0..3 {
        for _ in 0..40 {
            let name = format!("log-{}", random.below(4));
            let len = random.below(40_000);
            match random.below(8) {
                0 => drop(rig.append_long(&name, &vec![life; 70_000]).unwrap()),
                1 => drop(rig.trim(&name, random.below(20))),
                _ => drop(rig.append(&name, &vec![life; usize::try_from(len).unwrap()]).unwrap()),
            }
            if random.below(3) > 0 {
                rig.commit();
            }
        }
        rig.commit();
        rig.append("log-0", b"lost").unwrap();
        rig.seal();
        rig.append("log-1", b"void").unwrap();
        let void = rig.seal().unwrap();
        rig.persist(void);
        if life < 2 {
            rig = rig.reopen().unwrap();
        }
    }
    rig.image
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).try_into().unwrap()
}

/// Returns where commits stand that are whole.
fn commits(image: &Image) -> Vec<usize> {
    let align = usize::try_from(image.superblock.commit_align).unwrap();
    let at = (4096..image.bytes.len() - 4096).step_by(align);
    at.filter(|&at| image.bytes[at..at + 4] == *b"ICMT" && u32_at(&image.bytes, at + 4) < 1 << 19)
        .collect()
}

/// Makes the checksum of the commit at `at` right.
fn fix_commit(image: &mut Image, at: usize) {
    let end = at + 64 + u32_at(&image.bytes, at + 4);
    if end > image.bytes.len() {
        return;
    }
    let mut sum = Checksum::new();
    sum.update(image.superblock.uuid.as_bytes());
    sum.update(&(at as u64).to_le_bytes());
    sum.update(&image.bytes[at..at + 56]);
    sum.update(&image.bytes[at + 64..end]);
    image.bytes[at + 56..at + 64].copy_from_slice(&sum.value().to_le_bytes());
}

fn fix_segment(image: &mut Image, at: usize) {
    let sum = Checksum::of(&image.bytes[at..at + 504]);
    image.bytes[at + 504..at + 512].copy_from_slice(&sum.to_le_bytes());
}

fn put(image: &mut Image, at: usize, random: &mut Random) {
    let value = match random.below(11) {
        0 => u64::MAX,
        1 => 0,
        2 => 1 << 62,
        3 => (1 << 44) - 1,
        4 => ((1 << 44) - 2) << 20,
        5 => u64::from(u32::MAX),
        6 => random.below(8),
        7 => random.below(1 << 20),
        8 => random.below(u64::MAX),
        9 => (random.below(64) << 32) | random.below(1 << 19),
        _ => u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap()).wrapping_add(1),
    };
    let bytes = [4, 8][usize::try_from(random.below(2)).unwrap()];
    image.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
}

/// Changes something, and what is checksummed gets its checksum.
fn forge(image: &mut Image, commits: &[usize], random: &mut Random) {
    let index = |random: &mut Random, len: usize| {
        usize::try_from(random.below(u64::try_from(len).unwrap())).unwrap()
    };
    match random.below(10) {
        0 => {
            let at = 4096 + index(random, image.bytes.len() - 8192);
            image.bytes[at] ^= 1 << random.below(8);
        }
        1 | 2 => {
            let at = 4096 + index(random, 15) * (1 << 20);
            put(image, at + 24 + 8 * index(random, 5), random);
            fix_segment(image, at);
        }
        3 => {
            let field = match random.below(5) {
                0 => &mut image.superblock.epoch,
                1 => &mut image.superblock.start_lsn,
                2 => &mut image.superblock.start_offset,
                3 => &mut image.superblock.first_needed,
                _ => &mut image.superblock.durable_lsn,
            };
            *field = [0, 1, u64::MAX, 1 << 62, 1 << 44, 3][index(random, 6)];
        }
        4 | 5 => {
            let at = commits[index(random, commits.len())];
            put(image, at + 4 + 4 * index(random, 13), random);
            fix_commit(image, at);
        }
        _ => {
            // The head of a record: the first one, or wherever the lengths lead.
            let at = commits[index(random, commits.len())];
            let end = at + 64 + u32_at(&image.bytes, at + 4);
            let mut record = at + 64;
            for _ in 0..random.below(5) {
                let next = record + u32_at(&image.bytes, record).next_multiple_of(8);
                record = if next > record && next + 32 < end { next } else { record };
            }
            put(image, record + 4 * index(random, 12), random);
            fix_commit(image, at);
        }
    }
}

/// What was made of an image has to work, too. Returns what it is after a restart.
fn serve(mut rig: Rig) -> Result<usize, Corruption> {
    let names: Vec<String> = rig.store.logs().map(str::to_owned).collect();
    for name in &names {
        let _ = rig.append(name, &[1; 3000]);
        let _ = rig.append_long(name, &[1; 70_000]);
        let _ = rig.trim(name, 5);
        rig.commit();
    }
    for name in &names {
        let _ = rig.trim(name, u64::MAX);
    }
    rig.settle();
    rig.reopen().map(|rig| rig.store.logs().count())
}

/// Without a check for each field that recovery computes with, some image stops every start with a
/// panic, or lets the store run into one later.
#[test]
fn no_image_panics() {
    let mut random = Random::new(21);
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        let image = region(medium, &mut random);
        let commits = commits(&image);
        assert!(commits.len() > 60);
        let mut served = 0;
        for _ in 0..250 {
            let mut forged = Image { bytes: image.bytes.clone(), superblock: image.superblock };
            for _ in 0..=random.below(3) {
                forge(&mut forged, &commits, &mut random);
            }
            if let Ok(rig) = Rig::open(forged) {
                // Two epochs that contradict each other may show only now.
                let _ = serve(rig);
                served += 1;
            }
        }
        assert!(served > 20, "some changes are harmless, {served} of 250 were on {medium:?}");
    }
}

/// Whatever half of a segment is lost, what was acknowledged is there or its loss is named.
#[test]
fn no_block_of_garbage_panics() {
    let mut random = Random::new(22);
    let image = region(MediumKind::Disk, &mut random);
    for _ in 0..60 {
        let mut damaged = Image { bytes: image.bytes.clone(), superblock: image.superblock };
        let at = 4096 + random.below(14 * MIB) / 4096 * 4096;
        let garbage = random.bytes(4096);
        damaged.slice(Span::new(at, 4096)).copy_from_slice(&garbage);
        if let Ok(rig) = Rig::open(damaged) {
            assert_eq!(serve(rig), Ok(4), "block {at:#x}");
        }
    }
}
