//! Memory for a region: all of it is in memory while it is served.

use std::fs;

use impasto::region::layout::Geometry;

use super::{Failure, args::size_text};

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
