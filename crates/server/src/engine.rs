//! What all flows share: the region's memory, the store, the medium, the port.

use std::{collections::VecDeque, time::Instant};

use impasto_media::{CommitId, Medium};
use impasto_region::{BufId, Extent, Frames, Span, layout::Superblock};
use impasto_ring::{FlowId, Part, Port};
use impasto_store::{Applied, Lsn, Request};

use crate::{
    Enter, Step,
    config::{BACKLOG_BYTES_MAX, DISCARD_BYTES_MAX},
    direct::{Directed, Directing},
    flow::{Backlog, Flow, Input, Parked, SpaceWait},
    http::{Fault, Link, Status, problem::IN_DOUBT, reply},
    jobs::{Job, Whose},
    landing::Landing,
    monitor::Kind,
    placer::{Arrived, Placer},
    pools::Pools,
    shared::Core,
};

/// A turn's view of everything but the flows: so that a flow and all that it needs can be borrowed
/// together.
pub(crate) struct Engine<'a, I: Enter, P, M> {
    pub(crate) own: &'a mut Own<I, P>,
    pub(crate) core: &'a mut Core<M, I::Waker>,
}

/// What all flows of a worker share, and no other worker sees.
pub(crate) struct Own<I, P> {
    /// The worker's number.
    pub(crate) worker: usize,
    pub(crate) io: I,
    pub(crate) port: P,
    pub(crate) pools: Pools,
    pub(crate) landing: Landing,
    pub(crate) directed: Directed,
    /// Flows with replies to be sent.
    pub(crate) answering: Vec<FlowId>,
    /// Flows parked for the medium, in the order in which they go on.
    pub(crate) waiting: VecDeque<FlowId>,
    /// For bytes that are written once and copied once.
    pub(crate) copy: Vec<u8>,
    /// Bytes that this turn has made of what is stored: lines of JSON, digests.
    pub(crate) made_bytes: u64,
    /// Bytes of all backlogs.
    pub(crate) backlog_bytes: usize,
    /// When this turn is.
    pub(crate) now: Instant,
    /// True once a clean stop has begun.
    pub(crate) stopping: bool,
    /// True if the log's front is being moved: the next turn goes on with it.
    pub(crate) reclaiming: bool,
    /// True if slots are left that this turn has not taken.
    pub(crate) behind: bool,
    /// True if a reply waits for a read in flight.
    pub(crate) held: bool,
    /// True when the medium has failed and flows have not been told.
    pub(crate) failed: bool,
    /// True once it was seen that the medium has failed.
    pub(crate) saw_failure: bool,
}

const LATE: Fault =
    Fault::new(Status::RequestTimeout, "the request was too slow: send it at once, or in time");

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays open.
    Stays,
    /// It is to be closed.
    Ends,
}

