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
//! when the medium takes it.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use impasto_media::{Event, Medium, Ticket};
use impasto_region::{Frames, layout::Geometry};
use impasto_ring::{FlowId, Part, Port, What};
use impasto_store::Store;

use crate::{
    Enter,
    config::{DISCARD_TIME, FLOWS_MAX, landing_bufs},
    engine::{Engine, Fate},
    flow::{Flow, Flows, Input, Parked, Place},
    jobs::{Job, Jobs},
    landing::Landing,
    linger::Linger,
    placer::Arrived,
    pools::Pools,
};

/// What a worker is made of.
pub struct Parts<I, P, M> {
    /// What it waits on.
    pub io: I,
    /// Where packets come from; it has no buffers yet.
    pub port: P,
    /// What makes commits durable.
    pub medium: M,
    /// The memory of the region, and behind it, if the medium keeps nothing where it landed,
    /// [`landing_bufs`] landing buffers.
    pub frames: Frames,
    /// The store that [`start`](crate::start()) has recovered.
    pub store: Store,
    /// The region's size.
    pub geometry: Geometry,
    /// Tells the time, once per turn.
    pub clock: Box<dyn FnMut() -> Instant>,
}

/// The worker: everything of one thread.
pub struct Worker<I, P, M> {
    pub(crate) engine: Engine<I, P, M>,
    pub(crate) flows: Flows,
    linger: Linger,
    clock: Box<dyn FnMut() -> Instant>,
}

impl<I: Enter, P: Port<I>, M: Medium<I>> Worker<I, P, M> {
    /// Gives the port its landing buffers; the first turn serves.
    pub fn new(parts: Parts<I, P, M>) -> Self {
        let Parts { io, port, medium, frames, store, geometry, mut clock } = parts;
        let bufs = landing_bufs(geometry);
        let keeps = medium.profile().keeps_landed;
        let mut engine = Engine {
            io,
            port,
            medium,
            frames,
            store,
            pools: Pools::default(),
            jobs: Jobs::default(),
            landing: Landing::new(if keeps { bufs } else { 0 }),
            commits: 0,
            answering: Vec::new(),
            waiting: VecDeque::new(),
            copy: Vec::new(),
            now: clock(),
            stopping: false,
            reclaiming: false,
            failed: false,
        };
        if !keeps {
            engine.provide_first(geometry.bufs_end(), bufs);
        }
        engine.provide();
        Self { engine, flows: Flows::default(), linger: Linger::default(), clock }
    }

