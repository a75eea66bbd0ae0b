//! Threads that read and write files: the kernel tells of sockets when they are ready, of files it
//! does not.
//!
//! **What a killed process leaves behind** (D6): the lock of a region lasts until its descriptors
//! are closed, and the kernel closes those of a process when the last of its threads is gone. One
//! that is in the middle of a direct write is not interruptible: it ends the write, and goes. So
//! who gets the lock finds no write under way, as with `Uring::hold`. What has been written to the
//! page cache instead, every reader sees. (A file system that lets a killed thread go before its
//! write has ended, as NFS does, is not covered.) In a process that lives on, the threads keep a
//! descriptor of the lock with them: [`Pool::hold`].

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use impasto_region::{Map, Span, SpanLoan};
use impasto_uring::{Fd, Op};
use rustix::io::{Errno, fcntl_dupfd_cloexec, pread, retry_on_intr};

use crate::{kernel, waker::Bell};

/// The threads of one `Epoll`, started when there is work for them.
///
/// Dropped, it waits until nothing is under way, for a while: what takes longer goes on, and keeps
/// what it uses.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

/// Something that a thread does.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) op: Op,
    pub(crate) file: Fd,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Write { map: Arc<Map>, span: Span, dsync: bool },
    Read(SpanLoan),
    Sync,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) op: Op,
    pub(crate) result: io::Result<u32>,
    pub(crate) loan: Option<SpanLoan>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or none will come.
    has_work: Condvar,
    /// It is closed and nothing is under way.
    is_over: Condvar,
    bell: Arc<Bell>,
    /// `RWF_DSYNC` is unknown here.
    lacks_dsync: AtomicBool,
    /// Open as long as there are threads.
    held: OnceLock<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    /// Durable writes: somebody waits for each of them.
    commits: VecDeque<Job>,
    others: VecDeque<Job>,
    ended: Vec<Ended>,
    /// Threads that wait for work, and that do some.
    idle: usize,
    busy: usize,
    is_closed: bool,
}

/// Enough for three commits, and for bodies beside them; more would not make a disk faster.
const THREADS_MAX: usize = 8;
/// How long a drop waits for what is under way.
const DROP_WAIT: Duration = Duration::from_secs(5);

impl Pool {
    /// Returns one without threads, which rings `bell` when a job has ended.
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            has_work: Condvar::new(),
            is_over: Condvar::new(),
            bell,
            lacks_dsync: AtomicBool::new(false),
            held: OnceLock::new(),
        };
        Self { shared: Arc::new(shared), threads: 0 }
    }

    /// Keeps the file behind `fd` open as long as there are threads. Once.
    pub(crate) fn hold(&self, fd: impl AsFd) -> io::Result<()> {
        let fd = fcntl_dupfd_cloexec(fd, 0)?;
        self.shared.held.set(fd).map_err(|_second| io::ErrorKind::AlreadyExists.into())
    }

    /// Hands `jobs` to the threads. Those that find none come back, with why.
    pub(crate) fn start(&mut self, jobs: &mut Vec<Job>) -> Vec<Ended> {
        let new = jobs.len();
        let mut state = self.shared.lock();
        for job in jobs.drain(..) {
            match job.what {
                What::Write { dsync: true, .. } => state.commits.push_back(job),
                _ => state.others.push_back(job),
            }
        }
        let waiting = state.commits.len() + state.others.len();
        let wanted = waiting.saturating_sub(state.idle).min(THREADS_MAX - self.threads);
        drop(state);
        (0..new).for_each(|_job| self.shared.has_work.notify_one());
        for _thread in 0..wanted {
            if let Err(error) = self.spawn() {
                // Fewer do as well, if there are any.
                return if self.threads == 0 { self.refuse(&error) } else { Vec::new() };
            }
        }
        Vec::new()
    }

    /// Moves what became of jobs to `ended`.
    pub(crate) fn take_ended(&self, ended: &mut Vec<Ended>) {
        ended.append(&mut self.shared.lock().ended);
    }

    fn spawn(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("disk".into()).spawn(move || {
            let _guard = AbortIfPanicking;
            shared.work();
        })?;
        self.threads += 1;
        Ok(())
    }

    fn refuse(&self, error: &io::Error) -> Vec<Ended> {
        let mut state = self.shared.lock();
        let State { commits, others, .. } = &mut *state;
        let refused = commits.drain(..).chain(others.drain(..)).map(|job| {
            let error = io::Error::new(error.kind(), error.to_string());
            let loan = if let What::Read(loan) = job.what { Some(loan) } else { None };
            Ended { op: job.op, result: Err(error), loan }
        });
        refused.collect()
    }
}

