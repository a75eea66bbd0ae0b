//! What all workers of a region share, behind one lock.
//!
//! A worker holds the lock for all of its turn but the wait, in which the kernel does most of the
//! work: receiving and sending. So requests are applied in one order, which is the order of lsns
//! (D3), and everything that is shared is plain data.
//!
//! ```text
//! worker 0   enter ... | take the lock, parse, apply, commit, release | enter ...
//! worker 1   .. enter .............. | wait | take the lock, parse, .. | enter ..
//!                                             wake worker 0 if its replies may leave now
//! ```
//!
//! What one worker completes another may wait for: a commit that holds its records, its body, its
//! read. It leaves word here and wakes the other: one message per worker and turn at most.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use impasto_region::{Checksum, Extent, Frames, layout::Geometry};
use impasto_ring::FlowId;
use impasto_store::{Lsn, Store};

use crate::{config::Options, jobs::Jobs, monitor::Counts};

/// What a [`Shared`] is made of.
#[derive(Debug)]
pub struct SharedParts<M> {
    /// What makes commits durable.
    pub medium: M,
    /// The memory of the region, and behind it, if the medium keeps nothing where it landed,
    /// [`landing_bufs`](crate::config::landing_bufs) landing buffers for each worker.
    pub frames: Frames,
    /// How many workers there will be.
    pub workers: u32,
    /// The store that [`start`](crate::start()) has recovered.
    pub store: Store,
    /// The region's size.
    pub geometry: Geometry,
    /// What a user may set.
    pub options: Options,
}

/// A recovered region, as its workers share it. `W` is what wakes a worker.
pub struct Shared<M, W>(Arc<Mutex<Core<M, W>>>);

impl<M, W> Shared<M, W> {
    /// Returns a region that no worker serves yet.
    pub fn new(parts: SharedParts<M>) -> Self {
        let SharedParts { medium, frames, workers, store, geometry, options } = parts;
        let (jobs, commits) = (Jobs::default(), 0);
        let (peers, serving) = (Vec::new(), 0);
        let core = Core {
            medium,
            frames,
            store,
            geometry,
            workers,
            options,
            jobs,
            commits,
            counts: Counts::default(),
            peers,
            serving,
        };
        Self(Arc::new(Mutex::new(core)))
    }

    /// Returns what `look` makes of the memory of the region.
    pub fn with_frames<R>(&self, look: impl FnOnce(&Frames) -> R) -> R {
        look(&self.lock().frames)
    }

    /// # Panics
    /// If a worker has panicked: what it left is not to be trusted, recovery is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core<M, W>> {
        self.0.lock().expect("no worker of the region has panicked")
    }
}

impl<M, W> Clone for Shared<M, W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M, W> fmt::Debug for Shared<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What stands behind the lock.
pub(crate) struct Core<M, W> {
    pub(crate) medium: M,
    pub(crate) frames: Frames,
    pub(crate) store: Store,
    pub(crate) geometry: Geometry,
    /// How many there will be.
    pub(crate) workers: u32,
    pub(crate) options: Options,
    pub(crate) jobs: Jobs,
    /// Commits in flight.
    pub(crate) commits: usize,
    pub(crate) counts: Counts,
    /// The workers, by number.
    pub(crate) peers: Vec<Peer<W>>,
    /// Workers with connections, or that take some.
    pub(crate) serving: usize,
}

impl<M, W> Core<M, W> {
    /// Adds a worker; returns its number.
    pub(crate) fn join(&mut self, waker: W) -> usize {
        let (ended, waits, flows) = (Vec::new(), Waits::default(), 0);
        self.peers.push(Peer { waker, ended, waits, flows, stirred: false, woken: false });
        self.serving += 1;
        self.peers.len() - 1
    }

    /// Returns true if `extents` hold a value with that checksum.
    pub(crate) fn verify(&self, extents: &[Extent], checksum: u64) -> bool {
        let mut sum = Checksum::new();
        for extent in extents {
            sum.update(self.frames.bytes(extent.span()));
        }
        sum.value() == checksum
    }

    /// Returns true if nothing is left to be made durable.
    pub(crate) fn is_quiet(&self) -> bool {
        let open = self.store.open_bytes() > 0 && !self.store.is_read_only();
        self.commits == 0 && self.jobs.is_empty() && !open
    }

    /// Returns true if all workers have stopped serving and nothing is left to be made durable.
    pub(crate) fn is_over(&self) -> bool {
        self.serving == 0 && self.is_quiet()
    }
}

/// A worker, as the others see it.
#[derive(Debug)]
pub(crate) struct Peer<W> {
    pub(crate) waker: W,
    /// What others have ended for it.
    pub(crate) ended: Vec<Ended>,
    pub(crate) waits: Waits,
    /// Its open connections.
    pub(crate) flows: usize,
    /// The medium has done something since its last turn, and it waits for that.
    pub(crate) stirred: bool,
    /// It takes a turn soon, whatever happens.
    pub(crate) woken: bool,
}

/// What a worker waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    /// That this is durable: then a reply may leave.
    pub(crate) durable: Option<Lsn>,
    /// That the medium does something, or that buffers are freed.
    pub(crate) medium: bool,
}

/// A job of a worker's flow that another worker has seen the end of.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The flow's body in these extents is persisted.
    Body(FlowId, Vec<Extent>),
    /// The flow's records are read, up to the one that is damaged.
    Load(FlowId, Option<u64>),
}
