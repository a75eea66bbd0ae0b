//! What makes bytes durable.
//!
//! A [`Medium`] takes commits, spans and reads and reports when they are done. There are two, each
//! written against one small seam, so that the real and the simulated hardware run the same medium:
//!
//! | medium | seam | real | simulated |
//! |---|---|---|---|
//! | [`Disk`] | [`Dev`] | [`FileDev`]: an `O_DIRECT` file | `impasto_sim::SimDev` |
//! | [`Pmem`] | [`Lines`] | the CPU's flush instruction | `impasto_sim::SimLines` |
//!
//! Bytes are at the same offset in [`Frames`] and on the medium, so a span says both.

#![forbid(unsafe_code)]

mod dev;
mod disk;
mod error;
mod lines;
mod pmem;

pub use dev::{Ended, FileDev, Files};
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

/// The seam below [`Disk`]: a block device, asynchronous. `I` is what the loop waits on; if there
/// are several, an operation completes on the one that started it.
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

/// Names what is written to be persisted, or a [`Medium::read`]: its caller's choice, one at a time
/// each. It may be used again when [`Medium::poll`] has returned the event that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What has completed.
#[derive(Debug)]
pub enum Event {
    /// The commit is durable, or the medium has failed (D7).
    Committed(CommitId, io::Result<()>),
    /// All of a ticket that a [`Medium::persist`] ended is durable, or the medium has failed (D7);
    /// nothing of it is in flight.
    Persisted(Ticket, io::Result<()>),
    /// Nothing of a ticket that a [`Medium::abandon`] ended is in flight: its blocks may be used
    /// again.
    Abandoned(Ticket),
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
///
/// One medium may stand behind a lock and serve several loops, each with an `I` of its own. What
/// was started on an `I` completes on it. Whoever polls gets what there is: events of others, too,
/// and what waited goes on, on the `I` of that call. So each loop polls until `None` after it has
/// waited, and before it waits again if it has called anything else: a call may end at once, and
/// says so in an event. It stops only when nothing that was started on its `I` is in flight: others
/// may wait for that.
///
/// A long body is written as it fills, under one [`Ticket`]:
///
/// ```text
/// write*  persist -> Event::Persisted    its bytes are durable, a record may name them (D1)
/// write*  abandon -> Event::Abandoned    they are not wanted, its blocks may be used again (D4)
/// ```
///
/// Until that event the bytes in its spans are not changed, and written under no other ticket.
pub trait Medium<I> {
    /// Returns what the medium wants.
    fn profile(&self) -> Profile;

    /// Returns true if a commit of `bytes` may start now: fewer than `commits_max` are in flight,
    /// and it is worth a write of its own.
    fn accepts_commit(&self, bytes: u64) -> bool;

    /// Starts making `log` durable, one commit of the log, after `kept` (D1): payload that its
    /// records name where it landed. `kept` is empty where `keeps_landed` is false.
    fn commit(&mut self, io: &mut I, frames: &Frames, id: CommitId, log: Span, kept: &[Extent]);

    /// Starts bringing `spans` to the medium, as a part of what the [`persist`](Self::persist) of
    /// `ticket` will make durable. Spans are whole blocks, and overlap none of the ticket's.
    ///
    /// There is no event for it: each ticket that was written to is ended by one persist or
    /// [`abandon`](Self::abandon). All of these come from the same thread: on `pmem` a fence waits
    /// for the flushes of its own processor.
    ///
    /// After the medium has failed it does nothing; the persist then reports it (D7).
    ///
    /// # Durability
    /// None.
    fn write(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]);

    /// Starts making durable `spans` and all that [`write`](Self::write) was given for `ticket`:
    /// long bodies, superblocks. Spans are whole blocks; there may be none.
    ///
    /// # Durability
    /// When [`Event::Persisted`] says so.
    fn persist(&mut self, io: &mut I, frames: &Frames, ticket: Ticket, spans: &[Span]);

    /// Gives up what [`write`](Self::write) was given for `ticket`: what waits never starts, what
    /// is in flight ends. Then, also on a medium that has failed, comes [`Event::Abandoned`].
    ///
    /// Before that event a write of the ticket could land on bytes that are newer. A ticket that
    /// was not written to may be abandoned; one that is being persisted may not.
    ///
    /// # Durability
    /// None: any part of it may be found after a crash.
    fn abandon(&mut self, io: &mut I, ticket: Ticket);

    /// Starts bringing `spans` into their frames; on a medium whose frames are the region they are
    /// there. Spans are whole blocks.
    fn read(&mut self, io: &mut I, frames: &mut Frames, ticket: Ticket, spans: &[Span]);

    /// Returns something that has completed, of whichever call.
    fn poll(&mut self, io: &mut I, frames: &mut Frames) -> Option<Event>;
}

/// One medium serves all workers, whichever of them holds it.
const _: () = {
    const fn is_send<T: Send>() {}
    const fn disk_is_send<D: Send>() {
        is_send::<Disk<D>>();
    }
    disk_is_send::<()>();
    is_send::<Pmem<CpuLines>>();
};
