//! Crashes while the log goes round its region: segments and buffers are used again and again.
//!
//! The store alone, with a device that keeps up to three commits and a superblock in flight. A
//! crash leaves each of them absent, torn or whole; what is found has to be what was done up to
//! some lsn that is not below the last one that was reported as durable.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use std::collections::{BTreeMap, VecDeque};

use common::{Image, Random, Rig};
use impasto_region::{
    BufId, Checksum, Extent, Span,
    layout::{BUF_BYTES, MediumKind, Superblock},
};
use impasto_store::{Answer, Applied, Commit, LogInfo, Lsn, Refusal, Request, Value};

const LOGS: u64 = 40;

/// What was asked for; its effect has an lsn.
#[derive(Clone, Copy, Debug)]
enum Op {
    Append { log: u64, value: u64, len: usize },
    Trim { log: u64, first: u64 },
}

#[derive(Clone, Debug, Default)]
struct Log {
    first: u64,
    values: VecDeque<(u64, usize)>,
}

/// The bytes of value number `value`.
fn bytes_of(value: u64, len: usize) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().repeat(len.div_ceil(8));
    bytes.truncate(len);
    bytes
}

/// A commit on its way to the medium, and the payload that goes before it.
struct Write {
    commit: Commit,
    log: Vec<u8>,
    payload: Vec<(Span, Vec<u8>)>,
}

struct World {
    random: Random,
    rig: Rig,
    medium: MediumKind,
    /// Effects, in lsn order, of all that may still be lost or was not.
    ops: VecDeque<(Lsn, Op)>,
    /// State up to the first of `ops`.
    base: BTreeMap<u64, Log>,
    flight: Vec<Write>,
    superblock: Option<Superblock>,
    values: u64,
    landing: VecDeque<(BufId, u32)>,
    reuses: u64,
}

