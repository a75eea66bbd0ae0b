//! One turn of a worker: from what has arrived to what may leave.

use std::io;

use impasto_media::{Event, Medium, Ticket};
use impasto_ring::{FlowId, Part, Port, What};

use crate::{
    Enter,
    config::{BACKLOG_BYTES_MAX, SLOW_BYTES_MAX, STANDSTILL_MAX, TURN_BYTES_MAX},
    deadlines::{Deadlines, Late, deadline},
    engine::{Engine, Fate},
    flow::{Flow, Flows, Input, Parked, Place},
    jobs::{Job, Whose},
    placer::Arrived,
    shared::{Ended, Waits},
};

/// A turn, while the worker holds the lock.
pub(crate) struct Turn<'a, I: Enter, P, M> {
    pub(crate) engine: Engine<'a, I, P, M>,
    pub(crate) flows: &'a mut Flows,
    pub(crate) deadlines: &'a mut Deadlines,
}

impl<'a, I: Enter, P: Port<I>, M: Medium<I>> Turn<'a, I, P, M> {
    /// Takes the turn.
    pub(crate) fn take(&mut self) {
        self.take_ended();
        self.engine.receive();
        self.engine.let_go();
        let mut stirred = self.take_sent();
        self.take_slots();
        // What a long trim frees, flows may wait for.
        let is_freeing = self.engine.is_freeing();
        self.engine.reclaim();
        if is_freeing {
            self.wake_waiting();
            stirred = true;
        }
        self.expire();
        loop {
            self.engine.commit();
            if !self.take_events() {
                break;
            }
            stirred = true;
        }
        let mut is_news = false;
        while self.tell_failure() {
            is_news = true;
            // What flows have given up; others may go on with it, and fail in turn.
            self.take_events();
        }
        self.engine.provide();
        self.release_replies();
        self.wake_peers(stirred, is_news);
    }

    /// Takes what other workers have ended for this one.
    fn take_ended(&mut self) {
        let worker = self.engine.own.worker;
        let peer = &mut self.engine.core.peers[worker];
        peer.woken = true;
        let stirred = std::mem::take(&mut peer.stirred);
        let mut ended = std::mem::take(&mut peer.ended);
        for ended in ended.drain(..) {
            self.end(ended);
        }
        self.engine.core.peers[worker].ended = ended;
        if stirred {
            self.wake_waiting();
        }
    }

    /// Parses what has landed and applies it, in the order in which it has landed.
    fn take_slots(&mut self) {
        let mut bytes = 0;
        self.engine.own.made_bytes = 0;
        while bytes + self.engine.own.made_bytes < TURN_BYTES_MAX
            && let Some(slot) = self.engine.own.port.ring().advance()
        {
            bytes += match slot.what {
                What::Data(extent) => u64::from(extent.len),
                What::Filled(span) => span.len,
                _ => 0,
            };
            match slot.what {
                What::Open => self.open(slot.flow),
                What::Data(extent) => self.with(slot.flow, |engine, flow| {
                    flow.heard = engine.own.now;
                    engine.arrive(flow, Arrived::Landed(extent));
                    if extent.len >= SLOW_BYTES_MAX {
                        engine.direct(flow);
                    }
                }),
                What::Stopped => self.with(slot.flow, |engine, flow| engine.direct_next(flow)),
                What::Filled(span) => self.with(slot.flow, |engine, flow| {
                    flow.heard = engine.own.now;
                    engine.take_filled(flow, span);
                }),
                What::End => self.with(slot.flow, |engine, flow| {
                    flow.ended = true;
                    engine.end_direct(flow);
                }),
                What::Reset => self.close(slot.flow),
            }
        }
        self.engine.core.counts.received_bytes += bytes;
        let ring = self.engine.own.port.ring();
        self.engine.own.behind = ring.cur() < ring.tail();
        if self.engine.own.landing.is_tight() {
            self.spill();
        }
        self.engine.own.port.ring().release();
        if self.engine.own.backlog_bytes > BACKLOG_BYTES_MAX {
            self.cut_off_the_deaf();
        }
    }

