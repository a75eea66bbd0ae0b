//! One thread of the client: wait, read, count, send the next.

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

use super::{Limit, Plan};
use crate::{
    connection::{Broken, Connection, Exchange},
    http::Request,
    outcome::{LoadError, Outcome},
    usage::{Threads, Usage},
};

/// Carries out a plan on the calling thread.
pub(super) fn run(plan: &Plan) -> Result<Outcome, LoadError> {
    let mut turns = Turns::new(plan)?;
    turns.begin()?;
    while turns.goes_on() {
        turns.turn()?;
    }
    turns.end_measuring()?;
    // The next load finds no more than this one did, however short they are.
    turns.trim(1, Instant::now());
    while turns.goes_on() {
        turns.turn()?;
    }
    Ok(turns.outcome)
}

struct Turns<'a> {
    plan: &'a Plan,
    epoll: OwnedFd,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// Those of the load, then the one that trims. `None`: given up.
    lanes: Vec<Option<Connection>>,
    phase: Phase,
    /// Requests that were sent since measuring began.
    issued: u64,
    /// Payload since the last trim.
    untrimmed_bytes: u64,
    next_check: Instant,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Phase {
    WarmUp { until: Instant },
    Measure { since: Instant, client: Usage, server: Option<Threads> },
    Drain,
}

