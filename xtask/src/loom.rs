//! The tests that run every order of what threads do: those below a module `interleavings`.

use crate::{
    Failure,
    run::{Step, target_dir},
};

/// Builds with `--cfg loom`, apart from other builds, and runs the tests in release.
pub(crate) fn run() -> Result<(), Failure> {
    let target = target_dir().join("loom");
    Step::cargo("loom", "test --release -p impasto-region --lib interleavings::")
        .env("RUSTFLAGS", "--cfg loom -D warnings")
        .env("CARGO_TARGET_DIR", target.to_string_lossy())
        .run()
}
