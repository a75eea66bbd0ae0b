//! What threads cost: time on a CPU, and time waiting for one, as the scheduler counts it.

use std::{fs, io, ops::Sub, time::Duration};

use nix::{time::ClockId, unistd::Pid};
use rustix::param::clock_ticks_per_second;

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

/// What processes have used up to one time.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    /// The wait of each thread that is there.
    waits: Vec<(u64, Duration)>,
    /// The run of each process that is there, with all the threads that it had.
    runs: Vec<(u32, Duration)>,
    /// The run of children that have ended, and were waited for.
    ended: Duration,
}

impl Threads {
    /// Returns the threads of process `pid`, those that the kernel runs for its io_uring included.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let mut waits = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // A thread may end between the two reads.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let thread = entry.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            waits.push((thread, parse(&text)?.wait));
        }
        let ended = run_of_ended(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        Ok(Self { waits, runs: vec![(pid, run(pid)?)], ended })
    }

    /// Returns the threads of several processes and of all that descend from them now.
    ///
    /// # Errors
    /// If one of `pids` is no process, with its number.
    pub fn of_processes(pids: &[u32]) -> Result<Self, (u32, io::Error)> {
        let mut all = Self::default();
        for (index, pid) in pids.iter().enumerate() {
            // Given twice, it has not used twice as much.
            if !pids[..index].contains(pid) {
                all.add(Self::of_process(*pid).map_err(|error| (*pid, error))?);
            }
        }
        for pid in descendants(pids) {
            // A child may end between the two looks.
            all.add(Self::of_process(pid).unwrap_or_default());
        }
        Ok(all)
    }

    fn add(&mut self, other: Self) {
        self.waits.extend(other.waits);
        self.runs.extend(other.runs);
        self.ended += other.ended;
    }

    /// Returns what they have used since `before`: run with that of threads and children that have
    /// ended meanwhile, of children to the kernel's hundredth of a second; wait without.
    pub fn since(&self, before: &Self) -> Usage {
        let mut run = self.ended.saturating_sub(before.ended);
        for (pid, then) in &before.runs {
            // Of what it had used when it ended, this was known before.
            if !self.runs.iter().any(|(found, _)| found == pid) {
                run = run.saturating_sub(*then);
            }
        }
        run += grown(&self.runs, &before.runs);
        Usage { run, wait: grown(&self.waits, &before.waits) }
    }
}

/// Returns by how much those times have grown that are there now.
fn grown<K: PartialEq>(now: &[(K, Duration)], before: &[(K, Duration)]) -> Duration {
    let grown = now.iter().map(|(name, time)| {
        let then = before.iter().find(|(found, _)| found == name);
        time.saturating_sub(then.map_or(Duration::ZERO, |(_, time)| *time))
    });
    grown.sum()
}

/// Returns how long a process has run: its threads, and those that it had.
fn run(pid: u32) -> io::Result<Duration> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?.now()?.into())
}

/// Returns how long the children of a process have run that it has waited for: in its `stat`.
fn run_of_ended(stat: &str) -> io::Result<Duration> {
    // The name of the program stands in brackets, and may be anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut ticks = fields.split_whitespace().skip(CUTIME - 3).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (ticks.next(), ticks.next()) else {
        return Err(io::Error::other("stat holds no numbers"));
    };
    Ok(Duration::from_millis((user + system) * 1000 / clock_ticks_per_second()))
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

/// Fields of `stat` are counted from 1; the name is the second of them.
const CUTIME: usize = 16;

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

    fn looked(waits: &[(u64, u64)], runs: &[(u32, u64)], ended: u64) -> Threads {
        let ns = Duration::from_nanos;
        Threads {
            waits: waits.iter().map(|(thread, wait)| (*thread, ns(*wait))).collect(),
            runs: runs.iter().map(|(pid, run)| (*pid, ns(*run))).collect(),
            ended: ns(ended),
        }
    }

    #[test]
    fn who_came_counts_whole_and_who_went_with_what_was_not_known() {
        let before = looked(&[(1, 10), (2, 5)], &[(1, 100), (2, 50)], 7);
        let after = looked(&[(1, 11), (3, 2)], &[(1, 130), (3, 7)], 7);
        assert_eq!(after.since(&before), usage(37, 3));
        // The second has used 20 more before it ended.
        let after = looked(&[(1, 11)], &[(1, 130)], 7 + 70);
        assert_eq!(after.since(&before), usage(50, 1));
    }

    /// A server that forks for each connection, or has a thread for each, would cost nothing.
    #[test]
    fn threads_and_children_that_have_ended_count() {
        const WORK: Duration = Duration::from_millis(60);
        let own = std::process::id();
        let before = Threads::of_processes(&[own]).unwrap();
        let thread = std::thread::spawn(|| {
            let start = Usage::of_thread().unwrap();
            while (Usage::of_thread().unwrap() - start).run < WORK {}
        });
        thread.join().unwrap();
        let after_thread = Threads::of_processes(&[own]).unwrap();
        assert!(after_thread.since(&before).run >= WORK - Duration::from_millis(10));
        let loops = ["-c", "n=0; while [ $n -lt 100000 ]; do n=$((n+1)); done"];
        let child = std::process::Command::new("sh").args(loops).status().unwrap();
        assert!(child.success());
        let after = Threads::of_processes(&[own]).unwrap();
        assert!(after.ended > after_thread.ended, "{after:?}");
        assert!(
            run_of_ended("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 5 6 7 8 20").unwrap() > Duration::ZERO
        );
        assert!(run_of_ended("").is_err());
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
        assert!(Threads::of_processes(&[own]).unwrap().runs.len() > alone.runs.len());
        let pids = [own, own, child.id()];
        let twice = Threads::of_processes(&pids).unwrap();
        let children = Threads::of_process(child.id()).unwrap().waits;
        let counted =
            |thread: u64| twice.waits.iter().filter(|(found, _)| *found == thread).count();
        assert_eq!((counted(children[0].0), counted(own.into())), (1, 1));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(Threads::of_processes(&[0]).is_err());
    }

    #[test]
    fn the_kernel_says_what_this_thread_uses() {
        let before = Usage::of_thread().unwrap();
        let threads = Threads::of_process(std::process::id()).unwrap();
        assert!(!threads.waits.is_empty());
        assert!(Usage::of_thread().unwrap().run >= before.run);
        assert!(parse("no").is_err());
    }
}
