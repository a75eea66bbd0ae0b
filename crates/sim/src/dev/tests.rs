//! The disk does to us what disks may do.

use impasto_region::layout::Geometry;

use super::*;
use crate::{Atom, Cache, range};

const OLD: u8 = 0x11;
const NEW: u8 = 0x22;
const NEWER: u8 = 0x33;

const FUA: Model = Model { cache: Cache::Fua, atom: Atom::Sector };
const FLUSHING: Model = Model { cache: Cache::FlushOnDsync, atom: Atom::Sector };

struct Bench {
    frames: Frames,
    dev: SimDev,
    power: Power,
}

impl Bench {
    fn new(model: Model) -> Self {
        Self::with_seed(model, 1)
    }

    fn with_seed(model: Model, seed: u64) -> Self {
        let power = Power::new();
        let frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        let dev = SimDev::new(vec![OLD; 256 << 10], seed, model, power.clone());
        Self { frames, dev, power }
    }

    fn start(&mut self, span: Span, byte: u8, how: Durability) -> DevToken {
        self.frames.store(span.at, &vec![byte; usize::try_from(span.len).unwrap()]);
        self.dev.write(&mut (), &self.frames, span, how)
    }

    fn start_sync(&mut self) -> DevToken {
        Dev::<()>::sync(&mut self.dev, &mut ())
    }

    /// Completes all; returns whether all went well.
    fn complete(&mut self) -> bool {
        self.dev.complete_all();
        let mut ok = true;
        while let Some((_, result)) = self.dev.poll(&mut (), &mut self.frames) {
            ok &= result.is_ok();
        }
        ok
    }

    fn write(&mut self, span: Span, byte: u8, how: Durability) {
        self.start(span, byte, how);
        assert!(self.complete());
    }

    fn sync(&mut self) {
        self.start_sync();
        assert!(self.complete());
    }

    fn read(&mut self, span: Span) -> io::Result<Vec<u8>> {
        self.dev.read(&mut (), &mut self.frames, span);
        self.dev.complete_all();
        let (_, result) = self.dev.poll(&mut (), &mut self.frames).unwrap();
        result.map(|()| self.frames.bytes(span).to_vec())
    }

    /// Returns what 200 crashes leave of `span`; of the first two nothing volatile and all of it.
    fn crashes(&self, span: Span) -> Vec<Vec<u8>> {
        let fates = [Fate::Nothing, Fate::Everything].into_iter();
        let fates = fates.chain((0..200).map(Fate::Seeded));
        fates.map(|fate| self.dev.crash(fate)[range(span)].to_vec()).collect()
    }
}

fn blocks(first: u64, count: u64) -> Span {
    Span::new(first * BLOCK_BYTES, count * BLOCK_BYTES)
}

fn all(bytes: &[u8], byte: u8) -> bool {
    bytes.iter().all(|other| *other == byte)
}

fn is_never_lost(found: &[Vec<u8>], byte: u8) -> bool {
    found.iter().all(|bytes| all(bytes, byte))
}

fn may_be_lost(found: &[Vec<u8>]) -> bool {
    all(&found[0], OLD) && found[2..].iter().any(|bytes| all(bytes, OLD))
}

#[test]
fn a_write_that_was_not_synced_may_be_lost_or_there_or_torn_at_atoms() {
    for (atom, bytes) in [(Atom::Sector, 512), (Atom::Block, 4096)] {
        let mut bench = Bench::new(Model { cache: Cache::Fua, atom });
        bench.write(blocks(4, 2), NEW, Durability::Plain);
        let found = bench.crashes(blocks(4, 2));
        assert!(may_be_lost(&found));
        assert!(all(&found[1], NEW));
        assert!(found[2..].iter().any(|bytes| all(bytes, NEW)));
        assert!(found[2..].iter().any(|bytes| !all(bytes, NEW) && !all(bytes, OLD)));
        let whole = |found: &Vec<u8>| found.chunks(bytes).all(|atom| all(atom, atom[0]));
        assert!(found.iter().all(whole));
    }
}

#[test]
fn a_write_in_flight_may_be_found_whatever_its_durability() {
    for model in Model::ALL {
        let mut bench = Bench::new(model);
        bench.start(blocks(4, 2), NEW, Durability::Dsync);
        let found = bench.crashes(blocks(4, 2));
        assert!(may_be_lost(&found));
        assert!(all(&found[1], NEW));
    }
}

