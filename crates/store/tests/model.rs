//! The store against a model, through crashes at commit boundaries.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use std::collections::BTreeMap;

use common::{Image, Random, Rig};
use impasto_region::layout::MediumKind;
use impasto_store::{Answer, Refusal};

#[derive(Clone, Default)]
struct Model {
    first: u64,
    values: BTreeMap<u64, Vec<u8>>,
}

impl Model {
    fn next(&self) -> u64 {
        self.values.last_key_value().map_or_else(|| self.first.max(1), |(seq, _)| seq + 1)
    }
}

fn check(rig: &mut Rig, models: &BTreeMap<String, Model>) {
    assert_eq!(rig.store.logs().count(), models.len());
    for (name, model) in models {
        let next = model.next();
        for (seq, value) in &model.values {
            assert_eq!(rig.read(name, *seq).as_ref(), Ok(value), "{name}/{seq}");
        }
        assert_eq!(rig.read(name, next), Err(Refusal::Future { next }));
        if model.first > 1 {
            let first = model.first;
            assert_eq!(rig.read(name, first - 1), Err(Refusal::Trimmed { first }));
        }
    }
}

/// Whatever is appended, trimmed and crashed, the index derived from the log is the one that was
/// acknowledged (D5): without it a restart would lose, repeat or resurrect records.
fn survives(medium: MediumKind, seed: u64) {
    let mut random = Random::new(seed);
    let mut rig = Rig::open(Image::fresh(16, medium)).unwrap();
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for round in 0..60 {
        for _ in 0..random.below(40) {
            let name = format!("log-{}", random.below(5));
            let len = match random.below(10) {
                0 => 0,
                1..6 => random.below(200),
                6..9 => random.below(8192),
                _ => random.below(64 << 10),
            };
            if random.below(12) == 0 {
                let Some(model) = models.get_mut(&name) else {
                    continue;
                };
                let before = random.below(model.next() + 3);
                let Ok(Answer::Trimmed(info)) = rig.trim(&name, before) else { panic!("trimmed") };
                let first = before.clamp(model.first.max(1), model.next());
                model.values = model.values.split_off(&first);
                model.first = first;
                assert_eq!((info.first, info.records), (first, model.values.len() as u64));
                continue;
            }
            let value = random.bytes(len);
            let long = random.below(8) == 0;
            let appended =
                if long { rig.append_long(&name, &value) } else { rig.append(&name, &value) };
            match appended {
                Ok(seq) => {
                    let model = models
                        .entry(name)
                        .or_insert_with(|| Model { first: 1, ..Model::default() });
                    assert_eq!(seq, model.next());
                    model.values.insert(seq, value);
                }
                Err(refusal) => assert_eq!(refusal, Refusal::NoSpace),
            }
        }
        rig.commit();
        if random.below(4) == 0 {
            rig = rig.reopen().unwrap();
            check(&mut rig, &models);
        }
        if round % 20 == 19 {
            for (name, model) in &mut models {
                model.first = model.next();
                model.values.clear();
                rig.trim(name, u64::MAX).unwrap();
            }
            rig.settle();
            check(&mut rig, &models);
        }
    }
}

#[test]
fn a_disk_region_is_what_the_model_says() {
    (0..6).for_each(|seed| survives(MediumKind::Disk, 100 + seed));
}

#[test]
fn a_shm_region_is_what_the_model_says() {
    (0..6).for_each(|seed| survives(MediumKind::Shm, 200 + seed));
}
