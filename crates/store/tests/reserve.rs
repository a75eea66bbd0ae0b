//! Bodies under way: the blocks and the log room that they have been promised (D10).

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use std::collections::BTreeMap;

use common::{MIB, Random, Rig};
use impasto_region::{Extent, layout::MediumKind};
use impasto_store::{Refusal, Store};

const KIB: u32 = 1 << 10;

fn assert_send<T: Send>() {}

/// One store stands behind a lock that several workers take.
#[test]
fn a_store_goes_from_thread_to_thread() {
    assert_send::<Store>();
}

/// A record has room for 1,024 extents. If bodies that grow side by side shared their buffers block
/// by block, a long one could not be named.
#[test]
fn a_long_body_has_few_extents_however_many_grow_beside_it() {
    let mut random = Random::new(5);
    let mut rig = Rig::new(112, MediumKind::Disk);
    let (mut long, mut known, mut others) = (Vec::new(), Vec::new(), vec![Vec::new(); 50]);
    for step in 0_u32..256 {
        rig.store.grow(256 * KIB - step % 3, &mut long).unwrap();
        for body in &mut others {
            match random.below(6) {
                0 => rig.store.unreserve(&std::mem::take(body)),
                1 => rig.store.cut(u32::try_from(random.below(100)).unwrap(), body),
                2 => {
                    rig.store.unreserve(&known);
                    rig.store.reserve(70 * KIB, &mut known).unwrap();
                }
                _ if body.len() < 2 => drop(rig.store.grow(9 * KIB, body)),
                _ => {}
            }
        }
    }
    assert!(long.len() <= 258, "{} extents", long.len());
    assert_eq!(long.iter().map(|extent| extent.len).sum::<u32>(), (64 << 20) - 255);
}

/// What a body took beyond its length has to serve others, or short chunked bodies would cost a
/// buffer each.
#[test]
fn what_a_body_did_not_need_serves_the_next_one() {
    let mut rig = Rig::new(16, MediumKind::Disk);
    let free = rig.store.free_bytes();
    for n in 1..=60 {
        let mut body = Vec::new();
        rig.store.grow(256 * KIB, &mut body).unwrap();
        rig.store.cut(16 * KIB, &mut body);
        assert_eq!(rig.append_reserved("a", &body, &[7; 16 << 10]), Ok(n));
    }
    // 60 times 16 KiB, and a segment of the log.
    assert!(rig.store.free_bytes() >= free - 2 * MIB - MIB / 2);
    rig.trim("a", u64::MAX).unwrap();
    rig.settle();
    assert!(rig.store.free_bytes() >= free - 2 * MIB, "no buffer stays open for nothing");
}

/// D10: without room for their records, bodies that were taken to their end would be refused
/// then, if others had filled the log in the meantime.
#[test]
fn a_body_that_was_taken_is_appended_to_a_full_region() {
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        let mut rig = Rig::new(16, medium);
        let (mut body, mut bodies) = (Vec::new(), Vec::new());
        while bodies.len() < 40 {
            rig.store.reserve(70_000, &mut body).unwrap();
            bodies.push(std::mem::take(&mut body));
        }
        // As long as it is there, no trim gives log segments back.
        rig.append("oldest", b"x").unwrap();
        let mut records = 0;
        while let Ok(seq) = rig.append("a", &[1; 3000]) {
            records = seq;
            rig.commit();
        }
        let mut before = 2;
        while before < records && rig.trim("a", before).is_ok() {
            before += 1;
            rig.commit();
        }
        while let Ok(()) = rig.store.reserve(70_000, &mut body) {
            bodies.push(std::mem::take(&mut body));
        }
        for (n, body) in bodies.iter().enumerate() {
            let value = vec![u8::try_from(n).unwrap(); 70_000];
            assert_eq!(rig.append_reserved(&n.to_string(), body, &value), Ok(1), "{medium:?}");
            rig.commit();
        }
        let mut rig = rig.reopen().unwrap();
        for n in 0..bodies.len() {
            let value = vec![u8::try_from(n).unwrap(); 70_000];
            assert_eq!(rig.read(&n.to_string(), 1), Ok(value));
            rig.trim(&n.to_string(), 2).unwrap();
            rig.commit();
        }
        rig.trim("a", u64::MAX).unwrap();
        rig.commit();
        rig.trim("oldest", u64::MAX).unwrap();
        rig.settle();
        assert_eq!(rig.store.promised_bytes(), 0);
        assert!(rig.store.free_bytes() > 10 * MIB);
    }
}

struct Body {
    extents: Vec<Extent>,
    len: u32,
    grows: bool,
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    bodies: Vec<Body>,
    /// By log: number of the first value, and the values.
    logs: BTreeMap<String, (u64, Vec<Vec<u8>>)>,
    taken: u32,
    refused: u32,
}

