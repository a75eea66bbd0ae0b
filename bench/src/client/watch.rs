//! What a load says of itself while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of a load, for whoever draws a bar. Relaxed throughout: nobody orders anything by them.
#[derive(Debug, Default)]
pub struct Watch {
    requests: AtomicU64,
    errors: AtomicU64,
    p99_ns: AtomicU64,
}

impl Watch {
    /// Returns the requests so far, warm-up left out.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the errors so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Returns the 99th percentile of the latency so far, of one of the threads.
    pub fn p99_ns(&self) -> u64 {
        self.p99_ns.load(Ordering::Relaxed)
    }

    /// Adds what one thread has counted since it was here before.
    pub(super) fn publish(&self, requests: u64, errors: u64, p99_ns: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
        self.p99_ns.store(p99_ns, Ordering::Relaxed);
    }
}