/// D1 rests on it: a body that was written plainly is not durable because the log is.
#[test]
fn a_dsync_write_hardens_earlier_writes_only_if_the_device_flushes_for_it() {
    for (model, hardens) in [(FUA, false), (FLUSHING, true)] {
        let mut bench = Bench::new(model);
        bench.write(blocks(4, 1), NEW, Durability::Plain);
        bench.write(blocks(8, 1), NEW, Durability::Dsync);
        assert!(is_never_lost(&bench.crashes(blocks(8, 1)), NEW));
        let body = bench.crashes(blocks(4, 1));
        assert_eq!(is_never_lost(&body, NEW), hardens);
        assert_eq!(may_be_lost(&body), !hardens);
    }
}

#[test]
fn a_sync_hardens_what_had_completed_when_it_was_issued() {
    let mut bench = Bench::new(FUA);
    bench.write(blocks(4, 1), NEW, Durability::Plain);
    bench.sync();
    assert!(is_never_lost(&bench.crashes(blocks(4, 1)), NEW));
}

/// D1: the sync is issued first, completes last, and still says nothing about the write.
#[test]
fn a_sync_issued_before_a_write_completed_does_not_harden_it() {
    for seed in 0..20 {
        let mut bench = Bench::with_seed(FUA, seed);
        bench.start(blocks(4, 1), NEW, Durability::Plain);
        bench.start_sync();
        assert!(bench.complete());
        assert!(may_be_lost(&bench.crashes(blocks(4, 1))), "seed {seed}");
    }
}

#[test]
fn a_later_write_may_be_found_and_an_earlier_one_lost() {
    let mut bench = Bench::new(FUA);
    bench.write(blocks(4, 1), NEW, Durability::Plain);
    bench.write(blocks(5, 1), NEW, Durability::Plain);
    let found = bench.crashes(blocks(4, 2));
    assert!(found.iter().any(|found| all(&found[..4096], OLD) && all(&found[4096..], NEW)));
}

#[test]
fn of_two_writes_to_a_block_either_may_be_found_until_one_is_durable() {
    let mut bench = Bench::new(FUA);
    bench.write(blocks(4, 1), NEW, Durability::Plain);
    bench.write(blocks(4, 1), NEWER, Durability::Plain);
    let found = bench.crashes(blocks(4, 1));
    for byte in [OLD, NEW, NEWER] {
        assert!(found.iter().any(|block| all(block, byte)), "{byte:#x}");
    }
    bench.write(blocks(4, 1), NEWER, Durability::Dsync);
    assert!(is_never_lost(&bench.crashes(blocks(4, 1)), NEWER));
}

/// D7, "fsyncgate": the second sync succeeds and the write is gone nevertheless.
#[test]
fn a_failed_sync_drops_what_it_was_to_harden() {
    let mut bench = Bench::new(FUA);
    bench.dev.fail_sync(0);
    bench.write(blocks(4, 1), NEW, Durability::Plain);
    bench.start_sync();
    assert!(!bench.complete());
    bench.sync();
    assert!(is_never_lost(&bench.crashes(blocks(4, 1)), OLD));
    assert!(all(&bench.read(blocks(4, 1)).unwrap(), OLD));
}

#[test]
fn a_failed_write_reports_it_and_changes_any_of_its_atoms() {
    let mut bench = Bench::new(FUA);
    bench.dev.fail_write(1);
    bench.write(blocks(2, 1), NEW, Durability::Plain);
    bench.start(blocks(4, 8), NEW, Durability::Dsync);
    assert!(!bench.complete());
    let found = bench.crashes(blocks(4, 8));
    assert!(found.iter().all(|found| !all(found, OLD) && !all(found, NEW)));
}

#[test]
fn a_lost_sector_is_unreadable_until_it_is_written() {
    let mut bench = Bench::new(FUA);
    bench.dev.lose_sector(5 * BLOCK_BYTES + 700);
    assert!(bench.read(blocks(4, 2)).is_err());
    assert!(bench.read(blocks(4, 1)).is_ok());
    bench.write(blocks(5, 1), NEW, Durability::Plain);
    assert!(all(&bench.read(blocks(5, 1)).unwrap(), NEW));
}

#[test]
fn a_flipped_bit_is_read_flipped_until_it_is_written() {
    let mut bench = Bench::new(FUA);
    bench.dev.flip(5 * BLOCK_BYTES + 700, 0x80);
    let found = bench.read(blocks(5, 1)).unwrap();
    assert_eq!(found.iter().filter(|byte| **byte != OLD).count(), 1);
    assert_eq!(found[700], OLD ^ 0x80);
    bench.write(blocks(5, 1), NEW, Durability::Plain);
    assert!(all(&bench.read(blocks(5, 1)).unwrap(), NEW));
}

