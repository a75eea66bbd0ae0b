//! Descriptors: as many as the system gives.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::Failure;

/// Descriptors for files, the listener, standard streams, signals.
const OTHERS: u64 = 32;
/// Descriptors for a worker: its ring, what wakes that, and some that are being closed.
const OF_WORKER: u64 = 4;

/// Raises the limit of open files for `wanted` connections; returns how many there can be.
pub(super) fn connections(wanted: u32, workers: u32) -> Result<usize, Failure> {
    let others = OTHERS + OF_WORKER * u64::from(workers);
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let soft = limit.current.unwrap_or(u64::MAX);
    let needed = u64::from(wanted) + others;
    let given = soft.max(needed.min(hard));
    if given > soft {
        setrlimit(Resource::Nofile, Rlimit { current: Some(given), maximum: limit.maximum })
            .map_err(|error| {
                let error = io::Error::from(error);
                format!("cannot raise the limit of open files to {given}: {error}")
            })?;
    }
    let room = given.saturating_sub(others).min(u64::from(wanted));
    match usize::try_from(room) {
        Ok(room) if room > 0 => Ok(room),
        _ => Err(format!(
            "the limit of open files, {given}, leaves none for connections: raise it (ulimit -n)"
        )
        .into()),
    }
}
