//! What `impasto serve` says when it is ready.

use std::{fmt, path::Path, time::Duration};

use impasto::region::layout::MediumKind;
use serde::Serialize;

use super::{args::size_text, memory::Sum, serve::Place};

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
    pub(super) memory: Sum,
    /// Name of a file system that copies on write.
    pub(super) copy_on_write: Option<String>,
}

/// The banner for scripts, one line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    version: &'static str,
    medium: &'static str,
    durable: String,
    data: String,
    region_bytes: u64,
    entries: u64,
    recovery_ms: u64,
    workers: u32,
    connections: usize,
    memory: &'a Sum,
    cautions: Vec<String>,
    io: &'a str,
    /// Where it listens; the last one is the address for HTTP, if there is one.
    listening: Vec<String>,
}

impl Banner<'_> {
    /// Returns what is said, as one line of JSON.
    pub(super) fn to_json(&self) -> String {
        let line = Line {
            version: env!("CARGO_PKG_VERSION"),
            medium: self.medium.name(),
            durable: self.durability(),
            data: self.dir.display().to_string(),
            region_bytes: self.region_bytes,
            entries: self.entries,
            recovery_ms: u64::try_from(self.recovery.as_millis()).unwrap_or(u64::MAX),
            workers: self.workers,
            connections: self.connections.0,
            memory: &self.memory,
            cautions: self.cautions(),
            io: self.io,
            listening: self.places.iter().map(ToString::to_string).collect(),
        };
        serde_json::to_string(&line).expect("numbers and texts are JSON")
    }

    fn cautions(&self) -> Vec<String> {
        let mut cautions = Vec::new();
        let (room, asked) = self.connections;
        if room < asked {
            cautions.push(format!("the limit of open files is in the way of {asked} (ulimit -n)"));
        }
        if let Some(file_system) = &self.copy_on_write {
            let how = if file_system == "btrfs" {
                "create the region anew in a directory made with chattr +C"
            } else {
                "ext4 and xfs do not"
            };
            cautions.push(format!(
                "{file_system} writes each block elsewhere: a file system that is full fails \
                 writes all the same; {how}"
            ));
        }
        if self.places.iter().any(Place::is_exposed) {
            cautions.push("whoever reaches this address may read, append and trim".into());
        }
        cautions
    }
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
        writeln!(f, "workers    {}, for up to {} connections", self.workers, self.connections.0)?;
        writeln!(f, "memory     {}", self.memory)?;
        for caution in self.cautions() {
            writeln!(f, "caution    {caution}")?;
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
    use impasto::region::layout::Geometry;

    use super::*;

    fn banner(medium: MediumKind, http: &str) -> String {
        of(medium, http, None).to_string()
    }

    fn of(medium: MediumKind, http: &str, copy_on_write: Option<&str>) -> Banner<'static> {
        Banner {
            medium,
            flush: (medium != MediumKind::Disk).then_some("clwb"),
            dir: Path::new("./impasto-data"),
            region_bytes: 1 << 30,
            entries: 3,
            recovery: Duration::from_millis(12),
            io: "io_uring",
            workers: 2,
            connections: (1000, 1000),
            places: Box::leak(Box::new([Place::Http(http.parse().unwrap())])),
            memory: Sum::new(Geometry::new(1 << 30).unwrap(), medium, 2, 3),
            copy_on_write: copy_on_write.map(str::to_owned),
        }
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
                 memory     1058 MiB = 1024 frames + 32 landing + 1 rings + 1 index\n           \
                 and 44 bytes for each record to come; at most 708 KiB for each connection, \
                 128 MiB for what waits\n\
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
    /// A preallocated file that does not hold its space is a surprise on the day the disk is full.
    #[test]
    fn a_file_system_that_copies_on_write_is_pointed_out() {
        let text = of(MediumKind::Disk, "[::1]:8080", Some("btrfs")).to_string();
        assert!(text.contains("caution    btrfs writes each block elsewhere"), "{text}");
        assert!(text.contains("chattr +C"), "{text}");
        let text = of(MediumKind::Disk, "[::1]:8080", Some("zfs")).to_string();
        assert!(text.contains("caution    zfs") && !text.contains("chattr"), "{text}");
    }

    #[test]
    fn for_scripts_it_is_one_line() {
        let line = of(MediumKind::Shm, "0.0.0.0:8080", None).to_json();
        assert!(!line.contains('\n'));
        let found: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(found["listening"], serde_json::json!(["http://0.0.0.0:8080"]));
        assert_eq!((&found["memory"]["mib"], &found["medium"]), (&1026.into(), &"shm".into()));
        assert_eq!(found["cautions"].as_array().unwrap().len(), 1);
    }
}
