//! Where the time of a server goes, stage by stage, told by the server itself.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// What a server does with a request, in the order of the talk's figure (Honda et al., netdev 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for packets.
    Wait,
    /// Takes bytes from the kernel: the kernel's copy is in it.
    Receive,
    /// Parses requests.
    Parse,
    /// Makes the record: copies the payload, if it is copied, and checksums it.
    Copy,
    /// Starts to write back.
    Flush,
    /// Waits until that is durable: a fence, or a sync of a file.
    Fence,
    /// Sends replies: the kernel's TCP is in it.
    Reply,
}

impl Stage {
    pub(crate) const ALL: [Self; 7] =
        [Self::Wait, Self::Receive, Self::Parse, Self::Copy, Self::Flush, Self::Fence, Self::Reply];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Receive => "receive",
            Self::Parse => "parse",
            Self::Copy => "copy",
            Self::Flush => "flush",
            Self::Fence => "fence or sync",
            Self::Reply => "reply",
        }
    }
}

/// Time by stage. Without an account (the default) it costs a branch.
#[derive(Debug, Default)]
pub(crate) struct Stages(Option<Running>);

struct Running {
    since: Instant,
    account: Arc<Account>,
}

/// What was charged, to be read by another thread.
#[derive(Debug, Default)]
pub(crate) struct Account {
    ns: [AtomicU64; Stage::ALL.len()],
    requests: AtomicU64,
}

impl Stages {
    /// Charges to `account`, from now on.
    pub(crate) fn to(account: Arc<Account>) -> Self {
        Self(Some(Running { since: Instant::now(), account }))
    }

    /// Charges the time since the last call to `stage`.
    #[inline]
    pub(crate) fn charge(&mut self, stage: Stage) {
        if let Some(Running { since, account }) = &mut self.0 {
            let now = Instant::now();
            let ns = u64::try_from((now - *since).as_nanos()).unwrap_or(u64::MAX);
            // Relaxed, here and below: sums that nobody orders anything by.
            account.ns[stage as usize].fetch_add(ns, Ordering::Relaxed);
            *since = now;
        }
    }

    /// Counts requests that were answered.
    #[inline]
    pub(crate) fn answered(&mut self, requests: u64) {
        if let Some(Running { account, .. }) = &mut self.0 {
            account.requests.fetch_add(requests, Ordering::Relaxed);
        }
    }
}

impl Account {
    /// Returns the requests that were answered, and the nanoseconds of each stage, of all of them.
    pub(crate) fn read(&self) -> (u64, [u64; Stage::ALL.len()]) {
        let ns = std::array::from_fn(|stage| self.ns[stage].load(Ordering::Relaxed));
        (self.requests.load(Ordering::Relaxed), ns)
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account.fmt(f)
    }
}
