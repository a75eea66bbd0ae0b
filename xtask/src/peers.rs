//! Servers of others, as `impasto-bench peers` starts them: each comes up, says itself that it is
//! set as was meant, takes requests in its own dialect, and leaves nothing behind.

use crate::{
    Failure,
    run::{Skips, Step},
};

/// Where every user may go: Postgres does not run as root.
const DIR: &str = "/var/tmp";

/// What a run is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    skips: Skips,
    /// Names, as `--only` of `impasto-bench peers` takes them.
    only: Option<String>,
}

impl Options {
    /// Reads `--deny-skips` and `--only NAME,...`.
    pub(crate) fn parse(args: &[&str]) -> Result<Self, Failure> {
        let mut options = Self { skips: Skips::Allow, only: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--deny-skips" => options.skips = Skips::Deny,
                "--only" => {
                    let names = args.next().ok_or("--only needs names, like redis,etcd")?;
                    options.only = Some((*names).to_owned());
                }
                _ => return Err(format!("peers has no option {arg}").into()),
            }
        }
        Ok(options)
    }

    fn command(&self) -> String {
        let mut line = format!("run -p impasto-bench -- peers --check --disk-dir {DIR}");
        if self.skips == Skips::Deny {
            line += " --deny-skips";
        }
        if let Some(names) = &self.only {
            line += &format!(" --only {names}");
        }
        line
    }
}

/// Checks every peer that is installed.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    Step::cargo("peers", &options.command()).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_command() {
        let options = Options::parse(&["--only", "redis,etcd", "--deny-skips"]).unwrap();
        let line = options.command();
        assert!(line.ends_with("--disk-dir /var/tmp --deny-skips --only redis,etcd"), "{line}");
        assert!(Options::parse(&["--only"]).is_err() && Options::parse(&["--all"]).is_err());
    }
}
