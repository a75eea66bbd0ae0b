//! What a packet's budget goes to, one function each: a distribution over many short repetitions on
//! this thread, which the caller has pinned.

mod compute;
mod file;
mod kernel;
mod memory;

use std::{io, path::Path};

use impasto_region::CpuFlush;
use serde::Serialize;

use crate::{BudgetError, Figure, Machine, measure::Clock};

pub use compute::{append_and_commit, checksum, parse};
pub use file::{Direction, FileProbe, Mode};
pub use kernel::{NOPS, allocation, batched, lock, pool, spinlock, system_call};
pub use memory::{
    FLUSH_BYTES, Pages, Work, Written, bandwidth, cache_miss, copy_pieces, copy_whole, fence,
    read_whole, write_back,
};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Nanoseconds for one.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// 10^9 bytes in a second.
    #[serde(rename = "GB/s")]
    Gigabytes,
}

impl Unit {
    /// Returns its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Gigabytes => "GB/s",
        }
    }
}

/// One line: what was measured here, and what an article says of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name for machines.
    pub key: String,
    /// Its name for people.
    pub what: String,
    /// What it counts.
    pub unit: Unit,
    /// What was measured; `None` if it could not be.
    pub figure: Option<Figure>,
    /// Why there is no figure.
    pub missing: Option<String>,
    /// What the articles say, if they do.
    pub article: Option<&'static str>,
}

impl Row {
    fn new(key: &str, what: &str, unit: Unit, figure: Result<Figure, BudgetError>) -> Self {
        let (figure, missing) = match figure {
            Ok(figure) => (Some(figure), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { key: key.to_owned(), what: what.to_owned(), unit, figure, missing, article: None }
    }

    fn beside(mut self, article: &'static str) -> Self {
        self.article = Some(article);
        self
    }
}

/// How thorough the measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Repetitions of each probe.
    pub times: usize,
    /// Bytes of the file that is read and written.
    pub file_bytes: u64,
}

impl Effort {
    /// For figures that are quoted.
    pub const FULL: Self = Self { times: 101, file_bytes: 256 << 20 };
    /// For a first look.
    pub const QUICK: Self = Self { times: 21, file_bytes: 64 << 20 };
}

/// One group of probes, as the table has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Cache misses, locks, flushes: what the processor does by itself.
    Processor,
    /// Ways to bring bytes to memory: each instruction, each length, streaming.
    Flushes,
    /// System calls and allocations.
    Kernel,
    /// Bandwidth of memory.
    Bandwidth,
    /// What our code does for a packet.
    Compute,
    /// A file, through the page cache and past it.
    Files,
}

impl Group {
    /// Those of a budget, in the order of its table.
    pub const BUDGET: [Self; 5] =
        [Self::Processor, Self::Kernel, Self::Bandwidth, Self::Compute, Self::Files];

    /// Returns what it measures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processor => "the processor",
            Self::Flushes => "ways to memory",
            Self::Kernel => "calls and allocations",
            Self::Bandwidth => "memory bandwidth",
            Self::Compute => "our code",
            Self::Files => "a file, requests of 4 MiB",
        }
    }

    /// Measures the group; files stand in `dir`.
    /// A probe that this machine cannot run is a row that says why.
    pub fn measure(self, machine: &Machine, effort: Effort, dir: &Path) -> Vec<Row> {
        let clock = Clock::calibrate();
        match self {
            Self::Processor => processor(machine, clock, effort),
            Self::Flushes => flushes(clock, effort),
            Self::Kernel => calls(clock, effort),
            Self::Bandwidth => bandwidths(machine, clock),
            Self::Compute => code(machine, clock, effort),
            Self::Files => files(machine, dir, effort),
        }
    }
}

fn processor(machine: &Machine, clock: Clock, effort: Effort) -> Vec<Row> {
    const NS: Unit = Unit::Nanoseconds;
    let times = effort.times;
    let miss = |pages| cache_miss(machine, clock, times, pages);
    let mut rows = vec![
        Row::new("cache-miss", "cache miss", NS, miss(Pages::Huge)).beside("32 ns"),
        Row::new("cache-miss-tlb", "cache miss, and the page's", NS, miss(Pages::Ordinary)),
        Row::new("lock", "LOCK operation", NS, Ok(lock(clock, times))).beside("8.25 ns"),
        Row::new("spinlock", "spinlock, lock and unlock", NS, Ok(spinlock(clock, times)))
            .beside("a little over 16 ns"),
        Row::new("fence", "fence, with nothing to wait for", NS, fence(clock, times)),
    ];
    if let Some(best) = CpuFlush::supported().next() {
        let way = (best, Written::Flushed);
        rows.extend(writes(clock, times, way, best.name(), &[64, 4096]));
    }
    rows
}

