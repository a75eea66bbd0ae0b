//! Where and how figures were taken.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::UNIX_EPOCH,
};

use serde_json::{Value, json};

/// Where and how the figures were taken: without it they are worth nothing.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    commit: String,
    programs: Vec<Program>,
    command: String,
    seed: u64,
}

/// A program of ours that takes part.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: &'static str,
    bytes: u64,
    /// When it was built, in seconds since 1970.
    built: u64,
    /// True if what it is built from has been changed since: it may be of any commit.
    is_stale: bool,
}

impl Machine {
    pub(crate) fn look(seed: u64) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let programs = programs();
        let stale = if programs.iter().any(|program| program.is_stale) { "-stale" } else { "" };
        let commit = commit().unwrap_or_else(|| "unknown".into());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit + stale,
            programs,
            command: env::args().collect::<Vec<_>>().join(" "),
            seed,
        }
    }

    /// Returns it in a line.
    pub(crate) fn short(&self) -> String {
        let Self { cpu, cores, kernel, commit, command, .. } = self;
        // Of the program only its name, of its arguments all.
        let (program, args) = command.split_once(' ').unwrap_or((command, ""));
        let program = program.rsplit('/').next().unwrap_or(program);
        format!("{cpu}, {cores} cores, Linux {kernel}, commit {commit}: {program} {args}")
    }

    /// Returns it for machines; what was measured is added to it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "machine": { "cpu": self.cpu, "cores": self.cores, "memory_mib": self.memory_mib },
            "kernel": self.kernel,
            "commit": self.commit,
            "programs": self.programs.iter().map(Program::to_json).collect::<Value>(),
            "command": self.command,
            "seed": self.seed,
        })
    }
}

impl Program {
    /// Looks at the program `name` in `dir`, and at what Cargo says there that it is built from.
    fn look(dir: &Path, name: &'static str) -> io::Result<Self> {
        let found = fs::metadata(dir.join(name))?;
        let built = found.modified()?;
        let since = built.duration_since(UNIX_EPOCH).unwrap_or_default();
        let rule = fs::read_to_string(dir.join(format!("{name}.d"))).unwrap_or_default();
        let is_newer = |source: &PathBuf| {
            source.metadata().and_then(|found| found.modified()).is_ok_and(|at| at > built)
        };
        let is_stale = sources(&rule).iter().any(is_newer);
        Ok(Self { name, bytes: found.len(), built: since.as_secs(), is_stale })
    }

    fn to_json(&self) -> Value {
        let Self { name, bytes, built, is_stale } = self;
        json!({ "name": name, "bytes": bytes, "built": built, "stale": is_stale })
    }
}

/// Looks at this program and, if it stands beside it, Impasto: each is built for itself.
fn programs() -> Vec<Program> {
    let Ok(own) = env::current_exe() else { return Vec::new() };
    let dir = own.parent().unwrap_or_else(|| Path::new("/"));
    let found = ["impasto-bench", "impasto"].map(|name| Program::look(dir, name).ok());
    found.into_iter().flatten().collect()
}

/// Returns the sources in a rule as Cargo writes it: `program: one two`, blanks in names escaped.
fn sources(rule: &str) -> Vec<PathBuf> {
    let line = rule.lines().next().and_then(|line| line.split_once(": "));
    let escaped = line.map_or("", |(_, sources)| sources).replace("\\ ", "\0");
    escaped.split_whitespace().map(|source| source.replace('\0', " ").into()).collect()
}

/// The commit of the sources as they are, with a mark if they were changed since. That programs
/// were built from them [`Program`] knows.
fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_mib, kernel, commit, programs, command, seed } = self;
        writeln!(f, "machine  {cpu}, {cores} cores, {memory_mib} MiB")?;
        writeln!(f, "kernel   {kernel}")?;
        writeln!(f, "commit   {commit}")?;
        for Program { name, .. } in programs.iter().filter(|program| program.is_stale) {
            writeln!(
                f,
                "stale    {name} was built before its sources were changed: build it again"
            )?;
        }
        write!(f, "command  {command} (seed {seed})")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        time::{Duration, SystemTime},
    };

    use super::*;

    /// `cargo run -p impasto-bench` builds the bench and not the server: an old one would be
    /// measured, and called by the name of a commit that it never saw.
    #[test]
    fn a_program_that_is_older_than_its_sources_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, age: u64| {
            let at = SystemTime::now() - Duration::from_secs(age);
            File::create(dir.path().join(name)).unwrap().set_modified(at).unwrap();
        };
        let look = || Program::look(dir.path(), "impasto").unwrap().is_stale;
        make("impasto", 50);
        make("log.rs", 20);
        // A program that was carried elsewhere does not say what it is built from.
        assert!(!look());
        let at = dir.path().display();
        fs::write(dir.path().join("impasto.d"), format!("{at}/impasto: {at}/log.rs\n")).unwrap();
        assert!(look());
        make("impasto", 10);
        assert!(!look());
        assert!(Program::look(dir.path(), "impasto-bench").is_err());
        assert_eq!(sources("/a b: /x\\ y.rs /z.rs\n"), ["/x y.rs", "/z.rs"].map(PathBuf::from));
    }
}