/// The server goes on after the cut: it does not hang, reads what it wrote, and none of it is
/// found.
#[test]
fn nothing_after_the_cut_is_found() {
    let mut bench = Bench::new(FLUSHING);
    bench.write(blocks(2, 1), NEW, Durability::Plain);
    bench.start(blocks(4, 1), NEW, Durability::Plain);
    bench.power.cut();
    bench.start(blocks(6, 1), NEW, Durability::Dsync);
    bench.start_sync();
    assert!(bench.complete());
    assert!(all(&bench.read(blocks(6, 1)).unwrap(), NEW));
    assert!(is_never_lost(&bench.crashes(blocks(6, 1)), OLD));
    for volatile in [blocks(2, 1), blocks(4, 1)] {
        let found = bench.crashes(volatile);
        assert!(may_be_lost(&found));
        assert!(all(&found[1], NEW));
    }
}

/// At its own site an operation has not taken effect: a write whose start is the cut was never
/// started.
#[test]
fn each_start_and_completion_is_a_site() {
    for (site, in_flight, durable) in [(0, false, false), (1, true, false), (2, true, true)] {
        let mut bench = Bench::new(FUA);
        bench.power.cut_at(site);
        bench.write(blocks(4, 1), NEW, Durability::Dsync);
        bench.read(blocks(4, 1)).unwrap();
        assert_eq!(bench.power.sites(), 4);
        let found = bench.crashes(blocks(4, 1));
        assert_eq!(all(&found[1], NEW), in_flight, "site {site}");
        assert_eq!(all(&found[0], NEW), durable, "site {site}");
    }
}

#[test]
fn operations_complete_in_any_order_and_a_step_completes_at_least_one() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let mut bench = Bench::with_seed(FUA, seed);
        let tokens = [1, 2, 3].map(|at| bench.start(blocks(at, 1), NEW, Durability::Dsync));
        let mut order = Vec::new();
        for left in (0..3).rev() {
            if bench.dev.in_flight() == 0 {
                break;
            }
            assert!(bench.dev.step());
            assert!(bench.dev.in_flight() <= left);
        }
        assert!(!bench.dev.step());
        while let Some((token, _)) = bench.dev.poll(&mut (), &mut bench.frames) {
            order.push(tokens.iter().position(|other| *other == token).unwrap());
        }
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let image = |seed, crash| {
        let mut bench = Bench::with_seed(FUA, seed);
        bench.power.cut_at(25);
        for block in 0..20 {
            bench.start(blocks(2 * block, 2), NEW, Durability::Plain);
            if block % 3 == 0 {
                bench.start_sync();
                bench.dev.step();
            }
        }
        bench.complete();
        bench.dev.crash(Fate::Seeded(crash))
    };
    assert!(image(1, 1) == image(1, 1));
    assert!(image(1, 1) != image(1, 2));
    assert!(image(1, 1) != image(2, 1));
}

/// A real device would write a mixture of both.
#[test]
#[should_panic(expected = "changed while their write was in flight")]
fn bytes_that_change_in_flight_are_a_bug() {
    let mut bench = Bench::new(FUA);
    bench.start(blocks(4, 1), NEW, Durability::Dsync);
    bench.frames.store(blocks(4, 1).at, b"!");
    bench.complete();
}

#[test]
#[should_panic(expected = "overlaps a write in flight")]
fn writes_in_flight_that_overlap_are_a_bug() {
    let mut bench = Bench::new(FUA);
    bench.start(blocks(4, 2), NEW, Durability::Dsync);
    bench.start(blocks(5, 1), NEWER, Durability::Dsync);
}

/// A completion is seen by the loop that started the operation: were it whoever asks first, a
/// checker would not see that a wake-up is missing.
#[test]
fn a_loop_polls_what_it_wants() {
    let mut bench = Bench::new(FUA);
    let first = bench.start(Span::new(0, 4096), NEW, Durability::Dsync);
    let second = bench.start(Span::new(4096, 4096), NEW, Durability::Dsync);
    bench.dev.complete_all();
    for token in [second, first] {
        let of = |other| token == other;
        assert!(bench.dev.has_completed(of));
        let polled = bench.dev.poll_of(&mut bench.frames, of);
        assert_eq!(polled.map(|(token, _)| token), Some(token));
        assert!(!bench.dev.has_completed(of));
    }
}
