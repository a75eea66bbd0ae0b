//! What memory costs: misses, flushes, bandwidth.

use std::{hint::black_box, sync::Barrier, thread};

use impasto_region::{CpuFlush, Frames, Span, layout::Geometry};

use crate::{
    BudgetError, Figure, Machine,
    machine::{Pinned, pages_forced},
    measure::{Clock, shuffled},
};

/// Bytes that are flushed at a time.
pub const FLUSH_BYTES: [usize; 4] = [64, 256, 1024, 4096];

/// One load that no cache answers: a walk in random order through the lines of a working set. In
/// `pages` of 4 KiB the processor also looks up where the page is, and finds that in no cache
/// either.
///
/// # Errors
/// [`BudgetError::Memory`] if memory is short, [`BudgetError::Pages`] if the system gives others.
pub fn cache_miss(
    machine: &Machine,
    clock: Clock,
    times: usize,
    pages: Pages,
) -> Result<Figure, BudgetError> {
    const STEPS: usize = 2_000;
    pages.check()?;
    let bytes = machine.working_set_bytes;
    // With the order in which its lines are gone through.
    machine.room_for(bytes + bytes / (LINE_BYTES / size_of::<usize>()) as u64)?;
    let count = usize::try_from(bytes).expect("it fits memory") / LINE_BYTES;
    let region_bytes = bytes.next_multiple_of(1 << 20).max(16 << 20);
    let geometry = Geometry::new(region_bytes).expect("a region's size");
    let mut frames = match pages {
        Pages::Ordinary => Frames::anonymous(geometry, 0)?,
        Pages::Huge => Frames::anonymous_huge(geometry, 0)?,
    };
    let order = shuffled(count);
    for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
        let next = (to * LINE_BYTES) as u64;
        frames.store((from * LINE_BYTES) as u64, &next.to_le_bytes());
    }
    drop(order);
    let lines = frames.bytes(Span::new(0, bytes));
    let mut at = 0;
    Ok(clock.each(times, STEPS, || {
        for _ in 0..STEPS {
            let next = lines[at..at + 8].try_into().expect("eight bytes");
            at = usize::try_from(u64::from_le_bytes(next)).expect("it is in memory");
        }
        black_box(at);
    }))
}

/// What memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// As the system gives them: 4 KiB, most often.
    Ordinary,
    /// 2 MiB, most often, where the system has them.
    Huge,
}

impl Pages {
    /// Returns whether these can be had: a figure of others would stand under their name.
    pub(crate) fn check(self) -> Result<(), BudgetError> {
        let other = match self {
            Self::Ordinary => "huge",
            Self::Huge => "ordinary",
        };
        match pages_forced() {
            Some(forced) if forced == other => Err(BudgetError::Pages(forced)),
            _ => Ok(()),
        }
    }
}

const LINE_BYTES: usize = 64;

/// A fence with nothing to wait for.
///
/// # Errors
/// [`BudgetError::NoFlush`] where none is known.
pub fn fence(clock: Clock, times: usize) -> Result<Figure, BudgetError> {
    const COUNT: usize = 1_000;
    let flush = CpuFlush::supported().next().ok_or(BudgetError::NoFlush)?;
    Ok(clock.each(times, COUNT, || (0..COUNT).for_each(|_| flush.fence())))
}

/// What brings bytes to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They stand in the cache: they are flushed.
    Flushed,
    /// They are copied, then flushed.
    CopiedAndFlushed,
    /// They are copied past the cache.
    Streamed,
}

