//! What the parts of a packet's time budget cost on this machine.
//!
//! Two articles by Jonathan Corbet list what keeps a kernel from a full line: *Improving Linux
//! networking performance* (LWN 629155, 2015) and *Memory management for 400Gb/s interfaces* (LWN
//! 787754, 2019). This crate measures the same here, and beside it the path of a packet through
//! Impasto.
//!
//! | module | what it is |
//! |---|---|
//! | [`probes`] | a cache miss, a system call, a flush, ...: one function each |
//! | [`path`] | port, slot, keep, flush, record, commit, and nothing else |
//! | [`table`] | rates and frames: what a packet may take, how many cores that is |

#![forbid(unsafe_code)]

mod budget;
mod error;
mod machine;
mod measure;
pub mod path;
pub mod probes;
pub mod table;
mod wire;

pub use budget::{Budget, MemoryEnd, Missing, Options, Probes};
pub use error::BudgetError;
pub use machine::{Machine, Pinned};
pub use measure::{Clock, Figure};
pub use wire::{Frame, Rate};