    /// Backlogs of clients that take no replies are not waited for: the longest goes first.
    fn cut_off_the_deaf(&mut self) {
        let is_deaf = |flow: &&mut Flow| flow.parked == Some(Parked::Output);
        let deaf = self.flows.iter_mut().filter(is_deaf);
        let mut deaf: Vec<_> = deaf.map(|flow| (flow.backlog.bytes.len(), flow.id)).collect();
        deaf.sort_unstable();
        while let Some((_, id)) = deaf.pop()
            && self.engine.own.backlog_bytes > BACKLOG_BYTES_MAX
        {
            self.close(id);
        }
    }

    /// Ends transmits: their memory is used again, their flows may go on. Returns true if that may
    /// have set buffers free.
    fn take_sent(&mut self) -> bool {
        let mut frees = false;
        while let Some(sent) = self.engine.own.port.sent() {
            for part in &sent.transmit.parts {
                if let Part::Stored(extent) = part {
                    self.engine.core.store.unpin(&[*extent]);
                    frees = true;
                }
            }
            self.engine.own.pools.give_transmit(sent.transmit);
            if sent.result.is_err() {
                self.close(sent.flow);
                continue;
            }
            self.with(sent.flow, |engine, flow| {
                flow.output.sent();
                if flow.output.is_done() {
                    flow.since = engine.own.now;
                }
                if flow.parked == Some(Parked::Output) && !flow.output.is_full() {
                    engine.unpark(flow);
                }
            });
        }
        frees
    }

    /// Takes what the medium has completed; what waited for it goes on. Returns false if that is
    /// nothing.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        loop {
            let Engine { own, core } = &mut self.engine;
            let Some(event) = core.medium.poll(&mut own.io, &mut core.frames) else {
                break;
            };
            any = true;
            match event {
                Event::Committed(id, result) => {
                    core.commits -= 1;
                    core.store.completed(id.0, result.is_ok());
                }
                Event::Persisted(ticket, result) => self.persisted(ticket, &result),
                Event::Read(ticket, _) => self.read(ticket),
                Event::Abandoned(ticket) => {
                    let Job::Dropped(extents) = core.jobs.end(ticket) else {
                        unreachable!("only what was dropped is abandoned")
                    };
                    self.engine.drop_place(Place::Reserved(extents));
                }
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
        let core = &mut self.engine.core;
        if result.is_err() {
            core.store.fail();
        }
        match core.jobs.end(ticket) {
            Job::Superblock(generation) => {
                if result.is_ok() {
                    core.store.superblock_durable(generation);
                }
            }
            Job::Body(whose, extents) => self.hand(whose.worker, Ended::Body(whose.flow, extents)),
            Job::Load(..) | Job::Filling | Job::Dropped(_) => {
                unreachable!("only whole bodies and superblocks are persisted")
            }
        }
    }

    /// Records are in their frames. None is sent before it has been verified.
    fn read(&mut self, ticket: Ticket) {
        let Engine { own, core } = &mut self.engine;
        let Job::Load(Whose { worker, flow }, loads, extents) = core.jobs.end(ticket) else {
            unreachable!("only loads are read")
        };
        let (mut rest, mut damaged) = (&extents[..], None);
        for (load, count) in &loads {
            let (value, behind) = rest.split_at(*count);
            rest = behind;
            // What could not be read is zeroes.
            if !core.verify(value, load.checksum) {
                damaged = Some(load.seq());
                break;
            }
            core.store.loaded(*load);
        }
        core.store.unpin(&extents);
        own.pools.give_extents(extents);
        own.pools.give_loads(loads);
        self.hand(worker, Ended::Load(flow, damaged));
    }

    /// Hands a job that has ended to the worker of its flow.
    fn hand(&mut self, worker: usize, ended: Ended) {
        if worker == self.engine.own.worker {
            self.end(ended);
        } else {
            self.engine.core.peers[worker].ended.push(ended);
        }
    }