/// `bytes` on their way to memory by `flush`: with a fence for each, and with one for 64.
///
/// # Errors
/// If memory is short.
pub fn write_back(
    clock: Clock,
    times: usize,
    (flush, written): (CpuFlush, Written),
    bytes: usize,
) -> Result<[Figure; 2], BudgetError> {
    const COUNT: usize = 64;
    let geometry = Geometry::new(16 << 20).expect("a region's size");
    let mut frames = Frames::anonymous(geometry, 0)?;
    let value = vec![1_u8; bytes];
    // Every page is there before the first of them is counted.
    frames.store(0, &vec![0; 9 << 20]);
    let mut start = 0;
    let figures = [COUNT, 1].map(|fences| {
        let samples = (0..=times).map(|_| {
            start = (start + COUNT * bytes) % (8 << 20);
            let pieces: [(u64, &[u8]); COUNT] =
                std::array::from_fn(|n| ((start + n * bytes) as u64, &value[..]));
            if written == Written::Flushed {
                pieces.iter().for_each(|(at, bytes)| frames.store(*at, bytes));
            }
            let ns = clock.time(|| {
                for pieces in pieces.chunks(COUNT / fences) {
                    if written == Written::Streamed {
                        flush.stream(&mut frames, pieces);
                        continue;
                    }
                    for (at, bytes) in pieces {
                        if written == Written::CopiedAndFlushed {
                            frames.store(*at, bytes);
                        }
                        flush.flush(&frames, Span::new(*at, bytes.len() as u64));
                    }
                    flush.fence();
                }
            });
            ns / COUNT as f64
        });
        Figure::of(samples.skip(1).collect())
    });
    Ok(figures)
}

/// One pass over the two halves of a working set; returns how many bytes it has moved: see
/// [`bandwidth`].
pub type Work = fn(&mut [u8], &mut [u8]) -> usize;

/// Reads both, all of them: of one half a large part may still be in the cache.
pub fn read_whole(from: &mut [u8], to: &mut [u8]) -> usize {
    for half in [&*from, &*to] {
        let (words, _) = half.as_chunks::<8>();
        let sum = words.iter().fold(0_u64, |sum, word| sum ^ u64::from_le_bytes(*word));
        black_box(sum);
    }
    from.len() + to.len()
}

/// Copies `from` to `to` in pieces of 4 KiB, as payload is copied.
pub fn copy_pieces(from: &mut [u8], to: &mut [u8]) -> usize {
    for (from, to) in from.chunks(4096).zip(to.chunks_mut(4096)) {
        to.copy_from_slice(black_box(from));
    }
    from.len()
}

/// Copies `from` to `to` in one piece, as the C library thinks best.
pub fn copy_whole(from: &mut [u8], to: &mut [u8]) -> usize {
    to.copy_from_slice(black_box(from));
    from.len()
}

/// Returns the GB in a second that `work` moves, by one thread on each of `cores` at once, each
/// over a working set of its own.
///
/// # Errors
/// [`BudgetError::Memory`] if memory is short; if a thread cannot be kept on its core.
pub fn bandwidth(
    machine: &Machine,
    clock: Clock,
    cores: &[usize],
    work: Work,
) -> Result<Figure, BudgetError> {
    const PASSES: usize = 7;
    let bytes = machine.working_set_bytes;
    machine.room_for(bytes.saturating_mul(cores.len() as u64))?;
    let half = usize::try_from(bytes / 2).expect("it fits memory");
    let barrier = Barrier::new(cores.len());
    let mine = |core: usize| -> Result<Vec<f64>, BudgetError> {
        // Everybody comes to the barrier, also who cannot be pinned.
        let pinned = Pinned::to(core);
        let (mut from, mut to) = (vec![1; half], vec![2; half]);
        let passes = (0..=PASSES).map(|_| {
            let mut moved = 0;
            barrier.wait();
            let ns = clock.time(|| moved = work(&mut from, &mut to));
            moved as f64 / ns.max(1.0)
        });
        let passes: Vec<f64> = passes.skip(1).collect();
        pinned?;
        Ok(passes)
    };
    let passes = thread::scope(|scope| {
        let threads: Vec<_> = cores.iter().map(|core| scope.spawn(|| mine(*core))).collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("a probe returns"));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    // Of each pass, all together.
    let rates = (0..PASSES).map(|pass| passes.iter().map(|mine| mine[pass]).sum());
    Ok(Figure::of(rates.collect()))
}
