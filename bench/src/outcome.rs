//! What a load has found: replies, how long they took, and everything that went wrong.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use hdrhistogram::Histogram;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{client::Limit, usage::Usage};

/// What was measured. Errors are counted from the first connection to the last, warm-up included.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How long was measured.
    pub elapsed: Duration,
    /// Requests that got the expected reply within that time.
    pub requests: u64,
    /// Those of them that were reads of a mix.
    pub reads: u64,
    /// Bytes of payload of these: sent, or received.
    pub payload_bytes: u64,
    /// All bytes that the connections took within that time.
    pub sent_bytes: u64,
    /// All bytes that they gave.
    pub received_bytes: u64,
    /// Nanoseconds from before the write of a request, or from its intended time in an open loop,
    /// to behind the read of its reply's end. In a closed loop a slow reply also keeps back the
    /// requests that would have met the same delay. Those count that were sent, or meant to be,
    /// while it was measured, whenever their replies came; of an unsent one, how long it waited.
    pub latency_ns: Histogram<u64>,
    /// Requests in each [`WINDOW`].
    pub windows: Vec<u64>,
    /// How long after its intended time a request was sent, at most.
    pub behind: Duration,
    /// Requests whose time had come, and that were not sent when the time was over.
    pub unsent: u64,
    /// Time that the client's threads stayed awake for, with nothing to do, lest they are late.
    pub spun: Duration,
    /// Threads of the client.
    pub threads: usize,
    /// What part of the time the busiest of them was busy.
    pub busiest: f64,
    /// Trims that were answered.
    pub trims: u64,
    /// Connections that the server had announced to close, and that were opened again.
    pub reopened: u64,
    /// Whatever was not as expected.
    pub errors: Errors,
    /// What the client's own threads used.
    pub client: Usage,
    /// What the server's threads used, if its process was given.
    pub server: Option<Usage>,
}

impl Outcome {
    pub(crate) fn new(limit: Limit) -> Self {
        let windows = match limit {
            Limit::Time(time) => usize::try_from(time.as_nanos() / WINDOW.as_nanos())
                .map_or(WINDOWS_MAX, |windows| windows.min(WINDOWS_MAX) + 2),
            Limit::Requests(_) => WINDOWS_MAX,
        };
        Self {
            elapsed: Duration::ZERO,
            requests: 0,
            reads: 0,
            payload_bytes: 0,
            sent_bytes: 0,
            received_bytes: 0,
            windows: Vec::with_capacity(windows),
            behind: Duration::ZERO,
            unsent: 0,
            spun: Duration::ZERO,
            threads: 1,
            busiest: 0.0,
            latency_ns: Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("3 digits are allowed"),
            trims: 0,
            reopened: 0,
            errors: Errors::default(),
            client: Usage::default(),
            server: None,
        }
    }

    /// Returns the requests in a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Returns the bytes of payload in a second.
    pub fn bytes_rate(&self) -> f64 {
        self.payload_bytes as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Returns the latency that `part` of the requests did not exceed, in microseconds.
    pub fn quantile_us(&self, part: f64) -> f64 {
        self.latency_ns.value_at_quantile(part) as f64 / 1000.0
    }

    /// Returns the mean latency in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.latency_ns.mean() / 1e3
    }

    /// Returns points of the curve of latencies: how many percent of the requests took at most how
    /// many microseconds; denser towards 100.
    pub fn percentiles(&self) -> Vec<(f64, f64)> {
        let steps = self.latency_ns.iter_quantiles(STEPS_TO_HALF_OF_THE_REST);
        steps.map(|step| (100.0 * step.quantile(), step.value_iterated_to() as f64 / 1e3)).collect()
    }

    /// Returns the least, the middle and the most requests per second of a whole [`WINDOW`].
    pub fn window_rates(&self) -> Option<[f64; 3]> {
        let whole = usize::try_from(self.elapsed.as_nanos() / WINDOW.as_nanos()).ok()?;
        let count = |at: usize| self.windows.get(at).copied().unwrap_or(0);
        let mut counts: Vec<u64> = (0..whole.min(WINDOWS_MAX)).map(count).collect();
        counts.sort_unstable();
        let places = [0, counts.len() / 2, counts.len().saturating_sub(1)];
        let rate = |place: usize| *counts.get(place).unwrap_or(&0) as f64 / WINDOW.as_secs_f64();
        (!counts.is_empty()).then(|| places.map(rate))
    }

    /// Returns what part of the time each thread of the client was busy; staying awake is not.
    pub fn client_busy(&self) -> f64 {
        self.share(self.client.run.saturating_sub(self.spun)) / self.threads as f64
    }

    /// Returns true if the client had too little time left for its throughput to be the server's.
    pub fn client_is_busy(&self) -> bool {
        // One that is full keeps its own connections waiting, whatever the others do.
        self.busiest > CLIENT_BUSY_MAX
    }