impl Model {
    fn begin(&mut self, rig: &mut Rig, random: &mut Random) {
        let mut body = Body { extents: Vec::new(), len: 0, grows: random.below(2) == 0 };
        body.len = 1 + u32::try_from(random.below(600)).unwrap() * KIB / 2;
        let taken = match body.grows {
            false => rig.store.reserve(body.len, &mut body.extents),
            true => rig.store.grow(body.len, &mut body.extents),
        };
        match taken {
            Ok(()) => self.bodies.push(body),
            Err(refusal) => {
                assert_eq!((refusal, body.extents.len()), (Refusal::NoSpace, 0));
                self.refused += 1;
            }
        }
    }

    fn grow(&mut self, rig: &mut Rig, random: &mut Random) {
        let Some(body) = self.bodies.iter_mut().rfind(|body| body.grows) else {
            return;
        };
        let before = body.extents.clone();
        let more = u32::try_from(random.below(300_000)).unwrap();
        match rig.store.grow(more, &mut body.extents) {
            Ok(()) => body.len += more,
            Err(_) => assert_eq!(body.extents, before, "all or nothing"),
        }
    }

    /// A body ends: an append that was promised room is never refused.
    fn finish(&mut self, rig: &mut Rig, random: &mut Random, log: String) {
        if self.bodies.is_empty() {
            return;
        }
        let at = random.below(self.bodies.len() as u64);
        let mut body = self.bodies.swap_remove(usize::try_from(at).unwrap());
        if random.below(3) == 0 {
            return rig.store.unreserve(&body.extents);
        }
        if body.grows && random.below(4) > 0 {
            body.len = 1 + u32::try_from(random.below(u64::from(body.len))).unwrap();
            rig.store.cut(body.len, &mut body.extents);
        }
        let promised = rig.store.promised_bytes();
        let value = random.bytes(32).repeat(body.len as usize / 32 + 1);
        let value = value[..body.len as usize].to_vec();
        let seq = rig.append_reserved(&log, &body.extents, &value).unwrap();
        assert!(rig.store.promised_bytes() < promised, "a promise ends with its append");
        self.push(log, seq, value);
        self.taken += 1;
    }

    fn push(&mut self, log: String, seq: u64, value: Vec<u8>) {
        let (first, values) = self.logs.entry(log).or_insert((1, Vec::new()));
        assert_eq!(seq, *first + values.len() as u64);
        values.push(value);
    }

    fn trim(&mut self, rig: &mut Rig, random: &mut Random, log: &str, all: bool) {
        let Some((first, values)) = self.logs.get_mut(log) else {
            return;
        };
        let dead = if all { values.len() as u64 } else { random.below(values.len() as u64 + 1) };
        let trimmed = rig.trim(log, *first + dead);
        if dead == values.len() as u64 {
            trimmed.as_ref().unwrap();
        }
        match trimmed {
            Ok(_) => {
                *first += dead;
                drop(values.drain(..usize::try_from(dead).unwrap()));
            }
            Err(refusal) => assert_eq!(refusal, Refusal::NoSpaceToTrim),
        }
    }

    fn check(&self, rig: &mut Rig) {
        for (log, (first, values)) in &self.logs {
            for (seq, value) in (*first..).zip(values) {
                assert!(rig.read(log, seq).as_ref() == Ok(value), "{log}/{seq}");
            }
        }
    }
}

/// D10 in random histories: bodies grow, end, and are given up, while others fill the region and
/// trims use what is left. A promise that is not kept is a 507 after the body; one that leaks,
/// space that no trim brings back.
fn promises_are_kept(medium: MediumKind, random: &mut Random) {
    let mut rig = Rig::new(16, medium);
    let mut model = Model::default();
    for _ in 0..3 {
        for _ in 0..600 {
            let log = format!("log-{}", random.below(12));
            match random.below(16) {
                0..3 => model.begin(&mut rig, random),
                3..5 => model.grow(&mut rig, random),
                5..7 => model.finish(&mut rig, random, log),
                7..11 => {
                    let value = vec![3; usize::try_from(random.below(64 << 10)).unwrap()];
                    if let Ok(seq) = rig.append(&log, &value) {
                        model.push(log, seq, value);
                    }
                }
                11..14 => model.trim(&mut rig, random, &log, false),
                14 if random.below(4) == 0 => model.trim(&mut rig, random, &log, true),
                _ => rig.commit(),
            }
        }
        rig.commit();
        if random.below(2) == 0 {
            model.bodies.clear();
            rig = rig.reopen().unwrap();
        }
        model.check(&mut rig);
        for body in model.bodies.drain(..) {
            rig.store.unreserve(&body.extents);
        }
        let logs: Vec<_> = model.logs.keys().cloned().collect();
        for log in logs {
            model.trim(&mut rig, random, &log, true);
            rig.commit();
        }
        rig.settle();
        assert_eq!(rig.store.promised_bytes(), 0, "no promise leaks");
        assert!(rig.store.free_bytes() >= 12 * MIB, "{} are free", rig.store.free_bytes());
    }
    assert!(model.taken > 20 && model.refused > 20, "{} {}", model.taken, model.refused);
}

#[test]
fn promises_are_kept_in_random_histories() {
    let mut random = Random::new(41);
    for medium in [MediumKind::Disk, MediumKind::Shm] {
        for _ in 0..3 {
            promises_are_kept(medium, &mut random);
        }
    }
}
