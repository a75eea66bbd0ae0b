//! Flows that are about to be closed, and when.

use std::{collections::VecDeque, time::Instant};

use impasto_ring::FlowId;

/// Flows whose peer was told that nothing more is sent, in the order of their deadlines.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    flows: VecDeque<(Instant, FlowId)>,
}

impl Linger {
    /// Adds a flow; `until` is not before that of any other.
    pub(crate) fn push(&mut self, until: Instant, flow: FlowId) {
        self.flows.push_back((until, flow));
    }

    /// Returns the next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.flows.front().map(|(until, _)| *until)
    }

    /// Returns a flow whose time is over.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<FlowId> {
        let (_, flow) = self.flows.pop_front_if(|(until, _)| *until <= now)?;
        Some(flow)
    }
}
