//! Until when flows have to do what is expected of them.
//!
//! A flow's deadline moves with everything that it does, mostly to a later time. So a flow is
//! listed with the deadline that it had once, and looked at again then: a request costs no more
//! than a comparison.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use impasto_ring::FlowId;

use crate::{
    config::{BYTES_PER_SECOND_MIN, DISCARD_TIME, Options},
    flow::{Flow, Input},
};

/// When which flow is to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    listed: BinaryHeap<Reverse<(Instant, FlowId)>>,
}

impl Deadlines {
    /// Lists `flow` with its deadline, unless it is looked at before anyway.
    pub(crate) fn list(&mut self, flow: &mut Flow, options: &Options) {
        if let Some((due, _)) = deadline(flow, options)
            && flow.listed.is_none_or(|listed| due < listed)
        {
            flow.listed = Some(due);
            self.listed.push(Reverse((due, flow.id)));
        }
    }

    /// Returns when the next flow is to be looked at.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.listed.peek().map(|Reverse((at, _))| *at)
    }

    /// Returns true if a flow is to be looked at now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|at| at <= now)
    }

    /// Returns a flow that is to be looked at, and since when.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, FlowId)> {
        if !self.is_due(now) {
            return None;
        }
        self.listed.pop().map(|Reverse(due)| due)
    }
}

/// What a flow is late with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// With its next request, or with a body that nobody wants, or with reading the last reply.
    Idle,
    /// With the end of a head or of a body.
    Request,
    /// With taking what is sent to it.
    Reply,
}

/// Returns until when the peer of `flow` has to do something, and what it is late with then; `None`
/// if it is not its turn.
pub(crate) fn deadline(flow: &Flow, options: &Options) -> Option<(Instant, Late)> {
    let reply = flow.output.sending().map(|(bytes, since)| {
        let slow = Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        (since + options.body + slow, Late::Reply)
    });
    let request = if flow.parked.is_some() { None } else { request_deadline(flow, options) };
    reply.into_iter().chain(request).min_by_key(|(due, _)| *due)
}

fn request_deadline(flow: &Flow, options: &Options) -> Option<(Instant, Late)> {
    match &flow.input {
        Input::Head if !flow.stash.is_empty() => Some((flow.since + options.head, Late::Request)),
        Input::Head if !flow.output.is_done() => None,
        Input::Head => {
            let time = if flow.is_fresh { Some(options.head) } else { options.idle };
            time.map(|time| (flow.since + time, Late::Idle))
        }
        // It may wait for `100 Continue`, or read the replies to what it has sent before.
        Input::Body(_) | Input::Skip(_) if !flow.output.is_done() => None,
        Input::Body(body) => {
            let taken = u64::from(body.len) / BYTES_PER_SECOND_MIN;
            let slow = flow.since + options.body + Duration::from_secs(taken);
            Some((slow.min(flow.heard + options.body), Late::Request))
        }
        Input::Skip(_) => Some((flow.heard + options.body, Late::Idle)),
        Input::Discard => flow.shut.then(|| (flow.since + DISCARD_TIME, Late::Idle)),
        // They are parked.
        Input::Opening(_) | Input::Whole(_) | Input::Asked(_) | Input::Listing(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn flow(index: u32, since: Instant) -> Flow {
        Flow::new(FlowId { index, generation: 0 }, since)
    }

    /// Listed anew with every request, flows would fill the memory with deadlines that have moved.
    #[test]
    fn a_flow_is_listed_once_while_its_deadline_moves_to_later_times() {
        let (start, options) = (Instant::now(), Options::default());
        let (mut deadlines, mut flow) = (Deadlines::default(), flow(1, start));
        for second in 0..1000 {
            flow.since = start + second * SECOND;
            deadlines.list(&mut flow, &options);
        }
        assert_eq!(deadlines.listed.len(), 1);
        assert_eq!(deadlines.next(), Some(start + options.head));
        assert_eq!(deadlines.pop(start), None);
        assert_eq!(deadlines.pop(start + options.head), Some((start + options.head, flow.id)));
    }

    /// A flow that was idle for long and then begins a request has less time, not the rest of its
    /// idle time.
    #[test]
    fn an_earlier_deadline_is_listed_too() {
        let (start, options) = (Instant::now(), Options::default());
        let (mut deadlines, mut flow) = (Deadlines::default(), flow(1, start));
        flow.is_fresh = false;
        deadlines.list(&mut flow, &options);
        assert_eq!(deadlines.next(), options.idle.map(|idle| start + idle));
        flow.stash.push(b'G');
        deadlines.list(&mut flow, &options);
        assert_eq!(deadlines.next(), Some(start + options.head));
    }
    /// A client that takes nothing of a reply keeps what the reply pins from others: on a Unix
    /// socket nobody else would ever end that. It is not its turn to send anything meanwhile.
    #[test]
    fn a_reply_is_taken_in_a_time_that_goes_with_its_length() {
        let (start, options) = (Instant::now(), Options::default());
        let mut flow = flow(1, start);
        flow.output.reply(impasto_store::Lsn(0), &[], |out| out.resize(10 << 10, 0));
        let mut transmit = impasto_ring::Transmit::default();
        assert!(flow.output.release(impasto_store::Lsn(0), &mut transmit, start));
        let due = start + options.body + 10 * SECOND;
        assert_eq!(deadline(&flow, &options), Some((due, Late::Reply)));
        flow.parked = Some(crate::flow::Parked::Output);
        assert_eq!(deadline(&flow, &options), Some((due, Late::Reply)));
        flow.output.restart(start + SECOND);
        assert_eq!(deadline(&flow, &options), Some((due + SECOND, Late::Reply)));
        flow.output.sent();
        assert_eq!(deadline(&flow, &options), None);
    }
}
