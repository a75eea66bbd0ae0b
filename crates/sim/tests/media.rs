//! The real media on simulated hardware, with the power cut at every site.
//!
//! Values are bodies that are persisted, then named by a commit, as the store does it. After each
//! crash: what was acknowledged is there, and no commit is there without the body that it names
//! (D1).

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{env, fmt::Write as _, ops::Range};

use impasto_media::{CommitId, Disk, Event, Medium, Pmem, Ticket};
use impasto_region::{
    BufId, Extent, Frames, Span,
    layout::{BLOCK_BYTES, Geometry, MediumKind},
};
use impasto_sim::{Cache, Fate, Model, Power, Rng, SimDev, SimLines};

const VALUES: u64 = 6;
const IMAGE_BYTES: usize = 512 << 10;
const FATES: [Fate; 6] = [
    Fate::Nothing,
    Fate::Everything,
    Fate::Seeded(1),
    Fate::Seeded(2),
    Fate::Seeded(3),
    Fate::Seeded(4),
];

fn seeds() -> Range<u64> {
    match env::var("IMPASTO_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..4,
    }
}

/// Value `value` is `1 + value % 4` blocks of its own byte; its commit is two blocks of the same.
fn body(value: u64) -> Span {
    Span::new((1 + 4 * value) * BLOCK_BYTES, (1 + value % 4) * BLOCK_BYTES)
}

fn log(value: u64) -> Span {
    Span::new((64 + 2 * value) * BLOCK_BYTES, 2 * BLOCK_BYTES)
}

fn store(frames: &mut Frames, span: Span, value: u64) {
    frames.store(span.at, &vec![byte(value); usize::try_from(span.len).unwrap()]);
}

fn byte(value: u64) -> u8 {
    value.to_le_bytes()[0] + 1
}

fn holds(image: &[u8], span: Span, value: u64) -> bool {
    let at = usize::try_from(span.at).unwrap();
    let end = usize::try_from(span.end()).unwrap();
    image[at..end].iter().all(|found| *found == byte(value))
}

fn frames() -> Frames {
    Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap()
}

/// When the record of a body is committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Persisted,
    /// Wrong: when its writes have started.
    Started,
}

struct DiskRun {
    dev: SimDev,
    power: Power,
    acked: Vec<u64>,
}

/// Runs the workload of `seed`; the power fails at `cut`.
fn run_disk(model: Model, seed: u64, cut: Option<u64>, names: Names) -> DiskRun {
    let mut rng = Rng::new(seed);
    let power = Power::new();
    let dev = SimDev::new(vec![0; IMAGE_BYTES], rng.next(), model, power.clone());
    if rng.once_in(4) {
        dev.fail_sync(rng.below(3));
    }
    if let Some(site) = cut {
        power.cut_at(site);
    }
    let (mut frames, mut disk) = (frames(), Disk::new(dev.clone()));
    let (mut started, mut ready, mut acked) = (0, Vec::new(), Vec::new());
    loop {
        let starts = started < VALUES && rng.once_in(2);
        if starts {
            store(&mut frames, body(started), started);
            disk.persist(&mut (), &frames, Ticket(started), &[body(started)]);
            if names == Names::Started {
                ready.push(started);
            }
            started += 1;
        }
        let stepped = dev.step();
        let mut events = 0;
        while let Some(event) = disk.poll(&mut (), &mut frames) {
            events += 1;
            match event {
                Event::Persisted(Ticket(value), Ok(())) if names == Names::Persisted => {
                    ready.push(value);
                }
                Event::Committed(CommitId(value), Ok(())) if power.is_on() => acked.push(value),
                _ => {}
            }
        }
        while let Some(value) = ready.last().copied()
            && Medium::<()>::accepts_commit(&disk, log(value).len)
        {
            ready.pop();
            store(&mut frames, log(value), value);
            disk.commit(&mut (), &frames, CommitId(value), log(value), &[]);
        }
        if started == VALUES && !stepped && events == 0 && dev.in_flight() == 0 {
            return DiskRun { dev, power, acked };
        }
    }
}

/// Cuts the power at every site of the workload, and returns what is wrong then.
fn crash_disk(model: Model, seed: u64, names: Names) -> String {
    let mut wrong = String::new();
    let sites = run_disk(model, seed, None, names).power.sites();
    for site in 0..=sites {
        let DiskRun { dev, acked, .. } = run_disk(model, seed, Some(site), names);
        for fate in FATES {
            let image = dev.crash(fate);
            for value in 0..VALUES {
                let log = holds(&image, log(value), value);
                let body = holds(&image, body(value), value);
                let is_lost = acked.contains(&value) && !(log && body);
                if is_lost || (log && !body) {
                    let place = format!("IMPASTO_SEED={seed} {model:?} site {site} {fate:?}");
                    writeln!(wrong, "{place}: value {value}: {log} {body}").unwrap();
                }
            }
        }
    }
    wrong
}

/// D1, D7: with devices that reorder, tear, drop, and fail syncs.
#[test]
fn no_commit_is_found_without_its_body_and_nothing_acked_is_lost_on_disk() {
    for seed in seeds() {
        for model in Model::ALL {
            assert_eq!(crash_disk(model, seed, Names::Persisted), "");
        }
    }
}

/// The canary: if this passed, too, the test above would prove nothing.
#[test]
fn a_commit_that_does_not_wait_for_its_body_is_caught() {
    for model in Model::ALL {
        assert!((0..4).any(|seed| !crash_disk(model, seed, Names::Started).is_empty()));
    }
}

/// A workload that does not fail and acknowledges nothing would pass every check.
#[test]
fn all_is_acked_where_nothing_fails() {
    let model = Model { cache: Cache::Fua, ..Model::ALL[0] };
    let complete = |seed| run_disk(model, seed, None, Names::Persisted).acked.len() as u64;
    assert!((0..8).filter(|seed| complete(*seed) == VALUES).count() >= 4);
}

/// D1: log and payload share no line, and neither was announced to the memory.
#[test]
fn nothing_acked_is_lost_on_pmem() {
    for seed in seeds() {
        let mut sites = 0;
        for cut in 0.. {
            let power = Power::new();
            power.cut_at(cut);
            let lines = SimLines::new(vec![0; IMAGE_BYTES], power.clone());
            let (mut frames, mut rng) = (frames(), Rng::new(seed));
            let mut pmem = Pmem::new(lines.clone(), MediumKind::Pmem);
            let mut acked = Vec::new();
            let mut offset = 0;
            for value in 0..VALUES {
                let len = 1 + u32::try_from(rng.below(2000)).unwrap();
                let kept = Extent { buf: BufId(0), offset, len };
                offset += len;
                store(&mut frames, kept.span(), value);
                store(&mut frames, log(value), value);
                pmem.commit(&mut (), &frames, CommitId(value), log(value), &[kept]);
                if power.is_on() {
                    acked.push((value, kept));
                }
            }
            for fate in FATES {
                let image = lines.crash(fate, &frames);
                for &(value, kept) in &acked {
                    let found =
                        holds(&image, log(value), value) && holds(&image, kept.span(), value);
                    assert!(found, "IMPASTO_SEED={seed} site {cut} {fate:?}: value {value}");
                }
            }
            sites = cut;
            if power.is_on() {
                break;
            }
        }
        assert_eq!(sites, 4 * VALUES);
    }
}
