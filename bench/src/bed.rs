//! The test bed: cores, windows, directories, and servers that are started on it.

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::statfs;
use tempfile::TempDir;

use crate::{
    cli::{self, Failure},
    client::{Limit, Plan, Trim, Work},
    process::{Server, Setup, impasto, remove_at_the_end},
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
    ///
    /// # Errors
    /// Also if it would be on a disk: what is written there would be written back at some time.
    pub(crate) fn memory(&self) -> Result<TempDir, Failure> {
        let made = temporary(&self.memory_dir)?;
        if !is_in_memory(made.path())? {
            let dir = self.memory_dir.display();
            return Err(format!("{dir} is not in memory: choose a --memory-dir on tmpfs").into());
        }
        Ok(made)
    }

    /// Makes a directory on the disk that is measured.
    ///
    /// # Errors
    /// Also if it would be in memory: who syncs a file there waits for nothing, and not all
    /// servers would notice.
    pub(crate) fn disk(&self) -> Result<TempDir, Failure> {
        let dir = self.disk_dir.clone().map_or_else(beside, Ok)?;
        let made = temporary(&dir)?;
        if is_in_memory(made.path())? {
            let dir = dir.display();
            return Err(format!("{dir} is in memory: choose a --disk-dir on a disk").into());
        }
        Ok(made)
    }

    /// Returns where regions on disk and in memory are made, as they were asked for.
    pub(crate) fn places(&self) -> [Option<&Path>; 2] {
        [self.disk_dir.as_deref(), Some(&self.memory_dir)]
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
    let made = named.map_err(|error| format!("cannot use {}: {error}", within.display()))?;
    // It stays if nobody can be asked to: only after SIGKILL.
    let _alone = remove_at_the_end(made.path());
    Ok(made)
}

fn is_in_memory(dir: &Path) -> Result<bool, Failure> {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    // The type's width differs from machine to machine; the numbers are of 32 bits (statfs(2)).
    let kind = u32::try_from(statfs(dir)?.f_type & 0xffff_ffff)?;
    Ok([TMPFS, RAMFS].contains(&kind))
}

const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn bed(args: &[&str]) -> Bed {
        let command = Bed::augment_args(clap::Command::new("bed").no_binary_name(true));
        Bed::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    /// A peer that syncs to memory says that it is durable, and is faster than every disk.
    #[test]
    fn a_disk_is_no_memory_and_memory_no_disk() {
        let own = beside().unwrap();
        let own = own.to_str().unwrap();
        let good = bed(&["--disk-dir", own, "--memory-dir", "/dev/shm"]);
        let made = [good.disk().unwrap(), good.memory().unwrap()].map(|dir| dir.path().to_owned());
        assert!(made.iter().all(|dir| !dir.exists()), "they go with their names");
        let bad = bed(&["--disk-dir", "/dev/shm", "--memory-dir", own]);
        let refused = bad.disk().unwrap_err().to_string();
        assert_eq!(refused, "/dev/shm is in memory: choose a --disk-dir on a disk");
        let refused = bad.memory().unwrap_err().to_string();
        assert_eq!(refused, format!("{own} is not in memory: choose a --memory-dir on tmpfs"));
    }
}
