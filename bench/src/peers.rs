//! Servers of others: how each is found, started, checked, and written to.
//!
//! A peer is measured only if it says itself that it is set as was meant: a comparison with a
//! server that does not sync its log, or with one that somebody else has started, is worth nothing.

mod beanstalkd;
mod command;
mod etcd;
mod memcached;
mod postgres;
mod redis;
mod report;
mod talk;
mod valkey;

use std::{
    env, fmt, fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::getuid;
use tempfile::TempDir;

pub(crate) use command::{Args, run};

use crate::{
    cli::Failure,
    client::{Dialect, Keyed, Order, Work},
    process::{Server, Setup, User},
    protocol::Values,
};

/// All that are known.
pub(crate) const ALL: [Peer; 6] =
    [redis::PEER, valkey::PEER, postgres::PEER, etcd::PEER, beanstalkd::PEER, memcached::PEER];

/// A server of somebody else's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The line that installs it.
    pub(crate) install: &'static str,
    /// Looks for it on this machine.
    pub(crate) find: fn() -> Option<Found>,
    /// What it can be made to promise.
    pub(crate) keeps: &'static [Keeps],
    /// Whether it runs as root.
    as_root: bool,
    /// Whether it has to be asked to end: it would leave something if it were killed.
    asked: bool,
    /// Whether it is of many threads or processes: on the one core they wait for each other, which
    /// says nothing of the machine, so that no window can be left out because of waiting.
    crowded: bool,
    /// How many ports it takes; clients use the first.
    ports: usize,
    command: fn(&Place) -> Vec<String>,
    /// Fails until it answers.
    answers: fn(SocketAddr) -> Result<(), Failure>,
    /// Asks the server, of the process with this number, whether it is set as was meant, and
    /// returns the settings in words.
    verify: fn(&Place, SocketAddr, u32) -> Result<String, Failure>,
    /// How it is written to.
    dialect: fn() -> Dialect,
}

/// What a reply promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// What was written outlives a loss of power.
    Durable,
    /// Nothing.
    Nothing,
}

/// A peer that is installed.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    program: PathBuf,
    pub(crate) version: String,
}

impl Found {
    /// Looks for a program in PATH.
    fn in_path(name: &str, ask_version: &[&str]) -> Option<Self> {
        let path = env::var_os("PATH")?;
        let mut programs = env::split_paths(&path).map(|dir| dir.join(name));
        let program = programs.find(|program| {
            program.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
        })?;
        Self::at(program, ask_version)
    }

    /// Takes a program, and asks it for its version.
    fn at(program: PathBuf, ask_version: &[&str]) -> Option<Self> {
        let output = Command::new(&program).args(ask_version).output().ok();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = said.and_then(|said| version(&said)).unwrap_or_else(|| "unknown".into());
        Some(Self { program, version })
    }
}

/// Finds the first `1.2` or `v=1.2.3` in what a program says of itself.
fn version(said: &str) -> Option<String> {
    let mut words = said.split(|c: char| c.is_whitespace() || c == '=');
    let is_version =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    words.find(is_version).map(str::to_owned)
}

/// Where a peer is to run, and for whom.
#[derive(Debug)]
pub(crate) struct Place {
    found: Found,
    keeps: Keeps,
    dir: TempDir,
    ports: Vec<u16>,
    /// The most connections that will be open.
    connections: usize,
    /// Length of a value.
    size: u64,
}

impl Place {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn dir(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }

    fn with_program(&self, args: &[&str]) -> Vec<String> {
        let program = self.found.program.to_string_lossy();
        [&*program].iter().chain(args).map(|word| (*word).to_owned()).collect()
    }
}

/// A peer that runs and is set as was meant, until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) server: Server,
    /// Its settings, as it has said them.
    pub(crate) setting: String,
    // Dropped behind the server.
    place: Place,
}

/// What all peers of a run share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) cores: &'a [usize],
    /// The most connections that will be open.
    pub(crate) connections: usize,
    /// Length of a value.
    pub(crate) size: u64,
    /// How long one may take to come up.
    pub(crate) patience: Duration,
}

impl Running {
    /// Starts a peer in a directory of its own, `dir`, asks for its settings, and stops it until it
    /// is measured.
    pub(crate) fn start(
        peer: Peer,
        found: Found,
        keeps: Keeps,
        dir: TempDir,
        start: &Start<'_>,
    ) -> Result<Self, Failure> {
        let user = if peer.as_root || !getuid().is_root() { None } else { Some(somebody()?) };
        if let Some(user) = &user {
            may_enter(user, dir.path())?;
            chown(dir.path(), Some(user.uid), Some(user.gid))?;
        }
        let &Start { connections, size, .. } = start;
        let mut place = Place { found, keeps, dir, ports: Vec::new(), connections, size };
        let server = place.start(&peer, user.as_ref(), start)?;
        let setting = (peer.verify)(&place, server.address(), server.pid())
            .map_err(|why| format!("not set as was meant: {why}"))?;
        server.pause()?;
        Ok(Self { peer, server, setting, place })
    }

    /// Stops it, and fails if something of it is left.
    fn stop(self) -> Result<(), Failure> {
        let (pids, path) = (self.server.pids(), self.place.path().to_owned());
        drop(self);
        if path.exists() {
            return Err(format!("{} is left", path.display()).into());
        }
        match pids.iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            Some(pid) => Err(format!("process {pid} is left").into()),
            None => Ok(()),
        }
    }

    /// Says how it ended, if it has, while it was measured.
    fn obituary(&self) -> Option<String> {
        let name = self.peer.name;
        let words = || self.server.last_words();
        self.server.has_ended().then(|| format!("{name}: ended while it was measured: {}", words()))
    }

    /// Returns writes of keys of which each is as likely.
    fn writes(&self, size: usize) -> Work {
        Work::Keyed(Keyed {
            dialect: (self.peer.dialect)(),
            values: Values::new(size),
            keys: KEYS,
            reads: 0.0,
            order: Order::Uniform,
            seed: 1,
        })
    }

    /// Returns its name and version.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.peer.name, self.place.found.version)
    }
}

