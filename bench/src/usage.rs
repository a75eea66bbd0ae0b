//! What threads cost: time on a CPU, and time waiting for one, as the scheduler counts it.

use std::{fs, io, ops::Sub, time::Duration};

/// Time of threads, between two looks or since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Running. Work that the kernel does on their time is in it, softirqs included.
    pub run: Duration,
    /// Ready to run, while somebody else had the CPU.
    pub wait: Duration,
}

impl Usage {
    /// Returns the usage of the calling thread.
    ///
    /// # Errors
    /// If the kernel keeps no such statistics.
    pub fn of_thread() -> io::Result<Self> {
        parse(&fs::read_to_string("/proc/thread-self/schedstat")?)
    }

    /// Adds the usage of another thread.
    pub fn add(&mut self, other: Self) {
        self.run += other.run;
        self.wait += other.wait;
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            run: self.run.saturating_sub(before.run),
            wait: self.wait.saturating_sub(before.wait),
        }
    }
}

/// The threads of a process at one time.
#[derive(Clone, Debug)]
pub struct Threads(Vec<(u64, Usage)>);

impl Threads {
    /// Returns the threads of process `pid`, those that the kernel runs for its io_uring included.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // A thread may end between the two reads.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let thread = entry.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            threads.push((thread, parse(&text)?));
        }
        Ok(Self(threads))
    }

    /// Returns the threads of several processes and of all that descend from them now.
    ///
    /// # Errors
    /// If one of `pids` is no process, with its number.
    pub fn of_processes(pids: &[u32]) -> Result<Self, (u32, io::Error)> {
        let mut threads = Vec::new();
        for (index, pid) in pids.iter().enumerate() {
            // Given twice, it has not used twice as much.
            if pids[..index].contains(pid) {
                continue;
            }
            threads.extend(Self::of_process(*pid).map_err(|error| (*pid, error))?.0);
        }
        for pid in descendants(pids) {
            // A child may end between the two looks.
            threads.extend(Self::of_process(pid).map_or_else(|_| Vec::new(), |found| found.0));
        }
        Ok(Self(threads))
    }

    /// Returns what the threads that are there now have used since `before`. What one used that
    /// has ended is not known.
    pub fn since(&self, before: &Self) -> Usage {
        let mut total = Usage::default();
        for (thread, usage) in &self.0 {
            let then = before.0.iter().find(|(found, _)| found == thread);
            total.add(*usage - then.map_or_else(Usage::default, |(_, usage)| *usage));
        }
        total
    }
}

/// Returns the processes that descend from `pids`, without these, where the kernel says so.
fn descendants(pids: &[u32]) -> Vec<u32> {
    let mut found = pids.to_vec();
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let texts = threads.flat_map(|thread| fs::read_to_string(thread.path().join("children")));
        for child in texts.flat_map(|text| numbers(&text)) {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        at += 1;
    }
    found.split_off(pids.len())
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().flat_map(str::parse).collect()
}

fn parse(text: &str) -> io::Result<Usage> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(run)), Some(Ok(wait))) = (numbers.next(), numbers.next()) else {
        return Err(io::Error::other("schedstat holds no numbers"));
    };
    Ok(Usage { run: Duration::from_nanos(run), wait: Duration::from_nanos(wait) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(run: u64, wait: u64) -> Usage {
        Usage { run: Duration::from_nanos(run), wait: Duration::from_nanos(wait) }
    }

    #[test]
    fn threads_that_came_count_whole_and_threads_that_went_do_not() {
        let before = Threads(vec![(1, usage(100, 10)), (2, usage(50, 5))]);
        let after = Threads(vec![(1, usage(130, 11)), (3, usage(7, 2))]);
        assert_eq!(after.since(&before), usage(37, 3));
    }

    /// A server that forks for each connection does its work in children.
    #[test]
    fn children_count_with_their_parent() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let own = std::process::id();
        let found = descendants(&[own]);
        assert!(found.contains(&child.id()) && !found.contains(&own), "{found:?}");
        let alone = Threads::of_process(own).unwrap();
        assert!(Threads::of_processes(&[own]).unwrap().0.len() > alone.0.len());
        let pids = [own, own, child.id()];
        let twice = Threads::of_processes(&pids).unwrap();
        let children = Threads::of_process(child.id()).unwrap().0;
        let counted = |thread: u64| twice.0.iter().filter(|(found, _)| *found == thread).count();
        assert_eq!((counted(children[0].0), counted(own.into())), (1, 1));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(Threads::of_processes(&[0]).is_err());
    }

    #[test]
    fn the_kernel_says_what_this_thread_uses() {
        let before = Usage::of_thread().unwrap();
        let threads = Threads::of_process(std::process::id()).unwrap();
        assert!(!threads.0.is_empty());
        assert!(Usage::of_thread().unwrap().run >= before.run);
        assert!(parse("no").is_err());
    }
}
