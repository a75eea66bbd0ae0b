//! The memory does to us what memory may do.

use impasto_region::{BufId, Extent, layout::Geometry};

use super::*;
use crate::fill;

const OLD: u8 = 0x11;
const NEW: u8 = 0x22;
const NEWER: u8 = 0x33;

struct Bench {
    frames: Frames,
    lines: SimLines,
    power: Power,
}

impl Bench {
    fn new() -> Self {
        let power = Power::new();
        let image = vec![OLD; 1 << 20];
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        fill(&mut frames, &image);
        Self { frames, lines: SimLines::new(image, power.clone()), power }
    }

    fn store(&mut self, at: u64, len: usize, byte: u8) {
        self.frames.store(at, &vec![byte; len]);
    }

    fn flush(&mut self, at: u64, len: u64) {
        self.lines.flush(&self.frames, Span::new(at, len));
    }

    fn fence(&mut self) {
        self.lines.fence(&self.frames);
    }

    /// Returns what 200 crashes leave of `len` bytes at `at`.
    fn crashes(&self, at: u64, len: u64) -> Vec<Vec<u8>> {
        let fates = [Fate::Nothing, Fate::Everything].into_iter();
        let fates = fates.chain((0..200).map(Fate::Seeded));
        let crash = |fate| self.lines.crash(fate, &self.frames)[range(Span::new(at, len))].to_vec();
        fates.map(crash).collect()
    }
}

fn all(bytes: &[u8], byte: u8) -> bool {
    bytes.iter().all(|other| *other == byte)
}

/// A simulator that kept all stores would not see a missing flush; one that lost them all would not
/// see a missing order.
#[test]
fn a_line_that_was_not_fenced_may_be_lost_or_evicted_or_torn_by_words() {
    let mut bench = Bench::new();
    bench.store(8192, 64, NEW);
    for flushed in [false, true] {
        if flushed {
            bench.flush(8192, 64);
        }
        let found = bench.crashes(8192, 64);
        assert!(all(&found[0], OLD), "nothing");
        assert!(all(&found[1], NEW), "everything");
        assert!(found[2..].iter().any(|line| all(line, OLD)), "lost");
        assert!(found[2..].iter().any(|line| all(line, NEW)), "evicted");
        assert!(found[2..].iter().any(|line| !all(line, OLD) && !all(line, NEW)), "torn");
        for line in &found {
            assert!(line.chunks_exact(8).all(|word| all(word, word[0])), "a word is an atom");
        }
    }
}

#[test]
fn a_fenced_line_is_never_lost() {
    let mut bench = Bench::new();
    bench.store(8190, 68, NEW);
    bench.flush(8190, 68);
    bench.fence();
    assert!(bench.crashes(8190, 68).iter().all(|bytes| all(bytes, NEW)));
}

/// What was stored after the flush is not durable with it, even if it is in the same line.
#[test]
fn a_fence_hardens_what_was_flushed_and_not_what_came_later() {
    let mut bench = Bench::new();
    bench.store(8192, 32, NEW);
    bench.flush(8192, 32);
    bench.store(8224, 32, NEW);
    bench.fence();
    let found = bench.crashes(8192, 64);
    assert!(found.iter().all(|line| all(&line[..32], NEW)));
    assert!(all(&found[0][32..], OLD));
}

/// A fence waits for the flushes of its own CPU: without that, a checker would not see a worker
/// that fences what another one has flushed.
#[test]
fn a_fence_hardens_nothing_that_another_cpu_has_flushed() {
    let mut bench = Bench::new();
    bench.store(8192, 64, NEW);
    bench.flush(8192, 64);
    bench.lines.run_on(1);
    bench.fence();
    assert!(bench.crashes(8192, 64).iter().any(|found| all(found, OLD)));
    bench.lines.run_on(0);
    bench.fence();
    assert!(bench.crashes(8192, 64).iter().all(|found| all(found, NEW)));
}

/// A line is written back in one order, whoever does it: what another CPU flushed before cannot
/// come back after this.
#[test]
fn an_older_snapshot_of_another_cpu_does_not_outlive_a_fence() {
    let mut bench = Bench::new();
    for (cpu, byte) in [(0, OLD), (1, NEW), (0, NEWER)] {
        bench.lines.run_on(cpu);
        bench.store(8192, 64, byte);
        bench.flush(8192, 64);
    }
    bench.lines.run_on(1);
    bench.fence();
    let crashes = bench.crashes(8192, 64);
    assert!(crashes.iter().all(|found| !found.contains(&OLD)));
    assert!(crashes.iter().any(|found| all(found, NEW)));
}

/// D1, on this memory: of two lines without a fence between them the second may be there alone.
#[test]
fn lines_are_evicted_in_any_order() {
    let mut bench = Bench::new();
    bench.store(8192, 64, NEW);
    bench.flush(8192, 64);
    bench.store(512 << 10, 64, NEW);
    bench.flush(512 << 10, 64);
    let (first, second) = (bench.crashes(8192, 64), bench.crashes(512 << 10, 64));
    let pairs = || first.iter().zip(&second);
    assert!(pairs().any(|(first, second)| all(first, OLD) && all(second, NEW)));
    assert!(pairs().any(|(first, second)| all(first, NEW) && all(second, OLD)));
}

#[test]
fn an_unfenced_snapshot_may_be_found_after_a_later_store() {
    let mut bench = Bench::new();
    bench.store(8192, 8, NEW);
    bench.flush(8192, 8);
    bench.store(8192, 8, 0x33);
    let found = bench.crashes(8192, 8);
    for byte in [OLD, NEW, 0x33] {
        assert!(found.iter().any(|word| all(word, byte)), "{byte:#x}");
    }
}

/// The server goes on after the cut; what it does then must not look durable.
#[test]
fn nothing_after_the_cut_is_found() {
    let mut bench = Bench::new();
    bench.power.cut_at(1);
    bench.store(8192, 64, NEW);
    bench.flush(8192, 64);
    bench.fence();
    bench.store(8192, 64, 0x33);
    bench.flush(8192, 64);
    bench.fence();
    let found = bench.crashes(8192, 64);
    assert!(all(&found[0], OLD), "the fence at the cut did not take effect");
    assert!(all(&found[1], NEW), "the live image is that of the cut");
    assert!(!found.iter().flatten().any(|byte| *byte == 0x33));
    assert_eq!(bench.power.sites(), 4);
}

/// A port is still filling the buffer: the line at its mark is flushed with what has landed before.
#[test]
fn bytes_that_have_not_landed_are_not_looked_at() {
    let mut bench = Bench::new();
    let mut loan = bench.frames.loan(BufId(2));
    let Extent { buf, .. } = bench.frames.land(&mut loan, &[NEW; 100]);
    bench.flush(buf.start(), 100);
    bench.fence();
    let found = bench.crashes(buf.start(), 128);
    assert!(found.iter().all(|bytes| all(&bytes[..100], NEW) && all(&bytes[100..], OLD)));
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let mut bench = Bench::new();
    bench.store(4096, 100_000, NEW);
    bench.flush(4096, 50_000);
    let crash = |seed| bench.lines.crash(Fate::Seeded(seed), &bench.frames);
    assert!(crash(1) == crash(1));
    assert!(crash(1) != crash(2));
}