    /// Returns the server's time on a CPU for each request, in microseconds.
    pub fn server_us_per_request(&self) -> Option<f64> {
        let run = self.server?.run.as_secs_f64() * 1e6;
        (self.requests > 0).then(|| run / self.requests as f64)
    }

    /// Returns what part of the measured time `time` is; several threads can make it more than 1.
    pub fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Adds what another thread has found at the same time.
    pub(crate) fn add(&mut self, other: &Self) {
        self.elapsed = self.elapsed.max(other.elapsed);
        self.requests += other.requests;
        self.reads += other.reads;
        self.payload_bytes += other.payload_bytes;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.windows.resize(self.windows.len().max(other.windows.len()), 0);
        self.windows.iter_mut().zip(&other.windows).for_each(|(all, more)| *all += more);
        self.behind = self.behind.max(other.behind);
        self.unsent += other.unsent;
        self.spun += other.spun;
        self.threads += other.threads;
        self.busiest = self.busiest.max(other.busiest);
        self.latency_ns.add(&other.latency_ns).expect("both have the same bounds");
        self.trims += other.trims;
        self.reopened += other.reopened;
        self.errors.add(&other.errors);
        self.client.add(other.client);
        self.server = self.server.or(other.server);
    }

    /// Returns all of it for machines.
    pub fn to_json(&self) -> Value {
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "requests": self.requests,
            "requests_per_second": self.rate(),
            "payload_bytes_per_second": self.bytes_rate(),
            "latency_us": {
                "p50": self.quantile_us(0.5),
                "p90": self.quantile_us(0.9),
                "p99": self.quantile_us(0.99),
                "p99.9": self.quantile_us(0.999),
                "max": self.quantile_us(1.0),
                "mean": self.mean_us(),
                "std": self.latency_ns.stdev() / 1e3,
                "percentiles": self.percentiles(),
            },
            "reads": self.reads,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "windows": { "seconds": WINDOW.as_secs_f64(), "requests": self.windows },
            "behind_us": self.behind.as_secs_f64() * 1e6,
            "unsent": self.unsent,
            "client": {
                "busy": self.share(self.client.run),
                "wait": self.share(self.client.wait),
                "spun": self.share(self.spun),
                "threads": self.threads,
                "busiest": self.busiest,
                "limits": self.client_is_busy(),
            },
            "server": self.server.map(|server| json!({
                "busy": self.share(server.run),
                "wait": self.share(server.wait),
                "us_per_request": self.server_us_per_request(),
            })),
            "trims": self.trims,
            "reopened": self.reopened,
            "errors": self.errors.to_json(),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, requests) = (self.elapsed.as_secs_f64(), self.requests);
        writeln!(f, "requests   {requests} in {seconds:.2} s: {:.0} per second", self.rate())?;
        if let Some([min, median, max]) = self.window_rates() {
            let ms = WINDOW.as_millis();
            writeln!(f, "in {ms} ms  min {min:.0}, median {median:.0}, max {max:.0} per second")?;
        }
        if self.reads > 0 {
            writeln!(f, "of these   {} reads", self.reads)?;
        }
        write!(f, "payload    {:.1} MB per second", self.bytes_rate() / 1e6)?;
        let each = |bytes: u64| bytes as f64 / requests.max(1) as f64;
        let (sent, received) = (each(self.sent_bytes), each(self.received_bytes));
        writeln!(f, "; {sent:.0} bytes sent and {received:.0} received per request")?;
        self.fmt_latency(f)?;
        self.fmt_behind(f)?;
        let wait = |usage: Usage| 100.0 * self.share(usage.wait);
        let (busy, waiting) = (100.0 * self.client_busy(), wait(self.client));
        write!(f, "client     {busy:.0} % busy, {waiting:.1} % waiting")?;
        if self.threads > 1 {
            let (threads, busiest) = (self.threads, 100.0 * self.busiest);
            write!(f, "; {threads} threads, the busiest {busiest:.0} %")?;
        }
        writeln!(f)?;
        if let Some(server) = self.server {
            let cost = self.server_us_per_request().unwrap_or(f64::NAN);
            let busy = 100.0 * self.share(server.run);
            write!(f, "server     {busy:.0} % busy, {:.1} % waiting, ", wait(server))?;
            writeln!(f, "{cost:.2} us of CPU per request")?;
        }
        if self.trims > 0 {
            writeln!(f, "trims      {}", self.trims)?;
        }
        if self.reopened > 0 {
            writeln!(f, "reopened   {} connections that the server closed", self.reopened)?;
        }
        write!(f, "errors     {}", self.errors)?;
        if self.client_is_busy() {
            let most = 100.0 * CLIENT_BUSY_MAX;
            write!(
                f,
                "\nwarning    the client was over {most:.0} % busy: throughput is the client's, "
            )?;
            write!(f, "not the server's")?;
        }
        Ok(())
    }
}

