//! The loop: the one place that waits, and the life of a packet.
//!
//! ```text
//! turn:  enter -> port: completions become slots -> parse, apply -> seal, start commit
//!        -> medium: completions -> durable lsn advances -> release replies in flow order
//!        -> (next) enter
//! ```
//!
//! One enter per turn submits what the turn before has started - receives, sends, writes - and
//! waits. Nothing here waits for time: a reply leaves when its lsn is durable (D3), a commit starts
//! when the medium takes it. What follows the enter is a [`Turn`], under the lock that all workers
//! of a region share.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use impasto_media::Medium;
use impasto_ring::Port;

use crate::{
    Enter, Shared,
    config::landing_bufs,
    deadlines::Deadlines,
    direct::Directed,
    engine::{Engine, Own},
    flow::Flows,
    landing::Landing,
    pools::Pools,
    turn::Turn,
};

/// What a worker is made of.
pub struct Parts<I: Enter, P, M> {
    /// What it waits on.
    pub io: I,
    /// Where packets come from; it has no buffers yet.
    pub port: P,
    /// The region that it serves, with others or alone.
    pub shared: Shared<M, I::Waker>,
    /// Tells the time, once per turn.
    pub clock: Box<dyn FnMut() -> Instant>,
    /// True: it never waits, and takes all of its core, for a reply that leaves a little sooner.
    pub busy_poll: bool,
}

/// The worker: everything of one thread.
pub struct Worker<I: Enter, P, M> {
    pub(crate) own: Own<I, P>,
    pub(crate) flows: Flows,
    deadlines: Deadlines,
    pub(crate) shared: Shared<M, I::Waker>,
    clock: Box<dyn FnMut() -> Instant>,
    busy_poll: bool,
}

impl<I: Enter, P: Port<I>, M: Medium<I>> Worker<I, P, M> {
    /// Joins the other workers of the region, and gives the port its landing buffers; the first
    /// turn serves.
    ///
    /// # Errors
    /// What the system says to a worker that others are to wake.
    ///
    /// # Panics
    /// If the medium keeps nothing where it landed, and there are no landing buffers for one more
    /// worker.
    pub fn new(parts: Parts<I, P, M>) -> io::Result<Self> {
        let Parts { io, port, shared, mut clock, busy_poll } = parts;
        let waker = io.waker()?;
        let mut core = shared.lock();
        let worker = core.join(waker);
        let bufs = landing_bufs(core.geometry, core.workers);
        let keeps = core.medium.profile().keeps_landed;
        let mut own = Own {
            worker,
            io,
            port,
            pools: Pools::default(),
            landing: Landing::new(if keeps { bufs } else { 0 }),
            directed: Directed::default(),
            answering: Vec::new(),
            waiting: VecDeque::new(),
            copy: Vec::new(),
            made_bytes: 0,
            backlog_bytes: 0,
            now: clock(),
            stopping: false,
            reclaiming: false,
            behind: false,
            held: false,
            failed: false,
            saw_failure: false,
        };
        let first = core.geometry.bufs_end();
        let mut engine = Engine { own: &mut own, core: &mut core };
        if !keeps {
            engine.provide_first(first, bufs);
        }
        engine.provide();
        drop(core);
        Ok(Self {
            own,
            flows: Flows::default(),
            deadlines: Deadlines::default(),
            shared,
            clock,
            busy_poll,
        })
    }

    /// Serves until `stop` is set and whatever waits for packets is woken, then stops cleanly:
    /// requests that have arrived are answered, and, by the first worker when all have stopped, the
    /// log is sealed, and a superblock says so.
    ///
    /// # Errors
    /// What keeps the loop from going on, or the region from being closed cleanly: the next start
    /// then recovers.
    pub fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        // Acquire: pairs with the Release of whoever stops the worker.
        while !stop.load(Ordering::Acquire) {
            self.turn(None)?;
        }
        self.stop()
    }

    /// One turn. Waits at most for `limit`, `None`: until something happens.
    ///
    /// # Errors
    /// What keeps the loop from going on.
    pub fn turn(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let patience = self.deadlines.next().map(|at| at.saturating_duration_since(self.own.now));
        // What frees space does not wait for packets.
        let at_once = self.own.reclaiming || self.own.behind || self.busy_poll;
        let at_once = at_once.then_some(Duration::ZERO);
        let limit = limit.into_iter().chain(patience).chain(at_once).min();
        let has_news = self.own.io.enter(limit)?;
        self.own.now = (self.clock)();
        let is_behind = self.own.reclaiming || self.own.behind;
        let is_due = is_behind || self.deadlines.is_due(self.own.now);
        if self.busy_poll && !has_news && !is_due {
            // Nobody else is kept from the lock for nothing.
            std::hint::spin_loop();
            return Ok(());
        }
        self.locked(|turn| turn.take());
        Ok(())
    }

    /// Does something under the lock.
    pub(crate) fn locked<R>(&mut self, act: impl FnOnce(&mut Turn<'_, I, P, M>) -> R) -> R {
        let mut core = self.shared.lock();
        let engine = Engine { own: &mut self.own, core: &mut core };
        act(&mut Turn { engine, flows: &mut self.flows, deadlines: &mut self.deadlines })
    }

    /// Returns the number of open connections.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Returns what it waits on: to have it wait for a signal, too.
    pub fn io(&mut self) -> &mut I {
        &mut self.own.io
    }
}

impl<I: Enter, P, M> fmt::Debug for Worker<I, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("worker", &self.own.worker)
            .field("flows", &self.flows.len())
            .finish_non_exhaustive()
    }
}

impl<I: Enter, P, M> fmt::Debug for Parts<I, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}
