//! A region that goes from one medium to another: from commits aligned to 64 bytes to such aligned
//! to 4,096, and back.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Image, Random, Rig};
use impasto_region::{Extent, layout::MediumKind};

/// The model: what each log has to hold.
#[derive(Default)]
struct Model(Vec<(String, u64, Vec<Vec<u8>>)>);

impl Model {
    fn check(&self, rig: &mut Rig) {
        for (name, first, values) in &self.0 {
            for (seq, value) in (*first..).zip(values) {
                assert_eq!(rig.read(name, seq).as_ref(), Ok(value), "{name}/{seq}");
            }
        }
    }
}

/// Without an alignment for each segment, a look for commits behind the change of media would start
/// from a wrong place, and take the end of the log for damage or miss it.
#[test]
fn a_region_goes_from_medium_to_medium_and_keeps_what_it_holds() {
    let mut random = Random::new(7);
    let mut rig = Rig::new(32, MediumKind::Shm);
    let mut model = Model::default();
    for life in 0..40 {
        for _ in 0..random.below(30) {
            let name = format!("log{}", random.below(3));
            let log = model.0.iter().position(|(known, ..)| *known == name).unwrap_or_else(|| {
                model.0.push((name.clone(), 1, Vec::new()));
                model.0.len() - 1
            });
            let (_, first, values) = &mut model.0[log];
            if random.below(8) == 0 {
                let gone = random.below(values.len() as u64 + 1);
                rig.trim(&name, *first + gone).unwrap();
                *first += gone;
                values.drain(..usize::try_from(gone).unwrap());
            } else {
                let end = if random.below(6) == 0 { 200_000 } else { 3_000 };
                let value = random.bytes_below(end);
                let seq = if value.len() > 64 << 10 {
                    rig.append_long(&name, &value)
                } else {
                    rig.append(&name, &value)
                };
                assert_eq!(seq, Ok(*first + values.len() as u64));
                values.push(value);
            }
            if random.below(3) == 0 {
                rig.commit();
            }
        }
        rig.settle();
        let media = [MediumKind::Shm, MediumKind::Disk, MediumKind::Pmem];
        let medium = media[usize::try_from(random.below(3)).unwrap()];
        println!("life {life}: on {}", medium.name());
        rig = Rig::open_on(rig.image, medium).unwrap();
        assert_eq!(rig.image.superblock.medium, medium);
        model.check(&mut rig);
    }
}

/// D6: the run on the new medium begins in a new segment, but what the run before it has left
/// behind the end of the log is void from there on, and not only from that segment on.
#[test]
fn what_stood_behind_the_end_stays_void_on_the_next_medium() {
    let mut rig = Rig::new(16, MediumKind::Shm);
    rig.append("a", b"first").unwrap();
    rig.commit();
    rig.append_long("a", &[1; 100_000]).unwrap();
    rig.commit();
    // Nobody bears witness for the second record, and its value is not what it was.
    rig.read("a", 2).unwrap();
    let extent: Extent = rig.store.found()[0];
    rig.image.slice(extent.span()).fill(2);

    let mut rig = Rig::open_on(rig.image, MediumKind::Disk).unwrap();
    assert_eq!(rig.append("a", b"second").unwrap(), 2);
    rig.commit();
    rig.append("a", b"third").unwrap();
    rig.commit();
    // Now there is a witness for that lsn: values of such commits are not verified any more.
    let mut rig = rig.reopen().unwrap();
    for (seq, value) in [(1, &b"first"[..]), (2, b"second"), (3, b"third")] {
        assert_eq!(rig.read("a", seq).unwrap(), value);
    }
}

/// D10: on a disk a block is set aside for the trim of each log, on memory a line or two. A region
/// that has no room for them could not be emptied any more.
#[test]
fn a_region_too_full_for_the_promises_of_a_disk_says_how_much_is_missing() {
    let mut rig = Rig::new(16, MediumKind::Shm);
    for log in 0..4_000 {
        rig.append(&format!("log{log}"), b"x").unwrap();
    }
    rig.settle();
    assert_eq!(rig.store.segments_missing(), 0);
    let image = Image { bytes: rig.image.bytes.clone(), superblock: rig.image.superblock };
    let rig = Rig::open_on(image, MediumKind::Disk).unwrap();
    // 4,000 blocks are 16 MiB, and all of the region has 15.
    assert!((3..=8).contains(&rig.store.segments_missing()), "{}", rig.store.segments_missing());
}
