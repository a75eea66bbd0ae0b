//! All that a change has to pass, in one command.

use crate::{
    Failure,
    run::{Step, timed},
    tidy,
};

/// Whether `ci` runs the tests, or they were just run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tests {
    Run,
    LeftOut,
}

/// Runs every step and stops at the first that fails.
pub(crate) fn run(tests: Tests) -> Result<(), Failure> {
    timed("ci", || {
        Step::cargo("fmt", "fmt --all -- --check").run()?;
        Step::cargo("clippy", "clippy --workspace --all-targets -- -D warnings").run()?;
        if tests == Tests::Run {
            Step::cargo("test", "test --workspace").run()?;
        }
        Step::cargo("doc", "doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings").run()?;
        timed("tidy", || tidy::run(tidy::Hashes::Compare))
    })
}
