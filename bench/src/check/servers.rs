//! What is loaded: Impasto put together from its parts for wrk, Redis that keeps nothing for those
//! who speak RESP. Neither outlives this process.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::tools::Tool;
use crate::{cli::Failure, process::Server};

/// A server that runs, until this is dropped.
#[derive(Debug)]
pub(super) enum Loaded {
    Impasto(Server),
    Redis { child: Child, address: SocketAddr },
}

impl Loaded {
    /// Starts the server that a tool can load.
    pub(super) fn start(tool: Tool, core: usize) -> Result<Self, Failure> {
        if tool == Tool::Wrk { Self::impasto(core) } else { Self::redis(core) }
    }

    fn impasto(core: usize) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("impasto-bench-").tempdir_in("/dev/shm")?;
        let data = dir.path().join("region").to_string_lossy().into_owned();
        let args = ["serve", "--size", REGION, "--data", &data].map(str::to_owned);
        let server = Server::start(&env::current_exe()?, &args, &[core])?;
        // It has the region open: whatever ends us now leaves no file.
        dir.close()?;
        Ok(Self::Impasto(server))
    }

    fn redis(core: usize) -> Result<Self, Failure> {
        // Free now; if somebody else takes it before Redis does, Redis says so and ends.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut child = Command::new(env::current_exe()?)
            .args(["launch", "--core", &core.to_string()])
            .args(["--parent", &std::process::id().to_string(), "--", "redis-server"])
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let until = Instant::now() + START_TIME;
        while TcpStream::connect(address).is_err() {
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let _gone = child.kill();
                let _gone = child.wait();
                return Err("redis-server did not come up".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self::Redis { child, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Impasto(server) => server.address(),
            Self::Redis { address, .. } => *address,
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Self::Redis { child, .. } = self {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// A window's appends fit.
const REGION: &str = "1GiB";
const START_TIME: Duration = Duration::from_secs(10);
