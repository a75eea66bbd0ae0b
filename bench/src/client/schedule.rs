//! The open loop: when requests are meant to be sent, whatever became of those before them.
//!
//! A client that waits for a reply before it sends the next request asks a stalled server nothing,
//! and so does not see how long others would have waited (Gil Tene's "coordinated omission").
//! Here each request has its time beforehand, at fixed spacing, connection after connection; one
//! that finds no room on its connection waits there, and that wait is part of its latency.

use std::time::{Duration, Instant};

/// Intended times of the requests of one thread.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    start: Instant,
    spacing_ns: f64,
    lanes: u64,
    /// Requests whose time has come.
    due: u64,
}

impl Schedule {
    pub(super) fn new(start: Instant, per_second: f64, lanes: usize) -> Self {
        let spacing_ns = 1e9 / per_second.max(f64::MIN_POSITIVE);
        Self { start, spacing_ns, lanes: lanes.max(1) as u64, due: 0 }
    }

    /// Returns the time of the next request whose time has not come.
    pub(super) fn next(&self) -> Instant {
        self.time(self.due)
    }

    /// Returns the lane of the next request if its time has come by `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<usize> {
        if self.next() > now {
            return None;
        }
        let lane = self.due % self.lanes;
        self.due += 1;
        Some(usize::try_from(lane).expect("it is one of the lanes"))
    }

    /// Returns the intended time of the request `number` of a lane.
    pub(super) fn of_lane(&self, lane: usize, number: u64) -> Instant {
        self.time(lane as u64 + number * self.lanes)
    }

    /// Returns the time between two requests.
    pub(super) fn spacing(per_second: f64) -> Duration {
        Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(NEVER).min(NEVER)
    }

    fn time(&self, number: u64) -> Instant {
        let seconds = number as f64 * self.spacing_ns / 1e9;
        // Beyond the end of time is as good as never.
        let after = Duration::try_from_secs_f64(seconds).unwrap_or(NEVER);
        self.start + after.min(NEVER)
    }
}

const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spaced_over_all_lanes_in_turn() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000.0, 3);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(schedule.take(at(0)), Some(0));
        assert_eq!(schedule.take(at(0)), None);
        assert_eq!(schedule.next(), at(1));
        // Late: all that were missed are due, each at its own time.
        let missed: Vec<usize> = std::iter::from_fn(|| schedule.take(at(4))).collect();
        assert_eq!(missed, [1, 2, 0, 1]);
        assert_eq!(schedule.of_lane(1, 0), at(1));
        assert_eq!(schedule.of_lane(0, 1), at(3));
        assert_eq!(schedule.of_lane(1, 1), at(4));
        assert_eq!(Schedule::new(start, 0.0, 1).of_lane(0, 1), start + NEVER);
    }
}