    /// A job of a flow has ended.
    fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Body(id, extents) => {
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
            Ended::Load(id, damaged) => self.with(id, |engine, flow| engine.loaded(flow, damaged)),
        }
    }

    /// Flows that waited for the medium go on, in their order.
    fn wake_waiting(&mut self) {
        for _ in 0..self.engine.own.waiting.len() {
            let Some(id) = self.engine.own.waiting.pop_front() else {
                break;
            };
            self.with(id, |engine, flow| {
                if flow.parked == Some(Parked::Medium) {
                    engine.unpark(flow);
                }
            });
        }
    }

    /// D7: whoever waits for a commit that will not be is told. Returns false if nobody has to be.
    fn tell_failure(&mut self) -> bool {
        let Engine { own, core } = &mut self.engine;
        let is_news = core.store.is_read_only() && !own.saw_failure;
        own.saw_failure |= is_news;
        let has_failed = std::mem::take(&mut own.failed) || is_news;
        if has_failed {
            for flow in self.flows.iter_mut() {
                self.engine.recall(flow);
            }
        }
        has_failed
    }

    /// Sends every reply that may leave; flows that owe none are not looked at again. Notes what
    /// the others wait for.
    fn release_replies(&mut self) {
        let mut answering = std::mem::take(&mut self.engine.own.answering);
        self.engine.own.held = false;
        let mut durable = None;
        answering.retain(|id| {
            let Some(flow) = self.flows.get(*id) else {
                return false;
            };
            self.engine.release(flow);
            // Whoever takes nothing of it may say nothing more, either.
            self.deadlines.list(flow, &self.engine.core.options);
            // One that is held back by a read waits for the medium.
            let awaits = flow.output.awaits().filter(|lsn| *lsn > self.engine.core.store.durable());
            durable = durable.into_iter().chain(awaits).min();
            flow.answering = !flow.output.is_empty();
            flow.answering
        });
        let Engine { own, core } = &mut self.engine;
        own.answering = answering;
        let medium = own.held || !own.waiting.is_empty() || own.landing.is_short();
        let peer = &mut core.peers[own.worker];
        (peer.waits, peer.flows) = (Waits { durable, medium }, self.flows.len());
    }

    /// Wakes the workers that can go on after what this turn has brought about: that something was
    /// done or freed that others may wait for, or that the medium has failed, which is news.
    fn wake_peers(&mut self, stirred: bool, is_news: bool) {
        let Engine { own, core } = &mut self.engine;
        let is_over = own.stopping && core.is_over();
        let durable = core.store.durable();
        for (worker, peer) in core.peers.iter_mut().enumerate() {
            if worker == own.worker {
                peer.woken = false;
                continue;
            }
            peer.stirred |= stirred && peer.waits.medium;
            let may_send = peer.waits.durable.is_some_and(|lsn| lsn <= durable);
            let may_go_on = peer.stirred || !peer.ended.is_empty();
            if !peer.woken && (may_send || may_go_on || is_news || is_over) {
                peer.woken = true;
                own.io.wake(&peer.waker);
            }
        }
    }

    /// A new connection.
    fn open(&mut self, id: FlowId) {
        if !self.engine.own.stopping {
            self.flows.insert(id, self.engine.own.now);
            self.with(id, |_, _| {});
        } else {
            self.engine.own.port.close(&mut self.engine.own.io, id);
        }
    }

    /// Does something with a flow, if it is still open; closes it if nothing is left to be done.
    pub(crate) fn with(
        &mut self,
        id: FlowId,
        act: impl FnOnce(&mut Engine<'a, I, P, M>, &mut Flow),
    ) {
        let Some(flow) = self.flows.get(id) else {
            return;
        };
        act(&mut self.engine, flow);
        match self.engine.fate(flow) {
            Fate::Stays => self.deadlines.list(flow, &self.engine.core.options),
            Fate::Ends => self.close(id),
        }
    }

    pub(crate) fn close(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.remove(id) {
            self.engine.close(flow);
        }
    }

    /// Ends flows whose peers are late.
    fn expire(&mut self) {
        let now = self.engine.own.now;
        while let Some((listed, id)) = self.deadlines.pop(now) {
            let Some(flow) = self.flows.get(id).filter(|flow| flow.listed == Some(listed)) else {
                continue;
            };
            flow.listed = None;
            // Nobody has looked for so long, at what has come neither: its time starts anew.
            if now.saturating_duration_since(listed) > STANDSTILL_MAX {
                (flow.since, flow.heard) = (now, now);
                flow.output.restart(now);
            }
            match deadline(flow, &self.engine.core.options) {
                Some((due, Late::Idle | Late::Reply)) if due <= now => self.close(id),
                Some((due, Late::Request)) if due <= now => {
                    self.with(id, |engine, flow| engine.give_up(flow));
                }
                _ => self.deadlines.list(flow, &self.engine.core.options),
            }
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
}
