//! Counts the replies of one event.

use std::time::{Duration, Instant};

use crate::{
    connection::Exchange,
    outcome::{Errors, Outcome, WINDOW},
    protocol::{Ask, Verdict},
};

/// Replies that came together.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    pub(super) outcome: &'a mut Outcome,
    pub(super) is_trim: bool,
    /// Since when is measured, if it is.
    pub(super) measured_since: Option<Instant>,
    /// Whose latency counts.
    pub(super) window: Window,
    /// When the last of them was there.
    pub(super) now: Option<Instant>,
    pub(super) replied: usize,
    pub(super) appended_bytes: u64,
    /// True if the server has announced to close the connection.
    pub(super) closes: bool,
}

impl Tally<'_> {
    pub(super) fn count(&mut self, done: &Exchange<'_>) {
        self.now = Some(done.at);
        self.closes |= done.reply.closes;
        let is_good = note_verdict(&mut self.outcome.errors, done);
        if done.ask == Ask::Hello {
            return;
        }
        self.replied += 1;
        if !is_good {
            return;
        }
        if self.is_trim {
            self.outcome.trims += 1;
            return;
        }
        let is_read = matches!(done.ask, Ask::Read(_));
        if !is_read {
            self.appended_bytes += done.reply.payload_bytes;
        }
        if self.window.has(done.since) {
            let taken = done.at.saturating_duration_since(done.since);
            self.outcome.latency_ns.saturating_record(nanoseconds(taken));
        }
        if let Some(since) = self.measured_since {
            self.outcome.requests += 1;
            self.outcome.reads += u64::from(is_read);
            self.outcome.payload_bytes += done.reply.payload_bytes;
            count_in_window(&mut self.outcome.windows, done.at.saturating_duration_since(since));
        }
    }
}

/// When requests were meant to be sent whose latency counts.
///
/// By the time of their replies, those that took long would be missing: they are on the way when
/// the time is over. And one that met a stall of the warm-up would be there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) since: Option<Instant>,
    pub(super) until: Option<Instant>,
}

impl Window {
    pub(super) fn has(self, time: Instant) -> bool {
        self.since.is_some_and(|since| since <= time) && self.until.is_none_or(|until| time < until)
    }
}

/// Counts what is wrong with a reply, and returns true if nothing is.
fn note_verdict(errors: &mut Errors, done: &Exchange<'_>) -> bool {
    match done.reply.verdict {
        Verdict::Good => return true,
        Verdict::Status(status) => *errors.statuses.entry(status).or_default() += 1,
        Verdict::OtherBody => errors.bodies += 1,
        Verdict::Missing => errors.missing += 1,
        Verdict::Refused => {
            errors.refusals += 1;
            errors.note(&done.said);
        }
    }
    false
}

fn count_in_window(windows: &mut Vec<u64>, at: Duration) {
    let index = usize::try_from(at.as_nanos() / WINDOW.as_nanos()).unwrap_or(usize::MAX);
    // A load without an end stops to be told of in windows.
    if index < windows.capacity() {
        if windows.len() <= index {
            windows.resize(index + 1, 0);
        }
        windows[index] += 1;
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
