//! Processes that are measured: pinned, stopped while others are measured, and never left behind.
//!
//! ```text
//! this program - keep - launch, which becomes the server - what the server forks
//! ```
//!
//! [`keep`] stays beside the server and ends it, and all that it has forked, when this program ends
//! or says so; [`launch`] has the kernel end it with its keeper. So none survives, however this
//! process ends, and neither do the directories that were given away with it. If it is the keeper
//! that somebody kills, what was forked comes down to this program, which ends it.

mod keep;
mod log;
mod sweep;
mod tree;

use std::{
    env, io,
    io::Write,
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt, parent_id},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, getpid, set_child_subreaper, set_parent_process_death_signal};

pub(crate) use keep::{KeepArgs, keep};
pub(crate) use sweep::{SweepArgs, remove_at_the_end, sweep};

use crate::{cli::Failure, client, stages};
use log::Log;

/// What is to be started, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: &'a [String],
    pub(crate) cores: &'a [usize],
    /// Directories that are removed if this process is killed: nobody else would.
    pub(crate) dirs: &'a [&'a Path],
    /// Whom it runs as, if not as this process.
    pub(crate) user: Option<&'a User>,
    /// How long it may take to come up.
    pub(crate) patience: Duration,
    /// Whether it is asked to end, by SIGQUIT, before it is killed: it would leave something.
    pub(crate) asked: bool,
}

impl<'a> Setup<'a> {
    /// Returns the setup of a server that is killed when it is not needed any more.
    pub(crate) fn new(program: &'a Path, args: &'a [String], cores: &'a [usize]) -> Self {
        Self { program, args, cores, dirs: &[], user: None, patience: PATIENCE, asked: false }
    }
}

/// Somebody whom a server runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A server that runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    keeper: Child,
    log: Log,
    address: SocketAddr,
    pid: u32,
    /// Those that were stopped last.
    stopped: Mutex<Vec<u32>>,
}

impl Server {
    /// Starts a program on `cores`, and waits until it says where it listens.
    pub(crate) fn start(program: &Path, args: &[String], cores: &[usize]) -> Result<Self, Failure> {
        Self::start_as(&Setup::new(program, args, cores))
    }

    /// Starts a program, and waits until it says where it listens.
    pub(crate) fn start_as(setup: &Setup<'_>) -> Result<Self, Failure> {
        let mut server = Self::spawn(setup)?;
        server.log.wait(Instant::now() + setup.patience, |said| said.address.is_some());
        // In a statement of its own: what is said is locked until its end.
        let address = server.log.said().address;
        server.address = address.ok_or_else(|| server.failed(setup))?;
        Ok(server)
    }

    /// Starts a program that was told to listen at `address`, and waits until it does and
    /// `answers` does not fail any more.
    pub(crate) fn start_at(
        setup: &Setup<'_>,
        address: SocketAddr,
        answers: &dyn Fn(SocketAddr) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let mut server = Self::spawn(setup)?;
        server.address = address;
        let until = Instant::now() + setup.patience;
        loop {
            // Somebody else at this address could answer, too.
            let answered = match tree::listens(&server.pids(), address) {
                true => answers(address),
                false => Err("it does not listen".into()),
            };
            match answered {
                Ok(()) => return Ok(server),
                Err(_) if server.has_ended() => return Err(server.failed(setup).into()),
                Err(why) if Instant::now() > until => {
                    return Err(format!("{}; at last: {why}", server.failed(setup)).into());
                }
                Err(_) => {
                    let soon = Instant::now() + POLL_TIME;
                    server.log.wait(soon, |_| false);
                }
            }
        }
    }

