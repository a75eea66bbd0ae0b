//! The workers of a region: one on this thread, which listens, the others on threads of their own.

use std::{
    io,
    os::unix::net::UnixStream,
    process,
    sync::{Arc, atomic::AtomicBool, mpsc},
    thread,
    time::{Duration, Instant},
};

use impasto::{
    media::Medium,
    region::Region,
    ring::{Gate, Limits, Listener, SocketPort, Sockets},
    server::{Enter, Parts, Shared, Worker},
    uring::Fd,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};

use super::io::Io;
use crate::cli::{Failure, say, with_causes};

/// A recovered region and how it is served.
pub(super) struct Served<'a, I: Io, M> {
    pub(super) shared: Shared<M, <I as Enter>::Waker>,
    pub(super) region: &'a Region,
    pub(super) workers: u32,
    pub(super) busy_poll: bool,
    /// How long a client may take nothing of a reply.
    pub(super) stall_max: Duration,
    pub(super) flows_max: usize,
}

/// How connections find their workers.
type GateOf<I> = Arc<Gate<<I as Sockets>::Waker>>;

impl<I: Io, M: Medium<I> + Send> Served<'_, I, M> {
    /// Serves until `stop` is asked for; calls `ready` when all workers are there.
    pub(super) fn run(
        &self,
        io: I,
        listeners: Vec<Listener>,
        stop: &Stop,
        ready: impl FnOnce(),
    ) -> Result<(), Failure> {
        let gate = Arc::new(Gate::new(self.flows_max));
        // The first one to join is the one that writes down a clean stop.
        let mut first = self.worker(io, listeners, &gate)?;
        thread::scope(|scope| {
            let (joined, joins) = mpsc::channel();
            for number in 1..self.workers {
                let (joined, gate) = (joined.clone(), &gate);
                let thread = thread::Builder::new().name(format!("worker {number}"));
                let spawned = thread.spawn_scoped(scope, move || {
                    let _guard = AbortIfPanicking;
                    let worker = self.join(gate);
                    let (worker, result) = match worker {
                        Ok(worker) => (Some(worker), Ok(())),
                        Err(failure) => (None, Err(failure)),
                    };
                    if joined.send(result).is_ok()
                        && let Some(mut worker) = worker
                        && let Err(error) = worker.run(&stop.asked)
                    {
                        end(&error.into());
                    }
                });
                if let Err(error) = spawned {
                    // Those that run would be waited for, and nobody stops them.
                    end(&format!("cannot start worker {number}: {error}").into());
                }
            }
            for _ in 1..self.workers {
                if let Err(failure) = joins.recv()? {
                    end(&failure);
                }
            }
            ready();
            let _guard = AbortIfPanicking;
            first.io().watch(&stop.wake);
            if let Err(error) = first.run(&stop.asked) {
                end(&error.into());
            }
            Ok(())
        })
    }

    /// Makes a worker that waits for itself.
    fn join(&self, gate: &GateOf<I>) -> Result<Worker<I, SocketPort<I>, M>, Failure> {
        let mut io = I::open()?;
        io.hold(self.region.lock())?;
        self.worker(io, Vec::new(), gate)
    }

    fn worker(
        &self,
        mut io: I,
        listeners: Vec<Listener>,
        gate: &GateOf<I>,
    ) -> Result<Worker<I, SocketPort<I>, M>, Failure> {
        let shared = self.shared.clone();
        let limits = Limits { stall_max: self.stall_max, ..Limits::default() };
        let port = shared.with_frames(|frames| {
            SocketPort::with_gate(&mut io, frames, listeners, limits, gate)
        })?;
        let (clock, busy_poll) = (Box::new(Instant::now), self.busy_poll);
        Ok(Worker::new(Parts { io, port, shared, clock, busy_poll })?)
    }
}

/// Ends the process because a worker cannot go on: the others cannot, either, since what it has
/// started they would wait for. What was acknowledged is there at the next start.
fn end(failure: &Failure) -> ! {
    say(&format!("impasto: {}", with_causes(failure.as_ref())));
    process::exit(1)
}

/// A worker that panics has found a broken invariant: nobody goes on.
struct AbortIfPanicking;

impl Drop for AbortIfPanicking {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

/// A clean stop, asked for by SIGINT or SIGTERM. The second signal ends the process at once.
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
    /// Can be read once a signal has come: one between a look at `asked` and the wait is not lost.
    wake: Fd,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (wake, signalled) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal does not see the flag that it sets itself.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
            pipe::register(signal, signalled.try_clone()?)?;
        }
        let wake = Fd::from(std::os::fd::OwnedFd::from(wake));
        Ok(Self { asked, wake })
    }
}
