//! One thread of the client: wait, read, count, send the next.

mod asking;
mod connections;
mod phase;
#[cfg(test)]
mod tests;

use std::{
    mem,
    num::NonZeroU64,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventFlags},
        poll,
    },
    io::Errno,
    thread::set_current_timer_slack,
};

use super::{
    Limit, Pace, Plan, Watch,
    lane::Lane,
    pin,
    schedule::Schedule,
    start::Place,
    tally::{Tally, Window},
    work::{Source, Work},
};
use crate::{
    connection::Broken,
    outcome::{LoadError, Outcome},
    protocol::Outbox,
};
use phase::Phase;

/// Carries out a plan on the calling thread, as soon as all others are ready, too.
pub(super) fn run(
    plan: &Plan,
    watch: &Watch,
    core: Option<usize>,
    place: Place<'_>,
) -> Result<Outcome, LoadError> {
    let pinned = core.map_or(Ok(()), |core| pin(&[core]));
    let turns = pinned
        .map_err(|error| LoadError::Client { action: "be pinned", error })
        .and_then(|()| Turns::new(plan, watch));
    let all_ready = place.wait(turns.is_ok());
    let mut turns = turns?;
    if !all_ready {
        return Ok(turns.outcome);
    }
    turns.begin(place)?;
    while turns.goes_on() {
        turns.turn()?;
    }
    turns.end_measuring()?;
    turns.publish();
    // The next load finds no more than this one did, however short they are.
    turns.trim(1, Instant::now());
    while turns.goes_on() {
        turns.turn()?;
    }
    Ok(turns.outcome)
}

struct Turns<'a> {
    plan: &'a Plan,
    watch: &'a Watch,
    /// What was published of requests and errors.
    published: (u64, u64),
    next_publication: Instant,
    /// What the connection that trims says.
    trim: Option<Work>,
    epoll: OwnedFd,
    events: Vec<Event>,
    scratch: Vec<u8>,
    outbox: Outbox,
    /// Those of the load, then the one that trims.
    lanes: Vec<Lane>,
    source: Source,
    /// Of an open loop.
    schedule: Option<Schedule>,
    phase: Phase,
    window: Window,
    /// Requests that were sent, or whose time has come, since measuring began.
    issued: u64,
    /// Payload since the last trim.
    untrimmed_bytes: u64,
    next_check: Instant,
    outcome: Outcome,
}

