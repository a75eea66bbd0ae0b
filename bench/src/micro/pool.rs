//! Buffers that one core takes and another gives back: the pool beside what one would use instead.
//!
//! ```text
//!            at once                          in turns
//! one core   take 1 | take 2 | take 3         take 1 |        | take 2 |
//! the other         | give 1 | give 2                | give 1 |        | give 2
//! ```
//!
//! How the buffers come from one core to the other is not counted, nothing is but taking and
//! giving: 4,096 at a time, handed over between. What both of these write, and so moves from cache
//! to cache, is counted. At once the two are at the same locks as well: that is what workers do,
//! and what the aim is for. In turns nobody ever waits for another: what is left is what a lock and
//! the way between two caches cost.

use std::{
    fmt::Write,
    hint::{black_box, spin_loop},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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
type Variant = fn(&Exchange, usize) -> Measured;

const VARIANTS: [(&str, Variant); 4] =
    [("pool", shared_pool), ("mutexed Vec", vec), ("ArrayQueue", array_queue), ("malloc", malloc)];

pub(super) fn measure(machine: &Machine, effort: Effort) -> Result<Told, Failure> {
    let other = machine.cores.iter().copied().find(|core| *core != machine.core);
    let Some(other) = other else {
        let text = "pool: this machine lets us have one core, and it takes two\n".to_owned();
        return Ok(Told { text, json: json!({ "missing": "a second core" }) });
    };
    let mut text = format!(
        "buffers taken on core {} and given back on {other}: ns for each, both together\n",
        machine.core
    );
    let mut rows = Vec::new();
    for way in [Way::AtOnce, Way::InTurns] {
        let (cores, times) = ([machine.core, other], effort.times);
        let exchange = Exchange { clock: Clock::calibrate(), cores, times, way };
        write!(text, "  {:<20}", way.name())?;
        for (name, _) in VARIANTS {
            write!(text, " {name:>12}")?;
        }
        for bulk in BULKS {
            write!(text, "\n  {:<20}", format!("{bulk} at a time"))?;
            let mut row = json!({ "way": way.name(), "bulk": bulk });
            for (name, variant) in VARIANTS {
                let Measured { both, take, give } = variant(&exchange, bulk);
                write!(text, " {:>12.2}", both.median)?;
                row[name] = json!({ "both": both, "take": take, "give": give });
            }
            rows.push(row);
        }
        text.push('\n');
    }
    writeln!(text, "  aim: the pool at most 1.5 ns, 64 at a time, at once")?;
    Ok(Told { text, json: rows.into() })
}

/// When the two cores are at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One takes while the other gives back what was taken before.
    AtOnce,
    /// One takes, then the other gives that back.
    InTurns,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::InTurns => "in turns",
        }
    }
}

/// Nanoseconds for a buffer.
struct Measured {
    both: Figure,
    take: Figure,
    give: Figure,
}

/// Two cores, one of which takes what the other gives back.
struct Exchange {
    clock: Clock,
    cores: [usize; 2],
    times: usize,
    way: Way,
}

/// Where two threads meet. They are awake when they part, unlike those of a barrier that sleep: a
/// turn is over before one of these would have been woken.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    /// Waits until both have come the `nth` time, from 1 on.
    fn wait(&self, nth: usize) {
        // Release: what was done before is seen by who has met. Acquire: pairs with it.
        self.0.fetch_add(1, Ordering::Release);
        let mut turns = 0_u32;
        while self.0.load(Ordering::Acquire) < 2 * nth {
            turns += 1;
            // The other one may need this very core, if others are on its own.
            if turns.is_multiple_of(1 << 14) {
                thread::yield_now();
            }
            spin_loop();
        }
    }
}

