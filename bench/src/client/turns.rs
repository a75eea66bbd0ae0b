//! One thread of the client: wait, read, count, send the next.

mod phase;

use std::{
    mem,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

use super::{
    Limit, Pace, Plan, Watch,
    lane::Lane,
    schedule::Schedule,
    tally::Tally,
    work::{Source, Work},
};
use crate::{
    connection::{Broken, Connection},
    outcome::{LoadError, Outcome},
    protocol::{Ask, Outbox},
};
use phase::Phase;

/// Carries out a plan on the calling thread.
pub(super) fn run(plan: &Plan, watch: &Watch) -> Result<Outcome, LoadError> {
    let mut turns = Turns::new(plan, watch)?;
    turns.begin()?;
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

    /// Opens the connection of a lane and waits for it.
    fn connect(&mut self, lane: usize) -> Result<(), LoadError> {
        let Plan { target, pipeline, patience, .. } = *self.plan;
        let speaker = self.work(lane).speaker(target);
        let failed = |error| LoadError::Connect { target, error };
        let connection = Connection::open(target, speaker, pipeline, patience).map_err(failed)?;
        self.enter(lane, connection).map_err(failed)
    }

    /// Starts to open the connection of a lane.
    fn begin_to_connect(&mut self, lane: usize) -> std::io::Result<()> {
        let speaker = self.work(lane).speaker(self.plan.target);
        let connection = Connection::begin(self.plan.target, speaker)?;
        self.enter(lane, connection)
    }

    fn enter(&mut self, lane: usize, mut connection: Connection) -> std::io::Result<()> {
        // Edges: one event for each arrival, and none to be taken back.
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let name = EventData::new_u64(lane as u64);
        epoll::add(&self.epoll, connection.stream(), name, wanted)?;
        if !self.plan.short {
            connection.write();
        }
        self.lanes[lane].connection = Some(connection);
        Ok(())
    }

    fn work(&self, lane: usize) -> &Work {
        match &self.trim {
            Some(trim) if lane == self.plan.connections => trim,
            _ => &self.plan.work,
        }
    }

    fn begin(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        let warm_up = match self.plan.limit {
            Limit::Time(_) => self.plan.warm_up,
            Limit::Requests(_) => Duration::ZERO,
        };
        self.phase = Phase::WarmUp { until: now + warm_up };
        self.move_on(now)?;
        match self.plan.pace {
            Pace::Open { per_second } => {
                let schedule = Schedule::new(Instant::now(), per_second, self.plan.connections);
                self.schedule = Some(schedule);
            }
            Pace::Closed => {
                for lane in 0..self.plan.connections {
                    self.ask(lane, self.depth(), Instant::now());
                }
            }
        }
        Ok(())
    }

    fn depth(&self) -> usize {
        if self.plan.short { 1 } else { self.plan.pipeline }
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
        self.ask_what_is_due(now);
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
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(LoadError::Client { action: "wait", error: error.into() }),
        }
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
            Ok(()) if closes => self.reopen(lane, None),
            Ok(()) => {
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

    fn write(&mut self, lane: usize) {
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

    /// Returns true if there is something left to send.
    fn has_more(&self) -> bool {
        match (&self.phase, self.plan.limit) {
            (Phase::Drain, _) => false,
            (Phase::Measure { .. }, Limit::Requests(all)) => self.issued < all,
            _ => true,
        }
    }

    /// Sends `count` requests, or as many of them as the plan still has. In an open loop: those
    /// whose time has come.
    fn ask(&mut self, lane: usize, count: usize, now: Instant) {
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

    fn ask_what_is_due(&mut self, now: Instant) {
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

    /// Returns true if there is a connection to send on; opens one if it is a short one's time.
    fn is_ready(&mut self, lane: usize) -> bool {
        if self.lanes[lane].connection.is_some() {
            return true;
        }
        if !self.plan.short || self.lanes[lane].is_dead {
            return false;
        }
        if let Err(error) = self.begin_to_connect(lane) {
            self.outcome.errors.refused += 1;
            self.outcome.errors.note(&error);
            self.lanes[lane].is_dead = true;
            return false;
        }
        true
    }

    fn send(&mut self, lane: usize, count: usize, now: Instant, since: impl Fn(u64) -> Instant) {
        let Some(connection) = &mut self.lanes[lane].connection else { return };
        let source = &mut self.source;
        let asks = (0..count as u64).map(|index| (source.next(), since(index)));
        let written = connection.ask(asks, now, &mut self.outbox);
        self.count_sent(lane, written);
    }

    /// Trims if at least `bytes` were appended since the last time.
    fn trim(&mut self, bytes: u64, now: Instant) {
        if self.plan.trim.is_some()
            && self.untrimmed_bytes >= bytes
            && let Some(connection) = &mut self.lanes[self.plan.connections].connection
            && connection.outstanding() == 0
        {
            self.untrimmed_bytes = 0;
            connection.ask([(Ask::Same, now)].into_iter(), now, &mut self.outbox);
        }
    }

    /// Ends a short connection that was answered, and opens the next one.
    fn next_short(&mut self, lane: usize) {
        let _closed = self.lanes[lane].end(FRUITLESS_SHORT_MAX);
        self.ask(lane, 1, Instant::now());
    }

    /// Drops the connection of a lane, counts what that loses, and opens another one if the old one
    /// was good for anything.
    fn reopen(&mut self, lane: usize, broken: Option<&Broken>) {
        let is_short = self.plan.short && lane < self.plan.connections;
        let fruitless_max = if is_short { FRUITLESS_SHORT_MAX } else { 0 };
        let Some(old) = self.lanes[lane].end(fruitless_max) else { return };
        let errors = &mut self.outcome.errors;
        let malformed = matches!(broken, Some(Broken::Malformed(_) | Broken::Unasked));
        errors.malformed += u64::from(malformed);
        // What is malformed was the reply to one of them.
        let lost = old.outstanding().saturating_sub(usize::from(malformed)) as u64;
        errors.lost += lost;
        // With nothing on the way, a server may close whenever it likes.
        if let Some(broken) = broken
            && (malformed || lost > 0)
        {
            errors.note(broken);
        }
        drop(old);
        if self.lanes[lane].is_dead || !(self.has_more() || self.lanes[lane].owed > 0) {
            return;
        }
        if !is_short {
            match self.connect(lane) {
                Ok(()) => self.outcome.reopened += u64::from(broken.is_none()),
                Err(error) => {
                    self.outcome.errors.refused += 1;
                    self.outcome.errors.note(&error);
                    self.lanes[lane].is_dead = true;
                }
            }
        }
        if lane < self.plan.connections {
            self.ask(lane, self.depth(), Instant::now());
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

/// Events that one wait returns at most.
const EVENTS: usize = 256;
/// Replies of one connection that one read takes at most.
const SCRATCH_BYTES: usize = 64 << 10;
/// How often connections are looked at that may be late.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// How often others are told of it; the p99 costs some 10 us.
const PUBLISHED_EVERY: Duration = Duration::from_millis(250);
/// Of short connections, one now and then may be refused.
const FRUITLESS_SHORT_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpListener},
        thread,
    };

    use super::*;
    use crate::{
        client::{Dialect, Keyed, Order},
        protocol::{Request, Values},
    };

    /// Answers each `request_bytes` with `reply`, in two pieces, so that replies are cut, too.
    fn server(request_bytes: usize, reply: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut request) = (stream.unwrap(), vec![0; request_bytes]);
                stream.set_nodelay(true).unwrap();
                while stream.read_exact(&mut request).is_ok() {
                    let (first, second) = reply.split_at(reply.len() / 2);
                    for piece in [first, second] {
                        let _gone = stream.write_all(piece.as_bytes());
                    }
                }
            }
        });
        target
    }

    fn allocations(plan: &Plan, requests: u64) -> u64 {
        let plan = Plan { limit: Limit::Requests(requests), pipeline: 4, ..plan.clone() };
        let info = allocation_counter::measure(|| {
            let outcome = run(&plan, &Watch::default()).unwrap();
            assert_eq!((outcome.requests, outcome.errors.total()), (requests, 0), "{outcome}");
        });
        info.count_total
    }

    /// Buffers may grow now and then: when the kernel first takes less than a burst of requests.
    fn assert_few(plan: &Plan) {
        let (few, many) = (allocations(plan, 100), allocations(plan, 1000));
        assert!(many <= few + 10, "{few} for 100 requests, {many} for 1000");
    }

    /// Time in an allocator is time that the server is not asked anything.
    #[test]
    fn requests_do_not_allocate() {
        let request = Request::new("POST", "a", "/", &[7; 100]).expect_status(201);
        let reply = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        let target = server(request.len_bytes(), reply);
        let plan = Plan::new(target, Work::Same(request));
        assert_few(&plan);
    }

    /// Nor does choosing keys, and making values of them, long ones included.
    #[test]
    fn keyed_requests_do_not_allocate() {
        for (len, order) in [(100, Order::Zipf(0.99)), (100_000, Order::Uniform)] {
            let head = format!("*3\r\n$3\r\nSET\r\n$15\r\n000000000000000\r\n${len}\r\n\r\n");
            let target = server(head.len() + len, "+OK\r\n");
            let (dialect, values) = (Dialect::Resp { auth: None }, Values::new(len));
            let keyed = Keyed { dialect, values, keys: 1000, reads: 0.0, order, seed: 1 };
            let mut plan = Plan::new(target, Work::Keyed(keyed));
            assert_few(&plan);
            plan.pace = Pace::Open { per_second: 5000.0 };
            assert_few(&plan);
        }
    }
}
