//! The test bed: cores, windows, directories, and servers that are started on it.

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use crate::{
    cli::{self, Failure},
    client::{Limit, Plan, Trim, Work},
    process::{Server, Setup, impasto},
    protocol::Request,
};

/// Options of all commands that compare servers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Bed {
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    pub(crate) server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1)]
    pub(crate) client_core: usize,
    /// Length of a window in seconds
    #[arg(long, default_value = "0.2", value_parser = cli::seconds)]
    pub(crate) window: Duration,
    /// Load before each window, in seconds
    #[arg(long, default_value = "0.05", value_parser = cli::seconds)]
    pub(crate) warm_up: Duration,
    /// Size of regions
    #[arg(long, default_value = "256MiB", value_parser = cli::size)]
    pub(crate) region: u64,
    /// Where regions on disk are made [default: beside this program]
    #[arg(long)]
    disk_dir: Option<PathBuf>,
    /// Where regions in memory are made
    #[arg(long, default_value = "/dev/shm")]
    memory_dir: PathBuf,
    /// Order of the windows [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

impl Bed {
    /// Returns the seed that was given, or the time.
    pub(crate) fn seed(&self) -> u64 {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.seed.unwrap_or_else(clock)
    }

    /// Makes a directory in memory, which goes with its name.
    pub(crate) fn memory(&self) -> Result<TempDir, Failure> {
        temporary(&self.memory_dir)
    }

    /// Makes a directory on the disk that is measured.
    pub(crate) fn disk(&self) -> Result<TempDir, Failure> {
        match &self.disk_dir {
            Some(dir) => temporary(dir),
            None => temporary(&beside()?),
        }
    }

    /// Starts `impasto serve`, and stops it until it is measured.
    pub(crate) fn impasto(
        &self,
        dir: &TempDir,
        medium: &str,
        region: u64,
        more: &[&str],
        cores: &[usize],
    ) -> Result<Server, Failure> {
        let data = dir.path().join("region").to_string_lossy().into_owned();
        let region = region.to_string();
        let mut args = vec!["serve", "--http", "127.0.0.1:0", "--medium", medium];
        args.extend(["--data", &data, "--size", &region]);
        args.extend(more);
        paused(&impasto()?, &args, cores, dir)
    }

    /// Starts this program as a server, with its region in `dir`.
    pub(crate) fn own(
        &self,
        command: &[&str],
        dir: &TempDir,
        more: &[&str],
    ) -> Result<Server, Failure> {
        let data = dir.path().join("region").to_string_lossy().into_owned();
        let region = self.region.to_string();
        let mut args = command.to_vec();
        args.extend(["--data", &data, "--size", &region]);
        args.extend(more);
        paused(&env::current_exe()?, &args, &[self.server_core], dir)
    }

    /// Returns the plan of a window: a closed loop from the client's core.
    pub(crate) fn plan(
        &self,
        server: &Server,
        connections: usize,
        request: Request,
        trim: Option<Trim>,
    ) -> Plan {
        Plan { trim, ..self.load(server, connections, Work::Same(request)) }
    }

    /// Returns the plan of a window with any work.
    pub(crate) fn load(&self, server: &Server, connections: usize, work: Work) -> Plan {
        Plan {
            connections,
            limit: Limit::Time(self.window),
            warm_up: self.warm_up,
            patience: PATIENCE,
            cores: vec![self.client_core],
            pids: vec![server.pid()],
            ..Plan::new(server.address(), work)
        }
    }
}

fn paused(
    program: &Path,
    args: &[&str],
    cores: &[usize],
    dir: &TempDir,
) -> Result<Server, Failure> {
    let args: Vec<String> = args.iter().copied().map(str::to_owned).collect();
    let server =
        Server::start_as(&Setup { dirs: &[dir.path()], ..Setup::new(program, &args, cores) })?;
    server.pause()?;
    Ok(server)
}

/// Returns the directory of this program.
pub(crate) fn beside() -> Result<PathBuf, Failure> {
    Ok(env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default())
}

fn temporary(within: &Path) -> Result<TempDir, Failure> {
    let named = tempfile::Builder::new().prefix("impasto-bench-").tempdir_in(within);
    named.map_err(|error| format!("cannot use {}: {error}", within.display()).into())
}

const PATIENCE: Duration = Duration::from_secs(10);