impl Exchange {
    /// Returns what `take` and `give` take for a buffer. `take` adds a turn's buffers to what it is
    /// given, and `give` empties it.
    fn run<T: Send>(
        &self,
        mut take: impl FnMut(&mut Vec<T>) + Send,
        mut give: impl FnMut(&mut Vec<T>) + Send,
    ) -> Measured {
        let meeting = Meeting::default();
        let between = Mutex::new(Vec::with_capacity(TURN_BUFS));
        let cross = || between.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds = self.times + WARM_UP;
        let [taking, giving] = self.cores;
        let (clock, way) = (self.clock, self.way);
        let (taken, given) = thread::scope(|scope| {
            let giver = scope.spawn(|| {
                let pinned = Pinned::to(giving);
                let mut held = Vec::with_capacity(TURN_BUFS);
                let rounds = (0..rounds).map(|round| {
                    meeting.wait(3 * round + 1);
                    let at_once = clock.time(|| give(&mut held));
                    meeting.wait(3 * round + 2);
                    // What is given at once was taken a round ago.
                    held.append(&mut cross());
                    let in_turns =
                        if way == Way::InTurns { clock.time(|| give(&mut held)) } else { at_once };
                    meeting.wait(3 * round + 3);
                    in_turns
                });
                let ns: Vec<f64> = rounds.collect();
                give(&mut held);
                pinned.map(|_| ns)
            });
            let taker = scope.spawn(|| {
                let pinned = Pinned::to(taking);
                let mut held = Vec::with_capacity(TURN_BUFS);
                let rounds = (0..rounds).map(|round| {
                    meeting.wait(3 * round + 1);
                    let ns = clock.time(|| take(&mut held));
                    cross().append(&mut held);
                    meeting.wait(3 * round + 2);
                    meeting.wait(3 * round + 3);
                    ns
                });
                let ns: Vec<f64> = rounds.collect();
                pinned.map(|_| ns)
            });
            let join = |thread: thread::ScopedJoinHandle<'_, std::io::Result<Vec<f64>>>| {
                let ns = thread.join().expect("it returns").expect("its core is one of ours");
                ns.into_iter().skip(WARM_UP).map(|ns| ns / TURN_BUFS as f64).collect::<Vec<_>>()
            };
            (join(taker), join(giver))
        });
        let both = taken.iter().zip(&given).map(|(taken, given)| taken + given).collect();
        Measured { both: Figure::of(both), take: Figure::of(taken), give: Figure::of(given) }
    }
}

/// Rounds that do not count.
const WARM_UP: usize = 2;

fn shared_pool(exchange: &Exchange, bulk: usize) -> Measured {
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

fn vec(exchange: &Exchange, bulk: usize) -> Measured {
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

fn array_queue(exchange: &Exchange, bulk: usize) -> Measured {
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

fn malloc(exchange: &Exchange, bulk: usize) -> Measured {
    exchange.run(
        |held: &mut Vec<Vec<u8>>| {
            for _ in 0..TURN_BUFS / bulk {
                held.extend((0..bulk).map(|_| black_box(Vec::with_capacity(MEMORY_BYTES))));
            }
        },
        Vec::clear,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer that is lost, or given twice, is a figure of another amount of work. At once the
    /// two hold a turn's buffers each.
    #[test]
    fn all_that_is_taken_is_given_back() {
        let cores = Machine::look(None).unwrap().cores;
        let cores = [cores[0], cores[cores.len() - 1]];
        for way in [Way::AtOnce, Way::InTurns] {
            let exchange = Exchange { clock: Clock::calibrate(), cores, times: 3, way };
            let (mut next, mut given) = (0, Vec::new());
            let measured = exchange.run(
                |held| {
                    held.extend(next..next + TURN_BUFS);
                    next += TURN_BUFS;
                },
                |held| given.append(held),
            );
            assert!(given.into_iter().eq(0..(3 + WARM_UP) * TURN_BUFS), "{way:?}");
            assert_eq!(next, (3 + WARM_UP) * TURN_BUFS);
            let Measured { both, take, give } = measured;
            assert!(both.min >= take.min + give.min, "{way:?}");
        }
        const { assert!(2 * TURN_BUFS < BUFS as usize, "and magazines") }
    }
}
