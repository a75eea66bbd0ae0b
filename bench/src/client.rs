//! The client: many connections, one thread for each of its cores.
//!
//! It waits in one place, for a bounded time, and allocates nothing for a request. In a closed loop
//! each connection has `pipeline` requests on the way, and a reply is what lets the next one go; in
//! an open loop requests have their times beforehand. What it counts as a request got the reply
//! that was expected, and everything else is an error and is shown.
//!
//! ```text
//! connect -> warm up (checked, not measured) -> measure -> drain (no new requests)
//! ```

mod fill;
mod lane;
mod schedule;
mod start;
mod tally;
mod turns;
mod watch;
mod work;

use std::{net::SocketAddr, thread, time::Duration};

use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    outcome::{LoadError, Outcome},
    protocol::Request,
};
pub(crate) use fill::append;
pub use fill::fill;
use start::Line;
pub use watch::Watch;
pub use work::{Dialect, Keyed, Order, Work};

/// What to send, to whom, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// How many connections are open.
    pub connections: usize,
    /// How many requests each of them has on the way at most.
    pub pipeline: usize,
    /// What is sent.
    pub work: Work,
    /// Open a connection for each request, and count from before that.
    pub short: bool,
    /// When the next request is sent.
    pub pace: Pace,
    /// When it is over.
    pub limit: Limit,
    /// How long requests are sent before it is measured; not if their number is the limit.
    pub warm_up: Duration,
    /// A request without a reply for so long is given up, and its connection with it.
    pub patience: Duration,
    /// What keeps the server from filling up.
    pub trim: Option<Trim>,
    /// Cores to run on, one thread each; if there are none, one thread runs anywhere.
    pub cores: Vec<usize>,
    /// The processes whose CPU time is counted, and that of their children.
    pub pids: Vec<u32>,
}

impl Plan {
    /// Returns a second of a closed loop over one connection.
    pub fn new(target: SocketAddr, work: Work) -> Self {
        Self {
            target,
            connections: 1,
            pipeline: 1,
            work,
            short: false,
            pace: Pace::Closed,
            limit: Limit::Time(Duration::from_secs(1)),
            warm_up: Duration::ZERO,
            patience: Duration::from_secs(10),
            trim: None,
            cores: Vec::new(),
            pids: Vec::new(),
        }
    }
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When a reply has made room for it.
    Closed,
    /// At its time. Latency counts from then, also while it waits for room on its connection.
    Open {
        /// Requests in a second, over all connections.
        per_second: f64,
    },
}

/// When a load is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so many requests.
    Requests(u64),
    /// After this time.
    Time(Duration),
}

/// A request of another kind, on a connection of its own: whenever enough was appended, and at the
/// end.
#[derive(Clone, Debug)]
pub struct Trim {
    /// What is sent.
    pub request: Request,
    /// After how many bytes of payload.
    pub every_bytes: u64,
}

/// Carries out a plan and returns when all its threads are done.
///
/// # Errors
/// If nothing could be sent at all. What goes wrong later stands in [`Outcome::errors`].
pub fn run(plan: &Plan) -> Result<Outcome, LoadError> {
    run_watched(plan, &Watch::default())
}

/// As [`run`], and says what it counts meanwhile.
///
/// # Errors
/// As [`run`].
pub fn run_watched(plan: &Plan, watch: &Watch) -> Result<Outcome, LoadError> {
    raise_descriptors();
    let threads = plan.cores.len().clamp(1, plan.connections.max(1));
    let line = Line::new(threads);
    let outcomes = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| {
                let share = share(plan, threads, index);
                let core = plan.cores.get(index).copied();
                let line = &line;
                scope.spawn(move || turns::run(&share, watch, core, line.place(index)))
            })
            .collect();
        let joined = running.into_iter().map(|thread| thread.join().expect("a client returns"));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let mut outcomes = outcomes.into_iter();
    let mut all = outcomes.next().expect("there is at least one thread");
    outcomes.for_each(|outcome| all.add(&outcome));
    Ok(all)
}

/// Asks for as many descriptors as this process may have: connections are made of them.
pub(crate) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer, the connection that is one too many says so.
    let _kept = setrlimit(Resource::Nofile, limit);
}

/// Lets the calling thread, and what it starts, run on `cores` only.
///
/// # Errors
/// If there is no such core.
pub fn pin(cores: &[usize]) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        if *core >= CpuSet::MAX_CPU {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Returns the part of a plan that thread `index` carries out. The first one looks at the server.
fn share(plan: &Plan, threads: usize, index: usize) -> Plan {
    let part = |all: u64| {
        let (threads, index) = (threads as u64, index as u64);
        all / threads + u64::from(index < all % threads)
    };
    let mut share = plan.clone();
    share.connections =
        usize::try_from(part(plan.connections as u64)).expect("not more than there are");
    share.work = plan.work.share(threads, index);
    if let Pace::Open { per_second } = &mut share.pace {
        *per_second *= share.connections as f64 / plan.connections.max(1) as f64;
    }
    if let Limit::Requests(count) = plan.limit {
        share.limit = Limit::Requests(part(count));
    }
    if let Some(trim) = &mut share.trim {
        trim.every_bytes = part(trim.every_bytes);
    }
    if index > 0 {
        share.pids.clear();
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_plan() {
        let target = "127.0.0.1:80".parse().unwrap();
        let work = Work::Same(Request::new("GET", target, "/", b""));
        let plan = Plan {
            connections: 8,
            limit: Limit::Requests(100),
            pace: Pace::Open { per_second: 80.0 },
            cores: vec![0, 1, 2],
            pids: vec![7],
            ..Plan::new(target, work)
        };
        let shares: Vec<Plan> = (0..3).map(|index| share(&plan, 3, index)).collect();
        let connections: Vec<usize> = shares.iter().map(|share| share.connections).collect();
        assert_eq!(connections, [3, 3, 2]);
        let limits: Vec<Limit> = shares.iter().map(|share| share.limit).collect();
        assert_eq!(limits, [34, 33, 33].map(Limit::Requests));
        let paces: Vec<Pace> = shares.iter().map(|share| share.pace).collect();
        assert_eq!(paces, [30.0, 30.0, 20.0].map(|per_second| Pace::Open { per_second }));
        assert_eq!(shares.iter().filter(|share| !share.pids.is_empty()).count(), 1);
    }
}
