//! What calls cost: atomic operations and locks, system calls, allocations.

use std::{
    hint::{black_box, spin_loop},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use impasto_region::{BufId, SharedPool};
use impasto_uring::{Owner, Token, Uring};

use crate::{BudgetError, Figure, measure::Clock};

const COUNT: usize = 1_000;

/// An atomic addition that nobody else is at: x86's LOCK prefix.
pub fn lock(clock: Clock, times: usize) -> Figure {
    let counter = AtomicU64::new(0);
    clock.each(times, COUNT, || {
        for _ in 0..COUNT {
            black_box(&counter).fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// A lock that is free is taken and given back, in the shortest way there is.
pub fn spinlock(clock: Clock, times: usize) -> Figure {
    let is_held = AtomicBool::new(false);
    clock.each(times, COUNT, || {
        for _ in 0..COUNT {
            let is_held = black_box(&is_held);
            // Acquire: pairs with the Release below, as for any holder before.
            while is_held.swap(true, Ordering::Acquire) {
                spin_loop();
            }
            is_held.store(false, Ordering::Release);
        }
    })
}

/// The shortest system call.
pub fn system_call(clock: Clock, times: usize) -> Figure {
    clock.each(times, COUNT, || {
        for _ in 0..COUNT {
            black_box(rustix::process::getppid());
        }
    })
}

/// Operations that do nothing, in one call.
pub const NOPS: usize = 64;

/// An operation that does nothing, of [`NOPS`] in one io_uring_enter: started, submitted,
/// completed, taken, as a worker does it.
///
/// # Errors
/// Why there is no io_uring.
pub fn batched(clock: Clock, times: usize) -> Result<Figure, BudgetError> {
    const CALLS: usize = 16;
    let entries = u32::try_from(NOPS).expect("few");
    let mut io = Uring::new(entries).map_err(std::io::Error::other)?;
    let mut failed = None;
    let figure = clock.each(times, CALLS * NOPS, || {
        for _ in 0..CALLS {
            (0..NOPS as u64).for_each(|value| {
                io.nop(Token { owner: Owner::Loop, value });
            });
            if let Err(error) = io.enter(Some(Duration::from_secs(1))) {
                failed = Some(error);
            }
            while let Some(completion) = io.completion(Owner::Loop) {
                black_box(completion.token);
            }
        }
    });
    failed.map_or(Ok(figure), |error| Err(error.into()))
}

/// Memory for a packet's description, 256 bytes, allocated and freed, so many at a time. Nobody
/// writes to it: that is another cost.
pub fn allocation(clock: Clock, times: usize, bulk: usize) -> Figure {
    let mut held: Vec<Vec<u8>> = Vec::with_capacity(bulk);
    clock.each(times, COUNT / bulk.min(COUNT) * bulk, || {
        for _ in 0..COUNT / bulk.min(COUNT) {
            for _ in 0..bulk {
                held.push(black_box(Vec::with_capacity(256)));
            }
            held.clear();
        }
    })
}

/// A buffer of the pool that workers share, taken and given back, 64 at a time.
pub fn pool(clock: Clock, times: usize) -> Figure {
    const BULK: usize = 64;
    let pool = SharedPool::new(BufId(0)..BufId(4096), 2);
    let mut cache = pool.cache();
    let mut bufs = [BufId(0); BULK];
    clock.each(times, COUNT / BULK * BULK, || {
        for _ in 0..COUNT / BULK {
            let is_filled = cache.take(black_box(&mut bufs));
            assert!(is_filled, "nobody else has any");
            cache.give(black_box(&bufs));
        }
    })
}
