//! One connection: what it waits for, what it is owed.
//!
//! ```text
//!          +--------------------- answered ----------------------+
//!          v                                                     |
//! Head --> Body --> Whole (being persisted, or waits for room) --+
//!   |                                                            |
//!   +----> Asked (a record is being read) -----------------------+--> Skip (a body nobody wants)
//!   +----> Listing (the names of all logs, piece by piece) ------+
//!                                                                +--> Discard, until the close
//! ```
//!
//! A flow that cannot go on is *parked*: its input is kept in its backlog and receiving is paused.
//! It holds back nobody else.

use std::time::Instant;

use impasto_media::Ticket;
use impasto_region::{Checksum, Extent};
use impasto_ring::FlowId;
use impasto_store::Lsn;

use crate::{
    direct::Directing,
    http::{Call, Chunks, Expected, Link, LogName, Terms, digest::Verifier},
    monitor::Kind,
    output::Output,
};

/// A connection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) input: Input,
    /// The first part of a head whose end has not arrived.
    pub(crate) stash: Vec<u8>,
    pub(crate) parked: Option<Parked>,
    pub(crate) backlog: Backlog,
    /// True while the port does not receive.
    pub(crate) paused: bool,
    pub(crate) directing: Directing,
    pub(crate) output: Output,
    /// The page that has sent the present request is of this one of the origins that are allowed.
    pub(crate) allowed: Option<u16>,
    /// What the present request is about.
    pub(crate) kind: Kind,
    /// True while it is listed as one that has something to send.
    pub(crate) answering: bool,
    /// True once the peer sends no more.
    pub(crate) ended: bool,
    /// True once the peer was told that nothing more is sent.
    pub(crate) shut: bool,
    /// Bytes discarded since the last answer.
    pub(crate) discarded: u64,
    /// True until a request has come.
    pub(crate) is_fresh: bool,
    /// When it became idle, or its head, its body or its end began.
    pub(crate) since: Instant,
    /// When bytes came last.
    pub(crate) heard: Instant,
    /// When its deadline is looked at next.
    pub(crate) listed: Option<Instant>,
}

/// What the next byte of a flow is.
#[derive(Debug)]
pub(crate) enum Input {
    /// Of the head of a request.
    Head,
    /// Of the body of an append for which there is no space yet.
    Opening(Opening),
    /// Of the body of an append.
    Body(Body),
    /// Of what follows an append whose body is complete, and which has not been applied.
    Whole(Body),
    /// Of what follows a call that could not be answered at once.
    Asked(Asked),
    /// Of what follows a request for the names of all logs.
    Listing(Listing),
    /// Of a body that is not wanted; so many are left.
    Skip(u64),
    /// Of something that is not taken any more: the flow is about to be closed.
    Discard,
}

/// Why a flow cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// Until the medium has done something: the open commit has no room, or a span is being read.
    Medium,
    /// Until its own body is persisted, or its own record is read.
    Job,
    /// Until some of its output is sent.
    Output,
}

/// An append whose body has no place.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) log: LogName,
    pub(crate) link: Link,
    /// Its length; `None`: it comes in chunks.
    pub(crate) len: Option<u32>,
    pub(crate) expects_continue: bool,
    /// What the body has to be.
    pub(crate) expected: Option<Box<Expected>>,
    pub(crate) wait: SpaceWait,
}

/// How long an append that was refused for want of space is tried again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpaceWait {
    /// Until this is durable: what was applied before it.
    pub(crate) until: Option<Lsn>,
    /// And then until the superblock of this generation is.
    pub(crate) generation: Option<u64>,
}

/// The body of an append.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) log: LogName,
    pub(crate) link: Link,
    pub(crate) rest: Rest,
    /// Bytes that have arrived.
    pub(crate) len: u32,
    /// Of the bytes that have arrived.
    pub(crate) sum: Checksum,
    /// If its sender has said what it has to be.
    pub(crate) verifier: Option<Box<Verifier>>,
    pub(crate) place: Place,
    pub(crate) wait: SpaceWait,
    /// How many of its bytes the medium was given already, and under which ticket.
    pub(crate) writing: Option<(Ticket, u32)>,
    /// Bytes of the blocks that it has taken as it grew.
    pub(crate) room: u32,
    /// The extent that the last piece was put into, and the number of bytes before it.
    pub(crate) cursor: (usize, u32),
}

impl Body {
    /// Adds bytes that have arrived to whatever is computed of them.
    pub(crate) fn sums(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        if let Some(verifier) = &mut self.verifier {
            verifier.update(bytes);
        }
    }
}

