//! Buffers that one core takes and another gives back: the pool beside what one would use instead.
//!
//! The two cores take turns, 4,096 buffers at a time, and how the buffers come from one to the
//! other is not counted: nothing is but taking and giving. What both of these write, and so moves
//! from cache to cache, is.

use std::{
    fmt::Write,
    hint::black_box,
    sync::{Barrier, Mutex, PoisonError},
    thread,
};

use crossbeam_queue::ArrayQueue;
use impasto::region::{BufId, SharedPool};
use impasto_budget::{Clock, Figure, Machine, Pinned, probes::Effort};
use serde_json::json;

use super::Told;
use crate::cli::Failure;

/// How many are taken or given at once.
const BULKS: [usize; 4] = [1, 16, 64, 256];
/// Buffers of a turn: a multiple of each bulk.
const TURN_BUFS: usize = 4096;
/// Buffers that there are.
const BUFS: u32 = 16_384;
/// Memory for what is known of a packet, where it comes from malloc.
const MEMORY_BYTES: usize = 256;

/// A way to keep free buffers.
type Variant = fn(&Exchange, usize) -> Figure;

const VARIANTS: [(&str, Variant); 4] =
    [("pool", shared_pool), ("mutexed Vec", vec), ("ArrayQueue", array_queue), ("malloc", malloc)];

pub(super) fn measure(machine: &Machine, effort: Effort) -> Result<Told, Failure> {
    let other = machine.cores.iter().copied().find(|core| *core != machine.core);
    let Some(other) = other else {
        let text = "pool: this machine lets us have one core, and it takes two\n".to_owned();
        return Ok(Told { text, json: json!({ "missing": "a second core" }) });
    };
    let exchange =
        Exchange { clock: Clock::calibrate(), cores: [machine.core, other], times: effort.times };
    let mut text =
        format!("buffers taken on core {} and given back on {other}: ns for each\n", machine.core);
    write!(text, "  {:<12}", "at a time")?;
    for (name, _) in VARIANTS {
        write!(text, " {name:>12}")?;
    }
    let mut rows = Vec::new();
    for bulk in BULKS {
        write!(text, "\n  {bulk:<12}")?;
        let mut row = json!({ "bulk": bulk });
        for (name, variant) in VARIANTS {
            let figure = variant(&exchange, bulk);
            write!(text, " {:>12.2}", figure.median)?;
            row[name] = serde_json::to_value(figure)?;
        }
        rows.push(row);
    }
    writeln!(text, "\n  aim: the pool at most 1.5 ns, 64 at a time")?;
    Ok(Told { text, json: rows.into() })
}

/// Two cores, one of which takes what the other gives back.
struct Exchange {
    clock: Clock,
    cores: [usize; 2],
    times: usize,
}

impl Exchange {
    /// Returns what `take` and `give` together take for a buffer. `take` adds a turn's buffers to
    /// what it is given, and `give` empties it.
    fn run<T: Send>(
        &self,
        mut take: impl FnMut(&mut Vec<T>) + Send,
        mut give: impl FnMut(&mut Vec<T>) + Send,
    ) -> Figure {
        let barrier = Barrier::new(2);
        let between = Mutex::new(Vec::with_capacity(TURN_BUFS));
        let cross = || between.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds = self.times + 2;
        let [taking, giving] = self.cores;
        let (taken, given) = thread::scope(|scope| {
            let giver = scope.spawn(|| {
                let pinned = Pinned::to(giving);
                let mut held = Vec::with_capacity(TURN_BUFS);
                let rounds = (0..rounds).map(|_| {
                    barrier.wait();
                    held.append(&mut cross());
                    let ns = self.clock.time(|| give(&mut held));
                    barrier.wait();
                    ns
                });
                let ns: Vec<f64> = rounds.collect();
                pinned.map(|_| ns)
            });
            let taker = scope.spawn(|| {
                let pinned = Pinned::to(taking);
                let mut held = Vec::with_capacity(TURN_BUFS);
                let rounds = (0..rounds).map(|_| {
                    let ns = self.clock.time(|| take(&mut held));
                    cross().append(&mut held);
                    barrier.wait();
                    barrier.wait();
                    ns
                });
                let ns: Vec<f64> = rounds.collect();
                pinned.map(|_| ns)
            });
            let join = |thread: thread::ScopedJoinHandle<'_, std::io::Result<Vec<f64>>>| {
                thread.join().expect("it returns").expect("its core is one of ours")
            };
            (join(taker), join(giver))
        });
        let sums = taken.iter().zip(&given).skip(2).map(|(taken, given)| taken + given);
        Figure::of(sums.map(|ns| ns / TURN_BUFS as f64).collect())
    }
}

fn shared_pool(exchange: &Exchange, bulk: usize) -> Figure {
    let pool = SharedPool::new(BufId(0)..BufId(BUFS), 2);
    let (mut one, mut other) = (pool.cache(), pool.cache());
    let mut bufs = vec![BufId(0); bulk];
    exchange.run(
        |held| {
            for _ in 0..TURN_BUFS / bulk {
                assert!(one.take(&mut bufs), "there are more than a turn's");
                held.extend_from_slice(&bufs);
            }
        },
        |held| {
            held.chunks(bulk).for_each(|bufs| other.give(bufs));
            held.clear();
        },
    )
}

fn vec(exchange: &Exchange, bulk: usize) -> Figure {
    let free: Mutex<Vec<BufId>> = Mutex::new((0..BUFS).map(BufId).collect());
    let lock = || free.lock().unwrap_or_else(PoisonError::into_inner);
    exchange.run(
        |held| {
            for _ in 0..TURN_BUFS / bulk {
                let mut free = lock();
                let rest = free.len() - bulk;
                held.extend(free.drain(rest..));
            }
        },
        |held| {
            held.chunks(bulk).for_each(|bufs| lock().extend_from_slice(bufs));
            held.clear();
        },
    )
}

fn array_queue(exchange: &Exchange, bulk: usize) -> Figure {
    let free = ArrayQueue::new(BUFS as usize);
    (0..BUFS).for_each(|buf| free.push(BufId(buf)).expect("there is room for all"));
    exchange.run(
        |held| {
            for _ in 0..TURN_BUFS / bulk {
                held.extend((0..bulk).filter_map(|_| free.pop()));
            }
        },
        |held| {
            for buf in held.drain(..) {
                free.push(buf).expect("there is room for all");
            }
        },
    )
}

fn malloc(exchange: &Exchange, bulk: usize) -> Figure {
    exchange.run(
        |held: &mut Vec<Vec<u8>>| {
            for _ in 0..TURN_BUFS / bulk {
                held.extend((0..bulk).map(|_| black_box(Vec::with_capacity(MEMORY_BYTES))));
            }
        },
        Vec::clear,
    )
}