fn flushes(clock: Clock, effort: Effort) -> Vec<Row> {
    let times = effort.times;
    let mut rows = Vec::new();
    for flush in CpuFlush::supported() {
        let way = (flush, Written::Flushed);
        rows.extend(writes(clock, times, way, flush.name(), &FLUSH_BYTES));
    }
    if let Some(best) = CpuFlush::supported().next() {
        let copy = format!("copy and {}", best.name());
        for (written, name) in
            [(Written::CopiedAndFlushed, copy.as_str()), (Written::Streamed, "streaming copy")]
        {
            rows.extend(writes(clock, times, (best, written), name, &FLUSH_BYTES));
        }
    }
    rows
}

/// Bytes on their way to memory: of each length, with a fence for each and with one for many.
fn writes(
    clock: Clock,
    times: usize,
    way: (CpuFlush, Written),
    name: &str,
    lengths: &[usize],
) -> Vec<Row> {
    let mut rows = Vec::new();
    for &bytes in lengths {
        let [each, batch] = match write_back(clock, times, way, bytes) {
            Ok(figures) => figures.map(Ok),
            Err(error) => {
                let again = io::Error::other(error.to_string());
                [Err(error), Err(again.into())]
            }
        };
        let key = format!("{}-{bytes}", name.replace(' ', "-"));
        let what = format!("{name} of {bytes} B, and a fence");
        rows.push(Row::new(&key, &what, Unit::Nanoseconds, each));
        let what = format!("{name} of {bytes} B, a fence for 64");
        rows.push(Row::new(&format!("{key}-batch"), &what, Unit::Nanoseconds, batch));
    }
    rows
}

fn calls(clock: Clock, effort: Effort) -> Vec<Row> {
    const NS: Unit = Unit::Nanoseconds;
    let times = effort.times;
    vec![
        Row::new("system-call", "system call", NS, Ok(system_call(clock, times)))
            .beside("42 ns; 75 ns with SELinux and auditing"),
        Row::new("system-call-batched", "operation, 64 in a call", NS, batched(clock, times)),
        Row::new("allocation", "malloc and free of 256 B", NS, Ok(allocation(clock, times, 1)))
            .beside("19 ns (kmem_cache)"),
        Row::new(
            "allocation-256",
            "malloc and free, 256 at a time",
            NS,
            Ok(allocation(clock, times, 256)),
        )
        .beside("40 ns (kmem_cache)"),
        Row::new("pool-64", "buffer of the pool, 64 at a time", NS, Ok(pool(clock, times))),
    ]
}

fn bandwidths(machine: &Machine, clock: Clock) -> Vec<Row> {
    const GB: Unit = Unit::Gigabytes;
    let one = std::slice::from_ref(&machine.core);
    let all = |work| bandwidth(machine, clock, &machine.cores, work);
    let single = |work| bandwidth(machine, clock, one, work);
    vec![
        Row::new("read", "read, one thread", GB, single(read_whole))
            .beside("20 GB/s a channel (2019)"),
        Row::new("read-all", "read, all threads", GB, all(read_whole)),
        Row::new("copy", "copy in pieces of 4 KiB, one thread", GB, single(copy_pieces)),
        Row::new("copy-all", "copy in pieces of 4 KiB, all threads", GB, all(copy_pieces)),
        Row::new("copy-large", "copy in one piece, one thread", GB, single(copy_whole)),
        Row::new("copy-large-all", "copy in one piece, all threads", GB, all(copy_whole)),
    ]
}

fn code(machine: &Machine, clock: Clock, effort: Effort) -> Vec<Row> {
    const NS: Unit = Unit::Nanoseconds;
    let times = effort.times;
    let mut rows: Vec<Row> = [64, 1538, 4096]
        .map(|bytes| {
            let what = format!("checksum of {bytes} B");
            let figure = checksum(clock, times, bytes);
            Row::new(&format!("checksum-{bytes}"), &what, NS, Ok(figure))
        })
        .into();
    rows.push(Row::new("parse", "parsing of a request of 1,156 B", NS, Ok(parse(clock, times))));
    let append = append_and_commit(machine);
    rows.push(Row::new("append-commit", "append and commit of 1 KiB", NS, append));
    rows
}

fn files(machine: &Machine, dir: &Path, effort: Effort) -> Vec<Row> {
    let probe = FileProbe::new(dir, effort.file_bytes.min(machine.working_set_bytes));
    let row = |key: &str, what: &str, direction, mode| {
        let figure = match &probe {
            Ok(probe) => probe.measure(direction, mode),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string()).into()),
        };
        Row::new(key, what, Unit::Gigabytes, figure)
    };
    let mut rows = Vec::new();
    for (direction, verb) in [(Direction::Read, "read"), (Direction::Write, "write")] {
        for (mode, name, through) in [
            (Mode::Buffered, "buffered", "through the page cache"),
            (Mode::Direct, "direct", "with O_DIRECT"),
            (Mode::DirectHuge, "direct-huge", "with O_DIRECT, huge pages"),
        ] {
            let what = format!("{verb} {through}");
            rows.push(row(&format!("file-{verb}-{name}"), &what, direction, mode));
        }
    }
    rows
}
