//! The real media on simulated hardware, with the power cut at every site.
//!
//! Values are bodies that are persisted, then named by a commit, as the store does it. After each
//! crash: what was acknowledged is there, and no commit is there without the body that it names
//! (D1). Long bodies are written in parts, and some are abandoned on the way: their blocks are then
//! those of the next one (D4).

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

/// When the blocks of an abandoned body are used again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Abandoned,
    /// Wrong: when nobody wants the body any more.
    Unwanted,
}

const PLACES: usize = 4;
const PLACE_BLOCKS: u64 = 12;

fn place(index: u64) -> Span {
    Span::new(index * PLACE_BLOCKS * BLOCK_BYTES, PLACE_BLOCKS * BLOCK_BYTES)
}

/// What is going on at a place.
#[derive(Clone, Copy)]
enum Place {
    Free,
    /// The first `blocks` of the body are begun.
    Filling {
        value: u64,
        blocks: u64,
    },
    /// Persisting or being abandoned.
    Ending(u64),
    Persisted(u64),
    Failed,
}

struct PartsRun {
    dev: SimDev,
    power: Power,
    frames: Frames,
    disk: Disk<SimDev>,
    places: [Place; PLACES],
    rng: Rng,
    values: u64,
    reuse: Reuse,
}

impl PartsRun {
    /// Fills every place with a body, the last of several; the power fails at `cut`.
    fn new(model: Model, seed: u64, cut: Option<u64>, reuse: Reuse) -> Self {
        let mut rng = Rng::new(seed);
        let power = Power::new();
        let image_bytes = usize::try_from(place(PLACES as u64).at).unwrap();
        let dev = SimDev::new(vec![0; image_bytes], rng.next(), model, power.clone());
        match rng.below(8) {
            0 => dev.fail_sync(rng.below(3)),
            1 => dev.fail_write(rng.below(60)),
            _ => {}
        }
        if let Some(site) = cut {
            power.cut_at(site);
        }
        let disk = Disk::new(dev.clone());
        let places = [Place::Free; PLACES];
        let mut run = Self { dev, power, frames: frames(), disk, places, rng, values: 0, reuse };
        while !run.is_over() {
            let index = run.rng.index(run.places.len());
            run.go_on(index);
            // Now and then: more is begun than may be in flight.
            if run.rng.once_in(4) {
                run.dev.step();
            }
            while let Some(event) = run.disk.poll(&mut (), &mut run.frames) {
                run.end(&event);
            }
        }
        run
    }

    fn is_over(&self) -> bool {
        let ended = |place: &Place| matches!(place, Place::Persisted(_) | Place::Failed);
        self.places.iter().all(ended) && self.dev.in_flight() == 0
    }

    /// Begins the next part of the body at a place, or abandons it.
    fn go_on(&mut self, index: usize) {
        let Self { frames, disk, rng, .. } = self;
        match self.places[index] {
            Place::Free => {
                self.places[index] = Place::Filling { value: self.values, blocks: 0 };
                self.values += 1;
            }
            Place::Filling { value, .. } if rng.once_in(12) => {
                disk.abandon(&mut (), Ticket(value));
                self.places[index] = match self.reuse {
                    Reuse::Abandoned => Place::Ending(value),
                    Reuse::Unwanted => Place::Free,
                };
            }
            Place::Filling { value, blocks } => {
                let count = (1 + rng.below(2)).min(PLACE_BLOCKS - blocks);
                let at = place(index as u64).at + blocks * BLOCK_BYTES;
                let part = Span::new(at, count * BLOCK_BYTES);
                store(frames, part, value);
                let blocks = blocks + count;
                self.places[index] = Place::Filling { value, blocks };
                let is_last = blocks == PLACE_BLOCKS;
                if is_last && rng.once_in(2) {
                    disk.persist(&mut (), frames, Ticket(value), &[part]);
                } else {
                    disk.write(&mut (), frames, Ticket(value), &[part]);
                    if is_last {
                        disk.persist(&mut (), frames, Ticket(value), &[]);
                    }
                }
                if is_last {
                    self.places[index] = Place::Ending(value);
                }
            }
            Place::Ending(_) | Place::Persisted(_) | Place::Failed => {}
        }
    }

    fn end(&mut self, event: &Event) {
        let (ticket, ended) = match event {
            Event::Abandoned(ticket) => (ticket, Place::Free),
            Event::Persisted(ticket, Ok(())) if self.power.is_on() => {
                (ticket, Place::Persisted(ticket.0))
            }
            Event::Persisted(ticket, _) => (ticket, Place::Failed),
            other => panic!("{other:?}"),
        };
        let mut places = self.places.iter_mut();
        let place =
            places.find(|place| matches!(place, Place::Ending(value) if *value == ticket.0));
        match place {
            Some(place) => *place = ended,
            None => assert!(self.reuse == Reuse::Unwanted, "{event:?} ends nothing"),
        }
    }

    fn persisted(&self) -> impl Iterator<Item = (Span, u64)> {
        let places = (0..).zip(&self.places);
        places.filter_map(|(index, what)| match what {
            Place::Persisted(value) => Some((place(index), *value)),
            _ => None,
        })
    }
}

/// D1, D4: a body that was persisted is whole, whatever was abandoned in its blocks before.
#[test]
fn a_persisted_body_is_whole_though_an_abandoned_one_was_in_its_blocks() {
    for seed in seeds() {
        for model in Model::ALL {
            let sites = PartsRun::new(model, seed, None, Reuse::Abandoned).power.sites();
            for site in 0..=sites {
                let run = PartsRun::new(model, seed, Some(site), Reuse::Abandoned);
                let persisted: Vec<(Span, u64)> = run.persisted().collect();
                if persisted.is_empty() {
                    continue;
                }
                for fate in FATES {
                    let image = run.dev.crash(fate);
                    for &(span, value) in &persisted {
                        let place = format!("IMPASTO_SEED={seed} {model:?} site {site} {fate:?}");
                        assert!(holds(&image, span, value), "{place}: value {value}");
                    }
                }
            }
        }
    }
}

/// A workload in which all fails or nothing is abandoned would pass every check.
#[test]
fn all_places_are_filled_where_nothing_fails_and_many_more_than_once() {
    let run = |seed| PartsRun::new(Model::ALL[0], seed, None, Reuse::Abandoned);
    let filled = (0..8).map(run).filter(|run| run.persisted().count() == PLACES);
    let values: Vec<u64> = filled.map(|run| run.values).collect();
    assert!(values.len() >= 4, "{values:?}");
    assert!(values.iter().any(|values| *values > PLACES as u64 + 2), "{values:?}");
}

/// The canary: were `Abandoned` reported while a write is in flight, the next body would be written
/// in a race with it. The device notices that two writes in flight overlap, or that the bytes of
/// one have changed.
#[test]
#[should_panic(expected = "in flight")]
fn blocks_that_are_used_again_before_abandoned_are_caught() {
    for seed in 0..16 {
        PartsRun::new(Model::ALL[0], seed, None, Reuse::Unwanted);
    }
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
