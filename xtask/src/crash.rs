//! Many crashes: of real processes, by SIGKILL, and of the simulated device and memory.
//!
//! Which tests these are, the tests say: they read `IMPASTO_CRASH_ROUNDS` (kills of a real process)
//! or `IMPASTO_CRASH_SEEDS` (random histories on simulated hardware). Plain `cargo test` runs them
//! too, with few rounds.

use crate::{
    Failure,
    run::{Step, tests_that_read},
};

/// Histories for each kill: a simulated crash takes less time, and shows more.
const SEEDS_PER_ROUND: u64 = 10;

/// What a run of crashes is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    rounds: u64,
    seed: Option<u64>,
}

impl Options {
    /// Reads `--rounds N` and `--seed N`.
    pub(crate) fn parse(mut args: &[&str]) -> Result<Self, Failure> {
        let mut options = Self { rounds: 100, seed: None };
        while let [name, rest @ ..] = args {
            let (value, rest) =
                rest.split_first().ok_or_else(|| format!("{name} needs a number"))?;
            let number = value.parse().map_err(|_| format!("{name} {value}: not a number"))?;
            match *name {
                "--rounds" => options.rounds = number,
                "--seed" => options.seed = Some(number),
                _ => return Err(format!("crash has no option {name}").into()),
            }
            args = rest;
        }
        Ok(options)
    }
}

/// Runs the crash tests in release. That there is none is a failure, too.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let seeds = options.rounds.saturating_mul(SEEDS_PER_ROUND);
    for (name, key, count) in [
        ("crash: simulated", "IMPASTO_CRASH_SEEDS", seeds),
        ("crash: SIGKILL", "IMPASTO_CRASH_ROUNDS", options.rounds),
    ] {
        let tests = tests_that_read(key)?;
        if tests.is_empty() {
            return Err(format!("{name}: no test reads {key}").into());
        }
        for (package, test) in tests {
            let args = format!("test --release -p {package} --test {test} -- --nocapture");
            let mut step = Step::cargo(name, &args).env(key, count.to_string());
            if let Some(seed) = options.seed {
                step = step.env("IMPASTO_SEED", seed.to_string());
            }
            step.run()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_numbers_with_a_name() {
        let parsed = Options::parse(&["--rounds", "20", "--seed", "7"]).unwrap();
        assert_eq!(parsed, Options { rounds: 20, seed: Some(7) });
        let none = Options::parse(&[]).unwrap();
        assert_eq!(none, Options { rounds: 100, seed: None });
        for bad in [&["--rounds"][..], &["--rounds", "many"], &["--cats", "1"]] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}
