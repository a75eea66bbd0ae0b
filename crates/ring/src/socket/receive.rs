//! Receives of a port: started, landed, and told.

use impasto_region::{Frames, Span};
use impasto_uring::{Completion, Handed};
use rustix::io::Errno;

use super::{Kind, SocketPort};
use crate::{FlowId, Slot, Sockets, What, flows::Receiving, sockets::Group};

/// Receives that are started for one buffer. In pieces it serves so many; of an incremental one
/// each takes what has come.
pub(super) const RECEIVES_PER_BUF: usize = 64;

impl<I: Sockets> SocketPort<I> {
    pub(super) fn receive_on(&mut self, io: &mut I, index: u32) {
        if let Some(flow) = self.flows.at_mut(index).filter(|flow| flow.wants_receive()) {
            let receive = io.receive(Kind::Receive.token(index), &flow.socket, &self.group);
            flow.receiving = Receiving::Armed(receive);
        }
    }

    /// Sees to it that the owner of a paused flow is told when nothing more lands.
    pub(super) fn stop_on(&mut self, io: &mut I, id: FlowId) {
        let Some(flow) = self.flows.open_mut(id) else {
            return;
        };
        if flow.receiving == Receiving::Idle {
            self.stopped.push_back(id);
            self.nudge(io);
        } else {
            flow.is_stopping = true;
        }
    }

    pub(super) fn receive_into(&mut self, io: &mut I, frames: &mut Frames, id: FlowId, span: Span) {
        let Some(flow) = self.flows.open_mut(id) else {
            return;
        };
        assert!(flow.is_paused && !flow.receiving.is_in_flight(), "the flow has stopped");
        // Else its last slot is on its way.
        if flow.receiving == Receiving::Idle {
            let (token, loan) = (Kind::Receive.token(id.index), frames.loan_span(span));
            let receive = io.receive_into(token, &flow.socket, frames, loan);
            flow.receiving = Receiving::Directed(receive);
        }
    }

    /// Starts receives again that found no buffer, as many as `bufs` are likely to serve. All at
    /// once would find none again, most of them, for each buffer that comes.
    pub(super) fn feed(&mut self, io: &mut I, bufs: usize) {
        let mut left = bufs * RECEIVES_PER_BUF;
        while left > 0
            && let Some(id) = self.starved.pop_front()
        {
            if let Some(flow) = self.flows.open_mut(id) {
                flow.is_starved = false;
                left -= usize::from(flow.wants_receive());
                self.receive_on(io, id.index);
            }
        }
        if bufs > 0 && !self.starved.is_empty() {
            // Where nothing comes for these, there is a buffer for others.
            self.nudge(io);
        }
    }

    pub(super) fn received(
        &mut self,
        io: &mut I,
        frames: &mut Frames,
        index: u32,
        done: Completion<I::Landing>,
    ) {
        match done.handed {
            Handed::Landed(landing) => self.land(frames, index, landing),
            Handed::Filled(loan) => {
                let span = frames.settle_span(loan);
                self.fill(index, span, done.result.as_ref().map_or(0, |count| *count));
            }
            _ => {}
        }
        let Some(flow) = self.flows.at_mut(index) else {
            return;
        };
        let was_directed = matches!(flow.receiving, Receiving::Directed(_));
        if !done.more {
            flow.receiving = Receiving::Idle;
        }
        let over = match done.result {
            Ok(0) => Some(What::End),
            Ok(_) => None,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::CANCELED | Errno::NOBUFS) if flow.is_broken => Some(What::Reset),
                Some(Errno::CANCELED) => None,
                Some(Errno::NOBUFS) if flow.is_stopping => None,
                // A directed one takes no buffer. If the kernel gives none up all the same, its
                // owner must be told something.
                Some(Errno::NOBUFS) if was_directed => Some(What::Reset),
                Some(Errno::NOBUFS) => {
                    flow.is_starved = true;
                    // Behind one that has taken every buffer until now, the others would find none
                    // again, each time.
                    if std::mem::take(&mut flow.has_landed) {
                        self.starved.push_back(flow.id);
                    } else {
                        self.starved.push_front(flow.id);
                    }
                    None
                }
                _ => Some(What::Reset),
            },
        };
        let has_stopped = flow.receiving == Receiving::Idle && flow.is_stopping;
        if has_stopped {
            flow.is_stopping = false;
            // The end says it, too; and behind a reset comes nothing.
            if over.is_none() {
                self.stopped.push_back(flow.id);
            }
        }
        if let Some(what) = over {
            self.tell_over(index, what);
        }
        self.receive_on(io, index);
        self.forget_gone(io, index);
    }

    /// Tells the owner that a flow receives no more.
    pub(super) fn tell_over(&mut self, index: u32, what: What) {
        let Some(flow) = self.flows.at_mut(index) else {
            return;
        };
        // A connection that has timed out looks like one that has ended, once a send has taken the
        // error.
        let (receiving, what) = match what {
            What::End if !flow.is_broken => (Receiving::Ended, What::End),
            _ => (Receiving::Broken, What::Reset),
        };
        flow.receiving = receiving;
        if !flow.is_closing {
            self.ring.push(Slot { flow: flow.id, what });
        }
    }

    /// Tells the owner of one flow that it has stopped; returns false if there is none.
    pub(super) fn tell_stopped(&mut self) -> bool {
        let Some(id) = self.stopped.pop_front() else {
            return false;
        };
        // One that is broken by now has had its last slot.
        if self.flows.open_mut(id).is_some_and(|flow| flow.receiving == Receiving::Idle) {
            self.ring.push(Slot { flow: id, what: What::Stopped });
        }
        true
    }

    /// Tells the owner that `count` bytes have come into the first part of `span`.
    fn fill(&mut self, index: u32, span: Span, count: u32) {
        let flow = self.flows.at_mut(index).filter(|flow| !flow.is_closing);
        if let Some(flow) = flow.filter(|_| count > 0) {
            let span = Span::new(span.at, u64::from(count));
            self.ring.push(Slot { flow: flow.id, what: What::Filled(span) });
        }
    }

    fn land(&mut self, frames: &mut Frames, index: u32, landing: I::Landing) {
        let landed = self.group.land(frames, landing);
        let flow = self.flows.at_mut(index).filter(|flow| !flow.is_closing);
        if let (Some(extent), Some(flow)) = (landed.extent, flow) {
            flow.has_landed = true;
            self.ring.push(Slot { flow: flow.id, what: What::Data(extent) });
        }
        if let Some(buf) = landed.full {
            self.ring.fill(buf);
        }
    }
}
