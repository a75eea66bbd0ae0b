//! The lock of a region's directory: one process at a time, and one run of writes.
//!
//! A process that is killed leaves writes behind that the kernel still carries out. Were the region
//! opened before their end, one of them could land on what the next run has written in its place.
//! So whoever starts writes gives the lock to the kernel together with them
//! ([`Region::lock`](super::Region::lock)), and whoever finds the lock of a dead process waits.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock, major, minor},
    io::Errno,
};

use crate::Error;

/// How long the writes of a dead process may take, and how often we look.
const DEAD_WAIT: Duration = Duration::from_secs(10);
const DEAD_POLL: Duration = Duration::from_millis(5);

/// A lock that is held. The kernel drops it when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Name of the file that is there to be locked; none if the region itself is.
    path: Option<PathBuf>,
    /// Somebody else may hold it on: whoever has writes in flight.
    is_shared: AtomicBool,
    /// The region's file, locked as well.
    region: Option<File>,
}

impl Lock {
    /// Takes the lock of `dir`. Waits only for the writes of a process that is dead.
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let start = Instant::now();
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(&path).map_err(Error::io("lock", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let pid = holder(file);
                    if pid.is_none_or(is_alive) || start.elapsed() > DEAD_WAIT {
                        return Err(Error::InUse { dir: dir.into(), pid });
                    }
                    thread::sleep(DEAD_POLL);
                    continue;
                }
                Err(error) => return Err(Error::io("lock", path)(error)),
            }
            // A creation that failed may have removed the file between `open` and `flock`; a lock
            // on a file without a name excludes nobody.
            if is_named(&file, &path) {
                // A courtesy: where it cannot be written (hugetlbfs, a full disk), the lock holds.
                let _unsigned = sign(&file);
                let is_shared = AtomicBool::new(false);
                return Ok(Self { file, path: Some(path), region: None, is_shared });
            }
        }
    }

    /// Takes the lock of a device: the device itself is locked, under whatever name it was opened.
    ///
    /// The mapping holds the same open file, so the lock outlives a killed process until the last
    /// of its memory is unmapped, as it does the writes that hold [`fd`](Self::fd).
    pub(super) fn of_device(device: &File, path: &Path) -> Result<Self, Error> {
        let file = device.try_clone().map_err(Error::io("lock", path))?;
        wait_for(&file, path)?;
        Ok(Self { file, path: None, region: None, is_shared: AtomicBool::new(false) })
    }

    /// Locks the region of the directory `dir` as well: it may have links in other directories,
    /// which have locks of their own.
    pub(super) fn and_region(mut self, region: &File, dir: &Path) -> Result<Self, Error> {
        let region = region.try_clone().map_err(Error::io("lock", dir))?;
        match wait_for(&region, dir) {
            // Over some networks only a file that is open to be written can be locked.
            Ok(()) | Err(Error::Io { .. }) => self.region = Some(region),
            Err(error) => return Err(error),
        }
        Ok(self)
    }

    /// Returns the descriptor that holds the lock. From now on its last duplicate ends it.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // Relaxed: whoever drops this has it alone.
        self.is_shared.store(true, Ordering::Relaxed);
        self.file.as_fd()
    }

    /// Removes the lock's file while it is held.
    pub(super) fn remove(self) -> std::io::Result<()> {
        self.path.as_ref().map_or(Ok(()), fs::remove_file)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // D6: an unlock would end it for all duplicates.
        if *self.is_shared.get_mut() {
            return;
        }
        // Closing the file alone would leave the lock to a child between its fork and its exec. If
        // unlocking fails, closing does it a little later.
        for file in self.region.iter().chain([&self.file]) {
            let _later = flock(file, FlockOperation::Unlock);
        }
    }
}

/// Locks a file that is locked under whatever name it was opened.
fn wait_for(file: &File, path: &Path) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(Error::io("lock", path)(error)),
        }
        // Nobody who is known holds it: a process that is dead, or one of another container.
        let pid = locker(file);
        if pid.is_some_and(is_alive) || start.elapsed() > DEAD_WAIT {
            return Err(Error::InUse { dir: path.into(), pid });
        }
        thread::sleep(DEAD_POLL);
    }
}

fn is_named(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

/// Leaves the number of this process in the file, for whoever finds it locked.
fn sign(file: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(format!("{}\n", process::id()).as_bytes(), 0)
}

fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Returns the process that has locked `file`, as the kernel lists it (proc_locks(5)).
fn locker(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (major, minor) = (major(metadata.dev()), minor(metadata.dev()));
    let name = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let list = fs::read_to_string("/proc/locks").ok()?;
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let mut is = |index, word| words.nth(index) == Some(word);
        if !is(1, "FLOCK") || !is(1, "WRITE") {
            return None;
        }
        let pid = words.next()?.parse().ok()?;
        (words.next() == Some(&name)).then_some(pid)
    })
}

/// Returns true if there is such a process, and it is not a mere entry for its parent to collect.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name, in parentheses, may hold anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
    !matches!(state, Some('Z' | 'X'))
}