impl<'a> Turns<'a> {
    fn new(plan: &'a Plan, watch: &'a Watch) -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| LoadError::Client { action: "make an epoll", error: error.into() })?;
        let now = Instant::now();
        let trim = plan.trim.as_ref().map(|trim| Work::Same(trim.request.clone()));
        let mut turns = Self {
            plan,
            watch,
            published: (0, 0),
            next_publication: now + PUBLISHED_EVERY,
            trim,
            epoll,
            events: Vec::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH_BYTES],
            outbox: Outbox::default(),
            lanes: Vec::new(),
            source: Source::new(&plan.work),
            schedule: None,
            phase: Phase::WarmUp { until: now },
            window: Window::default(),
            issued: 0,
            untrimmed_bytes: 0,
            next_check: now,
            outcome: Outcome::new(plan.limit),
        };
        let lanes = plan.connections + usize::from(plan.trim.is_some());
        turns.lanes.resize_with(lanes, Lane::default);
        for lane in 0..lanes {
            // Short connections are opened when they are needed, but a server has to be there.
            if lane == 0 || !plan.short || lane == plan.connections {
                turns.connect(lane)?;
            }
        }
        if plan.short && plan.connections > 0 {
            turns.lanes[0].connection = None;
        }
        Ok(turns)
    }

    fn begin(&mut self, place: Place<'_>) -> Result<(), LoadError> {
        let now = Instant::now();
        let warm_up = match self.plan.limit {
            Limit::Time(_) => self.plan.warm_up,
            Limit::Requests(_) => Duration::ZERO,
        };
        self.phase = Phase::WarmUp { until: now + warm_up };
        self.move_on(now)?;
        match self.plan.pace {
            Pace::Open { per_second } => {
                let start = Instant::now() + Schedule::spacing(per_second).mul_f64(place.phase());
                self.schedule = Some(Schedule::new(start, per_second, self.plan.connections));
                // Woken when it is time, not up to 50 us later. Without it, it is only less exact.
                let _as_before = set_current_timer_slack(NonZeroU64::new(1));
            }
            Pace::Closed => {
                for lane in 0..self.plan.connections {
                    self.ask(lane, self.depth(), Instant::now());
                }
            }
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        let will_ask = self.schedule.is_some() && self.has_more();
        let is_open = !matches!(self.phase, Phase::Drain);
        self.lanes.iter().any(Lane::awaits)
            || self.lanes[..self.plan.connections]
                .iter()
                .any(|lane| !lane.is_dead && (will_ask || (is_open && lane.owed > 0)))
    }

    /// Waits once, and handles what has come.
    fn turn(&mut self) -> Result<(), LoadError> {
        self.wait()?;
        let now = Instant::now();
        self.move_on(now)?;
        let mut events = mem::take(&mut self.events);
        for event in &events {
            let lane = usize::try_from(event.data.u64()).expect("names are lanes");
            self.serve(lane, event.flags);
        }
        events.clear();
        self.events = events;
        if self.schedule.is_some() {
            self.ask_what_is_due(Instant::now());
        }
        if now >= self.next_check {
            self.check(now);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), LoadError> {
        let mut until = self.next_check;
        if let Some(end) = self.phase_ends() {
            until = until.min(end);
        }
        if let Some(schedule) = &self.schedule
            && self.has_more()
        {
            until = until.min(schedule.next());
        }
        let now = Instant::now();
        let left = until.saturating_duration_since(now);
        self.events.clear();
        let waited = if self.schedule.is_none() {
            self.take_events(left)
        } else if left <= SPIN {
            // A core that has gone to sleep takes longer than that to come back.
            let spun = self.take_events(Duration::ZERO);
            if self.events.is_empty() && self.phase.measured_since().is_some() {
                self.outcome.spun += now.elapsed().min(left);
            }
            spun
        } else {
            // To the nanosecond: what `epoll::wait` is given, it may round up to a millisecond.
            let mut polled = [PollFd::new(&self.epoll, PollFlags::IN)];
            poll(&mut polled, Some(&timespec(left - SPIN)))
                .and_then(|_| self.take_events(Duration::ZERO))
        };
        match waited {
            Ok(()) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(LoadError::Client { action: "wait", error: error.into() }),
        }
    }

    fn take_events(&mut self, limit: Duration) -> Result<(), Errno> {
        let room = spare_capacity(&mut self.events);
        epoll::wait(&self.epoll, room, Some(&timespec(limit))).map(|_| ())
    }

    /// Reads from a lane, counts, and sends as many requests as were answered.
    fn serve(&mut self, lane: usize, flags: EventFlags) {
        let Some(connection) = &mut self.lanes[lane].connection else { return };
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let is_trim = lane == self.plan.connections;
        let mut received = 0;
        let mut tally = Tally {
            outcome: &mut self.outcome,
            is_trim,
            measured_since: self.phase.measured_since(),
            window: self.window,
            now: None,
            replied: 0,
            appended_bytes: 0,
            closes: false,
        };
        let scratch = &mut self.scratch;
        let read = connection.read(scratch, ends, &mut received, |done| tally.count(&done));
        let Tally { replied, appended_bytes, closes, now, measured_since, .. } = tally;
        if measured_since.is_some() && !is_trim {
            self.outcome.received_bytes += received;
        }
        match read {
            Err(broken @ (Broken::Malformed(_) | Broken::Unasked)) => {
                self.reopen(lane, Some(&broken));
            }
            _ if self.plan.short && !is_trim && replied > 0 => self.next_short(lane),
            Ok(_) if closes => self.reopen(lane, None),
            Ok(has_more) => {
                if has_more {
                    self.listen_again(lane);
                }
                if flags.contains(EventFlags::OUT) {
                    self.write(lane);
                }
                if let Some(now) = now
                    && !is_trim
                {
                    self.ask(lane, replied, now);
                }
            }
            // It said that it would.
            Err(Broken::Closed | Broken::Failed(_)) if closes => self.reopen(lane, None),
            Err(broken) => self.reopen(lane, Some(&broken)),
        }
        if !is_trim {
            self.untrimmed_bytes += appended_bytes;
            if let (Some(trim), Some(now)) = (&self.plan.trim, now)
                && !matches!(self.phase, Phase::Drain)
            {
                self.trim(trim.every_bytes, now);
            }
        }
    }

    /// Gives up connections whose oldest request has waited too long.
    fn check(&mut self, now: Instant) {
        let patience = self.plan.patience;
        self.next_check = now + (patience / 4).min(CHECK_EVERY);
        for lane in &mut self.lanes {
            let Some(connection) = &lane.connection else { continue };
            let late = |since| now.saturating_duration_since(since) >= patience;
            if connection.oldest().is_some_and(late) {
                self.outcome.errors.late += connection.outstanding().max(1) as u64;
                self.outcome.errors.note(&format!("no reply within {} s", patience.as_secs_f64()));
                lane.connection = None;
                lane.is_dead = true;
            }
        }
        if now >= self.next_publication {
            self.next_publication = now + PUBLISHED_EVERY;
            self.publish();
        }
    }

    fn publish(&mut self) {
        let (requests, errors) = (self.outcome.requests, self.outcome.errors.total());
        let p99_ns = self.outcome.latency_ns.value_at_quantile(0.99);
        self.watch.publish(requests - self.published.0, errors - self.published.1, p99_ns);
        self.published = (requests, errors);
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// Events that one wait returns at most.
const EVENTS: usize = 256;
/// Replies of one connection that one read takes at most.
const SCRATCH_BYTES: usize = 64 << 10;
/// So long before the time of a request the client stays awake: with 1,000 requests a second to a
/// Redis beside it, p50 is 72 us instead of 103.
const SPIN: Duration = Duration::from_micros(100);
/// How often connections are looked at that may be late.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// How often others are told of it; the p99 costs some 10 us.
const PUBLISHED_EVERY: Duration = Duration::from_millis(100);
