//! What is asked, when, and on which lane.

use std::time::Instant;

use super::{Turns, phase::Phase};
use crate::{client::Limit, protocol::Ask};

impl Turns<'_> {
    pub(super) fn depth(&self) -> usize {
        if self.plan.short { 1 } else { self.plan.pipeline }
    }

    /// Returns true if there is something left to send.
    pub(super) fn has_more(&self) -> bool {
        match (&self.phase, self.plan.limit) {
            (Phase::Drain, _) => false,
            (Phase::Measure { .. }, Limit::Requests(all)) => self.issued < all,
            _ => true,
        }
    }

    /// Sends `count` requests, or as many of them as the plan still has. In an open loop: those
    /// whose time has come.
    pub(super) fn ask(&mut self, lane: usize, count: usize, now: Instant) {
        if self.schedule.is_some() {
            return self.pump(lane, now);
        }
        let count = match (&self.phase, self.plan.limit) {
            (Phase::Drain, _) => 0,
            (Phase::Measure { .. }, Limit::Requests(all)) => {
                let left = usize::try_from(all - self.issued).unwrap_or(usize::MAX);
                count.min(left)
            }
            _ => count,
        };
        if count > 0 && self.is_ready(lane) {
            self.issued += count as u64;
            self.send(lane, count, now, |_| now);
        }
    }

    pub(super) fn ask_what_is_due(&mut self, now: Instant) {
        while self.has_more()
            && let Some(schedule) = &mut self.schedule
            && let Some(lane) = schedule.take(now)
        {
            self.issued += 1;
            self.lanes[lane].owed += 1;
            self.pump(lane, now);
        }
    }

    /// Sends what is due on a lane, as far as there is room on its connection.
    fn pump(&mut self, lane: usize, now: Instant) {
        let owed = self.lanes[lane].owed;
        if owed == 0 || matches!(self.phase, Phase::Drain) || !self.is_ready(lane) {
            return;
        }
        let room = self.depth().saturating_sub(self.lanes[lane].outstanding());
        let count = usize::try_from(owed).map_or(room, |owed| owed.min(room));
        let Some(schedule) = self.schedule.clone() else { return };
        if count == 0 {
            return;
        }
        let first = self.lanes[lane].sent;
        self.lanes[lane].owed -= count as u64;
        self.lanes[lane].sent += count as u64;
        if self.phase.measured_since().is_some() {
            let behind = now.saturating_duration_since(schedule.of_lane(lane, first));
            self.outcome.behind = self.outcome.behind.max(behind);
        }
        self.send(lane, count, now, |index| schedule.of_lane(lane, first + index));
    }

    fn send(&mut self, lane: usize, count: usize, now: Instant, since: impl Fn(u64) -> Instant) {
        let Some(connection) = &mut self.lanes[lane].connection else { return };
        let source = &mut self.source;
        let asks = (0..count as u64).map(|index| (source.next(), since(index)));
        let written = connection.ask(asks, now, &mut self.outbox);
        self.count_sent(lane, written);
    }

    /// Trims if at least `bytes` were appended since the last time.
    pub(super) fn trim(&mut self, bytes: u64, now: Instant) {
        if self.plan.trim.is_some()
            && self.untrimmed_bytes >= bytes
            && let Some(connection) = &mut self.lanes[self.plan.connections].connection
            && connection.outstanding() == 0
        {
            self.untrimmed_bytes = 0;
            connection.ask([(Ask::Same, now)].into_iter(), now, &mut self.outbox);
        }
    }

    pub(super) fn write(&mut self, lane: usize) {
        if let Some(connection) = &mut self.lanes[lane].connection {
            let written = connection.write();
            self.count_sent(lane, written);
        }
    }

    fn count_sent(&mut self, lane: usize, written: u64) {
        if lane < self.plan.connections && self.phase.measured_since().is_some() {
            self.outcome.sent_bytes += written;
        }
    }
}
