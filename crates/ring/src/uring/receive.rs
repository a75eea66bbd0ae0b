//! Receives of a port: started, landed, and told.

use impasto_region::Frames;
use impasto_uring::{Completion, Handed, Landing, Uring};
use rustix::io::Errno;

use super::{Kind, UringPort};
use crate::{Slot, What, flows::Receiving};

/// Receives that are started for one buffer. In pieces it serves so many; of an incremental one
/// each takes what has come.
pub(super) const RECEIVES_PER_BUF: usize = 64;

impl UringPort {
    pub(super) fn receive_on(&mut self, io: &mut Uring, index: u32) {
        if let Some(flow) = self.flows.at_mut(index).filter(|flow| flow.wants_receive()) {
            let receive = io.receive(Kind::Receive.token(index), &flow.socket, &self.group);
            flow.receiving = Receiving::Armed(receive);
        }
    }

    /// Starts receives again that found no buffer, as many as `bufs` are likely to serve. All at
    /// once would find none again, most of them, for each buffer that comes.
    pub(super) fn feed(&mut self, io: &mut Uring, bufs: usize) {
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
        io: &mut Uring,
        frames: &mut Frames,
        index: u32,
        done: Completion,
    ) {
        if let Handed::Landed(landing) = done.handed {
            self.land(frames, index, landing);
        }
        let Some(flow) = self.flows.at_mut(index) else {
            return;
        };
        if !done.more {
            flow.receiving = Receiving::Idle;
        }
        let over = match done.result {
            Ok(0) => Some(What::End),
            Ok(_) => None,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::CANCELED | Errno::NOBUFS) if flow.is_broken => Some(What::Reset),
                Some(Errno::CANCELED) => None,
                Some(Errno::NOBUFS) => {
                    flow.is_starved = true;
                    self.starved.push_back(flow.id);
                    None
                }
                _ => Some(What::Reset),
            },
        };
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

    fn land(&mut self, frames: &mut Frames, index: u32, landing: Landing) {
        let landed = self.group.land(frames, landing);
        let flow = self.flows.at_mut(index).filter(|flow| !flow.is_closing);
        if let (Some(extent), Some(flow)) = (landed.extent, flow) {
            self.ring.push(Slot { flow: flow.id, what: What::Data(extent) });
        }
        if let Some(buf) = landed.full {
            self.ring.fill(buf);
        }
    }
}
