//! Memory for a region: all of it is in memory while it is served.

use std::{fmt, fs};

use impasto::{
    region::layout::{BUF_BYTES, Geometry, MediumKind},
    server::config::{
        self, BACKLOG_BYTES_MAX, INLINE_BYTES_MAX, OUTPUT_BYTES_MAX, REPLY_BYTES_MAX,
    },
    store::INDEX_BYTES_PER_RECORD,
};
use serde::Serialize;

use super::{Failure, args::size_text};

/// What a server takes, part by part, in MiB: what is said has to add up.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sum {
    mib: u64,
    frames_mib: u64,
    /// 0 where landing buffers are buffers of the region.
    landing_mib: u64,
    rings_mib: u64,
    index_mib: u64,
    record_bytes: usize,
    connection_bytes_max: usize,
    waiting_bytes_max: usize,
}

/// What an io_uring of a worker takes, with its completions.
const RING_BYTES: u64 = 256 << 10;

impl Sum {
    /// `entries` is what recovery has found in the log.
    pub(super) fn new(geometry: Geometry, medium: MediumKind, workers: u32, entries: u64) -> Self {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let landing = match medium {
            MediumKind::Disk => u64::from(config::landing_bufs(geometry, workers) * workers),
            MediumKind::Shm | MediumKind::Pmem => 0,
        };
        // On `pmem` the frames are the persistent memory.
        let frames = if medium == MediumKind::Pmem { 0 } else { geometry.region_bytes() };
        let frames_mib = mib(frames);
        let landing_mib = mib(landing * u64::from(BUF_BYTES));
        let rings_mib = mib(u64::from(workers) * RING_BYTES);
        let index_mib = mib(entries * INDEX_BYTES_PER_RECORD as u64);
        Self {
            mib: frames_mib + landing_mib + rings_mib + index_mib,
            frames_mib,
            landing_mib,
            rings_mib,
            index_mib,
            record_bytes: INDEX_BYTES_PER_RECORD,
            // A body that is not whole, and replies up to the one with which there are too many.
            connection_bytes_max: INLINE_BYTES_MAX as usize
                + usize_of(OUTPUT_BYTES_MAX + REPLY_BYTES_MAX),
            waiting_bytes_max: BACKLOG_BYTES_MAX * workers as usize,
        }
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a limit fits memory")
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mib, frames_mib, landing_mib, rings_mib, index_mib, .. } = self;
        let landing =
            if *landing_mib > 0 { format!(" + {landing_mib} landing") } else { String::new() };
        writeln!(
            f,
            "{mib} MiB = {frames_mib} frames{landing} + {rings_mib} rings + {index_mib} index"
        )?;
        write!(
            f,
            "           and {} bytes for each record to come; at most {} KiB for each connection, \
             {} MiB for what waits",
            self.record_bytes,
            self.connection_bytes_max >> 10,
            self.waiting_bytes_max >> 20
        )
    }
}

/// Returns an error if a region does not fit `asked`, the memory that it is given, or three
/// quarters of what there is: it would end in the kernel killing the process, or another one.
/// `landing` bytes are received into besides.
pub(super) fn check(geometry: Geometry, landing: u64, asked: Option<u64>) -> Result<(), Failure> {
    fits(geometry.region_bytes(), landing, asked, available()).map_err(Failure::from)
}

fn fits(
    region: u64,
    landing: u64,
    asked: Option<u64>,
    available: Option<u64>,
) -> Result<(), String> {
    let needed = (region + landing).next_multiple_of(1 << 20);
    let most = available.map_or(u64::MAX, |bytes| bytes / 4 * 3);
    let there_is = available.unwrap_or(0) >> 20;
    if asked.is_some_and(|asked| asked > most) {
        let most = most >> 20;
        return Err(format!(
            "--memory is more than three quarters of this machine's {there_is} MiB: \
             say {most}MiB at most"
        ));
    }
    if needed > most {
        return Err(format!(
            "a region of {} does not fit this machine's memory, {there_is} MiB: while it is \
             served it may take three quarters of it at most; choose a smaller --size",
            size_text(region),
        ));
    }
    if asked.is_some_and(|asked| asked < needed) {
        return Err(format!(
            "--memory is less than {0}: the region of {1}, all of which is in memory while it is \
             served, and what is received for it; say --memory {0}, or leave it out",
            size_text(needed),
            size_text(region),
        ));
    }
    Ok(())
}

/// Returns the memory of the machine, or of the container if that is less.
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total_bytes);
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(container).min()
}

/// Returns the machine's memory as `/proc/meminfo` tells it.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sum that does not add up is believed by nobody.
    #[test]
    fn the_parts_add_up() {
        let geometry = Geometry::new(1 << 30).unwrap();
        let sum = Sum::new(geometry, MediumKind::Disk, 2, 1_000_000).to_string();
        let text = "1099 MiB = 1024 frames + 32 landing + 1 rings + 42 index\n";
        assert!(sum.starts_with(text), "{sum}");
        let sum = Sum::new(geometry, MediumKind::Shm, 2, 0).to_string();
        assert!(sum.starts_with("1025 MiB = 1024 frames + 1 rings + 0 index\n"), "{sum}");
        // 64 of a body, 256 of replies, 388 of the last one.
        assert!(sum.contains("at most 708 KiB for each connection"), "{sum}");
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       16384256 kB\nMemFree:         1234 kB\n";
        assert_eq!(total_bytes(meminfo), Some(16_384_256 << 10));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        assert!(available().is_some());
    }

    /// What is refused late ends in a process that is killed while it holds what was acknowledged.
    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        const GIB: u64 = 1 << 30;
        assert_eq!(fits(3 * GIB, 0, None, Some(4 * GIB)), Ok(()));
        assert_eq!(fits(2 * GIB, GIB, Some(3 * GIB), Some(4 * GIB)), Ok(()));
        assert_eq!(fits(9 * GIB, 0, Some(9 * GIB), None), Ok(()));
        let text = |region, asked| fits(region, 1 << 20, asked, Some(4 * GIB)).unwrap_err();
        assert!(text(GIB, Some(3 * GIB + 1)).contains("say 3072MiB at most"));
        assert!(text(4 * GIB, None).contains("choose a smaller --size"));
        assert!(text(2 * GIB, Some(2 * GIB)).contains("say --memory 2049MiB"));
        assert!(text(3 * GIB, None).contains("choose a smaller --size"));
    }
}
