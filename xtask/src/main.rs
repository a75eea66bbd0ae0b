//! The project's habits as commands: `cargo xtask <command>`.
//!
//! | command | what it does |
//! |---|---|
//! | `ci` | all that a change has to pass; [`ci`] |
//! | `tidy` | what neither compiler nor clippy checks; [`tidy`] |
//! | `crash` | many crashes, of real processes and simulated; [`crash`] |
//! | `loom` | every order of what threads do; [`loom`] |
//! | `disk` | tests on a small file system that fills up; [`disk`] |
//! | `peers` | servers of others, as the benchmark starts them; [`peers`] |
//! | `vm` | guests that are killed while they serve; [`vm`] |

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is its job")]

mod ci;
mod crash;
mod disk;
mod loom;
mod peers;
mod run;
mod tidy;
mod vm;

use std::{env, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask <command>
  ci [--no-test]                 fmt, clippy, test, doc, tidy; --no-test leaves out the tests
  tidy [--bless]                 layering, unsafe, seams, rules, format; --bless renews the
                                 hashes in docs/format.md
  crash [--rounds N] [--seed N]  N kills (100) of a real process, 10 N simulated histories; release
  loom                           every order of what threads do, in the shared pool; release
  disk [--deny-skips]            tests on a small ext4 in a loop device; needs root
  peers [--only NAME,...] [--deny-skips]
                                 servers of others: each started, its settings checked, sent
                                 some requests, and stopped
  vm [--rounds N] [--deny-skips] [--keep]
                                 guests of QEMU: served from emulated persistent memory and
                                 killed N times (5), and on an old kernel; --keep keeps media";

/// What went wrong, said to a person.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["ci"] => ci::run(ci::Tests::Run),
        ["ci", "--no-test"] => ci::run(ci::Tests::LeftOut),
        ["tidy"] => tidy::run(tidy::Hashes::Compare),
        ["tidy", "--bless"] => tidy::run(tidy::Hashes::Renew),
        ["crash", options @ ..] => crash::Options::parse(options).and_then(|o| crash::run(&o)),
        ["loom"] => loom::run(),
        ["disk"] => disk::run(run::Skips::Allow),
        ["disk", "--deny-skips"] => disk::run(run::Skips::Deny),
        ["peers", options @ ..] => peers::Options::parse(options).and_then(|o| peers::run(&o)),
        ["vm", options @ ..] => vm::Options::parse(options).and_then(|o| vm::run(&o)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