impl<'a> Turns<'a> {
    fn new(plan: &'a Plan) -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| LoadError::Client { action: "make an epoll", error: error.into() })?;
        let now = Instant::now();
        let mut turns = Self {
            plan,
            epoll,
            events: Vec::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH_BYTES],
            lanes: Vec::new(),
            phase: Phase::WarmUp { until: now },
            issued: 0,
            untrimmed_bytes: 0,
            next_check: now,
            outcome: Outcome::new(),
        };
        for lane in 0..plan.connections + usize::from(plan.trim.is_some()) {
            let connection = turns.connect(lane)?;
            turns.lanes.push(Some(connection));
        }
        Ok(turns)
    }

    fn connect(&self, lane: usize) -> Result<Connection, LoadError> {
        let target = self.plan.target;
        let depth = self.plan.pipeline;
        let failed = |error| LoadError::Connect { target, error };
        let connection = Connection::open(target, depth, self.plan.patience).map_err(failed)?;
        // Edges: one event for each arrival, and none to be taken back.
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let name = EventData::new_u64(lane as u64);
        epoll::add(&self.epoll, connection.stream(), name, wanted)
            .map_err(|error| failed(error.into()))?;
        Ok(connection)
    }

    fn begin(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        let warm_up = match self.plan.limit {
            Limit::Time(_) => self.plan.warm_up,
            Limit::Requests(_) => Duration::ZERO,
        };
        self.phase = Phase::WarmUp { until: now + warm_up };
        self.move_on(now)?;
        for lane in 0..self.plan.connections {
            self.ask(lane, self.plan.pipeline, Instant::now());
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        let is_busy =
            |lane: &Option<Connection>| lane.as_ref().is_some_and(|c| c.outstanding() > 0);
        self.lanes.iter().any(is_busy)
    }

    /// Waits once, and handles what has come.
    fn turn(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        let until = match self.phase_ends() {
            Some(end) => end.min(self.next_check),
            None => self.next_check,
        };
        let left = until.saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(LoadError::Client { action: "wait", error: error.into() }),
        }
        let now = Instant::now();
        self.move_on(now)?;
        let mut events = mem::take(&mut self.events);
        for event in &events {
            let lane = usize::try_from(event.data.u64()).expect("names are lanes");
            self.serve(lane, event.flags);
        }
        events.clear();
        self.events = events;
        if now >= self.next_check {
            self.check(now);
        }
        Ok(())
    }

    /// Reads from a lane, counts, and sends as many requests as were answered.
    fn serve(&mut self, lane: usize, flags: EventFlags) {
        let Some(connection) = &mut self.lanes[lane] else { return };
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let is_trim = lane == self.plan.connections;
        let request = request(self.plan, lane);
        let mut tally = Tally {
            outcome: &mut self.outcome,
            request,
            is_trim,
            measures: matches!(self.phase, Phase::Measure { .. }),
            now: None,
            replied: 0,
            appended_bytes: 0,
            closes: false,
        };
        let read = connection.read(request, &mut self.scratch, ends, |done| tally.count(&done));
        let (replied, appended_bytes, closes) = (tally.replied, tally.appended_bytes, tally.closes);
        let now = tally.now;
        match read {
            Ok(()) if closes => self.reopen(lane, None),
            Ok(()) => {
                if flags.contains(EventFlags::OUT) {
                    connection.write(request);
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

    /// Returns true if there is something left to send.
    fn has_more(&self) -> bool {
        match (&self.phase, self.plan.limit) {
            (Phase::Drain, _) => false,
            (Phase::Measure { .. }, Limit::Requests(all)) => self.issued < all,
            _ => true,
        }
    }

    /// Sends `count` requests, or as many of them as the plan still has.
    fn ask(&mut self, lane: usize, count: usize, now: Instant) {
        let count = match (&self.phase, self.plan.limit) {
            (Phase::Drain, _) => 0,
            (Phase::Measure { .. }, Limit::Requests(all)) => {
                let left = usize::try_from(all - self.issued).unwrap_or(usize::MAX);
                count.min(left)
            }
            _ => count,
        };
        if count > 0
            && let Some(connection) = &mut self.lanes[lane]
        {
            self.issued += count as u64;
            connection.ask(&self.plan.request, count, now);
            connection.write(&self.plan.request);
        }
    }

    /// Trims if at least `bytes` were appended since the last time.
    fn trim(&mut self, bytes: u64, now: Instant) {
        if let Some(trim) = &self.plan.trim
            && self.untrimmed_bytes >= bytes
            && let Some(connection) = &mut self.lanes[self.plan.connections]
            && connection.outstanding() == 0
        {
            self.untrimmed_bytes = 0;
            connection.ask(&trim.request, 1, now);
            connection.write(&trim.request);
        }
    }

    /// Drops the connection of a lane, counts what that loses, and opens another one if the old one
    /// was good for anything: what fails at once would fail for ever.
    fn reopen(&mut self, lane: usize, broken: Option<&Broken>) {
        let Some(old) = self.lanes[lane].take() else { return };
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
        let was_good = old.replied > 0;
        drop(old);
        if !was_good || !self.has_more() {
            return;
        }
        match self.connect(lane) {
            Ok(connection) => {
                self.outcome.reopened += u64::from(broken.is_none());
                self.lanes[lane] = Some(connection);
                if lane < self.plan.connections {
                    self.ask(lane, self.plan.pipeline, Instant::now());
                }
            }
            Err(error) => {
                self.outcome.errors.refused += 1;
                self.outcome.errors.note(&error);
            }
        }
    }

    /// Gives up connections whose oldest request has waited too long.
    fn check(&mut self, now: Instant) {
        let patience = self.plan.patience;
        self.next_check = now + (patience / 4).min(CHECK_EVERY);
        for lane in &mut self.lanes {
            let late = |sent| now.saturating_duration_since(sent) >= patience;
            if let Some(connection) = lane
                && connection.oldest().is_some_and(late)
            {
                self.outcome.errors.late += connection.outstanding() as u64;
                self.outcome.errors.note(&format!("no reply within {} s", patience.as_secs_f64()));
                *lane = None;
            }
        }
    }

    fn phase_ends(&self) -> Option<Instant> {
        match (&self.phase, self.plan.limit) {
            (Phase::WarmUp { until }, _) => Some(*until),
            (Phase::Measure { since, .. }, Limit::Time(time)) => Some(*since + time),
            (Phase::Measure { .. }, Limit::Requests(_)) | (Phase::Drain, _) => None,
        }
    }

    fn move_on(&mut self, now: Instant) -> Result<(), LoadError> {
        if self.phase_ends().is_none_or(|end| now < end) {
            return Ok(());
        }
        match self.phase {
            Phase::WarmUp { .. } => {
                let (client, server) = (thread_usage()?, self.server()?);
                self.issued = 0;
                self.phase = Phase::Measure { since: Instant::now(), client, server };
            }
            Phase::Measure { .. } => self.end_measuring()?,
            Phase::Drain => {}
        }
        Ok(())
    }

    /// Takes the time and the usage, once.
    fn end_measuring(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        if let Phase::Measure { since, client, server } =
            mem::replace(&mut self.phase, Phase::Drain)
        {
            self.outcome.elapsed = now - since;
            self.outcome.client = thread_usage()? - client;
            // A server that has died has no usage; what its clients met is among the errors.
            if let (Some(before), Ok(Some(after))) = (server, self.server()) {
                self.outcome.server = Some(after.since(&before));
            }
        }
        Ok(())
    }

    fn server(&self) -> Result<Option<Threads>, LoadError> {
        let of = |pid| Threads::of_process(pid).map_err(|error| LoadError::Process { pid, error });
        self.plan.pid.map(of).transpose()
    }
}

/// Counts the replies of one event.
struct Tally<'a> {
    outcome: &'a mut Outcome,
    request: &'a Request,
    is_trim: bool,
    measures: bool,
    /// When the replies of this event were there.
    now: Option<Instant>,
    replied: usize,
    appended_bytes: u64,
    closes: bool,
}

impl Tally<'_> {
    fn count(&mut self, done: &Exchange) {
        let now = *self.now.get_or_insert_with(Instant::now);
        self.replied += 1;
        self.closes |= done.reply.closes;
        let expected = self.request.expected();
        if done.reply.status != expected.status {
            *self.outcome.errors.statuses.entry(done.reply.status).or_default() += 1;
        } else if !done.reply.body_matches {
            self.outcome.errors.bodies += 1;
        } else if self.is_trim {
            self.outcome.trims += 1;
        } else {
            self.appended_bytes += self.request.payload_bytes();
            if self.measures {
                self.outcome.requests += 1;
                self.outcome.payload_bytes += self.request.payload_bytes();
                let taken = now.saturating_duration_since(done.sent).as_nanos();
                self.outcome.latency_ns.saturating_record(u64::try_from(taken).unwrap_or(u64::MAX));
            }
        }
    }
}

fn request(plan: &Plan, lane: usize) -> &Request {
    match &plan.trim {
        Some(trim) if lane == plan.connections => &trim.request,
        _ => &plan.request,
    }
}

fn thread_usage() -> Result<Usage, LoadError> {
    Usage::of_thread().map_err(|error| LoadError::Client { action: "read its own CPU time", error })
}

/// Events that one wait returns at most.
const EVENTS: usize = 256;
/// Replies of one connection that one read takes at most.
const SCRATCH_BYTES: usize = 64 << 10;
/// How often connections are looked at that may be late.
const CHECK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Time in an allocator is time that the server is not asked anything.
    #[test]
    fn requests_do_not_allocate() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let request = Request::new("POST", target, "/", &[7; 100]).expect_status(201).repeated(4);
        let request_bytes = request.len_bytes();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut request) = (stream.unwrap(), vec![0; request_bytes]);
                stream.set_nodelay(true).unwrap();
                while stream.read_exact(&mut request).is_ok() {
                    // In two pieces, so that heads are cut, too.
                    for piece in ["HTTP/1.1 201 Created\r\nContent-", "Length: 0\r\n\r\n"] {
                        let _gone = stream.write_all(piece.as_bytes());
                    }
                }
            }
        });
        let allocations = |requests| {
            let plan = Plan {
                target,
                connections: 1,
                pipeline: 4,
                request: request.clone(),
                limit: Limit::Requests(requests),
                warm_up: Duration::ZERO,
                patience: Duration::from_secs(10),
                trim: None,
                cores: Vec::new(),
                pid: None,
            };
            let info = allocation_counter::measure(|| {
                assert_eq!(run(&plan).unwrap().requests, requests);
            });
            info.count_total
        };
        let (few, many) = (allocations(100), allocations(2000));
        assert_eq!(few, many);
    }
}
