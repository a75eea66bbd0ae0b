//! What `impasto serve` says when it is ready.

use std::{fmt, path::Path, time::Duration};

use impasto::region::layout::MediumKind;

use super::{args::size_text, serve::Place};

/// The first lines on stdout. The last one ends with the address, for people and for scripts.
#[derive(Debug)]
pub(super) struct Banner<'a> {
    pub(super) medium: MediumKind,
    /// What lines are flushed with, where they need it.
    pub(super) flush: Option<&'static str>,
    pub(super) dir: &'a Path,
    pub(super) region_bytes: u64,
    /// Entries that recovery found in the region's log: records, and the logs and trims besides.
    pub(super) entries: u64,
    pub(super) recovery: Duration,
    /// What workers wait on, and why.
    pub(super) io: &'a str,
    pub(super) workers: u32,
    /// How many there can be, and how many were asked for.
    pub(super) connections: (usize, usize),
    /// Where it listens, at one place at least.
    pub(super) places: &'a [Place],
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dir, size) = (self.dir.display(), size_text(self.region_bytes));
        let millis = self.recovery.as_millis();
        writeln!(f, "impasto {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "medium     {}: {}", self.medium.name(), self.durability())?;
        writeln!(f, "data       {dir} ({size})")?;
        writeln!(f, "recovered  {} log entries in {millis} ms", self.entries)?;
        writeln!(f, "io         {}", self.io)?;
        let (room, asked) = self.connections;
        writeln!(f, "workers    {}, for up to {room} connections", self.workers)?;
        if room < asked {
            writeln!(f, "caution    the limit of open files is in the way of {asked} (ulimit -n)")?;
        }
        if self.places.iter().any(Place::is_exposed) {
            writeln!(f, "caution    whoever reaches this address may read, append and trim")?;
        }
        let Some((last, others)) = self.places.split_last() else {
            return Ok(());
        };
        for place in others {
            writeln!(f, "and on     {place}")?;
        }
        write!(f, "listening  {last}")
    }
}

impl Banner<'_> {
    /// Returns the banner in a line, for a service manager.
    pub(super) fn status(&self) -> String {
        let places: Vec<_> = self.places.iter().map(ToString::to_string).collect();
        let (dir, medium) = (self.dir.display(), self.medium.name());
        format!("serving {dir} on {medium} at {}", places.join(" "))
    }
}

impl Banner<'_> {
    /// Returns what an acknowledged record survives, in plain words.
    fn durability(&self) -> String {
        match (self.medium, self.flush) {
            (MediumKind::Disk, _) => {
                "acknowledged = survives power loss, if the device honours flushes".to_owned()
            }
            (MediumKind::Pmem, Some(flush)) => {
                format!("acknowledged = survives power loss ({flush})")
            }
            (MediumKind::Pmem, None) => {
                "acknowledged = survives power loss (no flush needed: persistence domain is \
                 cpu_cache)"
                    .to_owned()
            }
            (MediumKind::Shm, _) => {
                "survives a crash of the process, NOT a power loss or a reboot".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(medium: MediumKind, http: &str) -> String {
        let banner = Banner {
            medium,
            flush: (medium != MediumKind::Disk).then_some("clwb"),
            dir: Path::new("./impasto-data"),
            region_bytes: 1 << 30,
            entries: 3,
            recovery: Duration::from_millis(12),
            io: "io_uring",
            workers: 2,
            connections: (1000, 1000),
            places: &[Place::Http(http.parse().unwrap())],
        };
        banner.to_string()
    }

    #[test]
    fn it_says_what_an_acknowledgement_is_worth() {
        assert_eq!(
            banner(MediumKind::Disk, "127.0.0.1:8080"),
            format!(
                "impasto {}\n\
                 medium     disk: acknowledged = survives power loss, \
                 if the device honours flushes\n\
                 data       ./impasto-data (1GiB)\n\
                 recovered  3 log entries in 12 ms\n\
                 io         io_uring\n\
                 workers    2, for up to 1000 connections\n\
                 listening  http://127.0.0.1:8080",
                env!("CARGO_PKG_VERSION")
            )
        );
        assert!(banner(MediumKind::Shm, "[::1]:1").contains("NOT a power loss"));
        let pmem = "medium     pmem: acknowledged = survives power loss (clwb)\n";
        assert!(banner(MediumKind::Pmem, "[::1]:1").contains(pmem));
    }

    /// There is no access control; a newcomer should not find out afterwards.
    #[test]
    fn an_address_that_others_reach_is_pointed_out() {
        assert!(banner(MediumKind::Disk, "0.0.0.0:8080").contains("caution"));
        assert!(!banner(MediumKind::Disk, "[::1]:8080").contains("caution"));
    }
}