/// What of a body has not arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rest {
    /// So many bytes.
    Counted(u32),
    /// Chunks up to the last one.
    Chunked(Chunks),
}

/// Where the bytes of a body are.
#[derive(Debug)]
pub(crate) enum Place {
    /// Collected, to stand in the record.
    Collected(Vec<u8>),
    /// Where they landed, held, to stay there.
    Landed(Vec<Extent>),
    /// In blocks of the region that were reserved for them.
    Reserved(Vec<Extent>),
}

/// A call without a body of interest.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) call: Call,
    pub(crate) terms: Option<Box<Terms>>,
    pub(crate) link: Link,
    /// True if the answer has no body.
    pub(crate) bodyless: bool,
    /// Bytes of a body that came with it.
    pub(crate) skip: u64,
    /// A record that is damaged, which was seen when it was to be sent.
    pub(crate) damaged: Option<u64>,
}

/// A listing under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing {
    /// What it reads.
    pub(crate) lsn: Lsn,
    /// Logs that it lists: those that there were when it began.
    pub(crate) count: usize,
    /// The next one.
    pub(crate) next: usize,
    pub(crate) link: Link,
    pub(crate) skip: u64,
}

/// Bytes that arrived while the flow could not go on. At most what lands before a pause takes
/// effect.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) bytes: Vec<u8>,
    /// How many of them were taken.
    pub(crate) at: usize,
}

impl Flow {
    /// Returns true if something is to be done when the transmit under way has ended.
    pub(crate) fn awaits_sent(&self) -> bool {
        let is_last = matches!(self.input, Input::Discard) || self.ended;
        is_last || self.parked == Some(Parked::Output) || !self.output.is_empty()
    }

    pub(crate) fn new(id: FlowId, now: Instant) -> Self {
        Self {
            id,
            input: Input::Head,
            stash: Vec::new(),
            parked: None,
            backlog: Backlog::default(),
            paused: false,
            directing: Directing::No,
            output: Output::default(),
            allowed: None,
            kind: Kind::default(),
            answering: false,
            ended: false,
            shut: false,
            discarded: 0,
            is_fresh: true,
            since: now,
            heard: now,
            listed: None,
        }
    }

    /// Returns true if what arrives has to wait behind what arrived before.
    pub(crate) const fn is_behind(&self) -> bool {
        self.parked.is_some() || self.has_backlog()
    }

    pub(crate) const fn has_backlog(&self) -> bool {
        !self.backlog.bytes.is_empty()
    }

    /// Returns true if nothing of a request is there, and nothing is owed.
    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self.input, Input::Head) && self.stash.is_empty() && self.output.is_done()
    }

    /// Returns true if no request that has arrived as a whole is left to be answered.
    pub(crate) const fn is_caught_up(&self) -> bool {
        let between =
            matches!(self.input, Input::Head | Input::Body(_) | Input::Skip(_) | Input::Discard);
        between && !self.is_behind()
    }
}

/// The open flows, by index.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    by_index: Vec<Option<Flow>>,
    open: usize,
}

impl Flows {
    /// Returns the flow, unless it was closed.
    pub(crate) fn get(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.by_index.get_mut(id.index as usize)?.as_mut().filter(|flow| flow.id == id)
    }

    pub(crate) fn insert(&mut self, id: FlowId, now: Instant) {
        let index = id.index as usize;
        if self.by_index.len() <= index {
            self.by_index.resize_with(index + 1, || None);
        }
        let before = self.by_index[index].replace(Flow::new(id, now));
        assert!(before.is_none(), "an index is used again after its flow was closed");
        self.open += 1;
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.get(id)?;
        self.open -= 1;
        self.by_index[id.index as usize].take()
    }

    pub(crate) const fn len(&self) -> usize {
        self.open
    }

    /// Returns the names of the open flows.
    pub(crate) fn ids(&self) -> Vec<FlowId> {
        self.by_index.iter().flatten().map(|flow| flow.id).collect()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.by_index.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Idle connections are many: what each costs is part of the design.
    #[test]
    fn an_idle_flow_costs_a_few_hundred_bytes() {
        let flow = Flow::new(FlowId { index: 0, generation: 0 }, Instant::now());
        assert!(flow.is_idle() && !flow.output.is_furnished());
        assert!(size_of::<Option<Flow>>() <= 832, "{} bytes", size_of::<Option<Flow>>());
    }
}