    fn spawn(setup: &Setup<'_>) -> Result<Self, Failure> {
        let Setup { program, args, cores, dirs, user, asked, .. } = setup;
        set_child_subreaper(Some(getpid()))?;
        let cannot = |error| format!("cannot start {}: {error}", program.display());
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let mut command = Command::new(env::current_exe()?);
        command.args(["keep", "--core", &cores.join(",")]);
        for dir in *dirs {
            command.arg("--dir").arg(dir);
        }
        if let Some(User { uid, gid }) = user {
            command.args(["--user", &format!("{uid}:{gid}")]);
        }
        if *asked {
            command.arg("--asked");
        }
        let mut keeper = command
            .arg("--")
            .arg(program)
            .args(*args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is ours to handle: a stopped process would keep it waiting.
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let log = Log::of(&mut keeper);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { keeper, log, address, pid: 0, stopped: Mutex::default() };
        server.log.wait(Instant::now() + setup.patience, |said| said.pid.is_some());
        let pid = server.log.said().pid;
        server.pid = pid.ok_or_else(|| server.failed(setup))?;
        Ok(server)
    }

    /// Says why it did not come up, with its own last words.
    fn failed(&self, setup: &Setup<'_>) -> String {
        let program = setup.program.display();
        let late = if self.has_ended() {
            String::new()
        } else {
            format!(" within {} s", setup.patience.as_secs_f64())
        };
        format!("{program} did not come up{late}: {}", self.last_words())
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what it has charged its time to until now, if it says that.
    pub(crate) fn account(&self) -> io::Result<Option<stages::Charged>> {
        let stages = self.log.said().stages;
        stages.map(stages::ask).transpose()
    }

    /// Returns the same when nothing but waiting is charged any more: what it was doing when it
    /// was stopped took as long as it was stopped.
    pub(crate) fn settled_account(&self) -> io::Result<Option<stages::Charged>> {
        let mut last = self.account()?;
        for _ in 0..SETTLE_MS_MAX {
            let Some(before) = last else { break };
            thread::sleep(Duration::from_millis(1));
            last = self.account()?;
            if last.is_some_and(|now| now.is_idle_since(&before)) {
                break;
            }
        }
        Ok(last)
    }

    /// Returns the number of its process; what it has forked has others.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the numbers of its process and of all that were forked.
    pub(crate) fn pids(&self) -> Vec<u32> {
        tree::below(self.keeper.id())
    }

    /// Returns true if its process has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.log.said().is_over()
    }

    /// Returns what it said last, and how it ended if it has, or does in this moment.
    pub(crate) fn last_words(&self) -> String {
        self.log.wait(Instant::now() + LAST_WORDS_TIME, |_| false);
        self.log.said().text()
    }

    /// Stops it, and what it has forked: they use nothing until [`resume`](Self::resume).
    pub(crate) fn pause(&self) -> io::Result<()> {
        let stopped = tree::stop(self.keeper.id())?;
        // Below a keeper that was killed there is nobody.
        if !stopped.is_empty() {
            *self.stopped.lock().expect("nobody panics with it") = stopped;
        }
        Ok(())
    }

    /// Lets it run.
    pub(crate) fn resume(&self) -> io::Result<()> {
        tree::signal(&self.pids(), Signal::CONT)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it has ended before, so be it.
        if let Some(mut stdin) = self.keeper.stdin.take() {
            let _gone = stdin.write_all(keep::GOODBYE);
        }
        let ended = self.keeper.wait();
        if ended.is_ok_and(|status| status.signal().is_some()) {
            // What it cannot end any more is below this process now, stopped or not.
            let stopped = self.stopped.get_mut().expect("nobody panics with it");
            let ours = tree::below(std::process::id());
            stopped.retain(|pid| ours.contains(pid));
            let _gone = tree::signal(stopped, Signal::KILL);
        }
    }
}

/// The longest that a server may be busy without a request.
const SETTLE_MS_MAX: usize = 1000;

/// Returns the path of `impasto`, built beside this program.
pub(crate) fn impasto() -> Result<PathBuf, Failure> {
    let own = env::current_exe()?;
    let path = own.with_file_name("impasto");
    if path.is_file() {
        return Ok(path);
    }
    let flag = if cfg!(debug_assertions) { "" } else { " --release" };
    Err(format!("there is no {}: build it first: cargo build{flag}", path.display()).into())
}

/// Has Cargo build the server if it has started this program: `cargo run` builds no other than this
/// one, and a server of yesterday would be measured as today's. What it says goes to the terminal.
///
/// # Errors
/// If it cannot be built.
pub(crate) fn build_impasto() -> Result<(), Failure> {
    let Some(cargo) = env::var_os("CARGO") else { return Ok(()) };
    let own = env::current_exe()?;
    // Only where Cargo puts programs: a copy elsewhere has its server beside it.
    if !own.with_file_name(".cargo-lock").exists() {
        return Ok(());
    }
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "impasto", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the server cannot be built: {status}").into()),
        Err(error) => Err(format!("the server cannot be built: {error}").into()),
    }
}

/// Returns true if `impasto serve` takes the option `name`.
pub(crate) fn impasto_takes(name: &str) -> Result<bool, Failure> {
    let output = Command::new(impasto()?).args(["serve", "--help"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().any(|word| word == name))
}

/// Options of the hidden `impasto-bench launch`.
#[derive(Debug, clap::Args)]
pub(crate) struct LaunchArgs {
    #[arg(long, value_delimiter = ',')]
    core: Vec<usize>,
    /// The process to end with
    #[arg(long)]
    parent: u32,
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Becomes another program, pinned, and killed when the parent ends.
pub(crate) fn launch(args: &LaunchArgs) -> Result<ExitCode, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if parent_id() != args.parent {
        return Err("the parent has ended".into());
    }
    client::pin(&args.core)
        .map_err(|error| format!("cannot be pinned to cores {:?}: {error}", args.core))?;
    let (program, rest) = args.command.split_first().ok_or("no command")?;
    let error = Command::new(program).args(rest).exec();
    Err(format!("cannot become {program}: {error}").into())
}

/// Creating a region of 1 GiB on a slow disk takes about 10 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A connection that is lost is seen before the process that is.
const LAST_WORDS_TIME: Duration = Duration::from_millis(200);
/// Between two looks at whether a server answers.
const POLL_TIME: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that is not started by this program's own keeper has nobody who says its number:
    /// the message must come, and not wait for a lock that is held.
    #[test]
    fn a_keeper_that_does_not_keep_is_a_message() {
        // The program of a unit test is none that keeps: it ends at once.
        let failed = Server::start(Path::new("/bin/true"), &[], &[0]).unwrap_err();
        assert!(failed.to_string().contains("/bin/true did not come up: "), "{failed}");
    }
}
