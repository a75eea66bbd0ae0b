//! Processes that are measured: pinned, stopped while others are measured, and never left behind.
//!
//! A server is started through `impasto-bench launch`, which pins itself, asks the kernel to be
//! killed with its parent, and becomes the server; so none survives, however this process ends.

use std::{
    env, io,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::process::{CommandExt, parent_id},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{cli::Failure, client};

/// A server that runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a program on `cores`, and waits until it says where it listens.
    pub(crate) fn start(program: &Path, args: &[String], cores: &[usize]) -> Result<Self, Failure> {
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let mut child = Command::new(env::current_exe()?)
            .args(["launch", "--core", &cores.join(",")])
            .args(["--parent", &std::process::id().to_string(), "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is ours to handle: a stopped process would keep it waiting.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let said = listen_to(&mut child);
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        server.address = server.wait_for_address(&said).map_err(|text| {
            format!("{} did not come up: {}", program.display(), text.trim_end())
        })?;
        Ok(server)
    }

    fn wait_for_address(&self, said: &mpsc::Receiver<String>) -> Result<SocketAddr, String> {
        let until = Instant::now() + START_TIME;
        let mut text = String::new();
        loop {
            match said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let address = line.strip_prefix("listening").and_then(|_| {
                        line.split_once("http://").and_then(|(_, address)| address.parse().ok())
                    });
                    if let Some(address) = address {
                        return Ok(address);
                    }
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => return Err(text),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{text}not listening after {} s", START_TIME.as_secs()));
                }
            }
        }
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it: it uses nothing until [`resume`](Self::resume).
    pub(crate) fn pause(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Lets it run.
    pub(crate) fn resume(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Returns the lines of both outputs as they come, and keeps the pipes empty.
fn listen_to(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, said) = mpsc::channel();
    let outputs = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    for output in outputs.into_iter().flatten() {
        let sender: Sender<String> = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Once it is up, nobody listens any more.
                let _unheard = sender.send(line);
            }
        });
    }
    said
}

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
const START_TIME: Duration = Duration::from_secs(60);
