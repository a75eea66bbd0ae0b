//! The command line. What it can do is in `cli`; what it uses is the library of this crate.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