impl<I: Enter, P: Port<I>, M: Medium<I>> Engine<'_, I, P, M> {
    /// Lets the port make slots of what has arrived.
    pub(crate) fn receive(&mut self) {
        self.own.port.receive(&mut self.own.io, &mut self.core.frames);
    }

    /// Applies a request to the store. [`Applied::Wait`]: not before the medium takes a commit.
    pub(crate) fn apply(&mut self, request: Request<'_>, value: Arrived<'_>) -> Applied {
        loop {
            let mut placer = Placer::new(&mut self.core.frames, value);
            match self.core.store.apply(request, &mut placer) {
                Applied::Wait if self.commit() => {}
                applied => {
                    self.own.io.passed(Step::Applied);
                    return applied;
                }
            }
        }
    }

    /// Closes the open commit and starts it, if there is something in it and the medium would have
    /// it now.
    pub(crate) fn commit(&mut self) -> bool {
        let bytes = self.core.store.open_bytes();
        if bytes == 0 || self.core.store.is_read_only() || !self.core.medium.accepts_commit(bytes) {
            return false;
        }
        let mut placer = Placer::new(&mut self.core.frames, Arrived::NONE);
        let Some(commit) = self.core.store.seal(&mut placer) else {
            return false;
        };
        let (id, kept) = (CommitId(commit.id), self.core.store.kept());
        self.core.medium.commit(&mut self.own.io, &self.core.frames, id, commit.span, kept);
        self.core.commits += 1;
        self.core.counts.commits += 1;
        self.core.counts.commit_bytes += commit.span.len;
        true
    }

    /// Moves what keeps the log from shrinking, a bounded part in a turn.
    pub(crate) fn reclaim(&mut self) {
        let last = self.core.store.last_lsn();
        if self.reclaims() {
            self.core.store.reclaim(&mut Placer::new(&mut self.core.frames, Arrived::NONE));
        }
        self.own.reclaiming = self.core.store.last_lsn() > last || self.is_freeing();
        self.raise_front();
    }

    /// Returns true if space is still set free, by records and superblocks of its own.
    fn reclaims(&self) -> bool {
        !self.core.store.is_read_only() && !self.own.stopping
    }

    /// Returns true if a long trim is being freed, a part in each turn.
    pub(crate) fn is_freeing(&self) -> bool {
        self.reclaims() && self.core.store.is_freeing()
    }

    /// Persists a superblock that says where the log starts now, so that what stood before can be
    /// used again.
    pub(crate) fn raise_front(&mut self) {
        if self.reclaims()
            && let Some(superblock) = self.core.store.superblock_wanted()
        {
            self.persist_superblock(&superblock);
        }
    }

    /// Returns true if space may come back that was set free before the request that has to wait
    /// for it: by an effect that is not durable yet, by a long trim that is not all freed yet, by
    /// bodies that were given up, or by the superblock under way.
    pub(crate) fn space_may_come(&self, wait: &mut SpaceWait) -> bool {
        let until = *wait.until.get_or_insert_with(|| self.core.store.last_lsn());
        let is_freed = self.is_freeing() || self.core.jobs.drops_any();
        if self.core.store.durable() < until || is_freed {
            return true;
        }
        // It may have been started too early to say all; then the next one does. Not more of them:
        // who asks for what there is not must be told.
        let under_way = self.core.jobs.superblock();
        under_way
            .is_some_and(|generation| generation <= *wait.generation.get_or_insert(generation + 1))
    }

    pub(crate) fn persist_superblock(&mut self, superblock: &Superblock) {
        let ticket = self.core.jobs.start(Job::Superblock(superblock.generation));
        let span = place_superblock(&mut self.core.frames, superblock);
        self.core.medium.persist(&mut self.own.io, &self.core.frames, ticket, &[span]);
    }

    pub(crate) const fn whose(&self, flow: &Flow) -> Whose {
        Whose { worker: self.own.worker, flow: flow.id }
    }

    /// Persists a superblock that says that nothing is missing, if that is so.
    pub(crate) fn persist_clean_superblock(&mut self) {
        if !self.core.store.is_read_only() {
            let superblock = self.core.store.clean_superblock();
            self.persist_superblock(&superblock);
        }
    }

    /// Keeps `flow` from going on.
    pub(crate) fn park(&mut self, flow: &mut Flow, why: Parked) {
        flow.parked = Some(why);
        if why == Parked::Medium {
            self.own.waiting.push_back(flow.id);
        }
    }

    /// Queues a reply that depends on `lsn` (D3): its head, and what stands behind that.
    pub(crate) fn reply(
        &mut self,
        flow: &mut Flow,
        lsn: Lsn,
        stored: &[Extent],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let origin = flow.allowed.map(|index| {
            let origins = &self.core.options.allow_origin;
            origins[usize::from(index)].clone()
        });
        let mut status = [0; 3];
        self.send(flow, lsn, stored, |out| {
            let start = out.len();
            write(out);
            status.copy_from_slice(&out[start + 9..start + 12]);
            if let Some(origin) = origin {
                reply::allow_origin(out, start, &origin);
            }
        });
        self.core.counts.answered(flow.kind, status);
        self.own.io.passed(Step::Answered);
    }

    /// Queues a reply, or more of the last one, that depends on `lsn` (D3).
    pub(crate) fn send(
        &mut self,
        flow: &mut Flow,
        lsn: Lsn,
        stored: &[Extent],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.own.pools.furnish(&mut flow.output);
        flow.output.reply(lsn, stored, write);
        self.core.store.pin(stored);
        // What it read will never be durable: it is recalled with the others.
        self.own.failed |= self.core.store.is_read_only() && lsn > self.core.store.durable();
        if !flow.answering {
            flow.answering = true;
            self.own.answering.push(flow.id);
        }
    }

    /// Sends the replies of `flow` that may leave.
    pub(crate) fn release(&mut self, flow: &mut Flow) {
        // A read in flight may write the blocks around what it reads.
        if flow.output.is_sending() {
            return;
        }
        if self.core.jobs.reads_any(flow.output.stored()) {
            self.own.held = true;
            return;
        }
        let mut transmit = self.own.pools.transmit();
        if flow.output.release(self.core.store.durable(), &mut transmit, self.own.now) {
            self.core.counts.sent_bytes += flow.output.sending_bytes();
            let (io, frames) = (&mut self.own.io, &self.core.frames);
            // Its end is awaited by whoever needs what it pins, and by what its flow does then.
            let is_room_short = !self.own.waiting.is_empty() || self.own.landing.is_short();
            // Another worker may need the space that it pins, and nobody would ask this one.
            let pins = transmit.parts.iter().any(|part| matches!(part, Part::Stored(_)));
            if is_room_short || pins || self.own.stopping || flow.awaits_sent() {
                self.own.port.transmit(io, frames, flow.id, transmit);
            } else {
                self.own.port.transmit_quiet(io, frames, flow.id, transmit);
            }
        } else {
            self.own.pools.give_transmit(transmit);
        }
        self.own.pools.strip(&mut flow.output);
    }

    /// D7: whatever waits for a commit that will not be is answered with 503, and the flow ends.
    pub(crate) fn recall(&mut self, flow: &mut Flow) {
        let store = &mut self.core.store;
        if !flow.output.recall(store.durable(), |stored| store.unpin(stored)) {
            return;
        }
        self.answer_fault(flow, IN_DOUBT, Link::Close, false);
        self.end_input(flow);
    }

    /// The peer of `flow` was too slow with its request.
    pub(crate) fn give_up(&mut self, flow: &mut Flow) {
        if matches!(flow.input, Input::Head) {
            // What it is about is not known, nor which page it is from: not what was answered last.
            (flow.allowed, flow.kind) = (None, Kind::Other);
        }
        self.answer_fault(flow, LATE, Link::Close, false);
        self.end_input(flow);
    }

    /// Decides what becomes of a flow after something has happened on it.
    pub(crate) fn fate(&mut self, flow: &mut Flow) -> Fate {
        let takes_no_more = matches!(flow.input, Input::Discard)
            || (flow.ended || self.own.stopping) && flow.is_caught_up();
        if !takes_no_more || !flow.output.is_done() {
            return Fate::Stays;
        }
        if flow.ended || flow.shut && flow.discarded > DISCARD_BYTES_MAX {
            return Fate::Ends;
        }
        if flow.shut {
            return Fate::Stays;
        }
        self.end_input(flow);
        // It is closed when the peer has seen it, or in a while.
        (flow.shut, flow.discarded, flow.since) = (true, 0, self.own.now);
        self.own.port.shut(&mut self.own.io, flow.id);
        Fate::Stays
    }

    /// Takes nothing more from `flow`.
    pub(crate) fn end_input(&mut self, flow: &mut Flow) {
        self.drop_input(flow);
        flow.parked = None;
        flow.input = Input::Discard;
        self.resume(flow);
    }

    /// Gives up whatever has arrived on `flow` and was not applied.
    fn drop_input(&mut self, flow: &mut Flow) {
        if let Input::Body(body) | Input::Whole(body) =
            std::mem::replace(&mut flow.input, Input::Discard)
            && let Some(body) = self.undirect(flow, body)
        {
            self.drop_body(body);
        }
        self.own.pools.give_bytes(std::mem::take(&mut flow.stash));
        let Backlog { bytes, at } = std::mem::take(&mut flow.backlog);
        self.own.backlog_bytes -= bytes.len() - at;
        self.own.pools.give_bytes(bytes);
    }

    /// Receives on `flow` again, if that was paused.
    pub(crate) fn resume(&mut self, flow: &mut Flow) {
        // A flow that stops goes on when it has.
        if std::mem::take(&mut flow.paused) && flow.directing == Directing::No {
            self.own.port.resume(&mut self.own.io, flow.id);
        }
    }

    /// Closes `flow`, which has been removed from the table: gives back all that it held. A
    /// transmit or a job of it that is under way gives back its own when it ends.
    pub(crate) fn close(&mut self, mut flow: Flow) {
        self.drop_input(&mut flow);
        self.end_direct(&mut flow);
        let store = &mut self.core.store;
        flow.output.clear(|stored| store.unpin(stored));
        self.own.pools.strip(&mut flow.output);
        self.own.port.close(&mut self.own.io, flow.id);
    }

    /// Gives the port buffers to land in, for those that are drained; not while the backlogs hold
    /// too much: then the kernel's buffers fill, and peers wait.
    pub(crate) fn provide(&mut self) {
        if self.own.backlog_bytes > BACKLOG_BYTES_MAX {
            return;
        }
        let keeps = self.core.medium.profile().keeps_landed;
        while let Some(buf) = self.own.port.drained() {
            if keeps {
                // What is kept in it stays; the port gets another one.
                self.core.store.return_landing(buf);
                self.own.landing.drained();
            } else {
                self.own.port.provide(&mut self.own.io, &mut self.core.frames, buf);
            }
        }
        while self.own.landing.is_short() {
            let is_first = self.own.landing.is_empty();
            let Some(buf) = self.core.store.take_landing(is_first) else {
                break;
            };
            self.own.landing.provided();
            self.own.port.provide(&mut self.own.io, &mut self.core.frames, buf);
        }
    }

    /// Gives the port the landing buffers that lie behind the region.
    pub(crate) fn provide_first(&mut self, first: BufId, count: u32) {
        let worker = u32::try_from(self.own.worker).expect("workers are few");
        for index in worker * count..(worker + 1) * count {
            self.own.port.provide(&mut self.own.io, &mut self.core.frames, BufId(first.0 + index));
        }
    }
}

/// Writes a superblock into the frames, and returns where.
pub(crate) fn place_superblock(frames: &mut Frames, superblock: &Superblock) -> Span {
    let span = superblock.geometry.superblock(superblock.copy());
    frames.store(span.at, &superblock.encode());
    span
}