impl Outcome {
    fn fmt_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.latency_ns.is_empty() {
            return writeln!(f, "latency    none: nothing was answered");
        }
        write!(f, "latency   ")?;
        let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
        for (name, part) in quantiles {
            write!(f, " {name} {:.1}", self.quantile_us(part))?;
        }
        let (mean, std) = (self.latency_ns.mean() / 1e3, self.latency_ns.stdev() / 1e3);
        writeln!(f, " us; mean {mean:.1}, std {std:.1}")
    }

    /// Says how far an open loop fell behind its times.
    fn fmt_behind(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.behind.is_zero() && self.unsent == 0 {
            return Ok(());
        }
        let behind = self.behind.as_secs_f64() * 1e6;
        writeln!(f, "behind     {behind:.0} us at most; {} requests not sent", self.unsent)
    }
}

/// Whatever was not as expected, counted by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Replies with another status.
    pub statuses: BTreeMap<u16, u64>,
    /// Replies with the expected status and another body.
    pub bodies: u64,
    /// Keys that were not there.
    pub missing: u64,
    /// Replies that say no in words.
    pub refusals: u64,
    /// Connections given up because what came was no reply, or one that nobody had asked for.
    pub malformed: u64,
    /// Requests whose connection ended before their reply was complete.
    pub lost: u64,
    /// Requests that were given up because the reply was not there in time.
    pub late: u64,
    /// Connections that could not be opened again.
    pub refused: u64,
    /// What the first of the connections that failed met.
    pub first: Option<String>,
}

impl Errors {
    /// Returns how many there are.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|(_, count)| count).sum::<u64>()
            + self.statuses.values().sum::<u64>()
    }

    fn kinds(&self) -> [(&'static str, u64); 7] {
        [
            ("other body", self.bodies),
            ("no such key", self.missing),
            ("refused", self.refusals),
            ("malformed reply", self.malformed),
            ("connection lost", self.lost),
            ("no reply in time", self.late),
            ("not connected again", self.refused),
        ]
    }

    pub(crate) fn note(&mut self, what: &dyn fmt::Display) {
        if self.first.is_none() {
            self.first = Some(what.to_string());
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.bodies += other.bodies;
        self.missing += other.missing;
        self.refusals += other.refusals;
        self.malformed += other.malformed;
        self.lost += other.lost;
        self.late += other.late;
        self.refused += other.refused;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let kinds = self.kinds().into_iter().map(|(name, count)| (name.to_owned(), count));
        let statuses = self.statuses.iter().map(|(status, count)| (status.to_string(), *count));
        let counts: BTreeMap<String, u64> = kinds.chain(statuses).filter(|(_, n)| *n > 0).collect();
        json!({ "total": self.total(), "kinds": counts, "first": self.first })
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let mut mark = ": ";
        for (status, count) in &self.statuses {
            write!(f, "{mark}{count} x status {status}")?;
            mark = ", ";
        }
        for (name, count) in self.kinds().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{mark}{count} x {name}")?;
            mark = ", ";
        }
        match &self.first {
            Some(first) => write!(f, " (the first: {first})"),
            None => Ok(()),
        }
    }
}

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The server cannot be reached.
    #[error("cannot connect to {target}: {error}; {}", what_helps(.error))]
    Connect {
        /// Where it should be.
        target: std::net::SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// The process of the server cannot be looked at.
    #[error("cannot read the CPU time of process {pid}: {error}")]
    Process {
        /// Its number.
        pid: u32,
        /// What the kernel says.
        error: io::Error,
    },
    /// What is to be read could not be written.
    #[error("cannot write what is to be read: {0}")]
    Fill(String),
    /// The client itself failed.
    #[error("the client cannot {action}: {error}")]
    Client {
        /// What it was doing.
        action: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
}

/// Returns what somebody can do who cannot connect.
fn what_helps(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "each connection is a descriptor: fewer --connections, or a higher `ulimit -n`"
        }
        Some(Errno::ADDRNOTAVAIL) => {
            "no local port is left: those of closed connections are free again after a minute \
             (TIME_WAIT)"
        }
        _ => "is the server running there?",
    }
}

/// Points of the curve of latencies between 0 and 50 %, 50 and 75 %, 75 and 87.5 %, ...
const STEPS_TO_HALF_OF_THE_REST: u32 = 10;
/// On loopback client and server cost about the same: who is full first sets the rate.
pub const CLIENT_BUSY_MAX: f64 = 0.85;
/// A load is told of in pieces of this length, too.
pub const WINDOW: Duration = Duration::from_millis(100);
/// An hour of them.
const WINDOWS_MAX: usize = 36_000;
/// The longest latency that is told from a longer one: 10 minutes.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