impl Place {
    fn start(
        &mut self,
        peer: &Peer,
        user: Option<&User>,
        start: &Start<'_>,
    ) -> Result<Server, Failure> {
        for _ in 0..PORT_ATTEMPTS {
            self.ports = free_ports(peer.ports)?;
            let command = (peer.command)(self);
            let (program, args) = command.split_first().expect("a command has a program");
            let dirs = [self.path()];
            let program = Path::new(program);
            let &Start { cores, patience, .. } = start;
            let setup =
                Setup { program, args, cores, dirs: &dirs, user, patience, asked: peer.asked };
            let address = SocketAddr::from(([127, 0, 0, 1], self.ports[0]));
            match Server::start_at(&setup, address, &peer.answers) {
                // Between our look and its own somebody else has taken a port.
                Err(_) if self.ports.iter().any(|port| is_taken(*port)) => self.empty()?,
                done => return done,
            }
        }
        Err(format!("its port was taken by others, {PORT_ATTEMPTS} times").into())
    }

    /// Removes what a start that failed has left.
    fn empty(&self) -> Result<(), Failure> {
        for entry in fs::read_dir(self.path())? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }
}

/// Returns ports that nobody has, for a moment.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let bind = |_| TcpListener::bind(("127.0.0.1", 0));
    // All are held until all are known: they differ.
    let held = (0..count).map(bind).collect::<Result<Vec<_>, _>>();
    let held = held.map_err(|error| format!("no port is free: {error}"))?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn is_taken(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_err()
}

/// Returns whom a server runs as that refuses to run as root.
fn somebody() -> Result<User, Failure> {
    let users = fs::read_to_string("/etc/passwd")?;
    let found = ["postgres", "nobody"].iter().find_map(|name| user(&users, name));
    found.ok_or_else(|| "it does not run as root, and there is no user postgres or nobody".into())
}

/// Finds a user in the text of /etc/passwd.
fn user(users: &str, name: &str) -> Option<User> {
    let mut rows = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let row = rows.find(|row| row.len() > 3 && row[0] == name)?;
    Some(User { uid: row[2].parse().ok()?, gid: row[3].parse().ok()? })
}

/// Fails if `user` may not go to where a directory is.
fn may_enter(user: &User, dir: &Path) -> Result<(), Failure> {
    for above in dir.ancestors().skip(1) {
        let found = above.metadata()?;
        let by_owner = found.uid() == user.uid && found.mode() & 0o100 != 0;
        let by_group = found.gid() == user.gid && found.mode() & 0o010 != 0;
        if !by_owner && !by_group && found.mode() & 0o001 == 0 {
            let above = above.display();
            return Err(format!(
                "it does not run as root, and its user may not enter {above}: choose another place \
                 with --disk-dir"
            )
            .into());
        }
    }
    Ok(())
}

/// Returns the command line of a process.
fn command_line(pid: u32) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    Ok(text.split('\0').map(str::to_owned).collect())
}

/// Fails if a setting is another one than was wanted.
fn expect(name: &str, wanted: &str, found: &str) -> Result<(), Failure> {
    if wanted == found {
        return Ok(());
    }
    Err(format!("{name} should be `{wanted}` and is `{found}`").into())
}

/// Looks at all settings, and returns them in words.
fn expect_all(
    wanted: &[(&str, &str)],
    mut look: impl FnMut(&str) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let mut words = Vec::new();
    for (name, value) in wanted {
        expect(name, value, &look(name)?)?;
        words.push(format!("{name} {}", if value.is_empty() { "''" } else { value }));
    }
    Ok(words.join(", "))
}

impl fmt::Display for Keeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "durable",
            Self::Nothing => "persistence off",
        })
    }
}

/// All are in memory, and none is written so often that it is special.
const KEYS: u64 = 10_000;
const PORT_ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let said = [
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "7.0.15"),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
            ("etcd Version: 3.4.23\nGo Version: go1.19.8", "3.4.23"),
            ("beanstalkd 1.12", "1.12"),
        ];
        for (text, wanted) in said {
            assert_eq!(version(text).as_deref(), Some(wanted));
        }
        assert_eq!(version("what? 3"), None);
    }

    #[test]
    fn a_user_is_found_by_name() {
        let users = "root:x:0:0::/root:/bin/sh\nmypostgres:x:1:1::/:\npostgres:x:101:104:P,,:/:/";
        assert_eq!(user(users, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(user(users, "nobody"), None);
    }

    /// A server that says `everysec` must not be measured as one that syncs each write.
    #[test]
    fn another_setting_is_named() {
        let found = |name: &str| Ok(if name == "a" { "yes" } else { "everysec" }.to_owned());
        assert_eq!(expect_all(&[("a", "yes")], found).unwrap(), "a yes");
        let refused = expect_all(&[("a", "yes"), ("b", "always")], found).unwrap_err();
        assert_eq!(refused.to_string(), "b should be `always` and is `everysec`");
    }

    #[test]
    fn ports_differ_and_are_free() {
        let ports = free_ports(8).unwrap();
        assert!(ports.iter().all(|port| ports.iter().filter(|other| *other == port).count() == 1));
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_taken(held.local_addr().unwrap().port()));
    }
}
