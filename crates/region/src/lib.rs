//! The region: named bytes that survive.
//!
//! A region is a file, or a `/dev/dax`, of fixed size, cut into buffers of 256 KiB that have a
//! name, [`BufId`]. An [`Extent`] `(buffer, offset, length)` is a durable name of bytes: the same
//! after a restart, whatever their address is then. Four buffers make a segment.
//!
//! This crate knows where bytes stand, in the file ([`layout`]) and in memory ([`Frames`]), which
//! buffers are free ([`Pool`], and [`SharedPool`] for several workers), and how a CPU writes lines
//! back ([`CpuFlush`]). It does no I/O beyond creating, opening and mapping.

#![deny(unsafe_code)]

mod checksum;
mod error;
mod file;
mod flush;
mod frames;
mod id;
pub mod layout;
mod pool;
#[cfg(test)]
mod testing;

pub use checksum::Checksum;
pub use error::Error;
pub use file::{Examined, Fill, Region, pmem_probe, shm_probe};
pub use flush::CpuFlush;
pub use frames::{Frames, Loan, Map, SpanLoan};
pub use id::{BufId, Extent, SegmentId, Span};
pub use pool::{Pool, PoolCache, SharedPool};