    /// Serves until `stop` is set and whatever waits for packets is woken, then stops cleanly:
    /// requests that have arrived are answered, the log is sealed, and a superblock says so.
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
        let patience = self.linger.next().map(|at| at.saturating_duration_since(self.engine.now));
        // What frees space does not wait for packets.
        let at_once = self.engine.reclaiming.then_some(Duration::ZERO);
        let limit = limit.into_iter().chain(patience).chain(at_once).min();
        self.engine.io.enter(limit)?;
        self.engine.now = (self.clock)();
        self.engine.receive();
        self.take_sent();
        self.take_slots();
        self.engine.reclaim();
        loop {
            self.engine.commit();
            if !self.take_events() {
                break;
            }
        }
        self.tell_failure();
        self.engine.provide();
        self.release_replies();
        self.expire();
        Ok(())
    }

    /// Parses what has landed and applies it, in the order in which it has landed.
    fn take_slots(&mut self) {
        while let Some(slot) = self.engine.port.ring().advance() {
            match slot.what {
                What::Open => self.open(slot.flow),
                What::Data(extent) => self.with(slot.flow, |engine, flow| {
                    engine.arrive(flow, Arrived::Landed(extent));
                }),
                What::End => self.with(slot.flow, |_, flow| flow.ended = true),
                What::Reset => self.close(slot.flow),
            }
        }
        if self.engine.landing.is_tight() {
            self.spill();
        }
        self.engine.port.ring().release();
    }

    /// Ends transmits: their memory is used again, their flows may go on.
    fn take_sent(&mut self) {
        while let Some(sent) = self.engine.port.sent() {
            for part in &sent.transmit.parts {
                if let Part::Stored(extent) = part {
                    self.engine.store.unpin(&[*extent]);
                }
            }
            self.engine.pools.give_transmit(sent.transmit);
            if sent.result.is_err() {
                self.close(sent.flow);
                continue;
            }
            self.with(sent.flow, |engine, flow| {
                flow.output.sent();
                if flow.parked == Some(Parked::Output) && !flow.output.is_full() {
                    engine.unpark(flow);
                }
            });
        }
    }

    /// Takes what the medium has completed; what waited for it goes on. Returns false if that is
    /// nothing.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        loop {
            let Engine { io, medium, frames, .. } = &mut self.engine;
            let Some(event) = medium.poll(io, frames) else {
                break;
            };
            any = true;
            match event {
                Event::Committed(id, result) => {
                    self.engine.commits -= 1;
                    self.engine.store.completed(id.0, result.is_ok());
                    self.engine.failed |= result.is_err();
                }
                Event::Persisted(ticket, result) => self.persisted(ticket, &result),
                Event::Read(ticket, result) => self.read(ticket, &result),
            }
        }
        if any {
            self.engine.raise_front();
            self.wake_waiting();
        }
        any
    }

    /// D1: a body or a superblock is durable, or the medium has failed (D7).
    fn persisted(&mut self, ticket: Ticket, result: &io::Result<()>) {
        if result.is_err() {
            self.engine.fail();
        }
        match self.engine.jobs.end(ticket) {
            Job::Superblock(generation) => {
                if result.is_ok() {
                    self.engine.store.superblock_durable(generation);
                }
            }
            Job::Body(id, extents) => {
                let mut place = Some(Place::Reserved(extents));
                self.with(id, |engine, flow| {
                    if let (Some(Parked::Job), Input::Whole(body)) = (flow.parked, &mut flow.input)
                    {
                        body.place = place.take().expect("a flow has one body");
                        engine.unpark(flow);
                    }
                });
                // Its flow has gone.
                if let Some(place) = place {
                    self.engine.drop_place(place);
                }
            }
            Job::Load(..) => unreachable!("a load is read, not persisted"),
        }
    }

    /// A record is in its frames. It is not sent before it has been verified.
    fn read(&mut self, ticket: Ticket, result: &io::Result<()>) {
        let Job::Load(id, load, extents) = self.engine.jobs.end(ticket) else {
            unreachable!("only loads are read")
        };
        let engine = &mut self.engine;
        let intact = result.is_ok() && engine.verify(&extents, load.checksum);
        if intact {
            engine.store.loaded(load);
        }
        engine.store.unpin(&extents);
        engine.pools.give_extents(extents);
        self.with(id, |engine, flow| engine.loaded(flow, intact));
    }

    /// Flows that waited for the medium go on, in their order.
    fn wake_waiting(&mut self) {
        for _ in 0..self.engine.waiting.len() {
            let Some(id) = self.engine.waiting.pop_front() else {
                break;
            };
            self.with(id, |engine, flow| {
                if flow.parked == Some(Parked::Medium) {
                    engine.unpark(flow);
                }
            });
        }
    }

    /// D7: whoever waits for a commit that will not be is told.
    fn tell_failure(&mut self) {
        if std::mem::take(&mut self.engine.failed) {
            for flow in self.flows.iter_mut() {
                self.engine.recall(flow);
            }
        }
    }

    /// Sends every reply that may leave; flows that owe none are not looked at again.
    fn release_replies(&mut self) {
        let mut answering = std::mem::take(&mut self.engine.answering);
        answering.retain(|id| {
            let Some(flow) = self.flows.get(*id) else {
                return false;
            };
            self.engine.release(flow);
            flow.answering = !flow.output.is_empty();
            flow.answering
        });
        self.engine.answering = answering;
    }

    /// A new connection.
    fn open(&mut self, id: FlowId) {
        if self.flows.len() < FLOWS_MAX && !self.engine.stopping {
            self.flows.insert(id);
        } else {
            self.engine.port.close(&mut self.engine.io, id);
        }
    }

    /// Does something with a flow, if it is still open; closes it if nothing is left to be done.
    pub(crate) fn with(&mut self, id: FlowId, act: impl FnOnce(&mut Engine<I, P, M>, &mut Flow)) {
        let Some(flow) = self.flows.get(id) else {
            return;
        };
        act(&mut self.engine, flow);
        match self.engine.fate(flow) {
            Fate::Stays => {}
            Fate::Lingers => self.linger.push(self.engine.now + DISCARD_TIME, id),
            Fate::Ends => self.close(id),
        }
    }

    pub(crate) fn close(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.remove(id) {
            self.engine.close(flow);
        }
    }

    /// Closes flows that have lingered for their time.
    fn expire(&mut self) {
        while let Some(id) = self.linger.pop(self.engine.now) {
            self.close(id);
        }
    }

    /// Slow senders hold too many landing buffers: what they hold is copied.
    fn spill(&mut self) {
        for flow in self.flows.iter_mut() {
            if let Input::Body(body) | Input::Whole(body) = &mut flow.input {
                self.engine.spill(body);
            }
        }
    }

    /// Returns the number of open connections.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Returns what it waits on: to have it wait for a signal, too.
    pub fn io(&mut self) -> &mut I {
        &mut self.engine.io
    }

    /// Returns the memory of the region.
    pub fn frames(&self) -> &Frames {
        &self.engine.frames
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.engine.store
    }
}

impl<I, P, M> fmt::Debug for Worker<I, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("flows", &self.flows.len())
            .field("store", &self.engine.store)
            .finish_non_exhaustive()
    }
}

impl<I, P, M> fmt::Debug for Parts<I, P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
