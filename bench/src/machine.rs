//! Where and how figures were taken.

use std::{env, fmt, fs, process::Command, thread};

use serde_json::{Value, json};

/// Where and how the figures were taken: without it they are worth nothing.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    commit: String,
    command: String,
    seed: u64,
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
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".into()),
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
            "command": self.command,
            "seed": self.seed,
        })
    }
}

/// The commit of the sources that this was built from, with a mark if they were changed since.
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
        let Self { cpu, cores, memory_mib, kernel, commit, command, seed } = self;
        writeln!(f, "machine  {cpu}, {cores} cores, {memory_mib} MiB")?;
        writeln!(f, "kernel   {kernel}")?;
        writeln!(f, "commit   {commit}")?;
        write!(f, "command  {command} (seed {seed})")
    }
}
