//! From a region on a medium to a store that may be served (D6).

use std::io;

use impasto_media::{Event, Medium, Ticket};
use impasto_region::{
    Frames, Span,
    layout::{MediumKind, Superblock},
};
use impasto_store::{Corruption, Recovery, Step, Store};

use crate::{Enter, engine::place_superblock};

/// Why a region cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The region does not hold what was acknowledged.
    #[error(transparent)]
    Corruption(#[from] Corruption),
    /// The medium has failed.
    #[error("the medium has failed while the region was {doing}: {error}")]
    Medium {
        /// What it was asked for.
        doing: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// Commits are aligned to more on the new medium.
    #[error(
        "the region is too full to go on another medium: {missing} MiB more have to be free; trim \
         logs on {}, where it was served last", .before.name()
    )]
    Full {
        /// Segments of 1 MiB that would have to be free besides.
        missing: u32,
        /// The medium of the last run.
        before: MediumKind,
    },
}

/// What recovery has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records that were replayed.
    pub records: u64,
    /// Number of reads of which a part could not be read: it counted as zeroes.
    pub unreadable: u64,
    /// True if the last run had stopped cleanly.
    pub clean: bool,
    /// The superblock of this run.
    pub superblock: Superblock,
}

/// Recovers a region and makes this run's superblock durable, before anything is appended.
///
/// The medium need not be that of the last run; which of them may follow on which is its caller's
/// matter.
///
/// # Errors
/// Why the region cannot be served.
///
/// # Durability
/// Everything that recovery shows is durable when this returns, and so is the new epoch.
pub fn start<I: Enter, M: Medium<I>>(
    io: &mut I,
    medium: &mut M,
    frames: &mut Frames,
    superblock: Superblock,
) -> Result<(Store, Report), StartError> {
    start_from(io, medium, frames, Recovery::new(superblock))
}

/// As [`start`], with a recovery that knows more than the superblock.
///
/// # Errors
/// As `start`.
///
/// # Durability
/// As `start`.
pub fn start_from<I: Enter, M: Medium<I>>(
    io: &mut I,
    medium: &mut M,
    frames: &mut Frames,
    recovery: Recovery,
) -> Result<(Store, Report), StartError> {
    let mut unreadable = 0;
    let Superblock { medium: before, clean, .. } = *recovery.superblock();
    let mut recovery = recovery.on(medium.profile().kind);
    while let Step::Read(spans) = recovery.step(frames)? {
        medium.read(io, frames, TICKET, &spans);
        // What cannot be read is zeroes now: recovery knows whether it was acknowledged.
        let read = wait(io, medium, frames).map_err(failed("recovered"))?;
        unreadable += u64::from(read.is_err());
    }
    let recovered = recovery.finish(frames)?;
    let unwitnessed = recovered.unwitnessed().to_vec();
    let records = recovered.records();
    let superblock = recovered.superblock;
    let store = recovered.into_store();
    let missing = store.segments_missing();
    if superblock.medium != before && missing > 0 {
        return Err(StartError::Full { missing, before });
    }
    // D3: commits that no other bears witness for may stand in a cache only, after the crash of a
    // process.
    persist(io, medium, frames, &unwitnessed).map_err(failed("hardened"))?;
    let span = place_superblock(frames, &superblock);
    persist(io, medium, frames, &[span]).map_err(failed("marked as served"))?;
    Ok((store, Report { records, unreadable, clean, superblock }))
}

/// The only operation under way.
const TICKET: Ticket = Ticket(0);

fn persist<I: Enter, M: Medium<I>>(
    io: &mut I,
    medium: &mut M,
    frames: &mut Frames,
    spans: &[Span],
) -> io::Result<()> {
    medium.persist(io, frames, TICKET, spans);
    wait(io, medium, frames)?
}

/// Waits for the operation; the outer error is the loop's, the inner one the medium's.
fn wait<I: Enter, M: Medium<I>>(
    io: &mut I,
    medium: &mut M,
    frames: &mut Frames,
) -> io::Result<io::Result<()>> {
    loop {
        match medium.poll(io, frames) {
            Some(Event::Read(_, result) | Event::Persisted(_, result)) => return Ok(result),
            Some(Event::Committed(..) | Event::Abandoned(_)) => {
                unreachable!("nothing was committed or abandoned")
            }
            None => {
                io.enter(None)?;
            }
        }
    }
}

const fn failed(doing: &'static str) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::Medium { doing, error }
}
