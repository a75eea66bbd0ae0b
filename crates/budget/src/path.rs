//! The packet's path alone: port, slot, keep, flush, record, commit, without what receives before
//! it and what answers behind it.
//!
//! ```text
//!  deposit              arrive      advance   apply            seal    commit     completed
//!  (network card) ----> slot -----> checksum, record, index -> header, flush x 2, durable
//!  not counted                      [ a turn: 64 packets, two fences ]
//! ```
//!
//! Store, medium, ring and frames are those that serve, and a turn calls them as the server's turn
//! does. What is in memory when a turn begins, [`State`] says: packets that a card has written past
//! the caches, or into them.

mod parts;
mod rig;

use serde::Serialize;

use crate::{BudgetError, Figure, Frame, Machine, Rate, measure::Clock};
use rig::Rig;

pub use parts::{Part, PartFigure};

/// Packets of a turn: what the server takes with one system call under load.
pub const PACKETS_PER_TURN: usize = 64;
/// Turns of a sample: enough to have a share of every buffer that ends, and so few that who else
/// gets the core spoils few of them.
const TURNS_PER_SAMPLE: usize = 16;

/// Where a packet's bytes are when the port hears of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In memory, in no cache: a card has written them there (DMA without DDIO).
    Cold,
    /// In this core's cache and not in memory yet: the kernel has copied them, or a card has
    /// written into the cache (DDIO).
    Warm,
}

impl State {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cold, Self::Warm];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

/// What the path costs for one size of frames.
#[derive(Clone, Debug, Serialize)]
pub struct Path {
    /// The frame.
    pub frame: Frame,
    /// Where packets are at first.
    pub state: State,
    /// True if values stand in their records: they are copied there.
    pub inline: bool,
    /// Nanoseconds per packet, of all of it.
    pub path: Figure,
    /// The rate that one core carries.
    pub rate: Rate,
    /// What each part takes by itself; empty if they were not measured.
    pub parts: Vec<PartFigure>,
}

impl Path {
    /// Returns what the parts take together, in nanoseconds per packet.
    pub fn sum(&self) -> f64 {
        self.parts.iter().map(|part| part.figure.median).sum()
    }

    /// Returns what the path takes, in sums of its parts.
    pub fn ratio(&self) -> f64 {
        self.path.median / self.sum()
    }
}

/// What is measured of the path.
#[derive(Clone, Copy, Debug)]
pub struct PathOptions {
    /// How large a packet is.
    pub frame: Frame,
    /// Where it is at first.
    pub state: State,
    /// Whether the parts are measured, too.
    pub parts: bool,
    /// Bytes of packets that are gone through: more than the caches hold.
    pub bytes: u64,
}

/// Measures the path on `machine`, on this thread, which the caller has pinned.
///
/// # Errors
/// [`BudgetError::Memory`] if memory is short, [`BudgetError::NoFlush`] on a CPU without flushes.
pub fn measure(machine: &Machine, options: PathOptions) -> Result<Path, BudgetError> {
    let PathOptions { frame, state, .. } = options;
    let clock = Clock::calibrate();
    let mut rig = Rig::new(machine, options)?;
    let path = rig.measure(clock, state);
    let parts = if options.parts { parts::measure(&mut rig, clock, state) } else { Vec::new() };
    let rate = Rate::of_packets(frame, path.median);
    Ok(Path { frame, state, inline: rig.is_inline(), path, rate, parts })
}

/// Measures what the store takes to append a packet of `frame` and to commit it, a turn's packets
/// at a time, over the machine's working set.
///
/// # Errors
/// As [`measure`].
pub fn append_and_commit(machine: &Machine, frame: Frame) -> Result<Figure, BudgetError> {
    let (state, bytes) = (State::Cold, machine.working_set_bytes);
    let options = PathOptions { frame, state, parts: false, bytes };
    let mut rig = Rig::new(machine, options)?;
    Ok(parts::append_and_commit(&mut rig, Clock::calibrate(), state))
}
