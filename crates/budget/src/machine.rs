//! The machine that is measured: its cores, its last-level cache, its memory.

use std::{fs, io, path::Path};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use crate::BudgetError;

/// What is known of this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// As the CPU calls itself.
    pub cpu: String,
    /// Kernel release.
    pub kernel: String,
    /// Cores that this process may use.
    pub cores: Vec<usize>,
    /// The core that is measured.
    pub core: usize,
    /// Bytes of the last-level cache; `None` if /sys does not say.
    pub cache_bytes: Option<u64>,
    /// Bytes of memory that can be had.
    pub available_bytes: Option<u64>,
    /// Bytes of a working set that no cache holds: four times the last-level cache, unless its
    /// owner says otherwise.
    pub working_set_bytes: u64,
}

/// Assumed where the last-level cache is not known.
const CACHE_BYTES_ASSUMED: u64 = 32 << 20;
/// A working set is so many times the last-level cache.
const CACHES: u64 = 4;

impl Machine {
    /// Looks at the machine. `core` is to be measured, or else the last one that may be used: the
    /// first ones have more interrupts.
    ///
    /// # Errors
    /// [`BudgetError::Core`] if there is no such core.
    pub fn look(core: Option<usize>) -> Result<Self, BudgetError> {
        let allowed = sched_getaffinity(None).map_err(io::Error::from)?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let last = *cores.last().expect("this thread runs somewhere");
        let core = core.unwrap_or(last);
        if !cores.contains(&core) {
            return Err(BudgetError::Core { core, cores });
        }
        let dir = format!("/sys/devices/system/cpu/cpu{core}/cache");
        let cache_bytes = last_level(Path::new(&dir));
        Ok(Self {
            cpu: cpu().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cores,
            core,
            cache_bytes,
            available_bytes: available(),
            working_set_bytes: CACHES * cache_bytes.unwrap_or(CACHE_BYTES_ASSUMED),
        })
    }

    /// Returns whether `bytes` of memory can be had: where they cannot, the system would end the
    /// process without a word.
    pub(crate) fn room_for(&self, bytes: u64) -> Result<(), BudgetError> {
        let wanted = bytes.saturating_add(bytes / 4);
        match self.available_bytes {
            Some(available) if available < wanted => {
                Err(BudgetError::Memory { wanted: wanted >> 20, available: available >> 20 })
            }
            _ => Ok(()),
        }
    }
}

/// What decides about huge pages.
pub(crate) const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Returns the pages that the system gives whatever is asked for, if it does.
pub(crate) fn pages_forced() -> Option<&'static str> {
    // A kernel that has no such file has no huge pages, and says so when it is asked for them.
    forced(&fs::read_to_string(THP).ok()?)
}

fn forced(enabled: &str) -> Option<&'static str> {
    let is_chosen = |word| enabled.split_whitespace().any(|found| found == word);
    [("[never]", "ordinary"), ("[always]", "huge")]
        .into_iter()
        .find_map(|(word, pages)| is_chosen(word).then_some(pages))
}

/// Keeps this thread on a core, until it is dropped.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Keeps this thread on `core`.
    ///
    /// # Errors
    /// What the system says.
    pub fn to(core: usize) -> io::Result<Self> {
        if core >= CpuSet::MAX_CPU {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such core"));
        }
        let before = sched_getaffinity(None)?;
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before; else this thread stays where it is.
        let _restored = sched_setaffinity(None, &self.before);
    }
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Returns the size of the cache with the highest level of those in `dir`, as sysfs has them.
fn last_level(dir: &Path) -> Option<u64> {
    let caches = fs::read_dir(dir).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).ok();
        let level: u32 = read("level")?.trim().parse().ok()?;
        Some((level, size(read("size")?.trim())?))
    });
    caches.max().map(|(_, bytes)| bytes)
}

/// Parses a size as sysfs writes it: `32768K`, `1M`.
fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "K") => (number, 10),
        (number, "M") => (number, 20),
        (number, "G") => (number, 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_shl(shift).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_level_is_the_highest() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_level(dir.path()), None);
        for (name, level, size) in
            [("index0", "1\n", "32K\n"), ("index3", "3\n", "32768K\n"), ("index2", "2\n", "1M\n")]
        {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("level"), level).unwrap();
            fs::write(dir.path().join(name).join("size"), size).unwrap();
        }
        fs::create_dir(dir.path().join("uevent")).unwrap();
        assert_eq!(last_level(dir.path()), Some(32 << 20));
    }

    #[test]
    fn pages_are_forced_where_nobody_is_asked() {
        assert_eq!(forced("always [madvise] never\n"), None);
        assert_eq!(forced("[always] madvise never\n"), Some("huge"));
        assert_eq!(forced("always madvise [never]\n"), Some("ordinary"));
    }

    #[test]
    fn odd_sizes_are_no_sizes() {
        assert_eq!(size("96M"), Some(96 << 20));
        assert_eq!(size("64"), Some(64));
        for text in ["", "K", "0K", "-1K", "manyK"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_core_that_is_not_there_is_refused_with_those_that_are() {
        let error = Machine::look(Some(CpuSet::MAX_CPU)).unwrap_err();
        assert!(
            matches!(error, BudgetError::Core { ref cores, .. } if !cores.is_empty()),
            "{error}"
        );
    }
}
