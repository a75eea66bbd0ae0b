//! The client: a closed loop over many connections, one thread for each of its cores.
//!
//! It waits in one place, for a bounded time, and allocates nothing for a request. Each connection
//! has `pipeline` requests on the way: a reply is what lets the next one go. What it counts as a
//! request got the reply that was expected, and everything else is an error and is shown.
//!
//! ```text
//! connect -> warm up (checked, not measured) -> measure -> drain (no new requests)
//! ```

use std::{net::SocketAddr, thread, time::Duration};

use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    http::Request,
    outcome::{LoadError, Outcome},
};

mod turns;

/// What to send, to whom, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// How many connections are open.
    pub connections: usize,
    /// How many requests each of them has on the way.
    pub pipeline: usize,
    /// What is sent.
    pub request: Request,
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
    /// The process whose CPU time is counted.
    pub pid: Option<u32>,
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
    raise_descriptors();
    let threads = plan.cores.len().clamp(1, plan.connections.max(1));
    let outcomes = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| {
                let share = share(plan, threads, index);
                let core = plan.cores.get(index).copied();
                scope.spawn(move || {
                    if let Some(core) = core {
                        pin(&[core])
                            .map_err(|error| LoadError::Client { action: "be pinned", error })?;
                    }
                    turns::run(&share)
                })
            })
            .collect();
        let joined = running.into_iter().map(|thread| thread.join().expect("a client returns"));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let mut all = Outcome::new();
    outcomes.iter().for_each(|outcome| all.add(outcome));
    Ok(all)
}

/// Asks for as many descriptors as this process may have: connections are made of them.
fn raise_descriptors() {
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
    if let Limit::Requests(count) = plan.limit {
        share.limit = Limit::Requests(part(count));
    }
    if let Some(trim) = &mut share.trim {
        trim.every_bytes = part(trim.every_bytes);
    }
    if index > 0 {
        share.pid = None;
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_plan() {
        let target = "127.0.0.1:80".parse().unwrap();
        let plan = Plan {
            target,
            connections: 8,
            pipeline: 1,
            request: Request::new("GET", target, "/", b""),
            limit: Limit::Requests(100),
            warm_up: Duration::ZERO,
            patience: Duration::from_secs(1),
            trim: None,
            cores: vec![0, 1, 2],
            pid: Some(7),
        };
        let shares: Vec<Plan> = (0..3).map(|index| share(&plan, 3, index)).collect();
        let connections: Vec<usize> = shares.iter().map(|share| share.connections).collect();
        assert_eq!(connections, [3, 3, 2]);
        let limits: Vec<Limit> = shares.iter().map(|share| share.limit).collect();
        assert_eq!(limits, [34, 33, 33].map(Limit::Requests));
        assert_eq!(shares.iter().filter(|share| share.pid.is_some()).count(), 1);
    }
}