impl World {
    fn new(medium: MediumKind, seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            rig: Rig::new(16, medium),
            medium,
            ops: VecDeque::new(),
            base: BTreeMap::new(),
            flight: Vec::new(),
            superblock: None,
            values: 0,
            landing: VecDeque::new(),
            reuses: 0,
        };
        world.provide();
        world
    }

    fn lands(&self) -> bool {
        self.medium != MediumKind::Disk
    }

    fn provide(&mut self) {
        while self.lands() && self.landing.len() < 4 {
            // A buffer may have to wait for the trim that frees it.
            let Some(buf) = self.rig.store.take_landing(true) else { break };
            self.landing.push_back((buf, 0));
        }
    }

    /// Applies a request; `false` if it was refused or the medium takes no more.
    fn apply(&mut self, request: Request<'_>, bytes: &[u8], op: Op) -> bool {
        loop {
            match self.rig.apply(request, bytes) {
                Applied::Wait if self.flight.len() == 3 => return false,
                Applied::Wait => self.seal(),
                Applied::Done(effect) => match effect.answer {
                    Ok(Answer::Appended { .. }) => {
                        self.ops.push_back((effect.lsn, op));
                        return true;
                    }
                    Ok(Answer::Trimmed(info)) => {
                        let Op::Trim { log, .. } = op else { panic!("it was a trim") };
                        self.ops.push_back((effect.lsn, Op::Trim { log, first: info.first }));
                        return true;
                    }
                    Err(Refusal::NoSpace | Refusal::NoSuchLog) => return false,
                    other => panic!("{op:?} was answered {other:?}"),
                },
                Applied::Needs(_) => panic!("nothing was read"),
            }
        }
    }

    /// Most are about a few logs; the others are created now and then.
    fn log(&mut self) -> u64 {
        let few = if self.random.below(8) == 0 { LOGS } else { 3 };
        self.random.below(few)
    }

    fn append(&mut self) {
        let log = self.log();
        self.values += 1;
        let len = match self.random.below(10) {
            0..=2 => self.random.below(500),
            3 | 4 => self.random.below(9_000),
            5..=7 => 30_000 + self.random.below(35_000),
            _ => 66_000 + self.random.below(400_000),
        };
        let bytes = bytes_of(self.values, usize::try_from(len).unwrap());
        let op = Op::Append { log, value: self.values, len: bytes.len() };
        let (name, checksum) = (format!("{log}"), Checksum::of(&bytes));
        let len = u32::try_from(len).unwrap();
        if len > 65_536 {
            let mut extents = Vec::new();
            if self.rig.store.reserve(len, &mut extents).is_err() {
                return;
            }
            let mut rest = &bytes[..];
            for extent in &extents {
                let (part, left) = rest.split_at(extent.len as usize);
                self.rig.frames.store(extent.span().at, part);
                self.rig.image.slice(extent.span()).copy_from_slice(part);
                rest = left;
            }
            let request =
                Request::Append { log: &name, value: Value::Kept { extents: &extents, checksum } };
            if !self.apply(request, &[], op) {
                self.rig.store.unreserve(&extents);
            }
        } else if self.lands() && len > 512 {
            let Some(extent) = self.land(&bytes) else { return };
            let value = Value::Kept { extents: &[extent], checksum };
            self.apply(Request::Append { log: &name, value }, &[], op);
        } else {
            let value = Value::Inline { len, checksum };
            self.apply(Request::Append { log: &name, value }, &bytes, op);
        }
    }

    /// Lets bytes land; half of them reach the medium at once, as lines that are evicted do.
    fn land(&mut self, bytes: &[u8]) -> Option<Extent> {
        let len = u32::try_from(bytes.len()).unwrap();
        while self.landing.front().is_some_and(|(_, at)| at + len > BUF_BYTES) {
            let (buf, _) = self.landing.pop_front().unwrap();
            self.rig.store.return_landing(buf);
            self.reuses += 1;
            self.provide();
        }
        let (buf, at) = self.landing.front_mut()?;
        let extent = Extent { buf: *buf, offset: *at, len };
        *at += len;
        self.rig.frames.store(extent.span().at, bytes);
        if self.random.below(2) == 0 {
            self.rig.image.slice(extent.span()).copy_from_slice(bytes);
        }
        Some(extent)
    }

    fn trim(&mut self) {
        let log = self.log();
        let name = format!("{log}");
        let Some(LogInfo { first, next, .. }) = self.describe(&name) else { return };
        let before = match self.random.below(4) {
            0 => first + self.random.below(3),
            1 | 2 => next,
            _ => first + self.random.below(next - first + 1),
        };
        self.apply(Request::Trim { log: &name, before }, &[], Op::Trim { log, first: before });
    }

    fn describe(&mut self, log: &str) -> Option<LogInfo> {
        match self.rig.apply(Request::Describe { log }, &[]) {
            Applied::Done(effect) => match effect.answer {
                Ok(Answer::Described(info)) => Some(info),
                _ => None,
            },
            _ => panic!("a log is described at once"),
        }
    }

    fn seal(&mut self) {
        let Some(commit) = self.rig.seal() else { return };
        let bytes = |span| self.rig.frames.bytes(span).to_vec();
        let payload = self.rig.store.kept().iter().map(|e| (e.span(), bytes(e.span()))).collect();
        let log = bytes(commit.span);
        self.flight.push(Write { commit, log, payload });
    }

    /// Something happens on the medium.
    fn step(&mut self) {
        if self.random.below(3) == 0 && self.flight.len() < 3 {
            self.seal();
        }
        if self.superblock.is_none() {
            self.superblock = self.rig.store.superblock_wanted();
        }
        if self.superblock.is_some() && self.random.below(4) == 0 {
            let superblock = self.superblock.take().unwrap();
            self.rig.image.superblock = superblock;
            self.rig.store.superblock_durable(superblock.generation);
        }
        if !self.flight.is_empty() && self.random.below(2) == 0 {
            let index = self.random.below(self.flight.len() as u64);
            let write = self.flight.remove(usize::try_from(index).unwrap());
            self.persist(&write);
            self.rig.store.completed(write.commit.id, true);
        }
        self.provide();
        let durable = self.rig.store.durable();
        self.settle_ops(durable);
    }

    fn persist(&mut self, write: &Write) {
        for (span, bytes) in &write.payload {
            self.rig.image.slice(*span).copy_from_slice(bytes);
        }
        self.rig.image.slice(write.commit.span).copy_from_slice(&write.log);
    }

    /// Effects up to `lsn` cannot be lost any more.
    fn settle_ops(&mut self, lsn: Lsn) {
        while let Some((_, op)) = self.ops.pop_front_if(|(at, _)| *at <= lsn) {
            match op {
                Op::Append { log, value, len } => {
                    self.base.entry(log).or_default().values.push_back((value, len));
                }
                Op::Trim { log, first } => {
                    let log = self.base.get_mut(&log).unwrap();
                    while log.first + 1 < first {
                        log.values.pop_front().unwrap();
                        log.first += 1;
                    }
                }
            }
        }
    }

    /// The power fails: what is in flight is absent, torn or whole.
    fn crash(mut self) -> Self {
        if let Some(superblock) = self.superblock.take()
            && self.random.below(2) == 0
        {
            self.rig.image.superblock = superblock;
        }
        for write in std::mem::take(&mut self.flight) {
            match self.random.below(4) {
                0 => {}
                1 => self.persist(&write),
                // A line may be evicted before the payload is flushed; on disk there is none.
                2 => self.rig.image.slice(write.commit.span).copy_from_slice(&write.log),
                _ => {
                    for (index, sector) in write.log.chunks(512).enumerate() {
                        if self.random.below(2) == 0 {
                            let at = write.commit.span.at + index as u64 * 512;
                            let span = Span::new(at, sector.len() as u64);
                            self.rig.image.slice(span).copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        let durable = self.rig.store.durable();
        let Image { bytes, superblock } = self.rig.image;
        if self.random.below(4) == 0 {
            // A crash in recovery changes nothing.
            let image = Image { bytes: bytes.clone(), superblock };
            image.recover().unwrap();
        }
        self.rig = Rig::open(Image { bytes, superblock }).unwrap();
        let found = self.rig.store.last_lsn();
        assert!(found >= durable, "records up to {durable} were durable, found up to {found}");
        self.settle_ops(found);
        self.ops.clear();
        self.landing.clear();
        self.check();
        self.provide();
        self
    }

    fn check(&mut self) {
        assert_eq!(self.rig.store.logs().count(), self.base.len());
        for (name, log) in self.base.clone() {
            let name = format!("{name}");
            let info = self.describe(&name).unwrap();
            let records = log.values.len() as u64;
            let first = log.first + 1;
            assert_eq!((info.first, info.records), (first, records), "log {name}");
            let some = self.random.below(16);
            for (seq, (value, len)) in (first..).zip(log.values) {
                if records > 16 && seq % 16 != some {
                    continue;
                }
                let read = self.rig.read(&name, seq);
                assert!(read == Ok(bytes_of(value, len)), "{name}/{seq} has other bytes");
            }
        }
    }
}

fn goes_round(medium: MediumKind, seed: u64) {
    let mut world = World::new(medium, seed);
    for life in 0..40 {
        if life % 3 == 2 {
            for log in 0..LOGS {
                let name = format!("{log}");
                let op = Op::Trim { log, first: u64::MAX };
                world.apply(Request::Trim { log: &name, before: u64::MAX }, &[], op);
            }
        }
        let steps = 5 + world.random.below(120);
        for _ in 0..steps {
            match world.random.below(12) {
                0..=5 => world.append(),
                6 => world.trim(),
                _ => world.step(),
            }
        }
        world = world.crash();
    }
    // On memory most values are not in the log: buffers are what goes round.
    let round = if medium == MediumKind::Disk {
        world.rig.image.superblock.first_needed
    } else {
        world.reuses
    };
    assert!(round > 8, "space was used again, {round} times");
}

/// D4, D6: without the order of trim, superblock and reuse a crash finds old bytes for new, or a
/// log whose front is gone.
#[test]
fn a_disk_region_survives_crashes_while_the_log_goes_round() {
    (0..3).for_each(|seed| goes_round(MediumKind::Disk, 306 + seed));
}

#[test]
fn a_pmem_region_survives_crashes_while_the_log_goes_round() {
    (0..3).for_each(|seed| goes_round(MediumKind::Pmem, 403 + seed));
}
