//! What makes bytes durable.
//!
//! A [`Medium`] takes commits, spans and reads and reports when they are done. There are two, each
//! written against one small seam, so that the real and the simulated hardware run the same medium:
//!
//! | medium | seam | real | simulated |
//! |---|---|---|---|
//! | [`Disk`] | [`Dev`] | io_uring on an `O_DIRECT` file | `impasto_sim::SimDev` |
//! | [`Pmem`] | [`Lines`] | the CPU's flush instruction | `impasto_sim::SimLines` |
//!
//! Bytes are at the same offset in [`Frames`] and on the medium, so a span says both.

#![forbid(unsafe_code)]

mod dev;
mod disk;
mod error;
mod lines;
mod pmem;

pub use dev::UringDev;
pub use disk::Disk;
pub use error::MediumError;
pub use lines::CpuLines;
pub use pmem::Pmem;

use std::io;

use impasto_region::{Extent, Frames, Span, layout::MediumKind};

/// Names one operation of a [`Dev`]; never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevToken(pub u64);

/// How durable a write is when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is in the device's cache at best.
    Plain,
    /// It itself is durable (`RWF_DSYNC`). Of other writes, completed ones included, this says
    /// nothing.
    Dsync,
}

/// The seam below [`Disk`]: a block device, asynchronous. `I` is what the loop waits on.
///
/// Offsets and lengths are multiples of a block. Operations complete in any order. A completed
/// write was written whole: an implementation turns a short write into an error.
pub trait Dev<I> {
    /// Starts writing the bytes of `span` to the device. They are not touched until it completes.
    fn write(
        &mut self,
        io: &mut I,
        frames: &Frames,
        span: Span,
        durability: Durability,
    ) -> DevToken;

    /// Starts a sync: when it completes, every write that had completed before this call is
    /// durable.
    fn sync(&mut self, io: &mut I) -> DevToken;

    /// Starts reading `span` from the device into its frames, which are on loan until it completes.
    fn read(&mut self, io: &mut I, frames: &mut Frames, span: Span) -> DevToken;

    /// Returns an operation that has completed.
    fn poll(&mut self, io: &mut I, frames: &mut Frames) -> Option<(DevToken, io::Result<()>)>;
}

/// The seam below [`Pmem`]: cache lines. Stores are plain stores into [`Frames`].
pub trait Lines {
    /// Starts writing back the lines of `span`.
    fn flush(&mut self, frames: &Frames, span: Span);

    /// Waits until every line flushed before is durable.
    fn fence(&mut self, frames: &Frames);
}

/// Names a commit; the store numbers them from 0 without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitId(pub u64);

/// Names a [`Medium::persist`] or [`Medium::read`]; its caller's choice, one at a time each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What has completed.
#[derive(Debug)]
pub enum Event {
    /// The commit is durable, or the medium has failed (D7).
    Committed(CommitId, io::Result<()>),
    /// The spans of a [`Medium::persist`] are durable, or the medium has failed (D7).
    Persisted(Ticket, io::Result<()>),
    /// The spans of a [`Medium::read`] are in their frames. `Err`: at least one could not be read;
    /// its frames hold zeroes.
    Read(Ticket, io::Result<()>),
}

/// What a medium wants of those above it.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Which medium it is.
    pub kind: MediumKind,
    /// Values up to this length stand in their record.
    pub inline_max: u32,
    /// True if landing buffers are buffers of the region, and a payload may be kept where it
    /// landed.
    pub keeps_landed: bool,
    /// At most so many commits are in flight.
    pub commits_max: usize,
}

/// Makes bytes durable, in the background of the loop that waits on `I`.
pub trait Medium<I> {
    /// Returns what the medium wants.
    fn profile(&self) -> Profile;

    /// Returns true if a commit of `bytes` may start now: fewer than `commits_max` are in flight,
    /// and it is worth a write of its own.
    fn accepts_commit(&self, bytes: u64) -> bool;

    /// Starts making `log` durable, one commit of the log, after `kept` (D1): payload that its
    /// records name where it landed. `kept` is empty where `keeps_landed` is false.
    fn commit(&mut self, io: &mut I, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]);

    /// Starts making `spans` durable: long bodies, superblocks. Spans are whole blocks.
    fn persist(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]);

    /// Starts bringing `spans` into their frames; on a medium whose frames are the region they are
    /// there. Spans are whole blocks.
    fn read(&mut self, io: &mut I, frames: &mut Frames, ticket: Ticket, spans: &[Span]);

    /// Returns something that has completed.
    fn poll(&mut self, io: &mut I, frames: &mut Frames) -> Option<Event>;
}
