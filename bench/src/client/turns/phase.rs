//! Warm up, measure, drain: when one ends, and what is looked at then.

use std::{mem, time::Instant};

use super::Turns;
use crate::{
    client::{Limit, tally::nanoseconds},
    outcome::LoadError,
    usage::{Threads, Usage},
};

#[derive(Clone, Debug)]
pub(super) enum Phase {
    WarmUp { until: Instant },
    Measure { since: Instant, client: Usage, server: Option<Threads> },
    Drain,
}

impl Phase {
    /// Returns since when is measured, if it is.
    pub(super) fn measured_since(&self) -> Option<Instant> {
        match self {
            Self::Measure { since, .. } => Some(*since),
            Self::WarmUp { .. } | Self::Drain => None,
        }
    }
}

impl Turns<'_> {
    pub(super) fn phase_ends(&self) -> Option<Instant> {
        match (&self.phase, self.plan.limit) {
            (Phase::WarmUp { until }, _) => Some(*until),
            (Phase::Measure { since, .. }, Limit::Time(time)) => Some(*since + time),
            (Phase::Measure { .. }, Limit::Requests(_)) | (Phase::Drain, _) => None,
        }
    }

    pub(super) fn move_on(&mut self, now: Instant) -> Result<(), LoadError> {
        if self.phase_ends().is_none_or(|end| now < end) {
            return Ok(());
        }
        match self.phase {
            Phase::WarmUp { .. } => {
                let (client, server) = (thread_usage()?, self.server()?);
                self.issued = 0;
                let since = Instant::now();
                self.phase = Phase::Measure { since, client, server };
                self.window.since = Some(since);
            }
            Phase::Measure { .. } => self.end_measuring()?,
            Phase::Drain => {}
        }
        Ok(())
    }

    /// Takes the time and the usage, once.
    pub(super) fn end_measuring(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        if let Phase::Measure { since, client, server } =
            mem::replace(&mut self.phase, Phase::Drain)
        {
            self.window.until = Some(now);
            self.outcome.elapsed = now - since;
            self.outcome.client = thread_usage()? - client;
            self.outcome.busiest = self.outcome.client_busy();
            self.give_up_what_was_not_sent(now);
            // A server that has died has no usage; what its clients met is among the errors.
            if let (Some(before), Ok(Some(after))) = (server, self.server()) {
                self.outcome.server = Some(after.since(&before));
            }
        }
        Ok(())
    }

    /// Counts requests whose time has come by `now`, and that nobody will send any more. How long
    /// they have waited is the least that their latency would have been: without it, a stall at
    /// the end would look as if hardly anybody had met it.
    fn give_up_what_was_not_sent(&mut self, now: Instant) {
        let Some(schedule) = &mut self.schedule else { return };
        if let Limit::Time(_) = self.plan.limit {
            // If this thread itself was kept from sending.
            while let Some(lane) = schedule.take(now) {
                self.lanes[lane].owed += 1;
            }
        }
        self.outcome.unsent = self.lanes.iter().map(|lane| lane.owed).sum();
        let step = self.outcome.unsent.div_ceil(UNSENT_STEPS).max(1);
        for (index, lane) in self.lanes.iter().enumerate() {
            let mut number = lane.sent;
            let end = lane.sent + lane.owed;
            while number < end {
                let count = step.min(end - number);
                let meant = schedule.of_lane(index, number);
                if self.window.has(meant) {
                    let waited = nanoseconds(now.saturating_duration_since(meant));
                    self.outcome.latency_ns.saturating_record_n(waited, count);
                }
                number += count;
            }
        }
    }

    fn server(&self) -> Result<Option<Threads>, LoadError> {
        if self.plan.pids.is_empty() {
            return Ok(None);
        }
        let found = Threads::of_processes(&self.plan.pids);
        found.map(Some).map_err(|(pid, error)| LoadError::Process { pid, error })
    }
}

/// More requests than these are not told from each other when they are given up.
const UNSENT_STEPS: u64 = 1_000_000;

fn thread_usage() -> Result<Usage, LoadError> {
    Usage::of_thread().map_err(|error| LoadError::Client { action: "read its own CPU time", error })
}
