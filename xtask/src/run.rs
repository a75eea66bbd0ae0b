//! Runs other programs: each step has a name, is timed, and says how to repeat it when it fails.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::Failure;

/// Returns the root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace")
}

/// Returns where cargo builds to.
pub(crate) fn target_dir() -> PathBuf {
    let set = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    root().join(set.unwrap_or_else(|| PathBuf::from("target")))
}

/// One program to run in the root of the workspace.
#[derive(Debug)]
pub(crate) struct Step {
    name: &'static str,
    program: String,
    args: Vec<String>,
    envs: Vec<(&'static str, String)>,
}

impl Step {
    /// Runs cargo with `args`, which stand apart by spaces.
    pub(crate) fn cargo(name: &'static str, args: &str) -> Self {
        Self {
            name,
            program: "cargo".to_owned(),
            args: args.split(' ').map(str::to_owned).collect(),
            envs: Vec::new(),
        }
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.envs.push((key, value.into()));
        self
    }

    /// Returns the line that repeats the step in a shell.
    pub(crate) fn line(&self) -> String {
        let mut line = String::new();
        for (key, value) in &self.envs {
            let quote = if value.contains(' ') { "'" } else { "" };
            line += &format!("{key}={quote}{value}{quote} ");
        }
        line += &self.program;
        for arg in &self.args {
            line += " ";
            line += arg;
        }
        line
    }

    /// Runs the step and waits for its end.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let program = match self.program.as_str() {
            // The cargo that runs this, not the first one of PATH.
            "cargo" => env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()),
            other => other.to_owned(),
        };
        let mut command = Command::new(program);
        command.args(&self.args).current_dir(root());
        for (key, value) in &self.envs {
            command.env(key, value);
        }
        timed(self.name, || match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{status}; repeat it with\n  {}", self.line()).into()),
            Err(error) => Err(format!("cannot start {}: {error}", self.program).into()),
        })
    }
}

/// Runs `body` under a headline, and says how long it took.
pub(crate) fn timed(name: &str, body: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    println!("== {name}");
    let start = Instant::now();
    let done = body();
    let seconds = start.elapsed().as_secs_f64();
    match done {
        Ok(()) => {
            println!("== {name}: ok, {seconds:.1} s");
            Ok(())
        }
        Err(failure) => Err(format!("{name}: failed after {seconds:.1} s: {failure}").into()),
    }
}

/// Whether a machine that cannot run something is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skips {
    Allow,
    Deny,
}

/// Says that `name` cannot run here, or fails.
pub(crate) fn skipped(name: &str, skips: Skips, why: &str) -> Result<(), Failure> {
    println!("{}", skip_line(name, skips, why)?);
    Ok(())
}

fn skip_line(name: &str, skips: Skips, why: &str) -> Result<String, Failure> {
    match skips {
        Skips::Allow => Ok(format!("skipped: {name}: {why}")),
        Skips::Deny => Err(format!("{name}: {why}, and --deny-skips was given").into()),
    }
}

/// Returns (package, test) of each integration test that reads the environment variable `key`.
pub(crate) fn tests_that_read(key: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    for package in sorted(&root().join("crates"))? {
        let tests = package.join("tests");
        if !tests.is_dir() {
            continue;
        }
        for file in sorted(&tests)? {
            let is_test = file.extension().is_some_and(|e| e == "rs");
            if is_test && fs::read_to_string(&file)?.contains(&format!("\"{key}\"")) {
                found.push((package_name(&package)?, stem(&file)));
            }
        }
    }
    Ok(found)
}

/// Returns what stands in the directory `dir`, in the order of names.
pub(crate) fn sorted(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

fn package_name(dir: &Path) -> Result<String, Failure> {
    let manifest = fs::read_to_string(dir.join("Cargo.toml"))?;
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = "));
    let name = name.ok_or_else(|| format!("{}: no name", dir.display()))?;
    Ok(name.trim_matches('"').to_owned())
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step that fails is only of use if its line can be pasted into a shell.
    #[test]
    fn a_step_prints_as_it_is_typed() {
        let step = Step::cargo("doc", "doc --no-deps")
            .env("RUSTDOCFLAGS", "-D warnings")
            .env("IMPASTO_SEED", "7");
        let line = "RUSTDOCFLAGS='-D warnings' IMPASTO_SEED=7 cargo doc --no-deps";
        assert_eq!(step.line(), line);
    }

    /// A machine that checks nothing must not look like one that has checked.
    #[test]
    fn a_skip_fails_where_skips_are_denied() {
        assert!(skip_line("disk", Skips::Allow, "no loop device").is_ok());
        assert!(skip_line("disk", Skips::Deny, "no loop device").is_err());
    }
}
