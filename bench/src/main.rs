//! The command `impasto-bench`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    impasto_bench::cli::run()
}
