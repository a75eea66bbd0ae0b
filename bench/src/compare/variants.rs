//! The servers that are compared: Impasto's ways of serving, and the baselines.

use std::fmt;

use tempfile::TempDir;

use crate::{
    baselines::{self, Medium},
    bed::Bed,
    cli::Failure,
    process::Server,
};

/// A way of serving that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) medium: Medium,
    start: Start,
}

/// What this machine cannot run.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) name: &'static str,
    pub(super) why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// `impasto serve`, with these arguments.
    Impasto(&'static [&'static str]),
    /// Impasto put together from its parts, with these arguments.
    Parts(&'static [&'static str]),
    /// The baseline of that name.
    Baseline,
}

/// A variant as it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) variant: Variant,
    /// Added to each of its fences.
    pub(super) fence_ns: u64,
    pub(super) workers: usize,
}

const IMPASTO: [Variant; 7] = [
    Variant {
        name: "impasto-shm",
        about: "Impasto by io_uring, memory: cache lines flushed, a fence",
        medium: Medium::Memory,
        start: Start::Impasto(&["--io", "uring"]),
    },
    Variant {
        name: "impasto-shm-poll",
        about: "the same, polling without waiting",
        medium: Medium::Memory,
        start: Start::Impasto(&["--io", "uring", "--busy-poll"]),
    },
    Variant {
        name: "impasto-shm-epoll",
        about: "the same by epoll",
        medium: Medium::Memory,
        start: Start::Impasto(&["--io", "epoll"]),
    },
    Variant {
        name: "impasto-off",
        about: "from its parts, flush and fence left out: nothing is durable",
        medium: Medium::Memory,
        start: Start::Parts(&["--medium", "shm", "--io", "uring", "--without-flush"]),
    },
    Variant {
        name: "impasto-disk",
        about: "Impasto by io_uring, disk: one O_DIRECT write with RWF_DSYNC for a commit",
        medium: Medium::Disk,
        start: Start::Impasto(&["--io", "uring"]),
    },
    Variant {
        name: "impasto-disk-poll",
        about: "the same, polling without waiting",
        medium: Medium::Disk,
        start: Start::Impasto(&["--io", "uring", "--busy-poll"]),
    },
    Variant {
        name: "impasto-disk-epoll",
        about: "the same by epoll",
        medium: Medium::Disk,
        start: Start::Impasto(&["--io", "epoll"]),
    },
];

/// Returns all variants, and why this machine cannot run some of them.
pub(super) fn all() -> (Vec<Variant>, Vec<Missing>) {
    let mut variants = IMPASTO.to_vec();
    let mut missing = Vec::new();
    for baseline in baselines::ALL {
        match baseline.unavailable() {
            Some(why) => missing.push(Missing { name: baseline.name, why }),
            None => variants.push(Variant {
                name: baseline.name,
                about: baseline.about,
                medium: baseline.medium,
                start: Start::Baseline,
            }),
        }
    }
    (variants, missing)
}

impl Variant {
    /// Returns it as it is, for one worker and without a slower fence.
    pub(super) fn plain(self) -> Contender {
        Contender { variant: self, fence_ns: 0, workers: 1 }
    }

    /// Returns what others on the same medium are compared with.
    pub(super) fn reference(self) -> &'static str {
        if self.medium == Medium::Disk { "impasto-disk" } else { "impasto-shm" }
    }
}

impl Contender {
    /// Returns the contender that this one is compared with, among others.
    pub(super) fn reference_among(&self, others: &[Self]) -> Option<usize> {
        let wanted = self.variant.reference();
        let is_it = |other: &Self| {
            other.variant.name == wanted && other.fence_ns == self.fence_ns && other.workers == 1
        };
        let found = others.iter().position(is_it)?;
        (others[found] != *self).then_some(found)
    }

    /// Returns true if its own threads wait for each other, or for the client, on one core: that
    /// says nothing of the machine, so that no window can be left out because of it.
    pub(super) fn is_crowded(&self) -> bool {
        // A second worker is on the client's core; by epoll threads do what the disk is asked.
        self.workers > 1 || matches!(self.variant.name, "impasto-disk-epoll" | "impasto-disk-poll")
    }

    /// Starts it, and stops it until it is measured.
    pub(super) fn start(&self, bed: &Bed) -> Result<(Server, TempDir), Failure> {
        let Variant { name, medium, start, .. } = self.variant;
        let dir = if medium == Medium::Disk { bed.disk()? } else { bed.memory()? };
        let workers = self.workers.to_string();
        let fence_ns = self.fence_ns.to_string();
        let cores = [bed.server_core, bed.client_core];
        let cores = &cores[..self.workers.min(2)];
        let slower = ["--fence-delay", &fence_ns];
        let slower: &[&str] = if self.fence_ns > 0 { &slower } else { &[] };
        let server = match start {
            Start::Impasto(args) if self.fence_ns == 0 => {
                let medium = if medium == Medium::Disk { "disk" } else { "shm" };
                let args = [args, &["--workers", &workers]].concat();
                bed.impasto(&dir, medium, bed.region, &args, cores)
            }
            // Its fence is not slower than the processor's but where it is put together for that.
            Start::Impasto(args) => {
                bed.own(&["serve", "--medium", "shm"], &dir, &[args, slower].concat())
            }
            Start::Parts(args) => bed.own(&["serve"], &dir, &[args, slower].concat()),
            Start::Baseline => bed.own(&["baseline", name], &dir, slower),
        };
        let server = server.map_err(|failure| format!("{self}: {failure}"))?;
        Ok((server, dir))
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.variant.name)?;
        if self.fence_ns > 0 {
            write!(f, " +{} us", self.fence_ns / 1000)?;
        }
        if self.workers > 1 {
            write!(f, " {} workers", self.workers)?;
        }
        Ok(())
    }
}
