//! `impasto-bench keep`: stays beside a server, and sees to it that nothing of it is left.
//!
//! Its input is a pipe whose other end the program that measures has, and nobody else: when that
//! ends, in whatever way, the pipe does. Whatever the server has forked, in whatever session it is,
//! comes down to the keeper when its parent ends, since the keeper is a subreaper.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, set_child_subreaper, wait,
    },
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use super::tree;
use crate::cli::Failure;

/// Options of the hidden `impasto-bench keep`.
#[derive(Debug, clap::Args)]
pub(crate) struct KeepArgs {
    #[arg(long)]
    core: String,
    /// Removed if the program that measures ends without a word; may be said more than once
    #[arg(long)]
    dir: Vec<PathBuf>,
    /// Whom the server runs as, `UID:GID`
    #[arg(long, value_parser = user)]
    user: Option<(u32, u32)>,
    /// Ask the server to end, by SIGQUIT, before it is killed
    #[arg(long)]
    asked: bool,
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

fn user(text: &str) -> Result<(u32, u32), String> {
    let both = text.split_once(':').and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
    both.ok_or_else(|| "write it like 0:0".into())
}

/// Starts a server, and ends it with all that it has forked when the input ends.
pub(crate) fn keep(args: &KeepArgs) -> Result<ExitCode, Failure> {
    if !tree::is_told() {
        return Err("this kernel does not tell who the children of a process are".into());
    }
    // Who sends these to everybody sends them to the program that measures, too.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    set_child_subreaper(Some(getpid()))?;
    let mut server = spawn(args)?;
    say(&mut io::stdout(), STARTED, &server.id());
    let is_told = is_told_before_it_ends(&server)?;
    let ended = if is_told { None } else { Some(server.wait()?) };
    if is_told && args.asked {
        ask_to_end(&mut server)?;
    }
    end_all()?;
    if let Some(status) = ended {
        // Behind all that it has said, on both outputs.
        say(&mut io::stdout(), ENDED, &status);
        say(&mut io::stderr(), ENDED, &status);
    }
    let mut word = Vec::new();
    io::stdin().read_to_end(&mut word)?;
    if word.is_empty() {
        // Two keepers may remove the same one.
        args.dir.iter().for_each(|dir| drop(fs::remove_dir_all(dir)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says a line in a single write, between what the server says, which may be half a line.
fn say(output: &mut dyn Write, name: &str, what: &dyn fmt::Display) {
    // If nobody hears it, there is nobody.
    let _unheard = output.write_all(format!("\n{name}{what}\n").as_bytes());
}

fn spawn(args: &KeepArgs) -> io::Result<Child> {
    // By this name the program is found also by a user who may not go where it stands.
    let mut command = Command::new("/proc/self/exe");
    command.args(["launch", "--core", &args.core, "--parent", &std::process::id().to_string()]);
    command.arg("--").args(&args.command).stdin(Stdio::null());
    if let Some((uid, gid)) = args.user {
        command.uid(uid).gid(gid);
    }
    command.spawn()
}

/// Waits until the server has ended, or the input has something to say: then returns true.
fn is_told_before_it_ends(server: &Child) -> Result<bool, Failure> {
    let stdin = io::stdin();
    let pidfd = pidfd_open(Pid::from_child(server), PidfdFlags::empty())?;
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => return Ok(!fds[0].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks a server to end, and waits for it, but not for long.
fn ask_to_end(server: &mut Child) -> Result<(), Failure> {
    tree::signal(&[server.id()], Signal::QUIT)?;
    // Who is stopped hears nothing.
    tree::signal(&tree::below(std::process::id()), Signal::CONT)?;
    let until = Instant::now() + END_TIME;
    while server.try_wait()?.is_none() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Kills everything below this process until nothing is.
fn end_all() -> Result<(), Failure> {
    loop {
        tree::signal(&tree::below(std::process::id()), Signal::KILL)?;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        // A child that ends may have hidden another one: they are looked for once more.
        thread::sleep(Duration::from_millis(1));
    }
}

/// How long a server may take to end by itself.
const END_TIME: Duration = Duration::from_secs(3);
/// What the keeper is told when its server is not needed any more.
pub(super) const GOODBYE: &[u8] = b".";
/// What the keeper says before the number of the server's process.
pub(super) const STARTED: &str = "started  ";
/// What the keeper says, on both outputs, before how the server ended by itself.
pub(super) const ENDED: &str = "ended  ";