/// A thread that panics has found a broken invariant. What it was about would be waited for, for
/// ever.
struct AbortIfPanicking;

impl Drop for AbortIfPanicking {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let State { commits, others, ended, .. } = &mut *state;
        // What nobody has begun is not done; what has ended nobody wants to know.
        commits.clear();
        others.clear();
        ended.clear();
        self.shared.has_work.notify_all();
        let waited =
            self.shared.is_over.wait_timeout_while(state, DROP_WAIT, |state| state.busy > 0);
        drop(waited);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            let Some(job) = state.commits.pop_front().or_else(|| state.others.pop_front()) else {
                state.idle += 1;
                state = self.has_work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            state.busy += 1;
            drop(state);
            let ended = self.run(job);
            state = self.lock();
            state.busy -= 1;
            if state.is_closed {
                // Its memory first, since now nobody waits for us.
                drop(ended);
                self.is_over.notify_all();
                return;
            }
            state.ended.push(ended);
            drop(state);
            self.bell.ring();
            state = self.lock();
        }
    }

    fn run(&self, job: Job) -> Ended {
        let Job { op, file, what } = job;
        let (result, loan) = match what {
            What::Write { map, span, dsync } => (self.write(&file, &map, span, dsync), None),
            What::Read(mut loan) => (read(&file, &mut loan), Some(loan)),
            What::Sync => (sync(&file), None),
        };
        Ended { op, result, loan }
    }

    /// A short write is told as it is: whoever has started it knows what was wanted.
    fn write(&self, file: &Fd, map: &Map, span: Span, dsync: bool) -> io::Result<u32> {
        // Relaxed: whoever does not know it yet finds out himself.
        if dsync && !self.lacks_dsync.load(Ordering::Relaxed) {
            match kernel::write(file, map, span, true) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.lacks_dsync.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        let written = kernel::write(file, map, span, false)?;
        // M3: it covers what has completed before, and so this write.
        if dsync { sync(file).map(|_zero| written) } else { Ok(written) }
    }
}

fn read(file: &Fd, loan: &mut SpanLoan) -> io::Result<u32> {
    let at = loan.span().at;
    let read = retry_on_intr(|| pread(file, loan.bytes_mut(), at))?;
    Ok(u32::try_from(read).expect("an operation has less than 4 GiB"))
}

fn sync(file: &Fd) -> io::Result<u32> {
    let synced: Result<(), Errno> = retry_on_intr(|| rustix::fs::fdatasync(file));
    Ok(synced.map(|()| 0)?)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt, time::Instant};

    use impasto_region::{Frames, layout::Geometry};

    use super::*;

    fn run(pool: &mut Pool, file: &Fd, frames: &Frames, span: Span) -> io::Result<u32> {
        let op = impasto_uring::Operations::default().begin(());
        let what = What::Write { map: frames.map(), span, dsync: true };
        let mut jobs = vec![Job { op, file: file.clone(), what }];
        assert!(pool.start(&mut jobs).is_empty());
        let (start, mut ended) = (Instant::now(), Vec::new());
        while ended.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "nothing more happens");
            thread::yield_now();
            pool.take_ended(&mut ended);
        }
        ended.remove(0).result
    }

    /// Without the fallback, no commit would ever succeed where `RWF_DSYNC` is unknown; without the
    /// memory, each would be two calls.
    #[test]
    fn where_dsync_is_unknown_a_write_is_followed_by_a_sync() {
        let mut frames = Frames::anonymous(Geometry::new(16 << 20).unwrap(), 0).unwrap();
        let mut pool = Pool::new(Arc::new(Bell::new().unwrap()));
        // A file of the kernel's own, which knows no flags and cannot be synced.
        let own = File::options().write(true).open("/proc/self/oom_score_adj").unwrap();
        let before = std::fs::read("/proc/self/oom_score_adj").unwrap();
        frames.store(0, &before);
        let span = Span::new(0, before.len() as u64);
        let error = run(&mut pool, &own.into(), &frames, span).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::INVAL), "of the sync");
        assert!(pool.shared.lacks_dsync.load(Ordering::Relaxed));

        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        frames.store(8192, b"the commit");
        let fd = Fd::from(file.try_clone().unwrap());
        assert_eq!(run(&mut pool, &fd, &frames, Span::new(8192, 10)).unwrap(), 10);
        let mut bytes = [0; 10];
        file.read_exact_at(&mut bytes, 8192).unwrap();
        assert_eq!(&bytes, b"the commit");
    }
}
